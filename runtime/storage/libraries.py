"""Matrices in zarr arrays and HDF5 datasets, through zarr and h5py. Neither is imported before it is asked for."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from tilewright.extras import needed
from tilewright.host.files import open_regular
from tilewright.storage.matrix import Place, Stored
from tilewright.storage.npy import RawFile

__all__ = [
    "LibraryArray",
    "create_hdf5",
    "create_zarr",
    "is_library_array",
    "is_zarr_array",
    "library",
    "open_hdf5",
    "open_zarr",
    "reopen_hdf5",
]

DATASET = "matrix"
"""Name of the dataset in an HDF5 file that is made without one."""


class LibraryArray(Stored):
    """An array of a library that reads and writes rectangles: ``array[r0:r1, c0:c1]``.

    Warns
    -----
    RuntimeWarning
        It is compressed: the processor then has to unpack whatever is read.
    """

    def __init__(self, array: Any, name: str, *, one_at_a_time: bool, shown: Any = None, warns: bool = True) -> None:
        shape = tuple(map(int, array.shape or ()))  # that of an empty dataset is None
        if len(shape) != 2:
            raise ValueError(f"{name} must be 2-D, not of shape {shape}")
        super().__init__((shape[0], shape[1]), array.dtype, name)
        self.array, self._shown = array, shown
        self._turns: AbstractContextManager[Any] = threading.Lock() if one_at_a_time else nullcontext()
        if warns and _packer(array):
            warnings.warn(
                f"{name} is compressed ({_packer(array)}): each read unpacks whole chunks, which may take "
                f"longer than the disk",
                RuntimeWarning,
                stacklevel=2,
            )

    def read(self, places: Sequence[Place], targets: Sequence[np.ndarray]) -> None:
        for (row, column), target in zip(places, targets, strict=True):
            with self._turns, _damage(self.name):
                np.copyto(target, self.array[row : row + target.shape[0], column : column + target.shape[1]])

    def write(self, places: Sequence[Place], sources: Sequence[np.ndarray]) -> None:
        for (row, column), source in zip(places, sources, strict=True):
            with self._turns:
                self.array[row : row + source.shape[0], column : column + source.shape[1]] = source

    def sync(self) -> None:
        file = getattr(self.array, "file", None)
        if file is not None:
            with self._turns:
                file.flush()

    def opening(self) -> tuple[Callable[..., Stored], tuple[Any, ...]]:
        file = getattr(self.array, "file", None)
        if file is None:
            root = getattr(self.array.store, "root", None)
            if root is None:
                return _zarr_again, (self.array, self.name)
            writes = not getattr(self.array, "read_only", True)
            return _zarr_at, (str(Path(root).absolute() / self.array.path), "r+" if writes else "r", self.name)
        if file.mode != "r":
            raise TypeError(f"{self.name} is open to be written, which HDF5 lets one process do; give its path")
        return _hdf5_again, (str(Path(file.filename).absolute()), self.array.name, self.name)

    def close(self) -> None:
        """A file that was opened here is closed."""
        if self._shown is not None and getattr(self.array, "file", None) is not None:
            self.array.file.close()

    def value(self) -> Any:
        return self.array if self._shown is None else self._shown()


@contextmanager
def _damage(name: str) -> Iterator[None]:
    """A block that reads: what libraries raise for damaged chunks is an OSError that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # codecs raise anything
        raise OSError(f"cannot read {name}, which is damaged: {_inner(error)}") from error


def is_library_array(a: Any) -> bool:
    """Whether it is a zarr array or an HDF5 dataset."""
    return _library_of(a) != ""


def library(a: Any, name: str) -> LibraryArray:
    """Such an array that the caller has opened."""
    return LibraryArray(a, name, one_at_a_time=_library_of(a) == "h5py")


def _zarr_again(array: Any, name: str) -> LibraryArray:
    return LibraryArray(array, name, one_at_a_time=False, warns=False)


def _zarr_at(path: str, mode: str, name: str) -> LibraryArray:
    """An array in a folder, which ranks may see from another one."""
    zarr = needed("zarr", str(path))
    return _zarr_again(zarr.open_array(path, mode=mode), name)


def _hdf5_again(path: str, dataset: str, name: str) -> LibraryArray:
    h5py = needed("h5py", str(path))
    return LibraryArray(_hdf5(h5py, Path(path), "r")[dataset], name, one_at_a_time=True, warns=False)


def is_zarr_array(path: Path) -> bool:
    """Whether a folder has an array of zarr at its root, whole or begun. Reads a file of a few hundred bytes."""
    try:
        if (path / ".zarray").is_file():
            return True
        with open_regular(path / "zarr.json") as file:
            said = json.loads(file.read(1 << 20))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(said, dict) and said.get("node_type") == "array"


def open_zarr(path: Path, mode: Literal["r", "r+"] = "r") -> LibraryArray:
    """The array in a zarr folder. ModuleNotFoundError without zarr, OSError or ValueError if there is none."""
    zarr = needed("zarr", str(path))
    if not path.exists():
        raise FileNotFoundError(2, f"cannot read {path}: no such folder")
    try:
        array = zarr.open_array(str(path), mode=mode)
    except Exception as error:  # zarr's own
        raise ValueError(f"{path} is no zarr array: {error}") from error
    return LibraryArray(array, str(path), one_at_a_time=False, shown=lambda: array)


def create_zarr(part: Path, path: Path, shape: tuple[int, int], dtype: np.dtype, tile_size: int) -> LibraryArray:
    """A new array of zeros, a tile a chunk, not compressed, in the folder ``part``, which becomes ``path``."""
    zarr = needed("zarr", str(path))
    chunks = tuple(max(1, min(tile_size, extent)) for extent in shape)
    array = zarr.create_array(
        str(part), shape=shape, chunks=chunks, dtype=dtype, compressors=None, fill_value=0, overwrite=True
    )
    return LibraryArray(array, str(path), one_at_a_time=False, shown=lambda: array)


def open_hdf5(path: Path, dataset: str) -> LibraryArray:
    """A dataset of a file, the only one of two dimensions if it is not named."""
    h5py = needed("h5py", str(path))
    file = _hdf5(h5py, path, "r")
    try:
        array = _dataset(file, path, dataset or _only(h5py, file, path))
        return LibraryArray(array, f"{path}:{array.name}", one_at_a_time=True, shown=lambda: array)
    except BaseException:
        file.close()
        raise


def _dataset(file: Any, path: Path, name: str) -> Any:
    """The dataset of that name. ValueError for what is none, or cannot be read."""
    try:
        found = file[name]
    except (KeyError, OSError, ValueError, RuntimeError) as error:  # a damaged file, a link that leads nowhere
        raise ValueError(f"{path} has no dataset {name} that can be read: {_inner(error)}") from None
    if not hasattr(found, "shape"):
        kind = type(found).__name__
        raise ValueError(f"{path}: {name} is a {kind}, not a dataset; one in a group is named as in '{path}:/{name}/a'")
    return found


def _inner(error: Exception) -> str:
    """What an exception says, in one line, a KeyError without its quotes."""
    said = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    return " ".join(said.split()) or type(error).__name__


def create_hdf5(
    file: BinaryIO, part: Path, path: Path, dataset: str, shape: tuple[int, int], dtype: np.dtype
) -> RawFile:
    """An HDF5 file of one dataset of zeros in the open, empty file ``part``, which becomes ``path``.

    The library lays the file out, beside it, and says where the numbers are: without chunks they are one piece by rows,
    which is then read and written as that of a .npy file, by several processes too, and without the library's lock.
    """
    h5py = needed("h5py", str(path))
    how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)  # what nobody writes takes no room, and is zero
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
            model = Path(folder) / path.name
            with _hdf5(h5py, model, "w") as made:
                made.create_dataset(dataset or DATASET, shape, dtype, dcpl=how)
                start = _start(made[dataset or DATASET])
            size = shape[0] * shape[1] * dtype.itemsize
            with model.open("rb") as laid_out:
                end = os.fstat(laid_out.fileno()).st_size
                for at, stop in ((0, min(start, end)), (start + size, end)):
                    laid_out.seek(at)
                    file.seek(at)
                    file.write(laid_out.read(max(stop - at, 0)))
        os.ftruncate(file.fileno(), end)
    except OSError as error:
        raise type(error)(error.errno, f"cannot write {path}: {error.strerror or error}") from error
    return RawFile(file, part, start, shape, dtype, "C")


def reopen_hdf5(file: BinaryIO, part: Path, dataset: str) -> RawFile:
    """The dataset that `create_hdf5` made in an open file. ValueError if there is none."""
    h5py = needed("h5py", str(part))
    with _hdf5(h5py, part, "r", locking=False) as made:  # the file is this process' own
        found = made.get(dataset or DATASET)
        if not isinstance(found, h5py.Dataset) or len(found.shape) != 2 or found.chunks is not None:
            raise ValueError(f"{part} has no dataset {dataset or DATASET} as it was begun")
        return RawFile(file, part, _start(found), (found.shape[0], found.shape[1]), found.dtype, "C")


def _start(array: Any) -> int:
    """The byte of the file at which the numbers of a dataset without chunks begin."""
    return int(array.id.get_offset() or 0)  # None of a matrix without numbers


def _hdf5(h5py: Any, path: Path, mode: Literal["r", "w"], **how: Any) -> Any:
    if mode == "r":
        open_regular(path).close()  # the library's words for a folder are its own, and for a pipe it waits
    try:
        return h5py.File(path, mode, **how)
    except OSError as error:
        raise OSError(f"cannot open {path}: {_inner(error)}") from error


def _only(h5py: Any, file: Any, path: Path) -> str:
    found: list[str] = []
    try:
        file.visititems(lambda name, item: found.append(name) if getattr(item, "ndim", 0) == 2 else None)
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {_inner(error)}") from error
    if len(found) != 1:
        raise ValueError(
            f"{path} has {len(found)} datasets of two dimensions; say which, such as '{path}:/"
            f"{found[0] if found else 'name'}'"
        )
    return found[0]


def _library_of(a: Any) -> str:
    root = type(a).__module__.partition(".")[0]
    return root if root in ("zarr", "h5py") and hasattr(a, "shape") and hasattr(a, "dtype") else ""


def _packer(array: Any) -> str:
    packer = getattr(array, "compressors", None) or getattr(array, "compression", None)
    return ", ".join(type(one).__name__ for one in packer) if isinstance(packer, tuple) else str(packer or "")
