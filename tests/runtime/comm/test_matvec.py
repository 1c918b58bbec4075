"""Dense matrix-vector products: values, owners, messages, times."""

import gc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import bicg, cg, gmres

import tilewright as tw
from tilewright.backends import COMPUTING
from tilewright.comm.grid import Grid, best_grid, grid_of, matvec_cost
from tilewright.comm.matvec_graph import matvec_graph

pytestmark = pytest.mark.long

MACHINE = tw.Machine(alpha=1.1e-6, beta=1.3e-9, gamma=0.7e-9)
backends = pytest.mark.parametrize("backend", [name for name in COMPUTING if name != "dask"])


def random(shape, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(shape)
    return (a + 1j * rng.standard_normal(shape)).astype(dtype) if dtype.startswith("c") else a.astype(dtype)


class TestOwners:
    """The lecture's 12 x 12 matrix on 3 x 4 ranks; its a_37, a_77, a_11,7 in block column 2 are misprints of a_i6."""

    grid = Grid(12, 12, 3, 4)

    def test_x_stands_above_its_block_as_in_the_picture(self):
        above = [["x0", "x3", "x6", "x9"], ["x1", "x4", "x7", "x10"], ["x2", "x5", "x8", "x11"]]
        for i, row in enumerate(above):
            for j, name in enumerate(row):
                assert self.grid.x_owner(int(name[1:])) == self.grid.rank(i, j)

    def test_y_stands_beside_its_block_as_in_the_picture(self):
        beside = [["y0", "y1", "y2", "y3"], ["y4", "y5", "y6", "y7"], ["y8", "y9", "y10", "y11"]]
        for i, row in enumerate(beside):
            for j, name in enumerate(row):
                assert self.grid.y_owner(int(name[1:])) == self.grid.rank(i, j)

    def test_blocks_are_four_rows_by_three_columns(self):
        for row in range(12):
            for column in range(12):
                assert self.grid.block_owner(row, column) == self.grid.rank(row // 4, column // 3)

    def test_drawing_has_every_cell_where_the_lecture_has_it(self):
        lines = self.grid.picture().splitlines()
        assert len(lines) == 3 * 5
        assert lines[0].split() == ["x0", "x3", "x6", "x9"]
        assert lines[1].split() == [
            "a0,0",
            "a0,1",
            "a0,2",
            "y0",
            "a0,3",
            "a0,4",
            "a0,5",
            "a0,6",
            "a0,7",
            "a0,8",
            "a0,9",
            "a0,10",
            "a0,11",
        ]
        assert lines[4].split() == [
            "a3,0",
            "a3,1",
            "a3,2",
            "a3,3",
            "a3,4",
            "a3,5",
            "a3,6",
            "a3,7",
            "a3,8",
            "a3,9",
            "a3,10",
            "a3,11",
            "y3",
        ]
        assert lines[12].split()[:8] == ["a9,0", "a9,1", "a9,2", "a9,3", "a9,4", "a9,5", "y9", "a9,6"]

    @given(m=st.integers(0, 40), n=st.integers(0, 40), r=st.integers(1, 5), c=st.integers(1, 5))
    def test_every_entry_has_one_owner(self, m, n, r, c):
        grid = Grid(m, n, r, c)
        for length, piece in ((n, grid.x_piece), (m, grid.y_piece)):
            owned = Counter(k for q in range(grid.ranks) for k in range(*piece(q)))
            assert owned == dict.fromkeys(range(length), 1)


class TestValues:
    @settings(max_examples=60)
    @given(
        m=st.integers(0, 30),
        n=st.integers(0, 30),
        r=st.integers(1, 4),
        c=st.integers(1, 4),
        overlap=st.booleans(),
        dtype=st.sampled_from(["float32", "float64", "complex64", "complex128"]),
    )
    def test_any_shape_on_any_grid(self, m, n, r, c, overlap, dtype):
        A, x, z = random((m, n), dtype), random(n, dtype, 1), random(m, dtype, 2)
        op = tw.DenseOperator(A, "grid", grid=(r, c), backend="serial", overlap=overlap)
        u = np.finfo(dtype).eps / 2
        for got, B, v in ((op @ x, A, x), (op.T @ z, A.T, z), (op.H @ z, A.conj().T, z)):
            assert got.dtype == A.dtype
            # |y - B v| <= 4 n u |B| |v|, LAPACK's kind of bound; complex arithmetic doubles it
            bound = 8 * (B.shape[1] + 1) * u * (np.abs(B) @ np.abs(v))
            assert (np.abs(got - B @ v) <= bound).all()

    @pytest.mark.parametrize("grid", [(3, 1), (1, 3), (2, 2), (4, 1)])
    @pytest.mark.parametrize("overlap", [False, True])
    def test_every_engine_gives_the_same_bits(self, grid, overlap):
        A, x, z = random((41, 37)), random(37, seed=1), random(41, seed=2)
        results = []
        for backend in ("serial", "threads", "mpi"):
            for synchronous in (False, True):
                op = tw.DenseOperator(A, "grid", grid=grid, backend=backend, overlap=overlap, synchronous=synchronous)
                results.append(np.concatenate([op @ x, op.T @ z]))
        assert all(np.array_equal(results[0], other) for other in results)

    def test_dask_gives_the_same_bits(self):
        A, x = random((20, 20)), random(20, seed=1)
        serial, dask = (tw.DenseOperator(A, "grid", grid=(2, 2), backend=b) for b in ("serial", "dask"))
        assert np.array_equal(serial @ x, dask @ x) and np.array_equal(serial.T @ x, dask.T @ x)

    @backends
    def test_transposed_product_is_the_adjoint(self, backend):
        op = tw.DenseOperator(random((20, 30)), "grid", grid=(2, 2), backend=backend)
        x, y = random(30, seed=1), random(20, seed=2)
        assert np.isclose(np.dot(op @ x, y), np.dot(x, op.T @ y), rtol=1e-12)

    @backends
    def test_power_iteration_finds_the_largest_eigenvalue(self, backend):
        A = random((24, 24))
        A = A + A.T + 40 * np.ones((24, 24)) / 24
        for grid in ((2, 2), (3, 1), (1, 3)):
            op = tw.DenseOperator(A, "grid", grid=grid, backend=backend)
            value, vector = op.power_iteration(80)
            assert np.isclose(value, np.linalg.eigvalsh(A)[-1], rtol=1e-12)
            assert np.allclose(A @ vector, value * vector, atol=1e-6)

    def test_power_iteration_with_every_send_forced_synchronous(self):
        A = random((12, 12), "complex128")
        A += A.conj().T
        for grid in ((2, 2), (3, 1)):
            free, forced = (
                tw.DenseOperator(A, "grid", grid=grid, backend="mpi", synchronous=synchronous).power_iteration(5)
                for synchronous in (False, True)
            )
            assert free[0] == forced[0] and np.array_equal(free[1], forced[1])

    @pytest.mark.parametrize("backend", COMPUTING)
    def test_scipys_solvers_take_it(self, backend):
        A = random((30, 30))
        spd, general = A @ A.T + 300 * np.eye(30), A + 60 * np.eye(30)  # few iterations: Dask takes 30 ms a product
        b = random(30, seed=3)
        op = tw.DenseOperator(spd, "grid", 2, backend=backend)
        assert np.allclose(spd @ cg(op, b, rtol=1e-10)[0], b, atol=1e-8)
        op = tw.DenseOperator(general, "columns", 2, backend=backend)
        for solver in (gmres, bicg):  # bicg multiplies by A^H too
            assert np.allclose(general @ solver(op, b, rtol=1e-10)[0], b, atol=1e-8)

    def test_several_vectors_and_integers_and_a_complex_vector(self):
        op = tw.DenseOperator(np.arange(12).reshape(3, 4), ranks=2, backend="serial")
        X = np.arange(8).reshape(4, 2)
        assert np.array_equal(op @ X, np.arange(12).reshape(3, 4) @ X)
        assert np.array_equal(op @ np.array([1j, 0, 0, 1]), np.array([3 + 0j, 7 + 4j, 11 + 8j]))

    def test_matvec_in_one_call(self):
        A, x = random((9, 7)), random(7)
        for layout in ("rows", "columns", "grid"):
            for backend in COMPUTING:
                assert np.allclose(tw.matvec(A, x, backend=backend, layout=layout, ranks=3), A @ x)
        assert tw.matvec(A, x[:, None], ranks=2).shape == (9, 1)

    def test_more_ranks_than_rows(self):
        A, x = random((2, 3)), random(3)
        assert np.allclose(tw.matvec(A, x, ranks=7, backend="serial"), A @ x)
        assert np.allclose(tw.matvec(A, x, layout="grid", grid=(3, 4), backend="serial"), A @ x)


class TestPowerIteration:
    """The eigenvalue, at every scale; and 0 for what a matrix sends to zero."""

    @backends
    def test_of_a_zero_matrix_and_a_nilpotent_one_is_zero(self, backend):
        for matrix in (np.zeros((3, 3)), np.diag([1.0, 1.0], 1)):
            value, vector = tw.DenseOperator(matrix, ranks=2, backend=backend).power_iteration(5)
            assert value == 0 and np.isclose(np.linalg.norm(vector), 1) and not (matrix @ vector).any()

    @pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
    @pytest.mark.parametrize("grid", [(1, 1), (2, 2), (3, 1)])
    def test_lengths_neither_overflow_nor_underflow(self, dtype, grid):
        A = random((12, 12), dtype)
        A = A + A.conj().T + 30 * np.eye(12, dtype=dtype)
        real = np.zeros(0, dtype).real.dtype
        value, vector = tw.DenseOperator(A, "grid", grid=grid, backend="serial").power_iteration(40)
        most = np.finfo(real).maxexp
        for power in (-most + 20, -most // 2, most // 2, most - 20):
            scaled = A * real.type(2.0) ** real.type(power)
            other, turned = tw.DenseOperator(scaled, "grid", grid=grid, backend="serial").power_iteration(40)
            factor = 1 if real == np.float64 else 1e4
            assert np.isclose(other * 2.0**-power, value, rtol=1e-10 * factor**2)
            assert np.allclose(turned, vector, atol=1e-6 * factor**0.5)

    def test_starts_of_every_scale_and_of_complex_numbers(self):
        A = np.diag([1.0, 3.0])
        op = tw.DenseOperator(A, ranks=2, backend="serial")
        for scale in (1e300, 1e-300, 1e-310):
            assert np.isclose(op.power_iteration(40, np.array([1.0, 1.0]) * scale)[0], 3)
        value, vector = op.power_iteration(40, np.array([1.0, 1j]))
        assert isinstance(value, complex) and np.isclose(value, 3) and np.allclose(vector, [0, 1j])
        assert op.power_iteration(3, np.ones(2, "f"))[1].dtype == float
        assert tw.DenseOperator(A.astype("f"), ranks=1, backend="serial").power_iteration(3)[1].dtype == np.float32

    def test_a_length_beyond_all_numbers_is_said(self):
        op = tw.DenseOperator(np.full((4, 4), 1e308), ranks=2, backend="serial")
        with pytest.raises(OverflowError, match="beyond the range of float64; scale the matrix"):
            op.power_iteration(2)


@backends
def test_no_columns_and_no_rows(backend):
    op = tw.DenseOperator(np.ones((3, 3)), ranks=2, backend=backend)
    assert (op @ np.ones((3, 0))).shape == (3, 0) and (op.T @ np.ones((3, 0))).shape == (3, 0)
    assert tw.matvec(np.ones((0, 3)), np.ones(3), ranks=2, backend=backend).shape == (0,)
    assert not tw.matvec(np.ones((3, 0)), np.ones(0), ranks=2, backend=backend).any()


def test_operators_stay_in_this_process_unless_they_are_told_to_go():
    A, x = random((6, 6)), random(6)
    for make in (tw.DenseOperator, tw.SparseOperator):
        operator = make(A, ranks=2)
        assert operator.backend == "threads" and operator.ranks == 2 and np.allclose(operator @ x, A @ x)
        with pytest.raises(ValueError, match="pool and comm are for backend 'mpi', not 'threads'"):
            make(A, pool=object())


def test_ranks_are_those_of_the_pool():
    A, x = random((6, 6)), random(6)
    with tw.mpi.Pool(3) as pool:
        assert tw.DenseOperator(A, backend="mpi").ranks == 3 == tw.SparseOperator(A, backend="mpi").ranks
        assert np.allclose(tw.matvec(A, x, backend="mpi"), A @ x)
        assert np.allclose(tw.DenseOperator(A, "grid", grid=(3, 1), backend="mpi") @ x, A @ x)
    with tw.mpi.Pool(2) as other:
        with pytest.raises(ValueError, match="ranks=3, but there are 2"):
            tw.DenseOperator(A, ranks=3, backend="mpi", pool=other)
        with pytest.raises(RuntimeError, match="pool is closed"):
            tw.DenseOperator(A, backend="mpi", pool=pool)
        assert tw.DenseOperator(A, backend="mpi", pool=other).ranks == 2
    for backend in ("serial", "threads"):
        with pytest.raises(ValueError, match=f"pool and comm are for backend 'mpi', not '{backend}'"):
            tw.matvec(A, x, backend=backend, pool=pool)
    with pytest.raises(
        TypeError, match="matvec: unknown option workers; it takes ranks=, how many processes hold the data"
    ):
        tw.matvec(A, x, backend="mpi", workers=3)


class TestMessages:
    @pytest.mark.parametrize("p", [2, 4, 8, 16])
    def test_rows_and_columns_send_p_minus_1_pieces_in_log_p_messages(self, p):
        n, L = 6 * p, p.bit_length() - 1
        for grid in (Grid(n, n, p, 1), Grid(n, n, 1, p)):
            run = tw.simulate(matvec_graph(grid), MACHINE)
            assert Counter(m.source for m in run.trace.messages) == dict.fromkeys(range(p), L)
            sent = Counter()
            for m in run.trace.messages:
                sent[m.source] += m.nbytes // 8
            assert sent == dict.fromkeys(range(p), (p - 1) * 6)

    def test_grid_of_one_column_is_rows_and_of_one_row_is_columns(self):
        def messages(layout, **kwargs):
            grid = grid_of(layout, 4, kwargs.get("grid"), (24, 24))
            return sorted(
                (m.source, m.destination, m.nbytes) for m in tw.simulate(matvec_graph(grid), MACHINE).trace.messages
            )

        assert messages("rows") == messages("grid", grid=(4, 1))
        assert messages("columns") == messages("grid", grid=(1, 4))

    @pytest.mark.parametrize("side", [2, 3, 4])
    def test_next_product_exchanges_p_minus_sqrt_p_pieces(self, side):
        """The diagonal keeps what it has: D5."""
        from tilewright.comm.matvec_graph import _Program

        p, n = side * side, side * side * 5
        program = _Program(tw.TaskGraph("turn"), Grid(n, n, side, side), "float64")
        y, x = program.vector("y", lambda q: 5), program.vector("x", lambda q: 5)
        program.turn(y, x)
        program.finish()
        run = tw.simulate(program.graph, MACHINE)
        assert run.messages == p - side
        assert {(m.source, m.destination) for m in run.trace.messages} == {
            (i * side + j, j * side + i) for i in range(side) for j in range(side) if i != j
        }
        assert run.makespan == MACHINE.alpha + MACHINE.beta * 5

    def test_product_with_the_transpose_needs_no_move(self):
        grid = Grid(30, 42, 3, 2)
        there, back = matvec_graph(grid).layout, matvec_graph(grid, transposed=True).layout
        for q in range(6):
            y, x = tw.Handle("y", (q,)), tw.Handle("x", (q,))
            assert there.shape(y) == back.shape(x) and there.owner(y) == back.owner(x)
            assert grid.y_piece(q)[1] - grid.y_piece(q)[0] == back.shape(x)[0]

    def test_overlapped_local_part_starts_before_the_last_message_is_in(self):
        graph = matvec_graph(Grid(400, 400, 4, 1), overlap=True)
        trace = tw.simulate(graph, MACHINE.replace(workers=2)).trace
        local = [r for r in trace if graph.tasks[r.task].op.name == "local"]
        assert max(r.start for r in local) < max(m.end for m in trace.messages)
        plain = tw.simulate(matvec_graph(Grid(400, 400, 4, 1)), MACHINE).makespan
        assert plain / 2 <= trace.makespan < plain

    def test_traced_product_on_mpi_has_its_messages(self):
        op = tw.DenseOperator(random((40, 40)), ranks=2, backend="mpi")
        y, trace = op.traced(np.ones(40))
        trace.check()
        assert y.shape == (40,)
        assert sorted((m.source, m.destination, m.nbytes) for m in trace.messages) == [(0, 1, 160), (1, 0, 160)]


class TestTime:
    @pytest.mark.parametrize(
        ("r", "c"), [(1, 1), (2, 1), (4, 1), (16, 1), (1, 2), (1, 8), (2, 2), (4, 4), (8, 2), (3, 5)]
    )
    def test_simulated_time_is_the_formula_to_the_last_digit(self, r, c):
        p, n = r * c, 12 * r * c
        grid = Grid(n, n, r, c)
        assert tw.simulate(matvec_graph(grid), MACHINE).makespan == matvec_cost(p, n, MACHINE, grid=(r, c))
        overlapped = tw.simulate(matvec_graph(grid, overlap=True), MACHINE.replace(workers=2)).makespan
        assert overlapped == matvec_cost(p, n, MACHINE, grid=(r, c), overlap=True)

    def test_best_grid_is_the_cheapest_of_all(self):
        for p in (1, 2, 6, 7, 12, 16, 36):
            chosen = best_grid(p, 1200, MACHINE)
            sides = [(r, p // r) for r in range(1, p + 1) if p % r == 0]
            assert matvec_cost(p, 1200, MACHINE, grid=chosen) == min(
                matvec_cost(p, 1200, MACHINE, grid=g) for g in sides
            )

    def test_grid_ties_with_rows_on_four_ranks_and_wins_on_sixteen_when_a_word_costs_a_flop(self):
        """(p - 1) beta against (sqrt(p) - 1) (2 beta + gamma)."""
        machine = tw.Machine(alpha=0.0, beta=2.0**-30, gamma=2.0**-30)
        rows, grid = (matvec_cost(4, 400, machine, grid=g) for g in ((4, 1), (2, 2)))
        assert rows == grid
        rows, grid = (matvec_cost(16, 1600, machine, grid=g) for g in ((16, 1), (4, 4)))
        assert grid < rows


class TestResidency:
    def test_blocks_go_with_the_operator(self):
        op = tw.DenseOperator(np.ones((600, 600)), ranks=2, backend="mpi")
        assert (op @ np.ones(600))[0] == 600
        del op
        gc.collect()
        assert (tw.DenseOperator(np.ones((3, 3)), ranks=2, backend="mpi") @ np.ones(3))[0] == 3

    def test_matrix_changed_after_the_fact_changes_nothing(self):
        A = np.ones((4, 4))
        for backend in ("serial", "mpi"):
            op = tw.DenseOperator(A, ranks=2, backend=backend)
            A[...] = 7
            assert (op @ np.ones(4))[0] == 4
            A[...] = 1


BAD = [
    (lambda: tw.matvec(np.ones(3), np.ones(3)), ValueError, r"A must have two dimensions, not shape \(3,\)"),
    (lambda: tw.matvec(np.ones((2, 3)), np.ones(2)), ValueError, r"x has shape \(2,\), but A has 3 columns"),
    (lambda: tw.matvec(np.array([["a"]]), np.ones(1)), TypeError, "A must be float32, float64, complex64 or complex128"),
    (lambda: tw.matvec(np.array([[1.0, np.nan]]), np.ones(2)), ValueError, r"A has NaN or infinity, first at \[0, 1\]"),
    (lambda: tw.matvec(np.ones((1, 2)), np.array([np.inf, 1])), ValueError, r"x has NaN or infinity, first at \[0\]"),
    (lambda: tw.matvec(np.ones((2, 2)), np.ones(2), layout="tiles"), ValueError, "unknown layout 'tiles'; known: rows, columns, grid"),
    (lambda: tw.matvec(np.ones((2, 2)), np.ones(2), layout="grid", grid=(2, 2), ranks=3), ValueError, "a grid of 2 x 2 has 4 ranks, not 3"),
    (lambda: tw.matvec(np.ones((2, 2)), np.ones(2), layout="grid", grid=(0, 2)), ValueError, "grid must be two positive integers"),
    (lambda: tw.matvec(np.ones((2, 2)), np.ones(2), grid=(2, 1)), ValueError, "goes with layout='grid', not with 'rows'"),
    (lambda: tw.matvec(np.ones((2, 2)), np.ones(2), ranks=0), ValueError, "ranks must be at least 1, not 0"),
    (lambda: tw.matvec(np.ones((2, 2)), np.ones(2), backend="smoke"), ValueError, "unknown backend 'smoke'"),
    (lambda: tw.DenseOperator(np.ones((2, 3)), ranks=1, backend="serial").power_iteration(3), ValueError, "needs a square matrix, not 2 x 3"),
    (lambda: tw.DenseOperator(np.eye(2), ranks=1, backend="serial").power_iteration(0), ValueError, "steps must be at least 1, not 0"),
    (lambda: tw.DenseOperator(np.eye(2), ranks=1, backend="serial").power_iteration(1, np.zeros(2)), ValueError, "cannot start from zero"),
    (lambda: tw.DenseOperator(np.eye(2), ranks=1, backend="serial").power_iteration(1, np.ones(3)), ValueError, "x has shape"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "sentence"), BAD)
def test_bad_input_is_one_sentence(call, kind, sentence):
    with pytest.raises(kind, match=sentence):
        call()


def test_operator_refuses_a_vector_of_the_wrong_length():
    op = tw.DenseOperator(np.ones((3, 4)), ranks=1, backend="serial")
    for turned, n, name in ((op, 4, "A x"), (op.T, 3, "A^T x"), (op.H, 3, "A^H x")):
        for shape in ((2,), (2, n), (n, 1, 1), ()):
            with pytest.raises(ValueError) as caught:
                turned @ np.ones(shape)
            if shape:
                wanted = f"{name} with a matrix of 3 x 4 needs x of shape ({n},) or ({n}, k), not {shape}"
                assert str(caught.value) == wanted


def test_transposes_and_adjoints_turn_back():
    A, x, z = random((3, 4), "complex128"), random(4, "complex128", 1), random(3, "complex128", 2)
    op = tw.DenseOperator(A, ranks=2, backend="serial")
    for B, v, turned in ((A, x, op.T.T), (A, x, op.H.H), (A.T, z, op.T), (A.conj(), x, op.T.H), (A.conj(), x, op.H.T)):
        assert np.allclose(turned @ v, B @ v, rtol=1e-14) and np.allclose(turned @ np.c_[v, v], B @ np.c_[v, v])
        w = z if B.shape[0] == 3 else x
        assert np.allclose(turned.H @ w, B.conj().T @ w, rtol=1e-14)
