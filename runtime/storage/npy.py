"""Matrices in .npy files, and in the files of memory maps."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from tilewright.host.files import open_regular
from tilewright.storage.lines import Lines
from tilewright.storage.matrix import Place, Stored

__all__ = ["RawFile", "create_npy", "open_npy", "read_npy"]

_BAND = 512  # tiles whose lines are moved by one call, which takes 1024 pieces


class RawFile(Stored):
    """A matrix that lies in a file by rows (``order="C"``) or columns (``"F"``), from byte ``offset`` on.

    Raises
    ------
    ValueError
        The file is shorter than the matrix.
    """

    def __init__(
        self, file: BinaryIO, path: Path, offset: int, shape: tuple[int, int], dtype: np.dtype, order: Literal["C", "F"]
    ) -> None:
        super().__init__(shape, dtype, str(path))
        self.file, self.path, self.offset, self.order = file, path, offset, order
        size = os.fstat(file.fileno()).st_size
        end = offset + shape[0] * shape[1] * dtype.itemsize
        if size < end:
            raise ValueError(
                f"{path} is cut off: {shape[0]} x {shape[1]} numbers of {dtype} end at byte {end}, and "
                f"the file at {size}"
            )
        self.lines = Lines(file.fileno(), offset, shape[1] if order == "C" else shape[0], dtype, str(path))

    def read(self, places: Sequence[Place], targets: Sequence[np.ndarray]) -> None:
        self._bands(places, targets, self.lines.read)

    def write(self, places: Sequence[Place], sources: Sequence[np.ndarray]) -> None:
        self._bands(places, sources, self.lines.write)

    def read_rows(self, rows: np.ndarray, column: int, targets: Sequence[np.ndarray]) -> None:
        self._by_rows().gather(rows, column, targets)

    def write_rows(self, rows: np.ndarray, column: int, sources: Sequence[np.ndarray]) -> None:
        self._by_rows().scatter(rows, column, sources)

    def _by_rows(self) -> Lines:
        if self.order != "C":
            raise ValueError(f"{self.name} lies by columns, so its rows are no lines")
        return self.lines

    def _bands(self, places: Sequence[Place], tiles: Sequence[np.ndarray], move: Callable[..., None]) -> None:
        """Blocks that stand next to each other along the lines are moved together."""
        band: list[np.ndarray] = []
        line = start = follows = 0
        for (row, column), tile in zip(places, tiles, strict=True):
            if not tile.size:
                continue
            here = (row, column, tile) if self.order == "C" else (column, row, tile.T)
            beside = band and (here[0], here[1], len(here[2])) == (line, follows, len(band[0]))
            if beside and len(band) < _BAND:
                band.append(here[2])
            else:
                if band:
                    move(line, start, band)
                line, start, band = here[0], here[1], [here[2]]
            follows = here[1] + here[2].shape[1]
        if band:
            move(line, start, band)

    def sync(self) -> None:
        try:
            getattr(os, "fdatasync", os.fsync)(self.file.fileno())
        except OSError as error:
            raise type(error)(error.errno, f"cannot write {self.name}: {error.strerror}") from error

    def opening(self) -> tuple[Callable[..., Stored], tuple[Any, ...]]:
        name = self.file.name
        reach = os.path.abspath(name) if isinstance(name, str) else f"/proc/{os.getpid()}/fd/{self.file.fileno()}"
        return _opened, (reach, self.path, "+" in self.file.mode, self.offset, self.shape, self.dtype, self.order)

    def close(self) -> None:
        self.file.close()

    def value(self) -> Any:
        return np.load(self.path, mmap_mode="r")


def _opened(reach: str, path: Path, writes: bool, *what: Any) -> RawFile:
    """The file of another process, which may have no name but there."""
    try:
        file = open(reach, "r+b" if writes else "rb", buffering=0)  # noqa: SIM115 - closed with the matrix
    except OSError as error:
        raise type(error)(error.errno, f"a rank cannot open {path} ({reach}): {error.strerror}") from error
    found = RawFile(file, path, *what)
    weakref.finalize(found, file.close)
    return found


def open_npy(path: Path) -> RawFile:
    """The matrix in a .npy file, to be read.

    Raises
    ------
    OSError
        There is no such file, or it may not be read.
    ValueError
        It is no .npy file, has no two dimensions, or ends too early.
    """
    file = open_regular(path)
    try:
        return read_npy(file, path)
    except BaseException:
        file.close()
        raise


def read_npy(file: BinaryIO, path: Path) -> RawFile:
    """The matrix in an open .npy file, at whose beginning it stands; see `open_npy`."""
    shape, fortran, dtype = _header(file, path)
    if len(shape) != 2:
        raise ValueError(f"{path} must be 2-D, not of shape {shape}")
    if min(shape) < 0:
        raise ValueError(f"{path} is no .npy file: its shape is {shape}")
    return RawFile(file, path, file.tell(), (shape[0], shape[1]), dtype, "F" if fortran else "C")


def create_npy(file: BinaryIO, path: Path, shape: tuple[int, int], dtype: Any, order: Literal["C", "F"]) -> RawFile:
    """A .npy file of zeros in an open, empty file, which takes room on the disk where it is written."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": order == "F", "shape": shape}
    try:
        np.lib.format.write_array_header_1_0(file, header)
        offset = file.tell()
        os.ftruncate(file.fileno(), offset + shape[0] * shape[1] * np.dtype(dtype).itemsize)
    except OSError as error:
        raise type(error)(error.errno, f"cannot write {path}: {error.strerror}") from error
    return RawFile(file, path, offset, shape, np.dtype(dtype), order)


def _header(file: BinaryIO, path: Path) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(file)
        if version == (2, 0):
            return np.lib.format.read_array_header_2_0(file)
    except ValueError as error:
        raise ValueError(f"{path} is no .npy file: {error}") from None
    raise ValueError(f"{path} is a .npy file of version {version}, which has fields; a matrix has none")
