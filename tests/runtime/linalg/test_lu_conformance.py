"""LU under LAPACK's tests: its matrices, its ratios, its thresholds; and the nasty cases with their known answers."""

import warnings

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from matrices import (
    DTYPES,
    GENERAL,
    SINGULAR,
    first_zero_column,
    foster,
    ge_matrix,
    inverse_ratio,
    lu_ratio,
    random_matrix,
    roundoff,
    solve_ratio,
    wilkinson,
    wright,
)

import tilewright as tw

THRESHOLD = 30
SIZES = [(n, nb) for nb in (3, 5, 8) for n in sorted({0, 1, 2, nb - 1, nb, nb + 1, 2 * nb + 3})]
SHAPES = [shape for n, nb in SIZES for shape in {(n, n, nb), (2 * n + 1, n, nb), (n, 2 * n + 1, nb)}]
UPDATES = ("tile", "column")
# singular factors are returned with SciPy's warning
quiet = pytest.mark.filterwarnings("ignore:Diagonal number:RuntimeWarning")


def orders(a):
    large = np.zeros((2 * a.shape[0], 3 * a.shape[1]), a.dtype)
    large[::2, ::3] = a
    return {"C": a, "F": np.asfortranarray(a), "strided": large[::2, ::3]}


@quiet
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n", "nb"), sorted(SHAPES))
def test_lapack_ratio(dtype, m, n, nb):
    bits = set()
    for kind in GENERAL:
        a = ge_matrix(kind, m, n, dtype)
        workers = 2 if kind == 8 else 1  # a thread costs more than all of its tasks
        lu, piv = factor = tw.lu_factor(a, tile_size=nb, update=UPDATES[kind % 2], workers=workers)
        assert lu.flags.f_contiguous and lu.dtype == dtype and piv.dtype == np.int32
        assert lu_ratio(a, lu, piv) < THRESHOLD, f"type {kind}"
        assert np.abs(factor.L).max(initial=0) <= np.sqrt(2) + 1e-6  # 1 in |Re| + |Im|
        if kind == 4:
            bits = {tw.lu_factor(b, tile_size=nb, workers=2).lu.tobytes("A") for b in orders(a).values()}
    assert len(bits) == 1


@quiet
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 19])
def test_zero_columns_are_reported_as_lapack_does(dtype, n):
    (getrf,) = scipy.linalg.get_lapack_funcs(["getrf"], dtype=np.dtype(dtype))
    for kind in SINGULAR:
        a = ge_matrix(kind, n, n, dtype)
        factor = tw.lu_factor(a, tile_size=4)
        assert factor.info == first_zero_column(kind, n) + 1 == getrf(a)[2]
        assert factor.det() == 0 and factor.slogdet() == (0, -np.inf) and factor.rcond() == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "nb"), [(n, nb) for n, nb in SIZES if n])
def test_lapack_ratios_of_solutions_and_inverses(dtype, n, nb):
    for kind in set(GENERAL) - set(SINGULAR):
        a = ge_matrix(kind, n, n, dtype)
        workers = 2 if kind == 8 else 1
        factor = tw.lu_factor(a, tile_size=nb, workers=workers)
        x = random_matrix(n, 3, dtype)
        for trans, op in enumerate((a, a.T, a.conj().T)):
            b = op @ x
            found = factor.solve(b, trans)
            assert solve_ratio(op, found, b) * n < THRESHOLD, f"type {kind}, trans {trans}"
        if kind not in (10, 11):  # whose inverse overflows
            assert inverse_ratio(a, tw.inv(a, tile_size=nb, workers=workers)) < THRESHOLD, f"type {kind}"
        if kind == 4:
            assert factor.rcond() == pytest.approx(1 / np.linalg.cond(a, 1), rel=0.5)
            assert factor.rcond(np.inf) == pytest.approx(1 / np.linalg.cond(a, np.inf), rel=0.5)


@given(st.integers(0, 24), st.integers(0, 24), st.integers(1, 9), st.sampled_from(DTYPES), st.sampled_from(UPDATES))
def test_any_shape_and_tile_size(m, n, nb, dtype, update):
    a = random_matrix(m, n, dtype)
    lu, piv = tw.lu_factor(a, tile_size=nb, update=update, workers=1)
    assert lu_ratio(a, lu, piv) < THRESHOLD
    if a.size:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted, rows = scipy.linalg.lu_factor(a)
        assert np.array_equal(piv, rows) and np.allclose(lu, wanted, atol=1e4 * roundoff(dtype))


class TestNastyCases:
    @pytest.mark.parametrize(("n", "growth"), [(54, 2.0**53), (60, 2.0**59)])
    def test_wilkinson_s_growth_is_reported_and_its_solution_found_by_qr(self, n, growth):
        a, b = wilkinson(n), random_matrix(n, 1)[:, 0]
        assert tw.lu_factor(a, tile_size=7).growth == growth
        x, info = tw.solve(a, b, assume_a="gen", tile_size=7, return_info=True)
        assert solve_ratio(a, x[:, None], b[:, None]) < THRESHOLD and info.growth == growth
        assert [attempt.method for attempt in info.path] == ["lu", "qr"]
        with pytest.warns(tw.AccuracyWarning, match=r"LU .* not stable for this matrix: growth .*e\+1[57]"):
            tw.solve(a, b, assume_a="gen", tile_size=7, fallback=False)

    def test_tunable_growth(self):
        assert tw.lu_factor(wilkinson(40, 0.5), tile_size=8).growth == pytest.approx(1.5**39)

    @pytest.mark.parametrize(("n", "growth"), [(60, 3.8430716820227936e17), (100, 4.225502000760706e29)])
    def test_foster(self, n, growth):
        assert tw.lu_factor(foster(n), tile_size=7).growth == pytest.approx(growth, rel=1e-6)
        assert tw.lu_factor(foster(n, kh=1), tile_size=7).growth == 2.25

    @pytest.mark.parametrize(("n", "growth"), [(50, 202.7145), (100, 104491.6), (200, 2.8038736e10)])
    def test_wright(self, n, growth):
        assert tw.lu_factor(wright(n // 2), tile_size=6).growth == pytest.approx(growth, rel=1e-5)

    @pytest.mark.parametrize("n", [100, 300])
    def test_random_matrices_grow_little(self, n):
        a = np.random.default_rng(0).standard_normal((n, n))
        assert 1 < tw.lu_factor(a, tile_size=32).growth < 5 * n ** (2 / 3)

    @pytest.mark.parametrize("nb", [1, 3, 4, 5, 8])
    @pytest.mark.parametrize("update", UPDATES)
    def test_a_zero_leading_block_needs_pivots_of_other_tiles(self, nb, update):
        a = np.kron([[0, 1], [1, 0]], np.eye(4))
        lu, piv = tw.lu_factor(a, tile_size=nb, update=update)
        assert piv.tolist() == [4, 5, 6, 7, 4, 5, 6, 7] and np.array_equal(lu, np.eye(8))

    @quiet
    def test_a_zero_column_is_found_where_it_is_and_ends_nothing(self):
        a = random_matrix(6, 6)
        a[:, 3] = 0
        factor = tw.lu_factor(a, tile_size=4)
        assert factor.info == 4 and lu_ratio(a, *factor) < THRESHOLD
        for call in (
            factor.inv,
            lambda: factor.solve(np.ones(6)),
            lambda: tw.lu_solve(tuple(factor), np.ones(6)),
            lambda: tw.inv(a, tile_size=4),
            lambda: tw.solve(a, np.ones(6), assume_a="gen", tile_size=4),
        ):
            with pytest.raises(tw.SingularMatrixError, match=r"U\[3,3\] is exactly zero") as error:
                call()
            assert error.value.index == 3 and isinstance(error.value, np.linalg.LinAlgError)

    def test_the_error_names_panel_tile_and_offset(self):
        a = np.eye(230)
        a[200, 200] = 0
        with pytest.raises(tw.SingularMatrixError) as error:
            tw.solve(a, np.ones(230), assume_a="gen", tile_size=32)
        assert str(error.value) == (
            "getrf(6): U[200,200] is exactly zero, the matrix is singular (row 8 of a 32-row tile at offset 192)"
        )

    def test_a_duplicated_column_is_no_singularity_but_has_no_condition(self):
        a = random_matrix(20, 20)
        a[:, 19] = a[:, 3]
        factor = tw.lu_factor(a, tile_size=6)
        assert factor.info == 0 and factor.rcond() < 1e-15
        with pytest.warns(tw.AccuracyWarning, match="singular to working precision: growth .*, rcond"):
            tw.solve(a, np.ones(20), assume_a="gen", tile_size=6)

    @quiet
    @pytest.mark.parametrize("nb", [2, 5])
    def test_all_zero_exchanges_nothing(self, nb):
        factor = tw.lu_factor(np.zeros((5, 5)), tile_size=nb)
        assert factor.info == 1 and factor.piv.tolist() == [0, 1, 2, 3, 4] and not factor.lu.any()
        assert factor.growth == 1

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("nb", [1, 2])
    def test_subnormal_pivots(self, dtype, nb):
        s = np.finfo(dtype).tiny / 64
        factor = tw.lu_factor(np.array([[0, s], [s, 0]], dtype), tile_size=nb)
        assert factor.lu.tolist() == [[s, 0], [0, s]] and factor.piv.tolist() == [1, 1] and factor.info == 0
        assert factor.solve(np.array([s, 2 * s], dtype)).tolist() == [2, 1]

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("place", [(0, 0), (9, 2), (3, 10)])
    @pytest.mark.parametrize("overwrite", [False, True])
    def test_numbers_that_are_none_are_named(self, bad, place, overwrite):
        a = random_matrix(11, 11)
        a[place] = bad
        for call in (tw.lu_factor, tw.lu, tw.inv, tw.det, tw.slogdet):
            with pytest.raises(ValueError, match=rf"a NaN or infinity at \({place[0]}, {place[1]}\)"):
                call(np.asfortranarray(a), overwrite_a=overwrite, tile_size=4)
        factor = tw.lu_factor(a, check_finite=False, tile_size=4)
        assert not np.isfinite(factor.lu).all()
        assert ((factor.piv >= np.arange(11)) & (factor.piv < 11)).all()

    @pytest.mark.parametrize("scale", [1e300, 1e-300])
    def test_scaled_matrices(self, scale):
        a = random_matrix(20, 20) * scale
        lu, piv = tw.lu_factor(a, tile_size=6)
        assert lu_ratio(a, lu, piv) < THRESHOLD
        sign, size = tw.slogdet(a, tile_size=6)
        assert size == pytest.approx(np.linalg.slogdet(a)[1])
        assert tw.det(a, tile_size=6) == (sign * np.inf if scale > 1 else 0)

    def test_graded_matrices_are_solved_backward_stably(self):
        q, r = (np.linalg.qr(random_matrix(40, 40, seed=s))[0] for s in (1, 2))
        a = (q * 1e-16 ** np.linspace(0, 1, 40)) @ r
        lu, piv = tw.lu_factor(a, tile_size=7)
        assert lu_ratio(a, lu, piv) < THRESHOLD

    def test_hilbert_is_solved_with_a_warning(self):
        with pytest.warns(tw.AccuracyWarning, match="rcond 2.*e-17"):
            tw.solve(scipy.linalg.hilbert(12), np.ones(12), assume_a="gen", tile_size=5)

    def test_integers_of_lower_rank_are_not_exactly_singular(self):
        a = np.arange(1, 10).reshape(3, 3)
        assert tw.lu_factor(a).lu.dtype == np.float64
        assert tw.lu_factor(a).rcond() < 1e-16


class TestMetamorphic:
    def test_permuted_rows_leave_u(self):
        a = random_matrix(30, 30)
        order = np.random.default_rng(1).permutation(30)
        one, other = tw.lu_factor(a, tile_size=7), tw.lu_factor(a[order], tile_size=7)
        assert np.allclose(one.U, other.U) and np.array_equal(order[other.perm], one.perm)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_columns_times_powers_of_two_leave_p_and_the_bits_of_l(self, dtype):
        a = random_matrix(25, 25, dtype)
        scales = 2.0 ** np.random.default_rng(2).integers(-8, 9, 25)
        one, other = tw.lu_factor(a, tile_size=6), tw.lu_factor((a * scales).astype(dtype), tile_size=6)
        assert np.array_equal(one.piv, other.piv) and np.array_equal(one.L, other.L)
        assert np.array_equal(one.U * scales.astype(one.U.real.dtype), other.U)

    def test_determinants_multiply_and_inverses_invert(self):
        a, b = random_matrix(20, 20), random_matrix(20, 20, seed=1)
        assert tw.det(a @ b, tile_size=6) == pytest.approx(tw.det(a, tile_size=6) * tw.det(b, tile_size=6), rel=1e-10)
        assert np.allclose(tw.inv(tw.inv(a, tile_size=6), tile_size=6), a, atol=1e-10)
        assert tw.det(a.T, tile_size=6) == pytest.approx(tw.det(a, tile_size=6), rel=1e-12)

    def test_conjugates(self):
        a = random_matrix(20, 20, "complex128")
        one, other = tw.lu_factor(a, tile_size=6), tw.lu_factor(a.conj(), tile_size=6)
        assert np.array_equal(one.lu.conj(), other.lu) and np.array_equal(one.piv, other.piv)
        assert one.det() == other.det().conjugate()

    def test_without_pivoting_diagonally_dominant_matrices_grow_at_most_twofold(self):
        for dtype in DTYPES:
            a = random_matrix(30, 30, dtype) + 45 * np.eye(30, dtype=dtype)
            factor = tw.lu_factor(a, pivoting="none", tile_size=7)
            assert factor.piv.tolist() == list(range(30)) and factor.growth <= 2
            assert lu_ratio(a, factor.lu, factor.piv) < THRESHOLD
        assert tw.lu_factor(np.array([[1e-20, 1], [1, 1]]), pivoting="none").growth == 1e20
