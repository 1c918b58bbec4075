"""The last rung of the ladder for general systems: QR, which no growth of numbers can spoil."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilewright.linalg.inverse_norm import inverse_norm
from tilewright.linalg.qr import qr_factor
from tilewright.linalg.trees import PANEL
from tilewright.runs.run import Run

__all__ = ["by_qr"]


def by_qr(
    a: np.ndarray, b: np.ndarray, norm: float, tile_size: int | None, how: dict[str, Any]
) -> tuple[np.ndarray, Run, float]:
    """x with A x = b from A = Q R, the run of the factorisation, and an estimate of 1 / (||A||_1 ||A^-1||_1).

    4/3 n^3 flops, twice those of LU. Backward errors do not depend on the matrix [1]_.

    Parameters
    ----------
    a : (n, n)
    b : (n,) or (n, m)
    norm
        ||A||_1.
    tile_size, how
        That of the factorisation; keywords of the engine, as for `tilewright.qr_factor`.

    Raises
    ------
    SingularMatrixError
        R has an exact zero on its diagonal.

    References
    ----------
    .. [1] N. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed. (2002), theorem 19.5.
    """
    from scipy.linalg import solve_triangular

    #   by panels, whatever the number of workers: the tree that is chosen for them has bits of its own
    factor = qr_factor(a, check_finite=False, tile_size=tile_size, tree=PANEL, **how)
    x = np.asarray(factor.solve(b, check_finite=False))
    upper = np.asarray(factor.R)

    def adjoint(y: np.ndarray) -> np.ndarray:
        return np.asarray(factor.apply(solve_triangular(upper, y, trans="C", check_finite=False), check_finite=False))

    def solve(y: np.ndarray) -> np.ndarray:
        return np.asarray(factor.solve(y, check_finite=False))

    with np.errstate(all="ignore"):
        inverse = inverse_norm(solve, adjoint, len(a), upper.dtype)
        return x, factor.run, float(1 / inverse / norm) if 0 < inverse < np.inf and norm else 0.0
