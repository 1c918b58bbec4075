"""Tiles: a matrix cut into blocks, and the store that maps handles to buffers.

On one node a tile is a strided view of the whole array: nothing is packed, so nothing is unpacked. Where a tile
has to travel, `TiledMatrix.from_numpy` packs all of them into one aligned arena, which the kernel can back with
huge pages; separate small allocations cannot have them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tilewright.arguments import dense, numeric
from tilewright.door import upstairs
from tilewright.graph import Handle
from tilewright.scalars import positive, whole

if TYPE_CHECKING:
    from tilewright.kinds import Matrix
    from tilewright.linalg.expression import Expression

__all__ = ["Store", "TiledMatrix"]

_ALIGNMENT = 64  # bytes; one cache line, one AVX-512 register


class TiledMatrix:
    """An m x n matrix of tiles of ``tile_size`` rows and columns; the last row and column may be smaller.

    ``A[i, j]`` is tile (i, j), a writeable view where the matrix is writeable; ``A[i, j] = x`` copies into it. To NumPy
    it is the matrix: ``np.asarray(A)`` is `to_numpy`. Make one with `from_numpy`, `view` or `empty`.

    Threads may use one at the same time as they may use an array. A pickle or `copy.deepcopy` has memory of its own, a
    `copy.copy` the same memory.

    Examples
    --------
    >>> import numpy as np
    >>> from tilewright import TiledMatrix
    >>> A = TiledMatrix.from_numpy(np.arange(25.0).reshape(5, 5), tile_size=2)
    >>> A.mt, A.nt, A[2, 1].shape
    (3, 3, (1, 2))
    >>> float(A[1, 2][0, 0])
    14.0
    """

    def __init__(
        self,
        shape: tuple[int, int],
        tile_size: int,
        dtype: Any,
        base: np.ndarray,
        *,
        packed: bool,
        height: int | None = None,
    ) -> None:
        self.shape = shape
        self.tile_size = tile_size
        self.height = height or tile_size
        """Rows of a tile, where they are not square: row blocks of a tall matrix, inside the library."""
        self.dtype = np.dtype(dtype)
        self.mt = -(-shape[0] // self.height)
        self.nt = -(-shape[1] // tile_size)
        self.packed = packed
        self._base = base
        self._tiles: dict[tuple[int, int], np.ndarray] = {}
        self._transpose_of: TiledMatrix | None = None

    # ------------------------------------------------------------ making

    @classmethod
    def view(cls, array: np.ndarray, tile_size: int) -> TiledMatrix:
        """The tiles of a 2-D array, as strided views of it. O(1); nothing is copied."""
        array = _checked(array, tile_size)
        return cls(array.shape, int(tile_size), array.dtype, array, packed=False)

    @classmethod
    def from_numpy(cls, array: np.ndarray, tile_size: int) -> TiledMatrix:
        """A packed copy of a 2-D array, or of what `tilewright.arguments.dense` takes for one; in native byte order."""
        array = _checked(numeric(array, "the array"), tile_size)
        matrix = cls.empty(array.shape, tile_size, array.dtype)
        source = cls.view(array, matrix.tile_size)
        for i, j in matrix:
            matrix[i, j] = source[i, j]
        return matrix

    @classmethod
    def empty(cls, shape: tuple[int, int], tile_size: int, dtype: Any = np.float64) -> TiledMatrix:
        """Packed tiles full of zeros, C-ordered, each on a 64-byte boundary of one arena.

        TypeError or ValueError if the shape is no two extents from 0, or the dtype none of numbers.
        """
        tile_size = positive(tile_size, "tile_size")
        shape = _extents(shape)
        try:
            dtype = np.dtype(dtype)
        except (TypeError, ValueError) as error:
            raise TypeError(f"dtype must be one of NumPy's, such as 'float64', not {dtype!r}") from error
        if dtype.kind not in "biufc":
            raise TypeError(f"dtype must be one of numbers, not {dtype}")
        step = _padded(tile_size * tile_size * dtype.itemsize)
        mt, nt = -(-shape[0] // tile_size), -(-shape[1] // tile_size)
        if mt * nt * step > sys.maxsize:
            raise ValueError(
                f"shape={shape} in packed tiles of tile_size={tile_size} has more bytes than a process can address"
            )
        raw = np.zeros(mt * nt * step + _ALIGNMENT, dtype=np.uint8)
        start = -raw.ctypes.data % _ALIGNMENT
        return cls(shape, tile_size, dtype, raw[start : start + mt * nt * step], packed=True)

    def to_numpy(self) -> np.ndarray:
        """The matrix as one array: the array itself for a `view`, a C-ordered copy otherwise."""
        if not self.packed:
            return self._base
        array = np.empty(self.shape, self.dtype)
        whole = TiledMatrix.view(array, self.tile_size)
        for i, j in self:
            whole[i, j] = self[i, j]
        return array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The matrix, for NumPy: `to_numpy`, converted and copied as `numpy.asarray` and `numpy.array` ask for.

        Raises
        ------
        ValueError
            ``copy=False`` of packed tiles, or of another dtype: that cannot be done without a copy.
        """
        other = dtype is not None and np.dtype(dtype) != self.dtype
        if copy is False and (self.packed or other):
            why = f"it has dtype {self.dtype}, not {np.dtype(dtype)}" if other else "its tiles are packed"
            raise ValueError(f"{self!r} is no array without a copy: {why}")
        array = self.to_numpy()
        if other:
            return array.astype(dtype)
        return array.copy() if copy and not self.packed else array

    def over(self, place: Callable[[np.ndarray], np.ndarray]) -> TiledMatrix:
        """The same tiling over other memory: ``place(array)`` gives an array for the one that holds all tiles."""
        if self._transpose_of is not None:
            return self._transpose_of.over(place).T
        base = place(self._base)
        return TiledMatrix(self.shape, self.tile_size, self.dtype, base, packed=self.packed, height=self.height)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._transpose_of is not None:
            return _transposed, (self._transpose_of,)
        return _from_base, (self.shape, self.tile_size, self.dtype, self._base, self.packed, self.height)

    @property
    def base(self) -> np.ndarray:
        """The array in whose memory the tiles lie."""
        return self._base if self._transpose_of is None else self._transpose_of.base

    # ------------------------------------------------------------ tiles

    def rows(self, i: int) -> slice:
        """The rows of the matrix that tile row i covers."""
        return slice(i * self.height, min((i + 1) * self.height, self.shape[0]))

    def columns(self, j: int) -> slice:
        """The columns of the matrix that tile column j covers."""
        return slice(j * self.tile_size, min((j + 1) * self.tile_size, self.shape[1]))

    def __getitem__(self, index: tuple[int, int]) -> np.ndarray:
        tile = self._tiles.get(index)
        if tile is None:
            tile = self._tiles[index] = self._make_tile(*index)
        return tile

    def __setitem__(self, index: tuple[int, int], value: Any) -> None:
        self[index][...] = value

    def _make_tile(self, i: int, j: int) -> np.ndarray:
        if not (0 <= i < self.mt and 0 <= j < self.nt):
            raise IndexError(f"tile ({i}, {j}) is outside the {self.mt} x {self.nt} tiles of {self!r}")
        if self._transpose_of is not None:
            return self._transpose_of[j, i].T
        rows, columns = self.rows(i), self.columns(j)
        if not self.packed:
            return self._base[rows, columns]
        shape = rows.stop - rows.start, columns.stop - columns.start
        step = _padded(self.tile_size * self.tile_size * self.dtype.itemsize)
        start = (i * self.nt + j) * step
        size = shape[0] * shape[1] * self.dtype.itemsize
        return self._base[start : start + size].view(self.dtype).reshape(shape)

    @property
    def T(self) -> TiledMatrix:  # noqa: N802 - as in NumPy
        """The transposed matrix, tile (i, j) a transposed view of tile (j, i). Nothing is copied."""
        if self._transpose_of is not None:
            return self._transpose_of
        if self.height != self.tile_size:
            raise ValueError("tiles that are not square have no transpose")
        base = self._base if self.packed else self._base.T
        transposed = TiledMatrix(self.shape[::-1], self.tile_size, self.dtype, base, packed=self.packed)
        transposed._transpose_of = self
        return transposed

    # ------------------------------------------------------------ algebra

    __array_priority__ = 1000.0  # NumPy leaves operators to this class

    def _lazy(self) -> Expression:
        found: Expression = upstairs("linalg.expression:lazy")(self)
        return found

    def _assign(self, value: Any) -> TiledMatrix:
        upstairs("linalg.evaluate:assign")(self, value)
        return self

    @property
    def H(self) -> Expression:  # noqa: N802 - as in formulas
        """The conjugate transpose, an expression."""
        return self._lazy().H

    def solve(self, b: Matrix | Expression, assume_a: str = "gen") -> Expression:
        """X with A X = B, an expression: `tilewright.linalg.expression.Expression.solve`."""
        return self._lazy().solve(b, assume_a)

    def inv(self, assume_a: str = "gen") -> Expression:
        """The inverse, an expression: `tilewright.linalg.expression.Expression.inv`."""
        return self._lazy().inv(assume_a)

    def norm(self, ord: float | str | None = None, **how: Any) -> Any:
        """The norm, as `tilewright.norm` has it."""
        return self._lazy().norm(ord, **how)

    def __matmul__(self, other: Matrix | Expression) -> Expression:
        return self._lazy() @ other

    def __rmatmul__(self, other: Matrix | Expression) -> Expression:
        return self._lazy().__rmatmul__(other)

    def __add__(self, other: Matrix | Expression) -> Expression:
        return self._lazy() + other

    def __radd__(self, other: Matrix | Expression) -> Expression:
        return self._lazy().__radd__(other)

    def __sub__(self, other: Matrix | Expression) -> Expression:
        return self._lazy() - other

    def __rsub__(self, other: Matrix | Expression) -> Expression:
        return self._lazy().__rsub__(other)

    def __mul__(self, other: complex) -> Expression:
        return self._lazy() * other

    __rmul__ = __mul__

    def __truediv__(self, other: complex) -> Expression:
        return self._lazy() / other

    def __neg__(self) -> Expression:
        return -self._lazy()

    def __pos__(self) -> Expression:
        return self._lazy()

    def __iadd__(self, other: Matrix | Expression) -> TiledMatrix:
        return self._assign(self._lazy() + other)

    def __isub__(self, other: Matrix | Expression) -> TiledMatrix:
        return self._assign(self._lazy() - other)

    def __imul__(self, other: complex) -> TiledMatrix:
        return self._assign(self._lazy() * other)

    def __itruediv__(self, other: complex) -> TiledMatrix:
        return self._assign(self._lazy() / other)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The indices of all tiles, row by row."""
        return ((i, j) for i in range(self.mt) for j in range(self.nt))

    def __len__(self) -> int:
        return self.mt * self.nt

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers, padding included."""
        return self._base.nbytes

    @property
    def writeable(self) -> bool:
        """Whether its numbers may be changed."""
        return bool(self._base.flags.writeable)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return str(upstairs("plot.cards:tiles")(self))

    def __repr__(self) -> str:
        kind = "packed" if self.packed else "view"
        return f"TiledMatrix({self.shape[0]} x {self.shape[1]}, tile_size={self.tile_size}, {self.dtype}, {kind})"


def _extents(shape: Any) -> tuple[int, int]:
    if not isinstance(shape, tuple | list) or len(shape) != 2:
        raise TypeError(f"shape must be two numbers, (rows, columns), not {shape!r}")
    rows, columns = (whole(extent, f"shape {shape!r}: an extent", 0) for extent in shape)
    return rows, columns


def _from_base(
    shape: tuple[int, int], tile_size: int, dtype: Any, base: np.ndarray, packed: bool, height: int | None = None
) -> TiledMatrix:
    return TiledMatrix(shape, tile_size, dtype, base, packed=packed, height=height)


def _transposed(matrix: TiledMatrix) -> TiledMatrix:
    return matrix.T


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _checked(array: np.ndarray, tile_size: int) -> np.ndarray:
    """A 2-D array, as an array and not as a subclass: tiles of a `numpy.matrix` would multiply as such."""
    if not isinstance(array, np.ndarray):
        raise TypeError(
            f"a TiledMatrix views a NumPy array, not a {type(array).__name__}; TiledMatrix.from_numpy copies"
        )
    if np.ma.is_masked(array):
        dense(array, "the array")  # which says what is wrong
    if array.ndim != 2:
        raise ValueError(f"a TiledMatrix needs a 2-D array, not one of shape {array.shape}")
    positive(tile_size, "tile_size")
    return np.asarray(array)


class Store(dict[Handle, Any]):
    """The buffers of one run: ``store[handle]``.

    Parameters
    ----------
    data
        By handle name: the buffer of ``x``, or for an indexed family such as ``A[i,j]`` anything that takes the
        index: a `TiledMatrix`, a dict, a list, a list of lists. A `Handle` as key gives the buffer of that handle
        alone.

    Raises
    ------
    TypeError
        Not a mapping, or keyed by something else.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> store = tw.Store({"A": {(0, 1): np.ones(3)}})
    >>> store[tw.Handle("A", (0, 1))].tolist()
    [1.0, 1.0, 1.0]
    """

    def __init__(self, data: Mapping[str, Any] | Mapping[Handle, Any]) -> None:
        super().__init__()
        if not isinstance(data, Mapping):
            raise TypeError(f"data is a dict of buffers by name, such as {{'x': array}}, not a {type(data).__name__}")
        self.families: dict[str, Any] = {}
        self.given: dict[Any, Any] = dict(data)
        """What the run was given."""
        self.outlines: dict[Handle, Any] = {}
        """What stands here for rooms that have no memory yet: `tilewright.rooms`."""
        for key, value in data.items():
            if isinstance(key, Handle):
                self[key] = value
            elif isinstance(key, str):
                self.families[key] = value
            else:
                raise TypeError(f"data is keyed by handle or by name, not by {key!r}")

    def __missing__(self, handle: Handle) -> Any:
        """Find a buffer in its family, once; None where there is none yet."""
        name, index = handle
        value = self.families.get(name)
        if value is not None and index:
            try:
                if len(index) == 1 or not isinstance(value, list | tuple):
                    value = value[index if len(index) > 1 else index[0]]
                else:
                    for place in index:
                        value = value[place]
            except (KeyError, IndexError):
                value = None
        self[handle] = value
        return value

    def names(self) -> set[str]:
        """Names of handles for which there may be a buffer. O(buffers that were looked for)."""
        return {*self.families, *(handle.name for handle, value in self.items() if value is not None)}

    def offset(self, handle: Handle) -> int:
        """First row of the whole matrix that a tile covers."""
        family = self.families.get(handle.name)
        if isinstance(family, TiledMatrix):
            return family.rows(handle.index[0]).start
        first = self[Handle(handle.name, (0, 0))]
        return handle.index[0] * (len(first) if first is not None else 0)
