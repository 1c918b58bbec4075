"""Level 3 BLAS with all its flags: matmul, rankk, trmm, trsolve, lauum; and what works entry by entry."""

from itertools import product

import numpy as np
import pytest
from matrices import DTYPES, norm1, random_matrix, roundoff

from tilewright.kernels import elements, level3, lookup, reference

OPS = ("matmul", "rankk", "trmm", "trsolve", "lauum")


def op(a, flag):
    return {"N": a, "T": a.T, "C": a.conj().T}[flag]


def scalars(dtype):
    return (2.0, -0.5) if np.dtype(dtype).kind != "c" else (2 - 1j, 0.5j)


@pytest.fixture(params=DTYPES)
def kernels(request, library):
    rows = {name: lookup(name, "cpu", request.param, request.param) for name in OPS}
    assert {row.source for row in rows.values()} == {library.name}
    return {name: row.function for name, row in rows.items()}, request.param


def triangle(n, dtype, uplo, diag="N"):
    """(a tile with NaN where nobody looks, the triangle that it stands for)."""
    whole = random_matrix(n, n, dtype, 7) / 4 + 2 * np.eye(n)
    whole = np.tril(whole) if uplo == "L" else np.triu(whole)
    if diag == "U":
        whole = whole / 8
        np.fill_diagonal(whole, 1)
    tile = whole.astype(dtype)
    tile[np.triu_indices(n, 1) if uplo == "L" else np.tril_indices(n, -1)] = np.nan
    if diag == "U":
        np.fill_diagonal(tile, np.nan)
    return tile, whole.astype(dtype)


@pytest.fixture(params=["rows", "strided columns"])
def layout(request):
    """Of the written tile."""
    return request.param


def test_products_of_all_flags(kernels, layout, tile):
    functions, dtype = kernels
    alpha, beta = scalars(dtype)
    flags_of = ["".join(pair) for pair in product("NTC", "NTC")]
    for (m, n, k), flags in product(((1, 1, 1), (5, 7, 3), (33, 1, 20), (4, 5, 0)), flags_of):
        a = random_matrix(*((m, k) if flags[0] == "N" else (k, m)), dtype, 1)
        b = random_matrix(*((k, n) if flags[1] == "N" else (n, k)), dtype, 2)
        c = random_matrix(m, n, dtype, 3)
        target, fresh = tile(c, layout), tile(np.full((m, n), np.nan, dtype), layout)
        functions["matmul"](a, b, target.array, flags, alpha, beta)
        functions["matmul"](a, b, fresh.array, flags)  # beta = 0: NaN are not read
        wanted = c.copy()
        reference.matmul(a, b, wanted, flags, alpha, beta)
        exact = op(a, flags[0]).astype(complex) @ op(b, flags[1])
        bound = 20 * (k + 1) * roundoff(dtype) * (norm1(np.abs(a)) + 1) * (norm1(np.abs(b)) + 1)
        assert norm1(wanted - (alpha * exact + beta * c)) <= bound
        assert norm1(target.array - wanted) <= bound
        assert norm1(fresh.array - exact) <= bound
        assert target.rest_is_untouched() and fresh.rest_is_untouched()


@pytest.mark.parametrize(("uplo", "conj"), [("L", False), ("L", True), ("U", False), ("U", True)])
def test_rank_k_updates_write_one_triangle(kernels, layout, tile, uplo, conj):
    functions, dtype = kernels
    alpha, beta = (2.0, -0.5) if conj else scalars(dtype)
    for (n, k), flag in product(((1, 3), (6, 4), (70, 9), (130, 5)), "NC" if conj else "NT"):
        a = random_matrix(*((n, k) if flag == "N" else (k, n)), dtype, 1)
        of = op(a, flag)
        back = of.conj().T if conj else of.T
        c = random_matrix(n, n, dtype, 3)
        inside = np.tri(n, dtype=bool) if uplo == "L" else np.tri(n, dtype=bool).T
        given = np.where(inside, c, np.nan).astype(dtype)
        for factor in (beta, 0.0):
            target, wanted = tile(given, layout), given.copy()
            functions["rankk"](a, target.array, uplo, flag, conj, alpha, factor)
            reference.rankk(a, wanted, uplo, flag, conj, alpha, factor)
            exact = alpha * (of.astype(complex) @ back) + factor * c
            if conj:
                np.fill_diagonal(exact, exact.diagonal().real)
                assert not target.array.diagonal().imag.any()
            bound = 30 * (k + 1) * roundoff(dtype) * (norm1(np.abs(a)) + 1) ** 2
            assert norm1(np.where(inside, target.array - exact, 0)) <= bound
            assert norm1(np.where(inside, wanted - exact, 0)) <= bound
            assert np.isnan(target.array[~inside]).all() and target.rest_is_untouched()


@pytest.mark.parametrize("diag", "NU")
def test_triangles_multiply_and_divide_from_both_sides(kernels, layout, tile, diag):
    functions, dtype = kernels
    alpha, _ = scalars(dtype)
    for side, uplo, n, flag in product("LR", "LU", (1, 5, 130), "NTC"):
        given, whole = triangle(n, dtype, uplo, diag)
        b = random_matrix(*((n, 4) if side == "L" else (4, n)), dtype, 2)
        t = op(whole, flag)
        times, over = tile(b, layout), tile(b, layout)
        functions["trmm"](given, times.array, side, uplo, flag, diag, alpha)
        functions["trsolve"](given, over.array, side, uplo, flag, diag, alpha)
        exact = alpha * (t.astype(complex) @ b if side == "L" else b.astype(complex) @ t)
        bound = 30 * n * roundoff(dtype) * norm1(np.abs(t)) * norm1(np.abs(b))
        assert norm1(times.array - exact) <= bound
        back = t @ over.array if side == "L" else over.array @ t
        size = norm1(np.abs(t)) * norm1(np.abs(over.array)) + abs(alpha) * norm1(b)
        assert norm1(back - alpha * b) <= 30 * n * roundoff(dtype) * size
        assert times.rest_is_untouched() and over.rest_is_untouched()
        if n < 100:  # the reference is a loop in Python
            wanted = b.copy()
            reference.trmm(np.nan_to_num(given), wanted, side, uplo, flag, diag, alpha)
            assert norm1(wanted - exact) <= bound
            wanted = b.copy()
            reference.trsolve(np.nan_to_num(given), wanted, side, uplo, flag, diag, alpha)
            assert np.allclose(over.array, wanted, rtol=1e3 * roundoff(dtype), atol=1e3 * roundoff(dtype))


def test_lauum_is_the_lower_triangle_of_the_product(kernels, layout, tile):
    functions, dtype = kernels
    for n in (0, 1, 5, 70, 130):
        given, whole = triangle(n, dtype, "L")
        t, wanted = tile(given, layout), np.nan_to_num(given)
        functions["lauum"](t.array)
        reference.lauum(wanted)
        exact = whole.conj().T.astype(complex) @ whole
        bound = 30 * max(n, 1) * roundoff(dtype) * norm1(whole) * norm1(whole.T)
        assert norm1(np.tril(t.array) - np.tril(exact)) <= bound
        assert norm1(np.tril(wanted) - np.tril(exact)) <= bound
        assert np.isnan(t.array[np.triu_indices(n, 1)]).all() and t.rest_is_untouched()


def test_shapes_must_fit(kernels):
    functions, dtype = kernels
    zeros = lambda *shape: np.zeros(shape, dtype)  # noqa: E731
    with pytest.raises(ValueError, match=r"matmul: A \(3, 4\), B \(3, 4\) and C \(3, 4\) do not fit .* flags NN"):
        functions["matmul"](zeros(3, 4), zeros(3, 4), zeros(3, 4))
    with pytest.raises(ValueError, match=r"rankk: A \(3, 4\) and C \(4, 4\) do not fit"):
        functions["rankk"](zeros(3, 4), zeros(4, 4))
    for name in ("trmm", "trsolve"):
        with pytest.raises(ValueError, match=rf"{name}: T \(3, 3\) and X \(4, 3\) do not fit, side L"):
            functions[name](zeros(3, 3), zeros(4, 3))
    with pytest.raises(ValueError, match=r"lauum: T \(3, 4\) is not square"):
        functions["lauum"](zeros(3, 4))


def test_flops():
    assert level3.flops_matmul((3, 5), (5, 4), (3, 4)) == level3.flops_matmul((5, 3), (4, 5), (3, 4)) == 120
    assert level3.flops_rankk((3, 5), (3, 3)) == level3.flops_rankk((5, 3), (3, 3)) == 45
    assert level3.flops_trmm((3, 3), (3, 4)) == level3.flops_trmm((3, 3), (4, 3)) == 36
    assert level3.flops_lauum((6, 6)) == 72


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("flag", "NTCJ")
def test_sums_have_the_same_bits_in_every_layout(dtype, flag, tile):
    alpha, beta = scalars(dtype)
    x, y = random_matrix(37, 21, dtype, 1), random_matrix(*((37, 21) if flag in "NJ" else (21, 37)), dtype, 2)
    of = {"N": x, "T": x.T, "C": x.conj().T, "J": x.conj()}[flag]
    for a, b in ((1.0, 0.0), (alpha, 0.0), (-1.0, 1.0), (1.0, 1.0), (alpha, beta), (0.0, beta)):
        bits = set()
        for where in ("rows", "columns", "strided rows", "strided columns"):
            target = tile(np.full_like(y, np.nan) if b == 0 else y, where)
            elements.geadd(x, target.array, flag, a, b)
            assert np.allclose(target.array, a * of + b * y, rtol=1e2 * roundoff(dtype), atol=1e2 * roundoff(dtype))
            assert target.rest_is_untouched()
            bits.add(target.array.tobytes())
        assert len(bits) == 1
    with pytest.raises(ValueError, match="geadd: X"):
        elements.geadd(x, y[:-1], flag)


def test_scaling_by_zero_clears_and_a_triangle_is_scaled_alone():
    y = np.array([[np.nan, 1.0], [2.0, np.inf]])
    elements.rescale(y, 0.0)
    assert not y.any()
    y = np.arange(9.0).reshape(3, 3)
    elements.rescale(y, 2.0, "L")
    assert y.tolist() == [[0, 1, 2], [6, 8, 5], [12, 14, 16]]


def test_the_first_zero_on_the_diagonal_is_the_info():
    count = np.zeros(1, np.int64)
    assert elements.regular(np.diag([1.0, 0.0, 2.0, 0.0]), count, 8, 4) == 2
    assert elements.regular(np.eye(3), count) == 0 and count == 2
