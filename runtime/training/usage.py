"""How much memory a training takes at its fullest moment, on a CPU as on a GPU."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

import torch

__all__ = ["forget", "peak", "watch"]

_STATUS, _REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def forget() -> None:
    """Give back what nobody refers to any more, so that the next measurement does not count it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except AttributeError:  # a C library that has none
            return


def watch(device: torch.device) -> int:
    """Begin to measure this process; the bytes in use now, on the device or, for a CPU, resident."""
    if device.type == "cuda":
        torch.cuda.init()  # resetting statistics does not, and is an error before
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    try:
        _REFS.write_text("5")  # resets the high-water mark of resident memory
    except OSError:
        return _resident("VmHWM")
    return _resident("VmRSS")


def peak(device: torch.device) -> int:
    """Bytes in use at the fullest moment since `watch`."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return _resident("VmHWM")


def _resident(name: str) -> int:
    try:
        line = next(row for row in _STATUS.read_text().splitlines() if row.startswith(name))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        import resource

        size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return size if sys.platform == "darwin" else size * 1024
