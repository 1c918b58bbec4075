"""Conjugate gradients on ranks: each runs the same iteration on its part of the vectors. Imported on ranks only.

Products and bases are prepared graphs, which a rank runs without a word to the caller; the sums go by MPI.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from tilewright.backends.mpi.script import Script
from tilewright.comm.cg import Report, length
from tilewright.comm.cg import solve as solve_together
from tilewright.graph import Handle

__all__ = ["solve"]


class _Part:
    """What `tilewright.comm.cg.solve` needs, on one rank."""

    def __init__(self, comm: MPI.Intracomm, products: Mapping[np.dtype, Script], bases: Mapping[int, Script]) -> None:
        self.comm, self.products, self.bases = comm, products, bases

    def product(self, v: np.ndarray) -> np.ndarray:
        script = self.products[v.dtype]
        np.copyto(_level(script, 0), v)
        script.run()
        return _level(script, 1).copy()

    def basis(self, v: np.ndarray, s: int, coefficients: np.ndarray) -> np.ndarray:
        script = self.bases[s]
        own = len(v)
        _level(script, 0)[:own] = v
        script.box[Handle("c", (script.rank,))][...] = coefficients
        script.run()
        return np.array([_level(script, k)[:own] for k in range(s + 1)])

    def gram(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        mine = np.asarray(u.conj().T @ v, order="C")
        parts = np.empty((self.comm.size, *mine.shape), mine.dtype)
        self.comm.Allgather([_bytes(mine), MPI.BYTE], [_bytes(parts), MPI.BYTE])
        return np.add.reduce(parts)  # in the order of the ranks, so that every run has the same bits

    def lengths(self, v: np.ndarray) -> list[tuple[float, int]]:
        return self.comm.allgather(length(v))


def solve(comm: MPI.Intracomm, scripts: Sequence[Script], kinds: Sequence[Any], options: Mapping[str, Any]) -> Report:
    """Solve A x = b from x on. Collective.

    ``scripts`` are products of the dtypes in ``kinds``, and bases of the numbers of steps there. The first has b where
    its input is, and x in place of its output.
    """
    products = {np.dtype(kind): script for kind, script in zip(kinds, scripts, strict=True) if isinstance(kind, str)}
    bases = {kind: script for kind, script in zip(kinds, scripts, strict=True) if not isinstance(kind, str)}
    b, x = _level(scripts[0], 0).copy(), _level(scripts[0], 1).copy()
    report = solve_together(_Part(comm, products, bases), b, x, options)
    np.copyto(_level(scripts[0], 1), x)
    scripts[0].gather()
    return report


def _level(script: Script, k: int) -> np.ndarray:
    """This rank's part of level k."""
    part: np.ndarray = script.box[Handle("x", (k, script.rank))]
    return part


def _bytes(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)
