"""Precisions of the forward pass: strict FP32, TF32, and autocast to BF16 or FP16; and what a device is fit for.

On a CPU torch's own FP16 convolutions are a hundred times slower than those in FP32, and so is everything in 16 bits
where the CPU has no instructions for it. There products and convolutions are *widened*: operands rounded to 16 bits,
computed in FP32, results and gradients rounded to 16 bits. That is what tensor cores do, at the speed of FP32.

Parameters stay FP32 in all of them. Autocast surrounds the forward pass alone, with the device's own type, and never
keeps its cache of cast weights: that cache is one for the whole process, is keyed by the weight and not by the dtype,
and whichever thread leaves autocast last empties it for all.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from tilewright.kernels import cpu
from tilewright.precision import FORMATS
from tilewright.training.losses import Losses

__all__ = [
    "PRECISIONS",
    "ROUNDOFF",
    "autocast",
    "available",
    "check",
    "check_model",
    "flags",
    "ladder",
    "named",
    "default_state",
    "pays",
    "problem",
    "set_tf32",
    "widened",
]

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")

ROUNDOFF = {name: FORMATS[name].u for name in ("fp32", "tf32", "bf16", "fp16")}
"""Unit roundoff u of the operands."""

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


_SPELLINGS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def named(given: Any) -> str:
    """A precision by the name that is used here, of "bf16", "BF16", "bfloat16" or `torch.bfloat16`, and so on.

    TypeError if it is neither text nor a dtype. Unknown names come back as they are.
    """
    if not isinstance(given, str | torch.dtype):
        raise TypeError(f"precision must be one of {', '.join(PRECISIONS)}, adaptive, not {given!r}")
    name = str(given).removeprefix("torch.").lower()
    return _SPELLINGS.get(name, name)


def autocast(precision: str, device_type: str) -> AbstractContextManager[Any]:
    """Around a forward pass, in the thread that runs it: autocast's state belongs to one thread.

    ValueError if torch would disable this autocast and go on in FP32 under another name.
    """
    if precision in ("fp32", "tf32"):
        on = torch.is_autocast_enabled(device_type)  # where the caller has entered one
        return torch.autocast(device_type, enabled=False) if on else contextlib.nullcontext()
    if precision not in _DTYPES:
        raise ValueError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    if device_type == "cuda" and not torch.cuda.is_available():
        raise ValueError("autocast for cuda would be disabled here: there is no CUDA device; use device='cpu'")
    entered = torch.autocast(device_type, dtype=_DTYPES[precision], cache_enabled=False)
    return _both(entered, _Widened(precision)) if device_type == "cpu" and widened(precision) else entered


@contextlib.contextmanager
def _both(first: AbstractContextManager[Any], second: AbstractContextManager[Any]) -> Iterator[None]:
    with first, second:
        yield


_INSTRUCTIONS = {
    "bf16": ("avx512_bf16", "amx_bf16", "bf16", "svebf16"),
    "fp16": ("avx512_fp16", "amx_fp16", "fphp", "asimdhp"),
}
_CONVOLUTIONS = frozenset(
    {torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d}
)
_PRODUCTS = frozenset(
    {
        nn.functional.linear,
        nn.functional.bilinear,
        nn.functional.scaled_dot_product_attention,
        torch.einsum,
        torch.matmul,
        torch.Tensor.matmul,
        torch.Tensor.__matmul__,
        torch.Tensor.__rmatmul__,
        torch.mm,
        torch.Tensor.mm,
        torch.bmm,
        torch.Tensor.bmm,
        torch.mv,
        torch.Tensor.mv,
        torch.addmm,
        torch.Tensor.addmm,
        torch.baddbmm,
        torch.Tensor.baddbmm,
    }
)


def widened(precision: str) -> frozenset[Any]:
    """The functions of torch that are computed in FP32 on rounded operands in this precision, on this CPU."""
    native = bool(set(_INSTRUCTIONS.get(precision, ())) & cpu.features())
    if precision == "fp16":
        return _CONVOLUTIONS if native else _CONVOLUTIONS | _PRODUCTS
    return frozenset() if native or precision != "bf16" else _CONVOLUTIONS | _PRODUCTS


class _Widened(TorchFunctionMode):  # type: ignore[misc] # torch has no types for it
    """In the thread that enters it: products and convolutions in FP32, of operands that are rounded to 16 bits.

    Autograd sees the roundings, so gradients pass through 16 bits where those of 16-bit functions would.
    """

    def __init__(self, precision: str) -> None:
        super().__init__()
        self.dtype, self.functions = _DTYPES[precision], widened(precision)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in self.functions:
            return func(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            wide = func(*map(self._rounded, args), **{name: self._rounded(x) for name, x in (kwargs or {}).items()})
            return wide.to(self.dtype)

    def _rounded(self, x: Any) -> Any:
        if isinstance(x, torch.Tensor) and x.is_floating_point():
            return x.to(self.dtype).float()
        return [self._rounded(part) for part in x] if isinstance(x, list) else x


_flags = threading.RLock()


@contextlib.contextmanager
def flags(precision: str, device_type: str, deterministic: bool = False) -> Iterator[None]:
    """Around a training: FP32 means FP32 and TF32 means TF32, for matrix products, convolutions and recurrent layers.

    By default torch runs the convolutions of "FP32" in TF32 on Ampere and later. The flags are process-wide; they
    are restored at the end, and while one training holds them another one waits. On a CPU there is nothing to set.
    Repeatable products of a GPU need working memory of a fixed size, of which cuBLAS reads once, at its first use.
    """
    if device_type == "cpu" and not deterministic:
        yield
        return
    with _flags:
        switches = [] if device_type == "cpu" else _switches()
        before = [switch.fp32_precision for switch in switches]
        was = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
        try:
            set_tf32(precision == "tf32", device_type)
            if deterministic:
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
                torch.use_deterministic_algorithms(True)
                torch.backends.cudnn.benchmark = False
            yield
        finally:
            for switch, value in zip(switches, before, strict=True):
                switch.fp32_precision = value
            if deterministic:
                torch.use_deterministic_algorithms(was[0])
                torch.backends.cudnn.benchmark = was[1]


@contextlib.contextmanager
def default_state(device_type: str) -> Iterator[None]:
    """Around a training: what the caller has entered, autocast or `no_grad`, stays outside.

    Workers enter what is entered where a run begins, and a backward pass under autocast would change its dtypes.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device_type, enabled=False):
        yield


def set_tf32(on: bool, device_type: str) -> None:
    """Let FP32 products, convolutions and recurrent layers of a GPU use TF32, or not. Nothing on a CPU."""
    if device_type != "cpu":
        for switch in _switches():
            switch.fp32_precision = "tf32" if on else "ieee"


def _switches() -> list[Any]:
    """What has ``fp32_precision``: by default cuDNN's layers of FP32 numbers run in TF32."""
    return [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn]


def problem(precision: str, device: torch.device) -> str:
    """Why this device should not train in this precision; empty if it may."""
    if precision not in PRECISIONS:
        return f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}, adaptive"
    if device.type == "cpu":
        if precision == "tf32":
            return "tf32 is a format of NVIDIA's tensor cores; a CPU has none: use fp32 or bf16"
        return ""
    if not torch.cuda.is_available():
        return f"there is no CUDA device, so nothing can run in {precision} on {device}"
    if precision == "tf32" and torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} is older than Ampere and has no tf32"
    if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return f"{torch.cuda.get_device_name(device)} has no bf16"
    return ""


def available(device: torch.device) -> tuple[str, ...]:
    """The precisions that this device may train in."""
    return tuple(name for name in PRECISIONS if not problem(name, device))


def ladder(rungs: tuple[str, ...], device: torch.device) -> tuple[str, ...]:
    """The rungs that this device has."""
    return tuple(name for name in rungs if not problem(name, device))


def pays(precision: str, device: torch.device) -> bool:
    """Whether a step may be faster in this precision than in FP32, or it is FP32.

    On a CPU BF16 is where there are instructions for it. FP16 never is: it is widened, or its products take as long.
    """
    if problem(precision, device):
        return False
    return device.type != "cpu" or precision == "fp32" or (precision == "bf16" and not widened("bf16"))


def check(precision: str, device: torch.device) -> None:
    """ValueError, before any work, if the device cannot train in this precision."""
    if reason := problem(precision, device):
        raise ValueError(reason)


_BANNED = (nn.BCELoss,)


def check_model(model: nn.Module, loss: Any, precision: str) -> None:
    """What mixed precision needs of a model and a loss.

    Raises
    ------
    ValueError
        A parameter is not FP32: its gradients could not be unscaled, and updates below 2^-9 of a BF16 weight would
        vanish. Or the loss is one that autocast refuses.
    """
    wrong = [f"{name} ({p.dtype})" for name, p in model.named_parameters() if p.dtype != torch.float32]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"parameters must be float32, the master weights; not so: {', '.join(wrong[:3])}{more}. "
            f"Undo model.half() or model.bfloat16() with model.float(): autocast casts where it pays"
        )
    losses = [part for part, _ in loss.parts.values()] if isinstance(loss, Losses) else [loss]
    banned = [type(part).__name__ for part in losses if isinstance(part, _BANNED)]
    if precision not in ("fp32", "tf32") and banned:
        raise ValueError(
            f"{banned[0]} takes probabilities, which 16 bits cannot hold near 0 and 1; use BCEWithLogitsLoss "
            f"on the values before the sigmoid"
        )
