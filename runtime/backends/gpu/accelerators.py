"""Devices with memories of their own: what `tilewright.backends.gpu.memories` asks of one, and torch's.

An accelerator may return from a call before the work is done (`torch.cuda`). Its calls are done in order; *marks* say
how far it is, and whoever needs a value in another memory waits for the mark of its writer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tilewright.extras import brings
from tilewright.kernels import tensors
from tilewright.kernels.catalogue import TILE_OPS

__all__ = ["ACCELERATION", "Accelerator", "TorchAccelerator", "accelerator"]

ACCELERATION = {"gemm": 20.0, "syrk": 20.0, "trsm": 10.0, "potrf": 2.0}
"""How much faster than a core policies take an accelerator to be, unless a `Machine` says it: a guess."""


@runtime_checkable
class Accelerator(Protocol):
    """A memory, and kernels that work in it. Its methods are called by its own worker, but for `fetch` and `wait`."""

    device: str
    """The device of its rows in the kernel table."""
    ops: frozenset[str]
    """What it runs, where the table has a row for the dtypes."""
    capacity: float
    """Bytes of copies that fit."""

    def room(self, like: np.ndarray) -> Any:
        """A buffer for a copy of an array, with unknown contents."""

    def bring(self, source: np.ndarray, room: Any) -> None:
        """Copy from the host, after all calls so far."""

    def fetch(self, room: Any, target: np.ndarray, after: Any) -> None:
        """Copy to the host, after a mark; done on return. From any thread."""

    def entered(self) -> AbstractContextManager[Any]:
        """A block whose calls are for this accelerator."""

    def mark(self) -> Any:
        """After all calls so far."""

    def wait(self, mark: Any) -> None:
        """Until the accelerator has passed a mark. From any thread."""

    def seconds(self, mark: Any) -> float:
        """When it passed a mark, on the clock of `time.perf_counter`; after `finish`."""

    def finish(self) -> None:
        """Wait for all calls."""


def accelerator(device: str | Accelerator) -> Accelerator:
    """The accelerator of that name: ``cuda``, ``cuda:1``, or ``cpu`` for torch on the CPU, in memory of its own.

    Raises
    ------
    ImportError, RuntimeError
        There is no torch, or no such device.
    TypeError
        Neither a name nor an `Accelerator`.
    """
    if isinstance(device, str):
        return TorchAccelerator(device)
    if not isinstance(device, Accelerator) or isinstance(device, type):
        raise TypeError(f"a device is a name such as 'cuda' or an Accelerator, not {device!r}")
    return device


class TorchAccelerator:
    """A torch device. On CUDA all calls go to one stream, and copies to the host to another one.

    Parameters
    ----------
    name
        Such as ``"cuda:0"``.
    capacity
        Bytes of copies; by default nine tenths of what is free on the device.
    """

    ops = frozenset({"potrf", "trsm", "syrk", "gemm", "convert", "split"}) | {
        op for op, tile_op in TILE_OPS.items() if tile_op.tensor is not None
    }

    def __init__(self, name: str, capacity: float | None = None) -> None:
        try:
            import torch
        except ImportError:
            raise ImportError(f"devices= needs torch, which is not installed; {brings('torch')}") from None
        self.torch = torch
        self.place = torch.device(name)
        self.cuda = self.place.type == "cuda"
        if self.cuda and not torch.cuda.is_available():
            raise RuntimeError(f"torch {torch.__version__} sees no CUDA device here; leave out devices={name!r}")
        if not self.cuda and self.place.type != "cpu":
            raise RuntimeError(f"the kernel table has no rows for {name}, only for cuda and cpu")
        self.device = "cuda" if self.cuda else "torch"
        self.capacity = float("inf") if capacity is None else capacity
        if self.cuda:
            if capacity is None:
                self.capacity = 0.9 * torch.cuda.mem_get_info(self.place)[0]
            self._stream = torch.cuda.Stream(self.place)
            self._homeward = torch.cuda.Stream(self.place)
            self._zero = self.mark()
            self._zero.synchronize()
            self._began = perf_counter()

    def room(self, like: np.ndarray) -> Any:
        return self.torch.empty(like.shape, dtype=_torch_dtype(self.torch, like.dtype), device=self.place)

    def bring(self, source: np.ndarray, room: Any) -> None:
        room.copy_(_as_tensor(self.torch, source), non_blocking=True)

    def fetch(self, room: Any, target: np.ndarray, after: Any) -> None:
        if not self.cuda:
            np.copyto(target, _as_array(room, target.dtype))
            return
        with self.torch.cuda.stream(self._homeward):
            self._homeward.wait_event(after)
            np.copyto(target, _as_array(room.to("cpu"), target.dtype))  # a copy to the host waits for its stream

    def entered(self) -> AbstractContextManager[Any]:
        return self._entered() if self.cuda else nullcontext()

    @contextmanager
    def _entered(self) -> Iterator[None]:
        with self.torch.cuda.stream(self._stream):
            yield

    def mark(self) -> Any:
        if not self.cuda:
            return perf_counter()
        event = self.torch.cuda.Event(enable_timing=True)
        self._stream.record_event(event)
        return event

    def wait(self, mark: Any) -> None:
        if self.cuda:
            mark.synchronize()

    def seconds(self, mark: Any) -> float:
        return self._began + self._zero.elapsed_time(mark) * 1e-3 if self.cuda else float(mark)

    def finish(self) -> None:
        if self.cuda:
            self._stream.synchronize()
            self._homeward.synchronize()

    def switches(self) -> AbstractContextManager[dict[str, Any]]:
        """A block in which sums are FP32, and what is set for that: `tilewright.kernels.tensors.exact_sums`."""
        return tensors.exact_sums()


def _torch_dtype(torch: Any, dtype: np.dtype) -> Any:
    return torch.bfloat16 if dtype == np.uint16 else getattr(torch, str(dtype))


def _as_tensor(torch: Any, array: np.ndarray) -> Any:
    """The memory of an array as a tensor, BF16 for uint16; of a copy where torch cannot take it."""
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _as_array(tensor: Any, dtype: np.dtype) -> np.ndarray:
    if dtype == np.uint16:
        import torch

        tensor = tensor.view(torch.int16)
    array: np.ndarray = tensor.numpy()
    return array.view(dtype)
