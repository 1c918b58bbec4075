"""trsml, gemml, gemmp, hemm, hemmd: the kernels that work on right-hand sides."""

import numpy as np
import pytest
from matrices import DTYPES, norm1, random_matrix, roundoff, spd_matrix

from tilewright.kernels import gemml, hemm, lookup, products, reference, trsml
from tilewright.kernels.gemmlb import gemmlb
from tilewright.kernels.narrow import to_bf16, widened

NAMES = ("trsml", "gemml", "gemmp", "hemm", "hemmd")
WIDTHS = (1, 3, 40)


@pytest.fixture(params=DTYPES)
def kernels(request, library):
    """The kernels of a library by name, and the dtype they are for."""
    rows = {name: lookup(name, "cpu", request.param, request.param) for name in NAMES}
    assert {row.source for row in rows.values()} == {library.name}
    return {name: row.function for name, row in rows.items()}, request.param


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("lower", [False, True])
def test_trsml_solves_and_reads_one_triangle(kernels, layout, tile, lower, adjoint):
    functions, dtype = kernels
    u = roundoff(dtype)
    for n in (1, 5, 33):
        whole = np.linalg.cholesky(spd_matrix(n, dtype))
        factor = whole if lower else whole.conj().T
        poisoned = factor.copy()
        poisoned[np.triu_indices(n, 1) if lower else np.tril_indices(n, -1)] = np.nan
        for m in WIDTHS:
            b = random_matrix(n, m, dtype)
            t, x = tile(poisoned, layout), tile(b, "strided rows")
            assert functions["trsml"](t.array, x.array, adjoint, lower) is None
            op = factor.conj().T if adjoint else factor
            assert norm1(op @ x.array - b) <= 10 * n * u * norm1(op) * norm1(x.array)
            wanted = b.copy()
            reference.trsml(factor, wanted, adjoint, lower)
            assert np.allclose(x.array, wanted, rtol=1e3 * u, atol=1e3 * u)
            assert t.rest_is_untouched() and x.rest_is_untouched()


@pytest.mark.parametrize("adjoint", [False, True])
def test_gemml_subtracts_the_product(kernels, layout, tile, adjoint):
    functions, dtype = kernels
    u = roundoff(dtype)
    for p, k in ((1, 1), (1, 5), (5, 1), (7, 4), (33, 20), (0, 3), (3, 0)):
        a = random_matrix(k, p, dtype) if adjoint else random_matrix(p, k, dtype)
        for m in WIDTHS:
            y, x = random_matrix(k, m, dtype, 1), random_matrix(p, m, dtype, 2)
            operand, source, target, wanted = tile(a, layout), tile(y, "strided rows"), tile(x, "rows"), x.copy()
            assert functions["gemml"](operand.array, source.array, target.array, adjoint) is None
            reference.gemml(a, y, wanted, adjoint)
            assert np.allclose(target.array, wanted, rtol=0, atol=10 * (k + 1) * u)
            assert np.array_equal(operand.array, a) and np.array_equal(source.array, y)


def test_gemmp_adds_the_product(kernels, layout, tile):
    functions, dtype = kernels
    for p, k in ((1, 1), (1, 5), (5, 1), (7, 4), (33, 20), (0, 3), (3, 0)):
        a = random_matrix(p, k, dtype)
        for m in WIDTHS:
            x, v = random_matrix(k, m, dtype, 1), random_matrix(p, m, dtype, 2)
            operand, target = tile(a, layout), tile(v, "rows")
            assert functions["gemmp"](operand.array, x, target.array) is None
            assert np.allclose(target.array, v + a @ x, rtol=0, atol=10 * (k + 1) * roundoff(dtype))
            assert np.array_equal(operand.array, a) and target.rest_is_untouched()


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("mkl", [True, False])
def test_gemmlb_subtracts_the_product_of_a_bf16_tile_to_16_bits_of_the_vector(monkeypatch, tile, adjoint, mkl):
    if not mkl:
        monkeypatch.setattr(products, "cblas", lambda form: None)
    for p, k in ((1, 1), (5, 7), (33, 20), (0, 3), (3, 0)):
        narrow = np.zeros((k, p) if adjoint else (p, k), np.uint16)
        to_bf16(random_matrix(*narrow.shape, "float32"), narrow)
        a = widened(narrow).astype(float)
        for m in WIDTHS:
            y, x = random_matrix(k, m, "float32", 1), random_matrix(p, m, "float32", 2)
            source, target = tile(y, "strided rows"), tile(x, "rows")
            assert gemmlb(narrow, source.array, target.array, adjoint) is None
            wanted = x - (a.T if adjoint else a) @ y
            bound = 2.0**-15 * (np.abs(a.T if adjoint else a) @ np.abs(y)) + 1e-6
            assert (np.abs(target.array - wanted) <= bound).all()
            assert np.array_equal(source.array, y)
    with pytest.raises(ValueError, match=r"gemmlb: A .* and X \(3, 1\) do not fit"):
        gemmlb(narrow, np.zeros((2, 1), np.float32), np.zeros((3, 1), np.float32), adjoint)


def test_hemm_adds_both_products_of_a_tile(kernels, layout, tile):
    functions, dtype = kernels
    u = roundoff(dtype)
    for p, q in ((1, 1), (5, 3), (3, 5), (150, 40), (40, 300)):
        a = random_matrix(p, q, dtype)
        for m in WIDTHS:
            xi, xj, vi, vj = (random_matrix(rows, m, dtype, s) for s, rows in enumerate((p, q, p, q)))
            wanted = vi.copy(), vj.copy()
            reference.hemm(a, xi, xj, *wanted)
            functions["hemm"](tile(a, layout).array, xi, xj, vi, vj)
            assert np.allclose(vi, wanted[0], rtol=0, atol=10 * q * u)
            assert np.allclose(vj, wanted[1], rtol=0, atol=10 * p * u)


def test_hemmd_reads_the_lower_triangle_and_a_real_diagonal(kernels, layout, tile):
    functions, dtype = kernels
    u = roundoff(dtype)
    for n, widths in ((1, (1, 3)), (5, (1, 40)), (256, (3,)), (257, (1,)), (520, (40,))):
        a = spd_matrix(n, dtype)
        poisoned = a.copy()
        poisoned[np.triu_indices(n, 1)] = np.nan
        if dtype.startswith("complex"):
            poisoned[np.diag_indices(n)] += 1j
        f = np.empty((n, hemm.BLOCK), dtype)
        hemm.blocks(tile(poisoned, layout).array, f)
        for m in widths:
            x, v = random_matrix(n, m, dtype, 1), random_matrix(n, m, dtype, 2)
            wanted = v + a @ x
            functions["hemmd"](tile(poisoned, layout).array, f, x, v)
            assert norm1(v - wanted) <= 10 * n * u * norm1(a)
            again = random_matrix(n, m, dtype, 2)
            reference.hemmd(np.tril(a), f, x, again)
            assert norm1(again - wanted) <= 10 * n * u * norm1(a)


def test_shapes_must_fit(kernels):
    functions, dtype = kernels
    a, x = np.zeros((5, 4), dtype), np.zeros((4, 2), dtype)
    with pytest.raises(ValueError, match=r"trsml: T \(5, 4\) and X \(4, 2\) do not fit T\^-1 X"):
        functions["trsml"](a, x)
    with pytest.raises(ValueError, match=r"gemml: A \(5, 4\), Y \(4, 2\) and X \(4, 2\) do not fit X - A Y"):
        functions["gemml"](a, x, x)
    with pytest.raises(ValueError, match=r"gemml: A .* do not fit X - A\^H Y"):
        functions["gemml"](a, x, x, True)
    with pytest.raises(ValueError, match=r"hemm: A \(5, 4\)"):
        functions["hemm"](a, x, x, x, x)
    with pytest.raises(ValueError, match="hemmd: A"):
        functions["hemmd"](a, x, x, x)
    with pytest.raises(ValueError, match=r"hemmd: F must be \(4, 256\)"):
        functions["hemmd"](a[:4], x, x, x)


@pytest.mark.parametrize("name", ["gemml", "trsml"])
def test_right_hand_sides_in_another_order_are_refused_or_changed_rightly(kernels, name):
    """Kernels that are not steady work on copies, which have the order they need."""
    functions, dtype = kernels
    x, factor = np.ones((4, 3), dtype, order="F"), 2 * np.eye(4, dtype=dtype)
    try:
        functions[name](factor, *((x.copy(),) if name == "gemml" else ()), x)
    except ValueError as error:
        assert "C-ordered" in str(error) and (x == 1).all()
    else:
        assert (x == (-1 if name == "gemml" else 0.5)).all()


def test_flops():
    assert trsml.flops((4, 4), (4, 3)) == 48
    assert gemml.flops((5, 4), (4, 3), (5, 3)) == 120
    assert hemm.flops((5, 4), (5, 3), (4, 3), (5, 3), (4, 3)) == 240
    assert hemm.flops_diagonal((4, 4), (4, 256), (4, 3), (4, 3)) == 96
