"""Segments compiled by `torch.compile`: the same graph of tasks, with faster forward and backward passes in them."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from tilewright.extras import pip

__all__ = ["BACKEND", "compiled", "problem", "settings"]

BACKEND = "inductor"
"""Torch's own: C++ on a CPU, Triton on a GPU."""


def problem(backend: str, device: torch.device) -> str:
    """Why this backend cannot compile for a device here; empty if it can."""
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        return f"unknown compiler {backend!r}; torch has {', '.join(known)}"
    if backend != BACKEND:
        return ""
    if device.type == "cuda":
        return "" if importlib.util.find_spec("triton") else f"compiling for a GPU needs Triton; {pip('triton')}"
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        return (
            f"compiling for a CPU needs a C++ compiler, and there is no {compiler}: install one (Debian: apt-get "
            f"install g++) or name another in CXX"
        )
    return ""


def compiled(module: nn.Module, backend: str) -> Callable[..., Any]:
    """The module as a compiled function of its input. Nothing is compiled before the first call."""
    options: dict[str, Any] = {}
    if "isolate_recompiles" in inspect.signature(torch.compile).parameters:
        options["isolate_recompiles"] = True  # segments of one class do not use up a common limit
    function: Callable[..., Any] = torch.compile(module, backend=backend, **options)
    return function


@contextlib.contextmanager
def settings() -> Iterator[None]:
    """Around a call that may compile, in the thread that makes it: torch's settings belong to one thread.

    A backward pass is compiled with its forward pass, and would inherit the autocast around that. Dropout draws the
    numbers that it would draw uncompiled. Nothing is compiled in other processes, which would stay behind.
    """
    import torch._functorch.config as functorch
    import torch._inductor.config as inductor

    changes = {"backward_pass_autocast": "off"} if hasattr(functorch, "backward_pass_autocast") else {}
    with functorch.patch(**changes), inductor.patch(fallback_random=True, compile_threads=1):
        yield
