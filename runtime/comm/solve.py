"""`cg`: conjugate gradients on an operator, a matrix or a function, wherever its products run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack, overload

import numpy as np

from tilewright.arguments import like
from tilewright.comm.cg import BASES, Report
from tilewright.keywords import strict
from tilewright.scalars import choice, positive, real, whole

if TYPE_CHECKING:
    from tilewright.kinds import CgOptions, Matrix, T

__all__ = ["cg"]


@overload
def cg(A: Any, b: T, s: int = 4, **options: Unpack[CgOptions]) -> tuple[T, Report]: ...
@overload
def cg(A: Any, b: Matrix, s: int = 4, **options: Unpack[CgOptions]) -> tuple[np.ndarray, Report]: ...
@strict
def cg(
    A: Any,
    b: Any,
    s: int = 4,
    *,
    x0: Any = None,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    basis: str = "chebyshev",
    method: str = "halo",
) -> tuple[Any, Report]:
    """Solve A x = b, A Hermitian positive definite, with one exchange and one reduction for s iterations.

    Parameters
    ----------
    A
        (n, n) `SparseOperator`, or a sparse matrix, which one rank then has.
    b
        (n,) right-hand side. Its scale does not matter.
    s
        Iterations per exchange; 1 is classical conjugate gradients.
    x0
        Where to start; zeros by default.
    rtol, atol
        Done when ||b - A x|| <= max(rtol ||b||, atol), as in SciPy.
    maxiter
        10 n by default.
    basis
        ``"monomial"``, ``"newton"`` or ``"chebyshev"``.
    method
        How a basis is exchanged: ``"halo"`` or ``"two-stage"``, see `SparseOperator.powers`.

    Returns
    -------
    (x, report)
        (n,) solution in the dtype of A and b, a tensor if b is one, and a `Report` with the condition of the bases.
        ``report.converged`` says whether it is one: ||b - A x|| of this x, computed in float64, is within the
        tolerance. For b = 0 that is x = 0, wherever it started.

    Raises
    ------
    ValueError
        A is not square, not Hermitian or not positive definite; an argument of a wrong shape or value.

    Notes
    -----
    A float32 or complex64 system makes the ranks keep their pieces of A in float64 as well, for true residuals.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp, tilewright as tw
    >>> A = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(50, 50))
    >>> x, report = tw.cg(tw.SparseOperator(A, ranks=2, backend="serial"), np.ones(50), s=4)
    >>> report.converged, bool(abs(A @ x - 1).max() < 1e-4)
    (True, True)
    """
    from tilewright.comm.sparse import SparseOperator

    operator = A if isinstance(A, SparseOperator) else SparseOperator(A, ranks=1, backend="serial")
    operator._check_square("cg")
    choice(basis, "basis", BASES)
    choice(method, "method", ("halo", "two-stage"))
    s, maxiter = positive(s, "s"), None if maxiter is None else whole(maxiter, "maxiter", 0)
    rtol, atol = float(real(rtol, "rtol", 0)), float(real(atol, "atol", 0))
    right = operator._checked(b, 1, what="b")
    if right.ndim != 1:
        raise ValueError(f"cg solves for one right-hand side b, not {right.shape[1]}")
    if right.dtype.kind in "biu":
        right = right.astype(np.float64)
    operator.check_hermitian()
    if not right.dtype.kind == "c" and x0 is not None and operator._checked(x0, 1, what="x0").dtype.kind == "c":
        raise TypeError("x0 is complex, but A and b are real; pass x0.real")
    x = np.zeros_like(right) if x0 is None else np.array(operator._checked(x0, 1, what="x0"), right.dtype)
    if x.shape != right.shape:
        raise ValueError(f"x0 must have shape {right.shape}, not {x.shape}")
    options = {
        "scale": operator.scale,
        "s": s,
        "rtol": rtol,
        "atol": atol,
        "basis": basis,
        "method": method,
        "maxiter": 10 * len(right) if maxiter is None else maxiter,
    }
    report: Report = operator.executor.solve(right, x, options)
    return like(x, b), report
