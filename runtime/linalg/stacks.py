"""Stacks of matrices, (..., m, n): products, solutions, inverses, determinants, factors, all of a stack in one graph.

Matrices of more than ``SMALL`` rows are cut into tiles as single ones are. Of small ones a task takes a slice of the
stack, on which NumPy works: a task for each would cost a thousand times its arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import numpy as np

from tilewright.arguments import dense, is_chunked, is_tensor, like, numbers
from tilewright.graph import Op, R, TaskGraph, W
from tilewright.kernels import table
from tilewright.linalg import inverse
from tilewright.linalg.call import Call
from tilewright.linalg.evaluate import Wanted, evaluate
from tilewright.linalg.expression import Inverse, Leaf, Product, ProgramBuilder, Solution
from tilewright.linalg.lu import LUFactor, Slogdet, handed_on, lu_factor
from tilewright.linalg.program import Ref
from tilewright.scalars import flag
from tilewright.tiles import TiledMatrix

if TYPE_CHECKING:
    from tilewright.kinds import ArrayLike, K

__all__ = [
    "SMALL",
    "cholesky",
    "det",
    "determinants",
    "inv",
    "inverses",
    "is_stack",
    "matrix_transpose",
    "products",
    "slogdet",
    "slogdets",
    "solutions",
    "too_few",
]

F = TypeVar("F", bound=Callable[..., Any])

SMALL = 64
"""Rows up to which NumPy works on slices of a stack."""

_SLICES = 4  # for each worker


def is_stack(a: Any) -> bool:
    """Whether it is an array of more than two dimensions."""
    if isinstance(a, list | tuple):
        try:
            return np.ndim(a) > 2
        except ValueError:  # rows of several lengths
            return False
    shape = getattr(a, "shape", ())
    return isinstance(shape, tuple) and len(shape) > 2


@overload
def matrix_transpose(x: K, /) -> K: ...
@overload
def matrix_transpose(x: ArrayLike, /) -> np.ndarray: ...
def matrix_transpose(x: Any, /) -> Any:
    """The transpose of each matrix of a stack, a view. ValueError for fewer than two dimensions.

    Parameters
    ----------
    x : (..., m, n)

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> tw.linalg.matrix_transpose(np.ones((4, 3, 2))).shape
    (4, 2, 3)
    """
    if isinstance(x, TiledMatrix) or is_chunked(x):
        return x.T
    if is_tensor(x):
        return x.mT if x.ndim > 1 else too_few(x)
    array = dense(x, "x")
    return array.swapaxes(-1, -2) if array.ndim > 1 else too_few(array)


def too_few(x: Any) -> Any:
    raise ValueError(f"x must have at least two dimensions, not shape {tuple(x.shape)}")


class _Stacked:
    """The frame of a call on stacks: arguments as arrays, an engine, a result in kind."""

    def __init__(self, routine: Any, a: Any, others: Sequence[Any], how: dict[str, Any]) -> None:
        how = dict(how)
        self.tile_size = how.pop("tile_size", None)
        plan = {
            name: how.pop(name) for name in ("backend", "scheduler", "workers", "progress", "return_run") if name in how
        }
        self.call = Call(routine, a, how, **plan)
        self.given = self.call.a, *map(self.call.argument, others)
        self.name = routine.__name__

    def run(
        self,
        shape: tuple[int, ...],
        dtype: Any,
        small: bool,
        inputs: Sequence[np.ndarray],
        numpy: Callable[..., Any],
        nodes: Callable[..., Any],
    ) -> np.ndarray:
        """An array (count, ...) of the results for ``inputs``, each (count, ...)."""
        out = np.empty(shape, dtype)
        if not out.size:
            return out
        if small:
            self._in_slices(numpy, inputs, out)
        else:
            self._in_tiles(nodes, inputs, out)
        return out

    def _in_slices(self, numpy: Callable[..., Any], inputs: Sequence[np.ndarray], out: np.ndarray) -> None:
        count = len(out)
        parts = min(count, _SLICES * self.call.count())
        ends = [count * k // parts for k in range(parts + 1)]
        pieces = [slice(*pair) for pair in pairwise(ends)]
        g = TaskGraph(f"{self.name} of {count}")
        op = Op(self.name, numpy, in_place=True)
        names = [f"x{k}" for k in range(len(inputs))]
        families = [g.handles(name) for name in names]
        results = g.handles("y")
        for k in range(parts):
            g.insert(op, *[R(family[k]) for family in families], W(results[k]))
        data: dict[str, Any] = {
            name: [array[piece] for piece in pieces] for name, array in zip(names, inputs, strict=True)
        }
        self.call.run(g, data | {"y": [out[piece] for piece in pieces]})

    def _in_tiles(self, nodes: Callable[..., Any], inputs: Sequence[np.ndarray], out: np.ndarray) -> None:
        leaves = [[Leaf(matrix) for matrix in array] for array in inputs]
        made = [nodes(*row) for row in zip(*leaves, strict=True)]
        results = [Wanted(node.extent, out.dtype, target=target) for node, target in zip(made, out, strict=True)]

        def build(b: ProgramBuilder, places: list[int]) -> None:
            for node, place in zip(made, places, strict=True):
                b.assign(node, place)

        evaluate(
            self.call,
            [leaf for row in leaves for leaf in row],
            results,
            build,
            self.tile_size,
            f"{self.name} of {len(out)}",
        )

    def result(self, *values: Any) -> Any:
        return self.call.result(*[like(np.asarray(value), *self.given) for value in values])


def _flat(a: np.ndarray, batch: tuple[int, ...], last: int = 2) -> np.ndarray:
    """(count, ...) of a broadcast stack."""
    shape = a.shape[a.ndim - last :]
    return np.broadcast_to(a, (*batch, *shape)).reshape(prod(batch), *shape)


def _square(value: Any) -> np.ndarray:
    a = numbers(value, "the matrix a")
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise ValueError(f"the matrix a must be square, (..., n, n), not of shape {a.shape}")
    return a


def products(routine: Any, x1: Any, x2: Any, **how: Any) -> Any:
    """X1 X2 of stacks (..., m, k) and (..., k, n), which are broadcast; vectors as `numpy.matmul` takes them."""
    frame = _Stacked(routine, x1, [x2], how)
    a, b = (np.asarray(numbers(value, name)) for value, name in zip(frame.given, ("x1", "x2"), strict=True))
    if not (a.ndim and b.ndim):
        raise ValueError("matmul takes arrays of at least one dimension")
    row, column = a.ndim == 1, b.ndim == 1
    a, b = a[None, :] if row else a, b[:, None] if column else b
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(f"matmul of shapes {np.shape(x1)} and {np.shape(x2)}, which do not fit")
    batch = _broadcast(a.shape[:-2], b.shape[:-2])
    m, n, k = a.shape[-2], b.shape[-1], a.shape[-1]
    dtype = np.result_type(a, b)
    a, b = _flat(a, batch).astype(dtype, copy=False), _flat(b, batch).astype(dtype, copy=False)
    found = frame.run((prod(batch), m, n), dtype, max(m, n, k) <= SMALL, [a, b], _matmul, Product)
    found = found.reshape(*batch, m, n)
    return frame.result(
        found[..., 0, :]
        if row and not column
        else found[..., 0]
        if column and not row
        else found[..., 0, 0]
        if row
        else found
    )


def solutions(routine: Any, a: Any, b: Any, assume: str = "gen", wide: bool = False, **how: Any) -> Any:
    """X with A X = B: A (..., n, n), B (n,) or (..., n, k), broadcast; ``wide``: in FP64."""
    frame = _Stacked(routine, a, [b], how)
    A, B = _square(frame.given[0]), numbers(frame.given[1], "b")
    vector = B.ndim == 1
    B = B[:, None] if vector else B
    n = A.shape[-1]
    if B.ndim < 2 or B.shape[-2] != n:
        raise ValueError(f"b has {B.shape[-2] if B.ndim > 1 else 0} rows, but the matrix has {n}")
    batch = _broadcast(A.shape[:-2], B.shape[:-2])
    dtype = np.result_type(A, B, *[np.float64] * wide)
    k = B.shape[-1]
    inputs = [_flat(A, batch).astype(dtype, copy=False), _flat(B, batch).astype(dtype, copy=False)]
    definite = assume == "pos"
    with _named(inputs[0], batch, "not positive definite" if definite else "singular"):
        found = frame.run(
            (prod(batch), n, k),
            dtype,
            n <= SMALL,
            inputs,
            _solve_definite if definite else _solve,
            lambda a, b: Solution(a, b, assume),
        )
    found = found.reshape(*batch, n, k)
    return frame.result(found[..., 0] if vector else found)


def inverses(routine: Any, a: Any, **how: Any) -> Any:
    """The inverses of all matrices of a stack (..., n, n)."""
    frame = _Stacked(routine, a, [], how)
    A = _square(frame.given[0])
    batch, n = A.shape[:-2], A.shape[-1]
    with _named(_flat(A, batch), batch):
        found = frame.run(
            (prod(batch), n, n), A.dtype, n <= SMALL, [_flat(A, batch)], _inv, lambda a: Inverse(a, "gen")
        )
    return frame.result(found.reshape(A.shape))


def cholesky(routine: Any, a: Any, upper: bool = False, **how: Any) -> Any:
    """L with A = L L^H of all matrices of a stack, or U with A = U^H U; of the lower triangle, or the upper one."""
    frame = _Stacked(routine, a, [], how)
    A = _square(frame.given[0])
    batch, n = A.shape[:-2], A.shape[-1]
    flat = _flat(A, batch)
    flat = flat.swapaxes(-1, -2).conj() if upper else flat
    if n <= SMALL:
        with _named(flat, batch, "not positive definite"):
            found = frame.run((prod(batch), n, n), A.dtype, True, [flat], _cholesky, Product)
    else:
        found = np.empty((prod(batch), n, n), A.dtype)
        leaves = [Leaf(matrix) for matrix in flat]

        def build(b: ProgramBuilder, places: list[int]) -> None:
            for leaf, place in zip(leaves, places, strict=True):
                leaf._into(b, place, 1.0, 0.0)
                b.step("cholesky", (Ref(place),))
                b.step("lower", (Ref(place),))

        evaluate(
            frame.call,
            leaves,
            [Wanted(leaf.extent, A.dtype, target=target) for leaf, target in zip(leaves, found, strict=True)],
            build,
            frame.tile_size,
            f"cholesky of {len(found)}",
        )
    found = found.reshape(A.shape)
    return frame.result(found.swapaxes(-1, -2).conj() if upper else found)


def slogdets(routine: Any, a: Any, **how: Any) -> Any:
    """(sign, log |det A|) of all matrices of a stack; (0, -inf) where one is singular."""
    frame = _Stacked(routine, a, [], how)
    A = _square(frame.given[0])
    found = _determined(frame, A)
    sign = np.array([factor.slogdet().sign for factor in found], A.dtype).reshape(A.shape[:-2])
    size = np.array([factor.slogdet().logabsdet for factor in found], A.real.dtype).reshape(A.shape[:-2])
    return _slogdet(frame, sign, size)


def _slogdet(frame: _Stacked, sign: np.ndarray, size: np.ndarray) -> Any:
    if frame.call.return_run:
        sign, size, run = frame.result(sign, size)
        return Slogdet(sign, size), run
    return Slogdet(*frame.result(sign, size))


def determinants(routine: Any, a: Any, **how: Any) -> Any:
    """The determinants of all matrices of a stack, float64 or complex128."""
    frame = _Stacked(routine, a, [], how)
    A = _square(frame.given[0])
    kind = np.complex128 if A.dtype.kind == "c" else np.float64
    return frame.result(np.array([factor.det() for factor in _determined(frame, A)], kind).reshape(A.shape[:-2]))


def _determined(frame: _Stacked, A: np.ndarray) -> Iterator[LUFactor] | list[LUFactor]:
    """Factors of which pivots and diagonals are known."""
    batch, n = A.shape[:-2], A.shape[-1]
    flat = _flat(A, batch)
    if not flat.size:
        nothing = np.zeros((n, n), A.dtype)
        return [_factor(nothing, np.zeros(0, np.int32), np.ones(0, A.dtype)) for _ in range(len(flat))]
    if n <= SMALL:
        out = np.empty((len(flat), n, 2), A.dtype)
        frame._in_slices(_diagonals, [flat], out)
        return [_factor(flat[k], out[k, :, 1].real.astype(np.int32), out[k, :, 0]) for k in range(len(flat))]
    leaves, known = [Leaf(matrix) for matrix in flat], []

    def build(b: ProgramBuilder, places: list[int]) -> None:
        for leaf in leaves:
            place = b.room(leaf.extent, leaf.dtype, "F")
            leaf._into(b, place, 1.0, 0.0)
            piv, count = b.value(leaf.extent, np.int32, "pivots"), b.value(leaf.extent, np.int64, "count")
            diagonal = b.value(leaf.extent, leaf.dtype, "diagonal")
            b.step("lu", (Ref(place), Ref(piv), Ref(count)), False)
            b.step("diagonal", (Ref(place), Ref(diagonal)))
            known.append((b.values[piv].name, b.values[diagonal].name, b.tile_size))

    evaluate(frame.call, leaves, [], build, frame.tile_size, f"{frame.name} of {len(flat)}")
    record = frame.call.record
    assert record is not None
    factors = []
    for matrix, (piv, diagonal, nb) in zip(flat, known, strict=True):
        rows = [record[piv][handle] + np.int32(handle.index[0] * nb) for handle in sorted(record[piv])]
        parts = [record[diagonal][handle] for handle in sorted(record[diagonal])]
        factors.append(_factor(matrix, np.concatenate(rows), np.concatenate(parts)))
    return factors


def _factor(matrix: np.ndarray, piv: np.ndarray, diagonal: np.ndarray) -> LUFactor:
    return LUFactor(matrix, piv, diagonal, (np.nan,) * 3, max(len(matrix), 1), None, {})


def _broadcast(one: tuple[int, ...], two: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(one, two)
    except ValueError:
        raise ValueError(f"stacks of shapes {one} and {two} cannot be broadcast together") from None


class _named:  # noqa: N801 - a word before a block
    """Say which matrix of a stack is singular, where only NumPy has seen it."""

    def __init__(self, flat: np.ndarray, batch: tuple[int, ...], what: str = "singular") -> None:
        self.flat, self.batch, self.what = flat, batch, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if type(error) is not np.linalg.LinAlgError or not self.batch or self.flat.shape[-1] > SMALL:
            return
        for place, matrix in zip(np.ndindex(self.batch), self.flat, strict=True):
            try:
                np.linalg.cholesky(matrix) if self.what != "singular" else np.linalg.inv(matrix)
            except np.linalg.LinAlgError:
                where = ", ".join(map(str, place))
                raise np.linalg.LinAlgError(f"matrix ({where}) of the stack is {self.what}") from error


# ------------------------------------------------------------------ the calls of LU, which take stacks as well


def check_finite(a: Any, what: str = "the matrix a") -> None:
    """ValueError with the place of the first NaN or infinity."""
    bad = ~np.isfinite(a)
    if bad.any():
        place = ", ".join(map(str, np.argwhere(bad)[0]))
        raise ValueError(f"{what} has a NaN or infinity at ({place}); check_finite=False skips this check")


def _taking_stacks(single: F, several: Callable[..., Any]) -> F:
    """A call of `tilewright.linalg.lu`, which takes stacks as well."""

    @wraps(single)
    def call(a: Any, *args: Any, **how: Any) -> Any:
        if not is_stack(a):
            return single(a, *args, **how)
        handed_on(single, lu_factor, how)
        given = dict(zip(("overwrite_a", "check_finite"), args, strict=False)) | how
        flag(given.pop("overwrite_a", False), "overwrite_a")
        if given.pop("pivoting", None) not in (None, "partial"):
            raise ValueError("pivoting of a stack is 'partial'")
        if flag(given.pop("check_finite", True), "check_finite"):
            check_finite(numbers(a, "the matrix a"))
        return several(single, a, **given)

    return cast(F, call)


inv = _taking_stacks(inverse.inv, inverses)
det = _taking_stacks(inverse.det, determinants)
slogdet = _taking_stacks(inverse.slogdet, slogdets)

# ------------------------------------------------------------------ on slices, in tasks


def _matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    np.matmul(a, b, out=out)


def _solve(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    out[...] = np.linalg.solve(a, b)


def _solve_definite(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    factor = np.linalg.cholesky(a)
    out[...] = np.linalg.solve(factor.conj().swapaxes(-1, -2), np.linalg.solve(factor, b))


def _inv(a: np.ndarray, out: np.ndarray) -> None:
    out[...] = np.linalg.inv(a)


def _cholesky(a: np.ndarray, out: np.ndarray) -> None:
    out[...] = np.linalg.cholesky(a)


def _diagonals(a: np.ndarray, out: np.ndarray) -> None:
    """Diagonals and pivots of the factors that the kernel of panels makes."""
    factor = table.find("getrf", "cpu", [str(a.dtype), "int32"]).function
    for matrix, found in zip(a, out, strict=True):
        lu, piv = matrix.copy(order="F"), np.empty(len(matrix), np.int32)
        factor([lu], piv)
        found[:, 0], found[:, 1] = lu.diagonal(), piv
