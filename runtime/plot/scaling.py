"""The figure of a scaling study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewright.plot.canvas import new_figure, save

if TYPE_CHECKING:
    from tilewright.studies.scaling import Point, Study

__all__ = ["figure"]

#              colour and marker tell the same
_STYLES = {"rows": ("#D55E00", "o"), "columns": ("#CC79A7", "s"), "grid": ("#0072B2", "D")}
_STYLES |= {"slab": ("#D55E00", "o"), "patch": ("#0072B2", "D")}


_TITLES = {"dense": "Dense matrix-vector product", "stencil": "Five-point stencil"}


def _problem(layout: str) -> str:
    return "stencil" if layout in ("slab", "patch") else "dense"


def _curve(study: Study, points: list[Point]) -> tuple[list[float], list[float]]:
    """The formula of a line between its first and its last point."""
    from tilewright.comm.scaling import efficiency, weak_efficiency

    kind, layout, p, n = points[0][:4]
    machine = study.computer if kind == "measured" and study.computer else study.machine
    first, last = (points[k].n if kind == "optimistic" else points[k].p for k in (0, -1))
    x = [first * (last / first) ** (k / 100) for k in range(101)]
    if kind == "weak":
        return x, [weak_efficiency(_problem(layout), layout, q, study.facts["memory"], machine) for q in x]
    if kind == "optimistic":
        return x, [efficiency(_problem(layout), layout, p, q, machine) for q in x]
    return x, [efficiency(_problem(layout), layout, q, n, machine) for q in x]


def figure(study: Study, path: str | Path) -> None:
    """One panel a kind of scaling, efficiency over n or p; see `Study.plot`."""
    kinds = list(dict.fromkeys(point.kind for point in study.points))
    layouts = list(dict.fromkeys(point.layout for point in study.points))
    facts = study.facts
    titles = {
        "optimistic": f"optimistic: p = {facts.get('p')} fixed",
        "strong": f"strong: n = {facts.get('n')} fixed",
        "weak": f"weak: n²/p = {facts.get('memory')}",
        "measured": f"measured here, n = {facts.get('measured_n')}",
    }
    fig = new_figure("a scaling study", 4.2 * len(kinds), 4.4)
    from matplotlib.lines import Line2D

    panels = fig.subplots(1, len(kinds), squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        for layout in layouts:
            points = study.of(kind, layout)
            colour, marker = _STYLES[layout]
            x = [point.n if kind == "optimistic" else point.p for point in points]
            axes.plot(*_curve(study, points), color=colour, linewidth=1.4)
            for name, values in (
                ("simulated", [p.simulated for p in points]),
                ("measured", [p.measured for p in points]),
            ):
                shown = [(a, b) for a, b in zip(x, values, strict=True) if b is not None]
                if shown:
                    style: dict[str, Any] = {"marker": marker, "markerfacecolor": "none", "markersize": 6}
                    if name == "measured":
                        style = {"marker": "x", "markersize": 7, "markeredgewidth": 1.8}
                    axes.plot(*zip(*shown, strict=True), color=colour, linestyle="none", **style)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("order n" if kind == "optimistic" else "ranks p")
        axes.set_title(titles[kind], fontsize=10)
        axes.set_ylim(0, 1.05)
        axes.grid(alpha=0.3)
        if kind == "weak":
            low = min(min(p.formula, p.simulated or 1) for p in study.points if p.kind == kind)
            axes.set_ylim(low - 0.1 * (1 - low), 1 + 0.1 * (1 - low))
        if kind == "measured":
            axes.set_ylim(0, 1.05 * max(1.0, *(p.measured or 0 for p in study.points)))
            axes.set_xticks(sorted({p.p for p in study.points if p.kind == kind}))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panels[0].set_ylabel("efficiency T₁ / (p Tₚ)")
    legend = [
        Line2D([], [], color=_STYLES[name][0], marker=_STYLES[name][1], markerfacecolor="none", label=name)
        for name in layouts
    ]
    legend += [
        Line2D([], [], color="0.3", label="formula (Eijkhout, Parallel scalability)"),
        Line2D([], [], color="0.3", linestyle="none", marker="o", markerfacecolor="none", label="simulated graph"),
    ]
    if "measured" in kinds:
        legend.append(Line2D([], [], color="0.3", linestyle="none", marker="x", label="measured on MPI"))
    fig.legend(handles=legend, loc="outside lower center", ncols=len(legend), fontsize=9, frameon=False)
    m = study.machine
    fig.suptitle(
        f"{_TITLES[_problem(layouts[0])]}: alpha {m.alpha:g} s, beta {m.beta:g} s a word, gamma {m.gamma:g} s a flop",
        fontsize=11,
    )
    save(fig, path, dpi=130)
