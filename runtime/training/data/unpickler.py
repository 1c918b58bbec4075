"""Unpickling what a stranger wrote: arrays of numbers, strings and numbers, and nothing that could run.

No class or function of NumPy is called, as these trust what they are given: the parts of an array are noted, looked at,
and only then seen as one.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["loads"]


_NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")


class _Maker:
    """What stands for a function in a pickle: it can be called, and not be changed."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make

    def __call__(self, *arguments: Any) -> Any:
        return self.make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")


class _Dtype:
    """A dtype in a pickle: a kind of number and its bytes; the state adds the order of these."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or code not in _NUMBERS:
            raise pickle.UnpicklingError(f"it has numbers of a kind {code!r}")
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "=") or any(state[2:5]):
            raise pickle.UnpicklingError("it has a dtype that is no plain number's")
        self.order = state[1]

    def whole(self) -> np.dtype:
        return np.dtype(self.code if self.order in "|=" else f"{self.order}{self.code}")


class _Array:
    """An array in a pickle."""

    value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        if isinstance(content, str):  # as Python 2 wrote bytes
            content = content.encode("latin1")
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes) or not isinstance(shape, tuple):
            raise pickle.UnpicklingError("it has an array whose parts are none")
        if not all(type(extent) is int and extent >= 0 for extent in shape):
            raise pickle.UnpicklingError(f"it has an array of shape {shape}")
        kind = dtype.whole()
        if len(content) != math.prod(shape) * kind.itemsize:
            raise pickle.UnpicklingError(f"it has {len(content)} bytes for an array of {shape} numbers of {kind}")
        self.value = np.frombuffer(content, kind).reshape(shape, order="F" if fortran else "C")


def _encode(text: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes in the protocols of Python 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it encodes what is no bytes")
    return text.encode("latin1")


class _Restricted(pickle._Unpickler):  # Python's: the one in C believes all sizes
    def find_class(self, module: str, name: str) -> Any:
        known = {
            "numpy.ndarray": None, "numpy.dtype": _Maker(_Dtype), "_codecs.encode": _Maker(_encode),
            "numpy.core.multiarray._reconstruct": _Maker(lambda *_: _Array()),
        }  # fmt: skip
        full = f"{module.replace('numpy._core', 'numpy.core')}.{name}"
        if full not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which a file of images has no use for")
        return known[full]


def loads(data: bytes, name: str) -> dict[str, Any]:
    """The dict in ``data`` with its arrays; ValueError, with the file's ``name``, for anything odd."""
    try:
        content = _Restricted(io.BytesIO(data), encoding="latin1").load()
        if type(content) is not dict:
            raise pickle.UnpicklingError(f"it holds a {type(content).__name__}, not the dict of a batch")
        return {
            key.decode("latin1") if isinstance(key, bytes) else str(key): value.value
            if isinstance(value, _Array)
            else value
            for key, value in content.items()
        }
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(f"{name} is damaged, or not a batch of CIFAR-10: {error}") from error
