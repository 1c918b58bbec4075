"""Discovery: three protocols, one answer, in one process and over MPI."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tilewright as tw
from tilewright.backends.mpi import pool as pools
from tilewright.comm.neighbours import DISCOVERIES, chosen, cost, discover, nbx
from tilewright.comm.simulated import Deadlock, SimulatedComm

protocols = pytest.mark.parametrize("name", DISCOVERIES)


@pytest.fixture(scope="module")
def checks():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        import neighbour_checks

        yield neighbour_checks


@pytest.fixture(scope="module")
def pool():
    four = tw.mpi.Pool(4)
    yield four
    assert not four.closed
    four.close()


def run(wants, name, **options):
    comm = SimulatedComm(len(wants), **options)
    return [
        {q: w.tolist() for q, w in found.items()}
        for found in comm.run(lambda end: discover(end, wants[end.rank], name))
    ], comm


def test_all_protocols_agree_on_1000_random_patterns_on_2_to_16_ranks(checks):
    for seed in range(1000):
        wants = checks.pattern(2 + seed % 15, seed)
        right = [checks.asked(wants, rank) for rank in range(len(wants))]
        for name in DISCOVERIES:
            assert run(wants, name, seed=seed)[0] == right, (seed, name)


@pytest.mark.timeout(60)
def test_all_protocols_agree_over_mpi_back_to_back(checks, pool):
    """1,000 patterns, three discoveries each: 200 on 4 ranks, which share cores here, the others on 2."""
    assert pool.call("neighbour_checks:mismatches", 0, 200, False) == [0] * 4
    with tw.mpi.Pool(2) as two:
        assert two.call("neighbour_checks:mismatches", 200, 1000, False) == [0] * 2


def test_all_protocols_agree_over_mpi_with_every_send_forced_synchronous(checks, pool):
    assert pool.call("neighbour_checks:mismatches", 0, 100, True) == [0] * 4


@protocols
def test_requests_are_the_only_messages(checks, name):
    wants = checks.pattern(12, 2)
    _, comm = run(wants, name)
    assert comm.messages == sum(map(len, wants))
    assert comm.words == sum(len(words) for mine in wants for words in mine.values())
    assert (
        comm.collectives == {"reduce-scatter": ["reduce_scatter"], "nbx": ["barrier"], "alltoall": ["alltoall"]}[name]
    )


@protocols
def test_nobody_asks_anybody(name):
    assert run([{}, {}, {}], name)[0] == [{}, {}, {}]


@protocols
def test_one_rank_alone(name):
    assert run([{}], name)[0] == [{}]


@protocols
@given(seed=st.integers(0, 10**6), delay=st.integers(0, 40))
def test_calls_back_to_back_do_not_mix_whatever_the_delays(name, seed, delay):
    """A rank that is out of the first call sends in the second while others are still in the first."""

    def twice(end):
        first = yield from discover(end, {(end.rank + 1) % 5: np.array([end.rank])}, name)
        second = yield from discover(end, {(end.rank + 2) % 5: np.array([10 + end.rank])}, name)
        return {q: w.tolist() for q, w in first.items()}, {q: w.tolist() for q, w in second.items()}

    results = SimulatedComm(5, seed, delay).run(twice)
    assert results == [({(r - 1) % 5: [(r - 1) % 5]}, {(r - 2) % 5: [10 + (r - 2) % 5]}) for r in range(5)]


def test_nbx_with_one_tag_for_all_calls_takes_a_message_of_the_next_call():
    """The hazard that the fresh tag is for: with one tag some seed mixes the calls."""

    class OneTag:
        def __init__(self, end):
            self.end = end

        def __getattr__(self, name):
            return getattr(self.end, name)

        def fresh_tag(self):
            return 1

    def twice(end):
        one = OneTag(end)
        first = yield from nbx(one, {(end.rank + 1) % 4: np.array([end.rank])})
        second = yield from nbx(one, {(end.rank + 2) % 4: np.array([10 + end.rank])})
        return sorted(first), sorted(second)

    right = [([(r - 1) % 4], [(r - 2) % 4]) for r in range(4)]
    seen = []
    for seed in range(200):
        try:
            seen.append(SimulatedComm(4, seed, 20).run(twice) == right)
        except Deadlock:
            seen.append(False)
    assert not all(seen)


def test_a_rank_that_never_joins_is_a_deadlock_with_names():
    def program(end):
        if end.rank == 2:
            return None
        return (yield from discover(end, {}, "nbx"))

    with pytest.raises(Deadlock, match="ranks 0, 1 of 3 wait for what nobody sends"):
        SimulatedComm(3).run(program)


def test_ranks_that_choose_differently_are_told():
    names = list(DISCOVERIES)
    with pytest.raises(Deadlock, match="where others call"):
        SimulatedComm(2).run(lambda end: discover(end, {}, names[end.rank]))


@pytest.mark.parametrize(
    ("requests", "words"),
    [
        ({0: np.array([1])}, "rank 0 cannot ask rank 0"),
        ({7: np.array([1])}, "cannot ask rank 7 of 2"),
        ({1: np.array([], int)}, "asks rank 1 for nothing"),
    ],
)
def test_senseless_requests_are_refused(requests, words):
    with pytest.raises(ValueError, match=words):
        SimulatedComm(2).run(lambda end: discover(end, requests if end.rank == 0 else {}))


def test_auto_is_reduce_scatter_up_to_1024_ranks():
    assert (chosen("auto", 1024), chosen("auto", 1025)) == ("reduce-scatter", "nbx")
    assert chosen("reduce_scatter", 2) == "reduce-scatter"
    with pytest.raises(ValueError, match="unknown discovery 'gossip'; known: auto, reduce-scatter, nbx, alltoall"):
        chosen("gossip", 2)


def test_costs_are_those_of_the_table():
    machine = tw.Machine(alpha=1e-6, beta=1e-9, gamma=1e-9)
    assert cost("reduce-scatter", 1024, 4, machine) == pytest.approx(10e-6 + 1023 * 2e-9)
    assert cost("nbx", 1024, 4, machine) == pytest.approx(14e-6)
    assert cost("alltoall", 1024, 4, machine) == pytest.approx(1023 * 1.001e-6)


# ------------------------------------------------------------------ calls of a pool


def test_a_call_runs_on_all_ranks_and_sees_memory_of_the_caller(checks, pool):
    from tilewright.backends.ranks.segments import Segment

    segment = Segment.create(32)
    pool.segments.add(segment)
    x = segment.array(0, (4,), np.dtype(float), "C")
    for _ in range(2):
        assert pool.call("neighbour_checks:add", x) == [4] * 4
    assert x.tolist() == [20] * 4


def test_an_exception_on_one_rank_comes_out_and_the_pool_goes_on(checks, pool):
    with pytest.raises(ValueError, match="rank 1 says no"):
        pool.call("neighbour_checks:fail_on_one")
    assert pool.call("neighbour_checks:mismatches", 0, 1, False) == [0] * 4


def test_ranks_that_wait_for_one_that_failed_end_with_the_pool(checks, monkeypatch):
    monkeypatch.setattr(pools, "GRACE", 0.2)
    pool = tw.mpi.Pool(2)
    with pytest.raises(ValueError, match="rank 1 left"):
        pool.call("neighbour_checks:wait_for_ever")
    assert pool.closed
    with pytest.raises(RuntimeError, match="this pool is closed"):
        pool.call("neighbour_checks:add", np.zeros(2))
