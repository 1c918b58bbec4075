"""?symv that does not forget what was not finite, and what is done where it does not."""

import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg
from matrices import DTYPES, roundoff

from tilewright.kernels import blas, bulge, choice, one_stage, symv
from tilewright.kernels.lapack import letter


def hermitian(n, dtype):
    rng = np.random.default_rng(n)
    a = rng.standard_normal((n, n))
    if np.dtype(dtype).kind == "c":
        a = a + 1j * rng.standard_normal((n, n))
    return np.asfortranarray((a + a.conj().T).astype(dtype))


@pytest.mark.parametrize("triangle", [b"L", b"U"])
@pytest.mark.parametrize("kind", "sdcz")
def test_one_that_is_sound_gives_finite_numbers_after_others(kind, triangle):
    product = getattr(scipy.linalg.blas, kind + ("symv" if kind in "sd" else "hemv"))
    dtype = {"s": "f", "d": "d", "c": "F", "z": "D"}[kind]
    found = []
    for n in range(1, 20):
        product(1, np.full((20, 20), np.nan, dtype), np.full(20, np.nan, dtype), lower=triangle == b"L")
        a = np.ones((n, n), dtype, order="F")
        found.append(np.array_equal(product(1, a, np.ones(n, dtype), lower=triangle == b"L"), np.full(n, n)))
    product(1, np.ones((20, 20), dtype), np.ones(20, dtype), lower=triangle == b"L")
    assert all(found) == symv.sound(kind, triangle)


@pytest.mark.parametrize("kind", "sdcz")
def test_kernels_that_call_one_that_is_not_are_left_to_numpy(kind, monkeypatch):
    there = blas.load("openblas").inner(blas.BULGES[kind]) is not None
    assert (bulge.kernels(kind) is not None) == (there and symv.sound(kind)) == (blas.BULGES[kind] in choice._inside())
    bulge.kernels.cache_clear()
    monkeypatch.setattr(symv, "sound", lambda kind, triangle=b"L": triangle == b"U")
    try:
        assert bulge.kernels(kind) is None
        assert blas.BULGES[kind] not in choice._inside()
    finally:
        bulge.kernels.cache_clear()


@pytest.mark.parametrize("sound", [b"L", b"U", b""])
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_stage_goes_by_a_triangle_that_is_sound(dtype, sound, monkeypatch):
    monkeypatch.setattr(symv, "sound", lambda kind, triangle=b"L": triangle == sound)
    n = 13
    a = hermitian(n, dtype)
    tile, exponent = np.ascontiguousarray(a.T), np.zeros(1, np.int64)  # by columns
    x, w = np.zeros((n, n), dtype), np.zeros(n, a.real.dtype)
    assert one_stage.solve(tile, exponent, w, [x], 0) == 0
    assert one_stage._triangle(letter(a.dtype)) == (sound or b"L")
    norm = np.linalg.norm(a)
    assert np.linalg.norm(a @ x.T - x.T * w) < 30 * n * roundoff(dtype) * norm
    assert np.abs(w - np.linalg.eigvalsh(a.astype(complex))).max() < 30 * n * roundoff(dtype) * norm
    only = np.zeros_like(w)
    assert one_stage.values(tile, exponent, only, 0) == 0
    assert np.abs(only - w).max() < 30 * n * roundoff(dtype) * norm


SCRIPT = """
import numpy as np, scipy.linalg.blas as blas, tilewright as tw
dirty = np.full((64, 64), np.nan, np.float32)
for n, two in ((6, {}), (7, {}), (38, dict(tile_size=19, band=4)), (39, dict(tile_size=13, band=3))):
    a = np.random.default_rng(n).standard_normal((n, n)).astype(np.float32)
    a = a + a.T
    blas.ssymv(1, dirty, dirty[0], lower=1)
    w = tw.eigvalsh(a, **two)
    assert np.abs(w - np.linalg.eigvalsh(a.astype(float))).max() < 1e-4, (n, w)
"""


def test_finite_matrices_have_finite_eigenvalues_whatever_was_computed_before_on_a_cpu_without_avx():
    environment = {**os.environ, "OPENBLAS_CORETYPE": "Prescott", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
