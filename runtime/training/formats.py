"""The notebook's first part: what the floating-point formats can hold, and what scaling a loss preserves.

The notebook is *Lab 2.1.4: Mixed Precision Training - Speed Up with AMP*.
"""

from __future__ import annotations

import math
import sys

import torch

from tilewright.keywords import strict
from tilewright.scalars import instance, optional, real, whole
from tilewright.training.precision import ROUNDOFF
from tilewright.training.result import Text, grid
from tilewright.training.scaler import LossScaler

__all__ = ["batch_size_for", "formats", "scaling"]

_MOST_LAYERS = 1000
_USES = {"fp32": "weights, sums", "fp16": "scaled losses", "bf16": "products"}
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def formats() -> Text:
    """A table of FP32, FP16 and BF16: bits, range, eps, roundoff, memory, use, and three numbers rounded.

    Examples
    --------
    >>> from tilewright import training
    >>> print(training.formats().splitlines()[8])
    largest                    3.4e+38       6.55e+04     3.39e+38
    """
    rows = [["Format", *(name.upper() for name in _DTYPES)]]

    def row(title: str, cells: list[str]) -> None:
        rows.append([title, *cells])

    infos = {name: torch.finfo(dtype) for name, dtype in _DTYPES.items()}
    row("bits", [str(info.bits) for info in infos.values()])
    mantissa = {name: round(-math.log2(info.eps)) for name, info in infos.items()}  # stored; a leading 1 is not
    row("exponent bits", [str(info.bits - 1 - mantissa[name]) for name, info in infos.items()])
    row("mantissa bits", [str(bits) for bits in mantissa.values()])
    row("largest", [f"{info.max:.3g}" for info in infos.values()])
    row("smallest normal", [f"{info.tiny:.3g}" for info in infos.values()])
    row("eps", [f"{info.eps:.3g}" for info in infos.values()])
    row("unit roundoff", [f"{ROUNDOFF[name]:.3g}" for name in infos])
    row("MB for 10^6 numbers", [f"{info.bits / 8:.2f}" for info in infos.values()])
    for value in (70000.0, 1e-6, 1e-15):
        row(f"{value:g} becomes", [f"{torch.tensor(value).to(dtype).item():.6g}" for dtype in _DTYPES.values()])
    row("used for", [_USES[name] for name in _DTYPES])
    return grid(rows, "FLOATING-POINT FORMATS")


@strict
def scaling(gradient: float = 1e-5, power: int = 3, scaler: LossScaler | None = None) -> Text:
    """A small gradient, multiplied on its way back through layers: lost in FP16, and kept by a scaled loss.

    It is kept only if the scale is divided out in FP32. The notebook divides in FP16 and prints 0.

    Parameters
    ----------
    gradient
        Any finite number.
    power
        How many layers multiply by it, 1 to 1000.
    scaler
        Whose scale; that of a new `LossScaler` by default.

    Raises
    ------
    ValueError
        A number out of range, or a scale to the ``power`` that is beyond FP64.
    TypeError
        An argument is of another kind.

    Examples
    --------
    >>> from tilewright import training
    >>> print(training.scaling().splitlines()[-2])
    scaled, divided in FP32  9.99e-16
    """
    gradient, power = float(real(gradient, "gradient")), whole(power, "power", 1, _MOST_LAYERS)
    optional(scaler, "scaler", LossScaler, "a LossScaler or None")
    scale = float((scaler if scaler is not None else LossScaler()).factor)
    if scale > 1 and power * math.log2(scale) >= sys.float_info.max_exp:
        raise ValueError(f"power must be smaller: the scale {scale:g} to the power {power} is beyond 1.8e308")
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


@strict
def batch_size_for(device: str | torch.device) -> int:
    """The notebook's batch size for a device: 256 beyond 100 GB of memory, 128 beyond 16 GB, else 64.

    Parameters
    ----------
    device
        A name such as ``"cuda:0"``, or a ``torch.device``. What is no CUDA device gets 64.

    Raises
    ------
    ValueError
        The name is none of torch's.
    TypeError
        It is neither a name nor a ``torch.device``.

    Examples
    --------
    >>> from tilewright import training
    >>> training.batch_size_for("cpu")
    64
    """
    try:
        device = torch.device(instance(device, "device", (str, torch.device), "a name such as 'cuda:0'"))
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is none of torch's: {str(error).splitlines()[0]}") from None
    if device.type != "cuda":
        return 64
    memory = torch.cuda.get_device_properties(device).total_memory / 1e9
    return 256 if memory > 100 else 128 if memory > 16 else 64
