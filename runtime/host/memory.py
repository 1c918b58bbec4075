"""Memory for large matrices: zeros that take none until they are touched, rooms that are used again, and copies."""

from __future__ import annotations

import errno
import mmap
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tilewright.host.cores import cores
from tilewright.units import nbytes

__all__ = ["LARGE", "Peak", "available", "copy_all", "memory_for", "room", "zeros"]

LARGE = 1 << 22
"""Bytes of an array for which NumPy asks for huge pages, and smallest that has pages of its own here."""

_KEPT = 1 << 31  # bytes of rooms that nobody uses
_WASTE = 1.25  # a room may be that many times too large


@contextmanager
def memory_for(size: int) -> Iterator[None]:
    """Where the system is asked for ``size`` bytes: MemoryError with how much was asked for and how much there is.

    The system says ``OSError`` where a process, a file or the machine may have no more.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _SHORT:
            raise
        there = _available()
        rest = f"; {' and '.join(there)}" if there else ""
        raise MemoryError(f"no memory for {nbytes(size)}: {error.strerror}{rest}") from error


_SHORT = {errno.ENOMEM, errno.ENOSPC, errno.EFBIG}


def available() -> int | None:
    """Bytes that the system could give to a process now; None where it does not say."""
    with suppress(OSError, ValueError, IndexError, KeyError):
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024 * int(lines["MemAvailable"].split()[0])
    return None


class Peak:
    """How much this process grows, at its fullest moment, from here on: ``peak = Peak(); ...; peak.bytes()``.

    Linux keeps the mark and lets a process set it back; elsewhere `bytes` is None.
    """

    def __init__(self) -> None:
        self._before: int | None = None
        with suppress(OSError):
            forget = os.open("/proc/self/clear_refs", os.O_WRONLY)
            try:
                os.write(forget, b"5")
            finally:
                os.close(forget)
            self._before = _status(b"VmRSS")

    def bytes(self) -> int | None:
        peak = _status(b"VmHWM")
        return None if self._before is None or peak is None else max(0, peak - self._before)


def _status(name: bytes) -> int | None:
    """Twice in every run on ranks, so without a file object and its text."""
    with suppress(OSError, ValueError, IndexError):
        file = os.open("/proc/self/status", os.O_RDONLY)
        try:
            said = os.read(file, 1 << 14)
        finally:
            os.close(file)
        return 1024 * int(said[said.index(b"\n" + name + b":") :].split(None, 2)[1])
    return None


def _available() -> list[str]:
    """What the system says about memory that is left, and about a limit of this process."""
    said = []
    if (there := available()) is not None:
        said.append(f"{nbytes(there)} are available on this machine")
    with suppress(ImportError, OSError, ValueError, IndexError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
            said.append(f"this process has {nbytes(used)} of the {nbytes(limit)} that it may have (ulimit -v)")
    return said


def zeros(shape: tuple[int, ...], dtype: Any, order: Literal["C", "F"] = "C") -> np.ndarray:
    """Like `numpy.zeros`, on small pages: a triangle that nobody writes never becomes memory.

    NumPy backs large arrays with huge pages, of which a triangular factor touches all. Faulting them in took up to
    a fifth of a factorisation where a hypervisor takes back free huge pages; on small pages half as much is faulted
    in, and the kernels run at the same rate.
    """
    dtype = np.dtype(dtype)
    size = prod(shape) * dtype.itemsize
    if size < LARGE or not hasattr(mmap, "MADV_NOHUGEPAGE"):
        return np.zeros(shape, dtype, order)
    with memory_for(size):
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape, order=order)


def room(shape: tuple[int, ...], dtype: Any, *, huge: bool = False) -> np.ndarray:
    """Memory for numbers that will all be written before they are read, C-ordered; there may be anything in it.

    Large rooms are on small pages, as `zeros` are, unless ``huge`` says that all of them will be used. They wait for
    the next caller when nobody refers to the array or a view of it any more. The kernel may take the pages of a
    waiting room when memory is short (``MADV_FREE``). Faulting in fresh ones cost a tenth of a solution, where a
    hypervisor has to find them.
    """
    dtype = np.dtype(dtype)
    size = prod(shape) * dtype.itemsize
    if size < LARGE or not hasattr(mmap, "MADV_FREE") or not hasattr(mmap, "MADV_NOHUGEPAGE"):
        return np.empty(shape, dtype)
    return np.asarray(_Lease(_find(size, huge), huge))[:size].view(dtype).reshape(shape)


_waiting: deque[tuple[mmap.mmap, bool]] = deque()


def _find(size: int, huge: bool) -> mmap.mmap:
    """A waiting room, or a new one."""
    for _ in range(len(_waiting)):
        with suppress(IndexError):  # another thread was faster
            memory, kind = _waiting.popleft()
            if kind == huge and size <= len(memory) <= _WASTE * size:
                return memory
            _waiting.append((memory, kind))
    with memory_for(size):
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    return memory


class _Lease:
    """A room in use: the arrays over its memory refer to it, and when they are gone it waits for others."""

    def __init__(self, memory: mmap.mmap, huge: bool) -> None:
        self.memory, self.huge = memory, huge
        address = np.frombuffer(memory, np.uint8).__array_interface__["data"][0]
        self.__array_interface__ = {"data": (address, False), "shape": (len(memory),), "typestr": "|u1", "version": 3}

    def __del__(self, waiting: deque[tuple[mmap.mmap, bool]] = _waiting) -> None:
        if len(self.memory) + sum(len(memory) for memory, _ in list(waiting)) <= _KEPT:
            self.memory.madvise(mmap.MADV_FREE)
            waiting.append((self.memory, self.huge))


def copy_all(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """target := source for all (target, source) of equal shapes; on several cores if that pays."""
    pairs = list(pairs)
    if sum(target.nbytes for target, _ in pairs) < LARGE:
        for target, source in pairs:
            np.copyto(target, source)
        return
    from concurrent.futures import ThreadPoolExecutor  # not before: most processes never copy that much

    parts = cores()
    with ThreadPoolExecutor(parts) as copiers:
        pieces = [piece for target, source in pairs for piece in _slabs(target, source, parts)]
        for _ in copiers.map(_copy_each, _shares(pieces)):
            pass


def _copy_each(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for target, source in pairs:
        np.copyto(target, source)


def _shares(pairs: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """The pairs in turn, `LARGE` bytes or more at a time: to hand out a small tile takes longer than to copy it."""
    share: list[tuple[np.ndarray, np.ndarray]] = []
    held = 0
    for pair in pairs:
        share.append(pair)
        held += pair[0].nbytes
        if held >= LARGE:
            yield share
            share, held = [], 0
    if share:
        yield share


def _slabs(target: np.ndarray, source: np.ndarray, parts: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The two in as many parts, if they are large, each as contiguous in the target as can be."""
    if target.nbytes < LARGE or parts == 1:
        return [(target, source)]
    long = [axis for axis in range(target.ndim) if target.shape[axis] >= parts] or [int(np.argmax(target.shape))]
    axis = max(long, key=lambda axis: abs(target.strides[axis]))
    there, here = np.moveaxis(target, axis, 0), np.moveaxis(source, axis, 0)
    cuts = np.linspace(0, len(there), parts + 1).astype(int)
    return [(there[a:b], here[a:b]) for a, b in pairwise(cuts)]
