"""Collectives: values, counts, times, order of sums, on the simulator and on every engine."""

import functools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tilewright as tw
from tilewright import comm
from tilewright.comm.cost import rounds
from tilewright.comm.schedule import ALGORITHMS, ceil_log2, cut, schedule

pytestmark = pytest.mark.long

MACHINE = tw.Machine(alpha=1.1e-6, beta=1.3e-9, gamma=0.7e-9)
CASES = [(operation, algorithm) for operation, known in ALGORITHMS.items() for algorithm in known]
cases = pytest.mark.parametrize(("operation", "algorithm"), CASES, ids=["-".join(case) for case in CASES])
EARLY = {("reduce", "tree"), ("allreduce", "tree"), ("gather", "tree")}
"""Where ranks without children send before their round, unless p is a power of two.

In a chain a rank adds one block while it receives the next, so it is faster than its formula too."""

TWO_PHASES = [case for case in CASES if case[0] == "allreduce" or case[1] in ("scatter-gather", "gather-broadcast")]
"""Where a rank that is early in the second phase can keep the port of one that is late in the first."""


def graph_of(operation, algorithm, p, n, root=0):
    make = getattr(comm, operation)
    rooted = operation in ("broadcast", "scatter", "gather", "reduce")
    return make(p, n, algorithm, root=root) if rooted else make(p, n, algorithm)


def test_operations_may_be_spelt_with_hyphens_too():
    for p in (1, 4, 6):
        for call in (
            lambda name, p=p: comm.terms(name, "ring", p=p, n=12),
            lambda name, p=p: comm.lower_bound(name, p, 12),
            lambda name, p=p: comm.cost(name, p=p, n=12, machine=MACHINE),
            lambda name, p=p: comm.best(name, p, 12),
            lambda name, p=p: list(schedule(name, "ring", p, 12)),
        ):
            assert call("reduce-scatter") == call("reduce_scatter")


def block(p, n, r, root=0):
    offsets = cut(n, p)
    b = (r - root) % p
    return slice(offsets[b], offsets[b + 1])


def vectors(p, n, seed=0):
    return list(np.random.default_rng(seed).standard_normal((p, n)))


def wanted(operation, xs, root=0):
    """(rank, words) that have to hold, and what."""
    p, n = len(xs), len(xs[0])
    total = np.sum(xs, axis=0)
    gathered = np.concatenate([xs[(root + b) % p][block(p, n, (root + b) % p, root)] for b in range(p)])
    whole, everyone = slice(0, n), range(p)
    if operation == "broadcast":
        return [(r, whole, xs[root]) for r in everyone]
    if operation == "scatter":
        return [(r, block(p, n, r, root), xs[root][block(p, n, r, root)]) for r in everyone]
    if operation == "gather":
        return [(root, whole, gathered)]
    if operation == "allgather":
        return [(r, whole, gathered) for r in everyone]
    if operation == "reduce":
        return [(root, whole, total)]
    if operation == "reduce_scatter":
        return [(r, block(p, n, r), total[block(p, n, r)]) for r in everyone]
    return [(r, whole, total) for r in everyone]


def run(graph, xs, **options):
    done = tw.run(graph, {"x": [x.copy() for x in xs]}, **options)
    return [done.store[tw.Handle("x", (r,))] for r in range(len(xs))]


def check(operation, xs, out, root=0):
    for r, words, value in wanted(operation, xs, root):
        assert np.allclose(out[r][words], value, rtol=1e-13, atol=1e-13), (operation, r)


class TestValues:
    @cases
    @settings(max_examples=25)
    @given(p=st.integers(1, 17), n=st.integers(0, 40), data=st.data())
    def test_any_ranks_any_length_any_root(self, operation, algorithm, p, n, data):
        rooted = operation in ("broadcast", "scatter", "gather", "reduce")
        root = data.draw(st.integers(0, p - 1)) if rooted else 0
        xs = vectors(p, n)
        check(operation, xs, run(graph_of(operation, algorithm, p, n, root), xs, backend="serial"), root)

    @cases
    def test_twenty_runs_give_the_same_bits(self, operation, algorithm):
        xs = vectors(7, 50)
        first = run(graph_of(operation, algorithm, 7, 50), xs, backend="serial")
        for seed in range(20):
            again = run(
                graph_of(operation, algorithm, 7, 50), xs, backend="threads", scheduler="random", workers=1 + seed % 3
            )
            assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))

    @pytest.mark.parametrize("p", [1, 2, 3, 5])
    def test_a_chain_adds_from_left_to_right(self, p):
        xs = vectors(p, 11, seed=p)
        out = run(comm.allreduce(p, 11, "chain"), xs, backend="threads")
        expected = functools.reduce(np.add, xs)
        assert all(np.array_equal(x, expected) for x in out)

    def test_order_of_a_sum_is_that_of_its_tree(self):
        xs = [np.array([v]) for v in (1e16, 1.0, -1e16, 1.0)]
        out = run(comm.reduce(4, 1, "tree"), xs, backend="serial")
        assert out[0][0] == (1e16 + 1.0) + (-1e16 + 1.0)


@pytest.fixture(scope="module")
def pools():
    with tw.mpi.Pool(3) as three, tw.mpi.Pool(4) as four:
        yield {3: three, 4: four}


class TestMpi:
    @cases
    def test_bits_on_mpi_are_those_of_the_serial_run(self, pools, operation, algorithm):
        for p, n in ((3, 10), (4, 64)):
            xs, graph = vectors(p, n), graph_of(operation, algorithm, p, n)
            serial = run(graph, xs, backend="serial")
            for synchronous in (False, True):
                out = run(graph, xs, backend="mpi", pool=pools[p], workers=p, synchronous=synchronous)
                assert all(np.array_equal(a, b) for a, b in zip(serial, out, strict=True))

    def test_messages_on_mpi_are_those_of_the_schedule(self, pools):
        graph = comm.allgather(4, 64, "exchange")
        done = tw.run(graph, {"x": vectors(4, 64)}, backend="mpi", pool=pools[4], workers=4)
        pairs = Counter((m.source, m.destination) for m in done.trace.messages)
        assert pairs == Counter((t.source, t.target) for step in schedule("allgather", "exchange", 4, 64) for t in step)

    def test_without_pool_the_layout_says_how_many_ranks(self):
        xs = vectors(3, 6)
        check("allreduce", xs, run(comm.allreduce(3, 6), xs, backend="mpi"))


@pytest.fixture(scope="class")
def client():
    """Three Dask workers, processes of one thread each."""
    import distributed

    with (
        distributed.LocalCluster(
            n_workers=3, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=60
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


class TestDask:
    @pytest.mark.parametrize("mode", ["resident", "tasks"])
    @cases
    def test_bits_on_dask_are_those_of_the_serial_run(self, client, operation, algorithm, mode):
        xs, graph = vectors(3, 10), graph_of(operation, algorithm, 3, 10)
        done = tw.run(graph, {"x": [x.copy() for x in xs]}, backend="dask", client=client, mode=mode)
        out = [done.store[tw.Handle("x", (r,))] for r in range(3)]
        check(operation, xs, out)
        assert all(np.array_equal(a, b) for a, b in zip(run(graph, xs, backend="serial"), out, strict=True))
        assert done.workers == 3 and {record.rank for record in done.trace} == {0, 1, 2}

    def test_messages_on_dask_are_those_of_the_schedule(self, client):
        graph = comm.allgather(3, 12, "exchange")
        done = tw.run(graph, {"x": vectors(3, 12)}, backend="dask", client=client)
        pairs = Counter((m.source, m.destination) for m in done.trace.messages)
        assert pairs == Counter((t.source, t.target) for step in schedule("allgather", "exchange", 3, 12) for t in step)


#            rounds, messages, words in units of a block where p divides n: of p, L = ceil(log2 p)
COUNTS = {
    ("broadcast", "tree"): lambda p, L: (L, p - 1, (p - 1) * p),
    ("broadcast", "scatter-allgather"): lambda p, L: (L + p - 1, (p - 1) * (p + 1), None),
    ("broadcast", "linear-scatter-allgather"): lambda p, L: (2 * p - 2, (p - 1) * (p + 1), (p - 1) * (p + 1)),
    ("reduce", "tree"): lambda p, L: (L, p - 1, (p - 1) * p),
    ("reduce", "scatter-gather"): lambda p, L: (L + p - 1, (p - 1) * (p + 1), None),
    ("scatter", "tree"): lambda p, L: (L, p - 1, None),
    ("scatter", "linear"): lambda p, L: (p - 1, p - 1, p - 1),
    ("gather", "tree"): lambda p, L: (L, p - 1, None),
    ("gather", "linear"): lambda p, L: (p - 1, p - 1, p - 1),
    ("allgather", "exchange"): lambda p, L: (L, p * L, p * (p - 1)),
    ("allgather", "ring"): lambda p, L: (p - 1, p * (p - 1), p * (p - 1)),
    ("allgather", "gather-broadcast"): lambda p, L: (2 * L, 2 * (p - 1), None),
    ("reduce_scatter", "exchange"): lambda p, L: (L, p * L, p * (p - 1)),
    ("reduce_scatter", "ring"): lambda p, L: (p - 1, p * (p - 1), p * (p - 1)),
    ("allreduce", "exchange"): lambda p, L: (2 * L, 2 * p * L, 2 * p * (p - 1)),
    ("allreduce", "ring"): lambda p, L: (2 * p - 2, 2 * p * (p - 1), 2 * p * (p - 1)),
    ("allreduce", "tree"): lambda p, L: (2 * L, 2 * (p - 1), 2 * p * (p - 1)),
    ("allreduce", "chain"): lambda p, L: (4 * (p - 1), 2 * p * (p - 1), 2 * p * (p - 1)),
}


class TestCounts:
    """Rounds, messages and words."""

    @pytest.mark.parametrize(
        ("operation", "algorithm", "p"),
        # A ring of 1024 ranks has a million messages: those made of several rings are covered by the next test.
        [
            (*case, p)
            for case in CASES
            for p in (*range(2, 18), 1024)
            if p < 1024
            or COUNTS[case](p, 10)[1] < 30_000
            or case in (("allgather", "ring"), ("reduce_scatter", "ring"))
        ],
    )
    def test_rounds_messages_and_words(self, operation, algorithm, p):
        count = messages = words = 0
        for step in schedule(operation, algorithm, p, 3 * p):
            count += 1
            messages += len(step)
            words += sum([high - low for t in step for low, high in t.pieces])
            assert len({t.source for t in step}) == len({t.target for t in step}) == len(step)
        expected = COUNTS[operation, algorithm](p, ceil_log2(p))
        assert (count, messages) == expected[:2]
        if expected[2] is not None:
            assert words == 3 * expected[2]

    @pytest.mark.parametrize("p", range(2, 18))
    def test_long_vectors_take_a_ring_and_a_tree_or_two_rings(self, p):
        """So their counts on 1024 ranks are those of the parts."""

        def steps(*cases):
            return [step for case in cases for step in schedule(*case, p, 3 * p)]

        scattered, gathered = ("reduce_scatter", "ring"), ("allgather", "ring")
        assert steps(("broadcast", "scatter-allgather")) == steps(("scatter", "tree"), gathered)
        assert steps(("broadcast", "linear-scatter-allgather")) == steps(("scatter", "linear"), gathered)
        assert steps(("reduce", "scatter-gather")) == steps(scattered, ("gather", "tree"))
        assert steps(("allreduce", "ring")) == steps(scattered, gathered)

    @pytest.mark.parametrize("p", [2, 4, 8, 16, 1024])
    def test_tree_scatter_moves_half_n_log_p_words(self, p):
        words = sum(t.words for step in schedule("scatter", "tree", p, p) for t in step)
        assert words == p // 2 * ceil_log2(p)

    @pytest.mark.parametrize("p", [*range(2, 18), 1024])
    def test_root_and_ranks_of_the_trees(self, p):
        L = ceil_log2(p)
        sends = Counter(t.source for step in schedule("broadcast", "tree", p, 1) for t in step)
        receives = Counter(t.target for step in schedule("broadcast", "tree", p, 1) for t in step)
        assert sends[0] == L and receives == dict.fromkeys(range(1, p), 1)
        sums = Counter(t.target for step in schedule("reduce", "tree", p, 1) for t in step)
        assert sums[0] == L and sum(sums.values()) == p - 1
        from_root = sum(t.words for step in schedule("scatter", "tree", p, 7 * p) for t in step if t.source == 0)
        assert from_root == 7 * (p - 1)

    @pytest.mark.parametrize("algorithm", ["exchange", "ring"])
    @pytest.mark.parametrize("p", [*range(2, 18), 64])
    def test_every_rank_of_an_exchange_sends_p_minus_1_blocks(self, p, algorithm):
        for operation in ("allgather", "reduce_scatter"):
            words = Counter()
            for step in schedule(operation, algorithm, p, 5 * p):
                words.update({t.source: t.words for t in step})
            assert words == dict.fromkeys(range(p), 5 * (p - 1))

    def test_ring_sends_to_the_next_rank_always(self):
        assert all(t.target == (t.source + 1) % 6 for step in schedule("allgather", "ring", 6, 6) for t in step)

    @pytest.mark.parametrize("p", [2, 3, 8, 13, 1024])
    def test_plan_has_one_message_per_transfer(self, p):
        for operation, algorithm in (("broadcast", "tree"), ("reduce", "tree"), ("scatter", "tree")):
            graph = graph_of(operation, algorithm, p, p)
            layout = graph.layout
            plan = tw.MessagePlan(graph, p, {h: layout.owner(h) for h in graph.handles_used})
            pairs = Counter((t.source, t.target) for step in schedule(operation, algorithm, p, p) for t in step)
            assert Counter((m.source, m.destination) for m in plan.messages) == pairs


class TestTime:
    @cases
    @pytest.mark.parametrize("p", range(1, 18))
    def test_simulated_time_is_the_formula_to_the_last_digit(self, operation, algorithm, p):
        n = 40 * p
        simulated = tw.simulate(graph_of(operation, algorithm, p, n), MACHINE).makespan
        formula = comm.cost(operation, algorithm, p=p, n=n, machine=MACHINE)
        if (p & (p - 1) and (operation, algorithm) in EARLY) or algorithm == "chain":
            assert simulated <= formula
        else:
            assert simulated == formula

    @pytest.mark.parametrize(
        ("operation", "algorithm"), [case for case in CASES if COUNTS[case](1024, 10)[1] < 20_000]
    )  # a ring has a million messages
    def test_1024_ranks(self, operation, algorithm):
        run = tw.simulate(graph_of(operation, algorithm, 1024, 1 << 20), MACHINE)
        assert run.makespan == comm.cost(operation, algorithm, p=1024, n=1 << 20, machine=MACHINE)
        assert run.messages == COUNTS[operation, algorithm](1024, 10)[1]

    @pytest.mark.parametrize(("operation", "algorithm"), [case for case in CASES if case not in TWO_PHASES])
    @settings(max_examples=30)
    @given(p=st.integers(1, 17), n=st.integers(0, 60), beta=st.floats(0, 1e-6), gamma=st.floats(0, 1e-6))
    @example(p=5, n=9, beta=1e-8, gamma=1e-7)
    def test_uneven_blocks_take_at_most_the_formula(self, operation, algorithm, p, n, beta, gamma):
        machine = MACHINE.replace(beta=beta, gamma=gamma)
        simulated = tw.simulate(graph_of(operation, algorithm, p, n), machine).makespan
        assert simulated <= comm.cost(operation, algorithm, p=p, n=n, machine=machine) * (1 + 1e-14)

    @cases
    @settings(max_examples=30)
    @given(p=st.integers(1, 40), n=st.integers(0, 500))
    def test_rounds_add_up_to_the_closed_form(self, operation, algorithm, p, n):
        parts = list(rounds(operation, algorithm, p, n))
        block = -(-n // p)
        found = (len(parts), sum(words for words, _ in parts), sum(flops for _, flops in parts))
        if block * p == n or "tree" not in algorithm:
            assert found == comm.terms(operation, algorithm, p, n)

    @cases
    @given(p=st.integers(1, 64), m=st.integers(0, 50))
    def test_no_formula_beats_its_lower_bound(self, operation, algorithm, p, m):
        bound, actual = comm.lower_bound(operation, p, m * p), comm.terms(operation, algorithm, p, m * p)
        assert all(a >= b for a, b in zip(actual, bound, strict=True))

    @given(st.integers(1, 40), st.integers(1, 60), st.sampled_from(CASES))
    def test_terms_are_what_the_messages_of_a_rank_add_up_to(self, p, m, which):
        """Counted from the transfers one by one: the longest path through the rounds, where all blocks are equal.

        A rank is done with a round when its messages are in and added up; it sends one after it is done with the rounds
        before, and a message is in when both its ends are.
        """
        operation, algorithm = which
        n, ready = m * p, [(0, 0, 0)] * p
        weights = tw.Machine(alpha=1e6, beta=1.0, gamma=1e-3)

        def later(*times):
            return max(times, key=lambda t: t[0] * weights.alpha + t[1] * weights.beta + t[2] * weights.gamma)

        for transfers in schedule(operation, algorithm, p, n):
            now = list(ready)
            for t in transfers:
                alpha, beta, gamma = later(ready[t.source], ready[t.target])
                words = sum(high - low for low, high in t.pieces)
                assert words == t.words
                now[t.target] = later(now[t.target], (alpha + 1, beta + words, gamma + (words if t.add else 0)))
                now[t.source] = later(now[t.source], (alpha + 1, beta + words, gamma))
            ready = now
        found = later(*ready)
        said = comm.terms(operation, algorithm, p, n)
        assert all(one <= other for one, other in zip(found, said, strict=True)), (found, said)
        if p & (p - 1) == 0 and algorithm != "chain":
            assert found == said
        assert comm.terms(operation, algorithm, p, n).seconds(MACHINE) == pytest.approx(
            comm.cost(operation, algorithm, p=p, n=n, machine=MACHINE), rel=1e-12
        )

    def test_vectors_longer_than_an_index_counts_are_refused(self):
        for call in (
            lambda: comm.terms("reduce", "tree", 4, 2**63),
            lambda: comm.cost("reduce", "tree", p=4, n=10**400, machine=MACHINE),
            lambda: comm.lower_bound("reduce", 4, 10**400),
        ):
            with pytest.raises(ValueError, match="n must be"):
                call()

    def test_optimal_ones_are_optimal(self):
        for operation in ("allgather", "reduce_scatter"):
            assert comm.terms(operation, "exchange", 12, 120) == comm.lower_bound(operation, 12, 120)
        assert comm.terms("scatter", "tree", 16, 160) == comm.lower_bound("scatter", 16, 160)

    def test_steps_of_a_broadcast_are_those_of_the_lecture(self):
        trace = tw.simulate(comm.broadcast(4, 4, "tree"), tw.Machine(alpha=1.0)).trace
        steps = {}
        for m in trace.messages:
            steps.setdefault(m.start, []).append((m.source, m.destination))
        assert steps == {0.0: [(0, 1)], 1.0: [(0, 2), (1, 3)]}

    def test_steps_of_an_allgather_and_a_reduce_scatter_are_those_of_the_lecture(self):
        gathered = [[(t.source, t.target, t.pieces) for t in step] for step in schedule("allgather", "exchange", 4, 4)]
        assert gathered[0] == [(0, 1, ((0, 1),)), (1, 0, ((1, 2),)), (2, 3, ((2, 3),)), (3, 2, ((3, 4),))]
        assert gathered[1] == [(0, 2, ((0, 2),)), (1, 3, ((0, 2),)), (2, 0, ((2, 4),)), (3, 1, ((2, 4),))]
        reduced = [
            [(t.source, t.target, t.pieces) for t in step] for step in schedule("reduce_scatter", "exchange", 4, 4)
        ]
        assert reduced[0] == [(0, 2, ((2, 4),)), (1, 3, ((2, 4),)), (2, 0, ((0, 2),)), (3, 1, ((0, 2),))]
        assert reduced[1] == [(0, 1, ((1, 2),)), (1, 0, ((0, 1),)), (2, 3, ((3, 4),)), (3, 2, ((2, 3),))]


class TestChoice:
    @pytest.mark.parametrize(("p", "threshold"), [(4, 6.0), (8, 5.6), (16, 7.1)])
    def test_long_broadcast_wins_from_the_threshold_on(self, p, threshold):
        """n beta / alpha > (p - 1) / (L - 2 (p - 1) / p)."""
        exact = Fraction(p - 1) / (ceil_log2(p) - 2 * Fraction(p - 1, p))
        assert round(float(exact), 1) == threshold
        machine = tw.Machine(alpha=1.0, beta=1.0)
        n = int(exact) // p * p
        assert comm.best("broadcast", p, n, machine) == "tree"
        assert comm.best("broadcast", p, n + 2 * p, machine) == "scatter-allgather"

    def test_two_ranks_always_use_the_tree(self):
        assert comm.best("broadcast", 2, 1 << 30, tw.Machine(alpha=1e-9, beta=1.0)) == "tree"

    def test_auto_is_the_cheapest(self):
        for operation, known in ALGORITHMS.items():
            costs = [comm.cost(operation, a, p=8, n=4000, machine=MACHINE) for a in known]
            assert comm.cost(operation, p=8, n=4000, machine=MACHINE) == min(costs)
            assert comm.broadcast(8, 100_000, machine=MACHINE).name == "broadcast, scatter-allgather, 8 ranks"


class TestBadInput:
    @pytest.mark.parametrize(
        ("call", "sentence"),
        [
            (lambda: comm.broadcast(0, 4), "ranks must be at least 1, not 0"),
            (lambda: comm.broadcast(4, -1), "n must be at least 0, not -1"),
            (
                lambda: comm.broadcast(4, 4, "chain"),
                "broadcast has no algorithm 'chain'; known: tree, scatter-allgather",
            ),
            (lambda: comm.broadcast(4, 4, root=4), "root must be one of the ranks 0 to 3, not 4"),
            (
                lambda: comm.cost("alltoall", p=4, n=4, machine=MACHINE),
                "unknown collective 'alltoall'; known: broadcast",
            ),
            (lambda: comm.cost("reduce", p=4, n=4, machine=tw.Machine(alpha=1.0)), "the machine has no gamma"),
            (lambda: schedule("scatter", "auto", 4, 4), "scatter has no algorithm 'auto'"),
        ],
    )
    def test_value_errors_are_one_sentence(self, call, sentence):
        with pytest.raises(ValueError, match=sentence):
            call()

    def test_numbers_that_are_no_integers(self):
        with pytest.raises(TypeError, match=r"n must be an integer, not 2\.5"):
            comm.gather(2, 2.5)

    def test_machine_with_too_few_ranks(self):
        with pytest.raises(ValueError, match=r"the machine has ranks 0\.\.1"):
            tw.simulate(comm.broadcast(4, 4), MACHINE.replace(ranks=2))
