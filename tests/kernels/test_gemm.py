"""gemm: C := C - A B^H."""

import numpy as np
import pytest
from matrices import DTYPES, norm1, random_matrix, roundoff

from tilewright.kernels import gemm, lookup, reference


@pytest.fixture(params=DTYPES)
def kernel(request, library):
    row = lookup("gemm", "cpu", request.param, request.param)
    assert row.source == library.name
    return row.function, request.param


def agrees(function, dtype, shape, layouts, tile):
    m, n, k = shape
    values = random_matrix(m, k, dtype, 1), random_matrix(n, k, dtype, 2), random_matrix(m, n, dtype, 3)
    a, b, c = tiles = [tile(value, layout) for value, layout in zip(values, layouts, strict=True)]
    wanted = values[2].copy()
    assert function(a.array, b.array, c.array) is None
    reference.gemm(values[0], values[1], wanted)
    bound = 10 * k * roundoff(dtype) * (norm1(values[0]) * norm1(values[1].T) + norm1(values[2]))
    assert norm1(c.array - wanted) <= bound
    assert np.array_equal(a.array, values[0])
    assert np.array_equal(b.array, values[1])
    assert all(t.rest_is_untouched() for t in tiles)


def test_agrees_with_the_reference(kernel, layout, operand_layout, tile):
    for shape in ((1, 1, 1), (5, 1, 3), (1, 5, 3), (5, 3, 1), (7, 4, 9), (33, 40, 20)):
        agrees(*kernel, shape, (operand_layout, operand_layout, layout), tile)


def test_operands_may_differ_in_layout(kernel, layout, operand_layout, tile):
    agrees(*kernel, (6, 5, 4), (operand_layout, layout, "strided rows"), tile)
    agrees(*kernel, (6, 5, 4), (operand_layout, layout, "strided columns"), tile)


def test_operand_strided_both_ways_is_fine(kernel):
    function, dtype = kernel
    a, b = random_matrix(8, 6, dtype, 1)[::2, ::2], random_matrix(5, 6, dtype, 2)[:, ::-2]
    c = np.zeros((4, 5), dtype)
    function(a, b, c)
    assert np.allclose(c, -a @ b.conj().T, atol=1e-5)


def test_target_strided_both_ways_is_written_too_and_nothing_between(kernel):
    function, dtype = kernel
    a, b, whole = random_matrix(4, 3, dtype, 1), random_matrix(5, 3, dtype, 2), np.full((8, 10), 77, dtype)
    c = whole[::2, ::2]
    function(a, b, c)
    assert np.allclose(c, 77 - a @ b.conj().T, atol=1e-5)
    c[...] = 77
    assert (whole == 77).all()


def test_shapes_must_fit(kernel):
    function, dtype = kernel
    for a, b in (((3, 2), (5, 2)), ((4, 2), (5, 3)), ((4, 2), (6, 2))):
        with pytest.raises(ValueError, match=r"gemm: A .* and C \(4, 5\) do not fit C - A B\^H"):
            function(np.zeros(a, dtype), np.zeros(b, dtype), np.zeros((4, 5), dtype))


def test_flops():
    assert gemm.flops((4, 3), (5, 3), (4, 5)) == 120
