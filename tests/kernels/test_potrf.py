"""potrf: A := L with A = L L^H, on the lower triangle."""

import numpy as np
import pytest
from matrices import DTYPES, ZEROED, factor_ratio, indefinite_matrix, lapack_info, po_matrix, spd_matrix

from tilewright.kernels import lookup, potrf, reference


@pytest.fixture(params=DTYPES)
def kernel(request, library):
    row = lookup("potrf", "cpu", request.param, request.param)
    assert row.source == library.name
    return row.function, request.param


def test_factor_is_right_and_the_upper_triangle_untouched(kernel, layout, tile):
    function, dtype = kernel
    for n in (1, 2, 3, 17, 64):
        a = spd_matrix(n, dtype)
        t = tile(a, layout)
        assert function(t.array) == 0
        assert factor_ratio(a, np.tril(t.array)) < 3
        assert np.array_equal(np.triu(t.array, 1), np.triu(a, 1))
        assert t.rest_is_untouched()


def test_agrees_with_the_reference(kernel, layout, tile):
    function, dtype = kernel
    a = spd_matrix(33, dtype)
    t, wanted = tile(a, layout), a.copy()
    assert (function(t.array), reference.potrf(wanted)) == (0, 0)
    assert np.allclose(np.tril(t.array), np.tril(wanted), rtol=0, atol=1e-5 if dtype in "float32 complex64" else 1e-13)


def test_upper_triangle_is_not_read(kernel, layout, tile):
    function, dtype = kernel
    a = spd_matrix(20, dtype)
    poisoned = a.copy()
    poisoned[np.triu_indices(20, 1)] = np.nan
    t, clean = tile(poisoned, layout), tile(a, layout)
    assert function(t.array) == function(clean.array) == 0
    assert np.array_equal(np.tril(t.array), np.tril(clean.array))


def test_info_is_that_of_lapack(kernel, layout, tile):
    function, dtype = kernel
    bad = [indefinite_matrix(12, order, dtype) for order in (1, 6, 12)] + [po_matrix(k, 12, dtype) for k in ZEROED]
    for a in bad:
        info = function(tile(a, layout).array)
        assert info == lapack_info(a) == reference.potrf(a.copy()) > 0


def test_tile_must_be_square(kernel):
    function, dtype = kernel
    with pytest.raises(ValueError, match=r"potrf: A \(2, 3\) is not square"):
        function(np.zeros((2, 3), dtype))


def test_flops():
    assert potrf.flops((6, 6)) == 72
