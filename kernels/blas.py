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

Which of them serves which op is a matter of `tilewright.kernels.choice`.

**MKL and bits.** Outside its mode of reproducibility MKL takes other code for other alignments and leading dimensions,
on CPUs of other makers at least, so equal numbers give unequal bits. It can be told to keep to one way of computing
(CNR, conditional numerical reproducibility), but only before its first computation in a process. So ``import
tilewright`` sets ``MKL_CBWR=AUTO`` in the environment, unless the variable is there already: that reaches every MKL of
this process and of its children that has not computed yet, and leaves the others alone. What a library then keeps is
probed, see `tilewright.kernels.steady`.

Matrices are described as Fortran sees them: a pointer, a leading dimension, columns contiguous.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import os
import platform
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tilewright.extras import brings, command

__all__ = [
    "BULGES",
    "CHASES",
    "MODE",
    "NAMES",
    "Library",
    "Setting",
    "available",
    "count",
    "load",
    "loaded",
    "openblas_threads",
    "torch_openmp",
]

NAMES = ("mkl", "torch", "openblas")

MODE = "MKL_CBWR"
"""Environment variable of MKL for its mode of reproducibility."""

BULGES = {"s": "ssb2st_kernels", "d": "dsb2st_kernels", "c": "chb2st_kernels", "z": "zhb2st_kernels"}
"""LAPACK's kernels for one block of a bulge, by letter of the dtype: SciPy's wheels have them inside."""

CHASES = {"s": "ssytrd_sb2st", "d": "dsytrd_sb2st", "c": "chetrd_hb2st", "z": "zhetrd_hb2st"}
"""LAPACK's whole chase from a band to a tridiagonal matrix, likewise."""

_MKL_SEQUENTIAL = 1  # MKL_THREADING_SEQUENTIAL of mkl_service.h
_CBWR_BRANCH, _CBWR_OFF = 1, 1  # MKL_CBWR_BRANCH, MKL_CBWR_BRANCH_OFF of mkl_types.h


class Setting(NamedTuple):
    """A number of threads that a library keeps, for the calling thread or for the process."""

    get: Callable[[], int]
    set: Callable[[int], object]
    of_thread: bool


class Library:
    """One loaded BLAS/LAPACK.

    ``symbol(name)`` returns a ctypes function for a lower-case routine name such as ``"dgemm"``, or None if the
    library does not have it. ``threads`` are its numbers of threads: MKL has one for each OS thread and, for products
    in 16 bits, goes by OpenMP's of that thread as well; OpenBLAS has one for the process.
    """

    def __init__(
        self,
        name: str,
        version: str,
        path: str,
        symbol: Callable[[str], Callable[..., Any] | None],
        threads: tuple[Setting, ...],
        cbwr: tuple[Callable[[int], int], Callable[[int], int]] | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self.path = path
        self.threads = threads
        self._symbol = symbol
        self._cbwr = cbwr
        self._known: dict[str, Callable[..., Any] | None] = {}
        self._inner: dict[str, Callable[..., Any] | None] = {}

    def symbol(self, name: str) -> Callable[..., Any] | None:
        if name not in self._known:
            self._known[name] = self._symbol(name)
        return self._known[name]

    def inner(self, name: str) -> Callable[..., Any] | None:
        """A routine that the file of the library has inside, as SciPy's wheels do all of LAPACK, but does not promise.

        Under the name of Fortran or with the prefix of SciPy's wheels; None where it has it not.
        """
        if name not in self._inner:
            self._inner[name] = _inside(self.path, name)
        return self._inner[name]

    def mode(self) -> int:
        """MKL's mode of reproducibility, as mkl_cbwr_get gives it: 1 is none, 2 AUTO; 0 for other libraries.

        From then on it is fixed.
        """
        return 0 if self._cbwr is None else self._cbwr[0](_CBWR_BRANCH)

    def set_mode(self, mode: int) -> bool:
        """Whether the library now works in that mode. Away from none only before it has computed anything."""
        return mode == self.mode() or (self._cbwr is not None and not self._cbwr[1](mode) and self.mode() == mode)

    def __repr__(self) -> str:
        return f"Library({self.name!r}, {self.version!r})"


def _inside(path: str, name: str) -> Callable[..., Any] | None:
    try:
        file = ctypes.CDLL(path)
    except OSError:
        return None
    function = next((found for before in ("scipy_", "") if (found := getattr(file, f"{before}{name}_", None))), None)
    if function is not None:
        function.restype = None
    return function


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
        raise OSError(f"no libmkl_rt under {', '.join(prefixes)}; {command('mkl')} brings one")
    # Only a library that nobody loaded before us may be told how to thread.
    ours = "libmkl_rt" not in _loaded_libraries()
    dll = ctypes.CDLL(str(found[0]))
    if ours:
        dll.MKL_Set_Threading_Layer(_MKL_SEQUENTIAL)
    cbwr = dll.MKL_CBWR_Get, dll.MKL_CBWR_Set
    return Library("mkl", _mkl_version(dll), str(found[0]), _symbols_of(dll), (_mkl_threads(dll),), cbwr)


def _mkl_threads(dll: ctypes.CDLL) -> Setting:
    set_ = dll.MKL_Set_Num_Threads_Local

    def get() -> int:
        """0 stands for the number of the process."""
        threads: int = set_(0)
        set_(threads)
        return threads

    return Setting(get, set_, True)


def _load_torch() -> Library:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        raise OSError(f"torch has no MKL inside on {platform.machine()}")
    dll = _torch_cpu()
    needed = ["dgemm_", "dtrsm_", "dpotrf_", "MKL_Set_Num_Threads_Local", "MKL_Get_Version_String"]
    absent = [name for name in needed if not hasattr(dll, name)]
    if absent:
        raise OSError(f"{dll._name} of this torch does not export {', '.join(absent)}: not built with MKL")
    cbwr = (dll.mkl_serv_cbwr_get, dll.mkl_serv_cbwr_set) if hasattr(dll, "mkl_serv_cbwr_set") else None
    threads = (_mkl_threads(dll), *torch_openmp())
    return Library("torch", _mkl_version(dll), dll._name, _symbols_of(dll), threads, cbwr)


@cache
def _torch_cpu() -> ctypes.CDLL:
    """torch's CPU library, without importing torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise OSError(f"torch is not installed; {brings('torch')}")
    folder = Path(spec.origin).parent / "lib"
    names = ("libtorch_cpu.so", "torch_cpu.dll", "libtorch_cpu.dylib")
    found = [path for name in names if (path := folder / name).exists()]
    if not found:
        raise OSError(f"no torch CPU library in {folder}")
    return ctypes.CDLL(str(found[0]))


@cache
def torch_openmp() -> tuple[Setting, ...]:
    """The number of threads of the OpenMP that torch was linked with; nothing if torch or its OpenMP is not here."""
    try:
        dll = _torch_cpu()
        dll.omp_set_num_threads.restype = None
        return (Setting(dll.omp_get_max_threads, dll.omp_set_num_threads, True),)
    except (OSError, AttributeError):
        return ()


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

    pools = _scipy_pools()
    version = f"{pools[0]['internal_api']} {pools[0]['version']}" if pools else "unknown"
    path = pools[0]["filepath"] if pools else cython_blas.__file__
    threads = [openblas_threads(pool["filepath"]) for pool in pools if pool["internal_api"] == "openblas"]
    return Library("openblas", version, path, symbol, tuple(threads))


@cache
def openblas_threads(path: str) -> Setting:
    """The setting of an OpenBLAS. Builds differ in how they name the functions.

    threadpoolctl lets only one Python thread set it, the first that did and still lives, while a run may begin in one
    thread and the last of several end in another.
    """
    dll = ctypes.CDLL(path)
    for before in ("", "scipy_"):
        for after in ("", "64_", "_64"):
            get, set_ = (getattr(dll, f"{before}openblas_{verb}_num_threads{after}", None) for verb in ("get", "set"))
            if get is not None and set_ is not None:
                set_.restype = None
                return Setting(get, set_, False)
    raise OSError(f"{path} is an OpenBLAS without openblas_set_num_threads")


def _loaded_libraries() -> str:
    try:
        return Path("/proc/self/maps").read_text()
    except OSError:
        return ""


def _scipy_pools() -> list[dict[str, Any]]:
    """What threadpoolctl knows of the BLAS that SciPy loaded: one pool, or all that it may be.

    A wheel has its own beside it, as NumPy's has another; a distribution links both with the system's.
    """
    from threadpoolctl import threadpool_info

    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    places = [Path(pool["filepath"]).parts for pool in pools]
    ours = [pool for pool, parts in zip(pools, places, strict=True) if {"scipy.libs", "scipy"} & set(parts)]
    others = [pool for pool, parts in zip(pools, places, strict=True) if not {"numpy.libs", "numpy"} & set(parts)]
    return ours[:1] or others or pools


_LOADERS = {"mkl": _load_mkl, "torch": _load_torch, "openblas": _load_openblas}
_loaded: list[Library] = []


def loaded() -> list[Library]:
    """The libraries that were loaded so far."""
    return list(_loaded)


def count() -> int:
    """How many that are."""
    return len(_loaded)


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
