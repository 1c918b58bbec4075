"""The libraries with threads that this process has loaded, found again only when one was loaded or closed since.

threadpoolctl reads the map of the whole process for them, which takes a millisecond and more: too long around each of a
thousand steps. The dynamic linker counts what it loads and closes [1]_, and answers in microseconds.

.. [1] Linux man-pages, dl_iterate_phdr(3): ``dlpi_adds`` and ``dlpi_subs``.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

__all__ = ["changes", "controller"]

_found: tuple[tuple[int, int], ThreadpoolController] | None = None


class _Object(ctypes.Structure):
    """``struct dl_phdr_info``."""

    _fields_ = (
        ("addr", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("phdr", ctypes.c_void_p),
        ("phnum", ctypes.c_uint16),
        ("adds", ctypes.c_ulonglong),
        ("subs", ctypes.c_ulonglong),
    )


_Seen = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Object), ctypes.c_size_t, ctypes.POINTER(ctypes.c_ulonglong))


def _first(item: Any, size: int, counts: Any) -> int:
    """Take the two numbers from the first object, and ask for no other."""
    if size >= ctypes.sizeof(_Object):
        counts[0], counts[1] = item.contents.adds, item.contents.subs
    return 1


_FIRST = _Seen(_first)


@cache
def _walk() -> Any:
    """``dl_iterate_phdr`` of the dynamic linker; None on a system that has none."""
    if not sys.platform.startswith("linux"):
        return None
    walk = getattr(ctypes.CDLL(None), "dl_iterate_phdr", None)
    if walk is not None:
        walk.argtypes = (_Seen, ctypes.POINTER(ctypes.c_ulonglong))
    return walk


def changes() -> tuple[int, int] | None:
    """How many libraries were loaded and closed since the process began; None where nobody counts."""
    if (walk := _walk()) is None:
        return None
    counts = (ctypes.c_ulonglong * 2)()
    walk(_FIRST, counts)
    return (counts[0], counts[1]) if counts[0] else None


def controller() -> ThreadpoolController:
    """threadpoolctl's view of all libraries that are loaded now."""
    global _found
    from threadpoolctl import ThreadpoolController

    now, known = changes(), _found
    if known is not None and known[0] == now:
        return known[1]
    fresh = ThreadpoolController()
    if now is not None:
        _found = now, fresh
    return fresh
