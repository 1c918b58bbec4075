"""Expressions of matrices: what is written with operators runs as one graph when its values are asked for.

>>> import numpy as np, tilewright as tw
>>> A = tw.TiledMatrix.from_numpy(np.array([[2.0, 0.0], [1.0, 4.0], [0.0, 1.0]]), tile_size=2)
>>> x = (A.T @ A).solve(A.T @ np.array([2.0, 9.0, 2.0]))     # nothing has run
>>> x
Expression(2, float64: solve(A.T @ A, A.T @ B))
>>> x.compute().round(12)                                   # one graph, no barrier between its parts
array([1., 2.])
"""

from __future__ import annotations

import numbers
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tilewright.arguments import check_chunks, dense, entered, is_chunked
from tilewright.door import upstairs
from tilewright.keywords import strict
from tilewright.linalg.level3 import turned
from tilewright.linalg.matrix import Matrix, factor_dtype
from tilewright.linalg.program import Ref, Step, Value
from tilewright.scalars import choice, positive, shown
from tilewright.tiles import TiledMatrix

if TYPE_CHECKING:
    from tilewright import kinds
    from tilewright.graph import TaskGraph

__all__ = [
    "ASSUMED",
    "ProgramBuilder",
    "Expression",
    "Inverse",
    "Leaf",
    "Product",
    "Solution",
    "Sum",
    "Transposed",
    "lazy",
]

ASSUMED = ("gen", "pos", "lower triangular", "upper triangular")
"""What may be said of the matrix of a system, in SciPy's words."""


class Expression:
    """A matrix that is not computed yet. `compute` does it; so do ``numpy.asarray`` and ``+=`` on a `TiledMatrix`.

    Attributes
    ----------
    shape
        (m, n); (m,) where a vector was multiplied or solved for.
    dtype
        That of the result, by NumPy's rules for what goes in.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> expression = tw.lazy(np.ones((2, 3))) @ np.ones(3)
    >>> expression.shape, np.asarray(expression).tolist()
    ((2,), [3.0, 3.0])
    """

    __array_priority__ = 1000.0  # NumPy leaves operators to this class
    vector = False
    """Whether it has one dimension."""
    extent: tuple[int, int]
    """Rows and columns; a vector has one column."""
    dtype: np.dtype
    """That of its value."""

    # ---------------------------------------------------------------- looking

    @property
    def shape(self) -> tuple[int, ...]:
        """(m, n), or (m,) of a vector"""
        return self.extent[:1] if self.vector else self.extent

    @property
    def ndim(self) -> int:
        """2, or 1 of a vector"""
        return len(self.shape)

    def __repr__(self) -> str:
        names: dict[int, str] = {}
        return f"Expression({' x '.join(map(str, self.shape))}, {self.dtype}: {self._text(names)})"

    # ---------------------------------------------------------------- writing

    @property
    def T(self) -> Expression:  # noqa: N802 - as in NumPy; so below
        """The transpose."""
        return Transposed.of(self, "T")

    @property
    def H(self) -> Expression:  # noqa: N802
        """The conjugate transpose."""
        return Transposed.of(self, "C")

    def conj(self) -> Expression:
        """The complex conjugate."""
        return Transposed.of(self, "J")

    def __matmul__(self, other: kinds.Matrix | Expression) -> Expression:
        node = _operand(other, self)
        return NotImplemented if node is None else Product(self, node)

    def __rmatmul__(self, other: kinds.Matrix | Expression) -> Expression:
        node = _operand(other, self)
        return NotImplemented if node is None else Product(node, self)

    def __add__(self, other: kinds.Matrix | Expression) -> Expression:
        return self._sum(other, 1.0, 1.0)

    def __radd__(self, other: kinds.Matrix | Expression) -> Expression:
        return self._sum(other, 1.0, 1.0)

    def __sub__(self, other: kinds.Matrix | Expression) -> Expression:
        return self._sum(other, 1.0, -1.0)

    def __rsub__(self, other: kinds.Matrix | Expression) -> Expression:
        return self._sum(other, -1.0, 1.0)

    def _sum(self, other: Any, mine: complex, theirs: complex) -> Expression:
        if isinstance(other, numbers.Number):
            raise TypeError(
                f"a matrix plus the number {other!r}: add it to what? A multiple of the identity is "
                f"number * tw.lazy(np.eye(n))"
            )
        node = _operand(other, self)
        return NotImplemented if node is None else Sum.of([(mine, self), (theirs, node)])

    def __neg__(self) -> Expression:
        return Sum.of([(-1.0, self)])

    def __pos__(self) -> Expression:
        return self

    def __mul__(self, other: complex) -> Expression:
        factor = _factor(other)
        return NotImplemented if factor is None else Sum.of([(factor, self)])

    __rmul__ = __mul__

    def __truediv__(self, other: complex) -> Expression:
        factor = _factor(other)
        if factor is None:
            return NotImplemented
        return Sum.of([(1.0 / factor, self)])

    def solve(self, b: kinds.Matrix | Expression, assume_a: str = "gen") -> Expression:
        """X with A X = B, A this matrix.

        Parameters
        ----------
        b : (n,) or (n, k)
            Anything that is a matrix or a vector, an expression too.
        assume_a
            ``"gen"``: by LU with partial pivoting. ``"pos"``: Hermitian positive definite, by Cholesky, of the lower
            triangle. ``"lower triangular"``, ``"upper triangular"``: by substitution.

        Raises
        ------
        ValueError, TypeError
            Shapes that do not fit, another name. When it runs: `SingularMatrixError`, `NotPositiveDefiniteError`.
        """
        right = _operand(b, self)
        if right is None:
            raise TypeError(f"b must be a matrix or a vector, not {shown(b)}")
        return Solution(self, right, choice(assume_a, "assume_a", ASSUMED))

    def inv(self, assume_a: str = "gen") -> Expression:
        """The inverse; ``assume_a`` is ``"gen"``, by LU, or ``"pos"``, by Cholesky. See `solve` for errors."""
        return Inverse(self, choice(assume_a, "assume_a", ASSUMED[:2]))

    # ---------------------------------------------------------------- running

    def compute(self, **how: Any) -> Any:
        """The values: see `tilewright.compute`."""
        return upstairs("linalg.evaluate:compute")(self, **how)

    def graph(self, tile_size: int | None = None) -> TaskGraph:
        """The `TaskGraph` that `compute` would run, to be drawn or simulated."""
        found: TaskGraph = upstairs("linalg.evaluate:graph_of")(self, tile_size)
        return found

    def norm(self, ord: float | str | None = None, **how: Any) -> Any:
        """The norm, as `tilewright.norm` has it, in the same graph. ``how`` is of `tilewright.compute`."""
        return upstairs("linalg.evaluate:norm_of")(self, ord, how)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError(f"{self!r} is no array without a computation")
        found = np.asarray(self.compute())
        return found if dtype is None else found.astype(dtype, copy=False)

    # ---------------------------------------------------------------- for the builder

    def _ref(self, b: ProgramBuilder) -> Ref:
        """The value that this is, made where needed."""
        place = b.room(self.extent, self.dtype, self._order())
        self._into(b, place, 1.0, 0.0)
        return Ref(place)

    def _order(self) -> str:
        return "C"

    def _into(self, b: ProgramBuilder, place: int, alpha: complex, beta: complex) -> None:
        """Add steps for Y := alpha A + beta Y, A this matrix and Y a value."""
        b.step("add", (b.operand(self, b.dtype(place)), Ref(place)), alpha, beta)

    def _parts(self) -> tuple[Expression, ...]:
        return ()

    def _text(self, names: dict[int, str]) -> str:
        raise NotImplementedError


class Leaf(Expression):
    """A matrix that is there."""

    late = False
    """Whether time may pass before it is read."""

    def __init__(
        self, given: Any, what: str = "the matrix a", tile_size: int | None = None, option: str = "overwrite_a"
    ) -> None:
        self.given, self.what, self.option = given, what, option
        self.matrix: Matrix | None = None
        if is_chunked(given):
            check_chunks(given, what)
            if given.ndim not in (1, 2):
                raise ValueError(f"{what} must be 1-D or 2-D, not of shape {given.shape}")
            if given.ndim == 1:
                self.vector, self.given = True, given[:, None]
                given = self.given
            self.extent, self.dtype = tuple(given.shape), factor_dtype(given.dtype)
            self.tile_size, self.packed = tile_size, None
            return
        self.matrix = self._entered()
        self.extent, self.dtype, self.column = self.matrix.shape, self.matrix.dtype, self.vector
        self.tile_size = self.matrix.tile_size or tile_size
        self.packed = self.tile_size if self.matrix.tiled and self.matrix.array.packed else None
        """The tile size that it has once and for all; views can be cut anew."""

    def _entered(self) -> Matrix:
        given = column = self.given
        if not isinstance(given, TiledMatrix):
            column = entered(given, self.what) if given is not None else dense(given, self.what)
            if len(column.shape) == 1:
                self.vector, column = True, column.reshape(-1, 1)
        return Matrix(column, what=self.what)

    def read(self) -> Matrix:
        """The matrix as it is now: where its numbers had to be converted, they are converted again.

        ValueError if it has another shape or dtype than when it was written down, as a list may have.
        """
        matrix = self.matrix
        assert matrix is not None
        live = matrix.tiled or matrix.tensor or _shares(matrix.array, self.given)
        if self.late and not (live and matrix.in_given):
            self.vector = False
            matrix = self._entered()
            if (matrix.shape, matrix.dtype, self.vector) != (self.extent, self.dtype, self.column):
                raise ValueError(
                    f"{self.what} was {_said(self.extent, self.dtype)} when the expression was written, and is "
                    f"{_said(matrix.shape, matrix.dtype)} now"
                )
            self.matrix = matrix
        return matrix

    @property
    def key(self) -> Any:
        """Equal for the same tiles in the same memory."""
        given, size = self.given, 0
        if isinstance(given, TiledMatrix):
            size = given.tile_size * (-1 if given._transpose_of is not None else 1)
            given = given.base
        if not isinstance(given, np.ndarray):
            return id(given)
        memory = given.__array_interface__
        return memory["data"][0], memory["typestr"], given.shape, given.strides, self.extent, size

    def _ref(self, b: ProgramBuilder) -> Ref:
        return b.leaf(self)

    def _text(self, names: dict[int, str]) -> str:
        return names.setdefault(id(self.given), letters(len(names)))


class Transposed(Expression):
    """op(A): nothing is moved."""

    def __init__(self, of: Expression, flag: str) -> None:
        self.inner, self.flag, self.dtype, self.vector = of, flag, of.dtype, of.vector
        m, n = of.extent
        self.extent = (n, m) if flag in "TC" else (m, n)

    @classmethod
    def of(cls, a: Expression, flag: str) -> Expression:
        if a.vector:  # as in NumPy, it has no rows and columns to change places
            flag = {"T": "N", "C": "J"}.get(flag, flag)
        if isinstance(a, Transposed):
            flag, a = turned(a.flag, flag), a.inner
        if a.dtype.kind != "c":
            flag = {"C": "T", "J": "N"}.get(flag, flag)
        return a if flag == "N" else cls(a, flag)

    def _ref(self, b: ProgramBuilder) -> Ref:
        inner = b.ref(self.inner)
        return Ref(inner.value, turned(inner.flag, self.flag))

    def _parts(self) -> tuple[Expression, ...]:
        return (self.inner,)

    def _text(self, names: dict[int, str]) -> str:
        inner = self.inner._text(names)
        inner = inner if inner.isalnum() else f"({inner})"
        return inner + {"T": ".T", "C": ".H", "J": ".conj()"}[self.flag]


class Sum(Expression):
    """sum_i alpha_i A_i."""

    def __init__(self, terms: list[tuple[complex, Expression]]) -> None:
        self.terms = terms
        first = terms[0][1]
        for _, term in terms:
            if term.extent != first.extent or term.vector != first.vector:
                raise ValueError(f"a sum of matrices of shapes {first.shape} and {term.shape}")
        self.extent, self.vector = first.extent, first.vector
        weights = [1j] if any(isinstance(factor, complex) for factor, _ in terms) else []
        self.dtype = factor_dtype(np.result_type(*[term.dtype for _, term in terms], *weights))

    @classmethod
    def of(cls, terms: list[tuple[complex, Expression]]) -> Expression:
        """The terms of sums among them become its own."""
        flat: list[tuple[complex, Expression]] = []
        for factor, term in terms:
            if isinstance(term, Sum):
                flat += [(factor * inner, part) for inner, part in term.terms]
            else:
                flat.append((factor, term))
        return cls(flat)

    def _into(self, b: ProgramBuilder, place: int, alpha: complex, beta: complex) -> None:
        direct = [factor for factor, term in self.terms if b.is_value(term, place)]
        others = [(factor, term) for factor, term in self.terms if not b.is_value(term, place)]
        beta += alpha * sum(direct)
        for factor, term in others:
            b.put(term, place, alpha * factor, beta)
            beta = 1.0
        if not others:
            b.scale(place, beta)

    def _parts(self) -> tuple[Expression, ...]:
        return tuple(term for _, term in self.terms)

    def _text(self, names: dict[int, str]) -> str:
        said = []
        for factor, term in self.terms:
            inner = term._text(names)
            inner = f"({inner})" if isinstance(term, Product) and factor not in (1, -1) else inner
            said.append(
                inner
                if factor == 1
                else f"-{inner}"
                if factor == -1
                else f"{factor:g} {inner}"
                if not isinstance(factor, complex)
                else f"{factor} {inner}"
            )
        return " + ".join(said)


class Product(Expression):
    """A B. Of a matrix with its own transpose half is computed, and the other half is a copy of it."""

    def __init__(self, a: Expression, b: Expression) -> None:
        if a.vector and b.vector:
            raise ValueError("the product of two vectors is a number; tw.linalg.vecdot computes it")
        if (a.extent[0] if a.vector else a.extent[1]) != b.extent[0]:
            raise ValueError(f"a product of matrices of shapes {a.shape} and {b.shape}")
        self.vector = a.vector or b.vector
        self.dtype = factor_dtype(np.result_type(a.dtype, b.dtype))
        self.a, self.b = (Transposed.of(b, "T"), a) if a.vector else (a, b)  # x A is A^T x
        self.extent = self.a.extent[0], self.b.extent[1]

    def _into(self, b: ProgramBuilder, place: int, alpha: complex, beta: complex) -> None:
        dtype = b.dtype(place)
        left, right = b.operand(self.a, dtype), b.operand(self.b, dtype)
        back = "C" if dtype.kind == "c" else "T"
        if beta == 0 and not isinstance(alpha, complex) and right == Ref(left.value, turned(left.flag, back)):
            flag = "N" if left.flag == "N" else "C"
            b.step("rankk", (Ref(left.value, flag), Ref(place)), "L", True, alpha, 0.0, True)
            b.step("mirror", (Ref(place),))
        else:
            b.step("matmul", (left, right, Ref(place)), alpha, beta)

    def _parts(self) -> tuple[Expression, ...]:
        return self.a, self.b

    def _text(self, names: dict[int, str]) -> str:
        left, right = (part._text(names) for part in (self.a, self.b))
        left = f"({left})" if isinstance(self.a, Sum) else left
        return f"{left} @ ({right})" if isinstance(self.b, Sum | Product) else f"{left} @ {right}"


class Solution(Expression):
    """A^-1 B."""

    def __init__(self, a: Expression, right: Expression, assume: str) -> None:
        _check_square(a)
        if right.extent[0] != a.extent[0]:
            raise ValueError(f"b has {right.extent[0]} rows, but the matrix has {a.extent[0]}")
        self.a, self.right, self.assume = a, right, assume
        self.extent, self.vector = right.extent, right.vector
        self.dtype = factor_dtype(np.result_type(a.dtype, right.dtype))

    def _order(self) -> str:
        return "F" if self.assume == "gen" else "C"

    def _into(self, b: ProgramBuilder, place: int, alpha: complex, beta: complex) -> None:
        dtype = b.dtype(place)
        x = place
        if beta or b.order(place) != self._order() or b.used(self, place):
            x = b.room(self.extent, dtype, self._order())
        b.put(self.right, x, alpha, 0.0)
        if "triangular" in self.assume:
            t = b.operand(self.a, dtype)
            lower = (self.assume == "lower triangular") == (t.flag == "N")
            count = b.value(self.a.extent, np.int64, "count")
            b.step("regular", (Ref(t.value), Ref(count)))
            b.step("trsm", (t, Ref(x)), "L", "L" if lower else "U", "N", 1.0)
        elif self.assume == "pos":
            b.step("cho_solve", (b.factor(self.a, dtype, "pos")[0], Ref(x)))
        else:
            b.step("lu_solve", (*b.factor(self.a, dtype, "gen"), Ref(x)))
        if x != place:
            b.step("add", (Ref(x), Ref(place)), 1.0, beta)

    def _parts(self) -> tuple[Expression, ...]:
        return self.a, self.right

    def _text(self, names: dict[int, str]) -> str:
        return f"solve({self.a._text(names)}, {self.right._text(names)})"


class Inverse(Expression):
    """A^-1."""

    def __init__(self, a: Expression, assume: str) -> None:
        _check_square(a)
        self.a, self.assume, self.extent, self.dtype = a, assume, a.extent, a.dtype

    def _order(self) -> str:
        return "F" if self.assume == "gen" else "C"

    def _into(self, b: ProgramBuilder, place: int, alpha: complex, beta: complex) -> None:
        dtype, x = b.dtype(place), place
        if beta or alpha != 1 or b.order(place) != self._order() or b.used(self, place):
            x = b.room(self.extent, dtype, self._order())
        if self.assume == "pos":
            b.put(self.a, x, 1.0, 0.0)
            b.step("cholesky", (Ref(x),))
            b.step("cho_inverse", (Ref(x),))
        else:
            b.step("lu_inverse", (*b.factor(self.a, dtype, "gen", plain=True), Ref(x)))
        if x != place:
            b.step("add", (Ref(x), Ref(place)), alpha, beta)

    def _parts(self) -> tuple[Expression, ...]:
        return (self.a,)

    def _text(self, names: dict[int, str]) -> str:
        return f"inv({self.a._text(names)})"


# ------------------------------------------------------------------ building


class ProgramBuilder:
    """Values and steps of a program, from expressions. What occurs twice is computed once."""

    def __init__(self, tile_size: int) -> None:
        self.tile_size = tile_size
        self.values: list[Value] = []
        self.steps: list[Step] = []
        self.placed: dict[Any, int] = {}
        """By `Leaf.key`: its value."""
        self._known: dict[Any, Any] = {}
        self._alive: list[Expression] = []
        self._given = 0
        self._uses: dict[int, int] = {}

    def step(self, name: str, refs: tuple[Ref, ...], *params: Any) -> None:
        self.steps.append(Step(name, refs, params))

    def value(
        self, shape: tuple[int, int], dtype: Any, kind: str, order: str = "C", tile_size: int | None = None
    ) -> int:
        self._given += kind == "given"
        name = letters(self._given - 1) if kind == "given" else f"{_NAMES[kind]}{len(self.values) + 1 - self._given}"
        self.values.append(Value(name, shape, tile_size or self.tile_size, str(np.dtype(dtype)), kind, order))
        return len(self.values) - 1

    def room(self, shape: tuple[int, int], dtype: Any, order: str = "C") -> int:
        return self.value(shape, dtype, "room", order)

    def dtype(self, place: int) -> np.dtype:
        return np.dtype(self.values[place].dtype)

    def order(self, place: int) -> str:
        return self.values[place].order

    def scale(self, place: int, beta: complex) -> None:
        """Y := beta Y."""
        self.step("scale", (Ref(place),), beta)

    def given(self, leaf: Leaf) -> int:
        """The value of a leaf, in its own tiles."""
        place = self.placed.get(leaf.key)
        if place is None:
            self._alive.append(leaf)
            place = self.placed[leaf.key] = self.value(leaf.extent, leaf.dtype, "given", tile_size=leaf.packed)
        return place

    def leaf(self, leaf: Leaf) -> Ref:
        """The same in tiles of the program's size."""
        place = self.given(leaf)
        if self.values[place].tile_size == self.tile_size:
            return Ref(place)
        key = "retiled", place
        if key not in self._known:
            made = self._known[key] = self.room(leaf.extent, leaf.dtype)
            self.step("retile", (Ref(place), Ref(made)))
        return Ref(self._known[key])

    def ref(self, node: Expression) -> Ref:
        """The value of a node, made once."""
        key = "node", id(node)
        if key not in self._known:
            self._alive.append(node)
            self._known[key] = node._ref(self)
        found: Ref = self._known[key]
        return found

    def operand(self, node: Expression, dtype: np.dtype) -> Ref:
        """The same as kernels take it: in this dtype, and not conjugated without being transposed."""
        found = self.ref(node)
        value = self.values[found.value]
        if value.dtype == str(dtype) and found.flag != "J":
            return found
        if value.dtype != str(dtype) and np.dtype(value.dtype).kind != "c":
            key: Any = "as", found.value, str(dtype)
            flag, rest = "N", found.flag if found.flag != "J" else "N"
        else:
            key = "as", found.value, found.flag, str(dtype)
            flag, rest = found.flag, "N"
        if key not in self._known:
            shape = value.shape[::-1] if flag in "TC" else value.shape
            made = self._known[key] = self.room(shape, dtype)
            self.step("add", (Ref(found.value, flag), Ref(made)), 1.0, 0.0)
        return Ref(self._known[key], rest)

    def factor(self, node: Expression, dtype: np.dtype, kind: str, plain: bool = False) -> tuple[Ref, ...]:
        """References of a factor of a node: (LU, pivots) or (L,). Made once for all systems with this matrix.

        A transpose is solved with the factor of what it is the transpose of, unless ``plain``.
        """
        flag, inner = "N", node
        if kind == "gen" and not plain and isinstance(node, Transposed) and node.flag != "J":
            flag, inner = node.flag, node.inner
        key = kind, str(dtype), self._identity(inner)
        if key not in self._known:
            self._alive.append(inner)
            place = self.room(inner.extent, dtype, "F" if kind == "gen" else "C")
            self.put(inner, place, 1.0, 0.0)
            if kind == "pos":
                self.step("cholesky", (Ref(place),))
                self._known[key] = (place,)
            else:
                piv = self.value(inner.extent, np.int32, "pivots")
                count = self.value(inner.extent, np.int64, "count")
                self.step("lu", (Ref(place), Ref(piv), Ref(count)), True)
                self._known[key] = place, piv
        first, *rest = self._known[key]
        return Ref(first, flag), *map(Ref, rest)

    def _identity(self, node: Expression) -> Any:
        if isinstance(node, Leaf):
            return "leaf", self.given(node)
        return "node", id(node)

    def is_value(self, node: Expression, place: int) -> bool:
        """Whether a node is a leaf and this its value."""
        return isinstance(node, Leaf) and self.given(node) == place

    def used(self, node: Expression, place: int) -> bool:
        """Whether a value that is given is read somewhere below a node."""
        if self.values[place].kind != "given":
            return False
        return any(self.is_value(leaf, place) for leaf in walk(node))

    def put(self, node: Expression, place: int, alpha: complex, beta: complex) -> None:
        """Add steps for Y := alpha A + beta Y: in the place of Y, unless others need A as well."""
        if self._uses.get(id(node), 0) > 1:
            Expression._into(node, self, place, alpha, beta)
        else:
            node._into(self, place, alpha, beta)

    def count(self, *nodes: Expression) -> None:
        """Say what is to be made, before the first step is added."""
        for node in nodes:
            known = id(node) in self._uses
            self._uses[id(node)] = self._uses.get(id(node), 0) + 1
            self._alive.append(node)
            if not known:
                self.count(*node._parts())

    def assign(self, node: Expression, place: int) -> None:
        """Add steps for Y := A, Y a value that A may read."""
        terms = node.terms if isinstance(node, Sum) else [(1.0, node)]
        others = [term for _, term in terms if not self.is_value(term, place)]
        if any(self.used(term, place) for term in others):
            made = self.room(node.extent, self.dtype(place), node._order())
            self.put(node, made, 1.0, 0.0)
            self.step("add", (Ref(made), Ref(place)), 1.0, 0.0)
        elif not self.is_value(node, place):
            self.put(node, place, 1.0, 0.0)


_NAMES = {"room": "w", "pivots": "piv", "count": "n", "diagonal": "d", "sizes": "m", "squares": "m"}


def walk(node: Expression) -> Iterator[Leaf]:
    """The leaves of an expression, from left to right, each node once."""
    seen: set[int] = set()
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Leaf):
            yield node
        waiting.extend(reversed(node._parts()))


def letters(number: int) -> str:
    """A, B, ..., Z, A1, B1, ..."""
    round_, letter = divmod(number, 26)
    return chr(ord("A") + letter) + (str(round_) if round_ else "")


def _shares(array: np.ndarray, given: Any) -> bool:
    """Whether a change of what was given changes the array."""
    return isinstance(given, np.ndarray) and np.may_share_memory(array, given)


def _said(extent: tuple[int, int], dtype: np.dtype) -> str:
    return f"{extent[0]} x {extent[1]} of {dtype}"


def _check_square(a: Expression) -> None:
    if a.extent[0] != a.extent[1] or a.vector:
        raise ValueError(f"the matrix a must be square, not of shape {a.shape}")


def _factor(value: Any) -> complex | None:
    """A number, as a float or a complex one; None if it is none."""
    if isinstance(value, Expression | TiledMatrix):
        raise TypeError("* is for numbers; the product of matrices is @")
    if isinstance(value, np.ndarray | np.generic) and value.ndim == 0 and value.dtype.kind in "biufc":
        value = value.item()
    if not isinstance(value, numbers.Number):
        return None
    found = complex(cast("complex", value))
    return found if isinstance(value, complex) else found.real


def _operand(value: Any, beside: Expression) -> Expression | None:
    """What stands beside an operator as an expression; None if it is no matrix."""
    if isinstance(value, Expression):
        return value
    if isinstance(value, numbers.Number | str | bytes) or value is None:
        return None
    return lazy(value)


@strict
def lazy(a: kinds.Matrix | Expression, tile_size: int | None = None) -> Expression:
    """A matrix as an expression, to be combined by operators before anything is computed: see `Expression`.

    Parameters
    ----------
    a : (m, n) or (m,) array_like, torch tensor, TiledMatrix or dask.array
        float32, float64, complex64 or complex128; integers become float64. It is read when the expression is computed:
        what is changed before counts as it is then, in every kind of array. ``tw.lazy(a.copy())`` is a snapshot.
    tile_size
        Rows and columns of a tile; by default those of the tiled matrices in the expression, or by a rule.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> A = tw.lazy(np.array([[2.0, 1.0], [0.0, 4.0]]))
    >>> A @ A.T - 3 * A
    Expression(2 x 2, float64: A @ A.T + -3 A)
    >>> (A @ A.T - 3 * A).compute()
    array([[-1.,  1.],
           [ 4.,  4.]])
    """
    if isinstance(a, Expression):
        return a
    if isinstance(a, TiledMatrix) and a._transpose_of is not None:
        return Transposed.of(lazy(a._transpose_of), "T")
    leaf = Leaf(a, tile_size=None if tile_size is None else positive(tile_size, "tile_size"))
    leaf.late = True
    return leaf
