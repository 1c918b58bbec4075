"""Pickles in which arrays of shared segments are references, and functions of scripts and notebooks are code."""

from __future__ import annotations

import io
import pickle
import sys
from functools import lru_cache
from types import FunctionType
from typing import Any

import numpy as np

from tilewright.backends.execution.buffers import kind, view, wrap
from tilewright.backends.ranks.segments import Mappings, reference

__all__ = ["CodePickler", "code", "dumps", "loads"]


class CodePickler(pickle.Pickler):
    """A pickler that sends a function or class of a script, a notebook cell or another function as its code."""

    main_is_there = False
    """Whether who reads it has the same main module: ranks of one script."""

    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, type | FunctionType | CACHED) and not _by_name(thing, self.main_is_there):
            return _remembering(thing) if isinstance(thing, CACHED) else (pickle.loads, (_code(thing),))
        return NotImplemented


CACHED = type(lru_cache(int))
"""What `functools.lru_cache` makes of a function; it pickles by its name alone."""


def _remembering(thing: Any) -> tuple[Any, ...]:
    """How to make a function with a cache again, whose cache is empty then."""
    return _cached, (thing.__wrapped__, thing.cache_parameters())


def _cached(function: Any, parameters: dict[str, Any]) -> Any:
    return lru_cache(**parameters)(function)


def _by_name(thing: Any, main: bool) -> bool:
    """Whether it stands under its name in a module: another process can import it from there."""
    found: Any = sys.modules.get(thing.__module__)
    for name in thing.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is thing and (main or thing.__module__ != "__main__")


def _code(thing: Any) -> bytes:
    try:
        import cloudpickle
    except ImportError:
        raise TypeError(
            f"backend 'mpi' cannot send {thing.__qualname__} of {thing.__module__} to its ranks: they import functions "
            f"by name; define it at the top of a module, or install cloudpickle, with which it travels as code"
        ) from None

    class Coder(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, thing: Any) -> Any:
            if isinstance(thing, CACHED) and not _by_name(thing, False):
                return _remembering(thing)
            return super().reducer_override(thing)

    buffer = io.BytesIO()
    try:
        Coder(buffer, pickle.HIGHEST_PROTOCOL).dump(thing)
    except Exception as error:
        error.add_note(f"while {thing.__qualname__} of {thing.__module__} was made ready to be sent to the ranks")
        raise
    return buffer.getvalue()


def code(value: Any) -> bytes:
    """Pickle for another process that has not this one's main module."""
    buffer = io.BytesIO()
    CodePickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


class _Pickler(CodePickler):
    def persistent_id(self, thing: Any) -> Any:
        return reference(thing) if isinstance(thing, np.ndarray) else None

    def reducer_override(self, thing: Any) -> Any:
        """A tensor as the array it looks at: by itself it would take all of its storage with it."""
        if isinstance(thing, np.ndarray | type) or (array := view(thing)) is None:
            return super().reducer_override(thing)
        return wrap, (array, kind(thing))


class _Unpickler(pickle.Unpickler):
    mappings: Mappings

    def persistent_load(self, reference: Any) -> np.ndarray:
        return self.mappings.array(reference)


def dumps(value: Any) -> bytes:
    """Pickle; arrays and tensors in a segment of this process as references."""
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def loads(data: bytes, mappings: Mappings) -> Any:
    """The inverse of `dumps`, in another process."""
    unpickler = _Unpickler(io.BytesIO(data))
    unpickler.mappings = mappings
    return unpickler.load()
