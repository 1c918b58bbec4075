"""The bits of a factor do not depend on how the matrix lies in memory, nor on who factors it."""

import numpy as np
import pytest
from matrices import DTYPES, spd_matrix

import tilewright as tw

N, NB = 101, 24


def laid_out(a, layout):
    """A copy of the matrix, in one layout."""
    n = len(a)
    if layout == "rows":
        return np.ascontiguousarray(a).copy()
    if layout == "columns":
        return np.asfortranarray(a).copy(order="F")
    whole = np.full((2 * n + 3, 2 * n + 3), 7, a.dtype, order="F" if "columns" in layout else "C")
    view = whole[1 : n + 1, 2 : n + 2] if layout.startswith("window") else whole[: 2 * n : 2, : 2 * n : 2]
    view[...] = a
    return view


LAYOUTS = ("rows", "columns", "window by rows", "window by columns", "strided both ways")


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_the_order_of_memory(library, dtype, lower):
    a = spd_matrix(N, dtype, 3)
    one = tw.tiled_cholesky(laid_out(a, "rows"), tile_size=NB)
    expected = one if lower else None
    for layout in LAYOUTS:
        for overwrite_a in (False, True):
            given = laid_out(a, layout)
            around = given.base is not None and given.base.copy()
            factor = tw.tiled_cholesky(given, tile_size=NB, lower=lower, overwrite_a=overwrite_a)
            if expected is None:
                expected = factor.copy()
                assert np.allclose(expected.conj().T @ expected, a, rtol=1e-4)
            assert np.array_equal(factor, expected), (layout, overwrite_a)
            if overwrite_a and layout != "strided both ways":
                assert np.shares_memory(factor, given)
            if around is not False and layout.startswith("window"):
                rest = np.ones(around.shape, bool)
                rest[1 : N + 1, 2 : N + 2] = False
                assert np.array_equal(given.base[rest], around[rest])


@pytest.mark.parametrize("lower", [True, False])
def test_bits_do_not_depend_on_how_tiles_lie(library, lower):
    a = spd_matrix(N, "float64", 3)
    expected = tw.tiled_cholesky(a, tile_size=NB, lower=lower)
    for tiles in (
        lambda: tw.TiledMatrix.from_numpy(a, NB),
        lambda: tw.TiledMatrix.from_numpy(a.T.copy(), NB).T,
        lambda: tw.TiledMatrix.view(laid_out(a, "rows"), NB),
        lambda: tw.TiledMatrix.view(laid_out(a, "columns"), NB),
    ):
        for overwrite_a in (False, True):
            given = tiles()
            factor = tw.tiled_cholesky(given, lower=lower, overwrite_a=overwrite_a)
            assert np.array_equal(factor.to_numpy(), expected)
            if overwrite_a:
                assert factor is given


@pytest.mark.parametrize("backend", ["serial", "mpi", "dask"])
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_engines_give_the_same_bits_in_both_orders_in_place_and_not(backend, layout):
    a = spd_matrix(N, "float64", 5)
    expected = tw.tiled_cholesky(a, tile_size=NB)
    for lower in (True, False):
        wanted = expected if lower else tw.tiled_cholesky(a, tile_size=NB, lower=False)
        for overwrite_a in (False, True):
            factor = tw.tiled_cholesky(
                laid_out(a, layout), tile_size=NB, lower=lower, overwrite_a=overwrite_a, backend=backend, workers=2
            )
            assert np.array_equal(factor, wanted)


@pytest.mark.parametrize("offset", range(0, 64, 8))
def test_bits_do_not_depend_on_alignment(library, offset):
    a = spd_matrix(N, "float64", 7)
    memory = np.zeros(a.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    view = memory[start : start + a.nbytes].view(np.float64).reshape(N, N)
    view[...] = a
    assert np.array_equal(tw.tiled_cholesky(view, tile_size=NB, overwrite_a=True), tw.tiled_cholesky(a, tile_size=NB))


def test_solutions_with_a_factor_have_the_same_bits_in_both_orders(library):
    a, b = spd_matrix(N, "float64", 9), np.random.default_rng(1).standard_normal((N, 3))
    L = tw.tiled_cholesky(a, tile_size=NB)
    expected = tw.cho_solve(L, b, tile_size=NB)
    assert np.array_equal(tw.cho_solve(np.asfortranarray(L), b, tile_size=NB), expected)
    assert np.array_equal(tw.cho_solve(L, np.asfortranarray(b), tile_size=NB), expected)
    assert np.array_equal(tw.cho_inverse(np.asfortranarray(L), tile_size=NB), tw.cho_inverse(L, tile_size=NB))
    one = b[:, :1]
    assert np.array_equal(
        tw.cho_solve(np.asfortranarray(L), one[:, 0], tile_size=NB), tw.cho_solve(L, one[:, 0], tile_size=NB)
    )


def test_the_matrix_may_have_anything_in_the_other_triangle_also_by_columns():
    a = spd_matrix(N, "float64", 3)
    poisoned = np.asfortranarray(np.where(np.tri(N, dtype=bool), a, np.nan))
    factor = tw.tiled_cholesky(poisoned, tile_size=NB, overwrite_a=True)
    assert np.array_equal(factor, tw.tiled_cholesky(a, tile_size=NB))
    assert factor is poisoned
