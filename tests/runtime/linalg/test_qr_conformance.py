"""QR under LAPACK's tests: its matrices, its ratios, its thresholds; and the nasty cases with their known answers."""

import warnings

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from matrices import DTYPES, GENERAL, ge_matrix, norm1, qr_ratio, random_matrix, roundoff

import tilewright as tw

THRESHOLD = 30
SIZES = [(n, nb) for nb in (3, 5, 8) for n in sorted({0, 1, 2, nb - 1, nb, nb + 1, 2 * nb + 3})]
SHAPES = sorted({shape for n, nb in SIZES for shape in ((n, n, nb), (2 * n + 1, n, nb), (n, 2 * n + 1, nb))})
TREES = ("panel", "flat", "flat-tt", "binary", "greedy", "fibonacci", ("hierarchical", 2, "greedy", "flat"))


def orders(a):
    large = np.zeros((2 * a.shape[0], 3 * a.shape[1]), a.dtype)
    large[::2, ::3] = a
    return {"C": a, "F": np.asfortranarray(a), "strided": large[::2, ::3]}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n", "nb"), SHAPES)
def test_lapack_ratio(dtype, m, n, nb):
    for kind in GENERAL[(m + n) % 2 :: 2]:
        a, tree = ge_matrix(kind, m, n, dtype), TREES[(kind + m) % len(TREES)]
        q, r = tw.qr(a, mode="economic", tree=tree, tile_size=nb, workers=1 + kind % 2)
        k = min(m, n)
        assert q.shape == (m, k) and r.shape == (k, n) and q.dtype == r.dtype == dtype
        assert qr_ratio(a, q, r) < THRESHOLD, f"type {kind}, {tree}"
        assert not np.tril(r, -1).any() and not r.diagonal().imag.any()
    a = ge_matrix(4, m, n, dtype)
    q, r = tw.qr(a, tree=TREES[m % len(TREES)], tile_size=nb)
    assert q.shape == (m, m) and r.shape == (m, n) and not np.tril(r, -1).any()
    assert qr_ratio(a, q, r) < THRESHOLD
    bits = {tw.qr(b, mode="r", tile_size=nb, workers=2)[0].tobytes("A") for b in orders(a).values()}
    assert len(bits) == 1


@given(
    st.integers(0, 24),
    st.integers(0, 24),
    st.integers(1, 9),
    st.sampled_from(DTYPES),
    st.sampled_from(TREES),
    st.integers(1, 3),
)
def test_any_shape_tile_size_and_tree(m, n, nb, dtype, tree, k):
    a, c = random_matrix(m, n, dtype), random_matrix(m, k, dtype, seed=1)
    factor = tw.qr_factor(a, tile_size=nb, tree=tree, workers=1)
    q, full = factor.explicit(), factor.explicit(full=True)
    assert qr_ratio(a, q, factor.R) < THRESHOLD
    tolerance = 1e3 * roundoff(dtype)
    assert np.array_equal(full[:, : min(m, n)], q) or np.allclose(full[:, : min(m, n)], q, atol=tolerance)
    for trans, op in (("N", full), ("H", full.conj().T)):
        assert np.allclose(factor.apply(c, trans), op @ c, atol=tolerance)
        assert np.allclose(factor.apply(c.T, trans, side="R"), c.T @ op, atol=tolerance)
    wanted = np.linalg.qr(a)[1]
    assert np.allclose(np.abs(factor.R), np.abs(wanted), atol=1e4 * roundoff(dtype)) or min(m, n) == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n"), [(23, 23), (40, 11), (11, 40)])
def test_a_positive_diagonal_makes_factors_equal_over_trees(dtype, m, n):
    a = random_matrix(m, n, dtype)
    wanted = None
    for tree in TREES:
        for mode in ("economic", "full"):
            q, r = tw.qr(a, mode=mode, tree=tree, positive=True, tile_size=5)
            assert (r.diagonal().real > 0).all() and qr_ratio(a, q, r) < THRESHOLD
            if mode == "economic":
                wanted = (q, r) if wanted is None else wanted
                for found, one in zip((q, r), wanted, strict=True):
                    assert np.allclose(found, one, atol=1e3 * roundoff(dtype))
        factor = tw.qr_factor(a, tree=tree, positive=True, tile_size=5)
        assert np.allclose(factor.R, wanted[1], atol=1e3 * roundoff(dtype))
        assert np.allclose(factor.explicit(), wanted[0], atol=1e3 * roundoff(dtype))
        padded = np.zeros((m, n), dtype)
        padded[: min(m, n)] = factor.R
        assert np.allclose(factor.apply(padded), a, atol=1e3 * roundoff(dtype))
        assert np.allclose(factor.apply(a, "H"), padded, atol=1e3 * roundoff(dtype))


class TestNastyCases:
    @pytest.mark.parametrize("tree", TREES)
    @pytest.mark.parametrize("condition", [1e8, 1e15])
    def test_q_is_orthogonal_at_any_condition(self, tree, condition):
        a = _with_values(40, 17, condition ** -np.linspace(0, 1, 17))
        q, r = tw.qr(a, mode="economic", tree=tree, tile_size=6)
        assert qr_ratio(a, q, r) < THRESHOLD

    @pytest.mark.parametrize("tree", TREES)
    @pytest.mark.parametrize("scale", [1e300, 1e-300])
    def test_scaled_matrices(self, tree, scale):
        a = random_matrix(30, 13) * scale
        q, r = tw.qr(a, mode="economic", tree=tree, tile_size=4)
        assert qr_ratio(a, q, r) < THRESHOLD and norm1(r) == pytest.approx(norm1(np.linalg.qr(a / scale)[1]) * scale)

    @pytest.mark.parametrize("tree", TREES)
    def test_all_zero(self, tree):
        q, r = tw.qr(np.zeros((9, 7)), mode="economic", tree=tree, tile_size=3)
        assert np.array_equal(q, np.eye(9, 7)) and not r.any()

    @pytest.mark.parametrize("tree", TREES)
    def test_lower_rank_shows_in_r(self, tree):
        a = random_matrix(30, 4) @ random_matrix(4, 12, seed=1)
        (r,) = tw.qr(a, mode="r", tree=tree, tile_size=5)
        assert r.shape == (30, 12) and np.abs(r[4:]).max() < 1e-13 < np.abs(r[3]).max()

    @pytest.mark.parametrize("tree", ["panel", "greedy"])
    def test_graded_rows_keep_the_residual_small(self, tree):
        a = random_matrix(30, 12) * 10.0 ** -np.arange(30)[:, None]
        q, r = tw.qr(a, mode="economic", tree=tree, tile_size=5)
        assert qr_ratio(a, q, r) < THRESHOLD

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    @pytest.mark.parametrize("overwrite", [False, True])
    def test_numbers_that_are_none_are_named_and_hang_nothing(self, bad, overwrite):
        a = random_matrix(11, 7)
        a[9, 2] = bad
        for call in (tw.qr, tw.qr_factor):
            with pytest.raises(ValueError, match=r"a NaN or infinity at \(9, 2\)"):
                call(np.asfortranarray(a), overwrite_a=overwrite, tile_size=4)
        for tree in ("panel", "greedy"):
            (r,) = tw.qr(a, mode="r", check_finite=False, tile_size=4, tree=tree)
            assert not np.isfinite(r).all()


def _with_values(m, n, values, dtype="float64"):
    left, right = np.linalg.qr(random_matrix(m, n, dtype))[0], np.linalg.qr(random_matrix(n, n, dtype, seed=1))[0]
    return ((left * values) @ right).astype(dtype)


def kahan(n, theta=1.2):
    s, c = np.sin(theta), np.cos(theta)
    return np.diag(s ** np.arange(n)) @ (np.eye(n) - c * np.triu(np.ones((n, n)), 1))


class TestLeastSquares:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(("m", "n"), [(1, 1), (9, 4), (30, 11), (11, 11), (4, 9), (11, 30), (1, 6), (6, 1)])
    @pytest.mark.parametrize("driver", ["gelsd", "gelsy", "gelss"])
    def test_what_scipy_returns(self, dtype, m, n, driver):
        a = random_matrix(m, n, dtype)
        for b in (random_matrix(m, 1, dtype, seed=1)[:, 0], random_matrix(m, 3, dtype, seed=1)):
            same(
                tw.lstsq(a, b, tile_size=4, tree=TREES[(m + n) % len(TREES)], lapack_driver=driver),
                scipy.linalg.lstsq(a, b, lapack_driver=driver),
                dtype,
            )

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(("m", "n"), [(30, 12), (12, 30), (12, 12)])
    def test_solutions_of_least_norm_where_the_rank_is_lower(self, dtype, m, n):
        a = random_matrix(m, 5, dtype) @ random_matrix(5, n, dtype, seed=1)
        b = random_matrix(m, 2, dtype, seed=2)
        cond = 1e3 * roundoff(dtype)
        x, residues, rank, s = tw.lstsq(a, b, cond, tile_size=5)
        wanted = scipy.linalg.lstsq(a, b, cond)
        assert rank == wanted[2] == 5 and residues.shape == (0,)
        assert np.allclose(s, wanted[3], atol=1e3 * roundoff(dtype) * s[0])
        assert np.allclose(x, wanted[0], atol=1e4 * roundoff(dtype))
        assert np.linalg.norm(a.conj().T @ (a @ x - b)) < 1e4 * roundoff(dtype)

    @pytest.mark.parametrize("scale", [1e300, 1e-300, 1.0])
    def test_ratios_of_lapack(self, scale):
        """||A^H r|| / (||A|| ||b|| max(m, n) u)  [dqrt17], and x in the row space of A  [dqrt14]."""
        for m, n in ((40, 13), (13, 40)):
            a, b = random_matrix(m, n) * scale, random_matrix(m, 3, seed=1) * scale
            x = tw.lstsq(a, b, tile_size=6)[0]
            a, b = a / scale, b / scale
            residual = a @ x - b
            assert norm1(a.T @ residual) / (norm1(a) * norm1(b) * max(m, n) * roundoff("float64")) < THRESHOLD
            q = np.linalg.qr(a.T)[0]
            assert norm1(x - q @ (q.T @ x)) / (norm1(x) * max(m, n) * roundoff("float64")) < THRESHOLD

    def test_kahan_s_matrix_has_no_small_diagonal_but_a_small_singular_value(self):
        a = kahan(90)
        (r,) = tw.qr(a, mode="r", tile_size=20)
        assert np.abs(r.diagonal()).min() == pytest.approx(1.9e-3, rel=0.05)
        _, _, rank, s = tw.lstsq(a, np.ones(90), cond=1e-13, tile_size=20)
        assert rank == 89 and s[-1] < 1e-14

    @pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
    def test_of_nothing(self, shape):
        for b in (np.ones(shape[0]), np.ones((shape[0], 2))):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                wanted = scipy.linalg.lstsq(np.zeros(shape), b)
            found = tw.lstsq(np.zeros(shape), b)
            assert found[0].shape == wanted[0].shape and found[2] == wanted[2] == 0 and found[3].shape == (0,)
        assert tw.lstsq(random_matrix(5, 3), np.zeros((5, 0)))[0].shape == (3, 0)

    def test_dtypes_are_the_wider_of_both(self):
        a, b = random_matrix(9, 4), random_matrix(9, 2, "complex128", seed=1)
        for first, second in ((a.astype("float32"), b), (a, b), (a.astype("float32"), b.astype("complex64"))):
            x = tw.lstsq(first, second, tile_size=3)[0]
            wanted = scipy.linalg.lstsq(first, second)[0]
            assert x.dtype == wanted.dtype and np.allclose(x, wanted, atol=1e-5)
        assert tw.lstsq(np.arange(6).reshape(3, 2), [1, 2, 4])[0].dtype == np.float64


def same(found, wanted, dtype):
    x, residues, rank, s = found
    tolerance = 2e4 * roundoff(dtype)
    assert x.shape == wanted[0].shape and x.dtype == wanted[0].dtype
    assert np.allclose(x, wanted[0], rtol=tolerance, atol=tolerance)
    assert np.shape(residues) == np.shape(wanted[1]) and rank == wanted[2]
    assert np.allclose(residues, wanted[1], rtol=tolerance, atol=tolerance)
    assert (s is None) == (wanted[3] is None)
    assert s is None or (s.shape == wanted[3].shape and np.allclose(s, wanted[3], rtol=tolerance))
