"""Factors in mixed precision: `mixed_factor` and `tiled_cholesky(precision=...)`."""

import pickle

import numpy as np
import pytest
from matrices import indefinite_matrix, lapack_info, random_matrix, spd_matrix
from optional import torch

import tilewright as tw
from tilewright.kernels import products
from tilewright.linalg.factor import mixed_factor
from tilewright.linalg.mixed_factor import SHIFTS, default_shift

FORM = {"bfloat16": "bf16", "float16": "fp16", "bfloat16x2": "bf16x3"}
HERE = [(route.form, route.name) for form in products.FORMS for route in products.probe(form) if not route.reason]
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
        assert factor.L.strides[1] == factor.L.itemsize
        assert factor.L.dtype == (np.float64 if precision == "fp64" else np.float32)

    @pytest.mark.parametrize(
        ("backend", "scheduler", "workers"),
        [("threads", "critical-path", 2), ("threads", "lws", 3), ("threads", "random", 4), ("mpi", "critical-path", 2)],
    )
    def test_bits_do_not_depend_on_engine_policy_and_workers(self, precision, backend, scheduler, workers):
        a = spd_matrix(150)
        wanted = mixed_factor(a, precision, tile_size=40, backend="serial")
        got = mixed_factor(a, precision, tile_size=40, backend=backend, scheduler=scheduler, workers=workers)
        assert np.array_equal(np.tril(got.L), np.tril(wanted.L))
        assert np.array_equal(got.scale, wanted.scale)

    def test_factor_in_tiles_has_the_bits_of_one_in_an_array(self, precision):
        a = spd_matrix(90)
        wanted = mixed_factor(a, precision, tile_size=40)
        got = mixed_factor(a, precision, tile_size=40, in_tiles=True)
        assert isinstance(got.L, np.ndarray) and got.L is got.L
        assert (got.L.shape, got.L.dtype) == (wanted.L.shape, wanted.L.dtype)
        assert np.array_equal(np.tril(got.L), np.tril(wanted.L))
        assert wanted.tiles is None and (got.tiles is None) == (precision == "fp64")
        assert (got.narrow is not None) == got.narrow_pays <= (precision == "bf16")
        if got.tiles is None:
            return
        assert sorted(got.tiles) == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
        for (i, j), tile in got.tiles.items():
            assert tile.shape == wanted.L[40 * i : 40 * i + 40, 40 * j : 40 * j + 40].shape
            assert tile.strides[0] // 64 % 2 == 1
        for index, narrow in (got.narrow or {}).items():
            assert np.abs((narrow.astype(np.uint32) << 16).view(np.float32) - got.tiles[index]).max() <= 2.0**-9

    def test_factor_in_tiles_substitutes_and_travels_like_an_array(self, precision):
        a, b = spd_matrix(90), random_matrix(90, 2)
        factor = pickle.loads(pickle.dumps(mixed_factor(a, precision, tile_size=40, shift=0.0, in_tiles=True).L))
        wanted = mixed_factor(a, precision, tile_size=40, shift=0.0).L
        assert np.array_equal(tw.cho_solve(factor, b), tw.cho_solve(wanted, b))
        assert tw.logdet(factor) == tw.logdet(wanted)

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
        with pytest.raises(ValueError, match=rf"^the matrix a has a NaN or infinity at \({place[0]}, {place[1]}\)$"):
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


@pytest.mark.parametrize("precision", PRECISIONS)
def test_row_sums_come_with_the_pass_that_scales(precision):
    a = with_condition(150, 10) * np.geomspace(1e-3, 1e3, 150)[:, None] * np.geomspace(1e-3, 1e3, 150)
    sums = mixed_factor(np.tril(a), precision, tile_size=40, norms=True).row_sums
    assert sums is None if precision == "fp64" else np.allclose(sums, np.abs(a).sum(axis=1), rtol=1e-5)


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
    factor = mixed_factor(spd_matrix(nt * 16), "bf16", tile_size=16, workers=2, route="reference")
    found = factor.run.conversions
    assert found.count == nt * (nt - 1) // 2  # every tile below the diagonal, once
    assert found.reads == nt * (nt - 1) // 2 + 2 * (nt * (nt - 1) * (nt - 2) // 6)  # syrk reads one, gemm two
    assert found.bytes == found.count * 16 * 16 * 2
    assert found.saved == found.reads * 16 * 16 * 2
    assert "conversions" in str(factor.run)
    assert mixed_factor(spd_matrix(64), "fp32", tile_size=16).run.conversions is None


def rounded(x):
    """To BF16 and back."""
    return torch.from_numpy(x).bfloat16().double().numpy()


def error_with_narrow_target(h, nt):
    """The forbidden way: operands in BF16, and the C tile too, rounded at every update, as addmm under autocast does."""
    a, nb = h.copy(), len(h) // nt
    blocks = [slice(k * nb, (k + 1) * nb) for k in range(nt)]
    for k, here in enumerate(blocks):
        a[here, here] = np.linalg.cholesky(a[here, here])
        for below in blocks[k + 1 :]:
            a[below, here] = np.linalg.solve(a[here, here], a[below, here].T).T
        panel = {i: rounded(a[blocks[i], here]) for i in range(k + 1, nt)}
        for i in panel:
            for j in range(k + 1, i + 1):
                a[blocks[i], blocks[j]] = rounded(a[blocks[i], blocks[j]] - panel[i] @ panel[j].T)
    lower = np.tril(a)
    return np.linalg.norm(lower @ lower.T - h) / np.linalg.norm(h)


def test_error_does_not_grow_with_the_number_of_tiles_and_would_with_a_narrow_target():
    """Operands rounded to 16 bits cost 2 u in all; a C tile in 16 bits costs u at every update, up to nt u."""
    n = 256
    x = np.random.default_rng(3).standard_normal((n, 2 * n))
    a = x @ x.T
    d = np.diagonal(a) ** -0.5
    h = d[:, None] * a * d
    counts = (4, 8, 16, 32)
    ours = [scaled_error(h, mixed_factor(h, "bf16", tile_size=n // nt, workers=2, shift=0.0)) for nt in counts]
    theirs = [error_with_narrow_target(h, nt) for nt in counts]
    u = tw.FORMATS["bf16"].u
    assert max(ours) < 2 * u
    assert ours[-1] < 1.3 * ours[1]
    assert theirs[-1] > 1.7 * theirs[1]
    assert theirs[-1] > 2 * ours[-1]


def test_operands_that_are_widened_are_widened_once():
    nt = 6
    factor = mixed_factor(spd_matrix(nt * 16), "bf16", tile_size=16, workers=2, route="widen")
    found, below = factor.run.conversions, nt * (nt - 1) // 2
    assert found.count == 2 * below  # every tile below the diagonal, once in 16 bits and once widened
    assert found.reads == below + 2 * (nt * (nt - 1) * (nt - 2) // 6)
    assert found.bytes == below * 16 * 16 * (2 + 4)
    assert found.saved == 0  # of what products read; messages are in test_conversions
    assert "BF16, widen: widened to FP32, products and sums in FP32" in str(factor.run)


ROUTES = [(FORM[form], name) for form, name in HERE]


@pytest.mark.parametrize(("precision", "route"), ROUTES)
def test_every_route_gives_a_factor_of_the_quality_of_its_format(precision, route):
    a = with_condition(200, 30)
    factor = mixed_factor(a, precision, tile_size=50, workers=2, route=route, shift=0.0)
    assert scaled_error(a, factor) < 4 * tw.FORMATS[precision].u
    assert f", {route}: " in str(factor.run)


@pytest.mark.parametrize("precision", ["bf16x3", "bf16", "fp16"])
def test_factors_do_not_depend_on_the_instructions_of_the_cpu_where_sums_are_exact(precision, monkeypatch):
    """L of whole numbers, so that every product and every sum of the factorisation is one in FP32."""
    lower = np.tril(np.random.default_rng(0).integers(-2, 3, (60, 60)), -1) + 8.0 * np.eye(60)
    a = lower @ lower.T
    for features in ((), ("avx2",), ("avx512_bf16",), ("amx_bf16",)):
        monkeypatch.setattr("tilewright.kernels.cpu.features", lambda features=features: frozenset(features))
        got = tw.tiled_cholesky(a, precision=precision, tile_size=20, workers=2)
        assert np.linalg.norm(got - lower) < 2 * tw.FORMATS[precision].u * np.linalg.norm(lower)
        assert np.array_equal(got, tw.tiled_cholesky(a, precision=precision, tile_size=20, backend="serial"))
        assert np.array_equal(got, tw.tiled_cholesky(a, precision=precision, tile_size=20, emulate=True))


@pytest.mark.needs("torch")
def test_autocast_costs_accuracy_that_widening_does_not():
    """The product of two tiles is rounded to 16 bits at every update: a quarter more error."""
    a = spd_matrix(256)
    error = {
        route: scaled_error(a, mixed_factor(a, "bf16", tile_size=32, workers=2, route=route, shift=0.0))
        for route in ("reference", "widen", "autocast")
    }
    assert error["widen"] == pytest.approx(error["reference"], rel=0.01)
    assert 1.1 < error["autocast"] / error["widen"] < 6


@pytest.mark.parametrize("route", ["widen", "reference", "magic"])
def test_a_route_without_products_in_16_bits_is_refused(route):
    for options in ({"precision": "fp32"}, {"precision": "fp64"}, {}):
        with pytest.raises(ValueError, match="is for products with 16-bit operands"):
            tw.tiled_cholesky(np.eye(8), route=route, **options)
    if route == "magic":
        with pytest.raises(ValueError, match="unknown route 'magic'"):
            tw.tiled_cholesky(np.eye(8), route=route, precision="bf16")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "i4", "i8", ">f4", ">f8", "f4"])
def test_matrices_of_any_dtype_factor_in_every_precision(precision, dtype):
    lower = np.tril(np.random.default_rng(0).integers(0, 2, (24, 24)), -1) + 2.0 * np.eye(24)
    a = np.eye(24) if dtype == "?" else 0.0 + lower @ lower.T
    wanted = np.linalg.cholesky(a)
    got = tw.tiled_cholesky(a.astype(dtype), precision=precision, tile_size=10)
    assert np.linalg.norm(got - wanted) < 8 * max(tw.FORMATS[precision].u, 1e-15) * np.linalg.norm(wanted)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_matrices_in_any_memory_factor_in_every_precision(precision):
    a = spd_matrix(50)
    record = np.zeros((50, 50), np.dtype([("kind", "u1"), ("value", "<f8")], align=False))
    record["value"] = a
    backwards = a[::-1, ::-1].copy()[::-1, ::-1]
    wanted = tw.tiled_cholesky(a, precision=precision, tile_size=20)
    for view in (record["value"], backwards, np.repeat(a, 2, axis=0)[::2]):
        assert np.array_equal(tw.tiled_cholesky(view, precision=precision, tile_size=20), wanted)


def test_denormal_numbers_in_the_matrix_are_scaled_away():
    a = with_condition(60, 10)
    factor = mixed_factor(a * 2.0**-1000, "fp16", tile_size=20, shift=0.0)
    reference = mixed_factor(a, "fp16", tile_size=20, shift=0.0)
    assert np.array_equal(np.tril(factor.L), np.tril(reference.L))  # a power of four in A is a power of two in D
    assert np.array_equal(factor.scale * 2.0**-500, reference.scale)


@pytest.mark.parametrize("exponent", [-1060, -1000, -260])
def test_factor_too_small_for_fp32_is_an_error(exponent):
    with pytest.raises(OverflowError, match="unscaled.*pivot too small for FP32"):
        tw.tiled_cholesky(np.eye(8) * 2.0**exponent, precision="bf16", tile_size=4)
    assert (np.diagonal(tw.tiled_cholesky(np.eye(8) * 2.0**-240, precision="bf16", tile_size=4)) == 2.0**-120).all()


def test_factor_too_large_for_fp32_is_an_error():
    with pytest.raises(OverflowError, match="unscaled.*too large for FP32"):
        tw.tiled_cholesky(np.eye(8) * 1e100, precision="bf16", tile_size=4)
    a = np.eye(8)
    a[5, 5] = 1e100
    with pytest.raises(OverflowError, match=r"A\[1,1\] has a number too large for FP32.*at row 5, column 5"):
        tw.tiled_cholesky(a, precision="bf16", tile_size=4)


def test_large_and_small_rows_factor_in_fp16():
    a = with_condition(80, 10)
    d = np.geomspace(1e-12, 1e12, 80)
    factor = tw.tiled_cholesky(d[:, None] * a * d, precision="fp16", tile_size=20).astype(np.float64)
    lower = factor / d[:, None]
    assert np.linalg.norm(lower @ lower.T - a) < 4 * tw.FORMATS["fp16"].u * np.linalg.norm(a)


@pytest.mark.parametrize("lower", [True, False])
def test_result_is_of_the_kind_of_the_argument_with_zeros_in_the_other_triangle(lower):
    a = spd_matrix(50)
    array = tw.tiled_cholesky(a, precision="bf16", tile_size=20, lower=lower)
    assert not np.any(np.triu(array, 1) if lower else np.tril(array, -1))
    tensor = tw.tiled_cholesky(torch.from_numpy(a), precision="bf16", tile_size=20, lower=lower)
    assert tensor.dtype == torch.float32 and np.array_equal(tensor.numpy(), array)
    tiled = tw.tiled_cholesky(tw.TiledMatrix.from_numpy(a, 20), precision="bf16", lower=lower)
    assert isinstance(tiled, tw.TiledMatrix) and np.array_equal(tiled.to_numpy(), array)


def test_float32_input_of_any_order():
    a = spd_matrix(40, "float32")
    wanted = tw.tiled_cholesky(a, precision="bf16", tile_size=16)
    assert np.array_equal(tw.tiled_cholesky(np.asfortranarray(a), precision="bf16", tile_size=16), wanted)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_bad_shift(bad):
    with pytest.raises(ValueError, match="shift must be a number of at least 0"):
        mixed_factor(np.eye(4), "bf16", shift=bad)


def test_empty_matrix():
    assert mixed_factor(np.zeros((0, 0)), "bf16").L.shape == (0, 0)
    assert tw.tiled_cholesky(np.zeros((0, 0)), precision="fp16").shape == (0, 0)
