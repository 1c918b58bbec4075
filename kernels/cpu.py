"""The CPU: who made it, which instructions it has. What choices of kernels may depend on."""

from __future__ import annotations

import importlib.util
import os
import platform
from functools import cache
from pathlib import Path

__all__ = ["VENDORS", "facts", "features", "model", "vendor"]

VENDORS = {"GenuineIntel": "intel", "AuthenticAMD": "amd", "HygonGenuine": "amd"}
"""Names of makers by the id that x86 CPUs give."""

FEATURES = "TILEWRIGHT_CPU_FEATURES"
"""Environment variable that pretends other instruction sets, separated by commas. It changes what is chosen, not what
libraries do. For tests."""

VARIABLE = "TILEWRIGHT_CPU_VENDOR"
"""Environment variable that pretends another maker: ``intel``, ``amd``, ``arm`` or ``other``. For tests."""


@cache
def facts() -> dict[str, str]:
    """What Linux says of the first CPU, by its own names; nothing elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.split("\n\n", 1)[0].splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def vendor() -> str:
    """``intel``, ``amd``, ``arm`` or ``other``."""
    pretended = os.environ.get(VARIABLE)
    if pretended:
        return pretended
    if platform.machine().lower() in ("aarch64", "arm64"):
        return "arm"
    name = facts().get("vendor_id") or platform.processor()
    return next((short for id_, short in VENDORS.items() if id_ in name), "other")


def model() -> str:
    """Its name, for people."""
    return facts().get("model name") or platform.processor() or platform.machine()


@cache
def features() -> frozenset[str]:
    """Instruction sets of this CPU, by the names of Linux and torch; ``TILEWRIGHT_CPU_FEATURES`` if that is set."""
    pretended = os.environ.get(FEATURES)
    if pretended is not None:
        return frozenset(name.strip() for name in pretended.split(",") if name.strip())
    listed = facts().get("flags") or facts().get("Features")
    if listed:
        return frozenset(listed.split())
    if importlib.util.find_spec("torch"):
        import torch

        if hasattr(torch.cpu, "get_capabilities"):
            return frozenset(name for name, has in torch.cpu.get_capabilities().items() if has is True)
    return frozenset()
