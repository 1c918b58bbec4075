"""Cholesky on up to 16384 cores, simulated: where does strong scaling end, and what ends it?

Nodes of 16 cores at 40 GFLOP/s each, a network of 2 us and 12.5 GB/s per node, tiles of 512, owners two-dimensional
block-cyclic, versions broadcast along binomial trees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import tilewright as tw
from tilewright.plot.canvas import new_figure, save
from tilewright.plot.palette import CAUSES, LINES

__all__ = ["NODE", "draw", "study"]

TILE = 512
NODE = tw.Machine(workers=16, alpha=2e-6, beta=8 / 12.5e9, gamma=1 / 40e9, tile_size=TILE, overhead=5e-6)
RANKS = (1, 4, 16, 64, 256, 1024)
_LARGE = 500_000  # tasks from which fewer points do

Record = dict[str, Any]


def study(tiles: Sequence[int]) -> Iterator[Record]:
    """Every number of tiles a side on every number of ranks; the middle one also with `eager`."""
    for nt in tiles:
        graph = tw.cholesky_graph(nt)
        policies = ("critical-path", "eager") if nt == sorted(tiles)[len(tiles) // 2] else ("critical-path",)
        for policy in policies:
            for ranks in RANKS if len(graph) < _LARGE else RANKS[-3:]:
                began = perf_counter()
                p = round(ranks**0.5)
                run = tw.simulate(graph, NODE.replace(ranks=ranks), scheduler=policy, owner=tw.BlockCyclic(p, p))
                seconds, idle, available = perf_counter() - began, run.idle_split, run.makespan * run.workers
                yield {
                    "case": "scaling",
                    "nt": nt,
                    "n": TILE * nt,
                    "tasks": len(graph),
                    "scheduler": policy,
                    "ranks": ranks,
                    "cores": run.workers,
                    "makespan": run.makespan,
                    "gflops": run.gflops,
                    "lower": run.bounds.lower,
                    "efficiency": run.efficiency,
                    "no_task": idle.no_task / available,
                    "communication": idle.communication / available,
                    "data": idle.data / available,
                    "overhead": (idle.overhead + idle.startup) / available,
                    "tail": idle.tail / available,
                    "messages": run.messages,
                    "memory": run.memory,
                    "seconds": seconds,
                }
                del run


def draw(records: Sequence[Record], path: Path) -> None:
    """Rate, efficiency and, for the middle size, where the workers' time goes; all over cores."""
    mine = [record for record in records if record["case"] == "scaling"]
    fig = new_figure("a plot of this benchmark", 14, 4.6)
    left, middle, right = fig.subplots(1, 3)
    sizes = sorted({record["nt"] for record in mine})
    for place, nt in enumerate(sizes):
        colour = LINES[place % len(LINES)]
        for policy, style in (("critical-path", "o-"), ("eager", "s:")):
            line = [r for r in mine if r["nt"] == nt and r["scheduler"] == policy]
            if not line:
                continue
            x = [r["cores"] for r in line]
            label = f"n = {line[0]['n']:,}" + (", eager" if policy == "eager" else "")
            left.loglog(x, [r["gflops"] / 1e3 for r in line], style, color=colour, label=label)
            middle.semilogx(x, [r["efficiency"] for r in line], style, color=colour, label=label)
            if policy == "critical-path":
                bound = [r["gflops"] / 1e3 * r["makespan"] / r["lower"] for r in line]
                left.loglog(x, bound, "--", color=colour, linewidth=0.9)
    left.plot([], [], "--", color="0.4", linewidth=0.9, label="bound max(W/p, C)")
    left.set_ylabel("TFLOP/s")
    middle.set_ylabel("efficiency W / (p makespan)")
    middle.set_ylim(0, 1.02)
    line = [r for r in mine if r["nt"] == sizes[len(sizes) // 2] and r["scheduler"] == "critical-path"]
    parts = [
        ("in tasks", "#0072B2", [r["efficiency"] for r in line]),
        ("no task ready", CAUSES["no_task"], [r["no_task"] for r in line]),
        ("waiting for data", CAUSES["data"], [r["data"] for r in line]),
        ("communication", CAUSES["communication"], [r["communication"] for r in line]),
        ("policy", CAUSES["overhead"], [r["overhead"] for r in line]),
        ("tail", CAUSES["tail"], [r["tail"] for r in line]),
    ]
    below = [0.0] * len(line)
    for name, colour, shares in parts:
        right.bar(range(len(line)), shares, bottom=below, color=colour, label=name)
        below = [b + s for b, s in zip(below, shares, strict=True)]
    right.set_xticks(range(len(line)), [f"{r['cores']:,}" for r in line], fontsize=8)
    right.set_ylabel(f"share of the workers' time, n = {line[0]['n']:,}")
    right.set_ylim(0, 1)
    for axes in (left, middle, right):
        axes.set_xlabel("cores (16 per rank)")
        axes.legend(fontsize=8, loc="upper left" if axes is left else "lower left", framealpha=0.95)
    save(fig, path, dpi=140)
