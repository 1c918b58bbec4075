"""syrk: C := C - A A^H on the lower triangle."""

import numpy as np
import pytest
from matrices import DTYPES, norm1, random_matrix, roundoff, spd_matrix

from tilewright.kernels import lookup, reference, syrk


@pytest.fixture(params=DTYPES)
def kernel(request, library):
    row = lookup("syrk", "cpu", request.param, request.param)
    assert row.source == library.name
    return row.function, request.param


def agrees(function, dtype, m, k, layout, operand_layout, tile):
    a, c = random_matrix(m, k, dtype), spd_matrix(m, dtype)
    operand, t, wanted = tile(a, operand_layout), tile(c, layout), c.copy()
    assert function(operand.array, t.array) is None
    reference.syrk(a, wanted)
    bound = 10 * k * roundoff(dtype) * (norm1(c) + norm1(a) * norm1(a.T))
    assert norm1(np.tril(t.array - wanted)) <= bound
    assert np.array_equal(operand.array, a)
    assert operand.rest_is_untouched()
    assert t.rest_is_untouched()


def test_agrees_with_the_reference(kernel, layout, operand_layout, tile):
    for m, k in ((1, 1), (1, 5), (5, 1), (7, 4), (70, 33)):
        agrees(*kernel, m, k, layout, operand_layout, tile)


@pytest.mark.parametrize("m", [syrk.PANEL, syrk.SPLIT, syrk.SPLIT + 1, 2 * syrk.SPLIT + 5])
def test_agrees_at_the_sizes_where_the_triangle_is_split(kernel, tile, m):
    agrees(*kernel, m, 8, "strided rows", "strided rows", tile)


def test_upper_triangle_is_not_read(kernel, layout, operand_layout, tile):
    function, dtype = kernel
    a, c = random_matrix(70, 5, dtype), spd_matrix(70, dtype)
    poisoned = c.copy()
    poisoned[np.triu_indices(70, 1)] = np.nan
    got, wanted = tile(poisoned, layout), tile(c, layout)
    function(tile(a, operand_layout).array, got.array)
    function(tile(a, operand_layout).array, wanted.array)
    assert np.array_equal(np.tril(got.array), np.tril(wanted.array))


def test_shapes_must_fit(kernel):
    function, dtype = kernel
    with pytest.raises(ValueError, match=r"syrk: A \(3, 2\) and C \(4, 4\) do not fit C - A A\^H"):
        function(np.zeros((3, 2), dtype), np.zeros((4, 4), dtype))


def test_flops():
    assert syrk.flops((4, 3), (4, 4)) == 48
