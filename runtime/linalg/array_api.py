"""The linear algebra of the array API standard, on tiles: what is public as ``tw.linalg``.

Functions take arrays, tensors, tiled matrices and dask.arrays, matrices of them or stacks ``(..., m, n)``, and return
the same kind and, but for booleans and integers, the same dtype. Further keywords are ``tile_size``, ``backend``,
``scheduler``, ``workers`` and the options of the engine. Where nothing is multiplied, NumPy does the work.

NaN and infinities go their way, as in the standard; `tilewright.inv` and the like look for them.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack, overload

import numpy as np

from tilewright.arguments import dense, entered, is_chunked, is_tensor, like, numbers
from tilewright.linalg import stacks
from tilewright.linalg.evaluate import compute
from tilewright.linalg.expression import lazy
from tilewright.linalg.factor import tiled_cholesky
from tilewright.linalg.lu import Slogdet
from tilewright.linalg.stacks import matrix_transpose, too_few
from tilewright.scalars import flag, plain, whole
from tilewright.tiles import TiledMatrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tilewright.kinds import ArrayLike, C, K, Matrix, Options, T

__all__ = [
    "SlogdetResult",
    "cholesky",
    "cross",
    "det",
    "diagonal",
    "inv",
    "matmul",
    "matrix_norm",
    "matrix_power",
    "matrix_transpose",
    "outer",
    "slogdet",
    "solve",
    "tensordot",
    "trace",
    "vecdot",
    "vector_norm",
]


class SlogdetResult(NamedTuple):
    """det A = sign exp(logabsdet)."""

    sign: Any
    logabsdet: Any


def _floating(x: Any, what: str) -> Any:
    """x as it enters. TypeError for what the standard leaves out: booleans and integers."""
    x = entered(x, what) if x is not None and not isinstance(x, np.ndarray) else dense(x, what)
    dtype = str(x.dtype).removeprefix("torch.")
    if dtype not in ("float32", "float64", "complex64", "complex128"):
        raise TypeError(f"{what} must be float32, float64, complex64 or complex128, not {dtype}")
    return x


def _matrix(x: Any) -> bool:
    """Whether it is one matrix that may be elsewhere than in an array."""
    return isinstance(x, TiledMatrix) or is_chunked(x)


def _exact(*arrays: Any) -> bool:
    """Whether these are integers or booleans, whose products are exact."""
    return all(np.asarray(x).dtype.kind in "biu" for x in arrays if not _matrix(x)) and not any(map(_matrix, arrays))


def _array(x: Any, what: str) -> np.ndarray:
    """One as an array, whatever it is."""
    return x.to_numpy() if isinstance(x, TiledMatrix) else dense(x.compute() if is_chunked(x) else x, what)


def _axis(axis: Any, ndim: int, what: str = "axis") -> int:
    found = whole(axis, what)
    if not -ndim <= found < ndim:
        raise ValueError(f"{what} must be from {-ndim} to {ndim - 1}, not {found}")
    return found % ndim


# ------------------------------------------------------------------ products


@overload
def matmul(x1: K, x2: Matrix, /, **how: Unpack[Options]) -> K: ...
@overload
def matmul(x1: ArrayLike, x2: K, /, **how: Unpack[Options]) -> Any: ...
@overload
def matmul(x1: ArrayLike, x2: ArrayLike, /, **how: Unpack[Options]) -> np.ndarray: ...
def matmul(x1: Any, x2: Any, /, **how: Any) -> Any:
    """The product of matrices, vectors or stacks; of the wider dtype. Integers are multiplied exactly, by NumPy.

    Parameters
    ----------
    x1, x2 : (..., m, k), (..., k, n); also (k,)
    how
        Keywords of `tilewright.compute`.

    Raises
    ------
    ValueError
        Extents that do not fit, or an array without dimensions.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.linalg.matmul(np.ones((3, 2, 2)), np.eye(2)).shape
    (3, 2, 2)
    """
    if _exact(x1, x2):
        return like(np.asarray(np.matmul(_array(x1, "x1"), _array(x2, "x2"))), x1, x2)
    if _matrix(x1) or _matrix(x2):
        return compute(lazy(x1) @ lazy(x2), **how)
    return stacks.products(matmul, x1, x2, **how)


@overload
def outer(x1: T, x2: Matrix, /, **how: Unpack[Options]) -> T: ...
@overload
def outer(x1: Matrix, x2: T, /, **how: Unpack[Options]) -> T: ...
@overload
def outer(x1: Matrix, x2: Matrix, /, **how: Unpack[Options]) -> np.ndarray: ...
def outer(x1: Any, x2: Any, /, **how: Any) -> Any:
    """x1 x2^T of two vectors. ValueError for anything else.

    Parameters
    ----------
    x1, x2 : (m,), (n,)
    how
        Keywords of `tilewright.compute`.

    Raises
    ------
    ValueError
        Shapes or axes that do not fit.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.linalg.outer(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    array([[3., 4.],
           [6., 8.]])
    """
    a, b = dense(x1, "x1"), dense(x2, "x2")
    if a.ndim != 1 or b.ndim != 1:
        raise ValueError(f"outer takes two vectors, not shapes {a.shape} and {b.shape}")
    found = matmul(a[:, None], b[None, :], **how)
    return like(found, x1, x2)


@overload
def tensordot(x1: T, x2: Matrix, /, *, axes: int | Sequence[Sequence[int]] = 2, **how: Unpack[Options]) -> T: ...
@overload
def tensordot(x1: Matrix, x2: T, /, *, axes: int | Sequence[Sequence[int]] = 2, **how: Unpack[Options]) -> T: ...
@overload
def tensordot(
    x1: Matrix, x2: Matrix, /, *, axes: int | Sequence[Sequence[int]] = 2, **how: Unpack[Options]
) -> np.ndarray: ...
def tensordot(x1: Any, x2: Any, /, *, axes: Any = 2, **how: Any) -> Any:
    """The sum of products over axes: the last ``axes`` of x1 and the first of x2, or a pair of lists of axes.

    Parameters
    ----------
    x1, x2
        Arrays.
    axes
        How many, or a pair of lists.
    how
        Keywords of `tilewright.compute`.

    Raises
    ------
    ValueError
        Shapes or axes that do not fit.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.linalg.tensordot(np.ones((2, 3, 4)), np.ones((3, 4, 5)), axes=2).shape
    (2, 5)
    """
    a, b = _array(x1, "x1"), _array(x2, "x2")
    if isinstance(axes, tuple | list):
        if len(axes) != 2 or len(axes[0]) != len(axes[1]):
            raise ValueError(f"axes must be a number or a pair of lists of axes, equally many, not {axes!r}")
        left = [_axis(axis, a.ndim, "axes") for axis in axes[0]]
        right = [_axis(axis, b.ndim, "axes") for axis in axes[1]]
    else:
        count = whole(axes, "axes", 0)
        if count > min(a.ndim, b.ndim):
            raise ValueError(f"axes={count}, but the arrays have {a.ndim} and {b.ndim} dimensions")
        left, right = list(range(a.ndim - count, a.ndim)), list(range(count))
    if len({*left}) < len(left) or len({*right}) < len(right):
        raise ValueError(f"axes names an axis twice: {axes!r}")
    if [a.shape[k] for k in left] != [b.shape[k] for k in right]:
        raise ValueError(f"axes {axes!r} of shapes {a.shape} and {b.shape} have other extents")
    rows = [k for k in range(a.ndim) if k not in left]
    columns = [k for k in range(b.ndim) if k not in right]
    shape = [a.shape[k] for k in rows] + [b.shape[k] for k in columns]
    inner = int(np.prod([a.shape[k] for k in left], dtype=int))
    m, n = (int(np.prod([x.shape[k] for k in kept], dtype=int)) for x, kept in ((a, rows), (b, columns)))
    found = matmul(a.transpose(rows + left).reshape(m, inner), b.transpose(right + columns).reshape(inner, n), **how)
    return like(np.asarray(found).reshape(shape), x1, x2)


def vecdot(x1: Matrix, x2: Matrix, /, *, axis: int = -1, **how: Unpack[Options]) -> Any:
    """sum conj(x1) x2 along an axis of broadcast arrays.

    Parameters
    ----------
    x1, x2
        Arrays that are broadcast to each other.
    axis
        A negative one, counted from the end.
    how
        Keywords of `tilewright.compute`.

    Raises
    ------
    ValueError
        Shapes or axes that do not fit.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> complex(tw.linalg.vecdot(np.array([1j, 2.0]), np.array([1j, 1.0])))
    (3+0j)
    """
    a, b = _array(x1, "x1"), _array(x2, "x2")
    if not (a.ndim and b.ndim):
        raise ValueError("vecdot takes arrays of at least one dimension")
    if not -min(a.ndim, b.ndim) <= whole(axis, "axis") < 0:
        raise ValueError(f"axis must be from -{min(a.ndim, b.ndim)} to -1, not {axis}")
    a, b = np.moveaxis(a, axis, -1), np.moveaxis(b, axis, -1)
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"vecdot of vectors of {a.shape[-1]} and {b.shape[-1]} numbers")
    found = matmul(a.conj()[..., None, :], b[..., :, None], **how)
    return like(np.asarray(found)[..., 0, 0], x1, x2)


@overload
def matrix_power(x: K, n: int, /, **how: Unpack[Options]) -> K: ...
@overload
def matrix_power(x: ArrayLike, n: int, /, **how: Unpack[Options]) -> np.ndarray: ...
def matrix_power(x: Any, n: int, /, **how: Any) -> Any:
    """The n-th power of square matrices, by repeated squaring; of the inverse for n < 0, the identity for n = 0.

    Parameters
    ----------
    x : (..., n, n)
    n
        Any integer.
    how
        Keywords of `tilewright.compute`.

    Raises
    ------
    numpy.linalg.LinAlgError
        n is negative and a matrix is singular.
    TypeError, ValueError
        Another dtype than the four; a matrix that is not square.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.linalg.matrix_power(np.array([[1.0, 1.0], [0.0, 1.0]]), 5)
    array([[1., 5.],
           [0., 1.]])
    """
    n = whole(n, "n")
    x = _floating(x, "x")
    shape = tuple(x.shape) if hasattr(x, "shape") else np.shape(x)
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise ValueError(f"x must be square, (..., n, n), not of shape {shape}")
    if n == 0:
        identity = np.broadcast_to(np.eye(shape[-1], dtype=_array(x, "x").dtype), shape).copy()
        if isinstance(x, TiledMatrix):
            return TiledMatrix.view(identity, x.tile_size)
        if is_chunked(x):
            return sys.modules["dask.array"].from_array(identity, chunks=x.chunks)
        return like(identity, x)
    power, found = (inv(x, **how) if n < 0 else x), None
    n = abs(n)
    while n:
        if n % 2:
            found = power if found is None else matmul(found, power, **how)
        n //= 2
        power = matmul(power, power, **how) if n else power
    return found


@overload
def cross(x1: T, x2: Matrix, /, *, axis: int = -1) -> T: ...
@overload
def cross(x1: Matrix, x2: T, /, *, axis: int = -1) -> T: ...
@overload
def cross(x1: Matrix, x2: Matrix, /, *, axis: int = -1) -> np.ndarray: ...
def cross(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    """The cross product along an axis of three, of broadcast arrays; by NumPy.

    Parameters
    ----------
    x1, x2
        Arrays of which the axis has three numbers.
    axis
        Which one.

    Raises
    ------
    ValueError
        The axis has not three numbers.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.linalg.cross(np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0]))
    array([0., 0., 1.])
    """
    a, b = _array(x1, "x1"), _array(x2, "x2")
    if a.shape[_axis(axis, a.ndim)] != 3 or b.shape[_axis(axis, b.ndim)] != 3:
        raise ValueError(f"cross takes an axis of three numbers, not shapes {a.shape} and {b.shape}")
    return like(np.cross(a, b, axis=axis), x1, x2)


# ------------------------------------------------------------------ systems


@overload
def solve(x1: C, x2: Matrix, /, **how: Unpack[Options]) -> C: ...
@overload
def solve(x1: Matrix, x2: C, /, **how: Unpack[Options]) -> C: ...
@overload
def solve(x1: TiledMatrix, x2: Matrix, /, **how: Unpack[Options]) -> Any: ...
@overload
def solve(x1: ArrayLike, x2: ArrayLike, /, **how: Unpack[Options]) -> np.ndarray: ...
def solve(x1: Any, x2: Any, /, **how: Any) -> Any:
    """X with X1 X = X2, by LU with partial pivoting: X1 (..., n, n), X2 (n,) or (..., n, k), stacks broadcast.

    Parameters
    ----------
    x1, x2 : (..., n, n), (n,) or (..., n, k)
    how
        Keywords of `tilewright.compute`.

    Raises
    ------
    numpy.linalg.LinAlgError
        A matrix is singular: U has an exact zero on its diagonal.
    TypeError, ValueError
        Another dtype than the four; shapes that do not fit.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.linalg.solve(np.array([[2.0, 0.0], [1.0, 4.0]]), np.array([2.0, 9.0]))
    array([1., 2.])
    """
    x1 = _floating(x1, "x1")
    x2 = _floating(x2, "x2")
    if _matrix(x1) or _matrix(x2):
        return compute(lazy(x1).solve(x2), **how)
    return stacks.solutions(solve, x1, x2, **how)


@overload
def inv(x: K, /, **how: Unpack[Options]) -> K: ...
@overload
def inv(x: ArrayLike, /, **how: Unpack[Options]) -> np.ndarray: ...
def inv(x: Any, /, **how: Any) -> Any:
    """The inverse of each matrix of a stack (..., n, n). LinAlgError if one is singular.

    Parameters
    ----------
    x : (..., n, n)
        float32, float64, complex64 or complex128.
    how
        Keywords of `tilewright.inv`.

    Raises
    ------
    TypeError, ValueError
        Another dtype; a matrix that is not square.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.linalg.inv(np.array([[2.0, 0.0], [1.0, 4.0]]))
    array([[ 0.5  ,  0.   ],
           [-0.125,  0.25 ]])
    """
    x = _floating(x, "x")
    return compute(lazy(x).inv(), **how) if _matrix(x) else stacks.inverses(inv, x, **how)


def det(x: Matrix, /, **how: Unpack[Options]) -> Any:
    """The determinant of each matrix of a stack (..., n, n), of its dtype; 0 where it is singular.

    Parameters
    ----------
    x : (..., n, n)
        float32, float64, complex64 or complex128.
    how
        Keywords of `tilewright.det`.

    Raises
    ------
    TypeError, ValueError
        Another dtype; a matrix that is not square.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.linalg.det(np.array([[[2.0, 0.0], [1.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]]))
    array([8., 0.])
    """
    a = _floating(x, "x")
    found = stacks.determinants(det, _array(a, "x") if _matrix(a) else a, **how)
    dtype = np.dtype(str(a.dtype).removeprefix("torch.")) if hasattr(a, "dtype") else np.asarray(a).dtype
    with np.errstate(over="ignore"):
        return found.to(a.dtype) if is_tensor(found) else np.asarray(found).astype(dtype)[()]


def slogdet(x: Matrix, /, **how: Unpack[Options]) -> SlogdetResult:
    """(sign, logabsdet) of each matrix of a stack (..., n, n); (0, -inf) where it is singular.

    Parameters
    ----------
    x : (..., n, n)
        float32, float64, complex64 or complex128.
    how
        Keywords of `tilewright.slogdet`.

    Raises
    ------
    TypeError, ValueError
        Another dtype; a matrix that is not square.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> [float(value) for value in tw.linalg.slogdet(-np.eye(3))]
    [-1.0, 0.0]
    """
    x = _floating(x, "x")
    found: Slogdet = stacks.slogdets(slogdet, _array(x, "x") if _matrix(x) else x, **how)
    return SlogdetResult(*[value[()] if isinstance(value, np.ndarray) else value for value in found])


@overload
def cholesky(x: K, /, *, upper: bool = False, **how: Unpack[Options]) -> K: ...
@overload
def cholesky(x: ArrayLike, /, *, upper: bool = False, **how: Unpack[Options]) -> np.ndarray: ...
def cholesky(x: Any, /, *, upper: bool = False, **how: Any) -> Any:
    """L with A = L L^H of each matrix of a stack (..., n, n), or with ``upper`` U with A = U^H U.

    Parameters
    ----------
    x : (..., n, n)
    upper
        U in place of L.
    how
        Keywords of `tilewright.tiled_cholesky`.

    Raises
    ------
    numpy.linalg.LinAlgError
        A matrix is not positive definite.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.linalg.cholesky(np.array([[4.0, 2.0], [2.0, 5.0]]))
    array([[2., 0.],
           [1., 2.]])
    """
    upper = flag(upper, "upper")
    x = _floating(x, "x")
    if _matrix(x) or len(x.shape) == 2:
        return tiled_cholesky(x, lower=not upper, check_finite=False, **how)
    return stacks.cholesky(cholesky, x, upper, **how)


# ------------------------------------------------------------------ parts and sizes


@overload
def diagonal(x: T, /, *, offset: int = 0) -> T: ...
@overload
def diagonal(x: Matrix, /, *, offset: int = 0) -> np.ndarray: ...
def diagonal(x: Any, /, *, offset: int = 0) -> Any:
    """The diagonal of each matrix of a stack; a view where that is possible.

    Parameters
    ----------
    x : (..., m, n)
    offset
        Which diagonal; above the main one where it is positive.

    Raises
    ------
    ValueError
        x has fewer than two dimensions.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.linalg.diagonal(np.array([[1.0, 2.0], [3.0, 4.0]]))
    array([1., 4.])
    """
    if is_tensor(x):
        return x.diagonal(whole(offset, "offset"), -2, -1)
    array = _array(x, "x")
    return array.diagonal(whole(offset, "offset"), -2, -1) if array.ndim > 1 else too_few(array)


def trace(x: Matrix, /, *, offset: int = 0, dtype: Any = None) -> Any:
    """The sum of the diagonal of each matrix of a stack; small integers are summed in the largest of their kind.

    Parameters
    ----------
    x : (..., m, n)
    offset
        Which diagonal.
    dtype
        That of the sum.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> float(tw.linalg.trace(np.diag([1.0, 2.0, 3.0])))
    6.0
    """
    found = np.asarray(diagonal(_array(x, "x"), offset=offset)).sum(axis=-1, dtype=dtype)
    return like(np.asarray(found), x) if is_tensor(x) else found


def matrix_norm(x: Matrix, /, *, keepdims: bool = False, ord: float | str = "fro", **how: Unpack[Options]) -> Any:
    """The norm of each matrix of a stack (..., m, n), in the real dtype of x.

    Parameters
    ----------
    x
    keepdims
        Keep the last two dimensions, of extent one.
    ord
        ``"fro"``, 1, -1, `numpy.inf`, ``-numpy.inf``; 2, -2 and ``"nuc"`` are NumPy's.
    how
        Keywords of `tilewright.norm`.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.linalg.matrix_norm(np.array([[[3.0, 4.0]], [[0.0, 2.0]]]))
    array([5., 2.])
    """
    keepdims = flag(keepdims, "keepdims")
    x = _floating(x, "x")
    if _matrix(x):
        found = np.asarray(lazy(x).norm(ord, **how))
        return found.reshape(1, 1) if keepdims else found[()]
    array = numbers(x, "x")
    if array.ndim < 2:
        too_few(array)
    if array.ndim == 2 and array.size:
        size = np.asarray(lazy(array).norm(ord, **how))
    else:
        size = np.asarray(_norms(array, ord))
    size = size.astype(array.real.dtype).reshape((*array.shape[:-2], *[1, 1] * keepdims))
    return like(size, x) if is_tensor(x) else size[()]


def _norms(array: np.ndarray, ord: Any) -> Any:
    from tilewright.linalg.norm_parts import check_order

    check_order(ord, "ord")
    return np.linalg.norm(array, ord=ord, axis=(-2, -1))


def vector_norm(
    x: Matrix, /, *, axis: int | Sequence[int] | None = None, keepdims: bool = False, ord: float = 2
) -> Any:
    """The norm of vectors along an axis, or several, or of all numbers; in the real dtype of x; by NumPy.

    The 2-norm neither overflows nor underflows on the way.

    Parameters
    ----------
    x
        float32, float64, complex64 or complex128.
    axis
        One, several, or None for all numbers.
    keepdims
        Keep these dimensions, of extent one.
    ord
        A number.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> bool(tw.linalg.vector_norm(np.array([3 * 2.0**600, 4 * 2.0**600])) == 5 * 2.0**600)
    True
    """
    keepdims = flag(keepdims, "keepdims")
    x = _floating(x, "x")
    array = _array(x, "x")
    axes = tuple(range(array.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    axes = tuple(_axis(one, array.ndim) for one in axes)
    kept = tuple(k for k in range(array.ndim) if k not in axes)
    shape = tuple(array.shape[k] for k in kept)
    flat = array.transpose(kept + axes).reshape(*shape, int(np.prod([array.shape[k] for k in axes], dtype=int)))
    ord = plain(ord)
    if not isinstance(ord, int | float) or isinstance(ord, bool):
        raise TypeError(f"ord must be a number, not {ord!r}")
    scale = np.abs(flat).max(axis=-1, initial=0.0, keepdims=True) if ord == 2 else np.ones((*shape, 1))
    scale = np.where((scale > 0) & np.isfinite(scale), scale, 1)
    with np.errstate(all="ignore"):
        scale = np.exp2(np.floor(np.log2(scale))).astype(array.real.dtype)  # a power of two changes no digit
        size = np.asarray(np.linalg.norm(flat / scale if ord == 2 else flat, ord=ord, axis=-1)) * scale[..., 0]
    size = size.astype(array.real.dtype)
    if keepdims:
        size = size.reshape([1 if k in axes else array.shape[k] for k in range(array.ndim)])
    return like(np.asarray(size), x) if is_tensor(x) else size[()]
