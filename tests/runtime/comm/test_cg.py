"""Conjugate gradients in steps of s."""

import itertools

import numpy as np
import pyamg
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import random_sparse
from scipy.sparse.linalg import cg as scipy_cg

import tilewright as tw
from tilewright.backends import COMPUTING
from tilewright.comm.cg import BASES, coefficients, leja, ritz

pytestmark = pytest.mark.long


def poisson(*shape):
    return sp.csr_array(pyamg.gallery.poisson(shape, format="csr"))


def count(A, b, rtol):
    iterates = []
    x, info = scipy_cg(A, b, rtol=rtol, callback=lambda v: iterates.append(v.copy()))
    assert info == 0
    return x, len(iterates)


@pytest.mark.parametrize("backend", COMPUTING)
def test_one_step_at_a_time_is_classical_cg(backend):
    A, b = poisson(6, 6), np.random.default_rng(0).standard_normal(36)
    wanted, iterations = count(A, b, 1e-9)
    x, report = tw.cg(tw.SparseOperator(A, ranks=3, backend=backend), b, s=1, rtol=1e-9)
    assert (report.iterations, report.s, report.condition) == (iterations, 1, 1)
    assert np.linalg.norm(x - wanted) < 1e-12 * np.linalg.norm(wanted)
    assert report.exchanges == iterations + 2  # the residual before and after


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("s", [2, 4, 8])
@pytest.mark.parametrize("backend", ["serial", "mpi"])
def test_s_steps_converge_like_scipy_with_one_exchange_and_one_reduction_each(s, basis, backend):
    A, b = poisson(20, 20), np.random.default_rng(1).standard_normal(400)
    wanted, iterations = count(A, b, 1e-8)
    x, report = tw.cg(tw.SparseOperator(A, ranks=3, backend=backend), b, s=s, basis=basis, rtol=1e-8)
    assert report.converged and report.s == s and report.basis == basis
    assert np.linalg.norm(A @ x - b) <= 1e-8 * np.linalg.norm(b) * (1 + 1e-6)
    assert iterations <= report.iterations <= iterations * (1.25 if basis == "monomial" else 1.02) + 1
    classical = 2 * s if basis != "monomial" else 0
    outer = -(-(report.iterations - classical) // s)
    assert len(report.conditions) == outer
    assert report.exchanges == classical + outer + 2 * (1 + report.restarts)
    assert report.reductions == 2 * classical + outer + 2 * (1 + report.restarts) + 1
    assert np.allclose(x, wanted, atol=1e-6 * np.abs(wanted).max())


def test_bases_for_the_spectrum_are_better_conditioned_and_the_monomial_one_loses_its_rank():
    A, b = poisson(30, 30), np.ones(900)
    op = tw.SparseOperator(A, ranks=2, backend="serial")
    conditions = {basis: [tw.cg(op, b, s=s, basis=basis)[1].condition for s in (4, 8, 12)] for basis in BASES}
    for basis in ("newton", "chebyshev"):
        assert all(
            better < 0.2 * power for better, power in zip(conditions[basis], conditions["monomial"], strict=True)
        )
    assert conditions["monomial"][0] < 1e4 < conditions["monomial"][1]
    assert conditions["monomial"] == sorted(conditions["monomial"])


def test_where_the_basis_loses_its_rank_s_is_halved_and_the_answer_is_still_right():
    A, b = poisson(20, 20), np.random.default_rng(2).standard_normal(400)
    x, report = tw.cg(tw.SparseOperator(A, ranks=2, backend="serial"), b, s=32, basis="monomial", rtol=1e-8)
    assert report.converged and report.s < 32 and report.condition > 1e7
    assert np.linalg.norm(A @ x - b) <= 1.1e-8 * np.linalg.norm(b)


def test_a_tolerance_out_of_reach_ends_and_is_not_called_converged():
    A, b = poisson(12, 12), np.random.default_rng(3).standard_normal(144)
    _, report = tw.cg(
        tw.SparseOperator(A, ranks=2, backend="serial"), b, s=8, basis="monomial", rtol=1e-30, maxiter=2000
    )
    assert not report.converged and report.residual < 1e-12
    assert "NOT converged" in str(report)


@pytest.mark.needs("pymetis", "mpi4py", "distributed")
@pytest.mark.parametrize("method", ["halo", "two-stage"])
def test_all_engines_agree_and_report_the_same(method):
    A, b = poisson(14, 14), np.random.default_rng(4).standard_normal(196)
    results = [
        tw.cg(tw.SparseOperator(A, ranks=3, partition="metis", backend=backend), b, s=4, method=method, rtol=1e-10)
        for backend in COMPUTING
    ]
    for x, report in results:
        assert np.allclose(x, results[0][0], rtol=1e-9)
        assert (report.iterations, report.exchanges, report.reductions) == (
            results[0][1].iterations,
            results[0][1].exchanges,
            results[0][1].reductions,
        )


@pytest.mark.needs("mpi4py")
def test_a_pool_repeats_the_same_bits_also_with_every_send_forced_synchronous():
    A, b = poisson(14, 14), np.random.default_rng(5).standard_normal(196)
    op, forced = (tw.SparseOperator(A, ranks=2, backend="mpi", synchronous=how) for how in (False, True))
    for method in ("halo", "two-stage"):
        first, _ = tw.cg(op, b, s=4, method=method)
        assert all(np.array_equal(tw.cg(same, b, s=4, method=method)[0], first) for same in (op, op, forced))


@pytest.mark.parametrize("dtype", ["f", "d", "F", "D"])
def test_hermitian_systems_in_every_precision(dtype):
    rng = np.random.default_rng(6)
    n = 60
    E = random_sparse((n, n), 0.1, rng)
    if np.dtype(dtype).kind == "c":
        E = E + 1j * random_sparse((n, n), 0.1, rng)
    A = sp.csr_array(E + E.conj().T + 6 * sp.eye_array(n)).astype(dtype)
    b = rng.standard_normal(n).astype(dtype)
    x, report = tw.cg(tw.SparseOperator(A, ranks=3, backend="serial"), b, s=3)
    assert x.dtype == np.dtype(dtype) and report.converged
    assert np.linalg.norm(A @ x - b) < 2e-5 * np.linalg.norm(b)


def test_a_good_start_saves_iterations_and_is_left_alone():
    A, b = poisson(12, 12), np.ones(144)
    x, first = tw.cg(A, b, s=4, rtol=1e-10)
    start = x.copy()
    _, second = tw.cg(A, b, s=4, rtol=1e-8, x0=start)
    assert second.iterations == 0 < first.iterations and np.array_equal(start, x)


def test_zero_right_hand_side_and_zero_iterations():
    A = poisson(5, 5)
    x, report = tw.cg(A, np.zeros(25))
    assert report.converged and not x.any() and report.iterations == 0
    _, report = tw.cg(A, np.ones(25), maxiter=0)
    assert not report.converged and report.residual == 1


def test_integers_are_solved_in_double():
    x, _ = tw.cg(np.diag([2, 3, 4]), [2, 3, 4])
    assert x.dtype == float and np.allclose(x, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"A": sp.csr_array(np.array([[1.0, 2], [0, 1]])), "b": np.ones(2)}, "need a Hermitian matrix"),
        ({"A": -sp.eye_array(3), "b": np.ones(3)}, "A is not positive definite: p^H A p = -3 in iteration 1"),
        ({"A": sp.csr_array((3, 2)), "b": np.ones(3)}, "cg needs a square matrix, not 3 x 2"),
        ({"A": sp.eye_array(3), "b": np.ones(4)}, "b must have shape (3,), not (4,)"),
        ({"A": sp.eye_array(3), "b": np.ones((3, 2))}, "one right-hand side b, not 2"),
        ({"A": sp.eye_array(3), "b": np.ones(3), "x0": np.ones((3, 1))}, "x0 must have shape (3,)"),
        (
            {"A": sp.eye_array(3), "b": np.ones(3), "basis": "legendre"},
            "unknown basis 'legendre'; known: monomial, newton, chebyshev",
        ),
        (
            {"A": sp.eye_array(3), "b": np.ones(3), "method": "separate"},
            "unknown method 'separate'; known: halo, two-stage",
        ),
        ({"A": sp.eye_array(3), "b": np.ones(3), "s": 0}, "s must be at least 1"),
        ({"A": sp.eye_array(3), "b": np.ones(3), "rtol": -1}, "rtol must be at least 0, not -1"),
        ({"A": sp.eye_array(3), "b": [1, np.nan, 1]}, "b[1] is nan"),
    ],
)
def test_bad_input_to_cg_is_one_clear_sentence(arguments, words):
    with pytest.raises(ValueError) as caught:
        tw.cg(**arguments)
    assert words in str(caught.value)


# ------------------------------------------------------------------ honest, whatever the scale


def residual(A, x, b):
    """||b - A x|| and ||b|| in long double."""
    wide = np.longdouble
    with np.errstate(all="ignore"):
        r, b = b.astype(wide) - A.toarray().astype(wide) @ x.astype(wide), b.astype(wide)
        return np.sqrt((r * r).sum()), np.sqrt((b * b).sum())


@pytest.mark.parametrize("s", [1, 4])
@pytest.mark.parametrize("n", [1, 8])
@pytest.mark.parametrize("dtype", ["f", "d"])
def test_converged_says_what_the_residual_says_at_every_scale(dtype, n, s):
    rng = np.random.default_rng(n)
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    sizes = {size: (line * size).astype(dtype).tocsr() for size in (1, 1e-30, 1e30)}
    operators = {size: tw.SparseOperator(A, ranks=min(2, n), backend="serial") for size, A in sizes.items()}
    for size, right, start in itertools.product(sizes, [1, 1e20, 1e-25, 1e-38, 1e38, 0], [None, 0, 1, 1e25]):
        A = sizes[size]
        b = (rng.uniform(0.5, 1, n) * right).astype(dtype)
        x0 = None if start is None else (rng.uniform(0.5, 1, n) * start).astype(dtype)
        x, report = tw.cg(operators[size], b, s=s, x0=x0, maxiter=20)
        left, whole = residual(A, x, b)
        assert report.converged == bool(left <= 1e-5 * whole), (size, right, start, report)
        if report.converged and whole:
            assert np.isclose(report.residual, float(left / whole), rtol=1e-3, atol=1e-9)
        if dtype == "d" and start is None:  # nothing is beyond the range of float64
            assert report.converged


@pytest.mark.parametrize("most", [0, 1, None])
@pytest.mark.parametrize(("size", "right"), [(1, 5e-324), (1e-150, 5e-324), (1e-300, 1e-320), (1, 1e-310), (1, 1e308)])
def test_what_has_no_numbers_any_more_is_not_called_converged(size, right, most):
    rng = np.random.default_rng(0)
    for n in (1, 2, 7):
        matrix = rng.standard_normal((n, n))
        A = sp.csr_array((matrix @ matrix.T + n * np.eye(n)) * size)
        b = np.full(n, right)
        for x0 in (None, np.linalg.solve(A.toarray(), b)):
            x, report = tw.cg(A, b, x0=x0, maxiter=most)
            left, whole = residual(A, x, b)
            assert not report.converged or left <= 1.01e-5 * whole, (n, x0, report)
            if right > 1e-300:
                assert report.converged or most is not None


@pytest.mark.parametrize("dtype", ["f", "d", "F", "D"])
def test_powers_of_two_times_b_change_no_bit_but_the_exponent(dtype):
    A, rng = poisson(8, 8).astype(dtype), np.random.default_rng(0)
    b = rng.standard_normal(64).astype(dtype)
    op = tw.SparseOperator(A, ranks=2, backend="serial")
    x, report = tw.cg(op, b, rtol=1e-6)
    for power in (-60, 70):
        y, other = tw.cg(op, b * b.real.dtype.type(2.0**power), rtol=1e-6)
        assert np.array_equal(y, x * x.real.dtype.type(2.0**power))
        assert (other.iterations, other.residual, other.converged) == (report.iterations, report.residual, True)


@pytest.mark.parametrize("backend", ["serial", "mpi"])
def test_the_examples_that_were_called_converged_with_x_0(backend):
    A = (2 * sp.eye_array(4)).astype("f").tocsr()
    op = tw.SparseOperator(A, ranks=2, backend=backend)
    for value in (1e20, 1e-25, 3e38, 1e-37):
        x, report = tw.cg(op, np.full(4, value, "f"))
        assert report.converged and np.allclose(x, np.float32(value) / 2, rtol=1e-5, atol=0)
    x, report = tw.cg(op, np.zeros(4), x0=np.ones(4))  # as SciPy: at once
    assert report.converged and not x.any() and report.iterations == 0 and report.residual == 0


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 25), seed=st.integers(0, 99), power=st.integers(-250, 250), s=st.integers(1, 5))
def test_the_solution_is_scipys(n, seed, power, s):
    rng = np.random.default_rng(seed)
    E = sp.csr_array(np.where(rng.random((n, n)) < 0.2, rng.random((n, n)), 0))
    A = sp.csr_array(E @ E.T + sp.eye_array(n))
    b = rng.standard_normal(n)
    wanted, info = scipy_cg(A, b, rtol=1e-9, maxiter=50 * n)
    x, report = tw.cg(A, b * 2.0**power, s=s, rtol=1e-9, maxiter=50 * n)
    assert report.converged == (info == 0) and np.allclose(x * 2.0**-power, wanted, rtol=1e-6, atol=1e-8)


def test_a_float32_residual_is_judged_in_float64():
    """Rounding errors of b - A x in float32 are far above a tolerance of 1e-9."""
    A, b = poisson(10, 10).astype("f"), np.ones(100, "f")
    x, report = tw.cg(A, b, rtol=1e-9)
    left, whole = residual(A, x, b)
    assert not report.converged and np.isclose(report.residual, float(left / whole), rtol=1e-6)
    assert report.residual < 1e-5


def test_a_matrix_that_is_symmetric_to_the_rounding_of_float32_is_symmetric():
    A = poisson(4, 4).astype("f")
    A.data[1] *= np.float32(1 + 2e-7)
    assert tw.cg(A, np.ones(16, "f"))[1].converged
    A = A.astype("d")
    with pytest.raises(ValueError, match="need a Hermitian matrix"):
        tw.cg(A, np.ones(16))


def test_a_complex_start_of_a_real_system_is_refused_and_not_cut():
    with pytest.raises(TypeError, match="x0 is complex, but A and b are real"):
        tw.cg(poisson(2, 2), np.ones(4), x0=np.ones(4) * 1j)


def test_nan_is_never_converged():
    op = tw.SparseOperator(sp.eye_array(3), ranks=1, backend="serial", check_finite=False)
    _, report = tw.cg(op, np.array([1, np.nan, 1]))
    assert not report.converged


# ------------------------------------------------------------------ bases


@settings(max_examples=12)
@given(s=st.integers(1, 10), low=st.floats(0.01, 1), width=st.floats(0.1, 100))
def test_chebyshev_coefficients_give_chebyshev_polynomials(s, low, width):
    values = np.array([low, low + width])
    rows = coefficients("chebyshev", s, values)
    a, b = max(0.0, low - 0.05 * width), low + 1.05 * width
    points = np.linspace(a, b, 7)
    before, now = np.zeros(7), np.ones(7)
    for k, (theta, sigma, gamma) in enumerate(rows, start=1):
        before, now = now, (points * now - theta * now - sigma * before) / gamma
        z = (2 * points - a - b) / (b - a)
        assert np.allclose(now, np.cos(k * np.arccos(np.clip(z, -1, 1))), atol=1e-6)


def test_newton_shifts_are_ritz_values_in_lejas_order():
    values = np.array([1.0, 2.0, 4.0, 8.0])
    assert coefficients("newton", 3, values)[:, 0].tolist() == [8, 1, 4]
    assert leja(np.array([2.0, 2.0]), 3).tolist() == [2, 2, 2]


def test_ritz_values_of_a_full_run_are_the_eigenvalues():
    A = np.diag([1.0, 2.0, 5.0])
    r = np.array([1.0, 1.0, 1.0])
    p, alphas, betas = r.copy(), [], []
    for _ in range(3):
        alpha = r @ r / (p @ A @ p)
        after = r - alpha * (A @ p)
        beta = after @ after / (r @ r)
        alphas.append(alpha)
        betas.append(beta)
        r, p = after, after + beta * p
    assert np.allclose(ritz(alphas, betas), [1, 2, 5])
