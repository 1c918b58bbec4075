"""The matrix-vector kernel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.kernels.gemv import gemv

DTYPES = ("float32", "float64", "complex64", "complex128")


def random(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if dtype[0] == "c" else 0)).astype(dtype)


@given(
    m=st.integers(0, 20),
    n=st.integers(0, 20),
    dtype=st.sampled_from(DTYPES),
    order=st.sampled_from("CF"),
    left=st.integers(0, 3),
    right=st.integers(0, 3),
    step=st.integers(1, 2),
    accumulate=st.booleans(),
)
def test_any_slice_of_either_order(m, n, dtype, order, left, right, step, accumulate):
    whole = np.asarray(random((m + left, step * (n + right)), dtype), order=order)
    a = whole[left:, : step * n : step]
    x, y = random(n, dtype, 1), random(m, dtype, 2)
    wanted = a @ x + (y if accumulate else 0)
    gemv(a, x, y, accumulate=accumulate)
    u = np.finfo(dtype).eps / 2
    assert np.allclose(y, wanted, rtol=0, atol=16 * (n + 2) * u * (1 + np.abs(a).sum(initial=0)))


def test_transposed_view_is_the_matrix_by_columns(library):
    a, x = random((7, 5), "float64"), random(7, "float64")
    y = np.empty(5)
    gemv(a.T, x, y)
    assert np.allclose(y, a.T @ x)


def test_nan_in_the_target_is_overwritten():
    y = np.full(2, np.nan)
    gemv(np.eye(2), np.ones(2), y)
    assert np.array_equal(y, np.ones(2))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.ones(3), np.ones(2)),
        (np.ones(2), np.ones(3)),
        (np.ones(2, "float32"), np.ones(2)),
        (np.ones(2), np.ones(4)[::2]),
    ],
)
def test_arguments_that_do_not_fit_are_named(x, y):
    with pytest.raises(ValueError, match="do not fit y = A x"):
        gemv(np.eye(2), x, y)
