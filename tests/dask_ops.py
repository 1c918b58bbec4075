"""Functions that Dask workers import by name."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

import numpy as np


def plus(x: Any, y: Any) -> Any:
    return x + y


def append(x: list[Any], y: Any) -> None:
    x.append(y)


def describe(z: Any, x: Any) -> str:
    return f"{type(x).__name__} {x}"


def halve(x: Any, y: Any) -> Any:
    return x / 2


def sleep(x: Any, seconds: float) -> None:
    time.sleep(seconds)


def fail(x: Any) -> None:
    raise ZeroDivisionError("on purpose")


class OddError(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__("odd")


def fail_oddly(x: Any) -> None:
    raise OddError(1, 2)


class CannotTravel(Exception):
    def __init__(self) -> None:
        super().__init__("stays here")
        self.lock = threading.Lock()


def fail_and_stay(x: Any) -> None:
    raise CannotTravel


def fail_from_another(x: Any) -> None:
    try:
        raise CannotTravel
    except CannotTravel:
        raise ArithmeticError("because of another") from None


def recurse(x: Any) -> None:
    recurse(x)


def leave(x: Any) -> None:
    sys.exit("out")


def calls_dask(x: Any) -> None:
    import tilewright as tw

    tw.tiled_cholesky(np.eye(6), backend="dask", tile_size=2)


def calls_with_its_client() -> str:
    from distributed import get_client

    import tilewright as tw

    try:
        tw.tiled_cholesky(np.eye(6), backend="dask", tile_size=2, client=get_client())
    except RuntimeError as error:
        return str(error)
    return ""


def note_pid(x: np.ndarray, file: str, seconds: float) -> None:
    """Say which process this is, if nobody has."""
    if not os.path.exists(file):
        with open(file, "w") as f:
            f.write(f"{os.getpid()} ")
    time.sleep(seconds)
    x += 1


def slow_block(block: np.ndarray, file: str) -> np.ndarray:
    if not os.path.exists(file):
        with open(file, "w") as f:
            f.write(f"{os.getpid()} ")
    time.sleep(0.05)
    return block


_keys: list[str] = []


def watch_keys(dask_scheduler: Any = None) -> int:
    """Note the keys that a scheduler gets to know; returns how many were noted."""
    from distributed import SchedulerPlugin

    class Watch(SchedulerPlugin):
        def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
            _keys.append(str(key))

    dask_scheduler.add_plugin(Watch(), name="watch keys")
    return len(_keys)


def watched_keys(dask_scheduler: Any = None) -> list[str]:
    dask_scheduler.remove_plugin("watch keys")
    return _keys[:]


def segments() -> int:
    """How many segments of shared memory this process has made and not given back."""
    import gc

    from tilewright.backends.ranks import segments

    gc.collect()
    return len(segments._segments)


def blind(yes: bool) -> None:
    """Make this process see no other's memory, or again what it saw."""
    from tilewright.backends.ranks import lending

    if yes:
        lending.kept_sees = lending.sees  # type: ignore[attr-defined]
        lending.sees = lambda probe: False  # type: ignore[assignment]
    else:
        lending.sees = lending.kept_sees  # type: ignore[attr-defined]


def torch_state(x: Any) -> None:
    """1 autocast, 2 its dtype is BF16, 4 its cache is off, 8 grad is off."""
    import torch

    x[0] = (
        torch.is_autocast_enabled("cpu")
        + 2 * (torch.get_autocast_dtype("cpu") == torch.bfloat16)
        + 4 * (not torch.is_autocast_cache_enabled())
        + 8 * (not torch.is_grad_enabled())
    )


def spilled(dask_worker: Any = None) -> int:
    """Bytes of a worker's data that lie on the disk."""
    return int(dask_worker.data.spilled_total.memory)


def speak(x, number):
    """Print a line, half a line on standard error, and add one."""
    print(f"task {number} here\nand there")
    print(f"half {number}", end="", file=sys.stderr)
    x += 1
