"""Blocks of a matrix in a file, line by line: rows if it lies by rows, else columns.

Lines go straight into the memory of tiles, those of several tiles together; nothing is mapped, so that what was read
does not count as memory of this process. The system is told of long lines before the first is waited for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from tilewright.kernels.columns import joined
from tilewright.kernels.scratch import lines as apart
from tilewright.storage.batches import moved

__all__ = ["Lines"]

_SCRATCH = 1 << 18  # bytes of lines that are turned at a time
_FEW = 4  # lines for which a list is not worth it
_AHEAD = 1 << 16  # bytes of a line from which on telling the system of it beforehand is worth a call


class Lines:
    """A file of numbers: ``count`` lines of ``length`` items, from byte ``offset`` on.

    ``tiles`` in its methods lie next to each other in one band of lines; each is given line by line, the transpose of
    a tile where lines are columns.
    """

    def __init__(self, descriptor: int, offset: int, length: int, dtype: np.dtype, name: str) -> None:
        self.descriptor, self.offset, self.length, self.dtype, self.name = descriptor, offset, length, dtype, name

    def read(self, line: int, start: int, tiles: Sequence[np.ndarray]) -> None:
        """Fill tiles from item ``start`` of ``line`` on."""
        self._go(line, start, tiles, self._fill, fills=True)

    def write(self, line: int, start: int, tiles: Sequence[np.ndarray]) -> None:
        """The same from tiles to the file."""
        self._go(line, start, tiles, self._put, fills=False)

    def _go(
        self, line: int, start: int, tiles: Sequence[np.ndarray], move: Callable[..., None], *, fills: bool
    ) -> None:
        if len(tiles) > 1 and (whole := joined([tile.T for tile in tiles])) is not None:
            tiles = [whole.T]
        count, width = len(tiles[0]), sum(tile.shape[1] for tile in tiles)
        item = self.dtype.itemsize
        place = self.offset + (line * self.length + start) * item
        step, size = self.length * item, width * item
        if fills and count > 1 and size >= _AHEAD and hasattr(os, "posix_fadvise"):
            for row in range(count):
                os.posix_fadvise(self.descriptor, place + row * step, size, os.POSIX_FADV_WILLNEED)
        if width == self.length and len(tiles) == 1 and tiles[0].flags.c_contiguous:
            move(place, [tiles[0].reshape(-1)])
        else:
            self._all_lines(place + step * np.arange(count), width, tiles, fills)

    def gather(self, lines: np.ndarray, start: int, tiles: Sequence[np.ndarray]) -> None:
        """Fill tiles from item ``start`` of these lines on, which may lie anywhere."""
        self._anywhere(lines, start, tiles, True)

    def scatter(self, lines: np.ndarray, start: int, tiles: Sequence[np.ndarray]) -> None:
        """The same from tiles to the file."""
        self._anywhere(lines, start, tiles, False)

    def _anywhere(self, lines: np.ndarray, start: int, tiles: Sequence[np.ndarray], fills: bool) -> None:
        places = self.offset + (lines.astype(np.int64) * self.length + start) * self.dtype.itemsize
        self._all_lines(places, sum(tile.shape[1] for tile in tiles), tiles, fills)

    def _all_lines(self, places: np.ndarray, width: int, tiles: Sequence[np.ndarray], fills: bool) -> None:
        if all(tile.strides[1] == self.dtype.itemsize for tile in tiles):
            self._lines(places, tiles, fills)
        else:
            self._turn(places, width, tiles, fills)

    def _turn(self, places: np.ndarray, width: int, tiles: Sequence[np.ndarray], fills: bool) -> None:
        """By way of some lines at a time, of which tiles have the transpose."""
        height = max(1, _SCRATCH // (width * self.dtype.itemsize))
        scratch = apart("turned lines", height, width, self.dtype)
        for first in range(0, len(tiles[0]), height):
            some = scratch[: min(height, len(tiles[0]) - first)]
            if fills:
                self._lines(places[first : first + len(some)], [some], fills)
            at = 0
            for tile in tiles:
                here, there = tile[first : first + len(some)], some[:, at : at + tile.shape[1]]
                np.copyto(*((here, there) if fills else (there, here)))
                at += tile.shape[1]
            if not fills:
                self._lines(places[first : first + len(some)], [some], fills)

    def _lines(self, places: np.ndarray, tiles: Sequence[np.ndarray], fills: bool) -> None:
        """Lines that begin at these bytes, the pieces of each in tiles by lines."""
        move = self._fill if fills else self._put
        count, size = len(tiles[0]), sum(tile.shape[1] for tile in tiles) * self.dtype.itemsize
        if len(tiles) == 1 and tiles[0].flags.c_contiguous and not np.any(np.diff(places) != size):
            move(int(places[0]), [tiles[0].reshape(-1)])
            return
        rows: Iterable[int] = range(count)
        if count >= _FEW:
            pieces = np.empty((count, len(tiles), 2), np.uint64)
            for which, tile in enumerate(tiles):
                at = tile.__array_interface__["data"][0]
                pieces[:, which, 0] = at + tile.strides[0] * np.arange(count)
                pieces[:, which, 1] = tile.shape[1] * self.dtype.itemsize
            done = moved(self.descriptor, places, pieces, write=not fills)
            if done is not None:
                rows = np.flatnonzero(done != size).tolist()  # again, to go on with or to say what is wrong
        for row in rows:
            move(int(places[row]), [tile[row] for tile in tiles])

    def _fill(self, place: int, pieces: list[np.ndarray]) -> None:
        self._all(os.preadv, place, pieces, "read")

    def _put(self, place: int, pieces: list[np.ndarray]) -> None:
        self._all(os.pwritev, place, pieces, "write")

    def _all(self, call: Callable[..., int], place: int, pieces: list[np.ndarray], what: str) -> None:
        size = sum(piece.nbytes for piece in pieces)
        try:
            done = call(self.descriptor, pieces, place)
            while done < size:
                rest: list[Any] = []
                skip = done
                for piece in pieces:
                    if skip < piece.nbytes:
                        rest.append(memoryview(piece.data).cast("B")[skip:])
                    skip = max(0, skip - piece.nbytes)
                more = call(self.descriptor, rest, place + done)
                if not more:
                    raise ValueError(f"{self.name} ends at byte {place + done}: it was cut off")
                done += more
        except OSError as error:
            raise type(error)(error.errno, f"cannot {what} {self.name}: {error.strerror}") from error
