"""CIFAR-10 from the user's disk, in the five forms that it is given around in.

==========  ===================================================================================================
``pickle``  a folder with ``data_batch_1`` to ``data_batch_5`` and ``test_batch``, by an unpickler that runs nothing
``tar``     ``cifar-10-python.tar.gz`` as it is, not extracted
``binary``  a folder with ``data_batch_1.bin`` ...: records of one label and 3072 bytes
``npz``     one file with ``x_train, y_train, x_test, y_test``, or ``images, labels`` whose last sixth is the test
``parquet`` a folder or its parent with ``train-*.parquet`` and ``test-*.parquet``, or ``cifar10-train.parquet`` and
            ``cifar10-test.parquet``: PNG images, as on model hubs
==========  ===================================================================================================

Checksums: files of the official release are recognised by their MD5, which `Dataset.source` says. A file
``checksums.md5`` beside the data has to be right.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from tilewright.extras import brings
from tilewright.training.data.dataset import CIFAR10_MEAN, CIFAR10_STD, Dataset, Recipe
from tilewright.training.data.unpickler import loads

__all__ = ["CHECKSUMS", "FORMS", "OFFICIAL", "RECIPE", "cifar10"]

FORMS = ("pickle", "tar", "binary", "npz", "parquet")

OFFICIAL = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
}
"""MD5 of the files of the official release."""

CHECKSUMS = "checksums.md5"
"""A file in the format of md5sum; if it is there, what it names has to be right."""

RECIPE = Recipe(CIFAR10_MEAN, CIFAR10_STD, pad=4, flip=True)
_BATCHES = tuple(f"data_batch_{k}" for k in range(1, 6))
_PIXELS = 3 * 32 * 32
_MOST = 1 << 30  # bytes of one file, unpacked; the largest official one has 170 MB, unpacked 186
_CHUNK = 1 << 26  # bytes of one batch; the official ones have 31 MB
_MEMBERS = 1000

Arrays = tuple[np.ndarray, np.ndarray]


def cifar10(path: str | Path, *, verify: bool = False) -> tuple[Dataset, Dataset]:
    """(train, test) from a folder or file in any of the five forms.

    Parameters
    ----------
    path
        What holds the data. The form is told from the names in it.
    verify
        Insist on the official files.

    Raises
    ------
    FileNotFoundError
        Nothing there has one of the five forms.
    ValueError
        A file is damaged, truncated, has other content, or its checksum is wrong. Nothing in it was executed.

    Examples
    --------
    >>> import tempfile
    >>> from tilewright import training
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = training.data.write_cifar10(folder, "npz", *training.data.synthetic(10))
    ...     train, test = training.data.cifar10(path)
    >>> len(train), len(test), train.classes
    (10, 2, 10)
    """
    path = Path(path).expanduser()
    form, place = _form(path)
    folder = path if path.is_dir() else path.parent
    files = _Files(folder, _expected(folder), verify)
    train, test = _READERS[form](place, files)
    source = f"{path}, {form}, {files.verdict}"
    return (Dataset(*train, 10, "cifar10", RECIPE, source), Dataset(*test, 10, "cifar10", RECIPE, source))


def _form(path: Path) -> tuple[str, Path]:
    """The form of what is there, and the file or folder that its reader wants."""
    if path.is_file():
        if path.name.endswith((".tar.gz", ".tgz")):
            return "tar", path
        if path.suffix == ".npz":
            return "npz", path
    elif path.is_dir():
        for folder in (path, path / "cifar-10-batches-py", path / "cifar-10-batches-bin", path / "plain_text"):
            for form, pattern in (
                ("pickle", "data_batch_1"),
                ("binary", "data_batch_1.bin"),
                ("parquet", "*train*.parquet"),
            ):
                if any(folder.glob(pattern)):
                    return form, folder
        for form, name in (("tar", "cifar-10-python.tar.gz"), ("npz", "cifar10.npz")):
            if (path / name).exists():
                return form, path / name
    raise FileNotFoundError(
        f"{path} has no CIFAR-10: looked for data_batch_1, data_batch_1.bin, *train*.parquet, *.npz and *.tar.gz"
    )


class _Files:
    """Reads files and checks their sums on the way."""

    def __init__(self, folder: Path, expected: dict[str, str], verify: bool) -> None:
        self.folder = folder
        self.expected = expected
        self.verify = verify
        self.official: list[bool] = []

    def read(self, file: Path) -> bytes:
        size = file.stat().st_size
        if size > _MOST:
            raise ValueError(f"{file} has {size} bytes, more than any file of CIFAR-10")
        data = file.read_bytes()
        self.check(file.name, data)
        return data

    def check(self, name: str, data: bytes) -> None:
        """Compare with what is known about a file or member."""
        found = hashlib.md5(data, usedforsecurity=False).hexdigest()
        wanted = self.expected.get(name)
        if wanted is not None and wanted != found:
            raise ValueError(f"{name} is damaged: its MD5 is {found}, {CHECKSUMS} says {wanted}")
        official = OFFICIAL.get(name)
        if self.verify and official != found:
            raise ValueError(
                f"{name} is not the official file: its MD5 is {found}, not {official}"
                if official
                else f"{name} cannot be verified: no official checksum is known for it"
            )
        self.official.append(official == found)

    @property
    def verdict(self) -> str:
        """What the checksums said."""
        if all(self.official):
            return "official files"
        return f"{CHECKSUMS} is right" if self.expected else "not the official files"


def _expected(folder: Path) -> dict[str, str]:
    """The sums in ``checksums.md5``, by file name."""
    file = folder / CHECKSUMS
    if not file.exists():
        return {}
    rows = [line.split(None, 1) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if any(len(row) != 2 for row in rows):
        raise ValueError(f"{file} is not a list of checksums as md5sum writes it")
    return {name.strip().lstrip("*"): value.lower() for value, name in rows}


# ------------------------------------------------------------------ the five forms


def _read_pickles(folder: Path, files: _Files) -> tuple[Arrays, Arrays]:
    def batch(name: str) -> Arrays:
        return _batch(files.read(folder / name), name)

    return _joined(batch(name) for name in _BATCHES if (folder / name).exists()), batch("test_batch")


def _read_tar(path: Path, files: _Files) -> tuple[Arrays, Arrays]:
    if files.verify or path.name in files.expected:
        files.check(path.name, path.read_bytes())
    inner = _Files(path.parent, {}, False)
    try:
        content = _members(path)
    except Exception as error:  # tarfile and zlib raise many kinds
        raise ValueError(f"{path.name} is damaged or truncated: {error}") from error
    for name, data in content.items():
        inner.check(name, data)
    files.official += inner.official
    found = {name: _batch(data, f"{path.name}: {name}") for name, data in content.items()}
    missing = sorted({"data_batch_1", "test_batch"} - set(found))
    if missing:
        raise ValueError(f"{path.name} has no {' and no '.join(missing)}")
    return _joined(found[name] for name in _BATCHES if name in found), found["test_batch"]


def _members(path: Path) -> dict[str, bytes]:
    """The batches in a tar file, by name."""
    wanted = {*_BATCHES, "test_batch"}
    found: dict[str, bytes] = {}
    with gzip.open(path) as unpacked, tarfile.open(fileobj=cast(IO[bytes], _Bounded(unpacked)), mode="r:") as archive:
        for number, member in enumerate(archive):
            if number > _MEMBERS:
                raise ValueError(f"it has more than {_MEMBERS} members")
            name = Path(member.name).name
            if name not in wanted or not member.isreg() or member.issparse():
                continue
            if member.size > _CHUNK:
                raise ValueError(f"{member.name} claims {member.size} bytes")
            stream = archive.extractfile(member)
            found[name] = stream.read() if stream is not None else b""
            if len(found[name]) != member.size:
                raise ValueError(f"it ends in {member.name}")
    return found


class _Bounded(io.RawIOBase):
    """A file of which nobody reads more at once, or goes farther, than CIFAR-10 needs: headers may claim any size."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self.file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _CHUNK or self.file.tell() > _MOST:
            raise ValueError(f"something in it claims {size} bytes")
        return self.file.read(size)

    def seek(self, place: int, whence: int = 0) -> int:
        if whence or not 0 <= place <= _MOST:
            raise ValueError(f"something in it claims {place} bytes")
        return self.file.seek(place)

    def tell(self) -> int:
        return self.file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _read_binary(folder: Path, files: _Files) -> tuple[Arrays, Arrays]:
    def batch(name: str) -> Arrays:
        data = files.read(folder / name)
        if not data or len(data) % (1 + _PIXELS):
            raise ValueError(f"{name} is truncated: {len(data)} bytes are no multiple of a record's {1 + _PIXELS}")
        records = np.frombuffer(data, dtype=np.uint8).reshape(-1, 1 + _PIXELS)
        return _checked(records[:, 1:], records[:, 0], name)

    names = [f"{name}.bin" for name in _BATCHES]
    return _joined(batch(name) for name in names if (folder / name).exists()), batch("test_batch.bin")


def _read_npz(path: Path, files: _Files) -> tuple[Arrays, Arrays]:
    data = files.read(path)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            if (claimed := sum(member.file_size for member in archive.zip.infolist())) > _MOST:
                raise ValueError(f"it claims {claimed} bytes")
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile and NumPy raise many kinds
        raise ValueError(f"{path.name} is damaged, or not an npz file of plain arrays: {error}") from error
    if {"x_train", "y_train", "x_test", "y_test"} <= set(arrays):
        return (
            _checked(arrays["x_train"], arrays["y_train"], f"{path.name}: x_train"),
            _checked(arrays["x_test"], arrays["y_test"], f"{path.name}: x_test"),
        )
    if {"images", "labels"} <= set(arrays):
        images, labels = _checked(arrays["images"], arrays["labels"], f"{path.name}: images")
        cut = len(images) - len(images) // 6
        return (images[:cut], labels[:cut]), (images[cut:], labels[cut:])
    raise ValueError(
        f"{path.name} has {', '.join(arrays) or 'nothing'}, not x_train, y_train, x_test, y_test or images, labels"
    )


def _read_parquet(folder: Path, files: _Files) -> tuple[Arrays, Arrays]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ImportError(f"reading parquet needs pyarrow; {brings('training')}") from None

    def part(split: str) -> Arrays:
        names = sorted(folder.glob(f"*{split}*.parquet"))
        if not names:
            raise ValueError(f"{folder} has no *{split}*.parquet")
        pieces = []
        for file in names:
            data = files.read(file)
            try:
                rows = parquet.read_table(io.BytesIO(data)).to_pydict()
            except Exception as error:  # Arrow has errors of its own
                raise ValueError(f"{file.name} is damaged or truncated: {error}") from error
            column = next((rows[name] for name in ("img", "image") if name in rows), None)
            if column is None or "label" not in rows:
                raise ValueError(f"{file.name} has columns {', '.join(rows)}, not img and label")
            images = np.stack([_decode(cell, file.name) for cell in column])
            pieces.append(_checked(images, rows["label"], file.name))
        return _joined(pieces)

    return part("train"), part("test")


def _decode(cell: Any, name: str) -> np.ndarray:
    """One PNG of 32 x 32 as (32, 32, 3); its size is looked at before its pixels."""
    try:
        from PIL import Image
    except ImportError:
        raise ImportError(f"the images of a parquet file need Pillow; {brings('training')}") from None
    try:
        with Image.open(io.BytesIO(cell["bytes"]), formats=["PNG"]) as image:
            if image.size != (32, 32):
                raise ValueError(f"an image has {image.size[0]} x {image.size[1]} pixels")
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # decoders raise many kinds
        raise ValueError(f"{name} has a row that is no PNG image of 32 x 32: {error}") from error


_READERS: dict[str, Callable[[Path, _Files], tuple[Arrays, Arrays]]] = {
    "pickle": _read_pickles,
    "tar": _read_tar,
    "binary": _read_binary,
    "npz": _read_npz,
    "parquet": _read_parquet,
}


# ------------------------------------------------------------------ what the forms share


def _batch(data: bytes, name: str) -> Arrays:
    """One pickled batch."""
    content = loads(data, name)
    if "data" not in content or "labels" not in content:
        raise ValueError(f"{name} has {', '.join(content) or 'nothing'}, not data and labels")
    return _checked(content["data"], content["labels"], name)


def _checked(pixels: Any, labels: Any, name: str) -> Arrays:
    """Images (n, 3, 32, 32) uint8 and labels (n,) int64 from what a file held: planes of 3072, or (n, 32, 32, 3)."""
    if type(pixels) is not np.ndarray or pixels.dtype != np.uint8:
        raise ValueError(f"{name}: pixels are {getattr(pixels, 'dtype', type(pixels).__name__)}, not uint8")
    if type(labels) is list and all(type(label) is int and abs(label) < 2**62 for label in labels):
        labels = np.array(labels, dtype=np.int64)
    if type(labels) is not np.ndarray or labels.dtype.kind not in "iu":
        raise ValueError(f"{name}: labels are no numbers from 0 to 9")
    labels = labels.reshape(-1)
    if len(labels) and not (labels.min() >= 0 and labels.max() <= 9):
        raise ValueError(f"{name}: labels go from {labels.min()} to {labels.max()}, not from 0 to 9")
    if pixels.ndim == 2 and pixels.shape[1] == _PIXELS:
        images = pixels.reshape(-1, 3, 32, 32)
    elif pixels.ndim == 4 and pixels.shape[1:] == (32, 32, 3):
        images = pixels.transpose(0, 3, 1, 2)
    elif pixels.ndim == 4 and pixels.shape[1:] == (3, 32, 32):
        images = pixels
    else:
        raise ValueError(f"{name}: pixels of shape {pixels.shape} are no images of 3 x 32 x 32")
    if len(images) != len(labels):
        raise ValueError(f"{name}: {len(images)} images but {len(labels)} labels")
    return np.ascontiguousarray(images), labels.astype(np.int64)


def _joined(batches: Iterable[Arrays]) -> Arrays:
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)
