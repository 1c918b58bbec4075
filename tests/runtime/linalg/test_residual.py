"""LAPACK's test ratio."""

import numpy as np
import pytest

from tilewright.linalg.gallery import random_spd
from tilewright.linalg.residual import cholesky_ratio


@pytest.mark.parametrize(
    ("n", "dtype"),
    [(n, dtype) for n in (1, 5, 511, 513) for dtype in ("float32", "float64", "complex64", "complex128")]
    + [(1030, "float64")],
)
@pytest.mark.parametrize("lower", [True, False], ids=["lower", "upper"])
def test_ratio_is_the_formula(n, dtype, lower):
    """Against the textbook formula; the factor is disturbed so much that rounding in the test does not matter."""
    a = random_spd(n, dtype)
    factor = np.linalg.cholesky(a) + np.tril(random_spd(n, dtype, seed=1)) / 50
    product = factor @ factor.conj().T
    u = np.finfo(dtype).eps / 2
    expected = np.linalg.norm(a - product, 1) / (n * np.linalg.norm(a, 1) * u)
    given = factor if lower else np.ascontiguousarray(factor.conj().T)
    other = np.triu(np.ones((n, n), bool), 1)
    poisoned = np.where(other if lower else other.T, np.nan, a)  # the other triangle is not read
    assert cholesky_ratio(poisoned, given, lower=lower) == pytest.approx(expected, rel=1e-3)


def test_a_wrong_factor_does_not_pass():
    a = random_spd(100)
    factor = np.linalg.cholesky(a)
    assert cholesky_ratio(a, factor) < 1
    factor[70, 30] += 1e-8
    assert cholesky_ratio(a, factor) > 30


def test_an_empty_matrix_passes():
    assert cholesky_ratio(np.empty((0, 0)), np.empty((0, 0))) == 0.0
