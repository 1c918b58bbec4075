"""From what a caller names to a matrix outside of memory: sources to read, and outputs that are whole or not there."""

from __future__ import annotations

import mmap
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from tilewright.arguments import LAPACK, dense
from tilewright.storage import libraries
from tilewright.storage.matrix import Held, Stored
from tilewright.storage.npy import RawFile, create_npy, open_npy, read_npy

__all__ = ["Output", "folder_of", "hold", "is_stored", "open_source", "scratch_file"]

_KINDS = ".npy, .zarr, .h5 or .hdf5, with :/name behind it for a dataset"


def is_stored(a: Any) -> bool:
    """Whether it names a matrix that is not in memory: a path, an array of zarr or h5py, a `Stored` one."""
    return isinstance(a, str | Path | Stored) or libraries.is_library_array(a)


def open_source(a: Any, what: str = "the matrix a") -> Stored:
    """The matrix to read; one of a path is closed by its `Stored.close`.

    Parameters
    ----------
    a
        A path, an array of zarr or h5py, a memory map, a `Stored` matrix such as a `TileFunction`, or an array.

    Raises
    ------
    OSError, ValueError, TypeError
        It is not there, not 2-D, cut off, or has a dtype that is not one of LAPACK's four in native byte order.
    """
    if isinstance(a, Stored):
        source: Stored = a
    elif isinstance(a, str | Path):
        source = _open(a, what)
    elif libraries.is_library_array(a):
        source = libraries.library(a, what)
    elif (mapped := _mapped(a)) is not None:
        source = mapped
    else:
        array = dense(a, what)
        if array.ndim != 2:
            raise ValueError(f"{what} must be 2-D, not of shape {array.shape}")
        source = Held(array if array.dtype.kind not in "biu" else array.astype(np.float64), what)
    if str(source.dtype) not in LAPACK:  # another byte order has another name
        dtype = source.dtype
        source.close()
        raise TypeError(
            f"{source.name} has dtype {dtype}; out of core a matrix has one of {', '.join(LAPACK)}, in "
            f"native byte order, so convert it first"
        )
    return source


def _open(path: str | Path, what: str) -> Stored:
    file, kind, dataset = _parts(path, what)
    if kind == "zarr":
        return libraries.open_zarr(file)
    if kind == "hdf5":
        return libraries.open_hdf5(file, dataset)
    return open_npy(file)


def _parts(path: str | Path, what: str) -> tuple[Path, str, str]:
    """File, kind, and dataset if one is named."""
    said = str(path)
    text, mark, dataset = said.partition(":/")
    if isinstance(path, Path) and not mark and said.endswith(":"):  # of which it took the last slash
        text, mark = said[:-1], ":/"
    kinds = {".npy": "npy", ".zarr": "zarr", ".h5": "hdf5", ".hdf5": "hdf5"}
    kind = kinds.get(Path(text).suffix.lower(), "")
    if not kind or (mark and kind != "hdf5"):
        raise ValueError(f"{what} must end in {_KINDS}, not {said!r}")
    if "\0" in said:  # HDF5 would end the name there
        raise ValueError(f"{what} has a zero byte in its name: {said!r}")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise ValueError(
            f"{what}: names of files are {sys.getfilesystemencoding()} in this locale, which cannot say {text!a}; set "
            f"PYTHONUTF8=1 or LC_ALL=C.UTF-8"
        ) from None
    names = [name for name in dataset.split("/") if name not in ("", ".")]
    if mark and not names:
        raise ValueError(
            f"{what}: {said!r} is the root of the file, a group, not a dataset; name one as in '{text}:/name', or "
            f"leave out ':/' for the only one"
        )
    return Path(text), kind, "/".join(names)


def _mapped(a: Any) -> RawFile | None:
    """A whole memory map as its file, which is then read past the map; None for a part of one, and all else."""
    if not isinstance(a, np.memmap) or a.ndim != 2 or not isinstance(a.base, mmap.mmap) or a.filename is None:
        return None
    if not (a.flags.c_contiguous or a.flags.f_contiguous):
        return None
    path = Path(str(a.filename))
    order: Literal["C", "F"] = "C" if a.flags.c_contiguous else "F"
    try:
        file = path.open("rb", buffering=0)
    except OSError:
        return None
    start = int(a.offset)
    return RawFile(file, path, start, (a.shape[0], a.shape[1]), np.dtype(a.dtype), order)


def hold(file: BinaryIO | int, message: str) -> None:
    """Have a file or folder for this process alone until it is closed. BlockingIOError with ``message`` if it is not.

    A process that ends, however, lets go of it.
    """
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(11, message) from None


def folder_of(path: str | Path) -> Path:
    """The folder that a file is in, also of ``a.h5:/group/a``, a dataset in a file."""
    return Path(str(path).partition(":/")[0]).parent


def scratch_file(folder: Path, shape: tuple[int, int], dtype: Any, order: Literal["C", "F"]) -> RawFile:
    """A matrix in a file without a name, which is gone when it is closed or the process ends."""
    import tempfile

    try:
        file: Any = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed with the matrix
    except OSError as error:
        raise type(error)(error.errno, f"cannot write in {folder}: {error.strerror}") from error
    return create_npy(file, Path(folder) / "(scratch)", shape, dtype, order)


class Output:
    """Where a result goes. Until it is whole it stands at ``L.npy.part`` beside ``L.npy``, where one run can write.

    Parameters
    ----------
    out
        A path; or an array to fill that the caller has opened for writing: a memory map, or one of zarr or h5py.
    shape, dtype, order, tile_size
        Those of the result.
    overwrite
        Whether a file that is there may be replaced.
    again
        Whether to go on with what an earlier run left.

    Attributes
    ----------
    matrix
        What to write into.

    Raises
    ------
    FileExistsError
        There is something, and ``overwrite`` does not say that it may go.
    BlockingIOError
        Another run writes to it.
    OSError, ValueError, TypeError
        It cannot be written, has another shape or dtype, or no suffix that is known.
    """

    def __init__(
        self,
        out: Any,
        shape: tuple[int, int],
        dtype: np.dtype,
        order: Literal["C", "F"],
        tile_size: int,
        *,
        overwrite: bool = False,
        again: bool = False,
    ) -> None:
        self.path: Path | None = None
        self._holder: Any = None
        self._mine = False
        if not isinstance(out, str | Path):
            self.matrix: Stored = _filled(out, shape, dtype)
            return
        self.path, kind, dataset = _parts(out, "out")
        self.part = self.path.with_name(self.path.name + ".part")
        self._moved = again and not self.part.exists() and self.path.exists()  # that run came to its end
        if self.path.exists() and not overwrite and not self._moved:
            raise FileExistsError(17, f"{self.path} exists; overwrite_out=True replaces it")
        for place in (self.path, self.part):
            _check_kind(place, kind)
        if self._moved:
            os.replace(self.path, self.part)
        try:
            self._open(kind, dataset, shape, dtype, order, tile_size, again)
        except BaseException:
            self.abandon(keep=again or not self._mine)
            raise

    def _open(
        self,
        kind: str,
        dataset: str,
        shape: tuple[int, int],
        dtype: np.dtype,
        order: Literal["C", "F"],
        tile_size: int,
        again: bool,
    ) -> None:
        assert self.path is not None
        there = self.part.exists()
        if again and not there:
            raise FileNotFoundError(2, f"{self.part} is gone, in which the run to go on with has its result")
        try:
            if kind == "zarr":
                self.part.mkdir(exist_ok=True)
                self._holder = os.open(self.part, os.O_RDONLY)
            else:
                self._holder = self.part.open("r+b" if there else "w+b", buffering=0)
        except OSError as error:
            raise type(error)(error.errno, f"cannot write {self.path}: {error.strerror}") from error
        hold(self._holder, f"another run writes {self.path}")
        self._mine = True
        if kind == "zarr":
            self.matrix = (
                libraries.open_zarr(self.part, "r+")
                if again
                else libraries.create_zarr(self.part, self.path, shape, dtype, tile_size)
            )
        elif again:
            file = self._holder
            self.matrix = (
                read_npy(file, self.part) if kind == "npy" else libraries.reopen_hdf5(file, self.part, dataset)
            )
        else:
            if os.fstat(self._holder.fileno()).st_size:  # ext4 waits at the end for what was cut to nothing before
                self._holder.truncate(0)
            self.matrix = (
                create_npy(self._holder, self.path, shape, dtype, order)
                if kind == "npy"
                else libraries.create_hdf5(self._holder, self.part, self.path, dataset, shape, dtype)
            )
        if (self.matrix.shape, self.matrix.dtype) != (shape, dtype):
            raise ValueError(f"{self.part} has {_said(self.matrix)}, not {shape[0]} x {shape[1]} of {dtype}")

    def finish(self, *, sync: bool = False) -> Any:
        """The whole result at its place, to be read; with ``sync`` after it would survive a loss of power."""
        if sync or not isinstance(self.matrix, RawFile):
            self.matrix.sync()
        if self.path is None:
            return self.matrix.value()
        if self.matrix.__class__ is libraries.LibraryArray:
            self.matrix.close()
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        os.replace(self.part, self.path)
        self._let_go()
        if self.path.suffix.lower() == ".npy":
            return np.load(self.path, mmap_mode="r")
        return open_source(self.path).value()

    def abandon(self, *, keep: bool) -> None:
        """Leave what was written for a later run, or remove it."""
        if self.path is None:
            return
        with suppress(Exception):
            self.matrix.close()
        if self._moved:
            with suppress(OSError):
                os.replace(self.part, self.path)
        elif not keep:
            with suppress(OSError):
                shutil.rmtree(self.part) if self.part.is_dir() else self.part.unlink()
        self._let_go()

    def _let_go(self) -> None:
        if isinstance(self._holder, int):
            os.close(self._holder)
        elif self._holder is not None:
            self._holder.close()
        self._holder = None


def _check_kind(place: Path, kind: str) -> None:
    """OSError where the result would stand in the place of something else than a result of its kind."""
    if not os.path.lexists(place) or (kind != "zarr" and place.is_symlink() and not place.exists()):
        return
    if kind != "zarr":
        if place.is_dir():
            raise IsADirectoryError(21, f"cannot write {place}: it is a folder, which is not replaced")
        if not place.is_file():
            raise OSError(22, f"cannot write {place}: it is no regular file")
    elif place.is_symlink() or not place.is_dir():
        raise NotADirectoryError(20, f"cannot write {place}: an array of zarr is a folder, and this is none")
    elif any(place.iterdir()) and not libraries.is_zarr_array(place):
        raise FileExistsError(17, f"cannot write {place}: it is a folder without an array of zarr, so it stays")


def _filled(out: Any, shape: tuple[int, int], dtype: np.dtype) -> Stored:
    """An array of the caller, which is there to be written."""
    if isinstance(out, np.memmap) or type(out) is np.ndarray:
        if not out.flags.writeable:
            raise ValueError("out is read-only")
        found: Stored = Held(out, "out")
    elif libraries.is_library_array(out):
        found = libraries.library(out, "out")
    else:
        raise TypeError(f"out must be a path that ends in {_KINDS}, or an array to fill, not {type(out).__name__}")
    if (found.shape, found.dtype) != (shape, dtype):
        raise ValueError(f"out has {_said(found)}, not {shape[0]} x {shape[1]} of {dtype}")
    return found


def _said(matrix: Stored) -> str:
    return f"{matrix.shape[0]} x {matrix.shape[1]} numbers of {matrix.dtype}"
