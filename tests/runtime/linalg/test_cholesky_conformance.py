"""tiled_cholesky under the tests of LAPACK and ScaLAPACK: their matrices, their ratios, their thresholds."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import (
    DTYPES,
    POSITIVE_DEFINITE,
    ZEROED,
    factor_ratio,
    indefinite_matrix,
    lapack_info,
    po_matrix,
    random_matrix,
    solve_ratio,
    spd_matrix,
    zeroed_index,
)
from strategies import orders, tile_sizes

import tilewright as tw

pytestmark = pytest.mark.long

LAPACK_THRESHOLD = 30
SCALAPACK_THRESHOLD = 3
TILE_SIZES = (1, 2, 3, 5, 20, 64, 100, 256)
# Every tile size up to 20 rows of tiles (1540 tasks), and one that is larger than the matrix.
SHAPES = [
    (n, nb)
    for n in (0, 1, 2, 3, 5, 10, 13, 17, 31, 57, 101, 132, 257, 1000)
    for nb in TILE_SIZES
    if n <= 20 * nb and (nb < 2 * n or nb == 64) and (n, nb) != (1000, 64)
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "nb"), SHAPES, ids=[f"n{n}-nb{nb}" for n, nb in SHAPES])
def test_lapack_ratio(dtype, n, nb):
    for kind in POSITIVE_DEFINITE:
        if n > 132 and kind not in (2, 6):
            continue  # the same code on the same tiles; the scaled and diagonal types stop at 132
        a = po_matrix(kind, n, dtype)
        factor = tw.tiled_cholesky(a, tile_size=nb)
        assert np.array_equal(factor, np.tril(factor))
        assert factor_ratio(a, factor) < LAPACK_THRESHOLD, f"type {kind}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "nb"), [(10, 1), (10, 3), (57, 5), (57, 20), (132, 20), (132, 64)])
def test_lapack_ratio_of_the_upper_factor(dtype, n, nb):
    for kind in POSITIVE_DEFINITE:
        a = po_matrix(kind, n, dtype)
        factor = tw.tiled_cholesky(a, tile_size=nb, lower=False)
        assert np.array_equal(factor, np.triu(factor))
        assert factor_ratio(a, factor, lower=False) < LAPACK_THRESHOLD, f"type {kind}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [4, 10, 17, 13, 23, 31, 57])
@pytest.mark.parametrize("nb", [2, 3, 4, 5])
def test_scalapack_ratios_of_small_ragged_cases(dtype, n, nb):
    a = spd_matrix(n, dtype)
    factor = tw.tiled_cholesky(a, tile_size=nb)
    assert factor_ratio(a, factor) < SCALAPACK_THRESHOLD
    for right_hand_sides in (1, 3, 9):
        b = random_matrix(n, right_hand_sides, dtype, seed=1)
        x = scipy.linalg.cho_solve((factor, True), b)
        assert solve_ratio(a, x, b) < SCALAPACK_THRESHOLD


@settings(max_examples=60)
@given(orders, tile_sizes, st.sampled_from(DTYPES), st.booleans(), st.sampled_from(["C", "F"]))
def test_any_order_and_any_tile_size(n, nb, dtype, lower, order):
    a = np.asarray(spd_matrix(n, dtype), order=order)
    factor = tw.tiled_cholesky(a, tile_size=nb, lower=lower)
    assert factor_ratio(a, factor, lower) < SCALAPACK_THRESHOLD
    assert np.array_equal(factor, np.tril(factor) if lower else np.triu(factor))


def first_bad_minor(a, **options):
    with pytest.raises(tw.NotPositiveDefiniteError) as caught:
        tw.tiled_cholesky(a, **options)
    error = caught.value
    return error.order, error.task, str(error.tile)


def expected(order, nb):
    k = (order - 1) // nb
    return order, f"potrf({k})", f"A[{k},{k}]"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("kind", ZEROED)
def test_zeroed_row_and_column_is_found_exactly(dtype, lower, kind):
    for n in (3, 5, 10, 31, 57, 132):
        a = po_matrix(kind, n, dtype)
        info = zeroed_index(kind, n) + 1
        assert lapack_info(a, lower) == info
        for nb in (1, 2, 5, 20, 64):
            if n <= 26 * nb:
                assert first_bad_minor(a, tile_size=nb, lower=lower) == expected(info, nb)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("order", [1, 2, 20, 21, 40, 47])
def test_order_of_an_indefinite_matrix_is_that_of_lapack(dtype, lower, order):
    a = indefinite_matrix(47, order, dtype)
    assert lapack_info(a, lower) == order
    for nb in (3, 20, 64):
        assert first_bad_minor(a, tile_size=nb, lower=lower) == expected(order, nb)


@pytest.mark.parametrize("scheduler", tw.SCHEDULERS)
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_bad_minor_is_the_same_under_every_policy_and_worker_count(scheduler, workers):
    options = {"tile_size": 8, "scheduler": scheduler, "workers": workers}
    for kind in ZEROED:
        a = po_matrix(kind, 57)
        assert first_bad_minor(a, **options) == expected(lapack_info(a), 8)
    a = random_matrix(57, 57)
    a = a + a.T + 6 * np.eye(57)  # indefinite, and nobody says where
    info = lapack_info(a)
    assert 1 < info < 57
    assert first_bad_minor(a, **options) == expected(info, 8)
    twice_bad = indefinite_matrix(57, 20)
    twice_bad[49, 49] *= -1
    assert first_bad_minor(twice_bad, **options) == expected(20, 8)


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_policy_and_worker_count_gives_the_same_bits(dtype, lower):
    a = spd_matrix(150, dtype)
    for nb in (16, 37):
        wanted = tw.tiled_cholesky(a, tile_size=nb, lower=lower, backend="serial")
        for scheduler in tw.SCHEDULERS:
            for workers in (1, 2, 4):
                got = tw.tiled_cholesky(a, tile_size=nb, lower=lower, scheduler=scheduler, workers=workers)
                assert np.array_equal(got, wanted), f"{scheduler}, {workers} workers"


def test_strided_and_packed_tiles_give_the_same_bits(library):
    for dtype in DTYPES:
        a = spd_matrix(130, dtype)
        strided = tw.tiled_cholesky(a, tile_size=24, workers=2)
        packed = tw.tiled_cholesky(tw.TiledMatrix.from_numpy(a, 24), workers=2).to_numpy()
        assert np.array_equal(strided, packed)


def test_in_place_and_fresh_result_have_the_same_bits(library):
    for dtype in DTYPES:
        for lower in (True, False):
            for order in "CF":
                a = np.array(spd_matrix(75, dtype), order=order)
                wanted = tw.tiled_cholesky(a, tile_size=16, lower=lower)
                got = tw.tiled_cholesky(a, tile_size=16, lower=lower, overwrite_a=True)
                assert got is a
                assert np.array_equal(got, wanted)


def test_every_library_passes_the_ratio(library):
    for dtype in DTYPES:
        for n, nb in ((57, 5), (132, 64)):
            a = po_matrix(6, n, dtype)
            assert factor_ratio(a, tw.tiled_cholesky(a, tile_size=nb, workers=2)) < LAPACK_THRESHOLD
