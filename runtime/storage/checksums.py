"""Checksums of tiles, and what is said where one does not fit."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["CheckpointError", "checksum"]


class CheckpointError(ValueError):
    """A checkpoint that cannot be gone on from: it is of another run, or its files are damaged.

    Examples
    --------
    >>> import tempfile, numpy as np, tilewright as tw
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     L = tw.tiled_cholesky(np.eye(4), checkpoint=folder)
    ...     try:
    ...         tw.tiled_cholesky(2 * np.eye(4), checkpoint=folder, resume=True)
    ...     except tw.CheckpointError as error:
    ...         print(str(error).split(": ")[1])
    the matrix a has other numbers in tile (0, 0)
    """


def checksum(tile: np.ndarray) -> str:
    """The checksum of a tile's bits: of the sums of its words along rows and columns. Its layout does not matter.

    Sums go at the speed of memory, where no cryptographic hash and no CRC of Python's does.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (tile.real, tile.imag) if tile.dtype.kind == "c" else (tile,):
        words = part.view(f"u{part.itemsize}")
        for axis in range(words.ndim):
            digest.update(words.sum(axis=axis, dtype=np.uint64).tobytes())
    return digest.hexdigest()
