"""solve: FP64 answers from factors in any precision, or an exception."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import DTYPES, indefinite_matrix, lapack_info, random_matrix, spd_matrix
from optional import torch
from strategies import orders, tile_sizes

import tilewright as tw
from tilewright import rates
from tilewright.backends import COMPUTING
from tilewright.linalg import ladder, problem, refinement
from tilewright.linalg.gallery import SPECTRA, conditioned_spd
from tilewright.linalg.solve_info import Attempt
from tilewright.linalg.stopping import Stop, steps_left

pytestmark = pytest.mark.long

U = 2.0**-53


def backward_error(a, x, b):
    """max_j ||b_j - A x_j|| / (||A|| ||x_j|| + ||b_j||) in infinity norms, by NumPy on the full matrix."""
    x, b = x.reshape(len(a), -1), b.reshape(len(a), -1)
    below = np.abs(a).sum(axis=1).max() * np.abs(x).max(axis=0) + np.abs(b).max(axis=0)
    return float((np.abs(b - a @ x).max(axis=0) / below).max())


def check(a, b, **options):
    """Solve, hold the promise against NumPy's residual, and return the info."""
    x, info = tw.solve(a, b, return_info=True, **options)
    assert backward_error(a, x, b) <= 1.1 * len(a) * U
    assert info.backward_error <= len(a) * U
    assert info.hpl_mxp_residual == info.backward_error / (len(a) * U)
    assert info.path[-1].status == "converged"
    return info


def rungs(info):
    return [attempt.precision for attempt in info.path]


class TestAccuracy:
    @pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32", "bf16x3", "fp32", "fp64", "auto"])
    @pytest.mark.parametrize("kind", SPECTRA)
    @pytest.mark.parametrize("condition", [1e1, 1e4, 1e8, 1e14])
    def test_backward_error_is_below_n_u_from_every_precision(self, precision, kind, condition):
        a = conditioned_spd(200, condition, kind)
        check(a, random_matrix(200, 2), precision=precision, tile_size=48)

    @pytest.mark.parametrize("refine", ["cg", "gmres", "classical"])
    @pytest.mark.parametrize("condition", [1e1, 1e4])
    def test_every_method_converges_on_the_first_rung_where_the_factor_is_good(self, refine, condition):
        a = conditioned_spd(200, condition, "arithmetic")
        info = check(a, random_matrix(200, 3), precision="bf16x3", refine=refine, tile_size=48)
        assert rungs(info) == ["bf16x3"]
        assert info.path[0].method == refine
        assert 1 <= info.iterations == info.code <= 10
        assert info.criterion <= 1

    @settings(max_examples=60)
    @given(orders, tile_sizes, st.integers(1, 5), st.sampled_from(["bf16", "bf16x3", "fp32", "fp64"]))
    def test_any_order_and_tile_size(self, n, nb, m, precision):
        if n:
            check(spd_matrix(n), random_matrix(n, m), precision=precision, tile_size=nb)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("lower", [True, False])
    def test_only_the_named_triangle_is_read_in_any_dtype(self, dtype, lower):
        a = spd_matrix(50, dtype)
        b = random_matrix(50, 2, dtype)
        half = np.where(np.tri(50, dtype=bool) if lower else np.tri(50, dtype=bool).T, a, np.nan)
        x = tw.solve(half, b, lower=lower, precision="bf16", tile_size=16)
        assert x.dtype == (np.complex128 if dtype.startswith("complex") else np.float64)
        assert backward_error(a.astype(x.dtype), x, b.astype(x.dtype)) <= 50 * U

    def test_real_matrix_with_complex_right_hand_sides(self):
        a, b = spd_matrix(40), random_matrix(40, 3, "complex128")
        x, info = tw.solve(a, b, precision="bf16", tile_size=16, return_info=True)
        assert backward_error(a, x, b) <= 40 * U
        assert (rungs(info), info.right_hand_sides) == (["bf16"], 3)

    @pytest.mark.parametrize("order", ["C", "F"])
    def test_orders_strides_lists_integers_tensors_and_tiles(self, order):
        a = np.array(spd_matrix(30), order=order)
        b = random_matrix(30, 1)[:, 0]
        wanted = tw.solve(a, b, precision="bf16", tile_size=8)
        assert wanted.shape == (30,)
        double = np.repeat(np.repeat(a, 2, 0), 2, 1)
        for given_ in (double[::2, ::2], a.tolist(), tw.TiledMatrix.from_numpy(np.ascontiguousarray(a), 8)):
            assert np.allclose(tw.solve(given_, b, precision="bf16", tile_size=8), wanted, rtol=1e-13)
        x = tw.solve(torch.from_numpy(np.ascontiguousarray(a)), b, tile_size=8)
        assert isinstance(x, torch.Tensor)
        assert isinstance(tw.solve(a, torch.from_numpy(b), tile_size=8), torch.Tensor)
        assert np.allclose(tw.solve(np.diag([1, 2, 4]), [1, 2, 4]), 1, rtol=1e-15)

    def test_right_hand_sides_of_very_different_size(self):
        a = conditioned_spd(60, 100.0)
        b = random_matrix(60, 5) * 10.0 ** np.array([-300, -10, 0, 10, 300])
        b[:, 2] = 0
        x = tw.solve(a, b, precision="bf16", tile_size=16)
        assert not x[:, 2].any()
        for j in (0, 1, 3, 4):
            assert backward_error(a, x[:, j], b[:, j]) <= 60 * U

    def test_zero_right_hand_side_gives_zero_without_an_iteration(self):
        x, info = tw.solve(spd_matrix(20), np.zeros(20), precision="bf16", return_info=True)
        assert not x.any()
        assert (info.iterations, info.backward_error) == (0, 0.0)

    @pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
    def test_scale_of_the_matrix_does_not_matter(self, scale):
        a = conditioned_spd(40, 100.0)
        b = random_matrix(40, 1) * scale
        x = tw.solve(a * scale, b, precision="bf16", tile_size=16)
        assert np.allclose(a @ x, b / scale, rtol=1e-10, atol=1e-10)

    def test_denormal_matrix_is_solved_as_it_is(self):
        a = conditioned_spd(30, 10.0) * 2.0**-1040
        b = a @ np.ones(30)
        x = tw.solve(a, b, precision="bf16", tile_size=8)
        big = np.ldexp(a, 1040)
        assert backward_error(big, x, np.ldexp(b, 1040)) <= 30 * U

    def test_solution_that_overflows_is_an_error(self):
        with pytest.raises(tw.AccuracyError, match="overflows"):
            tw.solve(np.eye(3) * 1e-200, np.full(3, 1e200))

    def test_badly_scaled_diagonal_costs_nothing(self):
        d = 10.0 ** np.linspace(-8, 8, 60)
        a = conditioned_spd(60, 10.0) * d * d[:, None]
        info = check(a, random_matrix(60, 1), precision="bf16", tile_size=16)
        assert rungs(info) == ["bf16"]


class TestGallery:
    """Matrices of papers and applications."""

    def test_trefethen(self):
        n = 300
        primes = [p for p in range(2, 2000) if all(p % q for q in range(2, int(p**0.5) + 1))][:n]
        apart = np.abs(np.arange(n)[:, None] - np.arange(n))
        a = np.diag(np.array(primes, float)) + np.isin(apart, 2 ** np.arange(10))
        info = check(a, np.ones(n), precision="bf16", tile_size=64)
        assert rungs(info) == ["bf16"]

    @pytest.mark.parametrize("rho", [0.5, 0.9, 0.999])
    def test_kms(self, rho):
        i = np.arange(200)
        check(rho ** np.abs(i[:, None] - i), np.ones(200), precision="bf16", tile_size=48)

    @pytest.mark.parametrize("length", [0.03, 0.3])
    def test_matern_covariance(self, length):
        points = np.random.default_rng(0).random((200, 2))
        r = np.sqrt(3) * np.sqrt(((points[:, None] - points) ** 2).sum(axis=-1)) / length
        check((1 + r) * np.exp(-r) + 1e-10 * np.eye(200), points[:, 0], precision="bf16", tile_size=48)

    def test_poisson(self):
        t = 2 * np.eye(15) - np.eye(15, k=1) - np.eye(15, k=-1)
        a = np.kron(t, np.eye(15)) + np.kron(np.eye(15), t)
        info = check(a, np.ones(225), precision="bf16", tile_size=48)
        assert rungs(info) == ["bf16"]


class TestLadder:
    def test_breakdown_is_minus_3_and_the_next_rung_goes_on(self):
        a = conditioned_spd(200, 1e14)
        info = check(a, np.ones(200), precision="fp32", tile_size=48)
        first = info.path[0]
        assert (first.status, first.code, info.code) == ("breakdown", -3, -3)
        assert 1 <= first.order <= 200
        assert f"fp32 breaks down at the leading minor of order {first.order} (-3)" in str(info)

    def test_slow_convergence_is_minus_31(self):
        a = conditioned_spd(300, 1e8)
        info = check(a, np.ones(300), precision="bf16x3", tile_size=48)
        assert (info.path[0].status, info.code) == ("slow", -31)
        assert len(info.path) > 1

    def test_overflow_is_minus_2_and_never_decides(self):
        a = np.eye(60)
        a[50, 3] = a[3, 50] = 1e300  # not positive definite, and too large for FP32 after scaling
        with pytest.raises(tw.NotPositiveDefiniteError) as caught:
            tw.solve(a, np.ones(60), precision="bf16", tile_size=16)
        assert caught.value.info.path[0].status in ("overflow", "breakdown")
        assert caught.value.order == 51
        assert Attempt("fp16", "overflow").code == -2

    def test_overflow_on_narrowing_goes_on_with_the_next_rung(self, monkeypatch):
        real = problem.mixed_factor

        def narrow(a, precision, **options):
            if precision == "fp16":
                raise OverflowError("a tile does not fit FP16")
            return real(a, precision, **options)

        monkeypatch.setattr(problem, "mixed_factor", narrow)
        info = check(spd_matrix(40), np.ones(40), precision="fp16", tile_size=16)
        assert [attempt.code for attempt in info.path] == [-2, info.iterations]

    def test_precision_that_is_slow_here_is_minus_1(self, monkeypatch):
        real = problem.mixed_factor

        def refuse(a, precision, **options):
            if precision == "bf16":
                raise ValueError("BF16 is emulated on this machine")
            return real(a, precision, **options)

        monkeypatch.setattr(problem, "mixed_factor", refuse)
        a = spd_matrix(40)
        info = check(a, np.ones(40), precision="bf16", tile_size=16)
        assert (info.code, rungs(info)) == (-1, ["bf16", "bf16x3"])
        with pytest.raises(ValueError, match="emulated"):
            tw.solve(a, np.ones(40), precision="bf16", fallback=False)

    def test_gmres_takes_over_close_to_the_goal(self, monkeypatch):
        monkeypatch.setattr(refinement, "nested", lambda system, cap: Stop("nested", "stalled", 0))
        a, b, options = (
            conditioned_spd(400, 1e4),
            np.ones(400),
            {"precision": "bf16", "tile_size": 48, "fallback": False},
        )
        monkeypatch.setattr(refinement, "ITERATIONS", 100)
        enough = check(a, b, refine="cg", **options).iterations
        monkeypatch.setattr(refinement, "ITERATIONS", enough - 3)
        info = check(a, b, **options)
        assert (rungs(info), info.path[0].method) == (["bf16"], "cg+nested+gmres")

    def test_without_fallback_there_is_an_exception_with_the_story(self):
        a = conditioned_spd(200, 1e12)
        with pytest.raises(tw.AccuracyError, match=r"bf16 .*fallback=True would go on") as caught:
            tw.solve(a, np.ones(200), precision="bf16", tile_size=48, fallback=False)
        assert caught.value.info.code in (-3, -31)
        again = pickle.loads(pickle.dumps(caught.value))
        assert str(again) == str(caught.value)

    def test_classical_refinement_that_grows_is_given_up(self):
        a = conditioned_spd(300, 1e6)
        info = check(a, np.ones(300), precision="bf16", refine="classical", tile_size=48)
        assert info.path[0].status in ("breakdown", "diverged", "stalled", "slow")
        assert info.path[0].iterations < 30

    def test_a_rung_is_left_once_the_next_costs_fewer_steps_than_this_one_has_left(self, monkeypatch):
        a = conditioned_spd(800, 1e4)  # 43 steps from bf16
        early = check(a, np.ones(800), precision="bf16", tile_size=96)
        assert [(attempt.precision, attempt.status) for attempt in early.path] == [
            ("bf16", "slow"),
            ("bf16x3", "converged"),
        ]
        assert early.path[0].method == "cg" and 8 <= early.path[0].iterations < 20 and early.iterations < 30
        monkeypatch.setattr(ladder, "price", lambda *of: 800)
        late = check(a, np.ones(800), precision="bf16", tile_size=96)
        assert rungs(late) == ["bf16"] and late.iterations > early.iterations

    def test_rounding_errors_of_the_residual_itself_are_no_reason_for_another_factor(self):
        a = conditioned_spd(400, 1e2, "small")  # its true residual ends at 0.7 to 1.5 times the criterion
        info = check(a, np.ones(400), precision="bf16x3", tile_size=50)
        assert rungs(info) == ["bf16x3"] and info.iterations <= 6 and info.criterion <= 2

    def test_one_jump_of_the_residual_is_no_reason_to_leave(self):
        smooth = [10.0**-k for k in range(8)]
        assert steps_left(smooth, 1e3) == pytest.approx(3)
        assert steps_left([*smooth, 1e-3], 1e3) == pytest.approx(8)
        assert steps_left([1.0, 2.0, 4.0], 1e3) == np.inf

    def test_price_of_a_rung_is_its_factor_and_four_steps(self):
        how = 8000, 2, rates.by_rule(frozenset({"avx512f"}))
        steps = ladder.factor_seconds("fp64", *how) / ladder.step_seconds("fp32", *how)
        assert ladder.price("fp64", "fp32", *how) == steps + 4
        assert ladder.price("fp64", "bf16", *how) > steps + 4 > ladder.price("fp32", "fp32", *how)

    def test_what_was_found_on_one_rung_is_kept_for_the_next(self):
        a = conditioned_spd(300, 1e5)
        cold = check(a, np.ones(300), precision="bf16x3", tile_size=48)
        warm = check(a, np.ones(300), precision="bf16", tile_size=48)
        if rungs(warm) == ["bf16", "bf16x3"]:
            assert warm.path[1].iterations <= cold.iterations

    def test_precision_map_is_taken(self):
        a = conditioned_spd(96, 100.0)
        precision = tw.PrecisionMap.band(4, {0: "fp32", 2: "bf16"})
        info = check(a, np.ones(96), precision=precision)
        assert info.path[0].precision == "map"
        assert info.precision_map.nt == 4


class TestAuto:
    @pytest.fixture(autouse=True)
    def small_matrices_climb_too(self, monkeypatch):
        monkeypatch.setattr(ladder, "SMALL", 1)

    @pytest.mark.parametrize(
        ("condition", "kind", "wanted"),
        [
            (1e1, "geometric", "bf16"),
            (1e4, "geometric", "fp32"),
            (1e12, "geometric", "fp64"),
            (1e14, "arithmetic", "bf16"),
            (1e10, "clustered", "fp64"),
            (1e2, "small", "bf16"),
        ],
    )
    def test_the_rung_to_start_on_follows_the_spectrum(self, condition, kind, wanted):
        a = conditioned_spd(1200, condition, kind)
        assert ladder.estimate(a).rung == wanted

    def test_bf16x3_is_left_out_on_a_cpu_and_taken_where_it_is_available(self):
        a = conditioned_spd(1200, 1e4)
        assert ladder.estimate(a, ladder.RUNGS).rung == "bf16x3"
        assert "bf16x3" not in rungs(check(conditioned_spd(400, 1e5, "clustered"), np.ones(400)))

    def test_estimate_reads_the_lower_triangle_and_gives_up_on_an_indefinite_sample(self):
        a = conditioned_spd(400, 100.0)
        assert ladder.estimate(np.tril(a)) == ladder.estimate(a)
        a[0, 0] = -1
        assert ladder.estimate(a).rung == "fp64"

    def test_sample_has_an_eighth_of_the_rows_from_all_parts(self):
        rows = ladder.sample(8000)
        assert len(rows) == 1000 and rows[0] == 0 and rows[-1] == 7999
        assert np.array_equal(ladder.sample(3), [0, 1, 2])

    def test_info_says_what_auto_went_by(self):
        info = check(conditioned_spd(400, 10.0), np.ones(400))
        assert info.estimate.rung == info.precision == "fp64"  # of the least predicted time at this size, on any CPU
        assert "estimate  last pivot" in str(info)


@pytest.mark.parametrize("backend", ["serial", "threads"])
@pytest.mark.parametrize("precision", ["bf16", "bf16x3", "fp32", "fp64"])
def test_info_shows_the_factor_tile_by_tile_only_through_its_run(precision, backend):
    a = spd_matrix(90)
    info = check(a, random_matrix(90, 1), precision=precision, backend=backend, tile_size=40)
    shown = {name: value for name, value in vars(info).items() if isinstance(value, dict)}
    assert list(shown) == ["times"]
    tile = info.factor_run[tw.Handle("A", (1, 0))]
    assert isinstance(tile, np.ndarray) and tile.shape == (40, 40)
    json.dumps(info.as_dict())


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
@pytest.mark.parametrize("assume_a", ["pos", "gen"])
def test_progress_is_of_the_tasks_of_factorisations(precision, assume_a, capfd):
    told = []
    a = spd_matrix(40)
    _, info = tw.solve(
        a, np.ones(40), assume_a=assume_a, precision=precision, tile_size=8, return_info=True, progress=told.append
    )
    assert told == sorted(told) and told[-1] == len(info.factor_run.graph) and not capfd.readouterr().err
    tw.solve(a, np.ones(40), assume_a=assume_a, precision=precision, tile_size=8, progress=True)
    assert " tasks" in capfd.readouterr().err


def test_small_systems_are_solved_in_fp64_by_auto():
    assert rungs(check(spd_matrix(100), np.ones(100))) == ["fp64"]


class TestNested:
    """Conjugate gradients in FP32 inside refinement in FP64."""

    @pytest.mark.parametrize("precision", ["bf16", "fp16", "bf16x3", "fp32"])
    @pytest.mark.parametrize("kind", SPECTRA)
    def test_leads_to_full_accuracy_from_any_fp32_factor(self, precision, kind):
        info = check(
            conditioned_spd(200, 1e2, kind), random_matrix(200, 3), precision=precision, refine="nested", tile_size=48
        )
        assert [(attempt.precision, attempt.method) for attempt in info.path] == [(precision, "nested")]
        assert info.iterations == len(info.residuals) <= 12
        assert info.criterion <= 1

    def test_takes_over_from_conjugate_gradients_that_need_more_steps_than_there_may_be(self):
        a = conditioned_spd(800, 1e4)
        info = check(a, np.ones(800), precision="bf16", tile_size=96, fallback=False)
        assert (rungs(info), info.path[0].method) == (["bf16"], "cg+nested")
        assert 30 < info.code == info.iterations <= 90

    def test_what_fp32_cannot_reach_is_left_to_the_next_rung(self):
        a = conditioned_spd(200, 1e8)
        info = check(a, np.ones(200), precision="bf16x3", refine="nested", tile_size=48)
        assert info.path[0].status in ("slow", "stalled") and info.code == -31
        assert len(info.path) > 1

    def test_an_fp64_factor_is_refined_by_conjugate_gradients(self):
        a = conditioned_spd(96, 100.0)
        precision = tw.PrecisionMap.band(4, {0: "fp64", 2: "bf16"})
        info = check(a, np.ones(96), precision=precision, refine="nested")
        assert info.path[0].method == "cg"

    def test_scales_far_from_one_and_right_hand_sides_of_zero(self):
        d = 10.0 ** np.linspace(-40, 40, 60)
        a = conditioned_spd(60, 10.0) * d * d[:, None]
        b = random_matrix(60, 2) * d[:, None]
        b[:, 1] = 0
        x = tw.solve(a, b, precision="bf16", refine="nested", tile_size=16)
        assert not x[:, 1].any()
        assert backward_error(a, x[:, :1], b[:, :1]) <= 60 * U


class TestNotPositiveDefinite:
    @pytest.mark.parametrize("precision", ["auto", "bf16", "bf16x3", "fp32", "fp64"])
    @pytest.mark.parametrize("order", [1, 24, 25, 47])
    def test_order_is_that_of_lapack_from_every_rung(self, precision, order):
        a = indefinite_matrix(47, order)
        with pytest.raises(tw.NotPositiveDefiniteError) as caught:
            tw.solve(a, np.ones(47), precision=precision, tile_size=12)
        with pytest.raises(tw.NotPositiveDefiniteError) as wanted:
            tw.tiled_cholesky(a, tile_size=12)
        assert caught.value.order == lapack_info(a) == order
        assert (caught.value.task, caught.value.tile) == (wanted.value.task, wanted.value.tile)

    def test_singular_matrix(self):
        a = np.diag([1.0, 2, 3, 0, 5])
        with pytest.raises(tw.NotPositiveDefiniteError) as caught:
            tw.solve(a, np.ones(5), precision="bf16")
        assert caught.value.order == 4
        with pytest.raises(tw.NotPositiveDefiniteError):
            tw.solve(np.zeros((4, 4)), np.ones(4))

    def test_indefinite_matrix_whose_low_precision_factor_runs_to_completion(self):
        a = conditioned_spd(100, 1e3)
        values, vectors = np.linalg.eigh(a)
        values[0] = -1e-7
        a = (vectors * values) @ vectors.T
        a = (a + a.T) / 2
        with pytest.raises(tw.NotPositiveDefiniteError) as caught:
            tw.solve(a, np.ones(100), precision="bf16", tile_size=16)
        assert caught.value.order == lapack_info(a)


class TestReproducible:
    # Dask leaves the sockets of attempts to connect that it repeats to the collector.
    @pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.parametrize("refine", ["cg", "gmres", "classical", "nested"])
    @pytest.mark.parametrize("backend", COMPUTING)
    def test_every_engine_gives_the_bits_of_the_serial_run(self, backend, refine):
        a, b = conditioned_spd(90, 50.0), random_matrix(90, 2)
        options = {"precision": "bf16", "refine": refine, "tile_size": 20, "return_info": True}
        wanted, first = tw.solve(a, b, backend="serial", **options)
        x, info = tw.solve(a, b, backend=backend, workers=2, **options)
        assert np.array_equal(x, wanted)
        assert (info.path, info.residuals) == (first.path, first.residuals)
        assert (info.bytes > 0) == (info.messages > 0) == (backend not in ("serial", "threads"))

    @pytest.mark.parametrize("scheduler", ["eager", "lifo", "random", "lws", "heft"])
    @pytest.mark.parametrize("workers", [1, 3])
    def test_policies_and_workers_do_not_change_a_bit(self, scheduler, workers):
        a, b = conditioned_spd(90, 1e6), random_matrix(90, 2)
        wanted = tw.solve(a, b, precision="bf16", tile_size=20, backend="serial")
        got = tw.solve(a, b, precision="bf16", tile_size=20, scheduler=scheduler, workers=workers)
        assert np.array_equal(got, wanted)


class TestBadInput:
    def test_nan_and_infinity(self):
        a, b = spd_matrix(30), np.ones(30)
        a[20, 7] = np.nan
        with pytest.raises(ValueError, match=r"the matrix a has a NaN or infinity at \(20, 7\)"):
            tw.solve(a, b, tile_size=8)
        with pytest.raises(ValueError, match=r"at \(7, 20\)"):
            tw.solve(a.T, b, tile_size=8, lower=False)
        b[4] = np.inf
        with pytest.raises(ValueError, match=r"b has a NaN or infinity at \(4, 0\)"):
            tw.solve(spd_matrix(30), b)

    def test_nan_that_nobody_looks_for_never_becomes_a_solution(self):
        a = spd_matrix(30)
        a[20, 7] = np.nan
        with pytest.raises((tw.AccuracyError, tw.NotPositiveDefiniteError, ValueError)):
            tw.solve(a, np.ones(30), tile_size=8, check_finite=False)
        with pytest.raises(tw.AccuracyError):
            tw.solve(spd_matrix(30), np.full(30, np.nan), check_finite=False)

    def test_asymmetric_input_is_found_on_request(self):
        a = spd_matrix(30)
        a[3, 17] += 1e-3
        tw.solve(a, np.ones(30))
        with pytest.raises(ValueError, match=r"not symmetric: entries \(17, 3\) and \(3, 17\) differ"):
            tw.solve(a, np.ones(30), check_symmetric=True, tile_size=8)
        tw.solve(spd_matrix(30, "complex128"), np.ones(30), check_symmetric=True, tile_size=8)

    def test_shapes(self):
        with pytest.raises(ValueError, match="square"):
            tw.solve(np.ones((3, 4)), np.ones(3))
        with pytest.raises(ValueError, match="b has 4 rows, but the matrix has 3"):
            tw.solve(np.eye(3), np.ones(4))
        with pytest.raises(ValueError, match="1-D or 2-D"):
            tw.solve(np.eye(3), np.ones((3, 1, 1)))

    def test_names(self):
        for options, known in (
            ({"precision": "fp8"}, "bf16x3"),
            ({"refine": "jacobi"}, "gmres"),
            ({"assume_a": "tri"}, "pos"),
            ({"backend": "cloud"}, "threads"),
            ({"scheduler": "best"}, "lws"),
        ):
            with pytest.raises(ValueError, match=known):
                tw.solve(np.eye(3), np.ones(3), **options)
        with pytest.raises(TypeError, match="float16"):
            tw.solve(np.eye(3, dtype=np.float16), np.ones(3))
        with pytest.raises(TypeError, match="unknown option"):
            tw.solve(np.eye(3), np.ones(3), colour="red")

    def test_nothing(self):
        assert tw.solve(np.zeros((0, 0)), np.zeros(0)).shape == (0,)
        assert tw.solve(np.zeros((0, 0)), np.zeros((0, 2))).shape == (0, 2)
        x, info = tw.solve(np.eye(3), np.zeros((3, 0)), return_info=True)
        assert x.shape == (3, 0) and info.path == () and info.backward_error == 0
        assert "nothing to do" in str(info)
        assert tw.solve([[4.0]], [2.0]).tolist() == [0.5]


def test_info_prints_path_accuracy_times_and_rates():
    info = check(conditioned_spd(200, 10.0), np.ones(200), precision="bf16", tile_size=48)
    text = str(info)
    for word in (
        "n = 200",
        "bf16 converged after",
        "backward error",
        "LAPACK's criterion",
        "HPL-MxP",
        "factor",
        "GFLOP/s",
    ):
        assert word in text
    assert set(info.times) == {"check", "factor", "refine", "total"}
    assert info.times["total"] >= info.times["factor"] + info.times["refine"]
    assert len(info.residuals) == info.iterations
    assert info.gflops == pytest.approx((200**3 / 3 + 2 * 200**2) / info.times["total"] / 1e9)
    assert info.residuals[-1] < 1e-14 < info.residuals[0]
