"""Where BLAS and LAPACK come from: C-level functions that release the GIL, without a compiler.

SciPy's own wrappers hold the GIL, so two threads in `scipy.linalg.blas.dgemm` take turns. The same routines
called through `ctypes` run side by side. Three libraries can be had that way:

==========  ==================================================================================
name        what it is
==========  ==================================================================================
mkl         Intel MKL from the ``mkl`` wheel (``libmkl_rt``)
torch       the MKL inside torch's CPU library; complete for Cholesky except ?syrk and ?herk
openblas    the OpenBLAS (or other library) that SciPy was built with; always there
==========  ==================================================================================

The first that loads is used. ``TILEWRIGHT_BLAS=openblas`` or `use("openblas")` chooses another.

Matrices are described as Fortran sees them: a pointer, a leading dimension, columns contiguous.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import importlib.util
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

__all__ = ["NAMES", "Library", "available", "current", "limits", "load", "one_thread", "task_threads", "use"]

NAMES = ("mkl", "torch", "openblas")
"""Libraries in order of preference."""

VARIABLE = "TILEWRIGHT_BLAS"
"""Environment variable that names the library to use."""

_MKL_SEQUENTIAL = 1  # MKL_THREADING_SEQUENTIAL of mkl_service.h


class Library:
    """One loaded BLAS/LAPACK.

    ``symbol(name)`` returns a ctypes function for a lower-case routine name such as ``"dgemm"``, or None if the
    library does not have it. ``local_threads(n)`` sets the number of threads that calls from the calling OS
    thread use and returns the previous value; None if the library only has a process-wide setting.
    """

    def __init__(
        self,
        name: str,
        version: str,
        path: str,
        symbol: Callable[[str], Callable[..., Any] | None],
        local_threads: Callable[[int], int] | None,
    ) -> None:
        self.name = name
        self.version = version
        self.path = path
        self.local_threads = local_threads
        self._symbol = symbol
        self._known: dict[str, Callable[..., Any] | None] = {}

    def symbol(self, name: str) -> Callable[..., Any] | None:
        if name not in self._known:
            self._known[name] = self._symbol(name)
        return self._known[name]

    def __repr__(self) -> str:
        return f"Library({self.name!r}, {self.version!r})"


def _symbols_of(dll: ctypes.CDLL) -> Callable[[str], Callable[..., Any] | None]:
    def symbol(name: str) -> Callable[..., Any] | None:
        function = getattr(dll, f"{name}_", None)
        if function is not None:
            function.restype = None
        return function

    return symbol


def _mkl_version(dll: ctypes.CDLL) -> str:
    buffer = ctypes.create_string_buffer(200)
    dll.MKL_Get_Version_String(buffer, 200)
    return buffer.value.decode(errors="replace").strip()


def _load_mkl() -> Library:
    prefixes = dict.fromkeys([sys.prefix, sys.base_prefix])
    found = [
        path
        for prefix in prefixes
        for folder, pattern in (("lib", "libmkl_rt.so*"), ("Library/bin", "mkl_rt*.dll"), ("lib", "libmkl_rt*.dylib"))
        for path in sorted(Path(prefix, folder).glob(pattern))
    ]
    if not found:
        raise OSError(f"no libmkl_rt under {', '.join(prefixes)}; pip install 'tilewright[mkl]' brings one")
    # Only a library that nobody loaded before us may be told how to thread.
    ours = "libmkl_rt" not in _loaded_libraries()
    dll = ctypes.CDLL(str(found[0]))
    if ours:
        dll.MKL_Set_Threading_Layer(_MKL_SEQUENTIAL)
    return Library("mkl", _mkl_version(dll), str(found[0]), _symbols_of(dll), dll.MKL_Set_Num_Threads_Local)


def _load_torch() -> Library:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise OSError("torch is not installed; pip install 'tilewright[torch]' brings it")
    if platform.machine().lower() not in ("x86_64", "amd64"):
        raise OSError(f"torch has no MKL inside on {platform.machine()}")
    folder = Path(spec.origin).parent / "lib"
    found = [path for name in ("libtorch_cpu.so", "torch_cpu.dll") if (path := folder / name).exists()]
    if not found:
        raise OSError(f"no torch CPU library in {folder}")
    dll = ctypes.CDLL(str(found[0]))
    needed = ["dgemm_", "dtrsm_", "dpotrf_", "MKL_Set_Num_Threads_Local", "MKL_Get_Version_String"]
    absent = [name for name in needed if not hasattr(dll, name)]
    if absent:
        raise OSError(f"{found[0].name} of this torch does not export {', '.join(absent)}: not built with MKL")
    return Library("torch", _mkl_version(dll), str(found[0]), _symbols_of(dll), dll.MKL_Set_Num_Threads_Local)


def _load_openblas() -> Library:
    from scipy.linalg import cython_blas, cython_lapack

    name_of = ctypes.pythonapi.PyCapsule_GetName
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    prototype = ctypes.CFUNCTYPE(None)  # CFUNCTYPE releases the GIL around the call

    def symbol(name: str) -> Callable[..., Any] | None:
        for module in (cython_blas, cython_lapack):
            capsule = module.__pyx_capi__.get(name)
            if capsule is not None:
                function: Any = prototype(pointer_of(capsule, name_of(capsule)))
                function.argtypes = None
                return function
        return None

    info = _scipy_pool()
    version = f"{info['internal_api']} {info['version']}" if info else "unknown"
    return Library("openblas", version, info["filepath"] if info else cython_blas.__file__, symbol, None)


def _loaded_libraries() -> str:
    try:
        return Path("/proc/self/maps").read_text()
    except OSError:
        return ""


def _scipy_pool() -> dict[str, Any] | None:
    """What threadpoolctl knows of the BLAS that SciPy loaded."""
    from threadpoolctl import threadpool_info

    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    ours = [pool for pool in pools if "scipy" in pool["filepath"]]
    return (ours or pools or [None])[0]


_LOADERS = {"mkl": _load_mkl, "torch": _load_torch, "openblas": _load_openblas}
_loaded: list[Library] = []


@cache
def load(name: str) -> Library:
    """Load a library by name, once.

    Raises
    ------
    ValueError
        The name is not in `NAMES`.
    OSError
        The library is not here; the message says what would bring it. MKL also where the working directory is gone: it
        looks for its other half there, and ends the process.
    """
    if name not in _LOADERS:
        raise ValueError(f"unknown BLAS {name!r}; known: {', '.join(NAMES)}")
    if name != "openblas":
        _check_folder()
    library = _LOADERS[name]()
    _loaded.append(library)
    return library


def _check_folder() -> None:
    try:
        os.getcwd()
    except OSError:
        raise OSError("the working directory was deleted, and MKL needs one to start; os.chdir to another") from None


def available() -> dict[str, Library | str]:
    """For each name the loaded library, or why it cannot be had."""
    found: dict[str, Library | str] = {}
    for name in NAMES:
        try:
            found[name] = load(name)
        except OSError as error:
            found[name] = str(error)
    return found


_chosen: Library | None = None


def current() -> Library:
    """The library in use: the one `use` named, else the environment's, else the first that loads."""
    global _chosen
    if _chosen is None:
        wanted = os.environ.get(VARIABLE)
        if wanted:
            try:
                _chosen = load(wanted)
            except (OSError, ValueError) as error:
                raise type(error)(f"{VARIABLE}={wanted}: {error}") from None
        else:
            _chosen = next(library for name in NAMES if isinstance(library := _try(name), Library))
    return _chosen


def _try(name: str) -> Library | None:
    try:
        return load(name)
    except OSError:
        return None


def use(name: str | None) -> None:
    """Take the tile kernels of all later runs from this library; None returns to the automatic choice."""
    global _chosen
    if not (name is None or isinstance(name, str)):
        raise TypeError(f"the name of a BLAS is one of {', '.join(NAMES)}, or None, not {name!r}")
    _chosen = None if name is None else load(name)


# ------------------------------------------------------------------ threads


class _Pools:
    """The process-wide thread pools of the BLAS libraries ``controller`` found, held at one thread until `restore`.

    OpenBLAS is set through its own functions: threadpoolctl lets only one Python thread set it, the first that did
    and still lives, while a run may begin in one thread and the last of several end in another.
    """

    def __init__(self, controller: ThreadpoolController) -> None:
        self.openblas: list[tuple[Callable[[int], None], int]] = []
        for pool in controller.select(internal_api="openblas").info():
            get, set_ = _openblas_threads(pool["filepath"])
            self.openblas.append((set_, get()))
            set_(1)
        self.others = controller.select(internal_api=["mkl", "blis", "flexiblas"]).limit(limits=1)

    def restore(self) -> None:
        for set_, threads in self.openblas:
            set_(threads)
        self.others.restore_original_limits()


@cache
def _openblas_threads(path: str) -> tuple[Callable[[], int], Callable[[int], None]]:
    """The functions of an OpenBLAS that get and set its number of threads. Builds differ in how they name them."""
    dll = ctypes.CDLL(path)
    for before in ("", "scipy_"):
        for after in ("", "64_", "_64"):
            get, set_ = (getattr(dll, f"{before}openblas_{verb}_num_threads{after}", None) for verb in ("get", "set"))
            if get is not None and set_ is not None:
                set_.restype = None
                return get, set_
    raise OSError(f"{path} is an OpenBLAS without openblas_set_num_threads")


_pools: _Pools | None = None
_limited_runs = 0
_limit_lock = threading.Lock()


@contextlib.contextmanager
def limits(functions: bool) -> Iterator[None]:
    """Around a run: keep BLAS and OpenMP pools from starting threads of their own under the run's workers.

    A library with a setting per thread needs nothing here, as `task_threads` in each worker does it. The pools of
    others are process-wide: they are held at one thread while such a run lasts, and the last of several runs
    restores what the user had. ``functions`` says that tasks are Python functions, which may call any library.
    """
    if not functions and current().local_threads is not None:
        yield
        return
    global _pools, _limited_runs
    from threadpoolctl import ThreadpoolController

    controller = ThreadpoolController()
    with _limit_lock:
        if _limited_runs == 0:
            _pools = _Pools(controller)
        _limited_runs += 1
    try:
        with controller.select(internal_api="openmp").limit(limits=1):  # a setting of the calling thread
            yield
    finally:
        with _limit_lock:
            _limited_runs -= 1
            if _limited_runs == 0 and _pools is not None:
                _pools.restore()
                _pools = None


@contextlib.contextmanager
def task_threads(count: int) -> Iterator[None]:
    """In the calling thread, inside `limits`: let each call into a library use ``count`` threads; restored at the end.

    With one that is all calls into the libraries loaded here that have a setting per thread, not only the one in use:
    products in 16 bits are MKL's in any case. With more, also OpenMP's, which torch uses: their number is a setting of
    the calling thread.
    """
    current()
    settings = [local for library in list(_loaded) if (local := library.local_threads) is not None]
    previous = [local_threads(count) for local_threads in settings]
    try:
        if count == 1:
            yield
        else:
            from threadpoolctl import ThreadpoolController

            with ThreadpoolController().select(internal_api="openmp").limit(limits=count):
                yield
    finally:
        for local_threads, threads in zip(settings, previous, strict=True):
            local_threads(threads)


def one_thread() -> contextlib.AbstractContextManager[None]:
    """In the calling thread, let calls into a library run on one thread; restored at the end."""
    return task_threads(1)
