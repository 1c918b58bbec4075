"""Many pieces of a file by one system call: lines of a tile, which lie apart in the file.

A loop of ``preadv`` gives the interpreter's lock up and takes it again for each line. With several threads that costs
more than the copies. Linux takes a list of reads or writes at once, ``io_submit`` [1]_; where the system has no such
call, or a sandbox forbids it, callers go line by line.

.. [1] Linux manual pages, io_submit(2), io_setup(2), io_getevents(2).
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections import deque
from functools import cache
from typing import Any

import numpy as np

__all__ = ["moved"]

_MOST = 1024  # pieces at a time: what one context holds
_CALLS = {"x86_64": (206, 207, 209, 208), "aarch64": (0, 1, 2, 4)}  # io_setup, io_destroy, io_submit, io_getevents
_READ, _WRITE = 7, 8  # IOCB_CMD_PREADV, IOCB_CMD_PWRITEV
_EINTR = 4

_CONTROL = np.dtype(
    [
        ("data", "<u8"),
        ("key", "<u4"),
        ("rw_flags", "<u4"),
        ("opcode", "<u2"),
        ("priority", "<i2"),
        ("descriptor", "<u4"),
        ("buffer", "<u8"),
        ("nbytes", "<u8"),
        ("offset", "<i8"),
        ("reserved", "<u8"),
        ("flags", "<u4"),
        ("event_descriptor", "<u4"),
    ]
)
"""``struct iocb``."""

_EVENT = np.dtype([("data", "<u8"), ("control", "<u8"), ("result", "<i8"), ("result2", "<i8")])

_free: deque[_Context] = deque()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free.clear)  # contexts are not inherited


def moved(descriptor: int, places: np.ndarray, pieces: np.ndarray, *, write: bool) -> np.ndarray | None:
    """Read or write lines; how many bytes of each were, or a negative error number. None if the system cannot.

    Parameters
    ----------
    places : (lines,)
        Bytes from the beginning of the file.
    pieces : (lines, k, 2)
        Addresses and bytes of the memory of each line.
    """
    if _system() is None:
        return None
    try:
        context = _free.pop()
    except IndexError:
        found = _Context.made()
        if found is None:
            return None
        context = found
    try:
        results = np.concatenate(
            [
                context.go(descriptor, places[at : at + _MOST], pieces[at : at + _MOST], _WRITE if write else _READ)
                for at in range(0, len(places), _MOST)
            ]
        )
    except BaseException:
        context.close()  # which waits for what is on its way
        raise
    _free.append(context)
    return results


@cache
def _system() -> tuple[Any, tuple[int, ...]] | None:
    """The C library's ``syscall`` and the numbers of the four calls."""
    numbers = _CALLS.get(platform.machine())
    if not sys.platform.startswith("linux") or numbers is None or sys.maxsize < 2**32:
        return None
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    return call, numbers


class _Context:
    """What the system keeps of one thread's list."""

    def __init__(self, number: ctypes.c_ulong) -> None:
        self.number = number
        self.control = np.zeros(_MOST, _CONTROL)
        self.events = np.zeros(_MOST, _EVENT)
        self.control["data"] = np.arange(_MOST)
        at = self.control.__array_interface__["data"][0]
        self.pointers = at + _CONTROL.itemsize * np.arange(_MOST, dtype=np.uint64)

    @classmethod
    def made(cls) -> _Context | None:
        system = _system()
        assert system is not None
        call, (setup, *_) = system
        number = ctypes.c_ulong(0)
        return None if call(ctypes.c_long(setup), ctypes.c_long(_MOST), ctypes.byref(number)) else cls(number)

    def close(self) -> None:
        system = _system()
        if system is not None:
            call, (_, destroy, *_) = system
            call(ctypes.c_long(destroy), self.number)

    def go(self, descriptor: int, places: np.ndarray, pieces: np.ndarray, opcode: int) -> np.ndarray:
        """The results of up to so many lines."""
        system = _system()
        assert system is not None
        call, (_, _, submit, get) = system
        count = len(places)
        control = self.control[:count]
        pieces = np.ascontiguousarray(pieces, np.uint64)
        at = pieces.__array_interface__["data"][0]
        control["opcode"], control["descriptor"], control["nbytes"] = opcode, descriptor, pieces.shape[1]
        control["buffer"] = at + pieces.strides[0] * np.arange(count, dtype=np.uint64)
        control["offset"] = places
        results = np.full(count, -_EINTR, np.int64)
        done = 0
        while done < count:
            sent = call(ctypes.c_long(submit), self.number, ctypes.c_long(count - done), _pointer(self.pointers[done:]))
            if sent <= 0:
                break  # the others keep a result that says so
            here = 0
            while here < sent:
                some = call(
                    ctypes.c_long(get),
                    self.number,
                    ctypes.c_long(sent - here),
                    ctypes.c_long(sent - here),
                    _pointer(self.events),
                    None,
                )
                if some < 0 and ctypes.get_errno() != _EINTR:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
                for_them = self.events[: max(some, 0)]
                results[for_them["data"].astype(np.int64)] = for_them["result"]
                here += max(some, 0)
            done += sent
        return results


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.__array_interface__["data"][0])
