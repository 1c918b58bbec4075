"""The keeper of one worker process of the kept cluster: no process runs the user's script, also not one after a death.

``spawn`` imports the main module where that has a file, so each worker would run the user's script again, which then
needs a guard, ``if __name__ == "__main__"``. Dask sends functions of the main module by value, so nobody misses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import spawn
from threading import Lock
from typing import Any

from distributed import Nanny

__all__ = ["Keeper"]

_MAIN = ("init_main_from_name", "init_main_from_path")
_starting = 0
_lock = Lock()
_told_by_spawn = spawn.get_preparation_data


def _told(name: str) -> dict[str, Any]:
    """What a new process is told; while a keeper starts one, nothing of the main module."""
    data: dict[str, Any] = _told_by_spawn(name)
    if _starting and name.startswith("Dask Worker process"):
        for key in _MAIN:
            data.pop(key, None)
    return data


spawn.get_preparation_data = _told


@contextmanager
def _without_main() -> Iterator[None]:
    global _starting
    with _lock:
        _starting += 1
    try:
        yield
    finally:
        with _lock:
            _starting -= 1


class Keeper(Nanny):  # type: ignore[misc]
    """A `distributed.Nanny` whose workers never import the main module of this process."""

    async def instantiate(self) -> Any:
        with _without_main():
            return await super().instantiate()
