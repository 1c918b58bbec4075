"""Inverses and determinants of general matrices, from an LU factor that is good enough for them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from tilewright.arguments import dense, like
from tilewright.linalg.call import Call
from tilewright.linalg.chunked_lu import inverse_of_chunks
from tilewright.linalg.less_pivoting import distrusted
from tilewright.linalg.lu import LUFactor, Slogdet, factor_with, inverse_with
from tilewright.linalg.lu_graph import PIVOTING
from tilewright.scalars import choice, flag
from tilewright.schedulers import Policy

if TYPE_CHECKING:
    import numpy as np

    from tilewright.kinds import C, DetOptions, InvOptions, Matrix
    from tilewright.runs.run import Run

__all__ = ["det", "inv", "slogdet"]


@overload
def inv(
    a: C,
    overwrite_a: bool = False,
    check_finite: bool = True,
    *,
    return_run: Literal[False] = False,
    **options: Unpack[InvOptions],
) -> C: ...
@overload
def inv(
    a: C,
    overwrite_a: bool = False,
    check_finite: bool = True,
    *,
    return_run: Literal[True],
    **options: Unpack[InvOptions],
) -> tuple[C, Run]: ...
@overload
def inv(
    a: Matrix,
    overwrite_a: bool = False,
    check_finite: bool = True,
    *,
    return_run: Literal[False] = False,
    **options: Unpack[InvOptions],
) -> np.ndarray: ...
@overload
def inv(
    a: Matrix,
    overwrite_a: bool = False,
    check_finite: bool = True,
    *,
    return_run: Literal[True],
    **options: Unpack[InvOptions],
) -> tuple[np.ndarray, Run]: ...
def inv(
    a: Any,
    overwrite_a: bool = False,
    check_finite: bool = True,
    *,
    return_run: bool = False,
    tile_size: int | None = None,
    pivoting: str | None = None,
    threshold: float | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    **options: Any,
) -> Any:
    """The inverse of a square matrix, from its LU factor. To solve a system, `solve` is better and faster.

    The result lies by columns. Of a stack (..., n, n) the inverses of all, in one graph; of a dask.array a dask.array.
    2 n^3 flops.

    With another ``pivoting`` than partial nothing is overwritten, and a factor counts only if it solves a system with a
    backward error of n u; else partial pivoting takes over, and a note of the run says why.

    Parameters
    ----------
    a : (n, n) or (..., n, n) array_like, torch tensor, TiledMatrix or dask.array
        float32, float64, complex64 or complex128; integers become float64.
    overwrite_a
        Let factor and inverse take the place of ``a`` where its columns are contiguous.
    check_finite
        Look for NaN and infinities first.
    return_run
        Also return the `Run`.
    tile_size, pivoting, threshold
        As for `lu_factor`.
    backend, scheduler, workers, options
        See `tilewright.run`.

    Raises
    ------
    SingularMatrixError
        U has an exact zero on its diagonal.
    ValueError
        ``a`` is not square, has NaN or infinities, or is read-only with ``overwrite_a``; a number or name is wrong.
    TypeError
        The dtype is not one of the four and not an integer.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.inv(np.array([[1.0, 2.0], [2.0, 8.0]]))
    array([[ 2.  , -0.5 ],
           [-0.5 ,  0.25]])
    """
    if pivoting is not None:
        choice(pivoting, "pivoting", PIVOTING)
    call = Call(
        inv, a, options, backend=backend, scheduler=scheduler, workers=workers, return_run=return_run, chunks=True
    )
    if call.chunked and pivoting in (None, "partial"):
        if flag(overwrite_a, "overwrite_a"):
            raise ValueError("a dask.array cannot be overwritten; pass overwrite_a=False")
        return call.result(inverse_of_chunks(call, a, tile_size, flag(check_finite, "check_finite")))
    factor, inner, why = _factored(call, overwrite_a, check_finite, pivoting, tile_size, threshold=threshold)
    factor.check_regular()
    x = inverse_with(factor, inner)
    assert inner.record is not None
    call.record = replace(inner.record, notes=(*inner.record.notes, why)) if why else inner.record
    return call.result(like(x, call.a))


def det(a: Matrix, overwrite_a: bool = False, check_finite: bool = True, **how: Unpack[DetOptions]) -> Any:
    """det A, float64 or complex128, as `scipy.linalg.det`; 0 if A is singular. 2/3 n^3 flops; see `lu_factor`.

    Another ``pivoting`` than partial gives way to it where `inv` says.

    Parameters
    ----------
    a : (n, n) array_like, torch tensor or dask.array
        float32, float64, complex64 or complex128; integers become float64.
    overwrite_a
        Let the factor take the place of ``a`` where its columns are contiguous.
    check_finite
        Look for NaN and infinities first.
    how
        ``pivoting``, ``tile_size``, ``update``, ``panel``, ``threshold``, ``backend``, ``scheduler``, ``workers``,
        ``progress`` and options of the engine, as for `lu_factor`.

    Raises
    ------
    ValueError
        ``a`` is not square or has NaN or infinities; or as `lu_factor`.
    TypeError
        The dtype is not one of the four and not an integer; or a keyword is unknown.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> float(tw.det(np.array([[1.0, 2.0], [2.0, 8.0]])))
    4.0
    """
    return _determined(det, a, overwrite_a, check_finite, dict(how)).det()


def slogdet(a: Matrix, overwrite_a: bool = False, check_finite: bool = True, **how: Unpack[DetOptions]) -> Slogdet:
    """(sign, log |det A|), as `numpy.linalg.slogdet`; (0, -inf) if A is singular. See `lu_factor`.

    Another ``pivoting`` than partial gives way to it where `inv` says.

    Parameters
    ----------
    a : (n, n) array_like, torch tensor or dask.array
        float32, float64, complex64 or complex128; integers become float64.
    overwrite_a
        Let the factor take the place of ``a`` where its columns are contiguous.
    check_finite
        Look for NaN and infinities first.
    how
        ``pivoting``, ``tile_size``, ``update``, ``panel``, ``threshold``, ``backend``, ``scheduler``, ``workers``,
        ``progress`` and options of the engine, as for `lu_factor`.

    Raises
    ------
    ValueError
        ``a`` is not square or has NaN or infinities; or as `lu_factor`.
    TypeError
        The dtype is not one of the four and not an integer; or a keyword is unknown.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> sign, logabsdet = tw.slogdet(1e200 * np.eye(3))
    >>> float(sign), round(float(logabsdet), 6)
    (1.0, 1381.551056)
    """
    return _determined(slogdet, a, overwrite_a, check_finite, dict(how)).slogdet()


def _determined(routine: Any, a: Any, overwrite: Any, check_finite: Any, how: dict[str, Any]) -> LUFactor:
    """The factor of a square matrix."""
    plan = {name: how.pop(name) for name in ("backend", "scheduler", "workers", "progress") if name in how}
    names = ("pivoting", "tile_size", "update", "panel", "threshold")
    pivoting, tile_size, update, panel, threshold = (how.pop(name, None) for name in names)
    call = Call(routine, a, how, chunks=True, **plan)
    return _factored(call, overwrite, check_finite, pivoting, tile_size, update, panel, threshold)[0]


def _factored(
    call: Call,
    overwrite: Any,
    check_finite: Any,
    pivoting: str | None,
    tile_size: int | None,
    update: str | None = None,
    panel: str | None = None,
    threshold: float | None = None,
) -> tuple[LUFactor, Call, str]:
    """The factor of a square matrix, the call that made it, and why it is one with partial pivoting if that is new."""
    overwrite = flag(overwrite, "overwrite_a")
    if pivoting is not None:
        choice(pivoting, "pivoting", PIVOTING)
    if pivoting in (None, "partial"):
        factor = factor_with(call, overwrite, check_finite, pivoting, tile_size, update, panel, threshold, square=True)
        return factor, call, ""
    inner = _everywhere(call)
    factor = factor_with(inner, False, check_finite, pivoting, tile_size, update, panel, threshold, square=True)
    why = inner.engine.agreed(distrusted(inner, factor, dense(inner.a, "the matrix a")))
    if why:
        factor = factor_with(inner, False, False, "partial", tile_size, update, panel, square=True)
        why = f"pivoting={pivoting!r} gave way to partial pivoting: {why}"
    return factor, inner, why


def _everywhere(call: Call) -> Call:
    """The same call with matrix and factor on every process, where only one would have them."""
    options = {name: value for name, value in call.options.items() if name not in ("root", "gather")}
    if len(options) == len(call.options):
        return call
    plan: dict[str, Any] = {"scheduler": call.scheduler, "workers": call.workers, "progress": call.progress}
    return Call(call.routine, call.engine.everywhere(call.a), options, backend=call.engine.name, chunks=True, **plan)
