"""`tilewright bench solve`: FP64 answers beside SciPy and torch, and beside our own FP64 path, in one run.

Of positive definite systems or, with ``--assume-a gen``, of general ones.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

import tilewright as tw
from tilewright.benchmarks import options, record, table
from tilewright.benchmarks.table import story
from tilewright.benchmarks.timing import Contender, alternate
from tilewright.linalg.gallery import SPECTRA, conditioned_general, conditioned_spd
from tilewright.linalg.ladder import ON_CPU
from tilewright.linalg.solve import SolveInfo

__all__ = ["command", "measure"]

CONDITIONS = (1e2, 1e4)
SWEEP = tuple(10.0**k for k in range(1, 13))


MATRICES = {"pos": conditioned_spd, "gen": conditioned_general}
"""By structure."""


def contenders(
    a: np.ndarray, b: np.ndarray, found: dict[str, SolveInfo], rivals: bool, precision: str, structure: str = "pos"
) -> Iterator[Contender]:
    """Everything that solves A x = b."""

    def ours(rung: str) -> Contender:
        name = f"tilewright {rung}"

        def call() -> None:
            found[name] = tw.solve(a, b, assume_a=structure, precision=rung, return_info=True)[1]

        return Contender(name, call)

    yield ours(precision)
    yield ours("fp64")
    if not rivals:
        return
    import scipy.linalg

    rival: Any = scipy.linalg.solve
    yield Contender("scipy solve", lambda: rival(a, b, assume_a=structure))
    if importlib.util.find_spec("torch"):
        import torch

        A, B = torch.from_numpy(a), torch.from_numpy(b)
        if structure == "gen":
            yield Contender("torch solve", lambda: torch.linalg.solve(A, B))
            return
        yield Contender("torch cholesky + solve", lambda: torch.cholesky_solve(B, torch.linalg.cholesky(A)))


def measure(
    n: int,
    condition: float,
    spectrum: str,
    repeat: int,
    *,
    rivals: bool = True,
    precision: str = "auto",
    structure: str = "pos",
) -> list[dict[str, Any]]:
    """Records of all contenders: seconds, and their time over ours; for ours also path, accuracy and rates."""
    a = MATRICES[structure](n, condition, spectrum)
    b = np.random.default_rng(1).standard_normal((n, 1))
    found: dict[str, SolveInfo] = {}
    times = alternate(contenders(a, b, found, rivals, precision, structure), repeat)
    mine = times[f"tilewright {precision}"].median
    flops = n**3 * (2 if structure == "gen" else 1) / 3 + 2 * n**2
    records = []
    for name, taken in times.items():
        info = found.get(name)
        extra = story(info) if info is not None else {}
        records.append(
            {
                "benchmark": "solve",
                "contender": name,
                "n": n,
                "condition": condition,
                "spectrum": spectrum,
                "structure": structure,
                "gflops": flops / taken.median / 1e9,
                **taken.record(),
                "this_over_ours": taken.median / mine,
                **extra,
            }
        )
    return records


def measure_rungs(n: int, condition: float, spectrum: str, repeat: int, structure: str = "pos") -> list[dict[str, Any]]:
    """Records of ``auto`` and of each single rung that it may take: is it as fast as the best of them?

    A rung that leads nowhere by itself has its error for a time.
    """
    a = MATRICES[structure](n, condition, spectrum)
    b = np.random.default_rng(1).standard_normal((n, 1))
    found: dict[str, SolveInfo] = {}

    def ours(rung: str) -> Contender:
        def call() -> None:
            found[rung] = tw.solve(a, b, assume_a=structure, precision=rung, fallback=rung == "auto", return_info=True)[
                1
            ]

        return Contender(rung, call)

    times = alternate(map(ours, ("auto", *ON_CPU)), repeat)
    best = min(taken.median for name, taken in times.items() if name != "auto" and taken.seconds)
    return [
        {
            "benchmark": "solve rungs",
            "contender": name,
            "n": n,
            "condition": condition,
            "spectrum": spectrum,
            "structure": structure,
            **taken.record(),
            "best_over_this": best / taken.median,
            **(story(found[name]) if name in found else {}),
        }
        for name, taken in times.items()
    ]


@click.command("solve")
@click.option("--n", default=8192, show_default=True, help="Matrix size.")
@click.option("--cond", "conditions", type=float, multiple=True, help="Repeat for several.  [default: 1e2, 1e4]")
@click.option("--spectrum", type=click.Choice(SPECTRA), default="geometric", show_default=True)
@click.option("--precision", default="auto", show_default=True, help="Of our solution.")
@click.option(
    "--assume-a",
    "structure",
    type=click.Choice(list(MATRICES)),
    default="pos",
    show_default=True,
    help="Positive definite systems, or general ones, by LU.",
)
@options.repeat(3)
@click.option("--rivals/--no-rivals", default=True, help="Beside SciPy and torch, or our FP64 path alone.")
@click.option("--sweep", is_flag=True, help="auto beside each single rung; conditions 1e1 to 1e12 by default.")
@click.option("--device", help="cuda, cuda:1: solve there, beside torch's Cholesky and solve.  [default: the CPU]")
@options.output
@options.as_json
def command(
    n: int,
    conditions: tuple[float, ...],
    spectrum: str,
    precision: str,
    structure: str,
    repeat: int,
    rivals: bool,
    sweep: bool,
    device: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Solutions to FP64 accuracy on all cores, side by side, alternating, medians."""
    if sweep and device is not None:
        raise click.UsageError("--sweep is for the CPU; leave out --device")
    if structure == "gen" and device is not None:
        raise click.UsageError("--assume-a gen is for the CPU; leave out --device")
    for condition in conditions or (SWEEP if sweep else CONDITIONS):
        if sweep:
            records = measure_rungs(n, condition, spectrum, repeat, structure)
        elif device is None:
            records = measure(n, condition, spectrum, repeat, rivals=rivals, precision=precision, structure=structure)
        else:
            from tilewright.benchmarks.device import measure_solve

            records = measure_solve(n, condition, spectrum, repeat, precision, device)
        record.append(output, records)
        columns = {
            "seconds": "median",
            "factor": "factor_gflops",
            **({"best / this": "best_over_this"} if sweep else {"GFLOP/s": "gflops", "this / ours": "this_over_ours"}),
            "path": "path",
            "backward error": "backward_error",
            "criterion": "criterion",
            "HPL-MxP": "hpl",
        }
        title = f"n = {n}, condition {condition:g}, {spectrum} spectrum"
        table.show(title, "contender", columns, records, as_json=as_json)
