"""How many threads a call into a library may use: around a run `limits`, in each worker `task_threads`.

Around a single kernel `one_call`.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from tilewright.kernels import blas, choice, loaded
from tilewright.kernels.blas import Setting

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

__all__ = ["limits", "one_call", "one_thread", "task_threads"]


_Held = tuple[list[tuple[Setting, int]], Any]
"""Thread pools that are one for the process, at one thread now: settings with what they were, and threadpoolctl's."""

_held: list[_Held] = []
_runs = 0
_lock = threading.Lock()


class limits:  # noqa: N801 - used like a function
    """Around a run: keep BLAS and OpenMP pools from starting threads of their own under the run's workers.

    A library with a setting per thread needs nothing here, as `task_threads` in each worker does it. The pools of
    others are process-wide: they are held at one thread while such a run lasts, and the last of several runs
    restores what the user had. ``functions`` says that tasks are Python functions, which may call any library: then
    all that are loaded are held, also those that we did not load.

    A class of its own rather than a generator: around one small matrix a generator took as long as LAPACK.
    """

    __slots__ = ("functions", "held", "openmp")

    def __init__(self, functions: bool) -> None:
        self.functions = functions

    def __enter__(self) -> None:
        settings = _settings()[0]
        self.openmp: contextlib.AbstractContextManager[Any] | None = None
        self.held = self.functions or bool(settings)
        if not self.functions:
            if settings:
                _hold(settings, None)
            return
        found = loaded.controller()
        paths = [library.filepath for library in found.select(internal_api="openblas").lib_controllers]
        _hold([blas.openblas_threads(path) for path in paths], found)
        try:
            self.openmp = found.select(internal_api="openmp").limit(limits=1)  # a setting of the calling thread
        except BaseException:
            _leave()
            raise

    def __exit__(self, *error: object) -> None:
        try:
            if self.openmp is not None:
                self.openmp.__exit__(None, None, None)
        finally:
            if self.held:
                _leave()


class one_call:  # noqa: N801
    """Around one call of a kernel of this library in the calling thread: `limits` and `one_thread`, of it alone.

    ``library`` is the source of a row of the table; for one that is no library all that are loaded are held.
    """

    __slots__ = ("before", "held", "library")

    def __init__(self, library: str) -> None:
        self.library = library

    def __enter__(self) -> None:
        of_process, of_thread = _of_library(self.library, choice.changes(), blas.count(), "torch" in sys.modules)
        _met()
        self.before = _set(of_thread, 1)
        self.held = bool(of_process)
        if of_process:
            _hold(of_process, None)

    def __exit__(self, *error: object) -> None:
        if self.held:
            _leave()
        _restore(self.before)


@cache
def _of_library(name: str, changes: int, count: int, torch: bool) -> _Settings:
    """`_settings` of one library; the numbers say when to look again."""
    settings = [setting for library in blas.loaded() if library.name == name for setting in library.threads]
    if not settings:
        return _settings()
    return tuple([s for s in settings if not s.of_thread]), tuple([s for s in settings if s.of_thread])


def _met() -> None:
    """Let torch meet the calling thread, if it is loaded.

    At its first work in a thread it sets the numbers of threads of OpenMP and MKL there, if `torch.set_num_threads` was
    ever called: that may not come between ours and a kernel.
    """
    count = getattr(sys.modules.get("torch"), "get_num_threads", None)
    if count is not None:
        count()


def _set(settings: Iterable[Setting], count: int) -> list[tuple[Setting, int]]:
    """Let these be ``count``; what they were. One that is so already is left alone."""
    before = [(setting, setting.get()) for setting in settings]
    for setting, threads in before:
        if threads != count:
            setting.set(count)
    return before


def _restore(before: list[tuple[Setting, int]]) -> None:
    for setting, threads in before:
        setting.set(threads)


def _hold(settings: Iterable[Setting], controller: ThreadpoolController | None) -> None:
    global _runs
    with _lock:
        before = _set(settings, 1)
        others = None
        if controller is not None:
            others = controller.select(internal_api=["mkl", "blis", "flexiblas"]).limit(limits=1)
        _held.append((before, others))
        _runs += 1


def _leave() -> None:
    global _runs
    with _lock:
        _runs -= 1
        while not _runs and _held:
            before, others = _held.pop()  # the first of them has what the user had, so it comes last
            _restore(before)
            if others is not None:
                others.restore_original_limits()


class task_threads:  # noqa: N801
    """In the calling thread, inside `limits`: let each call into a library use ``count`` threads; restored at the end.

    That is all settings of this thread of all libraries loaded here, not only of the one in use: products in 16 bits
    are MKL's in any case, and they choose their way of adding up by OpenMP's number of threads as well as by MKL's.
    With more than one, also those of OpenMP in libraries that neither we nor torch loaded.
    """

    __slots__ = ("before", "count", "openmp")

    def __init__(self, count: int) -> None:
        self.count = count

    def __enter__(self) -> None:
        count = self.count
        _met()
        self.before = _set(_settings()[1], count)
        self.openmp: contextlib.AbstractContextManager[Any] | None = None
        if count != 1:
            try:
                self.openmp = loaded.controller().select(internal_api="openmp").limit(limits=count)
            except BaseException:
                _restore(self.before)
                raise

    def __exit__(self, *error: object) -> None:
        try:
            if self.openmp is not None:
                self.openmp.__exit__(None, None, None)
        finally:
            _restore(self.before)


def one_thread() -> task_threads:
    """In the calling thread, let calls into a library run on one thread; restored at the end."""
    return task_threads(1)


_Settings = tuple[tuple[Setting, ...], tuple[Setting, ...]]
_known: tuple[tuple[int, int, bool], _Settings] | None = None


def _settings() -> _Settings:
    """The settings of the process and of the calling thread, for the libraries loaded so far that kernels come from.

    Found again when a library was loaded or another chosen, or torch was imported.
    """
    global _known
    known = _known
    if known is not None and known[0] == (choice.changes(), blas.count(), "torch" in sys.modules):
        return known[1]
    choice.current()
    key = choice.changes(), blas.count(), "torch" in sys.modules
    every = [setting for library in blas.loaded() for setting in library.threads]
    of_thread = [setting for setting in every if setting.of_thread]
    if key[2]:
        of_thread += [setting for setting in blas.torch_openmp() if setting not in of_thread]
    found = tuple([setting for setting in every if not setting.of_thread]), tuple(of_thread)
    _known = key, found
    return found
