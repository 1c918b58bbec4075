"""copy, zero, tril: exact, in every layout and dtype."""

import numpy as np
import pytest
from matrices import DTYPES, random_matrix

from tilewright.kernels.move import copy, gauge, tril, zero


@pytest.mark.parametrize("dtype", DTYPES)
def test_copy_is_exact(layout, operand_layout, tile, dtype):
    a = random_matrix(9, 7, dtype)
    source, target = tile(a, operand_layout), tile(np.zeros_like(a), layout)
    copy(source.array, target.array)
    assert np.array_equal(target.array, a)
    assert target.rest_is_untouched()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("orders", ["CF", "FC"])
def test_copy_between_rows_and_columns_is_exact_where_lines_are_in_few_sets_of_a_cache(orders, dtype):
    a = random_matrix(400, 200, dtype)
    if orders == "FC":
        a = a.T
    shape = (400, 512) if orders == "CF" else (512, 400)  # lines a multiple of 2 kB apart
    source, target = (np.full(shape, 7, dtype, order) for order in orders)
    m, n = a.shape
    source[:m, :n] = a
    copy(source[:m, :n], target[:m, :n])
    assert np.array_equal(target[:m, :n], a)
    assert (target[m:] == 7).all() and (target[:, n:] == 7).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_gauge_adds_up_a_tile_of_several_strips_and_finds_its_nan(order, dtype):
    a = random_matrix(500, 600, dtype).copy(order)
    sizes = np.full((1, 1101), np.nan)
    assert gauge(a, sizes, (), True) == 0
    size = np.abs(a).astype(np.float64)
    assert sizes[0, 0] == size.max()
    assert np.allclose(sizes[0, 1:601], size.sum(axis=0), rtol=1e-6 if dtype in ("float32", "complex64") else 1e-13)
    assert np.allclose(sizes[0, 601:], size.sum(axis=1), rtol=1e-6 if dtype in ("float32", "complex64") else 1e-13)
    a[499, 599] = np.nan
    assert gauge(a, sizes, (), True) == 1


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
