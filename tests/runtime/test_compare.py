"""Side-by-side timing."""

import sys

import numpy as np
import pytest
from tilewright.compare import rivals, time_alternating
from tilewright.matrices import random_spd


@pytest.mark.parametrize("lower", [True, False], ids=["lower", "upper"])
@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_every_rival_factors_the_named_triangle(lower, dtype):
    a = random_spd(30, dtype)
    expected = np.linalg.cholesky(a)
    for name, call in rivals(a, lower=lower).items():
        factor = np.asarray(call())
        if not lower and not name.startswith("numpy"):  # NumPy gives the lower factor of the same triangle
            factor = factor.conj().T
        assert np.allclose(factor, expected, rtol=1e-4), name


def test_without_torch_there_are_two_rivals(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert list(rivals(np.eye(2))) == ["numpy.linalg.cholesky", "scipy.linalg.cholesky"]


def test_calls_take_turns_and_every_round_is_timed():
    order = []
    times = time_alternating({name: lambda name=name: order.append(name) for name in "ab"}, repeats=3)
    assert order == ["a", "b"] * 3
    assert {name: len(taken) for name, taken in times.items()} == {"a": 3, "b": 3}
    assert min(min(taken) for taken in times.values()) >= 0
