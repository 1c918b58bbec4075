"""The device that a training runs on."""

from __future__ import annotations

import torch

__all__ = ["host", "target_device"]


def target_device(device: str | torch.device | None) -> torch.device:
    """That device, or a CUDA device if there is one, else the CPU. ValueError if it is neither, or not there."""
    have = torch.cuda.is_available()
    try:
        found = torch.device(device if device is not None else "cuda" if have else "cpu")
    except RuntimeError:
        raise ValueError(f"unknown device {device!r}; trainings run on 'cpu' and 'cuda', such as 'cuda:1'") from None
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"trainings run on 'cpu' and 'cuda', not on {str(found)!r}")
    if found.type == "cuda" and not have:
        raise ValueError(f"there is no CUDA device, so nothing can run on {str(found)!r}; pass 'cpu'")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"there is no device {str(found)!r}; CUDA devices here: {torch.cuda.device_count()}")
    return found


def host(device: str | torch.device | None, backend: str) -> torch.device:
    """The CPU, for engines with several processes. ValueError if something else is meant, or would be by default."""
    if torch.cuda.is_available() if device is None else str(device) != "cpu":
        raise ValueError(f"backend {backend!r} sends values between processes and trains on CPUs; pass device='cpu'")
    return torch.device("cpu")
