"""How much memory a training takes at its fullest moment, on a CPU as on a GPU."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from tilewright.training.randomness import Stream

__all__ = ["forget", "held", "peak", "warm", "watch"]

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


@lru_cache(maxsize=1)
def warm() -> None:
    """Once in a process: load what torch, its libraries and its threads load at their first step.

    That is memory of the process, not of a training, and the first one would be charged for it. A step of a small
    network in a thread that ends: products, a convolution, a loss, backward passes, an optimizer.
    """
    thread = threading.Thread(target=_first_step, name="tilewright-warm")
    thread.start()
    thread.join()


def _first_step() -> None:
    with Stream(torch.device("cpu"), 0), torch.enable_grad():
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, fused=True)
        for _ in range(2):
            nn.functional.cross_entropy(model(torch.zeros(64, 1, 8, 8)), torch.zeros(64).long()).backward()
            optimizer.step()


def watch(device: torch.device) -> int:
    """Begin to measure this process; the bytes in use now, on the device or, for a CPU, resident.

    What the first training of a process loads is loaded before.
    """
    if device.type == "cuda":
        torch.cuda.init()  # resetting statistics does not, and is an error before
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    warm()
    forget()
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


def held(device: torch.device) -> int:
    """Bytes in use now, on the device or, for a CPU, resident, when everything unused was given back."""
    forget()
    return int(torch.cuda.memory_allocated(device)) if device.type == "cuda" else _resident("VmRSS")


def _resident(name: str) -> int:
    try:
        line = next(row for row in _STATUS.read_text().splitlines() if row.startswith(name))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        import resource

        size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return size if sys.platform == "darwin" else size * 1024
