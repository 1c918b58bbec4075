"""Figures of the benchmarks, drawn from their JSON records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tilewright.plot.canvas import new_figure, save
from tilewright.plot.palette import LINES, MARKERS

__all__ = ["rates"]


def rates(records: Sequence[dict[str, Any]], path: Path) -> None:
    """GFLOP/s against n, one line a contender, bars from the slowest to the fastest time; the top is the ceiling.

    A size whose factor failed its check is crossed out in red.
    """
    figure = new_figure("a plot of this benchmark", 8, 5.2)
    axes = figure.add_subplot()
    factorisations = [r for r in records if not r["contender"].startswith("dgemm") and "median" in r]
    names = list(dict.fromkeys(r["contender"] for r in factorisations))
    for place, name in enumerate(names):
        own = [r for r in factorisations if r["contender"] == name]
        work = [r["n"] ** 3 / 3 / 1e9 for r in own]
        rate = [r["gflops"] for r in own]
        low = [max(g - w / r["max"], 0) for g, w, r in zip(rate, work, own, strict=True)]
        high = [max(w / r["min"] - g, 0) for g, w, r in zip(rate, work, own, strict=True)]
        axes.errorbar(
            [r["n"] for r in own],
            rate,
            yerr=[low, high],
            label=name,
            marker=MARKERS[place % len(MARKERS)],
            capsize=2,
            color=LINES[place % len(LINES)],
            linewidth=2.4 if name.startswith("tilewright") else 1.2,
        )
    for r in factorisations:
        if not r["passed"]:
            axes.plot(r["n"], r["gflops"], "x", color="red", markersize=14)
    ceiling = max((r["gflops"] for r in records if r["contender"].startswith("dgemm")), default=None)
    if ceiling:
        axes.axhline(ceiling, color="black", linestyle=":", label=f"dgemm {ceiling:.0f} GFLOP/s")
        axes.set_ylim(0, ceiling * 1.05)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({r["n"] for r in records}), [str(n) for n in sorted({r["n"] for r in records})])
    axes.set_xlabel("n")
    axes.set_ylabel("GFLOP/s, n$^3$/3 flops, median")
    axes.set_title("Cholesky factorisation, FP64")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save(figure, path)
