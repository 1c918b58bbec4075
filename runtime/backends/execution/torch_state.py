"""State that torch keeps per thread: taken where a run is submitted, entered where its tasks run.

`torch.autocast` holds in the thread that entered it and in no other. A worker is another thread, so without this a task
would silently compute in FP32. The weight cache of autocast stays off in workers: it is one for the whole process,
keyed by tensor and not by dtype, and any thread that leaves autocast clears it for all.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

__all__ = ["TorchState", "capture"]

_DEVICES = ("cpu", "cuda")


class TorchState(NamedTuple):
    """Plain data, so that it can travel to other processes."""

    autocast: tuple[tuple[str, str], ...] = ()
    """(device type, dtype) for each device where autocast is on."""
    grad: bool = True
    inference: bool = False

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The same state in the calling thread, until the block ends."""
        if self == TorchState():
            yield
            return
        import torch

        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(self.inference))
            if not self.inference:
                stack.enter_context(torch.set_grad_enabled(self.grad))
            for device, dtype in self.autocast:
                stack.enter_context(torch.autocast(device, getattr(torch, dtype), cache_enabled=False))
            yield


def capture() -> TorchState:
    """The state of the calling thread. Who has entered autocast has imported torch: without it there is none."""
    torch = sys.modules.get("torch")
    if torch is None:
        return TorchState()
    autocast = tuple(
        (device, str(torch.get_autocast_dtype(device)).removeprefix("torch."))
        for device in _DEVICES
        if torch.is_autocast_enabled(device)
    )
    return TorchState(autocast, torch.is_grad_enabled(), torch.is_inference_mode_enabled())
