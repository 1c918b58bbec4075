"""The other libraries do the same job."""

import sys

import numpy as np
import pytest

from tilewright.benchmarks.rivals import rivals
from tilewright.linalg.gallery import random_spd


@pytest.mark.parametrize("lower", [True, False], ids=["lower", "upper"])
@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_every_rival_factors_the_named_triangle(lower, dtype):
    a = random_spd(30, dtype)
    expected = np.linalg.cholesky(a)
    for name, call in rivals(a, lower=lower).items():
        factor = np.asarray(call())
        if not lower and name != "numpy":  # NumPy gives the lower factor of the same triangle
            factor = factor.conj().T
        assert np.allclose(factor, expected, rtol=1e-4), name


def test_without_torch_there_are_two_rivals(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert list(rivals(np.eye(2))) == ["scipy", "numpy"]
