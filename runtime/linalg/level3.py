"""Level 3 BLAS on tiles, and LAPACK's lauum and potri: the loops, and their graphs. The calls are in `level3_calls`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tilewright.builder import graph_builder
from tilewright.graph import RW, Handle, Handles, R, TaskGraph, W
from tilewright.keywords import strict
from tilewright.linalg.triangular import invert
from tilewright.ops import geadd, lauum, matmul, rankk, rescale, retile, trmm, trsolve
from tilewright.scalars import flag, shown, whole

__all__ = [
    "Operand",
    "across",
    "added",
    "gemm",
    "gemm_graph",
    "lauum_graph",
    "letter",
    "lower_gram",
    "poinverse",
    "potri_graph",
    "rank_k",
    "retiled",
    "scalar",
    "syrk_graph",
    "tri_multiply",
    "tri_solve",
    "trmm_graph",
    "trsm_graph",
    "turned",
]

_MOST_TASKS = 10**9

_TURNED = {"N": "NTCJ", "T": "TNJC", "C": "CJNT", "J": "JCTN"}


def turned(first: str, second: str) -> str:
    """The flag of op2(op1(A)): "N" A, "T" A^T, "C" A^H, "J" conj(A).

    >>> turned("T", "C"), turned("C", "C"), turned("J", "T")
    ('J', 'N', 'C')
    """
    return _TURNED[first]["NTCJ".index(second)]


@dataclass(frozen=True, slots=True)
class Operand:
    """op(A): tiles, and what to read them as."""

    tiles: Handles
    flag: str = "N"

    def __getitem__(self, index: tuple[int, int]) -> Handle:
        """The tile that has tile (i, j) of op(A)."""
        i, j = index
        return self.tiles[j, i] if self.flag in "TC" else self.tiles[i, j]


def gemm(
    g: TaskGraph,
    A: Operand,
    B: Operand,
    C: Handles,
    mt: int,
    nt: int,
    kt: int,
    alpha: complex = 1.0,
    beta: complex = 0.0,
) -> None:
    """Insert C := alpha op(A) op(B) + beta C, C of mt x nt tiles, kt of them along the sum [BLAS ?gemm]."""
    flags = A.flag + B.flag
    for i in range(mt):
        for j in range(nt):
            if not kt:
                g.insert(rescale, RW(C[i, j]) if beta else W(C[i, j]), beta)
            for k in range(kt):
                write = RW if k or beta else W
                g.insert(
                    matmul, R(A[i, k]), R(B[k, j]), write(C[i, j]), flags, alpha, 1.0 if k else beta, label=(i, j, k)
                )


def rank_k(
    g: TaskGraph,
    A: Operand,
    C: Handles,
    nt: int,
    kt: int,
    uplo: str = "L",
    conj: bool = False,
    alpha: complex = 1.0,
    beta: complex = 0.0,
    fresh: bool = False,
) -> None:
    """Insert C := alpha op(A) op(A)^T + beta C on one triangle; with ``conj`` ^H for ^T [BLAS ?syrk, ?herk].

    ``fresh``: nothing is there in the other triangle that would have to stay.
    """
    back = "C" if conj else "T"
    B = Operand(A.tiles, turned(A.flag, back))
    for j in range(nt):
        for i in range(j, nt) if uplo == "L" else range(j + 1):
            seen = beta or (i == j and not fresh)
            if not kt:
                g.insert(rescale, RW(C[i, j]) if seen else W(C[i, j]), beta, uplo if i == j else "")
            for k in range(kt):
                write, factor = (RW if k or seen else W), (1.0 if k else beta)
                if i == j:
                    g.insert(rankk, R(A[i, k]), write(C[i, i]), uplo, A.flag, conj, alpha, factor, label=(i, k))
                else:
                    g.insert(
                        matmul, R(A[i, k]), R(B[k, j]), write(C[i, j]), A.flag + B.flag, alpha, factor, label=(i, j, k)
                    )


def _forward(uplo: str, flag: str, side: str) -> bool:
    """Whether op(T) X = B, or X op(T) = B, is solved from the first unknown on."""
    return ((uplo == "L") == (flag == "N")) == (side == "L")


def _blocks(X: Handles, c: int, left: bool) -> Callable[[int], Handle]:
    """The tiles of block column c, or of block row c."""
    return (lambda k: X[k, c]) if left else (lambda k: X[c, k])


def tri_solve(
    g: TaskGraph,
    T: Operand,
    X: Handles,
    nt: int,
    beside: int,
    side: str = "L",
    uplo: str = "L",
    diag: str = "N",
    alpha: complex = 1.0,
) -> None:
    """Insert X := alpha op(T)^-1 X, or alpha X op(T)^-1 for ``side`` "R", T of nt x nt tiles [BLAS ?trsm].

    ``beside`` are the tile columns of X, or its tile rows.
    """
    left = side == "L"
    steps = list(range(nt)) if _forward(uplo, T.flag, side) else list(reversed(range(nt)))
    for c in range(beside):
        x = _blocks(X, c, left)
        for turn, k in enumerate(steps):
            factor = 1.0 if turn else alpha
            g.insert(trsolve, R(T.tiles[k, k]), RW(x(k)), side, uplo, T.flag, diag, factor, label=x(k).index)
            for i in steps[turn + 1 :]:
                if left:  # X_i := X_i - op(T)_ik X_k
                    g.insert(matmul, R(T[i, k]), R(x(k)), RW(x(i)), T.flag + "N", -1.0, factor, label=(i, c, k))
                else:  # X_i := X_i - X_k op(T)_ki
                    g.insert(matmul, R(x(k)), R(T[k, i]), RW(x(i)), "N" + T.flag, -1.0, factor, label=(c, i, k))


def tri_multiply(
    g: TaskGraph,
    T: Operand,
    X: Handles,
    nt: int,
    beside: int,
    side: str = "L",
    uplo: str = "L",
    diag: str = "N",
    alpha: complex = 1.0,
) -> None:
    """Insert X := alpha op(T) X, or alpha X op(T), in place; arguments as of `tri_solve` [BLAS ?trmm]."""
    left = side == "L"
    # a tile may be overwritten once no other needs it: the other way round than in a solve
    steps = list(reversed(range(nt))) if _forward(uplo, T.flag, side) else list(range(nt))
    for c in range(beside):
        x = _blocks(X, c, left)
        for turn, i in enumerate(steps):
            g.insert(trmm, R(T.tiles[i, i]), RW(x(i)), side, uplo, T.flag, diag, alpha, label=x(i).index)
            for k in steps[turn + 1 :]:
                if left:  # X_i := X_i + op(T)_ik X_k
                    g.insert(matmul, R(T[i, k]), R(x(k)), RW(x(i)), T.flag + "N", alpha, 1.0, label=(i, c, k))
                else:  # X_i := X_i + X_k op(T)_ki
                    g.insert(matmul, R(x(k)), R(T[k, i]), RW(x(i)), "N" + T.flag, alpha, 1.0, label=(c, i, k))


def lower_gram(g: TaskGraph, A: Handles, nt: int) -> None:
    """Insert A := L^H L on the lower triangle, in place, L the lower triangle of A [LAPACK ?lauum]."""
    for k in range(nt):
        for j in range(k):
            g.insert(rankk, R(A[k, j]), RW(A[j, j]), "L", "C", True, 1.0, 1.0, label=(j, k))
            for i in range(j + 1, k):
                g.insert(matmul, R(A[k, i]), R(A[k, j]), RW(A[i, j]), "CN", 1.0, 1.0, label=(i, j, k))
        for j in range(k):
            g.insert(trmm, R(A[k, k]), RW(A[k, j]), "L", "L", "C", label=(k, j))  # A_kj := L_kk^H L_kj
        g.insert(lauum, RW(A[k, k]))


def poinverse(g: TaskGraph, A: Handles, nt: int) -> None:
    """Insert A := (L L^H)^-1 on the lower triangle, in place: L := L^-1, then L^H L, in one graph [LAPACK ?potri]."""
    invert(g, A, nt)
    lower_gram(g, A, nt)


def across(extent: int, nb: int) -> int:
    """Tiles along an extent."""
    return -(-extent // nb)


def retiled(g: TaskGraph, A: Handles, shape: tuple[int, int], nb: int, B: Handles, size: int) -> None:
    """Insert B := A, A in tiles of ``nb`` and B in tiles of ``size``."""
    m, n = shape
    for i in range(across(m, size)):
        for j in range(across(n, size)):
            rows, columns = (range(k * size, min((k + 1) * size, extent)) for k, extent in ((i, m), (j, n)))
            pieces, places = [], []
            for p in range(rows.start // nb, (rows.stop - 1) // nb + 1):
                for q in range(columns.start // nb, (columns.stop - 1) // nb + 1):
                    pieces.append(R(A[p, q]))
                    places.append(
                        (
                            rows.start - p * nb,
                            columns.start - q * nb,
                            (p + 1) * nb - rows.start,
                            (q + 1) * nb - columns.start,
                        )
                    )
            g.insert(retile, pieces, W(B[i, j]), tuple(places))


def added(g: TaskGraph, A: Operand, B: Handles, mt: int, nt: int, alpha: complex = 1.0, beta: complex = 0.0) -> None:
    """Insert B := alpha op(A) + beta B."""
    for i in range(mt):
        for j in range(nt):
            g.insert(geadd, R(A[i, j]), RW(B[i, j]) if beta else W(B[i, j]), A.flag, alpha, beta)


# ------------------------------------------------------------------ graphs


def letter(value: Any, what: str, known: str) -> str:
    """One of the letters of BLAS; small ones will do. ValueError for another.

    >>> letter("c", "trans", "NTC")
    'C'
    """
    if isinstance(value, str) and len(value) == 1 and value.upper() in known:
        return value.upper()
    raise ValueError(f"{what} must be one of {', '.join(map(repr, known))}, not {shown(value)}")


def scalar(value: Any, what: str) -> complex:
    """A factor: a real or complex number. TypeError for what is none."""
    import numbers

    import numpy as np

    if isinstance(value, bool) or not isinstance(value, numbers.Number | np.number):
        raise TypeError(f"{what} must be a number, not {shown(value)}")
    found = complex(value)  # type: ignore[arg-type]
    return found.real if found.imag == 0 else found


def _tiles(count: int, **extents: int) -> None:
    for name, extent in extents.items():
        if whole(extent, name) < 0:
            raise ValueError(f"{name} must not be negative, got {extent}")
    if count > _MOST_TASKS:
        named = ", ".join(f"{name}={extent}" for name, extent in extents.items())
        raise ValueError(f"{named} make {count} tasks, more than a graph can hold; take larger tiles")


def _stored(mt: int, nt: int, trans: str) -> tuple[int, int]:
    return (mt, nt) if trans == "N" else (nt, mt)


def _gemm_extents(mt: int, nt: int, kt: int, trans_a: str = "N", trans_b: str = "N", **_: Any) -> dict[str, Any]:
    return {"A": _stored(mt, kt, trans_a), "B": _stored(kt, nt, trans_b), "C": (mt, nt)}


@graph_builder(
    "gemm mt={mt} nt={nt} kt={kt}", cache=8, extents=lambda mt, nt, kt, ta, tb, *_: _gemm_extents(mt, nt, kt, ta, tb)
)
def _gemm_graph(
    g: TaskGraph, mt: int, nt: int, kt: int, trans_a: str, trans_b: str, alpha: complex, beta: complex
) -> None:
    A, B, C = Operand(g.handles("A"), trans_a), Operand(g.handles("B"), trans_b), g.handles("C")
    gemm(g, A, B, C, mt, nt, kt, alpha, beta)


@strict
def gemm_graph(
    mt: int, nt: int, kt: int, trans_a: str = "N", trans_b: str = "N", *, alpha: complex = 1.0, beta: complex = 0.0
) -> TaskGraph:
    """The task graph of C := alpha op(A) op(B) + beta C, handles ``A[i,k]``, ``B[k,j]``, ``C[i,j]``.

    C has mt x nt tiles, kt of them along the sum. ``trans_a``, ``trans_b``: "N", "T" or "C"; A and B are then stored
    transposed. mt nt kt products of 6 units of nb^3/3 flops, in chains of kt.

    Parameters
    ----------
    mt, nt, kt
        Tile rows and columns of C, and tiles along the sum.
    trans_a, trans_b
        ``"N"``, ``"T"`` or ``"C"``.
    alpha, beta
        Real or complex numbers.

    Returns
    -------
    graph : TaskGraph

    Raises
    ------
    ValueError, TypeError
        A number of tiles is negative, no integer, or makes more tasks than a graph can hold; another letter; no number
        for alpha.

    Examples
    --------
    >>> from tilewright import gemm_graph
    >>> g = gemm_graph(4, 3, 2)
    >>> len(g), g.critical_path().length
    (24, 12.0)
    """
    trans_a, trans_b = letter(trans_a, "trans_a", "NTC"), letter(trans_b, "trans_b", "NTC")
    for name, extent in (("mt", mt), ("nt", nt), ("kt", kt)):
        whole(extent, name)
    _tiles(mt * nt * max(kt, 1), mt=mt, nt=nt, kt=kt)
    return _gemm_graph(mt, nt, kt, trans_a, trans_b, scalar(alpha, "alpha"), scalar(beta, "beta"))


@graph_builder(
    "syrk nt={nt} kt={kt}",
    cache=8,
    extents=lambda nt, kt, uplo, trans, *_: {"A": _stored(nt, kt, trans), "C": (nt, nt)},
)
def _syrk_graph(
    g: TaskGraph, nt: int, kt: int, uplo: str, trans: str, hermitian: bool, alpha: complex, beta: complex
) -> None:
    rank_k(g, Operand(g.handles("A"), trans), g.handles("C"), nt, kt, uplo, hermitian, alpha, beta)


@strict
def syrk_graph(
    nt: int,
    kt: int,
    uplo: str = "L",
    trans: str = "N",
    *,
    hermitian: bool = False,
    alpha: complex = 1.0,
    beta: complex = 0.0,
) -> TaskGraph:
    """The task graph of C := alpha op(A) op(A)^T + beta C on one triangle, ``A[i,k]``, ``C[i,j]``; ``hermitian``: ^H.

    nt kt rank-k updates of 3 units of nb^3/3 flops and nt (nt-1)/2 kt products of 6.

    Parameters
    ----------
    nt, kt
        Tile rows of C, and tiles along the sum.
    uplo, trans
        The triangle, ``"L"`` or ``"U"``; ``"N"``, ``"T"`` or ``"C"``.
    hermitian
        The conjugate transpose in place of the transpose.
    alpha, beta
        Numbers, real ones for a Hermitian C.

    Returns
    -------
    graph : TaskGraph

    Raises
    ------
    ValueError, TypeError
        A number of tiles is negative, no integer, or makes more tasks than a graph can hold; another letter; no number
        for alpha.

    Examples
    --------
    >>> from tilewright import syrk_graph
    >>> g = syrk_graph(4, 2)
    >>> len(g), g.work()
    (20, 96.0)
    """
    uplo, trans = letter(uplo, "uplo", "LU"), letter(trans, "trans", "NTC")
    hermitian = flag(hermitian, "hermitian")
    whole(nt, "nt"), whole(kt, "kt")
    _tiles(nt * (nt + 1) // 2 * max(kt, 1), nt=nt, kt=kt)
    return _syrk_graph(
        nt, kt, uplo, _rank_flag(trans, hermitian), hermitian, scalar(alpha, "alpha"), scalar(beta, "beta")
    )


def _rank_flag(trans: str, hermitian: bool) -> str:
    """ "T" of ?syrk and "C" of ?herk; real numbers know no difference."""
    return trans if trans == "N" else "C" if hermitian else "T"


@graph_builder(
    "{name} nt={nt} beside={beside}",
    cache=8,
    extents=lambda name, nt, beside, side, *_: {"A": (nt, nt), "B": (nt, beside) if side == "L" else (beside, nt)},
)
def _triangle_graph(
    g: TaskGraph, name: str, nt: int, beside: int, side: str, uplo: str, trans: str, diag: str, alpha: complex
) -> None:
    loop = tri_solve if name == "trsm" else tri_multiply
    loop(g, Operand(g.handles("A"), trans), g.handles("B"), nt, beside, side, uplo, diag, alpha)


def _checked_triangle(
    name: str, nt: int, beside: int, side: Any, uplo: Any, trans: Any, diag: Any, alpha: Any
) -> TaskGraph:
    side, uplo = letter(side, "side", "LR"), letter(uplo, "uplo", "LU")
    trans, diag = letter(trans, "trans", "NTC"), letter(diag, "diag", "NU")
    whole(nt, "nt"), whole(beside, "beside")
    _tiles(nt * (nt + 1) // 2 * beside, nt=nt, beside=beside)
    return _triangle_graph(name, nt, beside, side, uplo, trans, diag, scalar(alpha, "alpha"))


@strict
def trsm_graph(
    nt: int, beside: int, side: str = "L", uplo: str = "L", trans: str = "N", diag: str = "N", *, alpha: complex = 1.0
) -> TaskGraph:
    """The task graph of B := alpha op(A)^-1 B, or alpha B op(A)^-1 for ``side`` "R", handles ``A[i,j]``, ``B[i,j]``.

    A has nt x nt tiles, of which one triangle is read, and B so many tile columns, or rows, ``beside`` it. beside nt
    substitutions of 3 units of nb^3/3 flops, beside nt (nt-1)/2 products of 6; critical path 9 nt - 6.

    Parameters
    ----------
    nt, beside
        Tile rows of A; tile columns of B, or rows for side "R".
    side, uplo, trans, diag
        Letters, as of `trsm`.
    alpha
        A real or complex number.

    Returns
    -------
    graph : TaskGraph

    Raises
    ------
    ValueError, TypeError
        A number of tiles is negative, no integer, or makes more tasks than a graph can hold; another letter; no number
        for alpha.

    Examples
    --------
    >>> from tilewright import trsm_graph
    >>> g = trsm_graph(4, 2)
    >>> len(g), g.work(), g.critical_path().length
    (20, 96.0, 30.0)
    """
    return _checked_triangle("trsm", nt, beside, side, uplo, trans, diag, alpha)


@strict
def trmm_graph(
    nt: int, beside: int, side: str = "L", uplo: str = "L", trans: str = "N", diag: str = "N", *, alpha: complex = 1.0
) -> TaskGraph:
    """The task graph of B := alpha op(A) B, or alpha B op(A): see `trsm_graph`.

    Parameters
    ----------
    nt, beside
        Tile rows of A; tile columns of B, or rows for side "R".
    side, uplo, trans, diag
        Letters, as of `trsm`.
    alpha
        A real or complex number.

    Returns
    -------
    graph : TaskGraph

    Raises
    ------
    ValueError, TypeError
        A number of tiles is negative, no integer, or makes more tasks than a graph can hold; another letter; no number
        for alpha.

    Examples
    --------
    >>> from tilewright import trmm_graph
    >>> len(trmm_graph(4, 2, "R", "U"))
    20
    """
    return _checked_triangle("trmm", nt, beside, side, uplo, trans, diag, alpha)


@graph_builder("lauum nt={nt}", cache=8, extents=lambda nt: {"A": (nt, nt)})
def _lauum_graph(g: TaskGraph, nt: int) -> None:
    lower_gram(g, g.handles("A"), nt)


@strict
def lauum_graph(nt: int) -> TaskGraph:
    """The task graph of A := L^H L on the lower triangle of nt x nt tiles, handles ``A[i,j]``.

    nt (nt+1) (nt+2)/6 tasks, nt^3 units of nb^3/3 flops.

    Parameters
    ----------
    nt
        Tile rows, at least 0.

    Returns
    -------
    graph : TaskGraph

    Raises
    ------
    ValueError, TypeError
        nt is negative, no integer, or makes more tasks than a graph can hold.

    Examples
    --------
    >>> from tilewright import lauum_graph
    >>> g = lauum_graph(4)
    >>> len(g), g.work()
    (20, 64.0)
    """
    whole(nt, "nt")
    _tiles(nt * (nt + 1) * (nt + 2) // 6, nt=nt)
    return _lauum_graph(nt)


@graph_builder("potri nt={nt}", cache=8, extents=lambda nt: {"A": (nt, nt)})
def _potri_graph(g: TaskGraph, nt: int) -> None:
    poinverse(g, g.handles("A"), nt)


@strict
def potri_graph(nt: int) -> TaskGraph:
    """The task graph of A := (L L^H)^-1 on the lower triangle of nt x nt tiles: L^-1, then its `lauum_graph`, as one.

    nt (nt+1) (nt+2)/3 tasks, 2 nt^3 units of nb^3/3 flops.

    Parameters
    ----------
    nt
        Tile rows, at least 0.

    Returns
    -------
    graph : TaskGraph

    Raises
    ------
    ValueError, TypeError
        nt is negative, no integer, or makes more tasks than a graph can hold.

    Examples
    --------
    >>> from tilewright import potri_graph
    >>> g = potri_graph(4)
    >>> len(g), g.work()
    (40, 128.0)
    """
    whole(nt, "nt")
    _tiles(nt * (nt + 1) * (nt + 2) // 3, nt=nt)
    return _potri_graph(nt)
