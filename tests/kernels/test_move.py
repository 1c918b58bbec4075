"""copy, zero, tril: exact, in every layout and dtype."""

import numpy as np
import pytest
from matrices import DTYPES, random_matrix

from tilewright.kernels.move import copy, tril, zero


@pytest.mark.parametrize("dtype", DTYPES)
def test_copy_is_exact(layout, operand_layout, tile, dtype):
    a = random_matrix(9, 7, dtype)
    source, target = tile(a, operand_layout), tile(np.zeros_like(a), layout)
    copy(source.array, target.array)
    assert np.array_equal(target.array, a)
    assert target.rest_is_untouched()


@pytest.mark.parametrize("dtype", [">f8", "int32", "bool"])
def test_copy_converts_to_the_dtype_of_the_target(dtype):
    a = np.arange(6).reshape(2, 3).astype(dtype)
    target = np.empty((2, 3))
    copy(a, target)
    assert np.array_equal(target, a)


def test_zero_clears_nan_too(layout, tile):
    t = tile(np.full((5, 4), np.nan), layout)
    zero(t.array)
    assert not t.array.any()
    assert t.rest_is_untouched()


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 128, 131, 300])
def test_tril_clears_exactly_what_is_above_the_diagonal(layout, tile, n):
    a = random_matrix(n, n)
    poisoned = a.copy()
    poisoned[np.triu_indices(n, 1)] = np.nan
    t = tile(poisoned, layout)
    tril(t.array)
    assert np.array_equal(t.array, np.tril(a))
    assert t.rest_is_untouched()
