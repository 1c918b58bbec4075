"""LU factorisations of general matrices: the calls, and the factor that they return."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Unpack, overload

import numpy as np

from tilewright.arguments import is_chunked, is_tensor, like
from tilewright.backends import check_call
from tilewright.builder import graph_builder
from tilewright.errors import SingularMatrixError
from tilewright.graph import RW, Handle, R, TaskGraph, W
from tilewright.host.memory import room
from tilewright.kernels.scale import scaled
from tilewright.kernels.swaps import permutation
from tilewright.linalg.butterfly import Butterflies, insert_butterflies, random_butterflies
from tilewright.linalg.call import Call
from tilewright.linalg.chunked_lu import inverse_from_factor, solve_from_factor
from tilewright.linalg.finals import Finals
from tilewright.linalg.inverse_norm import inverse_norm
from tilewright.linalg.lu_graph import (
    COLUMN,
    ENTRANTS,
    PANELS,
    PIVOTING,
    UPDATES,
    about,
    bottom_level,
    checked_threshold,
    has_closed_form,
    insert_lu,
)
from tilewright.linalg.norm_parts import Gauged
from tilewright.linalg.outofcore import Outside, lu_by_slabs
from tilewright.linalg.ranks_outside import lu_on_ranks
from tilewright.linalg.tuning import lu_plan, lu_together
from tilewright.ops import copy, diag, gauge, gemmn, identity, swap, swapc, trsmn, zero
from tilewright.runs.progress import ProgressOption
from tilewright.runs.run import Run
from tilewright.scalars import choice, flag, shown, whole
from tilewright.schedulers import Policy
from tilewright.tiles import TiledMatrix

if TYPE_CHECKING:
    from tilewright.kinds import ArrayLike, C, LUOptions, LUWayOptions, Matrix, Out, Plain, Stored, T

__all__ = ["LUFactor", "Slogdet", "factor_with", "inverse_with", "lu", "lu_factor", "lu_solve"]


class Slogdet(NamedTuple):
    """What `numpy.linalg.slogdet` returns: det A = sign exp(logabsdet)."""

    sign: Any
    logabsdet: Any


_PANEL = 64_000_000  # bytes of a panel that one rank is not to gather any more
_FED_BY_ONE = 16  # workers that panels of one task keep busy


# ------------------------------------------------------------------ graphs


@graph_builder(
    "lu {shape[0]} x {shape[1]} tile_size={nb} {pivoting}",
    cache=32,
    levels=lambda task, shape, nb, pivoting, update, in_place, check, dtype, ranks, leaf, panel, *_: bottom_level(
        task, -(-shape[0] // nb), -(-shape[1] // nb), pivoting, update if ranks == 1 else "tile", panel
    ),
    known=lambda shape, nb, pivoting, update, in_place, check, dtype, ranks, leaf=1, panel="", tau=1.0, together=1: (
        has_closed_form(pivoting, ranks, together)
    ),
    tasks=lambda shape, nb, pivoting, update, in_place, check, dtype, ranks, *_: about(
        -(-shape[0] // nb), -(-shape[1] // nb), update if ranks == 1 else "tile"
    ),
)
def _factor_graph(
    g: TaskGraph,
    shape: tuple[int, int],
    nb: int,
    pivoting: str,
    update: str,
    in_place: bool,
    check: bool,
    dtype: str,
    ranks: int = 1,
    leaf: int = 1,
    panel: str = "single",
    threshold: float = 1.0,
    together: int = 1,
) -> None:
    """The graph behind `lu_factor`: tiles are copied and measured, then factored; ``D[k]`` is the diagonal of U."""
    m, n = shape
    mt, nt = -(-m // nb), -(-n // nb)
    A, S = g.handles("A"), g.handles("S")
    sizes = lambda i, j: (1, 1 + min(nb, n - j * nb) + min(nb, m - i * nb))  # noqa: E731
    M = g.handles("M", shape=sizes, dtype="float64", keep=True)
    for j in g.range(nt):
        for i in g.range(mt):
            if in_place and check:
                g.insert(gauge, R(A[i, j]), W(M[i, j]), [], check)
            elif not in_place:
                g.insert(gauge, R(S[i, j]), W(M[i, j]), [W(A[i, j])], check)
    insert_lu(g, A, mt, nt, pivoting, update, ranks, leaf, shape, nb, dtype, panel, threshold, together)
    D = g.handles("D", shape=lambda k: min(m - k * nb, n - k * nb, nb), dtype=dtype, keep=True)
    for k in g.range(min(mt, nt)):
        g.insert(diag, R(A[k, k]), W(D[k]))


@graph_builder("lu_solve nt={nt} nc={nc} trans={trans}", cache=32)
def solve_graph(g: TaskGraph, nt: int, nc: int, trans: int, check: bool, butterflies: bool = False) -> None:
    """X := op(A)^-1 B from P A = L U: ``LU[i,j]``, ``piv[k]``, ``B[i,c]``, ``X[i,c]``, for nc columns of tiles.

    With ``butterflies``, ``W[side,level,i]``, from U^T A V = L R.
    """
    T, piv, B, X = g.handles("LU"), g.handles("piv"), g.handles("B"), g.handles("X")
    V = g.handles("W")
    flag = "NTC"[trans]
    for c in range(nc if nt else 0):
        for i in range(nt):
            g.insert(copy, R(B[i, c]), W(X[i, c]), *["all"] * check)
    if butterflies:
        insert_butterflies(g, V, X, 1 if trans else 0, nt, nc)  # X := U^T X, or V^T X
    for c in range(nc if nt else 0):
        swaps = [R(piv[k]) for k in range(nt)], [RW(X[i, c]) for i in range(nt)]
        if not trans and not butterflies:
            g.insert(swap, *swaps)  # X := P X
        _substitute(g, T, X, nt, c, "L" if not trans else "U", flag)
        _substitute(g, T, X, nt, c, "U" if not trans else "L", flag)
        if trans and not butterflies:
            g.insert(swap, *swaps, True)  # X := P^T X
    if butterflies:
        insert_butterflies(g, V, X, 0 if trans else 1, nt, nc, forward=True)  # X := V X, or U X


def _substitute(g: TaskGraph, T: Any, X: Any, nt: int, c: int, part: str, flag: str = "N", first: int = 0) -> None:
    """Insert X_c := op(T)^-1 X_c with one triangle of T, for the rows from ``first`` on."""
    forward = (part == "L") == (flag == "N")
    for k in range(first, nt) if forward else reversed(range(first, nt)):
        g.insert(trsmn, R(T[k, k]), RW(X[k, c]), part, flag)  # X_k := op(T_kk)^-1 X_k
        for i in range(k + 1, nt) if forward else reversed(range(first, k)):
            tile = T[i, k] if flag == "N" else T[k, i]
            g.insert(gemmn, R(tile), R(X[k, c]), RW(X[i, c]), flag)  # X_i := X_i - op(T)_ik X_k


@graph_builder("lu inverse nt={nt}", cache=32)
def inverse_graph(g: TaskGraph, nt: int, butterflies: bool = False) -> None:
    """X := U^-1 L^-1 P, handles ``LU[i,j]``, ``piv[k]``, ``X[i,j]`` [1]_; V R^-1 L^-1 U^T with ``butterflies``.

    Block column j of L^-1 begins at row j: 4/3 n^3 flops.

    .. [1] LAPACK ?getri.
    """
    T, piv, X = g.handles("LU"), g.handles("piv"), g.handles("X")
    for j in range(nt):
        for i in range(nt):
            g.insert(identity if i == j else zero, W(X[i, j]))
        _substitute(g, T, X, nt, j, "L", first=j)
        _substitute(g, T, X, nt, j, "U")
    if butterflies:
        insert_butterflies(g, g.handles("W"), X, 1, nt, nt, forward=True)
        insert_butterflies(g, g.handles("W"), X, 0, nt, nt, forward=True, turned=True)
    for i in range(0 if butterflies else nt):
        g.insert(swapc, [R(piv[k]) for k in range(nt)], [RW(X[i, j]) for j in range(nt)], True)


# ------------------------------------------------------------------ the factor


class LUFactor:
    """A factorisation P A = L U. It unpacks as SciPy's pair: ``lu, piv = tw.lu_factor(A)``.

    One with butterflies is of U^T A V and not of A: it solves, and has a determinant, an inverse, growth and rcond; L,
    U, perm and the pair are refused, as nobody could use them as those of A.

    Attributes
    ----------
    lu
        (m, n): U on and above the diagonal, L below it; the ones on its diagonal are not stored.
    piv
        (min(m, n),) int32: row t was exchanged with row piv[t], one after the other, counted from 0.
    info
        LAPACK's: 0, or i > 0 if u_ii, counted from 1, is the first exact zero on the diagonal of U.
    norms
        max |a_ij|, the 1-norm and the infinity norm of A; NaN where A was overwritten without ``check_finite``, which
        is a look at every number.
    run
        The `Run` of the factorisation.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> F = tw.lu_factor(np.array([[1.0, 2.0], [2.0, 8.0]]))
    >>> F.lu, F.piv
    (array([[ 2. ,  8. ],
           [ 0.5, -2. ]]), array([1, 1], dtype=int32))
    >>> F.solve([3.0, 10.0]), float(F.det())
    (array([1., 1.]), 4.0)
    """

    def __init__(
        self,
        lu: Any,
        piv: np.ndarray,
        diagonal: np.ndarray,
        norms: tuple[float, float, float],
        tile_size: int,
        run: Run | None,
        how: dict[str, Any],
        butterflies: Butterflies | None = None,
    ) -> None:
        self.butterflies = butterflies
        self.lu, self.piv, self.norms, self.tile_size, self.run = lu, piv, norms, tile_size, run
        self._diagonal, self._how = diagonal, how
        self.info = _info(diagonal)

    def __iter__(self) -> Iterator[Any]:
        self._check_own("the pair (lu, piv)")
        return iter((self.lu, self.piv))

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        self._check_own("the pair (lu, piv)")
        return (self.lu, self.piv)[index]

    def __repr__(self) -> str:
        m, n = self.shape
        return f"LUFactor({m} x {n}, {self._diagonal.dtype}, info={self.info})"

    @property
    def dtype(self) -> np.dtype:
        """That of L and U, as NumPy has it"""
        return self._diagonal.dtype

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)"""
        return tuple(self.lu.shape)

    @property
    def L(self) -> Any:  # noqa: N802 - as in the formula; so below
        """(m, min(m, n)), unit lower triangular."""
        self._check_own("L")
        a = _array(self.lu)
        k = min(a.shape)
        lower = np.tril(a[:, :k], -1)
        lower[np.diag_indices(k)] = 1
        return like(lower, self.lu)

    @property
    def U(self) -> Any:  # noqa: N802
        """(min(m, n), n), upper triangular."""
        self._check_own("U")
        a = _array(self.lu)
        return like(np.triu(a[: min(a.shape)]), self.lu)

    @property
    def perm(self) -> np.ndarray:
        """(m,): ``A[perm]`` is L U."""
        self._check_own("perm")
        return permutation(np.asarray(self.piv), self.shape[0])

    @property
    def growth(self) -> float:
        """max |u_ij| / max |a_ij|; 1 for a matrix of zeros, inf for a U with NaN. ValueError without `norms`."""
        self._check_norms("growth")
        a, largest = _array(self.lu), 0.0
        for j in range(0, a.shape[1], self.tile_size):
            block = a[: min(a.shape[0], j + self.tile_size), j : j + self.tile_size]
            with np.errstate(all="ignore"):
                for part in (block[:j], np.triu(block[j:])):
                    found = _largest(part)
                    largest = max(largest, np.inf if np.isnan(found) else found)
        return largest / self.norms[0] if self.norms[0] else 1.0

    def rcond(self, norm: Any = 1) -> float:
        """An estimate of 1 / (||A|| ||A^-1||) in the 1-norm or, with ``norm=np.inf``, the infinity norm; 0 if singular.

        A few solves with L and U [LAPACK ?gecon, ?lacn2].
        """
        from scipy.linalg import get_lapack_funcs

        if norm not in (1, np.inf):
            raise ValueError(f"norm must be 1 or numpy.inf, not {norm!r}")
        self._check_square("rcond")
        self._check_norms("rcond")
        if self.info or not len(self.piv):
            return 0.0 if self.info else np.inf
        if self.butterflies is not None:
            turns = (0, 2) if norm == 1 else (2, 0)  # ||A^-1||_inf = ||A^-H||_1
            solve, adjoint = (partial(self._solved, trans) for trans in turns)
            size = inverse_norm(solve, adjoint, self.shape[0], self._diagonal.dtype)
            return float(1 / size / self.norms[1 if norm == 1 else 2]) if 0 < size < np.inf else 0.0
        a, size = np.asfortranarray(_array(self.lu)), self.norms[1 if norm == 1 else 2]
        exponent = int(np.frexp(size)[1])
        if np.isfinite(size) and abs(exponent) > np.finfo(a.dtype).maxexp // 4:  # ||A^-1|| of such may have no number
            a = np.asfortranarray(np.where(np.tri(len(a), k=-1, dtype=bool), a, scaled(a, -exponent)))
            size = float(np.ldexp(size, -exponent))
        routine: Any = get_lapack_funcs("gecon", [a])
        found, _ = routine(a, size, norm="1" if norm == 1 else "I")
        return float(found)

    def solve(self, b: Matrix, trans: int = 0) -> Any:
        """x with A x = b, or A^T x = b (``trans=1``), or A^H x = b (2): see `lu_solve`."""
        how = {**self._how, **self._how["options"]}
        return lu_solve(self, b, trans, **{name: value for name, value in how.items() if name != "options"})

    def _solved(self, trans: int, b: np.ndarray) -> np.ndarray:
        return _array(self.solve(b, trans))

    def slogdet(self) -> Slogdet:
        """(sign, log |det A|); (0, -inf) if A is singular. Never overflows."""
        self._check_square("slogdet")
        diagonal = self._diagonal
        swaps = int(np.count_nonzero(np.asarray(self.piv) != np.arange(len(self.piv))))
        kind = diagonal.dtype.type
        if self.info:
            return Slogdet(kind(0), diagonal.real.dtype.type(-np.inf))
        size = np.abs(diagonal)
        sign = np.prod(diagonal / size) * (-1) ** swaps if len(size) else 1
        others = 0.0 if self.butterflies is None else np.log(self.butterflies.factors()).sum()
        return Slogdet(kind(sign), (np.log(size).sum(dtype=np.float64) - others).astype(diagonal.real.dtype))

    def det(self) -> Any:
        """det A, float64 or complex128; 0 if A is singular, inf or 0 where it is too large or small for FP64."""
        self._check_square("det")
        diagonal = self._diagonal
        wide = diagonal.astype(np.complex128 if diagonal.dtype.kind == "c" else np.float64)
        if self.info:
            return wide.dtype.type(0)
        sizes = np.abs(wide)
        if self.butterflies is not None:
            sizes = np.append(sizes, 1 / self.butterflies.factors())
        parts, exponents = np.frexp(sizes)
        sign = self.slogdet().sign
        value, exponent = 1.0, int(exponents.sum())
        for part in parts.tolist():
            value *= part
            if value < 0.5**500:
                value, exponent = value * 2.0**500, exponent - 500
        with np.errstate(over="ignore", under="ignore"):
            magnitude = np.ldexp(value, exponent)
            unit = wide.dtype.type(sign)
            unit = unit / abs(unit)
            return wide.dtype.type(magnitude * unit) if magnitude else wide.dtype.type(0)

    def inv(self) -> Any:
        """A^-1, (n, n), by columns. 4/3 n^3 flops. SingularMatrixError if u_ii = 0."""
        self._check_square("inv")
        self.check_regular()
        if is_chunked(self.lu):
            call = Call(lu_factor, self.lu, **self._how, chunks=True)
            if call.chunked:
                return call.result(inverse_from_factor(call, self.lu, self.piv, self.tile_size))
        call = Call(lu_factor, _array(self.lu), **self._how)
        return like(inverse_with(self, call), self.lu)

    def check_regular(self) -> None:
        """SingularMatrixError if there is an exact zero on the diagonal of U."""
        _check_regular(self.info, self.shape[0], self.tile_size)

    def _check_own(self, what: str) -> None:
        if self.butterflies is not None:
            raise ValueError(
                f"{what} of a factor with butterflies is that of U^T A V, not of A; call its solve, inv, "
                f"det or slogdet, or factor with pivoting='partial'"
            )

    def _check_norms(self, what: str) -> None:
        if np.isnan(self.norms).all() and len(self.piv):
            raise ValueError(
                f"{what} needs norms of the matrix, which was overwritten and not looked at; pass "
                f"check_finite=True or overwrite_a=False"
            )

    def _check_square(self, what: str) -> None:
        if self.shape[0] != self.shape[1]:
            raise ValueError(f"{what} is for square matrices, not {self.shape[0]} x {self.shape[1]}")


def _largest(a: np.ndarray) -> float:
    """max |a_ij|, without a copy where numbers are real."""
    if a.dtype.kind == "c" or not a.size:
        return float(np.abs(a).max(initial=0))
    return float(max(a.max(), -a.min()))


def _info(diagonal: np.ndarray) -> int:
    """LAPACK's: the number of the first exact zero, from 1; 0 if there is none."""
    zeros = np.flatnonzero(diagonal == 0)
    return int(zeros[0]) + 1 if len(zeros) else 0


def _check_regular(info: int, n: int, nb: int) -> None:
    """SingularMatrixError for an info that is not 0."""
    if info:
        panel = (info - 1) // nb
        raise SingularMatrixError(info - 1, f"getrf({panel})", nb, min(nb, n - panel * nb))


def _array(lu: Any) -> np.ndarray:
    """A factor as an array."""
    if isinstance(lu, np.ndarray):
        return lu
    if isinstance(lu, TiledMatrix):
        return lu.to_numpy()
    return np.asarray(lu.numpy() if is_tensor(lu) else lu.compute())


# ------------------------------------------------------------------ calls


@overload
def lu_factor(
    a: Matrix | Stored,
    overwrite_a: bool = False,
    check_finite: bool = True,
    *,
    out: Out | None = None,
    return_run: Literal[False] = False,
    **options: Unpack[LUOptions],
) -> LUFactor: ...
@overload
def lu_factor(
    a: Matrix | Stored,
    overwrite_a: bool = False,
    check_finite: bool = True,
    *,
    out: Out | None = None,
    return_run: Literal[True],
    **options: Unpack[LUOptions],
) -> tuple[LUFactor, Run]: ...
def lu_factor(
    a: Any,
    overwrite_a: bool = False,
    check_finite: bool = True,
    *,
    pivoting: str | None = None,
    tile_size: int | None = None,
    update: str | None = None,
    panel: str | None = None,
    threshold: float | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    return_run: bool = False,
    progress: ProgressOption = False,
    out: Any = None,
    memory: int | str | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    every: float = 0.0,
    overwrite_out: bool = False,
    restart: int = 0,
    **options: Any,
) -> Any:
    """LU factorisation with row exchanges, P A = L U [1]_.

    Parameters
    ----------
    a : (m, n) array_like, torch tensor or TiledMatrix; or a matrix on a disk
        float32, float64, complex64 or complex128; integers become float64. Any memory order and shape. One on a
        disk, see `tiled_cholesky`, needs ``out``.
    overwrite_a
        Let the factor take the place of ``a`` where its columns are contiguous: saves the memory of one matrix.
    check_finite
        Look for NaN and infinities first.
    pivoting
        ``"partial"``: the pivot of a column is its largest entry, |Re| + |Im|, of equal ones the highest, over all
        tiles: LAPACK's pivots where no other is within rounding. ``"threshold"``: the diagonal, or else the largest of
        the diagonal tile, where it is ``threshold`` times as large as that; entries of L are 1 / threshold at most.
        ``"tournament"``: rows are chosen in matches between tiles [2]_, one exchange of messages a panel; entries of L
        may be larger than 1. ``"none"``: no exchanges, for matrices that are diagonally dominant; look at ``.growth``.
        ``"butterfly"``: the same for U^T A V with random butterflies U and V [3]_, for square matrices; the factor
        solves, but is none of A. By default partial, and on several ranks by tournament where a panel has 64 MB or
        more.
    tile_size
        Rows and columns of a tile, nb; chosen by default.
    update
        ``"tile"`` or ``"column"``: tasks of the update, see `lu_graph`. Chosen with the tile size; bits depend on both.
    panel
        ``"single"`` or ``"recursive"``: tasks of a panel, see `lu_graph`; by default recursive for more than 16
        workers. Bits depend on it.
    threshold
        tau of threshold pivoting, in (0, 1]; 0.5 by default, 1 is partial pivoting.
    backend, scheduler, workers, options
        See `tilewright.run`.
    return_run
        Also return the `Run`, also found as ``.run``.
    progress
        Draw a progress bar on standard error; ``"page"`` or a function as in `tilewright.run`.
    out, memory, checkpoint, resume, every, overwrite_out, restart
        For matrices larger than memory, and runs that may be killed: as for `tiled_cholesky`; with ``out`` with updates
        by tile, and partial pivoting by slabs or a tournament by tiles, which needs no block column in memory: by
        default what reads and writes less; on ranks partial pivoting. By tiles, or to
        anything but a .npy file, another file as large is written beside ``out``, which is gone at the end; or stays
        with the checkpoint, which has the block columns before later exchanges.

    Returns
    -------
    factor : LUFactor
        Unpacks as ``lu, piv``, which is what `scipy.linalg.lu_factor` returns: ``lu`` in Fortran order. With ``out`` it
        is a read-only memory map of the file, or an array of zarr or h5py.
    run : Run
        Only with ``return_run``.

    Warns
    -----
    scipy.linalg.LinAlgWarning
        U is exactly singular. The factor is returned; to solve with it is refused.

    Raises
    ------
    ValueError
        ``a`` is not 2-D, has NaN or infinities, is read-only with ``overwrite_a``; a number or name is wrong.
    TypeError
        The dtype is not one of the four and not an integer.
    MemoryError, FileExistsError, CheckpointError, OSError
        With ``out``, ``memory`` and ``checkpoint``, as for `tiled_cholesky`.

    Notes
    -----
    m n^2 - n^3/3 flops for m >= n, four times that for complex numbers; m n words beside ``a``, none with
    ``overwrite_a``, and what the BLAS packs, some 8 MB a worker. The bits of the factor depend on the matrix, the tile
    size, the kinds of update and panel and the BLAS in use, and on nothing else.

    References
    ----------
    .. [1] LAPACK ?getrf.
    .. [2] L. Grigori, J. Demmel, H. Xiang, CALU: a communication optimal LU factorization algorithm, SIMAX 32 (2011).
    .. [3] M. Baboulin et al., Accelerating linear system solutions using randomization techniques, ACM TOMS 39 (2013).

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> lu, piv = tw.lu_factor(np.array([[1.0, 2.0], [2.0, 8.0]]))
    >>> lu
    array([[ 2. ,  8. ],
           [ 0.5, -2. ]])
    >>> piv
    array([1, 1], dtype=int32)
    """
    overwrite_a = flag(overwrite_a, "overwrite_a")
    outside = Outside(out, memory, checkpoint, resume, every, overwrite_out, restart)
    call = Call(
        lu_factor,
        a,
        options,
        backend=backend,
        scheduler=scheduler,
        workers=workers,
        progress=progress,
        return_run=return_run,
        chunks=True,
    )
    if outside.used(a):
        factor = _factor_outside(
            call, outside, a, overwrite_a, check_finite, pivoting, tile_size, update, panel, threshold
        )
    else:
        outside.check_fits(call, None if overwrite_a else a, "the factor")
        outside.keep(call, a)
        factor = factor_with(call, overwrite_a, check_finite, pivoting, tile_size, update, panel, threshold)
    result = call.result(factor)
    known = (result[0] if call.return_run else result) is not None and options.get("gather") != "none"
    if factor.info and known:  # a rank that does not get the factor does not know
        _warn_singular(factor.info)
    return result


def _warn_singular(info: int, level: int = 3) -> None:
    from scipy.linalg import LinAlgWarning

    message = f"Diagonal number {info} is exactly zero. Singular matrix."
    warnings.warn(message, LinAlgWarning, stacklevel=level)


def factor_with(
    call: Call,
    overwrite: Any,
    check_finite: Any,
    pivoting: str | None,
    tile_size: int | None,
    update: str | None,
    panel: str | None = None,
    threshold: float | None = None,
    *,
    square: bool = False,
) -> LUFactor:
    """The factor of the call's matrix."""
    overwrite, check_finite = flag(overwrite, "overwrite_a"), flag(check_finite, "check_finite")
    if pivoting is not None:
        choice(pivoting, "pivoting", PIVOTING)
    if update is not None:
        choice(update, "update", UPDATES)
    if panel is not None:
        choice(panel, "panel", PANELS)
    tau = checked_threshold(threshold, pivoting)
    with call.agreement() as facts:
        matrix = call.by_columns(overwrite=overwrite, square=square)
        if pivoting == "butterfly" and matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"pivoting='butterfly' is for square matrices, not {matrix.shape[0]} x {matrix.shape[1]}")
        workers, here = call.count(), call.here and not call.chunked
        nb = call.tile_size(tile_size, matrix, lambda k, workers: lu_plan(k, workers, here)[0])
        update = update or lu_plan(min(matrix.shape), workers, here, nb)[1]
        source = matrix.source(nb)
        ranks = call.rank_rows()
        if pivoting is None:
            large = matrix.shape[0] * nb * matrix.dtype.itemsize >= _PANEL
            pivoting = "tournament" if ranks > 1 and large else "partial"
        leaf = source.mt if ranks > 1 else ENTRANTS
        dealt = 1 if update == "column" and pivoting in COLUMN else ranks
        panel = _chosen_panel(panel, pivoting, workers, ranks)
        together = lu_together(min(matrix.shape), nb) if update == "column" and pivoting in COLUMN else 1
        facts.update(
            shape=source.shape,
            dtype=str(matrix.dtype),
            tile_size=nb,
            overwrite_a=overwrite,
            update=update,
            pivoting=pivoting,
            panel=panel,
            threshold=tau,
            together=together,
        )
        if check_finite and matrix.in_place and call.has_data:
            matrix.check_finite()
    target = matrix.target()
    graph = _factor_graph(
        matrix.shape,
        nb,
        pivoting,
        update,
        matrix.in_place,
        check_finite,
        str(matrix.dtype),
        dealt,
        max(leaf, 1),
        panel,
        tau,
        together,
    )
    data = {"A": target} if matrix.in_place else {"A": target, "S": source}
    butterflies = None
    if pivoting == "butterfly":
        butterflies = random_butterflies(matrix.shape[0], nb, matrix.dtype)
        data["W"] = butterflies.parts()
    bits = {
        "shape": list(matrix.shape), "dtype": str(matrix.dtype), "tile_size": nb, "pivoting": pivoting,
        "update": "tile" if dealt > 1 or pivoting not in COLUMN else update, "panel": panel, "threshold": tau,
        "panels_together": together,
        "tiles_of_a_match": leaf if pivoting == "tournament" else None,
    }  # fmt: skip
    again = {
        "tile_size": nb, "pivoting": pivoting, "update": update, "panel": panel, "check_finite": check_finite,
        "threshold": tau if pivoting == "threshold" else None,
    }  # fmt: skip
    record = call.run(
        graph,
        data,
        first=matrix.check_finite if check_finite and not matrix.in_place else None,
        finals=Finals((("A", 1), ("piv", 0)), "A" if matrix.in_place else "S", behind=("swap", "trade", "take")),
        facts=bits,
        keywords=again,
    )
    starts = range(0, min(matrix.shape), nb)
    piv = np.arange(min(matrix.shape), dtype=np.int32)
    diagonal = np.ones(min(matrix.shape), matrix.dtype)
    for k, start in enumerate(starts):
        local, on_diagonal = (record.store[Handle(name, (k,))] for name in ("piv", "D"))
        if local is not None and pivoting not in ("none", "butterfly"):
            piv[start : start + nb] = local + np.int32(start)
        if on_diagonal is not None:
            diagonal[start : start + nb] = on_diagonal
    norms = _norms(record["M"] if len(source) else {}, source)
    if matrix.in_place and not check_finite:
        norms = np.nan, np.nan, np.nan
    how = {"backend": call.engine.name, "scheduler": call.scheduler, "workers": call.workers, "options": call.options}
    return LUFactor(matrix.result(target), piv, diagonal, norms, nb, record, how, butterflies)


def _chosen_panel(panel: str | None, pivoting: str, workers: int, ranks: int) -> str:
    """As given, or recursive for more workers than a single panel feeds; ValueError where there is no other."""
    possible = pivoting in COLUMN and ranks == 1
    if panel == "recursive" and not possible:
        raise ValueError(
            f"panel='recursive' is for pivoting {' and '.join(COLUMN)} in one process, not for {pivoting} "
            f"on {ranks} rows of ranks"
        )
    if panel is None:
        return "recursive" if possible and workers > _FED_BY_ONE else "single"
    return panel


def _factor_outside(
    call: Call,
    outside: Outside,
    a: Any,
    overwrite: Any,
    check_finite: Any,
    pivoting: str | None,
    tile_size: int | None,
    update: str | None,
    panel: str | None = None,
    threshold: float | None = None,
    *,
    square: bool = False,
) -> LUFactor:
    """The factor of a matrix on a disk, or that goes there."""
    overwrite, check_finite = flag(overwrite, "overwrite_a"), flag(check_finite, "check_finite")
    if pivoting is not None and choice(pivoting, "pivoting", PIVOTING) not in ("partial", "tournament"):
        outside.refuse("lu_factor", pivoting=pivoting)
    if pivoting == "tournament" and call.engine.on_ranks:
        raise ValueError("lu_factor with out= on ranks has partial pivoting; pivoting='tournament' is for threads")
    if update is not None and choice(update, "update", UPDATES) != "tile":
        outside.refuse("lu_factor", update=update)
    if panel is not None and choice(panel, "panel", PANELS) != "single":
        outside.refuse("lu_factor", panel=panel)
    if checked_threshold(threshold, pivoting) != 1:
        outside.refuse("lu_factor", threshold=threshold)
    outside.refuse("lu_factor", overwrite_a=overwrite)
    how: dict[str, Any] = {"tile_size": tile_size, "check_finite": check_finite}
    how["rule"] = lambda k, workers: lu_plan(k, workers, True)[0]
    if call.engine.on_ranks:
        parts, tiling = lu_on_ranks(call, outside, a, _factor_graph, **how)
    else:
        parts, tiling = lu_by_slabs(call, outside, a, square=square, pivoting=pivoting, **how)
    norms = _norms(parts.sizes, tiling) if parts.sizes or not parts.lu.size else (np.nan,) * 3
    # a solve with it reads the map of the file in this process
    where: dict[str, Any] = {"backend": "threads", "scheduler": "critical-path", "workers": None, "options": {}}
    return LUFactor(parts.lu, parts.piv, parts.diagonal, norms, parts.tile_size, call.record, where)


def _norms(sizes: Any, tiles: TiledMatrix) -> tuple[float, float, float]:
    """Largest entry, 1-norm and infinity norm from what `gauge` found."""
    largest, columns, rows = Gauged.of(
        {place: found for (_, place), found in sizes.items()}, tiles.shape, tiles.tile_size
    )
    return largest, float(columns.max(initial=0)), float(rows.max(initial=0))


@overload
def lu_solve(
    lu_and_piv: LUFactor | tuple[Any, Any],
    b: C,
    trans: int = 0,
    check_finite: bool = True,
    *,
    return_run: Literal[False] = False,
    **options: Unpack[Plain],
) -> C: ...
@overload
def lu_solve(
    lu_and_piv: LUFactor | tuple[Any, Any],
    b: C,
    trans: int = 0,
    check_finite: bool = True,
    *,
    return_run: Literal[True],
    **options: Unpack[Plain],
) -> tuple[C, Run]: ...
@overload
def lu_solve(
    lu_and_piv: tuple[np.ndarray, np.ndarray],
    b: ArrayLike,
    trans: int = 0,
    check_finite: bool = True,
    *,
    return_run: Literal[False] = False,
    **options: Unpack[Plain],
) -> np.ndarray: ...
@overload
def lu_solve(
    lu_and_piv: tuple[np.ndarray, np.ndarray],
    b: ArrayLike,
    trans: int = 0,
    check_finite: bool = True,
    *,
    return_run: Literal[True],
    **options: Unpack[Plain],
) -> tuple[np.ndarray, Run]: ...
@overload
def lu_solve(
    lu_and_piv: LUFactor | tuple[Any, Any],
    b: ArrayLike | TiledMatrix,
    trans: int = 0,
    check_finite: bool = True,
    *,
    return_run: bool = False,
    **options: Unpack[Plain],
) -> Any: ...
def lu_solve(
    lu_and_piv: Any,
    b: Any,
    trans: int = 0,
    check_finite: bool = True,
    *,
    tile_size: int | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    return_run: bool = False,
    **options: Any,
) -> Any:
    """Solve A x = b from the factor of A [1]_.

    Parameters
    ----------
    lu_and_piv
        What `lu_factor` returned, ours or SciPy's.
    b : (n,) or (n, k) array_like or torch tensor
        One right-hand side, or one in each column.
    trans
        0: A x = b. 1: A^T x = b. 2: A^H x = b.
    check_finite
        Look for NaN and infinities in b.
    tile_size
        Rows of a tile; by default that of the factor.
    backend, scheduler, workers, options
        See `tilewright.run`. The factor of a dask.array is solved with by ``dask`` unless another backend is named.
    return_run
        Also return the `Run`.

    Returns
    -------
    x
        An array of the shape of b, in the wider of the two dtypes; a tensor if one was given, a dask.array for a factor
        that is one.
    run : Run
        Only with ``return_run``.

    Raises
    ------
    SingularMatrixError
        U has an exact zero on its diagonal: ``.index`` says where. A `numpy.linalg.LinAlgError`.
    ValueError
        Shapes that do not fit, a NaN or an infinity in b, another ``trans``.
    TypeError
        A dtype that is none of LAPACK's four and no integer.

    Notes
    -----
    2 n^2 k flops.

    References
    ----------
    .. [1] LAPACK ?getrs.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.lu_solve(tw.lu_factor(np.array([[1.0, 2.0], [2.0, 8.0]])), [3.0, 10.0])
    array([1., 1.])
    """
    check_finite = flag(check_finite, "check_finite")
    trans = whole(trans, "trans", 0, 2)
    if not isinstance(lu_and_piv, LUFactor | tuple | list) or len(lu_and_piv) != 2:
        raise TypeError("lu_and_piv must be what lu_factor returned, a pair of matrix and row exchanges")
    known = butterflies = None
    if isinstance(lu_and_piv, LUFactor):
        given, piv, known, butterflies = lu_and_piv.lu, lu_and_piv.piv, lu_and_piv.tile_size, lu_and_piv.butterflies
    else:
        given, piv = lu_and_piv
    if butterflies is not None and tile_size not in (None, known):
        raise ValueError(f"tile_size of a factor with butterflies is its own, {known}, not {shown(tile_size)}")
    given = given.compute() if butterflies is not None and is_chunked(given) else given
    call = Call(
        lu_solve,
        given,
        options,
        backend=backend,
        scheduler=scheduler,
        workers=workers,
        return_run=return_run,
        chunks=True,
    )
    if call.chunked:
        piv = _checked_pivots(np.asarray(piv), given.shape[0], True)
        size = known if tile_size is None else tile_size
        return call.result(solve_from_factor(call, given, piv, b, int(trans), check_finite, size))
    given = call.a
    piv, b = call.argument(np.asarray(piv)), call.argument(b)
    with call.agreement() as facts:
        matrix = call.by_columns(what="lu", square=True)
        n = matrix.shape[0]
        columns = call.columns(b, n)
        dtype = columns.dtype_with(matrix.dtype)
        here = call.here
        nb = call.tile_size(
            known if tile_size is None else tile_size, matrix, lambda k, workers: lu_plan(k, workers, here)[0]
        )
        factor = matrix.factor(nb, dtype)
        facts.update(shape=factor.shape, b=columns.shape, dtype=str(dtype), tile_size=nb, trans=trans)
        piv = _checked_pivots(piv, n, call.has_data)
        if call.has_data:
            _check_regular(_info(factor.to_numpy().diagonal()), n, nb)
    X = TiledMatrix.view(np.empty((n, columns.columns.shape[1]), dtype, "F"), nb)
    data: dict[str, Any] = {"LU": factor, "B": columns.tiles(nb, dtype), "X": X}
    if butterflies is None:
        data["piv"] = [piv[k : k + nb] - np.int32(k) for k in range(0, n, nb)]
    else:
        data["W"] = butterflies.parts()
    call.run(
        solve_graph(factor.nt, X.nt, int(trans), check_finite, butterflies is not None),
        data,
        first=columns.check_finite if check_finite else None,
    )
    return call.result(columns.result(X, given))


def _checked_pivots(piv: np.ndarray, n: int, has_data: bool) -> np.ndarray:
    """The exchanges as int32. ValueError for a row that is not there."""
    if piv.shape != (n,) or piv.dtype.kind not in "iu":
        raise ValueError(f"piv must be {n} row numbers, not {piv.shape} of {piv.dtype}")
    if has_data and ((piv < np.arange(n)) | (piv >= n)).any():
        raise ValueError(f"piv has a row that is none of its step's rows, from t to {n - 1}, counted from 0")
    return piv.astype(np.int32, copy=False)


def handed_on(call: Callable[..., Any], to: Callable[..., Any], how: Mapping[str, Any]) -> None:
    """Refuse, in the name of a call, keywords that it hands on and that the other one does not take."""
    known = [p.name for p in signature(to).parameters.values() if p.kind is not p.VAR_KEYWORD]
    backend = how.get("backend")
    unknown = {name: value for name, value in how.items() if name not in known}
    check_call(call, unknown, backend, near=known)


@overload
def lu(
    a: T,
    permute_l: Literal[False] = False,
    overwrite_a: bool = False,
    check_finite: bool = True,
    p_indices: Literal[False] = False,
    *,
    return_run: Literal[False] = False,
    **how: Unpack[LUWayOptions],
) -> tuple[T, T, T]: ...
@overload
def lu(
    a: T,
    permute_l: Literal[False] = False,
    overwrite_a: bool = False,
    check_finite: bool = True,
    p_indices: Literal[False] = False,
    *,
    return_run: Literal[True],
    **how: Unpack[LUWayOptions],
) -> tuple[T, T, T, Run]: ...
@overload
def lu(
    a: Matrix,
    permute_l: Literal[False] = False,
    overwrite_a: bool = False,
    check_finite: bool = True,
    p_indices: Literal[False] = False,
    *,
    return_run: Literal[False] = False,
    **how: Unpack[LUWayOptions],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...
@overload
def lu(
    a: Matrix,
    permute_l: Literal[False] = False,
    overwrite_a: bool = False,
    check_finite: bool = True,
    p_indices: Literal[False] = False,
    *,
    return_run: Literal[True],
    **how: Unpack[LUWayOptions],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Run]: ...
@overload
def lu(
    a: Matrix,
    permute_l: bool = False,
    overwrite_a: bool = False,
    check_finite: bool = True,
    p_indices: bool = False,
    *,
    return_run: bool = False,
    **how: Unpack[LUWayOptions],
) -> tuple[Any, ...]: ...
def lu(
    a: Any,
    permute_l: bool = False,
    overwrite_a: bool = False,
    check_finite: bool = True,
    p_indices: bool = False,
    *,
    return_run: bool = False,
    **how: Any,
) -> Any:
    """A = P L U, as `scipy.linalg.lu` returns it.

    Parameters
    ----------
    a, overwrite_a, check_finite, return_run, how
        See `lu_factor`.
    permute_l
        Return P L and U.
    p_indices
        Return row numbers p instead of P: A = L[p] U.

    Returns
    -------
    P : (m, m), L : (m, k), U : (k, n), k = min(m, n)
        Or what the flags say; P is real. With ``return_run`` the `Run` at the end.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> P, L, U = tw.lu(np.array([[1.0, 2.0], [2.0, 8.0]]))
    >>> P @ L @ U
    array([[1., 2.],
           [2., 8.]])
    """
    handed_on(lu, lu_factor, how)
    if how.get("pivoting") == "butterfly":
        raise ValueError(
            "pivoting='butterfly' gives no P, L and U of A, but factors of U^T A V; lu_factor's factor solves"
        )
    permute_l, p_indices, return_run = (
        flag(permute_l, "permute_l"),
        flag(p_indices, "p_indices"),
        flag(return_run, "return_run"),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Diagonal number", category=RuntimeWarning)
        factor, record = lu_factor(a, overwrite_a, check_finite, return_run=True, **how)
    m = factor.shape[0]
    order = factor.perm
    back = np.empty(m, np.int32)  # A = L[back] U
    back[order] = np.arange(m, dtype=np.int32)
    lower, upper = factor.L, factor.U
    if permute_l:
        found: tuple[Any, ...] = (like(_array(lower)[back], a), upper)
    elif p_indices:
        found = (back if m and factor.shape[1] else np.zeros(0, np.int32), lower, upper)
    else:
        kind = _array(lower).real.dtype
        size = m if factor.shape[1] else 0  # without columns SciPy has no P
        P = np.zeros((size, size), kind)
        if size:
            P[order, np.arange(m)] = 1
        found = (like(P, a), lower, upper)
    return (*found, record) if return_run else found


def inverse_with(factor: LUFactor, call: Call) -> np.ndarray:
    """A^-1 of the matrix that was factored, by columns."""
    T = TiledMatrix.view(_array(factor.lu), factor.tile_size)
    n, nb = factor.shape[0], factor.tile_size
    x = room((n, n), T.dtype, huge=True).T
    data: dict[str, Any] = {"LU": T, "X": TiledMatrix.view(x, nb)}
    if factor.butterflies is None:
        data["piv"] = [factor.piv[k : k + nb] - np.int32(k) for k in range(0, n, nb)]
    else:
        data["W"] = factor.butterflies.parts()
    call.run(inverse_graph(T.nt, factor.butterflies is not None), data)
    return x
