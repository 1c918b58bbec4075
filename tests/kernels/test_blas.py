"""Which BLAS libraries there are."""

import os
import subprocess
import sys

import pytest

from tilewright import kernels
from tilewright.extras import command
from tilewright.kernels import blas


def printed(code, **environment):
    """What a fresh interpreter prints."""
    clean = {key: value for key, value in os.environ.items() if key != blas.MODE}
    return subprocess.check_output([sys.executable, "-c", code], env=clean | environment, text=True).strip()


def test_libraries_are_found_or_say_what_would_bring_them():
    found = blas.available()
    assert tuple(found) == blas.NAMES == kernels.LIBRARIES
    for name, library in found.items():
        if isinstance(library, str):
            assert command(name) in library or "torch" in library
        else:
            assert (library.name, library.symbol("dgemm") is not None) == (name, True)


def test_openblas_is_always_there_and_complete():
    openblas = blas.load("openblas")
    for letter in "sdcz":
        for routine in ("potrf", "trsm", "gemm", "herk" if letter in "cz" else "syrk"):
            assert openblas.symbol(letter + routine) is not None
    assert openblas.symbol("no_such_routine") is None


def test_a_library_loads_once():
    assert blas.load("openblas") is blas.load("openblas")
    assert repr(blas.load("openblas")).startswith("Library('openblas', 'openblas 0.")


def test_unknown_library_lists_the_known():
    with pytest.raises(ValueError, match="unknown BLAS 'atlas'; known: mkl, torch, openblas"):
        blas.load("atlas")


@pytest.mark.needs("torch")
@pytest.mark.parametrize("first", ["import tilewright, torch", "import torch, tilewright"])
def test_mkl_works_in_its_mode_of_reproducibility_also_after_torch_has_computed(first):
    code = (
        f"{first}; torch.ones(9, 9) @ torch.ones(9, 9)\n"
        "from tilewright.kernels import blas; print(blas.load('torch').mode())"
    )
    assert printed(code) == "2"


def test_what_the_user_says_of_the_mode_of_mkl_stays():
    assert printed("import os, tilewright; print(os.environ['MKL_CBWR'])", MKL_CBWR="COMPATIBLE") == "COMPATIBLE"


@pytest.mark.needs("torch")
def test_a_mode_is_left_at_any_time_and_entered_only_before_the_first_computation():
    code = (
        "import torch; torch.ones(9, 9) @ torch.ones(9, 9)\n"
        "from tilewright.kernels import blas; mkl = blas.load('torch')\n"
        "print(mkl.mode(), mkl.set_mode(2), mkl.mode(), mkl.set_mode(1))"
    )
    assert printed(code) == "1 False 1 True"
    assert printed("import tilewright; " + code.partition("\n")[2]) == "2 True 2 True"


def test_other_libraries_have_no_mode():
    assert (blas.load("openblas").mode(), blas.load("openblas").set_mode(0), blas.load("openblas").set_mode(2)) == (
        0,
        True,
        False,
    )


POOLS = {
    "numpy wheel": ("/env/numpy.libs/libscipy_openblas64_-1.so", "openblas"),
    "scipy wheel": ("/env/scipy.libs/libscipy_openblas-2.so", "openblas"),
    "system": ("/usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblas.so.0", "openblas"),
    "blis": ("/usr/lib/libblis.so.4", "blis"),
    "openmp": ("/usr/lib/libgomp.so.1", "openmp"),
}


@pytest.mark.parametrize(
    ("here", "chosen"),
    [
        (["numpy wheel", "scipy wheel", "openmp"], ["scipy wheel"]),
        (["numpy wheel", "system"], ["system"]),  # SciPy of a distribution, NumPy from a wheel
        (["system"], ["system"]),
        (["blis"], ["blis"]),
        (["numpy wheel"], ["numpy wheel"]),  # the only one that it can be
        ([], []),  # a BLAS that threadpoolctl does not know, such as the reference
    ],
)
def test_the_library_of_scipy_is_found_whoever_built_it(monkeypatch, here, chosen):
    def info():
        return [
            {
                "filepath": POOLS[name][0],
                "internal_api": POOLS[name][1],
                "version": "1",
                "user_api": "openmp" if name == "openmp" else "blas",
            }
            for name in here
        ]

    monkeypatch.setattr("threadpoolctl.threadpool_info", info)
    monkeypatch.setattr(blas, "openblas_threads", lambda path: blas.Setting(lambda: 1, lambda count: None, False))
    assert [pool["filepath"] for pool in blas._scipy_pools()] == [POOLS[name][0] for name in chosen]
    library = blas._load_openblas()
    assert library.symbol("dgemm") is not None  # SciPy exports it whatever it was built with
    assert len(library.threads) == sum(POOLS[name][1] == "openblas" for name in chosen)
    assert library.version == (f"{POOLS[chosen[0]][1]} 1" if chosen else "unknown")
