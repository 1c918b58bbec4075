"""The computer under a measurement: what tells its figures from those of another."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from tilewright.host.cores import cores
from tilewright.kernels import caches, cpu

__all__ = ["INSTRUCTIONS", "computer", "settings"]

INSTRUCTIONS = (
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "amx_fp16",
    "asimd",
    "asimdhp",
    "asimdfhm",
    "bf16",
    "i8mm",
    "sve",
    "sve2",
    "svebf16",
    "sme",
)
"""Instruction sets that decide how fast a tile kernel can be, in the names of Linux: x86, then Arm (asimd is NEON)."""

_SWITCHES = (
    "OPENBLAS_",
    "MKL_",
    "OMP_",
    "GOTO_",
    "ATEN_",
    "ONEDNN_",
    "DNNL_",
    "KMP_",
    "GOMP_",
    "TILEWRIGHT_",
    "LD_PRELOAD",
)


@cache
def computer() -> dict[str, Any]:
    """CPU, its maker and its instruction sets; cores that may be used and that there are; caches and memory in bytes.

    What cannot be found out is left out or empty.
    """
    words = set((cpu.facts().get("flags") or cpu.facts().get("Features") or "").split())
    return {
        "cpu": cpu.model(),
        "vendor": cpu.vendor(),
        "instructions": [name for name in INSTRUCTIONS if name in words],
        "cores": cores(),
        "cpus": os.cpu_count(),
        "caches": {name: found.size for name, found in caches.caches().items()},
        "memory": _memory(),
    }


def settings() -> dict[str, str]:
    """Environment variables that change what libraries do, or which computer they take this one for."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(_SWITCHES)}


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
