"""One factorisation as a job: run it, check it, compare it, and say all of that as plain data."""

from __future__ import annotations

from dataclasses import asdict
from math import isfinite
from typing import Any

import numpy as np

from tilewright.benchmarks.rivals import rivals
from tilewright.benchmarks.timing import Contender, alternate
from tilewright.kernels import current
from tilewright.linalg.factor import tiled_cholesky
from tilewright.linalg.residual import THRESHOLD, cholesky_ratio
from tilewright.precision import find_format
from tilewright.runs.progress import one_page
from tilewright.runs.run import Run

__all__ = ["cholesky_job"]


@one_page
def cholesky_job(
    a: np.ndarray,
    *,
    lower: bool = True,
    repeat: int = 1,
    compare: bool = False,
    precision: str | None = None,
    **options: Any,
) -> tuple[dict[str, Any], Run]:
    """Factor ``a`` with `tiled_cholesky` and report.

    Parameters
    ----------
    a
        (n, n), one of the four floating dtypes.
    repeat
        Runs; times are medians. The last run is the one that is checked and returned.
    compare
        Also time the calls of `rivals`, in turns with ours.
    precision
        The name of a format for `tiled_cholesky`; the ratio then has the unit roundoff of that format.
    options
        For `tiled_cholesky`.

    Returns
    -------
    result : dict
        Ready for JSON: times in seconds end to end, bounds and ops of the last run, the LAPACK ratio, and under
        ``compare`` each rival's seconds and its time over ours. With ``precision``: its name, u, the routes of its
        products, and what the conversions did.
    run : Run
    """
    form = None if precision is None else find_format(precision)
    options = options | ({"precision": precision} if form else {})
    tiled_cholesky(np.eye(2, dtype=a.dtype), **options | {"progress": False})  # loads the kernels
    last: list[tuple[Any, Run]] = []

    def ours() -> None:
        last.clear()  # frees the memory of the round before
        last.append(tiled_cholesky(a, lower=lower, return_run=True, **options))

    calls = {"tilewright": ours} | (rivals(a, lower=lower) if compare else {})
    times = alternate([Contender(*call) for call in calls.items()], repeat, warm_up=compare)
    if times["tilewright"].error:
        raise times["tilewright"].error
    mine = times["tilewright"].median
    [(factor, run)] = last
    ratio = cholesky_ratio(a, factor, lower=lower, u=form.u if form else None)
    tiles = run.store.families["A"]
    result = {
        "n": len(a),
        "nb": tiles.tile_size,
        "nt": tiles.nt,
        "dtype": str(factor.dtype),
        "triangle": "lower" if lower else "upper",
        "backend": run.backend,
        "scheduler": run.scheduler,
        "workers": run.workers,
        "blas": current().name,
        "seconds": mine,
        "times": times["tilewright"].seconds,
        "gflops": run.flops / mine / 1e9,
        "ratio": ratio if isfinite(ratio) else None,
        "passed": bool(ratio < THRESHOLD),
        "makespan": run.makespan,
        "bounds": {"area": run.bounds.area, "critical_path": run.bounds.critical_path},
        "efficiency": run.efficiency,
        "of_bound": run.of_bound,
        "verdict": str(run.verdict),
        "idle": run.idle,
        "tasks": len(run.graph),
        "ops": {op: {"tasks": count, "seconds": total} for op, (count, total) in run.trace.by_op().items()},
    }
    if form:
        routes = {task.op.source for task in run.graph} - {""}
        result["precision"] = {
            "name": form.name,
            "u": form.u,
            "digits": form.digits,
            "routes": sorted(routes),
            "conversions": asdict(run.conversions) if run.conversions else None,
        }
    if compare:
        result["compare"] = {
            name: {"seconds": taken.median, "speedup": taken.median / mine}
            for name, taken in times.items()
            if name != "tilewright"
        }
    return result, run
