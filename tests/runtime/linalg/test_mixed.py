"""Factors in mixed precision: `mixed_factor` and `tiled_cholesky(precision=...)`."""

import numpy as np
import pytest
from matrices import indefinite_matrix, lapack_info, spd_matrix

import tilewright as tw
from tilewright.linalg.mixed import SHIFTS, default_shift, mixed_factor

PRECISIONS = ("fp64", "fp32", "tf32", "bf16x3", "bf16", "fp16")


def with_condition(n, condition, seed=0):
    """Geometric spectrum from 1 down to 1/condition, random eigenvectors."""
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    a = (q * np.geomspace(1, 1 / condition, n)) @ q.T
    return (a + a.T) / 2


def scaled_error(a, factor):
    """||L L^T - (D A D + shift I)||_F / ||D A D||_F."""
    h = factor.scale[:, None] * a * factor.scale
    lower = np.tril(factor.L).astype(np.float64)
    return np.linalg.norm(lower @ lower.T - h - factor.shift * np.eye(len(a))) / np.linalg.norm(h)


@pytest.mark.parametrize("precision", PRECISIONS)
class TestEveryPrecision:
    def test_error_is_a_few_roundoffs_of_the_format(self, precision):
        a = with_condition(330, 100)
        factor = mixed_factor(a, precision, tile_size=100, workers=2)
        u = max(tw.FORMATS[precision].u, 2.0**-53)
        assert scaled_error(a, factor) < 4 * u * (8 if precision in ("fp64", "fp32") else 1)
        assert factor.L.flags.c_contiguous
        assert factor.L.dtype == (np.float64 if precision == "fp64" else np.float32)

    @pytest.mark.parametrize(("backend", "scheduler", "workers"), [
        ("threads", "critical-path", 2), ("threads", "lws", 3), ("threads", "random", 4), ("mpi", "critical-path", 2),
    ])  # fmt: skip
    def test_bits_do_not_depend_on_engine_policy_and_workers(self, precision, backend, scheduler, workers):
        a = spd_matrix(150)
        wanted = mixed_factor(a, precision, tile_size=40, backend="serial")
        got = mixed_factor(a, precision, tile_size=40, backend=backend, scheduler=scheduler, workers=workers)
        assert np.array_equal(np.tril(got.L), np.tril(wanted.L))
        assert np.array_equal(got.scale, wanted.scale)

    def test_breakdown_names_the_global_order(self, precision):
        a = indefinite_matrix(90, order=58)
        with pytest.raises(tw.NotPositiveDefiniteError) as caught:
            mixed_factor(a, precision, tile_size=20, workers=2)
        assert caught.value.order == lapack_info(a) == 58
        assert str(caught.value.tile) == "A[2,2]"

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("place", [(70, 11), (45, 45), (0, 0), (59, 41)])
    def test_nan_and_infinity_are_reported(self, precision, value, place):
        a = spd_matrix(80)
        a[place] = value
        with pytest.raises(ValueError, match="NaN or an infinity"):
            mixed_factor(a, precision, tile_size=20, workers=2)


def test_only_the_lower_triangle_is_read():
    a = spd_matrix(70)
    spoilt = np.tril(a) + np.triu(np.full_like(a, np.nan), 1)
    wanted, got = (mixed_factor(m, "bf16", tile_size=30, workers=2).L for m in (a, spoilt))
    assert np.array_equal(np.tril(got), np.tril(wanted))


def test_scale_makes_the_diagonal_one_plus_shift():
    a = with_condition(64, 10) * np.geomspace(1e-150, 1e150, 64)[:, None] * np.geomspace(1e-150, 1e150, 64)
    factor = mixed_factor(a, "bf16", tile_size=16, shift=0.5)
    assert np.allclose(factor.scale**2 * np.diagonal(a), 1)
    assert np.allclose((np.tril(factor.L) ** 2).sum(axis=1), 1.5, rtol=0.02)


def test_zero_on_the_diagonal_is_not_hidden_by_the_shift():
    a = np.eye(40)
    a[30, 30] = 0
    with pytest.raises(tw.NotPositiveDefiniteError) as caught:
        mixed_factor(a, "bf16", tile_size=16)
    assert caught.value.order == 31


def test_shift_doubles_until_the_factorisation_succeeds():
    a = with_condition(256, 1e12)
    factor = mixed_factor(a, "bf16", tile_size=64, workers=2)
    first = default_shift(factor.precision_map)
    assert first == 2 * 2.0**-8
    assert factor.attempts == tuple(first * 2**k for k in range(len(factor.attempts)))
    assert factor.shift == factor.attempts[-1]
    with pytest.raises(tw.NotPositiveDefiniteError):
        mixed_factor(a, "bf16", tile_size=64, workers=2, shift=0.0)


def test_shifts_end_for_a_matrix_that_is_far_from_positive_definite():
    a = with_condition(60, 10)
    a[50, 40] = a[40, 50] = 2 * np.sqrt(a[50, 50] * a[40, 40])
    with pytest.raises(tw.NotPositiveDefiniteError) as caught:
        mixed_factor(a, "fp16", tile_size=20)
    assert caught.value.order == 51
    assert SHIFTS == 4


def test_overflow_in_fp16_names_the_place():
    a = np.eye(60)
    a[45, 3] = 1e6  # far from positive definite; the panel tile has it before a pivot sees it
    with pytest.raises(
        OverflowError, match=r"convert\(2,0\): A\[2,0\] .* FP16, whose largest is 65504, at row 45, column 3"
    ):
        mixed_factor(a, "fp16", tile_size=20, workers=2)


def test_overflow_of_fp32_names_the_place():
    a = np.eye(60)
    a[45, 3] = 1e60
    with pytest.raises(
        OverflowError, match=r"scaled\(2,0\): S\[2,0\] .* FP32, whose largest is 3.4e38, at row 45, column 3"
    ):
        mixed_factor(a, "bf16", tile_size=20, workers=2)


def test_conversions_are_made_once_and_shared():
    nt = 6
    factor = mixed_factor(spd_matrix(nt * 16), "bf16", tile_size=16, workers=2)
    found = factor.run.conversions
    assert found.count == nt * (nt - 1) // 2  # every tile below the diagonal, once
    assert found.reads == nt * (nt - 1) // 2 + 2 * (nt * (nt - 1) * (nt - 2) // 6)  # syrk reads one, gemm two
    assert found.bytes == found.count * 16 * 16 * 2
    assert found.saved == found.reads * 16 * 16 * 2
    assert "conversions" in str(factor.run)
    assert mixed_factor(spd_matrix(64), "fp32", tile_size=16).run.conversions is None
