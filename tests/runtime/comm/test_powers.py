"""Several products with one exchange: counts of the lecture, bits, and what the simulator says about blocks."""

import numpy as np
import pyamg
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import random_sparse

import tilewright as tw
from tilewright import comm
from tilewright.backends import COMPUTING
from tilewright.comm.domains import block_size, block_time, efficiency, time
from tilewright.comm.partition import by_rows, exchange, patches, slabs
from tilewright.comm.products import recur

HALO = [0, 1, 3, 6, 10, 15, 21, 28, 36, 45]
TWO_STAGE = [0, 1, 2, 4, 6, 9, 12, 16, 20, 25]


def line(n):
    return sp.diags_array([1.0, 2.0, 3.0], offsets=[-1, 0, 1], shape=(n, n), format="csr")


def ring(n, p):
    """A periodic 3-point stencil on p ranks."""
    i = np.arange(n)
    A = sp.coo_array((np.ones(3 * n), (np.tile(i, 3), np.concatenate([i, (i + 1) % n, (i - 1) % n]))), shape=(n, n))
    return tw.SparseOperator(A, ranks=p, backend="serial")


def torus(n):
    """A periodic 5-point stencil on n x n points."""
    C = sp.diags_array([1.0, 1.0, 1.0, 1.0], offsets=[-1, 1, n - 1, 1 - n], shape=(n, n))
    eye = sp.eye_array(n)
    return sp.csr_array(sp.kron(C, eye) + sp.kron(eye, C) + 4 * sp.eye_array(n * n))


# ------------------------------------------------------------------ counts


@pytest.mark.parametrize("b", range(1, 11))
@pytest.mark.parametrize(("method", "table"), [("halo", HALO), ("two-stage", TWO_STAGE)])
def test_counts_of_a_3_point_stencil_are_those_of_the_table(method, table, b):
    """A side of a block of b: 1 message, b words, b (b - 1) / 2 or floor(b^2 / 4) redundant points."""
    assert table[b - 1] == (b * (b - 1) // 2 if method == "halo" else b * b // 4)
    ends_and_middle = tw.SparseOperator(line(160), ranks=4, backend="serial").closures(b, method)
    for mine, sides in zip(ends_and_middle, [1, 2, 2, 1], strict=True):
        assert (mine.messages, mine.words, mine.redundant) == (sides, sides * b, sides * table[b - 1])


@pytest.mark.parametrize("b", [1, 3, 6])
def test_separate_products_send_b_messages_and_b_words_a_side_and_repeat_nothing(b):
    op = tw.SparseOperator(line(64), ranks=4, backend="serial")
    run = op.simulate(tw.Machine(alpha=1, beta=1, gamma=1), s=b, method="separate")
    assert (run.messages, run.bytes) == (6 * b, 6 * b * 8)
    assert run.flops == b * 2 * line(64).nnz


@pytest.mark.parametrize(("method", "table"), [("halo", HALO), ("two-stage", TWO_STAGE)])
@pytest.mark.parametrize("b", [2, 5, 8])
def test_the_graph_sends_and_computes_what_the_closure_says(method, table, b):
    op = tw.SparseOperator(line(160), ranks=4, backend="serial")
    run = op.simulate(tw.Machine(alpha=1, beta=1, gamma=1), s=b, method=method)
    assert (run.messages, run.bytes) == (6, 6 * b * 8)
    # Each point costs 3 multiplications and additions, at the two ends of the line one less.
    assert run.flops == b * 2 * line(160).nnz + 6 * table[b - 1] * 6


def test_half_the_redundant_work_but_not_half_the_words_in_two_dimensions():
    A = pyamg.gallery.poisson((40, 40), format="csr")
    op = tw.SparseOperator(A, ranks=4, partition=patches((40, 40), (2, 2)), backend="serial")
    for s in (4, 8):
        halo, two = op.closures(s, "halo"), op.closures(s, "two-stage")
        assert 0.45 < sum(c.redundant for c in two) / sum(c.redundant for c in halo) < 0.7
        assert sum(c.words for c in two) > 0.9 * sum(c.words for c in halo)


@settings(max_examples=15)
@given(n=st.integers(2, 40), ranks=st.integers(1, 6), s=st.integers(1, 5), seed=st.integers(0, 1000))
def test_the_halo_is_the_reach_of_s_hops(n, ranks, s, seed):
    A = sp.csr_array(random_sparse((n, n), 0.1, np.random.default_rng(seed)))
    op = tw.SparseOperator(A, ranks=ranks, backend="serial")
    pattern = (A != 0).astype(int).toarray()
    for rank, mine in enumerate(op.closures(s, "halo")):
        own = np.zeros(n, int)
        own[op.partition.rows(rank)] = 1
        reach = need = own
        for _ in range(s):  # components of level 0 that some level depends on
            need = ((pattern.T @ need) > 0).astype(int)
            reach = reach | need
        assert mine.words == np.count_nonzero(reach & ~own)


# ------------------------------------------------------------------ bits


@settings(max_examples=25)
@given(
    n=st.integers(1, 40),
    ranks=st.integers(1, 8),
    s=st.integers(1, 6),
    block=st.integers(1, 6),
    seed=st.integers(0, 1000),
    method=st.sampled_from(["halo", "two-stage"]),
    partition=st.sampled_from(["rows", "bisection", "random"]),
)
def test_blocked_products_have_the_bits_of_separate_ones_for_any_pattern(n, ranks, s, block, seed, method, partition):
    rng = np.random.default_rng(seed)
    A = sp.csr_array(random_sparse((n, n), rng.uniform(0, 0.3), rng))
    rule = rng.integers(0, ranks, n) if partition == "random" else partition
    op = tw.SparseOperator(A, ranks=ranks, partition=rule, backend="serial")
    x = rng.standard_normal(n)
    levels = op.powers(x, s, "separate")
    assert np.array_equal(op.powers(x, s, method, block), levels)
    y = x
    for level in levels[1:]:
        y = op @ y
        assert np.array_equal(level, y)


@pytest.mark.parametrize("name", ["airfoil", "helmholtz_2D", "recirc_flow", "bar"])
def test_powers_have_the_same_bits_on_every_engine_by_every_method(name):
    A = sp.csr_array(pyamg.gallery.load_example(name)["A"])
    A = A / abs(A).sum(axis=1).max()
    x = np.random.default_rng(0).standard_normal(A.shape[0]).astype(A.dtype)
    wanted = tw.SparseOperator(A, ranks=3, partition="metis", backend="serial").powers(x, 5, "separate")
    assert np.allclose(wanted[5], A @ (A @ (A @ (A @ (A @ x)))))
    for backend in COMPUTING:
        op = tw.SparseOperator(A, ranks=3, partition="metis", backend=backend)
        for method in ("separate", "halo", "two-stage") if backend != "dask" or name == "bar" else ("two-stage",):
            assert np.array_equal(op.powers(x, 5, method), wanted)
            assert backend == "dask" or np.array_equal(op.powers(x, 5, method, block=2), wanted)


def test_two_vectors_at_once_have_the_bits_of_each_alone():
    op = tw.SparseOperator(line(50), ranks=3, backend="serial")
    X = np.random.default_rng(0).standard_normal((50, 2))
    both = op.powers(X, 4, "two-stage")
    assert all(np.array_equal(both[:, :, k], op.powers(np.ascontiguousarray(X[:, k]), 4)) for k in (0, 1))


def test_blocked_powers_run_as_graphs_over_mpi():
    A = sp.csr_array(pyamg.gallery.load_example("recirc_flow")["A"])
    A = A / abs(A).sum(axis=1).max()
    x = np.random.default_rng(0).standard_normal(225)
    op = tw.SparseOperator(A, ranks=2, partition="bisection", backend="mpi")
    for method in ("halo", "two-stage"):
        levels, run = op.run(x, 4, method, workers=2)
        assert np.array_equal(levels, op.powers(x, 4, "separate"))
        assert run.messages == sum(c.messages for c in op.closures(4, method)) == 2


def test_recurrences_follow_their_three_terms():
    x, before, earlier = np.array([8.0]), np.array([2.0]), np.array([1.0])
    recur(x, np.array([[9, 9, 9], [3.0, 0.5, 4.0]]), 2, before, earlier)
    assert x == (8 - 3 * 2 - 0.5) / 4
    recur(x, None, 1, before, None)
    assert x == 0.375


# ------------------------------------------------------------------ time


def test_inner_components_are_computed_while_the_messages_travel():
    op = tw.SparseOperator(line(4000), ranks=4, backend="serial")
    machine = tw.Machine(alpha=1e-5, beta=1e-9, gamma=1e-9)
    hidden = op.simulate(machine, s=4, method="halo")
    exposed = op.simulate(machine, s=4, method="halo", overlap=False)
    work = 4 * 6 * 1000 * 1e-9
    assert hidden.makespan < 1.05 * max(work, 2 * (1e-5 + 4e-9))
    assert exposed.makespan > work + 2 * 1e-5
    for rank in range(4):
        sweeps = [r.start for r in hidden.trace if hidden.graph.tasks[r.task].op.name == "sweep" and r.rank == rank]
        arrivals = [message.end for message in hidden.trace.messages if message.destination == rank]
        assert min(sweeps) < max(arrivals)


def simulated_time(op, b, alpha):
    """Seconds of one product in blocks of b, nothing hidden; a point takes one second."""
    run = op.simulate(tw.Machine(alpha=alpha, beta=0, gamma=1 / 6), s=2 * b, method="halo", block=b, overlap=False)
    return run.makespan / (2 * b)


@pytest.mark.parametrize("alpha", [4.0, 16.0, 36.0, 81.0])
def test_the_best_block_is_the_root_of_alpha_over_gamma(alpha):
    """Two ranks on a ring: one message a block, redundant points on both sides, as in the formula."""
    op = ring(60, 2)
    machine = tw.Machine(alpha=alpha, beta=0, gamma=1)
    times = {b: simulated_time(op, b, alpha) for b in range(1, 14)}
    best = min(times, key=times.__getitem__)
    assert abs(best - block_size(machine)) <= 1
    for b, seconds in times.items():  # the formula has b redundant points where there are b - 1
        assert seconds == pytest.approx(block_time(b, 1, 60, 2, machine) - 1, rel=1e-12)


def test_with_two_neighbours_a_rank_pays_two_messages():
    op = ring(120, 4)
    times = {b: simulated_time(op, b, 18.0) for b in range(1, 14)}
    assert abs(min(times, key=times.__getitem__) - np.sqrt(2 * 18)) <= 1
    assert times[6] == pytest.approx(2 * 18 / 6 + 30 + 5)


def test_the_best_block_does_not_depend_on_points_or_ranks():
    assert block_size(tw.Machine(alpha=1e-6, gamma=1e-8)) == pytest.approx(10)
    assert block_size(tw.Machine(alpha=1e-6, gamma=1e-9), flops=10) == pytest.approx(10)
    machine = tw.Machine(alpha=100.0, beta=1.0, gamma=1.0)
    for points, p in ((1000, 2), (10**6, 64)):
        assert min(range(1, 40), key=lambda b: block_time(b, 1, points, p, machine)) == 10


@pytest.mark.parametrize(("p", "part"), [(3, slabs((12, 12), 3)), (4, slabs((12, 12), 4)), (6, slabs((12, 12), 6))])
def test_slabs_on_a_torus_take_exactly_the_time_of_the_formula(p, part):
    machine = tw.Machine(alpha=3.0, beta=0.25, gamma=0.5)
    run = tw.SparseOperator(torus(12), ranks=p, partition=part, backend="serial").simulate(machine, overlap=False)
    assert run.makespan == time("slab", p, 12, machine)


def test_patches_on_a_torus_take_exactly_the_time_of_the_formula():
    machine = tw.Machine(alpha=3.0, beta=0.25, gamma=0.5)
    op = tw.SparseOperator(torus(16), ranks=16, partition=patches((16, 16), (4, 4)), backend="serial")
    assert op.exchange.most_messages == 4
    assert op.simulate(machine, overlap=False).makespan == time("patch", 16, 16, machine)


def test_slabs_do_not_scale_weakly_and_patches_do():
    machine = tw.Machine(alpha=1e-6, beta=1e-9, gamma=1e-9)
    M = 1e6
    slab = [efficiency("slab", p, (M * p) ** 0.5, machine) for p in (4, 64, 1024, 16384)]
    patch = [efficiency("patch", p, (M * p) ** 0.5, machine) for p in (4, 64, 1024, 16384)]
    assert max(patch) - min(patch) < 1e-12 and slab == sorted(slab, reverse=True) and slab[-1] < 0.98
    for cut, p, value in (("slab", 64, slab[1]), ("patch", 64, patch[1])):
        a, b, g = machine.alpha, machine.beta, machine.gamma
        formula = (
            1 / (1 + a / (5 * M * g) + p**0.5 * b / (5 * M**0.5 * g))
            if cut == "slab"
            else 1 / (1 + 2 * a / (5 * M * g) + 2 * b / (5 * M**0.5 * g))
        )
        assert value == pytest.approx(formula, rel=1e-14)


def test_the_exercise_of_the_book():
    """alpha = 1e-6, beta = gamma = 1e-9, p = 1e4, n = 5e5: compute 249.5 times a slab's messages, those 41.75 of a patch's."""
    machine = tw.Machine(alpha=1e-6, beta=1e-9, gamma=1e-9)
    work = 10 * 5e5**2 / 1e4 * 1e-9
    slab, patch = (time(cut, 10**4, 5e5, machine) - work for cut in ("slab", "patch"))
    assert work / slab == pytest.approx(249.5, abs=0.05)
    assert slab / patch == pytest.approx(41.75, abs=0.01)


@pytest.mark.parametrize("cut", ["slab", "patch"])
def test_efficiency_in_slabs_and_patches_is_t1_over_p_tp(cut):
    machine = tw.Machine(alpha=1e-6, beta=1e-9, gamma=1e-9)
    assert efficiency(cut, 1, 1000, machine) == 1
    assert time(cut, 1, 1000, machine) == 10 * 1000**2 * 1e-9
    for p in (1, 4, 64, 1024):
        e = time(cut, 1, 4096, machine) / (p * time(cut, p, 4096, machine))
        assert efficiency(cut, p, 4096, machine) == pytest.approx(e, rel=1e-14)
        assert efficiency(cut, p, 4096, machine) == pytest.approx(comm.efficiency("stencil", cut, p, 4096, machine))
    assert block_time(3, 12, 1000, 1, machine) == 12 * 1000 * 1e-9


@pytest.mark.parametrize(
    "call",
    [
        lambda machine: time("slab", 4, 8, machine),
        lambda machine: efficiency("patch", 1, 8, machine),
        lambda machine: block_time(2, 8, 100, 2, machine),
        lambda machine: block_size(machine),
        lambda machine: comm.efficiency("dense", "rows", 4, 8, machine),
        lambda machine: comm.cost("reduce", p=4, n=8, machine=machine),
        lambda machine: tw.simulate(comm.reduce(ranks=4, n=8), machine),
        lambda machine: tw.simulate(comm.allreduce(ranks=4, n=8), machine),
        lambda machine: tw.simulate(comm.reduce_scatter(ranks=4, n=8), machine.replace(overhead=1e-6)),
    ],
)
def test_what_needs_flops_is_refused_on_a_machine_without_gamma(call):
    with pytest.raises(ValueError, match=r"no gamma.*Machine\(gamma=\.\.\.\)"):
        call(tw.Machine(alpha=1e-6, beta=1e-9))


def test_what_adds_nothing_needs_no_gamma():
    machine = tw.Machine(alpha=1.0, beta=0.5)
    for ranks, seconds in ((1, 0), (2, 5), (4, 10)):
        assert comm.cost("broadcast", "tree", p=ranks, n=8, machine=machine) == seconds
        assert tw.simulate(comm.broadcast(ranks=ranks, n=8, algorithm="tree"), machine).makespan == seconds
    assert tw.simulate(comm.reduce(ranks=1, n=8), machine).makespan == 0


def test_unknown_cuts_are_named():
    with pytest.raises(ValueError, match="unknown cut 'slice'; known: slab, patch"):
        time("slice", 4, 8, tw.Machine())


def test_exchange_of_slabs_grows_with_the_root_of_p_at_fixed_work():
    for p, n in ((4, 16), (16, 32)):
        A = pyamg.gallery.poisson((n, n), format="csr")
        assert exchange(A, by_rows(n * n, p)).most_words == 2 * n
