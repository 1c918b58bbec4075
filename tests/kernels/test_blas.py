"""Which BLAS libraries there are, and how one is chosen."""

import os
import platform
import subprocess
import sys

import pytest

from tilewright import kernels
from tilewright.kernels import blas


def choice(**environment):
    """What `current` says in a fresh interpreter: the library's name, or the error."""
    code = (
        "from tilewright.kernels import blas\n"
        "try: print(blas.current().name)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    clean = {key: value for key, value in os.environ.items() if key != blas.VARIABLE}
    return subprocess.check_output([sys.executable, "-c", code], env=clean | environment, text=True).strip()


def test_libraries_are_found_or_say_what_would_bring_them():
    found = blas.available()
    assert tuple(found) == blas.NAMES == kernels.LIBRARIES
    for name, library in found.items():
        if isinstance(library, str):
            assert f"tilewright[{name}]" in library or "torch" in library
        else:
            assert (library.name, library.symbol("dgemm") is not None) == (name, True)


def test_openblas_is_always_there_and_complete():
    openblas = blas.load("openblas")
    for letter in "sdcz":
        for routine in ("potrf", "trsm", "gemm", "herk" if letter in "cz" else "syrk"):
            assert openblas.symbol(letter + routine) is not None
    assert openblas.symbol("no_such_routine") is None


@pytest.mark.needs("torch")
@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="torch has no MKL inside here")
def test_torch_library_is_there_on_this_suites_machines():
    assert isinstance(blas.available()["torch"], blas.Library)


def test_use_chooses_and_none_returns_to_the_automatic_choice(restore_blas):
    automatic = blas.current()
    blas.use("openblas")
    assert blas.current().name == "openblas"
    blas.use(None)
    assert blas.current() is automatic


def test_unknown_library_lists_the_known_and_changes_nothing(restore_blas):
    before = blas.current()
    with pytest.raises(ValueError, match="unknown BLAS 'atlas'; known: mkl, torch, openblas"):
        blas.use("atlas")
    assert blas.current() is before


def test_environment_chooses():
    for name, found in blas.available().items():
        said = choice(TILEWRIGHT_BLAS=name)
        assert said == (f"OSError TILEWRIGHT_BLAS={name}: {found}" if isinstance(found, str) else name)
    assert choice(TILEWRIGHT_BLAS="") == choice()


def test_unknown_name_in_the_environment_is_an_error_that_names_the_variable():
    assert choice(TILEWRIGHT_BLAS="atlas") == (
        "ValueError TILEWRIGHT_BLAS=atlas: unknown BLAS 'atlas'; known: mkl, torch, openblas"
    )


def test_a_library_loads_once():
    assert blas.load("openblas") is blas.load("openblas")
    assert repr(blas.load("openblas")).startswith("Library('openblas', 'openblas 0.")
