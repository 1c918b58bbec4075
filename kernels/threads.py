"""How many threads a call into a library may use: around a run `limits`, in each worker `task_threads`."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tilewright.kernels import blas, choice
from tilewright.kernels.blas import Setting

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

__all__ = ["limits", "one_thread", "task_threads"]


class _Pools:
    """Thread pools that are one for the process, held at one thread until `restore`."""

    def __init__(self, settings: list[Setting], controller: ThreadpoolController | None) -> None:
        self.before = [(setting, setting.get()) for setting in settings]
        for setting in settings:
            setting.set(1)
        others = None if controller is None else controller.select(internal_api=["mkl", "blis", "flexiblas"])
        self.others = None if others is None else others.limit(limits=1)

    def restore(self) -> None:
        for setting, threads in self.before:
            setting.set(threads)
        if self.others is not None:
            self.others.restore_original_limits()


_held: list[_Pools] = []
_runs = 0
_lock = threading.Lock()


@contextlib.contextmanager
def limits(functions: bool) -> Iterator[None]:
    """Around a run: keep BLAS and OpenMP pools from starting threads of their own under the run's workers.

    A library with a setting per thread needs nothing here, as `task_threads` in each worker does it. The pools of
    others are process-wide: they are held at one thread while such a run lasts, and the last of several runs
    restores what the user had. ``functions`` says that tasks are Python functions, which may call any library: then
    all that are loaded are held, also those that we did not load. To find these takes a millisecond.
    """
    global _runs
    settings = [s for library in _in_use() for s in library.threads if not s.of_thread]
    if not functions and not settings:
        yield
        return
    controller = None
    if functions:
        from threadpoolctl import ThreadpoolController

        controller = ThreadpoolController()
        paths = [pool["filepath"] for pool in controller.select(internal_api="openblas").info()]
        settings = [blas.openblas_threads(path) for path in paths]
    with _lock:
        _held.append(_Pools(settings, controller))
        _runs += 1
    try:
        if controller is None:
            yield
        else:
            with controller.select(internal_api="openmp").limit(limits=1):  # a setting of the calling thread
                yield
    finally:
        with _lock:
            _runs -= 1
            if not _runs:
                while _held:
                    _held.pop().restore()  # the first of them has what the user had, so it comes last


def _in_use() -> list[blas.Library]:
    """The libraries that kernels may come from: those that were loaded."""
    choice.current()
    return blas.loaded()


@contextlib.contextmanager
def task_threads(count: int) -> Iterator[None]:
    """In the calling thread, inside `limits`: let each call into a library use ``count`` threads; restored at the end.

    That is all settings of this thread of all libraries loaded here, not only of the one in use: products in 16 bits
    are MKL's in any case, and they choose their way of adding up by OpenMP's number of threads as well as by MKL's.
    With more than one, also those of OpenMP in libraries that neither we nor torch loaded.
    """
    settings = [setting for library in _in_use() for setting in library.threads if setting.of_thread]
    if "torch" in sys.modules:
        settings += [setting for setting in blas.torch_openmp() if setting not in settings]
    before = [setting.get() for setting in settings]
    try:
        for setting in settings:
            setting.set(count)
        if count == 1:
            yield
        else:
            from threadpoolctl import ThreadpoolController

            with ThreadpoolController().select(internal_api="openmp").limit(limits=count):
                yield
    finally:
        for setting, threads in zip(settings, before, strict=True):
            setting.set(threads)


def one_thread() -> contextlib.AbstractContextManager[None]:
    """In the calling thread, let calls into a library run on one thread; restored at the end."""
    return task_threads(1)
