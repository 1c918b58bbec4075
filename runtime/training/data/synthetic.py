"""Images that look different by class, and the five forms of CIFAR-10 written to disk."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.extras import brings
from tilewright.host.files import replacing, write_text
from tilewright.training.data.augment import bits
from tilewright.training.data.cifar10 import CHECKSUMS, FORMS, RECIPE
from tilewright.training.data.dataset import Dataset

__all__ = ["synthetic", "write_cifar10"]


def synthetic(n: int = 2000, *, seed: int = 0, test: int | None = None) -> tuple[Dataset, Dataset]:
    """(train, test) of ``n`` and ``test`` (n / 5) colour images 32 x 32: gratings, direction and width by class, noise.

    Image i depends on (seed, i) alone.

    Parameters
    ----------
    n
        Images to train with.
    seed
        That of the phases and the noise.
    test
        Images to test with; n / 5 by default.

    Raises
    ------
    ValueError
        A part would be empty.

    Examples
    --------
    >>> from tilewright import training
    >>> train, test = training.data.synthetic(20)
    >>> len(train), len(test), train.shape, train.labels[:3]
    (20, 4, (3, 32, 32), array([0, 1, 2]))
    """
    more = max(1, n // 5) if test is None else test
    if n < 1 or more < 1:
        raise ValueError(f"both parts need at least one image, not {n} and {more}")
    train, tests = np.arange(n), np.arange(n, n + more)
    return tuple(  # type: ignore[return-value]
        Dataset(*_textures(index, seed), 10, "synthetic", RECIPE, f"synthetic, seed {seed}") for index in (train, tests)
    )


def _textures(index: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    labels = index % 10
    word = bits(index, seed, 3)
    phase = (word >> np.uint64(40)).astype(np.float64)[:, None, None] * (2 * np.pi / 2**24)
    angle = (labels * (np.pi / 10))[:, None, None]
    width = np.where(labels % 2, 5.0, 9.0)[:, None, None]
    y, x = np.mgrid[:32, :32]
    wave = np.sin(2 * np.pi / width * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    pixel = (index[:, None] * 3072 + np.arange(3072)).reshape(-1, 3, 32, 32)
    noise = (bits(pixel, seed, 4) >> np.uint64(56)).astype(np.float64) - 127.5
    tint = 0.6 + 0.4 * np.cos(2 * np.pi * (labels[:, None] / 10 + np.arange(3) / 3))[:, :, None, None]
    images = np.clip(127.5 + 70 * wave[:, None] * tint + 0.5 * noise, 0, 255).astype(np.uint8)
    return images, labels.astype(np.int64)


def write_cifar10(folder: str | Path, form: str, train: Dataset, test: Dataset, *, batches: int = 5) -> Path:
    """Write images 3 x 32 x 32 in one of the forms of CIFAR-10, and ``checksums.md5``; returns what `cifar10` reads.

    Parameters
    ----------
    folder
        Where to; it is made if it is not there.
    form
        One of `FORMS`.
    train, test
        What to write, images of three channels, 32 x 32.
    batches
        Into how many parts ``train`` is cut, in the forms that have several.

    Raises
    ------
    ValueError
        Another form.
    ImportError
        The form is parquet, and pyarrow or Pillow is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from tilewright import training
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = training.data.write_cifar10(folder, "binary", *training.data.synthetic(10))
    ...     print(sorted(file.name for file in path.iterdir())[:3])
    ['batches.meta.txt', 'checksums.md5', 'data_batch_1.bin']
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, not {form!r}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write = {"pickle": _pickles, "tar": _tar, "binary": _binary, "npz": _npz, "parquet": _parquet}[form]
    sums = []
    for name, data in write(train, test, batches):
        with replacing(folder / name) as aside:
            aside.write_bytes(data)
        sums.append(f"{hashlib.md5(data, usedforsecurity=False).hexdigest()}  {name}\n")
    write_text(folder / CHECKSUMS, "".join(sums))
    return folder / name if form in ("tar", "npz") else folder


def _parts(train: Dataset, test: Dataset, batches: int) -> Iterator[tuple[str, Dataset]]:
    for k, index in enumerate(np.array_split(np.arange(len(train)), batches), 1):
        yield f"data_batch_{k}", train.take(index)
    yield "test_batch", test


def _pickles(train: Dataset, test: Dataset, batches: int) -> Iterator[tuple[str, bytes]]:
    for name, part in _parts(train, test, batches):
        batch: dict[str, Any] = {
            "batch_label": name, "labels": part.labels.tolist(), "data": part.images.reshape(len(part), -1),
            "filenames": [f"{name}_{k}.png" for k in range(len(part))],
        }  # fmt: skip
        yield name, pickle.dumps(batch, protocol=2)
    yield "batches.meta", pickle.dumps({"num_cases_per_batch": len(train) // batches, "num_vis": 3072}, protocol=2)


def _tar(train: Dataset, test: Dataset, batches: int) -> Iterator[tuple[str, bytes]]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, data in _pickles(train, test, batches):
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    yield "cifar-10-python.tar.gz", buffer.getvalue()


def _binary(train: Dataset, test: Dataset, batches: int) -> Iterator[tuple[str, bytes]]:
    for name, part in _parts(train, test, batches):
        records = np.hstack([part.labels.astype(np.uint8)[:, None], part.images.reshape(len(part), -1)])
        yield f"{name}.bin", records.tobytes()
    yield "batches.meta.txt", b"\n".join(str(k).encode() for k in range(10)) + b"\n"


def _npz(train: Dataset, test: Dataset, batches: int) -> Iterator[tuple[str, bytes]]:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        x_train=train.images.transpose(0, 2, 3, 1),
        y_train=train.labels[:, None].astype(np.uint8),
        x_test=test.images.transpose(0, 2, 3, 1),
        y_test=test.labels[:, None].astype(np.uint8),
    )
    yield "cifar10.npz", buffer.getvalue()


def _parquet(train: Dataset, test: Dataset, batches: int) -> Iterator[tuple[str, bytes]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
        from PIL import Image
    except ImportError:
        raise ImportError(f"writing parquet needs pyarrow and Pillow; {brings('training')}") from None
    for split, part in (("train", train), ("test", test)):
        cells = []
        for k, image in enumerate(part.images):
            png = io.BytesIO()
            Image.fromarray(image.transpose(1, 2, 0)).save(png, "PNG")
            cells.append({"bytes": png.getvalue(), "path": f"{k}.png"})
        buffer = io.BytesIO()
        parquet.write_table(pyarrow.table({"img": cells, "label": part.labels}), buffer)
        yield f"{split}-00000-of-00001.parquet", buffer.getvalue()
