"""QR factorisations: the calls, and the factor that they return."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import numpy as np

from tilewright.arguments import is_chunked, is_tensor, like
from tilewright.builder import graph_builder
from tilewright.distribution import BlockCyclic, chosen_owner
from tilewright.errors import SingularMatrixError
from tilewright.graph import RW, Handle, R, TaskGraph, W
from tilewright.kernels.move import onto
from tilewright.linalg.block_columns import BlockColumns
from tilewright.linalg.by_pages import ByPages
from tilewright.linalg.call import Call
from tilewright.linalg.cholesky_qr import CHOLESKY, cholesky_qr2
from tilewright.linalg.finals import Finals
from tilewright.linalg.outofcore import Outside
from tilewright.linalg.qr_graph import (
    QRPlan,
    Reflections,
    apply,
    explicit,
    fill,
    insert_qr,
    layout_of,
    make_positive,
    reflections,
    upper,
    upper_in_place,
)
from tilewright.linalg.qr_outside import qr_by_pages, qr_outside
from tilewright.linalg.qr_plan import AUTO, qr_plan
from tilewright.linalg.tall import cut
from tilewright.linalg.trees import PANEL
from tilewright.ops import copy, diag, gemmn, signs, times_columns, times_rows, triu, trsmn
from tilewright.runs.progress import ProgressOption
from tilewright.runs.run import Run
from tilewright.scalars import choice, flag
from tilewright.scalars import positive as positive_size
from tilewright.schedulers import Policy
from tilewright.storage.opening import is_stored
from tilewright.tiles import TiledMatrix

if TYPE_CHECKING:
    from tilewright.kinds import ArrayLike, K, Matrix, QRFactorOptions, QROptions, Stored

__all__ = ["MODES", "QRFactor", "factor_with", "qr", "qr_factor"]

MODES = ("full", "economic", "r", "raw")


# ------------------------------------------------------------------ graphs


@graph_builder(
    "qr {plan.m} x {plan.n} tile_size={plan.width}", cache=32, layout=layout_of, tasks=lambda plan, *_: plan.tasks
)
def _qr_graph(
    g: TaskGraph, plan: QRPlan, columns: int | None, positive: bool, in_place: bool, check: bool, over: bool = False
) -> None:
    """The graph behind `qr`: R, and Q of so many columns, or no Q; ``over`` lets R take the place of A."""
    A, Q = g.handles("A"), g.handles("Q")
    U = A if over else g.handles("R")
    H = Reflections.rooms(g, plan, A, alone=True)
    if not in_place:
        fill(g, A, plan, check)
    insert_qr(g, H, plan)
    if over:
        upper_in_place(g, H, plan)
    else:
        upper(g, H, U, plan)
    if columns is not None:
        explicit(g, H, Q, plan, columns)
    if positive:
        make_positive(g, H, U, None if columns is None else Q, plan)
    if not in_place and not over:
        g.temporary.add("A")  # nobody asked for the reflections: ranks keep them


@graph_builder(
    "qr_factor {plan.m} x {plan.n} tile_size={plan.width}",
    cache=32,
    layout=layout_of,
    tasks=lambda plan, *_: plan.tasks,
)
def _factor_graph(g: TaskGraph, plan: QRPlan, in_place: bool, check: bool) -> None:
    """The graph behind `qr_factor`; there is data for T, S and the signs of R."""
    A, D = g.handles("A"), g.handles("D")
    if not in_place:
        fill(g, A, plan, check)
    H = Reflections.given(g, plan)
    insert_qr(g, H, plan)
    diagonal = g.handles("diagonal", shape=lambda k: reflections(plan, k, k), dtype=plan.dtype, keep=True)
    for k in g.range(plan.panels):
        g.insert(signs, R(H.diagonal(k)), W(D[k, 0]))
        g.insert(diag, R(H.diagonal(k)), W(diagonal[k]))


@graph_builder("R of a qr {plan.m} x {plan.n}", cache=32, layout=layout_of)
def _upper_graph(g: TaskGraph, plan: QRPlan, positive: bool) -> None:
    """R of a factor."""
    U, D = g.handles("R"), g.handles("D")
    upper(g, Reflections.given(g, plan), U, plan)
    for k in range(plan.panels if positive else 0):
        for j in range(k, plan.nt):
            g.insert(times_rows, R(D[k, 0]), RW(U[k, j]))


@graph_builder("qr apply {plan.m} x {plan.n} nc={columns} {trans}", cache=32, layout=layout_of)
def _apply_graph(g: TaskGraph, plan: QRPlan, columns: int, trans: str, positive: bool, check: bool) -> None:
    """X := Q^H B ("C") or Q B ("N"), for so many columns of tiles."""
    B, X, D = g.handles("B"), g.handles("X"), g.handles("D")
    H = Reflections.given(g, plan)
    for c in range(columns):
        for i in range(plan.mt):
            g.insert(copy, R(B[i, c]), W(X[i, c]), *["all"] * check)

    def sign() -> None:
        for k in range(plan.panels if positive else 0):
            for c in range(columns):
                g.insert(times_rows, R(D[k, 0]), RW(X[k, c]))

    if trans == "N":
        sign()
        apply(g, H, X, plan, columns, "N")
    else:
        apply(g, H, X, plan, columns, "C")
        sign()


@graph_builder("Q of a qr {plan.m} x {plan.n}", cache=32, layout=layout_of)
def _explicit_graph(g: TaskGraph, plan: QRPlan, columns: int, positive: bool) -> None:
    """So many columns of Q."""
    Q, D = g.handles("Q"), g.handles("D")
    explicit(g, Reflections.given(g, plan), Q, plan, columns)
    for k in range(plan.panels if positive else 0):
        for i in range(plan.mt):
            g.insert(times_columns, R(D[k, 0]), RW(Q[i, k]))


@graph_builder("qr solve {plan.m} x {plan.n} nc={columns}", cache=32, layout=layout_of)
def _solve_graph(g: TaskGraph, plan: QRPlan, columns: int, check: bool) -> None:
    """Y := R^-1 (Q^H B), for so many columns of tiles."""
    A, B, X, Y = g.handles("A"), g.handles("B"), g.handles("X"), g.handles("Y")
    for c in range(columns):
        for i in range(plan.mt):
            g.insert(copy, R(B[i, c]), W(X[i, c]), *["all"] * check)
    H = Reflections.given(g, plan)
    apply(g, H, X, plan, columns, "C")
    for c in range(columns):
        for k in range(plan.nt):
            g.insert(triu, R(X[k, c]), W(Y[k, c]), False)
        for k in reversed(range(plan.nt)):
            g.insert(trsmn, R(H.diagonal(k)), RW(Y[k, c]), "U", "N")  # Y_k := R_kk^-1 Y_k
            for i in reversed(range(k)):
                g.insert(gemmn, R(A[i, k]), R(Y[k, c]), RW(Y[i, c]))  # Y_i := Y_i - R_ik Y_k


# ------------------------------------------------------------------ the factor


class QRFactor:
    """A factorisation A = Q R of an m x n matrix. Q is not formed, but kept as reflections.

    Attributes
    ----------
    shape, dtype
        Those of A.
    tree, tile_size
        How it was factored: a name or a tuple, and the columns of a tile.
    run
        The `Run` of the factorisation.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> F = tw.qr_factor(np.array([[3.0, 1.0], [4.0, 2.0]]), positive=True)
    >>> F
    QRFactor(2 x 2, float64, tree='panel')
    >>> F.R.round(3)
    array([[5. , 2.2],
           [0. , 0.4]])
    >>> F.apply([5.0, 8.0], "H").round(3)                   # Q^H b
    array([9.4, 0.8])
    """

    def __init__(
        self,
        plan: QRPlan,
        data: dict[str, Any],
        diagonal: np.ndarray,
        like: Any,
        chunks: Any,
        positive: bool,
        run: Run | None,
        how: dict[str, Any],
    ) -> None:
        self._plan, self._data, self._diagonal, self._positive, self._how = plan, data, diagonal, positive, how
        self._like, self._chunks = like, chunks
        self.run = run

    def __repr__(self) -> str:
        m, n = self.shape
        return f"QRFactor({m} x {n}, {self.dtype}, tree={self.tree!r})"

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)"""
        return self._plan.m, self._plan.n

    @property
    def dtype(self) -> np.dtype:
        """That of A."""
        return np.dtype(self._plan.dtype)

    @property
    def tree(self) -> Any:
        """In which order rows of tiles were eliminated."""
        return self._plan.tree

    @property
    def tile_size(self) -> int:
        """Columns of a tile."""
        return self._plan.width

    @property
    def R(self) -> Any:  # noqa: N802 - as in the formula
        """(min(m, n), n), upper triangular; in the kind of A."""
        plan, call = self._plan, self._call()
        U = self._new((min(self.shape), plan.n), plan.width)
        call.run(_upper_graph(plan, self._positive), {**self._data, "R": U})
        return call.result(self._in_kind(U))

    def apply(self, c: Any, trans: str = "N", side: str = "L", *, check_finite: bool = True) -> Any:
        """Q C, Q^H C, C Q or C Q^H without forming Q, which is m x m.

        Parameters
        ----------
        c : (m, k), (m,), or with ``side="R"`` (k, m)
            In any kind that `qr` takes.
        trans
            ``"N"``: Q. ``"H"``: Q^H; for real matrices also ``"T"``.
        side
            ``"L"``: from the left, ``"R"``: from the right.

        Returns
        -------
        array
            An array of the shape and kind of C, in the wider of the two dtypes. 4 m k r - 2 k r^2 flops, r = min(m, n).

        Raises
        ------
        ValueError
            C does not fit, has NaN or infinities; another ``trans`` or ``side``.
        """
        choice(trans, "trans", ("N", "H", "T"))
        choice(side, "side", ("L", "R"))
        check = flag(check_finite, "check_finite")
        if trans == "T" and self.dtype.kind == "c":
            raise ValueError("trans='T' of a complex Q is not offered; trans='H' is its inverse")
        right, plan = side == "R", self._plan
        adjoint = (trans != "N") != right
        given = c.to_numpy() if isinstance(c, TiledMatrix) else c
        call = self._call(adjoint_of(given) if right else given)
        columns = BlockColumns(call, call.a, plan.m, self._like)
        dtype = columns.dtype_with(self.dtype)
        X = columns.new(plan.m, plan.height, plan.width, dtype)
        data = self._parts(dtype) | {"B": columns.tiles(plan.height, plan.width), "X": X}
        call.run(
            _apply_graph(plan, X.nt, "C" if adjoint else "N", self._positive, check),
            data,
            first=columns.check_finite if check else None,
        )
        found = columns.result(X)
        found = adjoint_of(found) if right else found
        return call.result(TiledMatrix.view(found, c.tile_size) if isinstance(c, TiledMatrix) else found)

    def explicit(self, full: bool = False) -> Any:
        """Q as a matrix: (m, min(m, n)), with ``full`` (m, m); in the kind of A. 4 m^2 n flops or less."""
        plan, call = self._plan, self._call()
        columns = plan.m if flag(full, "full") else min(self.shape)
        Q = self._new((plan.m, columns), plan.height)
        call.run(_explicit_graph(plan, columns, self._positive), {**self._data, "Q": Q})
        return call.result(self._in_kind(Q))

    def solve(self, b: Any, *, check_finite: bool = True) -> Any:
        """The x that makes ||A x - b|| smallest, for m >= n and a matrix of full rank; for others see `lstsq`.

        Parameters
        ----------
        b : (m,) or (m, k)

        Raises
        ------
        SingularMatrixError
            R has an exact zero on its diagonal.
        ValueError
            The matrix is wide, b does not fit, has NaN or infinities.
        """
        plan, check = self._plan, flag(check_finite, "check_finite")
        if plan.m < plan.n:
            raise ValueError(
                f"solve is for matrices with at least as many rows as columns, not {plan.m} x {plan.n}; "
                f"lstsq has the solution of least norm"
            )
        call = self._call(b)
        columns = BlockColumns(call, call.a, plan.m, self._like)
        zeros = np.flatnonzero(self._diagonal == 0)
        if len(zeros):
            k = int(zeros[0]) // plan.width
            raise SingularMatrixError(int(zeros[0]), f"geqrt({k})", plan.width, plan.columns(k), "R")
        dtype = columns.dtype_with(self.dtype)
        X = columns.new(plan.m, plan.height, plan.width, dtype)
        Y = columns.new(plan.n, plan.width, plan.width, dtype)
        data = self._parts(dtype) | {"B": columns.tiles(plan.height, plan.width), "X": X, "Y": Y}
        call.run(_solve_graph(plan, X.nt, check), data, first=columns.check_finite if check else None)
        return call.result(columns.result(Y))

    # ---------------------------------------------------------------- behind

    def _call(self, b: Any = None) -> Call:
        """A call on the engine of the factorisation, with the factor or b as its first argument."""
        how = {name: self._how[name] for name in ("backend", "scheduler", "workers")}
        remote = self._chunks is not None or is_chunked(b)
        return Call(qr_factor, np.zeros((0, 0)) if b is None else b, self._how["options"], chunks=remote, **how)

    def _parts(self, dtype: np.dtype) -> dict[str, TiledMatrix]:
        """The tiles of the factor in that dtype."""
        if dtype == self.dtype:
            return dict(self._data)
        if self._chunks is not None:
            raise TypeError(
                f"the factor on the workers is {self.dtype}, and cannot be applied in {dtype}; factor "
                f"a.astype({str(dtype)!r})"
            )
        found = {
            name: cut(tiles.to_numpy().astype(dtype, order="F"), tiles.height, tiles.tile_size)
            for name, tiles in self._data.items()
            if name != "D"
        }
        return found | {"D": self._data["D"]}

    def _new(self, shape: tuple[int, int], height: int) -> TiledMatrix:
        """Zeros by columns, where the factor is."""
        if self._chunks is not None:
            return self._chunks.new(shape, height, self._plan.width)
        return cut(np.zeros(shape, self.dtype, "F"), height, self._plan.width)

    def _in_kind(self, tiles: TiledMatrix) -> Any:
        """What `_new` made, in the kind of A."""
        if self._chunks is not None:
            return self._chunks.given_back(tiles)
        square = tiles.height == tiles.tile_size
        return tiles if isinstance(self._like, TiledMatrix) and square else like(tiles.to_numpy(), self._like)


def adjoint_of(c: Any) -> Any:
    """C^H, in the kind of C."""
    if is_tensor(c):
        return c.detach().conj().T.resolve_conj()
    if isinstance(c, TiledMatrix):
        return TiledMatrix.view(np.asfortranarray(c.to_numpy().conj().T), c.tile_size)
    return c.conj().T if is_chunked(c) else np.asarray(c).conj().T


# ------------------------------------------------------------------ calls


@overload
def qr(
    a: K,
    *,
    mode: Literal["full", "economic"] | None = None,
    out: None = None,
    return_run: Literal[False] = False,
    **options: Unpack[QROptions],
) -> tuple[K, K]: ...
@overload
def qr(
    a: K,
    *,
    mode: Literal["full", "economic"] | None = None,
    out: None = None,
    return_run: Literal[True],
    **options: Unpack[QROptions],
) -> tuple[K, K, Run]: ...
@overload
def qr(
    a: ArrayLike,
    *,
    mode: Literal["full", "economic"] | None = None,
    out: None = None,
    return_run: Literal[False] = False,
    **options: Unpack[QROptions],
) -> tuple[np.ndarray, np.ndarray]: ...
@overload
def qr(
    a: ArrayLike,
    *,
    mode: Literal["full", "economic"] | None = None,
    out: None = None,
    return_run: Literal[True],
    **options: Unpack[QROptions],
) -> tuple[np.ndarray, np.ndarray, Run]: ...
@overload
def qr(
    a: K, *, mode: Literal["r"], out: None = None, return_run: Literal[False] = False, **options: Unpack[QROptions]
) -> K: ...
@overload
def qr(
    a: K, *, mode: Literal["r"], out: None = None, return_run: Literal[True], **options: Unpack[QROptions]
) -> tuple[K, Run]: ...
@overload
def qr(
    a: ArrayLike,
    *,
    mode: Literal["r"],
    out: None = None,
    return_run: Literal[False] = False,
    **options: Unpack[QROptions],
) -> np.ndarray: ...
@overload
def qr(
    a: ArrayLike, *, mode: Literal["r"], out: None = None, return_run: Literal[True], **options: Unpack[QROptions]
) -> tuple[np.ndarray, Run]: ...
@overload
def qr(
    a: Matrix, *, mode: Literal["raw"], out: None = None, return_run: bool = False, **options: Unpack[QROptions]
) -> Any: ...
@overload
def qr(
    a: Matrix | Stored, *, mode: str | None = None, out: Any, return_run: bool = False, **options: Unpack[QROptions]
) -> Any: ...
@overload
def qr(
    a: Stored, *, mode: str | None = None, out: Any = None, return_run: bool = False, **options: Unpack[QROptions]
) -> Any: ...
def qr(
    a: Any,
    *,
    mode: str | None = None,
    tree: Any = AUTO,
    positive: bool = False,
    overwrite_a: bool = False,
    check_finite: bool = True,
    out: Any = None,
    memory: int | str | None = None,
    overwrite_out: bool = False,
    tile_size: int | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    return_run: bool = False,
    progress: ProgressOption = False,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    every: float = 0.0,
    restart: int = 0,
    **options: Any,
) -> Any:
    """QR factorisation A = Q R, Q with orthonormal columns, R upper triangular [1]_.

    Parameters
    ----------
    a : (m, n) array_like, torch tensor, TiledMatrix or dask.array
        float32, float64, complex64 or complex128; integers become float64. Any shape, memory order and chunks. Or a
        matrix outside of memory: the path of a .npy, zarr or HDF5 file, such an array, a `TileFunction`.
    mode
        As in SciPy, where ``"full"`` is the default; of a matrix outside of memory ``"economic"`` is. ``"full"``: Q
        (m, m), R (m, n). ``"economic"``: Q (m, k), R (k, n), k = min(m, n). ``"r"``: R
        (m, n) alone, in a tuple. ``"raw"``: LAPACK's ``(qr, tau)``, and R (k, n); with ``tree="panel"``, which it
        implies. It hides the ``mode`` of engine Dask, which `qr_factor` takes: its `QRFactor` has the same Q and R.
    tree
        ``"auto"``, ``"panel"``, ``"flat"``, ``"flat-tt"``, ``"binary"``, ``"greedy"``, ``"fibonacci"``,
        ``("hierarchical", a, low, high)`` or a list of eliminations: see `tilewright.linalg.trees.eliminations`. Signs
        of rows of R, and bits, depend on it. ``"cholesky"``: Cholesky-QR2, for up to 256 columns of at least as many
        rows and modes economic and r [2]_; the diagonal of R is positive. Where A is too badly conditioned for it, Q R
        is done again as ``"auto"`` does it, and a note of the run says so.
    positive
        Make the diagonal of R positive: then Q and R of a matrix of full rank are unique but for rounding.
    overwrite_a
        Let the factorisation work in the memory of ``a`` where its columns are contiguous; what stays in it is of no
        use.
    check_finite
        Look for NaN and infinities first.
    out
        Paths of files for Q and R, ``("Q.npy", "R.npy")``, with ``mode="r"`` one. Without them Q and R of a matrix
        outside of memory are maps of files without a name, which are gone with the arrays.
    memory
        Bytes by which the process may grow, or a text such as ``"1GB"``. In core a result that takes more is refused.
        By default half of what there is.
    overwrite_out
        Whether ``out`` may replace files.
    tile_size
        Columns of a tile, and rows except for tall matrices of few columns; chosen by default.
    backend, scheduler, workers, options
        See `tilewright.run`.
    return_run
        Also return the `Run`.
    progress
        Draw a progress bar on standard error; ``"page"`` or a function as in `tilewright.run`.
    checkpoint, resume, every, restart
        A folder for what is finished, as for `tiled_cholesky`, in core.

    Returns
    -------
    Q, R
        Or what ``mode`` says, in the kind of ``a``, by columns. With ``return_run`` the `Run` at the end.

    Raises
    ------
    ValueError
        ``a`` is not 2-D, has NaN or infinities, is read-only with ``overwrite_a``; a number or name is wrong.
    TypeError
        The dtype is not one of the four and not an integer.
    MemoryError
        ``memory`` is too little; the message has the least that would do.
    OSError
        A file cannot be read or written, or is there already.

    Notes
    -----
    2 m n^2 - 2/3 n^3 flops for R with m >= n, the same again for Q in economic mode; four times that for complex
    numbers. Bits depend on the matrix, the tree, the tile size and the BLAS in use, and on nothing else.

    References
    ----------
    .. [1] LAPACK ?geqrf; G. Golub and C. Van Loan, Matrix Computations, 4th ed. (2013), section 5.2.
    .. [2] Y. Yamamoto, Y. Nakatsukasa, Y. Yanagisawa and T. Fukaya, Roundoff error analysis of the CholeskyQR2
       algorithm, ETNA 44 (2015).

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> Q, R = tw.qr(np.array([[3.0, 1.0], [4.0, 2.0]]), positive=True)
    >>> R.round(12)
    array([[5. , 2.2],
           [0. , 0.4]])
    """
    call = Call(
        qr,
        a,
        options,
        backend=backend,
        scheduler=scheduler,
        workers=workers,
        progress=progress,
        return_run=return_run,
        chunks=True,
    )
    outside = Outside(out, memory, checkpoint, resume, every, overwrite_out, restart)
    by_pages = out is not None or is_stored(a)
    mode = ("economic" if by_pages else "full") if mode is None else choice(mode, "mode", MODES)
    positive, overwrite = flag(positive, "positive"), flag(overwrite_a, "overwrite_a")
    check = flag(check_finite, "check_finite")
    if by_pages:
        outside.refuse("qr", overwrite_a=overwrite, mode="raw" if mode == "raw" else None)
        how: dict[str, Any] = {
            "mode": mode,
            "tree": tree,
            "positive": positive,
            "check_finite": check,
            "tile_size": tile_size,
        }
        kept: dict[str, Any] = {"finals": _finals(True), "bits": _bits, "again": _again}
        found = qr_outside(call, outside, a, _qr_graph, **how, **kept)
        return call.result(found) if mode == "r" and not call.return_run else call.result(*found)
    outside.check_fits(call, None, "the factor")
    outside.keep(call, a)
    if mode == "raw":
        if positive:
            raise ValueError("positive=True is for modes full, economic and r: LAPACK's raw form has its own signs")
        tree = PANEL if isinstance(tree, str) and tree == AUTO else tree
        if tree != PANEL:
            raise ValueError(
                f"mode='raw' is LAPACK's form, which only tree='panel' makes, not {tree!r}; qr_factor "
                f"keeps the reflections of any tree"
            )
        return _raw(call, overwrite, check, tile_size)
    by_gram = isinstance(tree, str) and tree == CHOLESKY
    if by_gram and mode == "full":
        raise ValueError("tree='cholesky' has no Q beyond the columns of A; use mode='economic' or 'r'")
    if by_gram and checkpoint is not None:
        raise ValueError("checkpoint= is for the other trees: tree='cholesky' keeps nothing on the way")
    with call.agreement() as facts:
        matrix, plan = planned(call, overwrite, check, AUTO if by_gram else tree, tile_size, square=mode == "full")
        if by_gram and not 0 < plan.n == plan.width <= plan.m:
            raise ValueError(
                f"tree='cholesky' is for matrices of up to 256 columns, in one tile column, with at least as many "
                f"rows; not {plan.m} x {plan.n} in tiles of {plan.width} columns"
            )
        facts.update(plan._asdict(), overwrite_a=overwrite, mode=mode, positive=positive, by_gram=by_gram)
    m, n = matrix.shape
    k = min(m, n)
    columns = None if mode == "r" else m if mode == "full" else k
    source, target = matrix.tiles, matrix.target()
    elsewhere = call.chunked or matrix.in_place or matrix.tiled or by_gram or checkpoint is not None
    over = mode == "r" and plan.tree == PANEL and call.here and not elsewhere
    U = target if over else matrix.new((k if mode == "economic" or call.chunked else m, n), plan.width, plan.width)
    data = {"A": target, **({} if over else {"R": U}), **({} if matrix.in_place else {"source": source})}
    if columns is not None:
        data["Q"] = matrix.new((m, columns), plan.height, plan.width)
    why = "" if not by_gram else cholesky_qr2(call, plan, {**data, "source": source}, columns is not None)
    if not by_gram or why:
        graph = _qr_graph(plan, columns, positive or by_gram, matrix.in_place, check, over)
        call.run(
            graph,
            data,
            first=matrix.check_finite if check and not matrix.in_place else None,
            finals=_finals(matrix.in_place),
            facts=_bits(plan),
            keywords={**_again(plan, check), "mode": mode, "positive": positive},
        )
    if why:
        call.note(f"Cholesky-QR2 was given up, and tree={plan.tree!r} taken: {why}")
    found = () if columns is None else (matrix.given_back(data["Q"]),)
    r = matrix.given_back(U)
    if call.chunked and mode != "economic":
        r = _with_zeros(r, m)
    if mode == "r" and not call.return_run:
        return call.result((r,))
    return call.result(*found, r)


def _with_zeros(r: Any, m: int) -> Any:
    """R on zeros, of m rows."""
    import dask.array as da

    if r.shape[0] == m:
        return r
    return da.concatenate([r, da.zeros((m - r.shape[0], r.shape[1]), r.dtype, chunks=(4096, r.chunks[1]))])


def planned(
    call: Call,
    overwrite: bool,
    check: bool,
    tree: Any,
    tile_size: int | None,
    *,
    square: bool = False,
    what: str = "the matrix a",
) -> tuple[Any, QRPlan]:
    """The matrix of a call, cut into tiles, and how it is factored."""
    matrix = call.by_columns(overwrite=overwrite, what=what)
    if tile_size is not None:
        tile_size = positive_size(tile_size, "tile_size")
    m, n = matrix.shape
    grid, several = _grid(call, m, n, tree), call.engine.rank_count(call.workers) > 1
    owner = chosen_owner(call.options) if several else None
    columns = call.engine.on_ranks and isinstance(owner, BlockCyclic) and owner.P == 1 and m < 2 * n
    plan = qr_plan(
        m,
        n,
        matrix.dtype,
        workers=call.count(),
        here=not call.chunked and (call.here or columns or (grid is not None and grid[0] == 1)),
        ranks=call.rank_rows() if grid is None else grid[0],
        grid=grid,
        tree=tree,
        tile_size=tile_size,
        cut=matrix.tile_size,
        rows=getattr(matrix, "chunk_rows", None),
        square=square,
    )
    plan = plan._replace(gathered=several and grid is None and plan.tree == PANEL)
    matrix.source(plan.width, plan.height)
    if check and matrix.in_place and call.has_data:
        matrix.check_finite()
    return matrix, plan


def r_by_pages(plan: QRPlan, check: bool = True) -> ByPages:
    """R alone out of core, as ``qr(..., mode="r")`` makes it."""
    return qr_by_pages(plan, _qr_graph(plan, None, False, True, False), _finals(True), check=check)


def _finals(in_place: bool) -> Finals:
    """Reflections and rows of R become final with their block column."""
    return Finals((("A", 1), ("T", 1), ("S", 1), ("V", 1), ("corner", 1)), "A" if in_place else "source")


def _bits(plan: QRPlan) -> dict[str, Any]:
    """On what they depend."""
    shared = isinstance(plan.tree, tuple) and plan.tree[:1] == ("hierarchical",)
    return {
        "shape": [plan.m, plan.n], "dtype": plan.dtype, "tile_size": [plan.height, plan.width], "inner_block": plan.ib,
        "tree": repr(plan.tree), "ranks_of_the_tree": plan.ranks if shared else None,
    }  # fmt: skip


def _again(plan: QRPlan, check: bool) -> dict[str, Any]:
    """Keywords of the same call."""
    tree = plan.tree if isinstance(plan.tree, str) else list(plan.tree)
    return {"tree": tree, "tile_size": plan.width, "check_finite": check}


def _grid(call: Call, m: int, n: int, tree: Any) -> tuple[int, int] | None:
    """How ranks stand if nobody said: below each other for a tall matrix, so that each has rows of all columns.

    Else beside each other on MPI, so that each has whole columns, on which panels and their updates are one task. Where
    ``grid=`` or ``owner=`` says who owns what, panels are gathered: `QRPlan.gathered`.
    """
    ranks = call.engine.rank_count(call.workers)
    if ranks == 1 or chosen_owner(call.options) is not None:
        return None
    if m >= 2 * n:
        return ranks, 1
    return (1, ranks) if call.engine.on_ranks and tree in (AUTO, PANEL) else None


def _raw(call: Call, overwrite: bool, check: bool, tile_size: int | None) -> Any:
    """((qr, tau), R) as LAPACK has them."""
    if call.chunked:
        raise ValueError("mode='raw' is LAPACK's form of one array; qr_factor keeps reflections on the workers")
    factor, matrix = factor_with(call, overwrite, check, PANEL, tile_size, False)
    plan, k = factor._plan, min(factor.shape)
    A, T, corner = (factor._data[name] for name in ("A", "T", "corner"))
    tau = np.zeros(k, matrix.dtype)
    for p in range(plan.panels):
        at = p * plan.width
        tau[at : at + plan.width] = T[0, p].diagonal()[: k - at]
        onto(corner[0, p][: k - at], A[p, p])
    U = matrix.new((k, plan.n), plan.width, plan.width)
    factor._call().run(_upper_graph(plan, False), {**factor._data, "R": U})
    return call.result((matrix.result(A), like(tau, call.a)), like(U.to_numpy(), call.a))


@overload
def qr_factor(a: Matrix, *, return_run: Literal[False] = False, **options: Unpack[QRFactorOptions]) -> QRFactor: ...
@overload
def qr_factor(a: Matrix, *, return_run: Literal[True], **options: Unpack[QRFactorOptions]) -> tuple[QRFactor, Run]: ...
def qr_factor(
    a: Any,
    *,
    tree: Any = AUTO,
    positive: bool = False,
    overwrite_a: bool = False,
    check_finite: bool = True,
    tile_size: int | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    return_run: bool = False,
    progress: ProgressOption = False,
    memory: int | str | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    every: float = 0.0,
    restart: int = 0,
    **options: Any,
) -> Any:
    """QR factorisation that keeps Q as reflections: as `qr`, which has the errors, and Q need not be formed.

    Parameters
    ----------
    a : (m, n) array_like, torch tensor, TiledMatrix or dask.array
        float32, float64, complex64 or complex128; integers become float64.
    tree
        In which order rows of tiles are eliminated: a name, a tuple or a list, as for `qr`, without ``"cholesky"``.
    positive
        Make the diagonal of R positive.
    overwrite_a
        Let the factorisation work in the memory of ``a`` where its columns are contiguous.
    check_finite
        Look for NaN and infinities first.
    tile_size
        Columns of a tile; chosen by default.
    backend, scheduler, workers, options
        See `tilewright.run`.
    return_run
        Also return the `Run`, also found as ``.run``.
    progress
        Draw a progress bar on standard error; ``"page"`` or a function as in `tilewright.run`.
    memory
        Bytes by which the process may grow, or a text such as ``"1GB"``; a factor that takes more is refused.
    checkpoint, resume, every, restart
        A folder for what is finished, as for `tiled_cholesky`.

    Returns
    -------
    factor : QRFactor
        ``.R``, ``.apply(c, trans, side)``, ``.explicit(full)``, ``.solve(b)``, ``.run``.
    run : Run
        Only with ``return_run``.

    Notes
    -----
    m n words beside ``a``, and 2 ib/nb of that for the triangles of blocks of ib reflections in tiles of nb.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> F = tw.qr_factor(np.array([[3.0, 1.0], [4.0, 2.0]]))
    >>> F.solve([5.0, 8.0])
    array([1., 2.])
    """
    call = Call(
        qr_factor,
        a,
        options,
        backend=backend,
        scheduler=scheduler,
        workers=workers,
        progress=progress,
        return_run=return_run,
        chunks=True,
    )
    outside = Outside(None, memory, checkpoint, resume, every, False, restart)
    outside.check_fits(call, None, "the factor")
    outside.keep(call, a)
    overwrite, positive = flag(overwrite_a, "overwrite_a"), flag(positive, "positive")
    factor, _ = factor_with(call, overwrite, flag(check_finite, "check_finite"), tree, tile_size, positive)
    return call.result(factor)


def factor_with(
    call: Call,
    overwrite: bool,
    check: bool,
    tree: Any,
    tile_size: int | None,
    positive: bool,
    *,
    what: str = "the matrix a",
) -> tuple[QRFactor, Any]:
    """The factor of the call's matrix, and that matrix."""
    with call.agreement() as facts:
        matrix, plan = planned(call, overwrite, check, tree, tile_size, what=what)
        facts.update(plan._asdict(), overwrite_a=overwrite, positive=positive)
    source, target = matrix.tiles, matrix.target()
    data = {"A": target, **dict(_triangles(matrix, plan))}
    data["D"] = matrix.new((min(plan.m, plan.n), 1), plan.width, 1, "float64")
    given = {} if matrix.in_place else {"source": source}
    record = call.run(
        _factor_graph(plan, matrix.in_place, check),
        data | given,
        first=matrix.check_finite if check and not matrix.in_place else None,
        finals=_finals(matrix.in_place),
        facts=_bits(plan),
        keywords={**_again(plan, check), "positive": positive},
    )
    diagonal = np.ones(min(plan.m, plan.n), plan.dtype)
    for k in range(plan.panels):
        found = record.store[Handle("diagonal", (k,))]
        if found is not None:
            diagonal[k * plan.width : k * plan.width + len(found)] = found
    how = {"backend": call.engine.name, "scheduler": call.scheduler, "workers": call.workers, "options": call.options}
    kind = call.a[:0] if is_tensor(call.a) else target if isinstance(call.a, TiledMatrix) else None
    chunks = matrix if call.chunked else None
    return QRFactor(plan, data, diagonal, kind, chunks, positive, record, how), matrix


def _triangles(matrix: Any, plan: QRPlan) -> Iterator[tuple[str, Any]]:
    """Memory for the triangles of reflections and the R of panels, in tiles like those of the matrix."""
    if plan.tree == PANEL:
        for name in ("T", "corner"):
            yield name, matrix.new((plan.width, plan.n), plan.width, plan.width)
        return
    for name in "TS":
        yield name, matrix.new((plan.mt * plan.ib, plan.n), plan.ib, plan.width)
