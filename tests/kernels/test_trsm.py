"""trsm: A := A L^-H."""

import numpy as np
import pytest
from matrices import DTYPES, norm1, random_matrix, roundoff, spd_matrix

from tilewright.kernels import lookup, reference, trsm


@pytest.fixture(params=DTYPES)
def kernel(request, library):
    row = lookup("trsm", "cpu", request.param, request.param)
    assert row.source == library.name
    return row.function, request.param


def test_agrees_with_the_reference(kernel, layout, operand_layout, tile):
    function, dtype = kernel
    u = roundoff(dtype)
    for m, n in ((1, 1), (5, 1), (1, 5), (7, 4), (4, 7), (33, 20)):
        factor = np.linalg.cholesky(spd_matrix(n, dtype))
        a = random_matrix(m, n, dtype)
        operand, t, wanted = tile(factor, operand_layout), tile(a, layout), a.copy()
        assert function(operand.array, t.array) is None
        reference.trsm(factor, wanted)
        assert norm1(t.array - wanted) <= 10 * n * u * norm1(a)
        assert norm1(t.array @ factor.conj().T - a) <= 10 * n * u * norm1(factor.conj().T) * norm1(t.array)
        assert np.array_equal(operand.array, factor)
        assert operand.rest_is_untouched()
        assert t.rest_is_untouched()


def test_upper_triangle_of_the_factor_is_not_read(kernel, layout, operand_layout, tile):
    function, dtype = kernel
    factor = np.linalg.cholesky(spd_matrix(9, dtype))
    poisoned = factor.copy()
    poisoned[np.triu_indices(9, 1)] = np.nan
    a = random_matrix(6, 9, dtype)
    got, wanted = tile(a, layout), tile(a, layout)
    function(tile(poisoned, operand_layout).array, got.array)
    function(tile(factor, operand_layout).array, wanted.array)
    assert np.array_equal(got.array, wanted.array)


def test_shapes_must_fit(kernel):
    function, dtype = kernel
    with pytest.raises(ValueError, match=r"trsm: L \(3, 3\) and A \(5, 4\) do not fit A L\^-H"):
        function(np.eye(3, dtype=dtype), np.zeros((5, 4), dtype))


def test_flops():
    assert trsm.flops((4, 4), (3, 4)) == 48
