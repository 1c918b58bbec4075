"""gemm, syrk, herk, trmm, trsm, lauum, potri: BLAS and LAPACK by their names, on tiles and every engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import numpy as np

from tilewright.linalg.call import Call
from tilewright.linalg.evaluate import Wanted, evaluate
from tilewright.linalg.expression import Leaf, ProgramBuilder, Sum, Transposed
from tilewright.linalg.level3 import letter, lower_gram, poinverse, scalar
from tilewright.linalg.matrix import factor_dtype
from tilewright.linalg.program import Ref
from tilewright.linalg.triangle import on_triangle
from tilewright.linalg.tuning import cholesky_tile_size
from tilewright.runs.progress import ProgressOption
from tilewright.scalars import flag
from tilewright.schedulers import Policy

if TYPE_CHECKING:
    from tilewright.kinds import (
        ArrayLike,
        GemmOptions,
        HerkOptions,
        K,
        Matrix,
        SyrkOptions,
        TriangleOptions,
        TriangularOptions,
    )
    from tilewright.runs.run import Run

__all__ = ["gemm", "herk", "lauum", "potri", "syrk", "trmm", "trsm"]


@overload
def gemm(
    a: K, b: Matrix, c: Matrix | None = None, *, return_run: Literal[False] = False, **options: Unpack[GemmOptions]
) -> K: ...
@overload
def gemm(
    a: K, b: Matrix, c: Matrix | None = None, *, return_run: Literal[True], **options: Unpack[GemmOptions]
) -> tuple[K, Run]: ...
@overload
def gemm(
    a: ArrayLike,
    b: Matrix,
    c: Matrix | None = None,
    *,
    return_run: Literal[False] = False,
    **options: Unpack[GemmOptions],
) -> np.ndarray: ...
@overload
def gemm(
    a: ArrayLike, b: Matrix, c: Matrix | None = None, *, return_run: Literal[True], **options: Unpack[GemmOptions]
) -> tuple[np.ndarray, Run]: ...
def gemm(
    a: Any,
    b: Any,
    c: Any = None,
    *,
    alpha: complex = 1.0,
    beta: complex = 0.0,
    trans_a: str = "N",
    trans_b: str = "N",
    overwrite_c: bool = False,
    tile_size: int | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    return_run: bool = False,
    progress: ProgressOption = False,
    **options: Any,
) -> Any:
    """alpha op(A) op(B) + beta C [1]_.

    Parameters
    ----------
    a, b, c : array_like, torch tensor, TiledMatrix or dask.array
        op(A) is (m, k), op(B) (k, n), C (m, n). float32, float64, complex64 or complex128, the widest of which counts;
        integers become float64. With beta = 0 C is not read.
    alpha, beta
        Real or complex numbers.
    trans_a, trans_b
        ``"N"``, ``"T"`` or ``"C"``: the matrix, its transpose, its conjugate transpose.
    overwrite_c
        Let the result take the place of C.
    tile_size
        Rows and columns of a tile: by default that of a tiled matrix, or by a rule.
    backend, scheduler, workers, options
        See `tilewright.run`. A dask.array is worked with by ``dask`` unless another backend is named.
    return_run
        Also return the `Run`.
    progress
        Draw a progress bar on standard error; ``"page"`` or a function as in `tilewright.run`.

    Returns
    -------
    result
        (m, n), in the kind of A.
    run : Run
        Only with ``return_run``.

    Raises
    ------
    ValueError
        Shapes that do not fit; beta without C; another letter.
    TypeError
        A dtype that is none of LAPACK's four and no integer; no number for alpha or beta.

    Notes
    -----
    2 m n k flops, four times that for complex numbers. NaN and infinities are not looked for.

    References
    ----------
    .. [1] BLAS ?gemm.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.gemm(np.array([[1.0, 2.0], [3.0, 4.0]]), np.eye(2), alpha=2, trans_a="T")
    array([[2., 6.],
           [4., 8.]])
    """
    trans_a, trans_b = letter(trans_a, "trans_a", "NTC"), letter(trans_b, "trans_b", "NTC")
    alpha, beta, overwrite = scalar(alpha, "alpha"), scalar(beta, "beta"), flag(overwrite_c, "overwrite_c")
    call = Call(
        gemm,
        a,
        options,
        backend=backend,
        scheduler=scheduler,
        workers=workers,
        progress=progress,
        return_run=return_run,
        chunks=True,
    )
    A, B, C = _leaves(call, ("a", call.a), ("b", b), ("c", c))
    if A is None or B is None:
        raise TypeError(f"the matrix {'a' if A is None else 'b'} is None")
    _check_c(C, beta, overwrite)
    left, right = Transposed.of(A, trans_a), Transposed.of(B, trans_b)
    if A.vector or left.extent[1] != right.extent[0]:
        raise ValueError(f"op(A) of shape {left.shape} and op(B) of shape {right.shape} do not fit a product")
    product = left @ right
    _check_result(C, product.extent)
    whole: Any = Sum([(alpha, product), *[(beta, C)] * (C is not None and beta != 0)])  # type: ignore[list-item]
    into = C if overwrite else None
    dtype = whole.dtype if into is None else _holds(into, whole.dtype)
    results = [Wanted(whole.extent, dtype, "C", whole.vector, into)]
    found = evaluate(
        call,
        [leaf for leaf in (A, B, C) if leaf is not None and (leaf is not C or beta or overwrite)],
        results,
        lambda build, places: build.assign(whole, places[0]),
        tile_size,
        "gemm",
    )
    return call.result(*found)


@overload
def syrk(a: K, c: Matrix | None = None, *, return_run: Literal[False] = False, **options: Unpack[SyrkOptions]) -> K: ...
@overload
def syrk(
    a: K, c: Matrix | None = None, *, return_run: Literal[True], **options: Unpack[SyrkOptions]
) -> tuple[K, Run]: ...
@overload
def syrk(
    a: ArrayLike, c: Matrix | None = None, *, return_run: Literal[False] = False, **options: Unpack[SyrkOptions]
) -> np.ndarray: ...
@overload
def syrk(
    a: ArrayLike, c: Matrix | None = None, *, return_run: Literal[True], **options: Unpack[SyrkOptions]
) -> tuple[np.ndarray, Run]: ...
def syrk(
    a: Any,
    c: Any = None,
    *,
    uplo: str = "L",
    trans: str = "N",
    alpha: complex = 1.0,
    beta: complex = 0.0,
    overwrite_c: bool = False,
    tile_size: int | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    return_run: bool = False,
    progress: ProgressOption = False,
    **options: Any,
) -> Any:
    """The triangle ``uplo`` of alpha A A^T + beta C, or of alpha A^T A + beta C with ``trans="T"`` [1]_.

    C is symmetric. Only that triangle of it is read and changed: the other one is that of C, or zero without C.
    k n (n+1) flops for A of (n, k). Other parameters and errors as of `gemm`.

    Parameters
    ----------
    a : (n, k) array_like, torch tensor, TiledMatrix or dask.array
        (k, n) with ``trans="T"``.
    c : (n, n), optional
        Needed where beta is not 0.
    uplo
        ``"L"`` or ``"U"``.
    trans
        ``"N"`` or ``"T"``.
    alpha, beta, overwrite_c, tile_size, backend, scheduler, workers, return_run, progress, options
        See `gemm`.

    Returns
    -------
    result
        An array of the shape of C, in the kind of A.
    run : Run
        Only with ``return_run``.

    Raises
    ------
    ValueError, TypeError
        As of `gemm`.

    References
    ----------
    .. [1] BLAS ?syrk.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.syrk(np.array([[1.0, 2.0], [3.0, 4.0]]))
    array([[ 5.,  0.],
           [11., 25.]])
    """
    call = Call(
        syrk,
        a,
        options,
        backend=backend,
        scheduler=scheduler,
        workers=workers,
        progress=progress,
        return_run=return_run,
        chunks=True,
    )
    return _rank_k(call, c, uplo, letter(trans, "trans", "NT"), False, alpha, beta, overwrite_c, tile_size)


@overload
def herk(a: K, c: Matrix | None = None, *, return_run: Literal[False] = False, **options: Unpack[HerkOptions]) -> K: ...
@overload
def herk(
    a: K, c: Matrix | None = None, *, return_run: Literal[True], **options: Unpack[HerkOptions]
) -> tuple[K, Run]: ...
@overload
def herk(
    a: ArrayLike, c: Matrix | None = None, *, return_run: Literal[False] = False, **options: Unpack[HerkOptions]
) -> np.ndarray: ...
@overload
def herk(
    a: ArrayLike, c: Matrix | None = None, *, return_run: Literal[True], **options: Unpack[HerkOptions]
) -> tuple[np.ndarray, Run]: ...
def herk(
    a: Any,
    c: Any = None,
    *,
    uplo: str = "L",
    trans: str = "N",
    alpha: float = 1.0,
    beta: float = 0.0,
    overwrite_c: bool = False,
    tile_size: int | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    return_run: bool = False,
    progress: ProgressOption = False,
    **options: Any,
) -> Any:
    """The triangle ``uplo`` of alpha A A^H + beta C, or of alpha A^H A + beta C with ``trans="C"`` [1]_.

    C is Hermitian, alpha and beta are real. See `syrk`, which it is for real matrices.

    Parameters
    ----------
    a : (n, k) array_like, torch tensor, TiledMatrix or dask.array
        (k, n) with ``trans="C"``.
    c : (n, n), optional
        Needed where beta is not 0.
    uplo
        ``"L"`` or ``"U"``.
    trans
        ``"N"`` or ``"C"``.
    alpha, beta, overwrite_c, tile_size, backend, scheduler, workers, return_run, progress, options
        See `gemm`.

    Returns
    -------
    result
        An array of the shape of C, in the kind of A.
    run : Run
        Only with ``return_run``.

    Raises
    ------
    ValueError, TypeError
        As of `gemm`; alpha or beta is not real.

    References
    ----------
    .. [1] BLAS ?herk.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.herk(np.array([[1j, 2.0]]))
    array([[5.+0.j]])
    """
    for name, value in (("alpha", alpha), ("beta", beta)):
        if isinstance(scalar(value, name), complex):
            raise TypeError(f"{name} of a Hermitian matrix must be real, not {value!r}")
    call = Call(
        herk,
        a,
        options,
        backend=backend,
        scheduler=scheduler,
        workers=workers,
        progress=progress,
        return_run=return_run,
        chunks=True,
    )
    return _rank_k(call, c, uplo, letter(trans, "trans", "NC"), True, alpha, beta, overwrite_c, tile_size)


def _rank_k(
    call: Call,
    c: Any,
    uplo: Any,
    trans: str,
    hermitian: bool,
    alpha: Any,
    beta: Any,
    overwrite: Any,
    tile_size: int | None,
) -> Any:
    uplo, overwrite = letter(uplo, "uplo", "LU"), flag(overwrite, "overwrite_c")
    alpha, beta = scalar(alpha, "alpha"), scalar(beta, "beta")
    A, C = _leaves(call, ("a", call.a), ("c", c))
    if A is None:
        raise TypeError("the matrix a is None")
    _check_c(C, beta, overwrite)
    if A.vector:
        raise ValueError(f"a must be a matrix, not of shape {A.shape}")
    n = A.extent[0 if trans == "N" else 1]
    _check_result(C, (n, n))
    weights = [1j] * (isinstance(alpha, complex) or isinstance(beta, complex))
    dtype = factor_dtype(np.result_type(A.dtype, *([] if C is None else [C.dtype]), *weights))
    into = C if overwrite else None
    dtype = dtype if into is None else _holds(into, dtype)

    def build(b: ProgramBuilder, places: list[int]) -> None:
        place = places[0]
        known = C is not None and b.is_value(C, place)
        of = b.operand(A, dtype)
        if b.is_value(A, place):  # it is overwritten while it is read
            made = b.room(A.extent, dtype)
            b.step("add", (of, Ref(made)), 1.0, 0.0)
            of = Ref(made)
        if C is None:
            b.step("clear", (Ref(place),))
        elif not known:
            b.step("add", (b.operand(C, dtype), Ref(place)), 1.0, 0.0)
        flagged = Ref(of.value, "N" if trans == "N" else "C" if hermitian else "T")
        b.step("rankk", (flagged, Ref(place)), uplo, hermitian, alpha, beta, False)

    leaves = [A] if C is None else [A, C]
    found = evaluate(
        call, leaves, [Wanted((n, n), dtype, into=into)], build, tile_size, "herk" if hermitian else "syrk"
    )
    return call.result(*found)


@overload
def trsm(a: K, b: Matrix, *, return_run: Literal[False] = False, **options: Unpack[TriangularOptions]) -> K: ...
@overload
def trsm(a: K, b: Matrix, *, return_run: Literal[True], **options: Unpack[TriangularOptions]) -> tuple[K, Run]: ...
@overload
def trsm(
    a: ArrayLike, b: Matrix, *, return_run: Literal[False] = False, **options: Unpack[TriangularOptions]
) -> np.ndarray: ...
@overload
def trsm(
    a: ArrayLike, b: Matrix, *, return_run: Literal[True], **options: Unpack[TriangularOptions]
) -> tuple[np.ndarray, Run]: ...
def trsm(
    a: Any,
    b: Any,
    *,
    side: str = "L",
    uplo: str = "L",
    trans: str = "N",
    diag: str = "N",
    alpha: complex = 1.0,
    overwrite_b: bool = False,
    tile_size: int | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    return_run: bool = False,
    progress: ProgressOption = False,
    **options: Any,
) -> Any:
    """X with op(A) X = alpha B, or X op(A) = alpha B for ``side="R"``, A triangular [1]_.

    Parameters
    ----------
    a : (n, n) array_like, torch tensor, TiledMatrix or dask.array
        Only the triangle ``uplo``, ``"L"`` or ``"U"``, is referenced, and with ``diag="U"`` not its diagonal, which
        counts as ones. A zero there divides, as in BLAS.
    b : (n, k), or (k, n) for side "R"; also (n,)
    trans
        ``"N"``, ``"T"`` or ``"C"``: op(A) is A, A^T or A^H.
    overwrite_b
        Let X take the place of B.
    alpha, tile_size, backend, scheduler, workers, return_run, progress, options
        See `gemm`.
    side, uplo, diag
        ``"L"`` or ``"R"``; ``"L"`` or ``"U"``; ``"N"``, or ``"U"`` for a unit diagonal.

    Returns
    -------
    X
        In the shape of B and the kind of A.
    run : Run
        Only with ``return_run``.

    Raises
    ------
    ValueError, TypeError
        As of `gemm`.

    Notes
    -----
    n^2 k flops.

    References
    ----------
    .. [1] BLAS ?trsm.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.trsm(np.array([[2.0, 0.0], [1.0, 4.0]]), np.array([2.0, 9.0]))
    array([1., 2.])
    """
    call = Call(
        trsm,
        a,
        options,
        backend=backend,
        scheduler=scheduler,
        workers=workers,
        progress=progress,
        return_run=return_run,
        chunks=True,
    )
    return _triangular(call, "trsm", b, side, uplo, trans, diag, alpha, overwrite_b, tile_size)


@overload
def trmm(a: K, b: Matrix, *, return_run: Literal[False] = False, **options: Unpack[TriangularOptions]) -> K: ...
@overload
def trmm(a: K, b: Matrix, *, return_run: Literal[True], **options: Unpack[TriangularOptions]) -> tuple[K, Run]: ...
@overload
def trmm(
    a: ArrayLike, b: Matrix, *, return_run: Literal[False] = False, **options: Unpack[TriangularOptions]
) -> np.ndarray: ...
@overload
def trmm(
    a: ArrayLike, b: Matrix, *, return_run: Literal[True], **options: Unpack[TriangularOptions]
) -> tuple[np.ndarray, Run]: ...
def trmm(
    a: Any,
    b: Any,
    *,
    side: str = "L",
    uplo: str = "L",
    trans: str = "N",
    diag: str = "N",
    alpha: complex = 1.0,
    overwrite_b: bool = False,
    tile_size: int | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    return_run: bool = False,
    progress: ProgressOption = False,
    **options: Any,
) -> Any:
    """alpha op(A) B, or alpha B op(A) for ``side="R"``, A triangular [1]_. Parameters and errors as of `trsm`.

    Parameters
    ----------
    a : (n, n) array_like, torch tensor, TiledMatrix or dask.array
        Only the triangle ``uplo`` is read, and with ``diag="U"`` not its diagonal, which counts as ones.
    b : (n, k), or (k, n) for side "R"; also (n,)
    side, uplo, trans, diag, alpha, overwrite_b
        As of `trsm`.
    tile_size, backend, scheduler, workers, return_run, progress, options
        See `gemm`.

    Returns
    -------
    product
        In the shape of B and the kind of A.
    run : Run
        Only with ``return_run``.

    Raises
    ------
    ValueError, TypeError
        As of `gemm`.

    References
    ----------
    .. [1] BLAS ?trmm.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.trmm(np.array([[2.0, 7.0], [1.0, 4.0]]), np.array([1.0, 2.0]))
    array([2., 9.])
    """
    call = Call(
        trmm,
        a,
        options,
        backend=backend,
        scheduler=scheduler,
        workers=workers,
        progress=progress,
        return_run=return_run,
        chunks=True,
    )
    return _triangular(call, "trmm", b, side, uplo, trans, diag, alpha, overwrite_b, tile_size)


def _triangular(
    call: Call,
    step: str,
    b: Any,
    side: Any,
    uplo: Any,
    trans: Any,
    diag: Any,
    alpha: Any,
    overwrite: Any,
    tile_size: int | None,
) -> Any:
    side, uplo = letter(side, "side", "LR"), letter(uplo, "uplo", "LU")
    trans, diag = letter(trans, "trans", "NTC"), letter(diag, "diag", "NU")
    alpha, overwrite = scalar(alpha, "alpha"), flag(overwrite, "overwrite_b")
    A, B = _leaves(call, ("a", call.a), ("b", b), option="overwrite_b")
    if A is None or B is None:
        raise TypeError(f"the matrix {'a' if A is None else 'b'} is None")
    n = A.extent[0]
    if A.extent != (n, n) or A.vector:
        raise ValueError(f"the matrix a must be square, not of shape {A.shape}")
    if B.vector and side == "R":
        raise ValueError("b must be a matrix for side 'R', not a vector")
    if B.extent[0 if side == "L" else 1] != n:
        raise ValueError(
            f"b has {B.extent[0 if side == 'L' else 1]} {'rows' if side == 'L' else 'columns'}, "
            f"but the matrix a is of order {n}"
        )
    weights = [1j] * isinstance(alpha, complex)
    dtype = factor_dtype(np.result_type(A.dtype, B.dtype, *weights))
    if overwrite and B.vector:
        raise ValueError("overwrite_b=True, but b is a vector; pass it as one column, b.reshape(n, 1)")
    into = B if overwrite else None
    dtype = dtype if into is None else _holds(into, dtype)

    def build(b: ProgramBuilder, places: list[int]) -> None:
        place = places[0]
        of = b.operand(A, dtype)
        if b.is_value(A, place):
            made = b.room(A.extent, dtype)
            b.step("add", (of, Ref(made)), 1.0, 0.0)
            of = Ref(made)
        if not b.is_value(B, place):
            b.step("add", (b.operand(B, dtype), Ref(place)), 1.0, 0.0)
        b.step(step, (Ref(of.value, trans), Ref(place)), side, uplo, diag, alpha)

    result = Wanted(B.extent, dtype, vector=B.vector, into=into)
    found = evaluate(call, [A, B], [result], build, tile_size, step)
    return call.result(*found)


def _leaves(call: Call, *named: tuple[str, Any], option: str = "overwrite_c") -> list[Leaf | None]:
    """The arguments of a call, of which the first has been taken by it, as leaves."""
    found: list[Leaf | None] = []
    for place, (name, value) in enumerate(named):
        value = call.argument(value) if place else value
        found.append(None if value is None else Leaf(value, what=f"the matrix {name}", option=option))
    return found


def _check_c(C: Leaf | None, beta: complex, overwrite: bool) -> None:
    if C is None and (beta or overwrite):
        raise ValueError(f"{'beta' if beta else 'overwrite_c'} is for a matrix c, and there is none")


def _check_result(C: Leaf | None, extent: tuple[int, int]) -> None:
    if C is not None and (C.extent != extent or C.vector):
        raise ValueError(f"the matrix c must be {extent[0]} x {extent[1]}, not of shape {C.shape}")


def _holds(into: Leaf, dtype: np.dtype) -> np.dtype:
    """The dtype of a matrix that is overwritten."""
    if not np.can_cast(dtype, into.dtype, "same_kind"):
        raise TypeError(f"{into.option}=True, but {into.what} of {into.dtype} cannot hold numbers of {dtype}")
    return into.dtype


@overload
def lauum(a: K, *, return_run: Literal[False] = False, **options: Unpack[TriangleOptions]) -> K: ...
@overload
def lauum(a: K, *, return_run: Literal[True], **options: Unpack[TriangleOptions]) -> tuple[K, Run]: ...
@overload
def lauum(a: ArrayLike, *, return_run: Literal[False] = False, **options: Unpack[TriangleOptions]) -> np.ndarray: ...
@overload
def lauum(a: ArrayLike, *, return_run: Literal[True], **options: Unpack[TriangleOptions]) -> tuple[np.ndarray, Run]: ...
def lauum(
    a: Any,
    *,
    uplo: str = "L",
    tile_size: int | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    overwrite_a: bool = False,
    check_finite: bool = True,
    return_run: bool = False,
    progress: ProgressOption = False,
    **options: Any,
) -> Any:
    """The lower triangle of L^H L with the lower triangle L of A, or the upper one of U U^H with ``uplo="U"`` [1]_.

    The other triangle of A is not referenced, that of the result is zero. n^3/3 flops. Other parameters, results and
    errors as of `tri_inverse`.

    Parameters
    ----------
    a : (n, n) array_like, torch tensor, TiledMatrix or dask.array
        Its triangle ``uplo``, ``"L"`` or ``"U"``, is read.
    uplo, overwrite_a
        Which triangle; let the result take the place of A.
    tile_size, backend, scheduler, workers, check_finite, return_run, progress, options
        See `tri_inverse`.

    Returns
    -------
    triangle
        (n, n), in the kind of A; the other triangle is zero.
    run : Run
        Only with ``return_run``.

    Raises
    ------
    ValueError, TypeError
        As of `tri_inverse`.

    References
    ----------
    .. [1] LAPACK ?lauum.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.lauum(np.array([[2.0, 0.0], [1.0, 3.0]]))
    array([[5., 0.],
           [3., 9.]])
    """
    call = Call(
        lauum,
        a,
        options,
        backend=backend,
        scheduler=scheduler,
        workers=workers,
        progress=progress,
        return_run=return_run,
        chunks=True,
    )
    return _of_triangle(call, lower_gram, uplo, overwrite_a, check_finite, tile_size, False)


@overload
def potri(a: K, *, return_run: Literal[False] = False, **options: Unpack[TriangleOptions]) -> K: ...
@overload
def potri(a: K, *, return_run: Literal[True], **options: Unpack[TriangleOptions]) -> tuple[K, Run]: ...
@overload
def potri(a: ArrayLike, *, return_run: Literal[False] = False, **options: Unpack[TriangleOptions]) -> np.ndarray: ...
@overload
def potri(a: ArrayLike, *, return_run: Literal[True], **options: Unpack[TriangleOptions]) -> tuple[np.ndarray, Run]: ...
def potri(
    a: Any,
    *,
    uplo: str = "L",
    tile_size: int | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    overwrite_a: bool = False,
    check_finite: bool = True,
    return_run: bool = False,
    progress: ProgressOption = False,
    **options: Any,
) -> Any:
    """A triangle of the inverse of a positive definite matrix from that of its Cholesky factor [1]_.

    ``a`` has L of L L^H in its lower triangle, or with ``uplo="U"`` U of U^H U in its upper one. The inverse of the
    factor and its product with itself are one graph. 2/3 n^3 flops. `cho_inverse` gives both triangles. Other
    parameters, results and errors as of `tri_inverse`.

    Parameters
    ----------
    a : (n, n) array_like, torch tensor, TiledMatrix or dask.array
        Its triangle ``uplo``, ``"L"`` or ``"U"``, is read.
    uplo, overwrite_a
        Which triangle; let the result take the place of A.
    tile_size, backend, scheduler, workers, check_finite, return_run, progress, options
        See `tri_inverse`.

    Returns
    -------
    triangle
        (n, n), in the kind of A; the other triangle is zero.
    run : Run
        Only with ``return_run``.

    Raises
    ------
    ValueError, TypeError
        As of `tri_inverse`.

    References
    ----------
    .. [1] LAPACK ?potri.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> 16 * tw.potri(tw.tiled_cholesky(np.array([[4.0, 2.0], [2.0, 5.0]])))
    array([[ 5.,  0.],
           [-2.,  4.]])
    """
    call = Call(
        potri,
        a,
        options,
        backend=backend,
        scheduler=scheduler,
        workers=workers,
        progress=progress,
        return_run=return_run,
        chunks=True,
    )
    return _of_triangle(call, poinverse, uplo, overwrite_a, check_finite, tile_size, True)


def _of_triangle(
    call: Call, loop: Any, uplo: Any, overwrite: Any, check_finite: Any, tile_size: int | None, regular: bool
) -> Any:
    lower = letter(uplo, "uplo", "LU") == "L"
    overwrite, check_finite = flag(overwrite, "overwrite_a"), flag(check_finite, "check_finite")
    return on_triangle(
        call,
        loop,
        lower=lower,
        overwrite=overwrite,
        tile_size=tile_size,
        rule=cholesky_tile_size,
        check_finite=check_finite,
        check="before",
        width=lambda nt: nt * (nt + 1) // 2,
        first=(lambda matrix: matrix.check_diagonal("the factor a")) if regular else None,
    )
