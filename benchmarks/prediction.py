"""Is the simulator right? Its makespans beside those of the threads engine, and the order it puts policies in.

Three questions, each a set of records:

- ``validate``: Cholesky of some sizes by some tile sizes. Rounds of calibration and of runs alternate, so that both
  see the computer as it is at the time; the median calibration predicts, the median run is what is predicted.
- ``order``: the same with three and four tiles a side, where policies differ even on two workers.
- ``naps``: tasks that sleep, on more workers than there are cores. No kernel and no contention: what is left is the
  schedule, and there policies differ the most.

Durations of one op vary from task to task, and a schedule may hang on which of two tasks ends first; so a prediction is
the median of eleven simulations with as much noise as the runs had. Two policies differ by more than noise if the
same one was faster in every of six or more rounds; with fewer rounds, if all of its times are shorter. Either happens
to equal policies in 3 % of cases at most.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import tilewright as tw
from tilewright.kernels import current
from tilewright.plot.canvas import new_figure, save
from tilewright.plot.palette import LINES, MARKERS
from tilewright.schedulers import fitting
from tilewright.studies.calibration import inliers

__all__ = ["draw", "naps", "order_agreement", "summary", "typical", "validate"]

POLICIES = ("critical-path", "eager", "lifo", "lws")
_NAP = 2e-3  # seconds per unit of weight
_SEEDS = 11

Record = dict[str, Any]


def validate(
    sizes: Sequence[int], tile_sizes: Sequence[int], workers: int, repeat: int, page: Path | None = None
) -> Iterator[Record]:
    """Measured and predicted makespans of `tiled_cholesky`; ``page`` gets a run of the first case and its prediction.

    ``ratio`` is predicted over measured. It is the product of ``kernels``, the same for the seconds in tasks, and
    ``schedule``, which is what the model gets wrong about waiting and about the engine.
    """
    few = min(sizes)
    cases = [("validate", n, nb) for n, nb in product(sizes, tile_sizes)]
    cases += [("order", few, few // nt) for nt in (4, 3)]
    nbs = list(dict.fromkeys(nb for _, _, nb in cases))
    matrices = {n: _spd(n) for n in sizes}
    machines = []
    graphs: dict[tuple[int, int], tw.TaskGraph] = {}
    times: dict[tuple[str, int, int, str], list[float]] = {}
    busy: dict[tuple[str, int, int, str], list[float]] = {}
    noise: list[float] = []
    shown: tw.Run | None = None
    for attempt in range(repeat + 1):
        for (case, n, nb), policy in product(cases, POLICIES):
            if policy == POLICIES[0] and nb == tile_sizes[0]:  # once a round for each n
                machines.append(_calibrated(nbs, workers))
            run = tw.tiled_cholesky(
                matrices[n], tile_size=nb, workers=workers, scheduler=policy, check_finite=False, return_run=True
            )[1]
            graphs[n, nb] = run.graph
            if attempt:  # the first warms up
                times.setdefault((case, n, nb, policy), []).append(run.makespan)
                busy.setdefault((case, n, nb, policy), []).append(float(run.trace.busy.sum()))
                noise.append(_spread(run))
            if page is not None and shown is None and attempt:
                shown = run
            del run  # and its matrix: the next run finds its pages, as in a loop of a user
    machine = typical(machines[len(sizes) :])
    for (case, n, nb, policy), measured in times.items():
        predicted = _expected(graphs[n, nb], machine.replace(tile_size=nb), policy, statistics.median(noise))
        ratio = predicted.makespan / statistics.median(measured)
        kernels = float(predicted.trace.busy.sum()) / statistics.median(busy[case, n, nb, policy])
        if page is not None and shown is not None:
            shown.report(page, predicted)
            shown = None
        yield {
            "case": case, "n": n, "nb": nb, "workers": workers, "scheduler": policy, "measured": measured,
            "median": statistics.median(measured), "fastest": min(measured), "slowest": max(measured),
            "predicted": predicted.makespan, "ratio": ratio, "kernels": kernels, "schedule": ratio / kernels,
            "blas": current().name,
        }  # fmt: skip


def naps(nt: int, workers: int, repeat: int) -> Iterator[Record]:
    """Cholesky of nt x nt tiles whose tasks sleep two milliseconds per unit of weight, under every policy that fits."""
    graph = tw.TaskGraph(f"naps nt={nt}")
    ops: dict[str, tw.Op] = {}
    for task in tw.cholesky_graph(nt):
        op = task.op
        ops.setdefault(op.name, tw.Op(op.name, _nap(op.weight), weight=op.weight, indices=op.indices))
        graph.insert(ops[op.name], *task.uses)
    data = {handle: np.zeros(1) for handle in graph.inputs}
    plan = tw.Machine(durations={name: _NAP * op.weight for name, op in ops.items()})
    times: dict[str, list[float]] = {}
    noise: list[float] = []
    late: list[float] = []  # how much longer than asked the system sleeps
    for attempt in range(repeat + 1):
        for policy in fitting(graph):
            run = tw.run(graph, data, scheduler=policy, workers=workers, machine=plan)
            noise.append(_spread(run))
            late += [record.duration - _NAP * graph.tasks[record.task].op.weight for record in run.trace]
            if attempt:
                times.setdefault(policy, []).append(run.makespan)
    machine = plan.replace(workers=workers, overhead=statistics.fmean(late))
    for policy, measured in times.items():
        predicted = _expected(graph, machine, policy, statistics.median(noise)).makespan
        yield {
            "case": "naps", "nt": nt, "workers": workers, "scheduler": policy, "measured": measured,
            "median": statistics.median(measured), "fastest": min(measured), "slowest": max(measured),
            "predicted": predicted, "ratio": predicted / statistics.median(measured),
        }  # fmt: skip


def _expected(graph: tw.TaskGraph, machine: tw.Machine, policy: str, noise: float) -> tw.Run:
    """The run with the median makespan."""
    runs = [tw.simulate(graph, machine, scheduler=policy, noise=noise, seed=seed) for seed in range(_SEEDS)]
    return sorted(runs, key=lambda run: run.makespan)[_SEEDS // 2]


def _spread(run: tw.Run) -> float:
    """Relative standard deviation of the durations of an op, the median over its ops that have five tasks."""
    samples: dict[str, list[float]] = {}
    for record in run.trace:
        samples.setdefault(run.graph.tasks[record.task].op.name, []).append(record.duration)
    found = [statistics.pstdev(s) / statistics.fmean(s) for s in map(inliers, samples.values()) if len(s) >= 5]
    return statistics.median(found) if found else 0.0


def _nap(weight: float) -> Callable[..., None]:
    return lambda *tiles: time.sleep(_NAP * weight)


def typical(machines: Sequence[tw.Machine]) -> tw.Machine:
    """The median of each duration and of the overhead."""
    tables: list[Any] = [machine.durations for machine in machines]
    durations = {
        op: {nb: statistics.median(table[op][nb] for table in tables) for nb in tables[0][op]} for op in tables[0]
    }
    return machines[0].replace(
        durations=durations, overhead=statistics.median(machine.overhead for machine in machines)
    )


def _calibrated(tile_sizes: Sequence[int], workers: int) -> tw.Machine:
    with TemporaryDirectory() as folder:  # the user's own calibration stays as it is
        return tw.Machine.calibrate(
            tile_sizes=tuple(tile_sizes), workers=workers, repeat=1, path=Path(folder) / "machine.json"
        )


def _spd(n: int) -> np.ndarray:
    a = np.random.default_rng(0).standard_normal((n, n))
    a += a.T.copy()
    a[np.diag_indices(n)] += 4 * n
    return a


# ---------------------------------------------------------------- what came out


def order_agreement(records: Sequence[Record]) -> tuple[int, int, list[str]]:
    """(pairs of policies in the predicted order, pairs that differ by more than noise, the pairs that disagree).

    Records of one matrix, tile size and set of cases are compared with each other, round by round.
    """
    agreed, total, wrong = 0, 0, []
    for same in _groups(records).values():
        for a, b in combinations(same, 2):
            rounds = zip(a["measured"], b["measured"], strict=True)
            pairs = rounds if len(a["measured"]) >= 6 else product(a["measured"], b["measured"])
            faster = {x < y for x, y in pairs}
            if len(faster) == 1:
                total += 1
                if (a["predicted"] < b["predicted"]) in faster:
                    agreed += 1
                else:
                    wrong.append(
                        f"{_name(a)}: {a['scheduler']} and {b['scheduler']}, measured "
                        f"{a['median'] / b['median']:.3f}, predicted {a['predicted'] / b['predicted']:.3f}"
                    )
    return agreed, total, wrong


def summary(records: Sequence[Record]) -> str:
    """The numbers that matter, in words."""
    lines = []
    for case in ("validate", "order", "naps"):
        mine = [record for record in records if record["case"] == case]
        if not mine:
            continue
        errors = [abs(record["ratio"] - 1) for record in mine]
        spread = statistics.median((record["slowest"] - record["fastest"]) / record["median"] for record in mine)
        agreed, total, wrong = order_agreement(mine)
        lines.append(
            f"{case}: median error {statistics.median(errors):.1%}, worst {max(errors):.1%} in {len(mine)} cases; "
            f"repeats spread over {spread:.1%}; {agreed} of {total} pairs of policies in the predicted order"
        )
        lines += [f"  not: {pair}" for pair in wrong]
    return "\n".join(lines)


def draw(records: Sequence[Record], path: Path) -> None:
    """Predicted over measured for the sizes; predicted beside measured where policies differ."""
    fig = new_figure("a plot of this benchmark", 14, 4.6)
    left, middle, right = fig.subplots(1, 3, width_ratios=(1.5, 1, 1))
    _draw_ratios(left, [record for record in records if record["case"] == "validate"])
    _draw_pairs(middle, [record for record in records if record["case"] == "order"], "four and three tiles a side")
    _draw_pairs(right, [record for record in records if record["case"] == "naps"], "tasks that sleep")
    save(fig, path, dpi=140)


def _draw_ratios(axes: Any, records: Sequence[Record]) -> None:
    groups = list(_groups(records))
    for place, policy in enumerate(dict.fromkeys(record["scheduler"] for record in records)):
        mine = [record for record in records if record["scheduler"] == policy]
        x = [groups.index(_key(record)) + 0.17 * (place - 1.5) for record in mine]
        y = [record["ratio"] for record in mine]
        low = [r["ratio"] - r["predicted"] / r["slowest"] for r in mine]
        high = [r["predicted"] / r["fastest"] - r["ratio"] for r in mine]
        axes.errorbar(
            x, y, yerr=[low, high], fmt=MARKERS[place % 4], color=LINES[place % 4], label=policy, elinewidth=0.8
        )
    axes.axhspan(0.9, 1.1, color="0.9", zorder=0, label="within 10 %")
    axes.axhline(1, color="0.4", linewidth=0.8)
    axes.set_xticks(range(len(groups)), [f"n={n}\nnb={nb}" for _, n, nb in groups], fontsize=8)
    axes.set_ylabel("predicted / median measured (bars: all repeats)")
    axes.set_title("Cholesky: makespans", fontsize=10)
    axes.legend(fontsize=8, ncols=2)


def _draw_pairs(axes: Any, records: Sequence[Record], title: str) -> None:
    scale = 1e3
    for place, (_, same) in enumerate(_groups(records).items()):
        x = [record["predicted"] * scale for record in same]
        y = [record["median"] * scale for record in same]
        low = [(record["median"] - record["fastest"]) * scale for record in same]
        high = [(record["slowest"] - record["median"]) * scale for record in same]
        axes.errorbar(
            x, y, yerr=[low, high], fmt=MARKERS[place % 4], color=LINES[place % 4], elinewidth=0.8, label=_name(same[0])
        )
        labels: dict[tuple[float, float], list[str]] = {}
        for record, at in zip(same, zip(x, y, strict=True), strict=True):
            near = next(
                (p for p in labels if abs(p[0] - at[0]) < 0.004 * at[0] and abs(p[1] - at[1]) < 0.01 * at[1]), at
            )
            labels.setdefault(near, []).append(record["scheduler"])
        for at, names in labels.items():
            axes.annotate(", ".join(names), at, xytext=(6, -3), textcoords="offset points", fontsize=6.5)
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], color="0.4", linewidth=0.8, label="equal")
    axes.set_xlim(low, high + 0.25 * (high - low))
    axes.set_xlabel("predicted makespan, ms")
    axes.set_ylabel("measured makespan, ms (bars: all repeats)")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8, loc="upper left")


def _key(record: Record) -> tuple[str, Any, Any]:
    return record["case"], record.get("n", record.get("nt")), record.get("nb")


def _name(record: Record) -> str:
    if record["case"] == "naps":
        return f"naps, nt={record['nt']}, {record['workers']} workers"
    return f"n={record['n']}, nb={record['nb']}, {record['workers']} workers"


def _groups(records: Sequence[Record]) -> dict[tuple[str, Any, Any], list[Record]]:
    groups: dict[tuple[str, Any, Any], list[Record]] = {}
    for record in records:
        groups.setdefault(_key(record), []).append(record)
    return groups
