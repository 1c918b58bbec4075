"""trtri: T := T^-1, and trsmr: X := X T^-1."""

import numpy as np
import pytest
from matrices import DTYPES, norm1, random_matrix, roundoff, spd_matrix

from tilewright.kernels import lookup, reference, trsmr, trtri


@pytest.fixture(params=DTYPES)
def kernels(request, library):
    rows = {name: lookup(name, "cpu", request.param, request.param) for name in ("trtri", "trsmr", "trsml")}
    assert {row.source for row in rows.values()} == {library.name}
    return {name: row.function for name, row in rows.items()}, request.param


def triangle(n, dtype, unit, lower=True):
    """(a tile with other numbers where nobody looks, the triangle that it stands for)."""
    whole = np.linalg.cholesky(spd_matrix(n, dtype))
    if unit:
        whole = whole / whole.diagonal()
    whole = whole if lower else whole.T
    tile = whole.astype(dtype)
    tile[np.triu_indices(n, 1) if lower else np.tril_indices(n, -1)] = np.nan
    if unit:
        np.fill_diagonal(tile, np.nan)
    return tile, whole.astype(dtype)


@pytest.mark.parametrize("unit", [False, True])
def test_inverse_has_a_small_residual_and_one_triangle_is_read_and_written(kernels, layout, tile, unit):
    functions, dtype = kernels
    u = roundoff(dtype)
    for n in (1, 33, 70):
        given, whole = triangle(n, dtype, unit)
        t, wanted = tile(given, layout), given.copy()
        assert functions["trtri"](t.array, unit) == 0 == reference.trtri(wanted, unit)
        inverse = np.tril(t.array)
        assert norm1(inverse @ whole - np.eye(n)) <= 10 * max(n, 1) * u * norm1(inverse) * norm1(whole)
        assert norm1(inverse - np.tril(wanted)) <= 10 * max(n, 1) * u * norm1(inverse) * norm1(whole) * norm1(inverse)
        assert not unit or np.array_equal(inverse.diagonal(), np.ones(n))
        assert np.isnan(t.array[np.triu_indices(n, 1)]).all() and t.rest_is_untouched()


def test_first_zero_on_the_diagonal_is_the_info(kernels, layout, tile):
    functions, dtype = kernels
    a = np.eye(50, dtype=dtype)
    a[[20, 44], [20, 44]] = 0
    t = tile(a, layout)
    assert functions["trtri"](t.array) == 21 == reference.trtri(a.copy())
    assert np.array_equal(t.array, a)
    assert functions["trtri"](np.zeros((0, 0), dtype)) == 0
    assert functions["trtri"](t.array, True) == 0 and np.array_equal(t.array, np.eye(50))


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("lower", [False, True])
def test_solves_with_ones_on_the_diagonal_or_from_the_right(kernels, layout, tile, lower, unit):
    functions, dtype = kernels
    u = roundoff(dtype)
    for n in (1, 5, 33):
        given, whole = triangle(n, dtype, unit, lower)
        b = random_matrix(7, n, dtype)
        t, x, wanted = tile(given, layout), tile(b, layout), b.copy()
        assert functions["trsmr"](t.array, x.array, lower, unit) is None
        reference.trsmr(whole, wanted, lower, unit)
        assert norm1(x.array @ whole - b) <= 10 * n * u * norm1(whole) * norm1(x.array)
        assert np.allclose(x.array, wanted, rtol=1e3 * u, atol=1e3 * u)
        left = {alpha: b.T.copy(order="C") for alpha in (1.0, -1.0, 0.5)}
        for alpha, y in left.items():
            functions["trsml"](t.array, y, False, lower, unit, alpha)
            wanted = b.T.copy(order="C")
            reference.trsml(whole, wanted, False, lower, unit, alpha)
            assert np.allclose(y, wanted, rtol=1e3 * u, atol=1e3 * u)
        assert np.array_equal(left[1.0], -left[-1.0])
        assert t.rest_is_untouched() and x.rest_is_untouched()


def test_shapes_must_fit(kernels):
    functions, dtype = kernels
    with pytest.raises(ValueError, match=r"trtri: T \(5, 4\) is not square"):
        functions["trtri"](np.zeros((5, 4), dtype))
    with pytest.raises(ValueError, match=r"trsmr: T \(4, 4\) and X \(4, 5\) do not fit X T\^-1"):
        functions["trsmr"](np.eye(4, dtype=dtype), np.zeros((4, 5), dtype))


def test_flops():
    assert trtri.flops((6, 6)) == 72
    assert trsmr.flops((4, 4), (3, 4)) == 48
