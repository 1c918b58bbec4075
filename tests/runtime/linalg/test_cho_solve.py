"""cho_solve, logdet, cho_inverse."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import DTYPES, norm1, random_matrix, roundoff, solve_ratio, spd_matrix
from optional import torch
from strategies import orders, tile_sizes

import tilewright as tw
from tilewright.backends import COMPUTING

SCALAPACK_THRESHOLD = 3


@settings(max_examples=80)
@given(orders, tile_sizes, st.integers(0, 40), st.sampled_from(DTYPES), st.booleans(), st.sampled_from(["C", "F"]))
def test_solution_passes_scalapacks_ratio_and_only_the_named_triangle_is_read(n, nb, m, dtype, lower, order):
    a = spd_matrix(n, dtype)
    factor = np.array(tw.tiled_cholesky(a, tile_size=nb, lower=lower), order=order)
    factor[np.triu_indices(n, 1) if lower else np.tril_indices(n, -1)] = np.nan
    b = random_matrix(n, m, dtype, seed=1)
    x = tw.cho_solve(factor, b, lower=lower, tile_size=nb)
    assert (x.shape, x.dtype) == (b.shape, b.dtype)
    if n and m:
        assert solve_ratio(a, x, b) < SCALAPACK_THRESHOLD


@settings(max_examples=40)
@given(orders, tile_sizes, st.sampled_from(DTYPES), st.booleans())
def test_inverse_is_hermitian_and_inverts(n, nb, dtype, lower):
    a = spd_matrix(n, dtype)
    factor = tw.tiled_cholesky(a, tile_size=nb, lower=lower)
    factor[np.triu_indices(n, 1) if lower else np.tril_indices(n, -1)] = np.nan
    inverse = tw.cho_inverse(factor, lower=lower, tile_size=nb)
    assert np.array_equal(inverse, inverse.conj().T)
    # LAPACK's dpot03: ||I - A A^-1||_1 / (n ||A||_1 ||A^-1||_1 u) < 30
    wide = "complex128" if dtype.startswith("complex") else "float64"
    error = norm1(np.eye(n) - a.astype(wide) @ inverse)
    assert error <= 30 * max(n, 1) * norm1(a) * norm1(inverse) * roundoff(dtype)


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_tiles_that_nobody_wrote_are_not_converted(dtype, lower):
    """In the other triangle of a factor in tiles is what was in memory: here numbers that no cast may touch."""
    a = spd_matrix(50, dtype)
    factor = tw.tiled_cholesky(tw.TiledMatrix.from_numpy(a, 20), lower=lower)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        tile = factor[(i, j) if lower else (j, i)]
        (tile if tile.flags.c_contiguous else tile.T).view(np.uint32)[...] = 0x7FA00001  # signalling NaN
    wide = "complex128" if dtype.startswith("complex") else "float64"
    b = random_matrix(50, 2, wide)
    with np.errstate(all="raise"):
        x = tw.cho_solve(factor, b, lower=lower, workers=1)
        inverse = tw.cho_inverse(factor, lower=lower, workers=1)
        determinant = tw.logdet(factor, workers=1)
    exact = a.astype(wide)
    assert x.dtype == wide and np.abs(exact @ x - b).max() < 1e-4
    assert np.abs(exact @ inverse - np.eye(50)).max() < 1e-4
    assert determinant == pytest.approx(np.linalg.slogdet(exact)[1], rel=1e-5)
    whole = np.tril(factor.to_numpy()) if lower else np.triu(factor.to_numpy())
    swapped = whole.astype(whole.dtype.newbyteorder(">"))
    assert tw.logdet(swapped) == tw.logdet(whole)


# Dask leaves the sockets of attempts to connect that it repeats to the collector.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", COMPUTING)
def test_every_engine_gives_the_bits_of_the_serial_run(backend, dtype):
    a = spd_matrix(60, dtype)
    for lower in (True, False):
        factor = tw.tiled_cholesky(a, tile_size=13, lower=lower)
        options = {"tile_size": 13, "lower": lower}
        for m in (1, 30):
            b = random_matrix(60, m, dtype)
            wanted = tw.cho_solve(factor, b, backend="serial", **options)
            assert np.array_equal(tw.cho_solve(factor, b, backend=backend, workers=2, **options), wanted)
        wanted = tw.cho_inverse(factor, backend="serial", **options)
        assert np.array_equal(tw.cho_inverse(factor, backend=backend, workers=2, **options), wanted)
        assert tw.logdet(factor, tile_size=13, backend=backend, workers=2) == tw.logdet(
            factor, tile_size=13, backend="serial"
        )


@pytest.mark.parametrize("scheduler", tw.SCHEDULERS)
@pytest.mark.parametrize("workers", [1, 4])
def test_every_policy_gives_the_same_bits(scheduler, workers):
    factor, b = tw.tiled_cholesky(spd_matrix(70)), random_matrix(70, 5)
    wanted = tw.cho_solve(factor, b, tile_size=9, backend="serial")
    assert np.array_equal(tw.cho_solve(factor, b, tile_size=9, scheduler=scheduler, workers=workers), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_logdet_is_that_of_numpy_and_does_not_overflow(dtype):
    a = spd_matrix(50, dtype)
    for lower in (True, False):
        factor = tw.tiled_cholesky(a, lower=lower)
        assert tw.logdet(factor, tile_size=7) == pytest.approx(np.linalg.slogdet(a)[1], rel=100 * roundoff(dtype))
    assert tw.logdet(1e200 * np.eye(5)) == pytest.approx(10 * np.log(1e200))


def test_logdet_of_a_singular_factor_is_minus_infinity():
    assert tw.logdet(np.diag([1.0, 0.0, 2.0])) == -np.inf


def test_one_vector_comes_back_as_one_vector():
    factor = tw.tiled_cholesky(spd_matrix(10))
    b = np.arange(10)
    assert tw.cho_solve(factor, b).shape == (10,)
    assert np.allclose(tw.cho_solve(factor, b), scipy.linalg.cho_solve((factor, True), b.astype(float)))


def test_wider_dtype_wins():
    factor = tw.tiled_cholesky(spd_matrix(6, "float32"))
    assert tw.cho_solve(factor, np.ones(6)).dtype == np.float64
    assert tw.cho_solve(factor, np.ones(6, "complex64")).dtype == np.complex64
    assert tw.cho_solve(factor.astype(float), np.ones(6, "complex64")).dtype == np.complex128


def test_tensors_and_tiled_matrices_are_taken_and_tensors_come_back():
    a = spd_matrix(30)
    factor, b = tw.tiled_cholesky(a, tile_size=8), random_matrix(30, 2)
    wanted = tw.cho_solve(factor, b, tile_size=8)
    x = tw.cho_solve(torch.from_numpy(factor), torch.from_numpy(b), tile_size=8)
    assert isinstance(x, torch.Tensor) and np.array_equal(x.numpy(), wanted)
    assert isinstance(tw.cho_inverse(torch.from_numpy(factor)), torch.Tensor)
    packed = tw.TiledMatrix.from_numpy(factor, 8)
    assert np.array_equal(tw.cho_solve(packed, b), wanted)
    assert tw.logdet(packed) == tw.logdet(factor, tile_size=8)


def test_nothing_to_solve():
    assert tw.cho_solve(np.zeros((0, 0)), np.zeros(0)).shape == (0,)
    assert tw.cho_solve(np.zeros((0, 0)), np.zeros((0, 3))).shape == (0, 3)
    assert tw.cho_solve(np.eye(3), np.zeros((3, 0))).shape == (3, 0)
    assert tw.cho_inverse(np.zeros((0, 0))).shape == (0, 0)
    assert tw.logdet(np.zeros((0, 0))) == 0


def test_run_has_the_flops_of_two_triangular_solves():
    factor = tw.tiled_cholesky(spd_matrix(64))
    _, run = tw.cho_solve(factor, np.ones((64, 2)), tile_size=16, return_run=True)
    assert run.flops == 2 * 64**2 * 2
    run.trace.check()
    _, run = tw.cho_inverse(factor, tile_size=16, return_run=True)
    assert {task.op.name for task in run.graph} == {"identity", "trsml", "gemml", "mirror"}


def test_all_of_them_draw_progress_if_asked(capfd):
    for call, rest in ((tw.cho_solve, [np.ones(4)]), (tw.logdet, []), (tw.cho_inverse, [])):
        call(np.eye(4), *rest, tile_size=2, progress=True)
        assert " tasks" in capfd.readouterr().err


class TestBadInput:
    def test_shapes(self):
        for b in (np.ones(3), np.ones((3, 2)), np.ones((4, 2, 2)), 1.0):
            with pytest.raises(ValueError, match=r"^b (has 3 rows, but the matrix has 4|must be 1-D or 2-D)"):
                tw.cho_solve(np.eye(4), b)
        with pytest.raises(ValueError, match="square"):
            tw.cho_solve(np.ones((4, 3)), np.ones(4))

    def test_nan_is_found_where_it_is(self):
        b = np.ones((9, 2))
        b[7, 1] = np.nan
        with pytest.raises(ValueError, match=r"^b has a NaN or infinity at \(7, 1\)"):
            tw.cho_solve(np.eye(9), b, tile_size=2)
        assert np.isnan(tw.cho_solve(np.eye(9), b, tile_size=2, check_finite=False)[7, 1])

    @pytest.mark.parametrize("lower", [True, False])
    def test_a_nan_in_the_factor_is_found_where_it_is_before_the_inverse(self, lower):
        factor = np.eye(9)
        factor[(7, 2) if lower else (2, 7)] = np.nan
        with pytest.raises(ValueError, match=rf"^L has a NaN or infinity at \({'7, 2' if lower else '2, 7'}\)"):
            tw.cho_inverse(factor, lower=lower, tile_size=2)
        assert np.isnan(tw.cho_inverse(factor, lower=lower, tile_size=2, check_finite=False)).any()
        assert np.array_equal(tw.cho_inverse(factor, lower=not lower, tile_size=2), np.eye(9))

    def test_zero_on_the_diagonal(self):
        with pytest.raises(np.linalg.LinAlgError, match=r"singular: its diagonal is zero at \(5, 5\)"):
            tw.cho_solve(np.diag([1.0, 2, 3, 4, 5, 0, 7]), np.ones(7), tile_size=2)
        with pytest.raises(np.linalg.LinAlgError, match="singular"):
            tw.cho_inverse(np.zeros((2, 2)))

    def test_dtypes(self):
        with pytest.raises(TypeError, match="float16"):
            tw.cho_solve(np.eye(2), np.ones(2, np.float16))
        with pytest.raises(TypeError, match="object"):
            tw.cho_solve(np.eye(2), np.array([None, None]))
