"""What users pass as a matrix, seen as tiles of its lower triangle; and the result in the same kind."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilewright.arguments import LAPACK, dense, is_tensor, like, overlaps
from tilewright.engine import run
from tilewright.graph import R, TaskGraph
from tilewright.host.memory import LARGE, room, zeros
from tilewright.kernels.layout import row_ld
from tilewright.ops import finite
from tilewright.scalars import positive
from tilewright.tiles import TiledMatrix

__all__ = ["Matrix", "check_finite_lower", "factor_dtype", "is_device_tensor", "is_tensor"]


_KEPT = 1 << 25  # bytes; beyond, a triangle that nobody writes is worth more than pages that are there


class Matrix:
    """The argument of a factorisation, ``what`` in messages.

    The lower triangle of A^T holds the upper triangle of A, and U^T is the lower factor of A^T. So ``lower=False``
    is the same algorithm on transposed views, with no copy.

    Kernels work on rows, in one order of adding up; so the tiles to write lie by rows, whatever the order of the
    matrix in memory, and bits do not depend on it. In place in a matrix that lies by columns the other triangle is the
    room for that: see `turned`.
    """

    def __init__(self, a: Any, *, lower: bool, overwrite: bool, what: str = "the matrix a") -> None:
        self.given = a
        self.lower = lower
        self.tiled = isinstance(a, TiledMatrix)
        self.tensor = is_tensor(a)
        array: Any = _plain(a, what) if self.tiled else _read(a, what)
        if len(array.shape) != 2:
            raise ValueError(f"{what} must be 2-D, not of shape {tuple(array.shape)}")
        if array.shape[0] != array.shape[1]:
            raise ValueError(f"{what} must be square, not {array.shape[0]} x {array.shape[1]}")
        self.dtype = factor_dtype(array.dtype)
        if array.dtype.kind in "biu":
            whole = (array.to_numpy() if self.tiled else array).astype(self.dtype)
            array = TiledMatrix.view(whole, a.tile_size) if self.tiled else whole
        if overwrite:
            _check_overwrite(a, what)
        self.in_place = overwrite and array.dtype == self.dtype
        self.turned = False
        """The triangle is turned over the diagonal before the factorisation and back after it."""
        self.put_back = False
        """The factor is made elsewhere and then copied into the argument."""
        if self.in_place and self.tiled and array.packed:
            self.put_back = not lower
            self.in_place = lower
        elif self.in_place:
            whole = array.to_numpy() if self.tiled else array
            whole = whole if lower else whole.T
            self.turned = bool(row_ld(whole.T) and not row_ld(whole))
            self.in_place = bool(row_ld(whole)) or self.turned  # else strided both ways: rows are made elsewhere
        self.in_given = array is a if self.tiled else _lies_in(array, a)
        """Whether what is written in place is written into the argument itself, and not into a copy of it."""
        self.array = array if lower or self.tiled else array.T
        self.n: int = array.shape[0]
        self.tile_size: int | None = a.tile_size if self.tiled else None

    def source(self, tile_size: int) -> TiledMatrix:
        """The tiles to factor, their lower triangle the one to read."""
        tile_size = positive(tile_size, "tile_size")
        if self.tiled:
            if tile_size != self.tile_size:
                raise ValueError(f"tile_size={tile_size}, but the TiledMatrix has tiles of {self.tile_size}")
            tiles: TiledMatrix = self.array if self.lower else self.array.T
        else:
            tiles = TiledMatrix.view(self.array, tile_size)
        self._source = tiles
        return tiles

    def target(self, tile_size: int, used_again: bool = False) -> TiledMatrix:
        """The tiles that become the factor, by rows: the source itself in place, else new ones.

        `clear` says whether there may be anything above the diagonal; else there are zeros. ``used_again`` lets a
        matrix that is not very large have the memory of an earlier one that is gone.
        """
        self.clear = self.in_place
        if self.in_place:
            return self._source.T if self.turned else self._source
        if self.tiled:
            return TiledMatrix.empty(self.array.shape, tile_size, self.dtype)
        shape = self.n, self.n
        if used_again and LARGE <= self.n**2 * self.dtype.itemsize <= _KEPT:
            self.clear = True
            return TiledMatrix.view(room(shape, self.dtype), int(tile_size))
        return TiledMatrix.view(zeros(shape, self.dtype), int(tile_size))

    def result(self, target: TiledMatrix) -> Any:
        """The factor, of the kind that was given."""
        if self.in_place and self.in_given:
            return self.given
        factor = target if self.lower != self.turned else target.T
        if self.put_back:
            for i, j in self.given:
                np.copyto(self.given[i, j], factor[i, j])
            return self.given
        return factor if self.tiled else like(factor.to_numpy(), self.given)


def is_device_tensor(a: Any) -> bool:
    """Whether it is a torch tensor on a device that the kernel table has rows for."""
    return is_tensor(a) and a.device.type == "cuda"


def _read(a: Any, what: str) -> np.ndarray:
    """`dense`, but a tensor's dtype without kernels is refused by its own name."""
    if is_tensor(a) and (a.is_floating_point() or a.is_complex()):
        name = str(a.dtype)
        if name.removeprefix("torch.") not in LAPACK:
            raise TypeError(_unsupported(name))
    return dense(a, what)


def _plain(tiles: TiledMatrix, what: str) -> TiledMatrix:
    """The same tiles; of a copy, where `dense` would make one of the array that they view."""
    if tiles.packed:
        return tiles
    array = dense(tiles.to_numpy(), what)
    return tiles if array is tiles.to_numpy() else TiledMatrix.view(array, tiles.tile_size)


def _lies_in(array: np.ndarray, a: Any) -> bool:
    """Whether an array that `dense` made of ``a`` is the memory of ``a``."""
    if is_tensor(a):
        return bool(a.data_ptr() == array.__array_interface__["data"][0])
    return isinstance(a, np.ndarray) and bool(np.may_share_memory(a, array))


def _check_overwrite(a: Any, what: str) -> None:
    """ValueError if the argument is memory that cannot be written, or that several elements share."""
    array = a.to_numpy() if isinstance(a, TiledMatrix) and not a.packed else a
    if not isinstance(array, np.ndarray):
        if is_tensor(a) and overlaps(a.detach().resolve_conj().resolve_neg().numpy()):
            raise ValueError(_overlapping(what))
        if isinstance(a, TiledMatrix) and not a.writeable:
            raise ValueError(_read_only(what))
        return
    if not array.flags.writeable:
        raise ValueError(_read_only(what))
    if overlaps(array):
        raise ValueError(_overlapping(what))


def _read_only(what: str) -> str:
    return f"overwrite_a=True, but {what} is read-only; pass a copy or overwrite_a=False"


def _overlapping(what: str) -> str:
    return (
        f"overwrite_a=True, but entries of {what} share memory, as those of broadcasts and sliding windows do; "
        f"pass a copy or overwrite_a=False"
    )


def factor_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype to compute in: one of the four of LAPACK, in native byte order."""
    if dtype.kind in "biu":
        return np.dtype(np.float64)
    native = dtype.newbyteorder("=")
    if str(native) not in LAPACK:
        raise TypeError(_unsupported(str(dtype)))
    return native


def _unsupported(dtype: str) -> str:
    return f"no Cholesky kernel for dtype {dtype}; convert the matrix to one of {', '.join(LAPACK)}"


def check_finite_lower(tiles: TiledMatrix, workers: int, lower: bool = True, *, optional: bool = True) -> None:
    """ValueError if the lower triangle has a NaN or an infinity. A graph of its own, on all workers.

    ``lower=False`` says that ``tiles`` are those of the transposed matrix, for the place in the message; ``optional``
    that the caller could have left the check out.
    """
    if tiles.dtype.kind not in "fc":
        return
    g = TaskGraph("check finite")
    A = g.handles("A")
    for i in range(tiles.nt):
        for j in range(i + 1):
            g.insert(finite, R(A[i, j]), "lower" if i == j else "all")
    try:
        run(g, {"A": tiles}, scheduler="eager", workers=workers)
    except ValueError:
        hint = "; check_finite=False skips this check" if optional else ""
        raise ValueError(_first_not_finite(tiles, lower) + hint) from None


def _first_not_finite(tiles: TiledMatrix, lower: bool) -> str:
    """Where the first NaN or infinity of the lower triangle is, row by row of tiles."""
    for i in range(tiles.nt):
        for j in range(i + 1):
            bad = ~np.isfinite(tiles[i, j])
            places = np.argwhere(np.tril(bad) if i == j else bad)
            if len(places):
                row, column = places[0] + (tiles.rows(i).start, tiles.columns(j).start)
                place = f"({row}, {column})" if lower else f"({column}, {row})"
                return f"the matrix a has a NaN or infinity at {place}"
    raise AssertionError("all values are finite")
