"""Sparse operators against SciPy, on every engine."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyamg
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import random_sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator, bicg, cg, gmres

import tilewright as tw
from tilewright.backends import COMPUTING
from tilewright.backends.mpi.launcher import environment, mpiexec
from tilewright.comm.partition import PARTITIONS, patches
from tilewright.kernels import csr

pytestmark = pytest.mark.long

EXAMPLES = (
    "airfoil",
    "bar",
    "helmholtz_2D",
    "knot",
    "local_disc_galerkin_diffusion",
    "recirc_flow",
    "unit_cube",
    "unit_square",
)
DTYPES = "?bhilqBHILQfdgFDG"


@pytest.fixture(scope="module")
def pool():
    three = tw.mpi.Pool(3)
    yield three
    assert not three.closed
    three.close()


def engine(name, pool):
    return {"backend": name} | ({"pool": pool} if name == "mpi" else {})


def example(name):
    return sp.csr_array(pyamg.gallery.load_example(name)["A"])


def vector(n, dtype=float, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(n)
    return (x + 1j * rng.standard_normal(n) if np.dtype(dtype).kind == "c" else x).astype(dtype)


def close(y, wanted, A, x):
    """Within the rounding of sums as long as the longest row."""
    u = np.finfo(wanted.dtype).eps / 2 if wanted.dtype.kind in "fc" else 0
    longest = int(np.diff(sp.csr_array(A).indptr).max(initial=0)) + 1
    return np.all(np.abs(y - wanted) <= 8 * longest * u * (abs(A) @ abs(x)))


def unsymmetric(n, density, seed, m=None):
    rng = np.random.default_rng(seed)
    A = random_sparse((m or n, n), density, rng)
    A.data = rng.standard_normal(A.nnz)
    return A


# ------------------------------------------------------------------ against SciPy


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("backend", COMPUTING)
def test_real_matrices(name, backend, pool):
    A = example(name)
    x = vector(A.shape[0], A.dtype)
    op = tw.SparseOperator(A, ranks=3, partition="bisection", **engine(backend, pool))
    assert close(op @ x, A @ x, A, x)
    assert close(op.T @ x, A.T @ x, A.T, x)
    assert close(op.H @ x, A.conj().T @ x, A.conj().T, x)


@pytest.mark.parametrize("shape", [(50,), (12, 17), (6, 5, 7)], ids=["1-D", "2-D", "3-D"])
@pytest.mark.parametrize("backend", COMPUTING)
def test_poisson_in_one_to_three_dimensions(shape, backend, pool):
    A = sp.csr_array(pyamg.gallery.poisson(shape, format="csr"))
    x = np.arange(A.shape[0], dtype=float)
    op = tw.SparseOperator(A, ranks=3, **engine(backend, pool))
    assert np.array_equal(op @ x, A @ x)  # small integers: exact


@settings(max_examples=60)
@given(
    n=st.integers(1, 40),
    ranks=st.integers(1, 50),
    density=st.floats(0, 0.5),
    seed=st.integers(0, 1000),
    partition=st.sampled_from(PARTITIONS),
    discovery=st.sampled_from(["reduce-scatter", "nbx", "alltoall"]),
)
def test_random_unsymmetric_patterns_with_empty_rows_and_more_ranks_than_rows(
    n, ranks, density, seed, partition, discovery
):
    A = unsymmetric(n, density, seed)
    x, z = vector(n, seed=seed), vector(n, seed=seed + 1)
    op = tw.SparseOperator(A, ranks=ranks, partition=partition, discovery=discovery, backend="serial")
    assert close(op @ x, A @ x, A, x)
    assert close(op.T @ x, A.T @ x, A.T, x)
    assert np.vdot(op @ x, z) == pytest.approx(np.vdot(x, op.H @ z), rel=1e-9, abs=1e-9)


@given(m=st.integers(1, 20), n=st.integers(1, 20), ranks=st.integers(1, 25), seed=st.integers(0, 100))
def test_matrices_that_are_not_square(m, n, ranks, seed):
    A = unsymmetric(n, 0.3, seed, m)
    op = tw.SparseOperator(A, ranks=ranks, backend="serial")
    assert close(op @ vector(n), A @ vector(n), A, vector(n))
    assert close(op.T @ vector(m), A.T @ vector(m), A.T, vector(m))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_of_scipy(dtype, pool):
    A = sp.csr_array(unsymmetric(30, 0.2, 5) * 10).astype(dtype)
    x = (10 * abs(vector(30))).astype(dtype)
    wanted = A @ x
    for backend in ("serial", "mpi"):
        y = tw.SparseOperator(A, ranks=3, **engine(backend, pool)) @ x
        assert y.dtype == wanted.dtype
        assert close(y, wanted, A, x) if wanted.dtype.kind in "fc" else np.array_equal(y, wanted)


@pytest.mark.parametrize(("of_matrix", "of_vector"), [("d", "D"), ("f", "d"), ("q", "f"), ("D", "f"), ("?", "d")])
def test_products_have_the_common_dtype(of_matrix, of_vector, pool):
    A, x = unsymmetric(20, 0.3, 1).astype(of_matrix), vector(20).astype(of_vector)
    for backend in ("serial", "mpi"):
        y = tw.SparseOperator(A, ranks=3, **engine(backend, pool)) @ x
        assert y.dtype == np.result_type(A.dtype, x.dtype) == (A @ x).dtype
        assert np.allclose(y, A @ x)


def test_indices_of_64_bits(pool):
    A = unsymmetric(40, 0.2, 3)
    wide = sp.csr_array((A.data, A.indices.astype(np.int64), A.indptr.astype(np.int64)), shape=A.shape)
    x = vector(40)
    for backend in ("threads", "mpi"):
        assert np.array_equal(
            tw.SparseOperator(wide, ranks=3, **engine(backend, pool)) @ x,
            tw.SparseOperator(A, ranks=3, backend="serial") @ x,
        )


def test_columns_beyond_32_bits_are_found_and_numbered_in_32():
    """One row, 2^40 columns: what a rank stores goes by what it has, not by n."""
    from tilewright.comm.inspector import Block

    block = Block.of(np.array([0, 1]), np.array([3]), np.ones(1), 5)
    assert (block.indices.dtype, block.indptr.dtype) == (np.int32, np.int32)
    block = Block.of(np.array([0, 1]), np.array([2**40]), np.ones(1), 2**40 + 1)
    assert (block.indices.dtype, block.indptr.dtype) == (np.int64, np.int64)


@pytest.mark.parametrize("kind", [sp.coo_array, sp.csc_array, sp.lil_array, sp.bsr_matrix, sp.dia_array, sp.dok_array])
def test_other_formats_are_converted(kind):
    A = unsymmetric(12, 0.4, 2)
    assert np.allclose(tw.SparseOperator(kind(A), ranks=2, backend="serial") @ vector(12), A @ vector(12))


def test_dense_arrays_are_converted():
    a = np.array([[1.0, 0, 2], [0, 0, 0], [3, 0, 0]])
    assert (tw.SparseOperator(a, ranks=2, backend="serial") @ [1, 2, 3]).tolist() == [7, 0, 3]


def test_duplicates_are_added_and_the_callers_matrix_is_left_alone():
    A = sp.csr_array((np.array([1.0, 2.0, 5.0]), np.array([1, 1, 0]), np.array([0, 3, 3])), shape=(2, 2))
    assert (tw.SparseOperator(A, ranks=2, backend="serial") @ [1, 1]).tolist() == [8, 0]
    assert A.nnz == 3


def test_several_vectors_at_once_have_the_bits_of_each_alone(pool):
    A, X = example("recirc_flow"), np.random.default_rng(0).standard_normal((225, 3))
    for backend in ("threads", "mpi"):
        op = tw.SparseOperator(A, ranks=3, **engine(backend, pool))
        for side in (op, op.T):
            Y = side @ X
            assert all(np.array_equal(Y[:, k], side @ np.ascontiguousarray(X[:, k])) for k in range(3))


# ------------------------------------------------------------------ bits


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("name", ["airfoil", "helmholtz_2D", "recirc_flow"])
def test_all_engines_and_discoveries_give_the_same_bits(name, partition, pool):
    A = example(name)
    x = vector(A.shape[0], A.dtype)
    results = [
        (op @ x, op.T @ x)
        for backend in COMPUTING
        for discovery in ("reduce-scatter", "nbx", "alltoall")
        for op in [tw.SparseOperator(A, ranks=3, partition=partition, discovery=discovery, **engine(backend, pool))]
    ]
    assert all(np.array_equal(y, results[0][0]) and np.array_equal(z, results[0][1]) for y, z in results)


@pytest.mark.parametrize("backend", COMPUTING)
def test_the_product_as_a_task_graph_has_the_same_bits_on_every_engine(backend, pool):
    A = example("recirc_flow")
    x = vector(225)
    op = tw.SparseOperator(A, ranks=3, partition="metis", **engine("mpi", pool))
    (_, y), run = op.run(x, **engine(backend, pool))
    assert np.array_equal(y, op @ x)
    (_, z), _ = op.run(x, transposed=True, **engine(backend, pool))
    assert np.array_equal(z, op.T @ x)
    run.trace.check()
    if backend == "mpi":
        assert run.messages == op.exchange.messages


def test_every_send_forced_to_be_synchronous_changes_nothing(pool):
    for name in ("airfoil", "recirc_flow"):
        A = example(name)
        x = vector(A.shape[0])
        wanted = tw.SparseOperator(A, ranks=3, backend="serial")
        for discovery in ("reduce-scatter", "nbx", "alltoall"):
            op = tw.SparseOperator(A, backend="mpi", pool=pool, synchronous=True, discovery=discovery)
            assert np.array_equal(op @ x, wanted @ x)
            assert np.array_equal(op.T @ x, wanted.T @ x)
            for method in ("separate", "halo", "two-stage"):
                assert np.array_equal(op.powers(x, 4, method), wanted.powers(x, 4, method))
            assert np.array_equal(op.repeat(x, 3), wanted.repeat(x, 3))
            several = np.stack([x, -x], axis=1)
            assert np.array_equal(op @ several, wanted @ several)
            assert np.array_equal(
                op.run(x, 3, "two-stage", pool=pool, backend="mpi", synchronous=True)[0], wanted.powers(x, 3)
            )


# ------------------------------------------------------------------ inspector and executor


def test_ghosts_travel_once_per_pair_whatever_the_number_of_rows_that_need_them():
    A = sp.csr_array(np.ones((6, 6)))
    op = tw.SparseOperator(A, ranks=3, backend="serial")
    assert (op.exchange.words, op.exchange.messages) == (12, 6)
    assert [len(piece.ghosts) for piece in op.pieces] == [4, 4, 4]


def test_a_one_way_pair_sends_one_message():
    A = sp.csr_array(([1.0], ([0], [5])), shape=(6, 6))  # rank 0 needs x_5 of rank 2; nobody needs anything of rank 0
    op = tw.SparseOperator(A, ranks=3, backend="serial")
    assert [list(piece.sources) for piece in op.pieces] == [[2], [], []]
    assert [piece.wanted for piece in op.pieces][:2] == [{}, {}]
    assert op.pieces[2].wanted[0].tolist() == [1]
    assert (op @ np.arange(6.0)).tolist() == [5, 0, 0, 0, 0, 0]


def test_a_rank_stores_its_rows_and_ghosts_and_nothing_of_length_n():
    n = 10_000
    A = sp.diags_array([1.0, 2.0, 1.0], offsets=[-1, 0, 1], shape=(n, n), format="csr")
    for piece in tw.SparseOperator(A, ranks=100, backend="serial").pieces:
        arrays = [*vars(piece.local).values(), *vars(piece.remote).values(), piece.ghosts, piece.boundary]
        assert sum(np.size(array) for array in arrays) < 8 * n / 100


def test_products_do_no_discovery():
    A = example("recirc_flow")
    op = tw.SparseOperator(A, ranks=5, discovery="alltoall", backend="serial")
    comm = op.executor.discovered
    before = comm.messages, list(comm.collectives)
    for _ in range(5):
        op @ vector(225)
    assert (comm.messages, comm.collectives) == before == (op.exchange.messages, ["alltoall"])
    assert op.executor.discovered is comm


def test_the_local_part_starts_before_the_last_message_is_in():
    A = pyamg.gallery.poisson((64, 64), format="csr")
    op = tw.SparseOperator(A, ranks=4, backend="serial")
    run = op.simulate(tw.Machine(alpha=1e-3, beta=1e-6, gamma=1e-9))
    for rank in range(4):
        starts = [
            record.start
            for record in run.trace
            if run.graph.tasks[record.task].op.name == "local" and record.rank == rank
        ]
        arrivals = [message.end for message in run.trace.messages if message.destination == rank]
        assert max(starts) < max(arrivals)


def test_messages_of_the_simulated_product_are_those_of_the_exchange():
    A = pyamg.gallery.poisson((64, 64), format="csr")
    for part in (patches((64, 64), (4, 4)), "rows"):
        op = tw.SparseOperator(A, ranks=16, partition=part, backend="serial")
        run = op.simulate(tw.Machine(alpha=1, beta=1, gamma=1))
        assert (run.messages, run.bytes) == (op.exchange.messages, 8 * op.exchange.words)
        back = op.simulate(tw.Machine(alpha=1, beta=1, gamma=1), transposed=True)
        assert (back.messages, back.bytes) == (run.messages, run.bytes)
        assert run.flops == 2 * A.nnz


# ------------------------------------------------------------------ in SciPy's hands


def test_it_is_a_linear_operator_that_scipys_solvers_take(pool):
    A = sp.csr_array(pyamg.gallery.poisson((12, 12), format="csr") + 16 * sp.eye_array(144))  # few iterations, for Dask
    b = np.ones(144)
    for backend in COMPUTING:
        op = tw.SparseOperator(A, ranks=3, **engine(backend, pool))
        assert isinstance(op, LinearOperator) and aslinearoperator(op) is op
        for solver in (cg, gmres, bicg):  # bicg multiplies by A^H too
            x, info = solver(op, b, rtol=1e-10)
            assert info == 0 and np.allclose(A @ x, b)
    shifted = op + 2 * aslinearoperator(sp.eye_array(144))
    assert np.allclose(shifted @ b, A @ b + 2 * b)
    assert np.allclose((op @ op) @ b, A @ (A @ b))
    assert op.T.T is op


def test_out_and_vectors_of_the_operator_are_used_in_place(pool):
    A = sp.csr_array(pyamg.gallery.poisson((12, 12), format="csr"))
    for backend in ("serial", "mpi"):
        op = tw.SparseOperator(A, ranks=3, **engine(backend, pool))
        x, y = op.vector(), op.vector()
        x[:] = vector(144)
        assert op.multiply(x, out=y) is y
        assert np.array_equal(y, op @ np.array(x))
        assert op.multiply(x, out=x) is x  # one array for both
        assert np.array_equal(x, y)
        assert op.vector(2).shape == (144, 2)


def test_repeat_is_a_power(pool):
    A = sp.csr_array(pyamg.gallery.poisson((9, 9), format="csr")) / 8
    for backend in ("serial", "mpi"):
        op = tw.SparseOperator(A, ranks=3, partition="bisection", **engine(backend, pool))
        x = vector(81)
        wanted = x
        for _ in range(7):
            wanted = op @ wanted
        assert np.array_equal(op.repeat(x, 7), wanted)
        assert np.array_equal(op.repeat(x, 0), x)


def test_operators_share_a_pool_and_the_ranks_forget_the_dead(pool, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    A = sp.csr_array(pyamg.gallery.poisson((9, 9), format="csr"))
    first, second = (tw.SparseOperator(factor * A, backend="mpi", pool=pool) for factor in (1, 2))
    x = vector(81)
    assert np.array_equal(2 * (first @ x), second @ x)
    del first
    third = tw.SparseOperator(3 * A, backend="mpi", pool=pool)
    assert np.allclose(third @ x, 3 * (A @ x))
    assert np.allclose(second @ x, 2 * (A @ x))
    kept = pool.call("form_checks:kept")
    del second, third
    tw.SparseOperator(A, backend="mpi", pool=pool)
    assert all(after < before for before, after in zip(kept, pool.call("form_checks:kept"), strict=True))


def test_an_operator_outlives_its_default_pool():
    A = sp.csr_array(pyamg.gallery.poisson((5, 5), format="csr"))
    op = tw.SparseOperator(A, ranks=2, backend="mpi")
    y = op @ np.ones(25)
    op.executor.pool.close()
    assert np.array_equal(op @ np.ones(25), y)
    op.executor.pool.close()


def test_repr_says_what_it_is():
    op = tw.SparseOperator(sp.eye_array(4), ranks=2, backend="serial")
    assert repr(op) == "SparseOperator(4 x 4, 4 entries, float64, ranks=2, partition='rows', backend='serial')"


# ------------------------------------------------------------------ bad input


A4 = sp.eye_array(4, format="csr")


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (
            lambda: tw.SparseOperator(np.ones(3)),
            ValueError,
            "SparseOperator needs a matrix, not an array of shape (3,)",
        ),
        (lambda: tw.SparseOperator(["a"]), TypeError, "needs a sparse matrix or a 2-D array of numbers, not list"),
        (
            lambda: tw.SparseOperator(A4.toarray().astype(object)),
            TypeError,
            "2-D array of numbers, not ndarray of object",
        ),
        (lambda: tw.SparseOperator(np.eye(3, dtype="f2")), TypeError, "no sparse product for float16; convert"),
        (
            lambda: tw.SparseOperator(sp.csr_array(([np.nan], ([2], [1])), shape=(3, 3))),
            ValueError,
            "A[2, 1] is nan; check_finite=False",
        ),
        (lambda: tw.SparseOperator(sp.csr_array(([np.inf], ([0], [2])), shape=(3, 3))), ValueError, "A[0, 2] is inf"),
        (lambda: tw.SparseOperator(A4, ranks=0), ValueError, "ranks must be at least 1, not 0"),
        (lambda: tw.SparseOperator(A4, ranks=1.5), TypeError, "ranks must be an integer, not 1.5"),
        (lambda: tw.SparseOperator(A4, backend="gpu"), ValueError, "unknown backend 'gpu'"),
        (lambda: tw.SparseOperator(A4, ranks=2, discovery="guess"), ValueError, "unknown discovery 'guess'"),
        (lambda: tw.SparseOperator(A4, ranks=2, partition="thirds"), ValueError, "unknown partition 'thirds'"),
        (lambda: tw.SparseOperator(sp.csr_array((3, 4)), ranks=2, partition="metis"), ValueError, "3 x 4, use 'rows'"),
        (lambda: tw.SparseOperator(A4, backend="serial", comm=1), ValueError, "pool and comm are for backend 'mpi'"),
        (
            lambda: _op() @ np.ones(3),
            ValueError,
            "A x with a matrix of 4 x 4 needs x of shape (4,) or (4, k), not (3,)",
        ),
        (
            lambda: _op().T @ np.ones(5),
            ValueError,
            "A^T x with a matrix of 4 x 4 needs x of shape (4,) or (4, k), not (5,)",
        ),
        (lambda: _op() @ np.ones((4, 2, 2)), ValueError, "not (4, 2, 2)"),
        (lambda: _op() @ np.array(list("abcd")), TypeError, "x must have numbers, not <U1"),
        (lambda: _op() @ np.ones(4, "f2").astype("O"), TypeError, "x must have numbers, not object"),
        (lambda: _op() @ [1, np.nan, 2, 3], ValueError, "x[1] is nan; check_finite=False"),
        (lambda: _op() @ np.array([[1, 2], [1, np.inf], [2, 3], [4, 4]]), ValueError, "x[1, 1] is inf"),
        (lambda: _op().multiply(np.ones(4), out=np.ones(3)), ValueError, "out must be a C-ordered array of shape (4,)"),
        (lambda: _op().multiply(np.ones(4), out=np.ones(4, "f4")), ValueError, "dtype float64, not float32"),
        (
            lambda: _op().powers(np.ones(4), 2, "magic"),
            ValueError,
            "unknown method 'magic'; known: separate, halo, two-stage",
        ),
        (lambda: _op().powers(np.ones(4), 0), ValueError, "s must be at least 1, not 0"),
        (lambda: _op().powers(np.ones(4), 2, block=0), ValueError, "block must be at least 1, not 0"),
        (lambda: _op().repeat(np.ones(4), -1), ValueError, "times must be at least 0"),
        (lambda: _op().closures(2, "separate"), ValueError, "unknown method 'separate'; known: halo, two-stage"),
        (
            lambda: tw.SparseOperator(sp.csr_array((3, 4)), ranks=2, backend="serial").powers(np.ones(4), 2),
            ValueError,
            "powers needs a square matrix, not 3 x 4",
        ),
    ],
)
def test_bad_input_is_one_clear_sentence(make, kind, words):
    with pytest.raises(kind) as caught:
        make()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def _op():
    return tw.SparseOperator(A4, ranks=2, backend="serial")


def test_a_pool_of_another_size_is_refused(pool):
    with pytest.raises(ValueError, match="ranks=2, but there are 3"):
        tw.SparseOperator(A4, ranks=2, backend="mpi", pool=pool)


def test_nan_passes_where_the_check_is_off():
    op = tw.SparseOperator(A4, ranks=2, backend="serial", check_finite=False)
    assert np.isnan(op @ [1, np.nan, 1, 1]).tolist() == [False, True, False, False]


def test_numbers_whose_squares_overflow_are_finite():
    op = tw.SparseOperator(A4 * 1e200, ranks=2, backend="serial")
    assert np.allclose(op @ np.full(4, 1e100), 1e300)


# ------------------------------------------------------------------ kernels


def test_a_row_summed_in_two_calls_has_the_bits_of_one():
    rng = np.random.default_rng(1)
    A = sp.csr_array(rng.standard_normal((40, 60)))
    x = rng.standard_normal(60)
    left, right, y = sp.csr_array(A[:, :23]), sp.csr_array(A[:, 23:]), np.zeros(40)
    csr.multiply_add(left.indptr, left.indices, left.data, np.ascontiguousarray(x[:23]), y)
    csr.multiply_add(right.indptr, right.indices, right.data, np.ascontiguousarray(x[23:]), y)
    assert np.array_equal(y, A @ x)


def test_bytes_of_a_product():
    assert csr.bytes_moved(10, 20, 100, "f8") == 100 * 12 + 11 * 4 + 30 * 8
    assert csr.bytes_moved(10, 20, 100, "f4", np.int64) == 100 * 12 + 11 * 8 + 30 * 4


# ------------------------------------------------------------------ on the ranks of mpiexec


@pytest.mark.timeout(60)
def test_the_same_calls_are_collective_under_mpiexec(tmp_path):
    command = [mpiexec(), "-n", "3", sys.executable, str(Path(__file__).parent / "sparse_spmd.py"), str(tmp_path)]
    done = subprocess.run(command, env=environment("mpich"), capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in range(3):
        seen = json.loads((tmp_path / f"{rank}.json").read_text())
        assert seen["products"] == [True] * 6
        assert seen["powers"] == [True] * 3
        assert seen["cg"] == [True, True]
        assert seen["dense"] == [True] * 6 and seen["narrow"] == [True] * 2
        assert seen["size"] == "ranks=2, but there are 3"
        assert "ranks were called with different matrix" in seen["different"]


# ------------------------------------------------------------------ by diagonals


@pytest.fixture
def by_diagonals(pool):
    """Ranks that take the diagonals of small matrices too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        before = pool.call("form_checks:prefer", 1)[0]
        yield lambda: pool.call("form_checks:lines")
        pool.call("form_checks:prefer", before)


def grid(n, symmetric):
    line = sp.diags_array([-1.0, 2.0, -1.0 if symmetric else -0.3], offsets=[-1, 0, 1], shape=(n, n))
    return sp.csr_array(sp.kronsum(line, line))


@pytest.mark.parametrize("symmetric", [True, False])
def test_ranks_that_multiply_by_diagonals_give_the_bits_of_rows(pool, by_diagonals, symmetric):
    A, dtype = grid(45, symmetric), np.float32
    op = tw.SparseOperator(A, backend="mpi", pool=pool)
    rows = tw.SparseOperator(A, ranks=3, backend="serial")
    x = vector(A.shape[0])
    assert np.array_equal(op @ x, rows @ x) and np.array_equal(op.T @ x, rows.T @ x)
    for method in ("separate", "halo", "two-stage"):
        assert np.array_equal(op.powers(x, 3, method), rows.powers(x, 3))
    narrow = tw.SparseOperator(A.astype(dtype), backend="mpi", pool=pool)
    assert np.array_equal(narrow @ x.astype(dtype), tw.SparseOperator(A.astype(dtype), ranks=3) @ x.astype(dtype))
    assert np.array_equal(narrow @ x, tw.SparseOperator(A.astype(dtype), ranks=3) @ x)
    several = np.stack([x, 2 * x], axis=1)
    assert np.array_equal(op @ several, rows @ several)
    assert by_diagonals() == [{"float32": 3 if symmetric else 5, "float64": 3 if symmetric else 5}] * 3


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_infinity_beside_a_slot_without_an_entry_changes_no_other_component(pool, by_diagonals, bad):
    A = grid(45, False)
    x = vector(A.shape[0])
    x[44] = bad  # the last point of a line of the grid: the first of the next line has no entry for it
    op = tw.SparseOperator(A, backend="mpi", pool=pool, check_finite=False)
    rows = tw.SparseOperator(A, ranks=3, backend="serial", check_finite=False)
    assert np.array_equal(op @ x, rows @ x, equal_nan=True) and np.isfinite((op @ x)[45])
    assert np.array_equal(op.T @ x, rows.T @ x, equal_nan=True)
    assert by_diagonals() == [{"float64": 5}] * 3


def test_ranks_with_scattered_entries_multiply_by_rows(pool, by_diagonals):
    A = unsymmetric(500, 0.05, 3)
    op = tw.SparseOperator(A, backend="mpi", pool=pool)
    x = vector(500)
    assert np.array_equal(op @ x, tw.SparseOperator(A, ranks=3, backend="serial") @ x)
    assert by_diagonals() == [{"float64": 0}] * 3


# ------------------------------------------------------------------ indices that point outside


def broken(form, **parts):
    """A sound 4 x 4 matrix whose parts were changed afterwards, as a careless program does."""
    A = sp.csr_array(np.arange(16.0).reshape(4, 4)).asformat(form)
    for name, value in parts.items():
        getattr(A, name).flat[value[0]] = value[1]
    return A


@pytest.mark.parametrize(
    ("form", "parts"),
    [
        (form, parts)
        for form in ("csr", "csc", "bsr")
        for parts in (
            {"indptr": (2, 10**6)},
            {"indptr": (4, 10**6)},
            {"indptr": (1, -5)},
            {"indices": (0, 99)},
            {"indices": (1, -1)},
        )
        if form != "bsr" or parts.get("indptr", (2,))[0] == 1 or parts.get("indices", (1,))[0] == 0
    ]
    + [("coo", {"row": (0, 9)}), ("coo", {"col": (3, -1)}), ("coo", {"row": (1, 10**6)})],
)
def test_a_matrix_whose_indices_point_outside_is_refused(form, parts):
    with pytest.raises(ValueError, match="of a sparse matrix"):
        tw.SparseOperator(broken(form, **parts), ranks=2, backend="serial")


def test_rows_made_by_hand_that_point_outside_are_refused():
    A = sp.lil_array((3, 3))
    A[0, 0] = 1
    A.rows[0] = [7]
    with pytest.raises(ValueError, match="of a sparse matrix"):
        tw.SparseOperator(A, ranks=1, backend="serial")
