"""solve(assume_a="gen") in mixed precision: FP64 answers from LU factors in any precision, or an exception."""

import json
import pickle

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import DTYPES, foster, random_matrix, roundoff, wilkinson, wright
from optional import torch
from strategies import orders, tile_sizes

import tilewright as tw
from tilewright import rates
from tilewright.backends import COMPUTING
from tilewright.kernels import blas, table
from tilewright.linalg import ladder, lu_ladder
from tilewright.linalg.equilibrate import Scaling, equilibrate
from tilewright.linalg.gallery import conditioned_general, hpl_mxp
from tilewright.linalg.mixed_lu import mixed_lu, mixed_lu_graph
from tilewright.linalg.runner import Bindings, Runner

pytestmark = pytest.mark.long

U = 2.0**-53
LOW = ("bf16", "fp16", "tf32", "bf16x3", "fp32")


def backward_error(a, x, b):
    """max_j ||b_j - A x_j|| / (||A|| ||x_j|| + ||b_j||) in infinity norms, by NumPy."""
    x, b = x.reshape(len(a), -1), b.reshape(len(a), -1)
    below = np.abs(a).sum(axis=1).max() * np.abs(x).max(axis=0) + np.abs(b).max(axis=0)
    return float((np.abs(b - a @ x).max(axis=0) / below).max())


def check(a, b, **options):
    """Solve, hold the promise against NumPy's residual, and return the info."""
    x, info = tw.solve(a, b, assume_a="gen", return_info=True, **options)
    assert x.shape == b.shape and x.dtype == np.result_type(b.dtype, np.float64)
    assert backward_error(a, x, b) <= 1.1 * len(a) * U
    assert info.backward_error <= len(a) * U
    assert info.structure == "gen" and info.path[-1].status == "converged"
    return info


def rungs(info):
    return [attempt.precision for attempt in info.path]


class TestAccuracy:
    @pytest.mark.parametrize("precision", [*LOW, "fp64", "auto"])
    @pytest.mark.parametrize(
        ("condition", "kind"),
        [
            (1e1, "arithmetic"),
            *((10.0**k, kind) for k in (4, 8, 12) for kind in ("geometric", "small")),
            (1e6, "clustered"),
        ],
    )
    def test_backward_error_is_below_n_u_from_every_precision(self, precision, kind, condition):
        check(conditioned_general(120, condition, kind), random_matrix(120, 2), precision=precision, tile_size=48)

    @pytest.mark.parametrize("refine", ["gmres", "classical", "auto"])
    @pytest.mark.parametrize("precision", LOW)
    def test_where_the_factor_is_good_the_first_rung_leads_there(self, refine, precision):
        info = check(
            conditioned_general(200, 10.0), random_matrix(200, 3), precision=precision, refine=refine, tile_size=48
        )
        assert rungs(info) == [precision] and info.code == info.iterations <= 15
        assert info.criterion <= 1 and info.hpl_mxp_residual <= 1
        assert refine in ("auto", info.path[0].method)

    @settings(max_examples=15)
    @given(orders, tile_sizes, st.integers(1, 5), st.sampled_from(LOW))
    def test_any_order_and_tile_size(self, n, nb, m, precision):
        if n:
            check(random_matrix(n, n) + 3 * np.eye(n), random_matrix(n, m), precision=precision, tile_size=nb)

    @pytest.mark.parametrize("order", ["C", "F"])
    def test_orders_strides_lists_integers_tensors_and_tiles(self, order):
        a, b = random_matrix(30, 30), random_matrix(30, 1)[:, 0]
        options = {"assume_a": "gen", "precision": "bf16", "tile_size": 8}
        wanted = tw.solve(a, b, **options)
        double = np.repeat(np.repeat(a, 2, 0), 2, 1)
        for given_ in (np.array(a, order=order), double[::2, ::2], a.tolist(), tw.TiledMatrix.from_numpy(a, 8)):
            assert np.array_equal(tw.solve(given_, b, **options), wanted)
        assert isinstance(tw.solve(torch.from_numpy(a), b, **options), torch.Tensor)
        assert isinstance(tw.solve(a, torch.from_numpy(b), **options), torch.Tensor)
        found = tw.solve(np.array([[0, 2], [3, 0]]), np.array([4, 9]), assume_a="gen", precision="bf16")
        assert found.tolist() == [3, 2]

    def test_real_matrix_with_complex_right_hand_sides(self):
        a, b = random_matrix(40, 40), random_matrix(40, 3, "complex128")
        info = check(a, b, precision="fp32", tile_size=16)
        assert (rungs(info), info.right_hand_sides) == (["fp32"], 3)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_low_precisions_answer_in_fp64_and_complex_matrices_take_it(self, dtype):
        a, b = random_matrix(40, 40, dtype), random_matrix(40, 2, dtype)
        x, info = tw.solve(a, b, assume_a="gen", precision="fp32", tile_size=16, return_info=True)
        kind = np.complex128 if dtype.startswith("complex") else np.float64
        assert x.dtype == kind and rungs(info) == ["fp64" if kind == np.complex128 else "fp32"]
        assert backward_error(a.astype(kind), x, b.astype(kind)) <= 40 * U

    def test_a_single_precision_matrix_has_one_factor_in_its_own_dtype(self):
        a, b = random_matrix(40, 40, "float32"), random_matrix(40, 1, "float32")
        x, info = tw.solve(a, b, assume_a="gen", return_info=True)
        assert x.dtype == np.float32 and [str(attempt.method) for attempt in info.path] == ["lu"]

    def test_nothing(self):
        for b in (np.zeros(0), np.zeros((0, 3))):
            assert tw.solve(np.zeros((0, 0)), b, assume_a="gen", precision="bf16").shape == b.shape
        assert tw.solve(np.eye(3), np.zeros((3, 0)), assume_a="gen", precision="bf16").shape == (3, 0)


class TestNames:
    @pytest.mark.parametrize(
        ("short", "long"),
        [("pos", "positive definite"), ("gen", "general"), ("sym", "symmetric"), ("her", "hermitian")],
    )
    def test_scipys_long_names_are_those_structures(self, short, long):
        a = np.array([[4.0, 1, 0], [1, 3, 1], [0, 1, 2]])
        (x, info), (y, other) = (tw.solve(a, [1, 2, 3], assume_a=name, return_info=True) for name in (short, long))
        assert np.array_equal(x, y) and str(info.path) == str(other.path) and info.structure == other.structure
        assert x == pytest.approx(scipy.linalg.solve(a, [1, 2, 3], assume_a=short))

    @pytest.mark.parametrize(
        ("name", "instead"),
        [
            ("upper triangular", r"lazy\(A\).solve\(b, assume_a='upper triangular'\)"),
            ("lower triangular", r"lazy\(A\).solve\(b, assume_a='lower triangular'\)"),
            ("banded", "solve_banded"),
            ("tridiagonal", "solve_banded"),
            ("diagonal", "divided by the diagonal"),
            ("General", "not 'General'$"),
        ],
    )
    def test_a_structure_that_is_scipys_alone_is_refused_with_what_to_call(self, name, instead):
        with pytest.raises(ValueError, match=f"assume_a must be .*{instead}"):
            tw.solve(np.eye(3), np.ones(3), assume_a=name)


class TestScaling:
    @pytest.mark.parametrize("assume_a", ["gen", "sym", None])
    @pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
    def test_the_promise_is_kept_at_every_scale_or_an_error_says_that_there_is_no_such_number(self, dtype, assume_a):
        a, b, wide = *(random_matrix(6, k, dtype) for k in (6, 2)), np.clongdouble
        a = a + a.T
        kind = np.finfo(dtype)
        u, sizes = kind.eps / 2, [1, kind.tiny * 8, kind.max / 8, kind.smallest_subnormal * 64, kind.max**0.45]
        for left in sizes:
            for right in sizes:
                A, B = ((value * value.real.dtype.type(size)).astype(dtype) for value, size in ((a, left), (b, right)))
                exact = np.linalg.solve(a.astype("c16"), b.astype("c16")).astype(wide) * wide(right) / wide(left)
                largest = np.abs(exact.view(np.longdouble)).max(axis=0)
                try:
                    x = tw.solve(A, B, assume_a=assume_a, precision="auto").astype(wide)
                except tw.AccuracyError as error:
                    if "overflows" in str(error):
                        assert largest.max() > kind.max / 100, (left, right)
                    else:
                        assert "underflows" in str(error) and largest.min() < 100 * kind.tiny, (left, right)
                    continue
                A, B = A.astype(wide), B.astype(wide)
                room = np.abs(A).sum(axis=1).max() * np.abs(x).max(axis=0) + np.abs(B).max(axis=0)
                assert (np.abs(B - A @ x).max(axis=0) <= 16 * u * room).all(), (left, right)

    @pytest.mark.parametrize("dtype", ["float32", "complex64", "float64"])
    def test_the_reciprocal_condition_does_not_depend_on_the_scale(self, dtype):
        a = random_matrix(9, 9, dtype)
        for norm in (1, np.inf):
            wanted = tw.lu_factor(a, tile_size=4).rcond(norm)
            for power in (-120, -60, 60, 120):
                scaled = a * a.real.dtype.type(2.0**power)
                assert tw.lu_factor(scaled, tile_size=4).rcond(norm) == pytest.approx(wanted, rel=1e-5)

    @pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
    @pytest.mark.parametrize(("rows", "columns"), [(8, 0), (0, 8), (8, 8), (150, 0), (0, 150)])
    def test_rows_and_columns_of_very_different_size_cost_no_rung(self, precision, rows, columns):
        rng = np.random.default_rng(0)
        left, right = (10.0 ** rng.permutation(np.linspace(-size, size, 60)) for size in (rows, columns))
        a = conditioned_general(60, 10.0) * left[:, None] * right
        info = check(a, random_matrix(60, 2) * left[:, None], precision=precision, tile_size=16)
        assert rungs(info) == [precision]

    def test_scales_are_powers_of_two_that_bring_rows_and_columns_to_one(self):
        a = random_matrix(50, 50) * 10.0 ** np.random.default_rng(1).integers(-30, 30, 50)[:, None]
        a[7], a[:, 11] = 0, 0
        scaling = equilibrate(tw.TiledMatrix.view(a, 16), Runner("serial"))
        for d in (scaling.rows, scaling.columns):
            assert np.array_equal(np.frexp(d)[0], np.full(50, 0.5))
        size = np.abs(a * scaling.rows[:, None] * scaling.columns)
        assert size.max() < 1 and scaling.rows[7] == 1 and scaling.columns[11] == 1
        assert np.delete(size.max(axis=0), 11).min() >= 0.5
        assert np.delete(np.abs(a * scaling.rows[:, None]).max(axis=1), 7).min() >= 0.5
        assert np.allclose(scaling.sums, np.abs(a).sum(axis=1)) and np.frexp(np.abs(a).max())[1] == scaling.exponent
        even = equilibrate(tw.TiledMatrix.view(random_matrix(50, 50) * 1e-5, 16), Runner("serial"))
        assert (even.rows == 1).all() and even.exponent < 0 < np.log2(even.columns.min())

    @pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
    def test_scale_of_the_matrix_does_not_matter(self, scale):
        a, b = conditioned_general(40, 100.0), random_matrix(40, 1)
        options = {"assume_a": "gen", "precision": "bf16", "tile_size": 16}
        x = tw.solve(a * scale, b * scale, **options)
        assert np.allclose(a @ x, b, rtol=1e-10, atol=1e-10)

    def test_right_hand_sides_of_very_different_size_and_of_zero(self):
        a = conditioned_general(60, 100.0)
        b = random_matrix(60, 5) * 10.0 ** np.array([-300, -10, 0, 10, 300])
        b[:, 2] = 0
        x = tw.solve(a, b, assume_a="gen", precision="fp32", tile_size=16)
        assert not x[:, 2].any()
        for j in (0, 1, 3, 4):
            assert backward_error(a, x[:, j], b[:, j]) <= 60 * U


class TestLadder:
    def test_gmres_takes_over_where_classical_refinement_is_slow_and_keeps_what_it_found(self):
        a = conditioned_general(300, 1e6, "small")  # one direction in which the factor is useless
        info = check(a, random_matrix(300, 3), precision="bf16", tile_size=64)
        assert rungs(info) == ["bf16"] and info.path[0].method == "classical+gmres"
        assert info.path[0].iterations <= 25

    def test_a_factor_that_leads_nowhere_is_left_for_the_next(self):
        info = check(conditioned_general(200, 1e10), np.ones(200), precision="bf16", tile_size=48)
        assert rungs(info) == ["bf16", "fp32", "fp64"] and [info.code, info.path[1].code] == [-31, -31]
        assert info.growth > 0 and info.rcond < 1e-9 and info.path[-1].method == "lu"
        json.dumps(info.as_dict())

    def test_without_fallback_there_is_an_exception_with_the_story(self):
        a = conditioned_general(200, 1e12)
        with pytest.raises(tw.AccuracyError, match=r"bf16 .*fallback=True would go on") as caught:
            tw.solve(a, np.ones(200), assume_a="gen", precision="bf16", tile_size=48, fallback=False)
        assert caught.value.info.code == -31 and caught.value.info.times["total"] > 0
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)

    def test_the_last_rung_is_fp64_with_partial_pivoting_and_warns_where_that_is_worth_little(self):
        a = np.vander(np.linspace(0, 1, 40))
        with pytest.warns(tw.AccuracyWarning, match="singular to working precision: growth .*, rcond"):
            info = tw.solve(a, np.ones(40), assume_a="gen", precision="bf16", tile_size=12, return_info=True)[1]
        assert rungs(info)[-1] == "fp64"

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("matrix", [wilkinson(60), foster(60), wilkinson(140)], ids=["wilkinson", "foster", "inf"])
    def test_qr_is_the_last_rung_where_growth_spoils_every_lu(self, matrix, dtype):
        a, b = matrix.astype(dtype), random_matrix(len(matrix), 2, dtype)
        x, info = tw.solve(a, b, assume_a="gen", tile_size=17, return_info=True)
        u, rung = roundoff(dtype), "fp64" if roundoff(dtype) < 1e-12 else "fp32"
        assert x.dtype == dtype and backward_error(a, x, b) <= 60 * u
        path = [(one.precision, one.status, one.method) for one in info.path]
        assert path == [(rung, "diverged", "lu"), (rung, "converged", "qr")] and info.path[0].reason.startswith(
            "growth"
        )
        q, r = np.linalg.qr(matrix)
        condition = np.linalg.norm(np.linalg.solve(r, q.T), 1) * np.linalg.norm(matrix, 1)
        assert info.rcond == pytest.approx(1 / condition, rel=0.5) and "qr iterations" in str(info)
        assert {task.op.name for task in info.factor_run.graph} & {"geqrt", "geqrf"}
        assert np.array_equal(tw.solve(a, b, assume_a="gen", tile_size=17), x)  # asked for or not

    def test_refinement_is_enough_where_growth_is_bearable(self):
        a, b = wright(50), random_matrix(100, 2)
        info = check(a, b, tile_size=17)
        assert rungs(info) == ["fp64"] and info.path[0].iterations >= 1 and info.growth > 1e5

    def test_every_rung_leads_to_qr_if_it_must(self):
        info = check(wilkinson(60), random_matrix(60, 2), precision="bf16", tile_size=17)
        assert rungs(info) == ["bf16", "fp32", "fp64", "fp64"] and info.path[-1].method == "qr"

    @pytest.mark.needs("torch")
    def test_tensors_come_back_from_every_rung(self):
        for a in (wilkinson(60), wright(50)):
            x = tw.solve(torch.from_numpy(a), np.ones(len(a)), assume_a="gen", tile_size=17)
            assert isinstance(x, torch.Tensor) and np.allclose(a @ x.numpy(), 1)

    def test_methods_of_positive_definite_systems_are_refused(self):
        for refine in ("cg", "nested"):
            with pytest.raises(
                ValueError,
                match=f"refine='{refine}' is not for a general matrix, which takes 'auto', 'gmres' or 'classical'",
            ):
                tw.solve(np.eye(3), np.ones(3), assume_a="gen", precision="bf16", refine=refine)
        with pytest.raises(ValueError, match="precision=.* is not for a general matrix, which takes 'auto', 'bf16'"):
            tw.solve(np.eye(3), np.ones(3), assume_a="gen", precision=tw.PrecisionMap.uniform(1, "bf16"))

    def test_what_turns_out_to_be_indefinite_is_solved_as_general_with_the_same_wish(self):
        a = random_matrix(60, 60)
        a = a + a.T + 4 * np.eye(60)
        x, info = tw.solve(a, np.ones(60), assume_a=None, precision="fp32", tile_size=16, return_info=True)
        assert (info.structure, rungs(info)) == ("gen", ["fp32"]) and backward_error(a, x, np.ones(60)) <= 60 * U

    def test_the_factor_below_is_what_the_worth_of_the_next_is_measured_in(self):
        how = 8000, 2, rates.by_rule(frozenset({"avx512f"}))
        steps = lu_ladder.factor_seconds("fp64", *how) / lu_ladder.step_seconds("fp32", *how)
        assert lu_ladder.price("fp64", "fp32", *how) == steps + 4 > lu_ladder.price("fp32", "fp32", *how)


class TestAuto:
    @pytest.fixture(autouse=True)
    def small_matrices_climb_too(self, monkeypatch):
        monkeypatch.setattr(ladder, "SMALL", 1)

    def test_info_says_what_auto_went_by(self):
        info = check(conditioned_general(400, 10.0), np.ones(400))
        assert info.estimate.rung == rungs(info)[0]
        assert "estimate  last pivot" in str(info)

    def test_many_right_hand_sides_are_not_refined_as_one_factor_in_fp64_costs_less(self):
        a = conditioned_general(400, 10.0)
        many = check(a, random_matrix(400, 12))
        assert rungs(many) == ["fp64"] and many.estimate is None
        assert check(a, random_matrix(400, 11)).estimate is not None
        assert rungs(check(a, random_matrix(400, 12), precision="fp32")) == ["fp32"]

    def test_small_systems_are_solved_in_fp64(self, monkeypatch):
        monkeypatch.undo()
        assert rungs(check(random_matrix(100, 100), np.ones(100))) == ["fp64"]

    def test_dependent_columns_take_fp64(self):
        a = random_matrix(200, 200)
        a[:, 1::2] = a[:, ::2]
        assert lu_ladder.estimate(a, equilibrate(tw.TiledMatrix.view(a, 64), Runner("serial"))).rung == "fp64"

    def test_estimates_start_no_threads_of_libraries(self, monkeypatch):
        """On cores that others use too, threads that wait for each other made 1.2 s of 0.6 ms."""
        pools = []
        lookup = table.lookup

        def watched(*names):
            row = lookup(*names)

            def function(*arguments):
                pools.extend(setting.get() for library in blas.loaded() for setting in library.threads)
                return row.function(*arguments)

            return row._replace(function=function)

        monkeypatch.setattr(table, "lookup", watched)
        a = conditioned_general(64, 10.0)
        lu_ladder.estimate(a, Scaling(np.ones(64), np.ones(64), np.abs(a).sum(axis=1)))
        ladder.estimate(a @ a.T)
        assert pools and set(pools) == {1}


class TestSingular:
    @pytest.mark.parametrize("precision", ["auto", *LOW, "fp64"])
    @pytest.mark.parametrize("place", [0, 23, 46])
    def test_the_first_zero_on_the_diagonal_is_named_from_every_rung(self, precision, place):
        a = random_matrix(47, 47)
        a[:, place] = 0
        with pytest.raises(tw.SingularMatrixError, match=rf"U\[{place},{place}\] is exactly zero") as caught:
            tw.solve(a, np.ones(47), assume_a="gen", precision=precision, tile_size=12)
        assert caught.value.index == place

    def test_a_zero_pivot_in_low_precision_is_left_to_fp64(self):
        a = np.eye(20) + np.tri(20, k=-1) * 2.0**-20
        a[19, 18:], a[18, 18:] = (1, 1 + 2.0**-30), (1, 1)  # equal rows in FP32
        info = check(a, np.ones(20), precision="bf16", tile_size=6)
        assert rungs(info) == ["bf16", "fp64"] and info.code == -3
        assert "bf16 has a zero for pivot 20 (-3)" in str(info)

    @pytest.mark.parametrize(("precision", "bad"), [("bf16", np.nan), ("fp32", np.inf), ("fp64", -np.inf)])
    def test_numbers_that_are_none_are_named(self, precision, bad):
        a, b = random_matrix(30, 30), np.ones(30)
        a[20, 7] = bad
        with pytest.raises(ValueError, match=r"the matrix a has a NaN or infinity at \(20, 7\)"):
            tw.solve(a, b, assume_a="gen", precision=precision, tile_size=8)
        b[4] = bad
        with pytest.raises(ValueError, match=r"b has a NaN or infinity at \(4"):
            tw.solve(np.eye(30), b, assume_a="gen", precision=precision, tile_size=8)

    def test_shapes(self):
        with pytest.raises(ValueError, match="must be square, not 3 x 4"):
            tw.solve(np.ones((3, 4)), np.ones(3), assume_a="gen", precision="bf16")
        with pytest.raises(ValueError, match="b has 4 rows, but the matrix has 3"):
            tw.solve(np.eye(3), np.ones(4), assume_a="gen", precision="bf16")


class TestFactor:
    """P D A E = L U in FP32, products in the format."""

    @pytest.mark.parametrize(("n", "nb"), [(1, 1), (5, 8), (130, 40), (96, 32)])
    @pytest.mark.parametrize("precision", LOW)
    def test_error_is_that_of_the_format(self, precision, n, nb):
        a = random_matrix(n, n) * 10.0 ** np.random.default_rng(2).integers(-9, 9, n)
        scaling = equilibrate(tw.TiledMatrix.view(a, nb), Runner("serial"))
        factor = mixed_lu(a, precision, scaling, tile_size=nb, backend="serial")
        lu = factor.lu.to_numpy().astype(float)
        order = np.arange(n)
        for k, piv in enumerate(factor.pivots):
            for t, p in enumerate(piv + k * nb):
                order[[k * nb + t, p]] = order[[p, k * nb + t]]
        h = (a * scaling.rows[:, None] * scaling.columns)[order]
        error = np.linalg.norm(h - (np.tril(lu, -1) + np.eye(n)) @ np.triu(lu))
        u = 2.0**-22 if n <= nb else max(tw.FORMATS[precision].u, 2.0**-22)
        assert error <= 4 * u * np.sqrt(n) * np.linalg.norm(h)
        assert factor.lu[0, 0].dtype == np.float32 and np.abs(np.tril(lu, -1)).max() <= 1 + 2.0**-7

    def test_pivots_in_fp32_are_those_of_lapack(self):
        a = random_matrix(70, 70)
        scaling = equilibrate(tw.TiledMatrix.view(a, 16), Runner("serial"))
        found = mixed_lu(a, "fp32", scaling, tile_size=16, backend="serial").pivots
        wanted = tw.lu_factor((a * scaling.rows[:, None] * scaling.columns).astype("f"), tile_size=16).piv
        assert np.array_equal(np.concatenate([p + 16 * k for k, p in enumerate(found)]), wanted)

    @pytest.mark.parametrize(("precision", "each"), [("bf16", 1), ("fp32", 0)])
    def test_every_tile_beside_the_diagonal_is_narrowed_once(self, precision, each):
        nt = 5
        graph = mixed_lu_graph(50, 10, precision, "cblas")
        names = [task.op.name for task in graph]
        assert names.count("convert") == each * nt * (nt - 1)
        assert names.count("gemmn") == nt * (nt - 1) * (2 * nt - 1) // 6 and names.count("scaled") == nt**2
        widened = mixed_lu_graph(50, 10, precision, "widen")
        assert [task.op.name for task in widened].count("convert") == 2 * each * nt * (nt - 1)


class TestReproducible:
    @pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.parametrize(("refine", "precision"), [("gmres", "bf16"), ("classical", "bf16x3"), ("auto", "fp32")])
    @pytest.mark.parametrize("backend", COMPUTING)
    def test_every_engine_gives_the_bits_of_the_serial_run(self, backend, refine, precision):
        a, b = conditioned_general(60, 4.0), random_matrix(60, 2)
        options = {"assume_a": "gen", "precision": precision, "refine": refine, "tile_size": 20, "return_info": True}
        wanted, first = tw.solve(a, b, backend="serial", **options)
        x, info = tw.solve(a, b, backend=backend, workers=2, **options)
        assert np.array_equal(x, wanted) and rungs(info) == [precision]
        assert (info.path, info.residuals) == (first.path, first.residuals)
        assert (info.bytes > 0) == (info.messages > 0) == (backend not in ("serial", "threads"))

    @pytest.mark.parametrize("backend", COMPUTING)
    def test_the_last_rung_has_the_bits_of_the_serial_run(self, backend):
        a, b = wilkinson(60), random_matrix(60, 2)
        how = {"assume_a": "gen", "tile_size": 20}
        wanted = tw.solve(a, b, backend="serial", **how)
        if backend == "serial":
            assert backward_error(a, wanted, b) <= 60 * U
        assert np.array_equal(tw.solve(a, b, backend=backend, workers=2, **how), wanted)

    @pytest.mark.parametrize("workers", [1, 2, 3])
    def test_the_last_rung_does_not_go_by_the_number_of_workers(self, workers):
        a, b = wilkinson(60), random_matrix(60, 2)
        how = {"assume_a": "gen", "tile_size": 20}
        wanted = tw.solve(a, b, workers=1, **how)
        assert np.array_equal(tw.solve(a, b, workers=workers, **how), wanted)

    @pytest.mark.parametrize(
        "options",
        [{"backend": "mpi", "workers": 4}, {"backend": "dask", "mode": "tasks", "workers": 2}],
        ids=["four ranks", "tasks"],
    )
    def test_ranks_in_a_grid_and_tasks_of_dask_too(self, options):
        a, b = conditioned_general(50, 10.0), random_matrix(50, 2)
        how = {"assume_a": "gen", "precision": "fp32", "tile_size": 20}
        wanted = tw.solve(a, b, backend="serial", **how)
        assert np.array_equal(tw.solve(a, b, **how, **options), wanted)

    @pytest.mark.parametrize(("scheduler", "workers"), [("lifo", 1), ("random", 3), ("lws", 2)])
    def test_policies_and_workers_do_not_change_a_bit(self, scheduler, workers):
        a, b = conditioned_general(90, 1e3), random_matrix(90, 2)
        options = {"assume_a": "gen", "precision": "bf16", "tile_size": 20}
        wanted = tw.solve(a, b, backend="serial", **options)
        assert np.array_equal(tw.solve(a, b, scheduler=scheduler, workers=workers, **options), wanted)

    @pytest.mark.parametrize("precision", ["bf16", "fp32"])
    def test_all_steps_of_gmres_are_one_graph_that_is_prepared_once(self, precision, monkeypatch):
        prepared, prepare = [], Bindings._prepare
        monkeypatch.setattr(Bindings, "_prepare", lambda self, g: prepared.append(g.name) or prepare(self, g))
        how = {"precision": precision, "refine": "gmres", "tile_size": 48, "backend": "serial"}
        info = check(conditioned_general(200, 1e4, "small"), random_matrix(200, 3), **how)
        assert info.iterations >= 3 and len(prepared) == len(set(prepared)) <= 4


class TestHplMxp:
    def test_the_matrix_is_that_of_the_generator_and_diagonally_dominant(self):
        n, state, numbers = 9, 1, []
        for _ in range(n * n):
            state = (6364136223846793005 * state + 1) % 2**64
            numbers.append(state * 2.0**-64 - 0.5)
        a, _ = hpl_mxp(n)
        off = ~np.eye(n, dtype=bool)
        assert np.array_equal(a[off], np.array(numbers).reshape(n, n).T[off]) and a.flags.f_contiguous
        assert np.allclose(a.diagonal(), np.where(off, np.abs(a), 0).sum(axis=1))

    @pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
    @pytest.mark.parametrize("refine", ["gmres", "classical"])
    def test_factors_without_pivoting_lead_to_fp64(self, precision, refine):
        from tilewright.benchmarks.hpl_mxp import solve

        a, b = hpl_mxp(200)
        x, info = solve(a, b, precision, refine)
        assert backward_error(a, x, b) <= 200 * U and rungs(info) == [precision]
        assert not any(task.op.name in ("getrf", "swptrsm") for task in info.factor_run.graph)
