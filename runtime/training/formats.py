"""The notebook's first part: what the floating-point formats can hold, and what scaling a loss preserves."""

from __future__ import annotations

import torch

from tilewright.training.precision import ROUNDOFF
from tilewright.training.result import Text, grid
from tilewright.training.scaler import LossScaler

__all__ = ["batch_size_for", "formats", "scaling"]

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def formats() -> Text:
    """A table of FP32, FP16 and BF16: range, smallest normal number, roundoff, memory, and three numbers rounded.

    Examples
    --------
    >>> from tilewright import training
    >>> print(training.formats().splitlines()[6])
    largest               3.4e+38     6.55e+04     3.39e+38
    """
    rows = [["Format", *(name.upper() for name in _DTYPES)]]

    def row(title: str, cells: list[str]) -> None:
        rows.append([title, *cells])

    infos = {name: torch.finfo(dtype) for name, dtype in _DTYPES.items()}
    row("bits", [str(info.bits) for info in infos.values()])
    row("largest", [f"{info.max:.3g}" for info in infos.values()])
    row("smallest normal", [f"{info.tiny:.3g}" for info in infos.values()])
    row("unit roundoff", [f"{ROUNDOFF[name]:.3g}" for name in infos])
    row("MB for 10^6 numbers", [f"{info.bits / 8:.2f}" for info in infos.values()])
    for value in (70000.0, 1e-6, 1e-15):
        row(f"{value:g} becomes", [f"{torch.tensor(value).to(dtype).item():.6g}" for dtype in _DTYPES.values()])
    return grid(rows, "FLOATING-POINT FORMATS")


def scaling(gradient: float = 1e-5, power: int = 3, scaler: LossScaler | None = None) -> Text:
    """A small gradient, multiplied on its way back through layers: lost in FP16, and kept by a scaled loss.

    It is kept only if the scale is divided out in FP32. The notebook divides in FP16 and prints 0.

    Examples
    --------
    >>> from tilewright import training
    >>> print(training.scaling().splitlines()[-2])
    scaled, divided in FP32  9.99e-16
    """
    scale = (scaler or LossScaler()).factor
    small = torch.tensor(gradient)
    scaled = (small * scale).half() ** power
    rows = [
        ["Product", "value"],
        ["in FP32", f"{(small**power).item():.3g}"],
        ["in FP16", f"{(small.half() ** power).item():.3g}"],
        ["scaled, divided in FP16", f"{(scaled / scale**power).item():.3g}"],
        ["scaled, divided in FP32", f"{(scaled.float() / scale**power).item():.3g}"],
    ]
    return grid(rows, f"{gradient:g}^{power}, loss scale {scale:g}")


def batch_size_for(device: str | torch.device) -> int:
    """The notebook's batch size for a device: 256 beyond 100 GB of memory, 128 beyond 16 GB, else 64."""
    device = torch.device(device)
    if device.type != "cuda":
        return 64
    memory = torch.cuda.get_device_properties(device).total_memory / 1e9
    return 256 if memory > 100 else 128 if memory > 16 else 64
