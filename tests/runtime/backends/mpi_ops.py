"""Functions that ranks import by name."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

import numpy as np


def axpy(x: np.ndarray, y: np.ndarray, alpha: float) -> None:
    y += alpha * x


def assign(x: Any, y: Any) -> None:
    """Of arrays and of tensors."""
    y[...] = x


def plus(x: Any, y: Any) -> Any:
    return x + y


def swap(x: Any, y: Any) -> tuple[Any, Any]:
    return y, x


def describe(x: Any) -> str:
    return f"{type(x).__name__} {x}"


def pid() -> int:
    return os.getpid()


def talk(x: Any) -> None:
    print("heard here", flush=True)


def sleep(x: Any, seconds: float) -> None:
    time.sleep(seconds)


def killed_panel(tiles: Any, pivots: Any) -> None:
    """The factorisation of a panel during which the process is killed."""
    os.kill(os.getpid(), 9)


def wait_then_sleep(flag: str, seconds: float) -> None:
    """Say by a file that the run is under way."""
    with open(flag, "w"):
        pass
    time.sleep(seconds)


def fail(x: Any) -> None:
    raise ZeroDivisionError("on purpose")


def unpicklable(x: Any) -> Any:
    return threading.Lock()


def grow(x: Any) -> np.ndarray:
    return np.zeros(len(x) + 1)


class Keeper:
    """A policy that never gives anything."""

    def prepare(self, graph: Any, machine: Any) -> None: ...
    def push(self, task: Any, worker: int | None = None) -> None: ...
    def pop(self, worker: int) -> None:
        return None


def graphs(comm: Any) -> int:
    """How many task graphs this rank holds, parts of them too."""
    import gc

    from tilewright import TaskGraph

    gc.collect()
    return sum(isinstance(thing, TaskGraph) for thing in gc.get_objects())


def calls_mpi(x: Any) -> None:
    import tilewright as tw

    tw.tiled_cholesky(np.eye(6), backend="mpi", tile_size=2)


def calls_threads(x: Any) -> None:
    import tilewright as tw

    x[...] = tw.tiled_cholesky(4 * np.eye(6), tile_size=2)


def write(x: Any, value: float, seconds: float) -> None:
    """Change x slowly, in place."""
    time.sleep(seconds)
    x[...] = value


def read_slowly(x: Any, y: Any, seconds: float) -> None:
    time.sleep(seconds)
    y[...] = x


def speak(x: np.ndarray, number: int) -> None:
    """Print a line, half a line on standard error, and add one."""
    print(f"task {number} here\nand there")
    print(f"half {number}", end="", file=sys.stderr)
    x += 1
