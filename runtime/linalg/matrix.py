"""What users pass as a matrix, seen as tiles; and the result in the same kind."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilewright.arguments import LAPACK, dense, is_tensor, like, overlaps
from tilewright.engine import run
from tilewright.graph import R, TaskGraph
from tilewright.host.cores import cores
from tilewright.host.memory import LARGE, room, zeros
from tilewright.kernels.layout import row_ld
from tilewright.ops import finite
from tilewright.scalars import positive
from tilewright.tiles import TiledMatrix

__all__ = [
    "Matrix",
    "Triangle",
    "check_finite",
    "check_finite_lower",
    "factor_dtype",
    "first_not_finite",
    "is_device_tensor",
    "is_tensor",
]


_KEPT = 1 << 25  # bytes; beyond, a triangle that nobody writes is worth more than pages that are there


class Matrix:
    """The m x n argument of a routine, as tiles; ``what`` in messages.

    Kernels work on rows, in one order of adding up; so the tiles to write lie by rows, whatever the order of the
    matrix in memory, and bits do not depend on it.

    Attributes
    ----------
    shape, dtype
        The dtype is that to compute in.
    tile_size
        That of the TiledMatrix that was given, else None.
    in_place
        Whether tasks write into what was given.
    put_back
        Whether the result is made elsewhere and then copied into what was given.
    """

    def __init__(
        self, a: Any, *, overwrite: bool = False, what: str = "the matrix a", option: str = "overwrite_a"
    ) -> None:
        self.given, self.what = a, what
        self.tiled = isinstance(a, TiledMatrix)
        self.tensor = is_tensor(a)
        array: Any = _plain(a, what) if self.tiled else _read(a, what)
        if len(array.shape) != 2:
            raise ValueError(f"{what} must be 2-D, not of shape {tuple(array.shape)}")
        self._check_shape(array.shape, what)
        self.dtype = factor_dtype(array.dtype)
        if array.dtype.kind in "biu":
            whole = (array.to_numpy() if self.tiled else array).astype(self.dtype)
            array = TiledMatrix.view(whole, a.tile_size) if self.tiled else whole
        if overwrite:
            _check_overwrite(a, what, option)
        self.array = array
        self.in_given = array is a if self.tiled else _lies_in(array, a)
        """Whether what is written in place is written into the argument itself, and not into a copy of it."""
        self.in_place = overwrite and array.dtype == self.dtype
        self.put_back = False
        if self.in_place:
            self._choose_place()
        self.shape: tuple[int, int] = self.array.shape
        self.tile_size: int | None = a.tile_size if self.tiled else None

    def _check_shape(self, shape: tuple[int, ...], what: str) -> None:
        """ValueError for a shape that the routine does not take."""

    def _choose_place(self) -> None:
        """What to do with a matrix that may be overwritten."""
        if not (self.tiled and self.array.packed):
            whole = self.array.to_numpy() if self.tiled else self.array
            self.in_place = bool(row_ld(whole))
            self.put_back = not self.in_place

    def source(self, tile_size: int) -> TiledMatrix:
        """The tiles to read."""
        tile_size = positive(tile_size, "tile_size")
        if self.tiled and tile_size != self.tile_size:
            raise ValueError(f"tile_size={tile_size}, but the TiledMatrix has tiles of {self.tile_size}")
        self.tiles: TiledMatrix = self.array if self.tiled else TiledMatrix.view(self.array, tile_size)
        return self.tiles

    def target(self) -> TiledMatrix:
        """The tiles that become the result, by rows, after `source`: the source itself in place, else new ones."""
        source = self.tiles
        if self.in_place:
            return source
        if self.tiled:
            return TiledMatrix.empty(source.shape, source.tile_size, self.dtype)
        return TiledMatrix.view(zeros(source.shape, self.dtype), source.tile_size)

    def result(self, target: TiledMatrix) -> Any:
        """The result in the kind that was given."""
        if self.in_place and self.in_given:
            return self.given
        if self.put_back and self.in_given:
            np.copyto(self.array.to_numpy() if self.tiled else self.array, target.to_numpy())
            return self.given
        return target if self.tiled else like(target.to_numpy(), self.given)

    def check_finite(self, *, optional: bool = True) -> None:
        """ValueError with the place of the first NaN or infinity; ``optional`` if the caller can leave it out."""
        check_finite(self.tiles, cores(), "all", self.what, optional=optional)


class Triangle(Matrix):
    """A square matrix of which one triangle is read, and becomes a triangle.

    The lower triangle of A^T holds the upper triangle of A, and U^T is the lower factor of A^T. So ``lower=False``
    is the same algorithm on transposed views, with no copy. In place in a matrix that lies by columns the other
    triangle is the room for tiles by rows: see `turned`.

    Attributes
    ----------
    n
        Its order.
    turned
        Whether the triangle is turned over the diagonal before the routine and back after it.
    clear
        Whether there may be anything above the diagonal of the `target`; else there are zeros.
    """

    turned = False

    def __init__(self, a: Any, *, lower: bool = True, overwrite: bool = False, what: str = "the matrix a") -> None:
        self.lower = lower
        super().__init__(a, overwrite=overwrite, what=what)
        self.n = self.shape[0]
        if not (lower or self.tiled):
            self.array = self.array.T

    def _check_shape(self, shape: tuple[int, ...], what: str) -> None:
        if shape[0] != shape[1]:
            raise ValueError(f"{what} must be square, not {shape[0]} x {shape[1]}")

    def _choose_place(self) -> None:
        if self.tiled and self.array.packed:
            self.in_place = self.lower and (not len(self.array) or bool(row_ld(self.array[0, 0])))
            self.put_back = not self.in_place
            return
        whole = self.array.to_numpy() if self.tiled else self.array
        whole = whole if self.lower else whole.T
        self.turned = bool(row_ld(whole.T) and not row_ld(whole))
        self.in_place = bool(row_ld(whole)) or self.turned  # else strided both ways: rows are made elsewhere

    def source(self, tile_size: int) -> TiledMatrix:
        """The tiles to read, the lower triangle of them."""
        tiles = super().source(tile_size)
        if self.tiled and not self.lower:
            self.tiles = tiles = tiles.T
        return tiles

    def target(self, used_again: bool = False) -> TiledMatrix:
        """As `Matrix.target`. ``used_again`` lets one that is not very large have the memory of one that is gone."""
        self.clear = self.in_place
        if self.in_place:
            return self.tiles.T if self.turned else self.tiles
        if used_again and not self.tiled and LARGE <= self.n**2 * self.dtype.itemsize <= _KEPT:
            self.clear = True
            return TiledMatrix.view(room(self.shape, self.dtype), self.tiles.tile_size)
        return super().target()

    def result(self, target: TiledMatrix) -> Any:
        """The lower triangle, or the upper one, in the kind that was given."""
        if self.in_place and self.in_given:
            return self.given
        factor = target if self.lower != self.turned else target.T
        if self.put_back:
            for i, j in self.given:
                np.copyto(self.given[i, j], factor[i, j])
            return self.given
        return factor if self.tiled else like(factor.to_numpy(), self.given)

    def factor(self, tile_size: int, dtype: np.dtype, part: str) -> TiledMatrix:
        """The tiles of a factor; converted if that is needed, its ``part`` that is read, or "diagonal".

        Nobody has written the other tiles, maybe: what is in them need not be numbers.
        """
        tiles = self.source(tile_size)
        if tiles.dtype == dtype:
            return tiles
        converted = TiledMatrix.view(zeros(tiles.shape, dtype), tiles.tile_size)
        for i, j in tiles:
            if i == j:
                n = len(tiles[i, i])
                read = np.eye(n, dtype=bool) if part == "diagonal" else np.tri(n, dtype=bool)
                np.copyto(converted[i, i], tiles[i, i], where=read.T if part == "upper" else read)
            elif part == ("lower" if i > j else "upper"):
                converted[i, j][...] = tiles[i, j]
        return converted

    def whole(self) -> TiledMatrix:
        """Zeros of the shape of the matrix, to be filled on both sides of the diagonal."""
        return TiledMatrix.view(np.zeros(self.shape, self.dtype), self.tiles.tile_size)

    def array_of(self, tiles: TiledMatrix) -> Any:
        """Tiles that `whole` made as an array, or as a tensor where one was given."""
        return like(tiles.to_numpy(), self.given)

    def scalars(self, count: int) -> list[np.ndarray]:
        """So many (1, 1) buffers of FP64."""
        return [np.zeros((1, 1)) for _ in range(count)]

    def check_finite(self, part: str = "lower", *, optional: bool = True) -> None:
        """ValueError with the place of the first NaN or infinity of that triangle of `tiles`."""
        check_finite(self.tiles, cores(), part, self.what, transposed=not self.lower, optional=optional)

    def check_diagonal(self, what: str = "the factor") -> None:
        """LinAlgError with the place of the first zero on the diagonal of ``what``."""
        for k in range(self.tiles.nt):
            zero = np.flatnonzero(self.tiles[k, k].diagonal() == 0)
            if len(zero):
                place = self.tiles.rows(k).start + int(zero[0])
                raise np.linalg.LinAlgError(f"{what} is singular: its diagonal is zero at ({place}, {place})")


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


def _check_overwrite(a: Any, what: str, option: str) -> None:
    """ValueError if the argument is memory that cannot be written, or that several elements share."""
    array = a.to_numpy() if isinstance(a, TiledMatrix) and not a.packed else a
    if not isinstance(array, np.ndarray):
        if is_tensor(a) and overlaps(a.detach().resolve_conj().resolve_neg().numpy()):
            raise ValueError(_overlapping(what, option))
        if isinstance(a, TiledMatrix) and not a.writeable:
            raise ValueError(_read_only(what, option))
        return
    if not array.flags.writeable:
        raise ValueError(_read_only(what, option))
    if overlaps(array):
        raise ValueError(_overlapping(what, option))


def _read_only(what: str, option: str) -> str:
    return f"{option}=True, but {what} is read-only; pass a copy or {option}=False"


def _overlapping(what: str, option: str) -> str:
    return (
        f"{option}=True, but entries of {what} share memory, as those of broadcasts and sliding windows do; "
        f"pass a copy or {option}=False"
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
    return f"no kernel for dtype {dtype}; convert the matrix to one of {', '.join(LAPACK)}"


def check_finite_lower(tiles: TiledMatrix, workers: int, lower: bool = True, *, optional: bool = True) -> None:
    """ValueError if the lower triangle, with ``lower=False`` of the transposed matrix, has a NaN or an infinity."""
    check_finite(tiles, workers, "lower", "the matrix a", transposed=not lower, optional=optional)


def check_finite(
    tiles: TiledMatrix, workers: int, part: str, what: str, *, transposed: bool = False, optional: bool = True
) -> None:
    """ValueError if there is a NaN or an infinity. A graph of its own, on all workers.

    Parameters
    ----------
    part
        ``"all"``, or the ``"lower"`` or ``"upper"`` triangle.
    what
        Its name.
    transposed
        Whether ``tiles`` are those of the transposed matrix, for the place in the message.
    optional
        Whether the caller could have left the check out.
    """
    if tiles.dtype.kind not in "fc":
        return
    g = TaskGraph("check finite")
    A = g.handles("A")
    for i, j in tiles:
        if part == "all" or i == j or part == ("lower" if i > j else "upper"):
            g.insert(finite, R(A[i, j]), part if i == j else "all")
    try:
        run(g, {"A": tiles}, scheduler="eager", workers=workers)
    except ValueError:
        hint = "; check_finite=False skips this check" if optional else ""
        place = first_not_finite(tiles, part)
        assert place is not None
        place = place[::-1] if transposed else place
        raise ValueError(f"{what} has a NaN or infinity at {place}{hint}") from None


def first_not_finite(tiles: TiledMatrix, part: str = "all") -> tuple[int, int] | None:
    """Where the first NaN or infinity is, row by row of tiles, of "all" or the "lower" or "upper" triangle."""
    of = {"lower": np.tril, "upper": np.triu}.get(part)
    for i, j in tiles:
        if (part == "lower" and i < j) or (part == "upper" and i > j):
            continue
        tile = tiles[i, j]
        with np.errstate(all="ignore"):
            if np.isfinite(tile.sum()):  # it is not where one of them is not
                continue
        bad = ~np.isfinite(tile)
        places = np.argwhere(of(bad) if of and i == j else bad)
        if len(places):
            row, column = places[0] + (tiles.rows(i).start, tiles.columns(j).start)
            return int(row), int(column)
    return None
