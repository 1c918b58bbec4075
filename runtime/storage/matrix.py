"""A matrix outside of memory: what it can be asked for, and its tiles as data of a graph."""

from __future__ import annotations

import secrets
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

__all__ = ["Held", "Stored", "StoredTile", "StoredTiles", "check_tiles"]

Place = tuple[int, int]


_here: weakref.WeakValueDictionary[str, Stored] = weakref.WeakValueDictionary()
"""By its mark: each matrix that travelled from here or came here."""


def _arrived(mark: str, opened: Callable[..., Stored], arguments: tuple[Any, ...]) -> Stored:
    """The matrix of that mark, which is opened here if this process does not have it yet."""
    found = _here.get(mark)
    if found is None:
        found = opened(*arguments)
        found.mark = mark
        _here[mark] = found
    return found


class Stored:
    """An m x n matrix that is read and written block by block. Threads may do so at the same time, on blocks apart.

    To another process goes where it is, which opens it for itself.

    Attributes
    ----------
    shape, dtype
        Those of the matrix.
    name
        What messages call it.
    order
        ``"C"`` if its rows are closer together, else ``"F"``: blocks that lie next to each other so are read together.
    tile_size
        Rows and columns of the tiles in which it has to be read; None if in any.
    bytes_read, bytes_written
        So far, by tasks.
    """

    order: Literal["C", "F"] = "C"
    tile_size: int | None = None
    mark: str = ""

    def __init__(self, shape: tuple[int, int], dtype: Any, name: str) -> None:
        self.shape, self.dtype, self.name = shape, np.dtype(dtype), name
        self.bytes_read = self.bytes_written = 0
        self._counting = threading.Lock()

    def opening(self) -> tuple[Callable[..., Stored], tuple[Any, ...]]:
        """How another process opens it: a function and its arguments. TypeError if none can."""
        raise TypeError(
            f"{self.name} is in the memory of this process, and ranks read a matrix where it is stored: write it to a "
            f"file first, such as with np.save"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.mark:
            self.mark = secrets.token_hex(8)
            _here[self.mark] = self
        return _arrived, (self.mark, *self.opening())

    def read(self, places: Sequence[Place], targets: Sequence[np.ndarray]) -> None:
        """Fill arrays with the blocks that begin at these rows and columns. OSError or ValueError if that fails."""
        raise NotImplementedError

    def write(self, places: Sequence[Place], sources: Sequence[np.ndarray]) -> None:
        """Put arrays where blocks begin. OSError if that fails."""
        raise ValueError(f"{self.name} cannot be written")

    def read_rows(self, rows: np.ndarray, column: int, targets: Sequence[np.ndarray]) -> None:
        """Fill arrays, which stand next to each other from ``column`` on, with these rows, in any order."""
        raise ValueError(f"{self.name} has no rows in any order")

    def write_rows(self, rows: np.ndarray, column: int, sources: Sequence[np.ndarray]) -> None:
        """Put arrays, which stand next to each other from ``column`` on, into these rows."""
        raise ValueError(f"{self.name} has no rows in any order")

    def sync(self) -> None:
        """Return when all that was written would survive a loss of power."""

    def close(self) -> None:
        """Give back what the system lent."""

    def value(self) -> Any:
        """What a caller gets who asked for this matrix."""
        raise NotImplementedError

    @property
    def T(self) -> Stored:  # noqa: N802 - as in NumPy
        """The transposed matrix; nothing is copied."""
        return _Transposed(self)

    def count(self, read: int = 0, written: int = 0) -> None:
        with self._counting:
            self.bytes_read += read
            self.bytes_written += written


class _Transposed(Stored):
    """Rows for columns."""

    def __init__(self, matrix: Stored) -> None:
        super().__init__(matrix.shape[::-1], matrix.dtype, matrix.name)
        self.matrix, self.tile_size = matrix, matrix.tile_size
        self.order = "F" if matrix.order == "C" else "C"
        self.read = lambda places, targets: matrix.read(*_turned(places, targets))  # type: ignore[method-assign]
        self.write = lambda places, sources: matrix.write(*_turned(places, sources))  # type: ignore[method-assign]
        self.sync, self.close, self.value = matrix.sync, matrix.close, matrix.value  # type: ignore[method-assign]

    @property
    def T(self) -> Stored:  # noqa: N802
        return self.matrix

    def opening(self) -> tuple[Callable[..., Stored], tuple[Any, ...]]:
        self.matrix.opening()
        return _Transposed, (self.matrix,)


def _turned(places: Sequence[Place], tiles: Sequence[np.ndarray]) -> tuple[list[Place], list[np.ndarray]]:
    return [(column, row) for row, column in places], [tile.T for tile in tiles]


class Held(Stored):
    """An array in memory, as a matrix that is read and written by blocks."""

    def __init__(self, array: np.ndarray, name: str = "the matrix a") -> None:
        super().__init__(array.shape, array.dtype, name)
        self.array = array

    def read(self, places: Sequence[Place], targets: Sequence[np.ndarray]) -> None:
        for (row, column), target in zip(places, targets, strict=True):
            np.copyto(target, self.array[row : row + target.shape[0], column : column + target.shape[1]])

    def write(self, places: Sequence[Place], sources: Sequence[np.ndarray]) -> None:
        for (row, column), source in zip(places, sources, strict=True):
            self.array[row : row + source.shape[0], column : column + source.shape[1]] = source

    def value(self) -> Any:
        return self.array


class StoredTile:
    """What a graph has under the handle of a tile that is no memory: which block of which matrix it is.

    Attributes
    ----------
    sum
        A checksum of it, where somebody wanted one when it was read or written.
    """

    __slots__ = ("column", "matrix", "row", "shape", "sum")

    nbytes = 0
    """Bytes of memory that it takes."""

    def __init__(self, matrix: Stored, row: int, column: int, shape: tuple[int, int]) -> None:
        self.matrix, self.row, self.column, self.shape = matrix, row, column, shape
        self.sum = ""


class StoredTiles:
    """The tiles of a stored matrix, as data of a graph: ``data={"A": StoredTiles(matrix, tile_size)}``.

    ``height`` rows and ``tile_size`` columns in each, by default as many.
    """

    def __init__(self, matrix: Stored, tile_size: int, height: int | None = None) -> None:
        self.matrix, self.tile_size, self.height = matrix, tile_size, tile_size if height is None else height

    @property
    def mt(self) -> int:
        """Tile rows."""
        return -(-self.matrix.shape[0] // self.height)

    def __getitem__(self, index: tuple[int, int]) -> StoredTile:
        i, j = index
        row, column = i * self.height, j * self.tile_size
        m, n = self.matrix.shape
        return StoredTile(self.matrix, row, column, (min(self.height, m - row), min(self.tile_size, n - column)))


_MOST = 1 << 24


def check_tiles(matrix: Stored, nb: int) -> None:
    """ValueError for more tiles than a graph can have: a damaged file may say that it is huge, and plans take long."""
    m, n = matrix.shape
    tiles = -(-m // nb) * -(-n // nb)
    if tiles > _MOST:
        raise ValueError(
            f"{matrix.name} says that it has {m} x {n} numbers: {tiles:.1e} tiles of {nb}, and a graph can have "
            f"{_MOST:.1e}; with a larger tile_size= there are fewer"
        )
