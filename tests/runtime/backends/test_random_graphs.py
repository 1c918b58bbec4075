"""Every graph gives the sequential result on every engine, and its trace is a valid schedule: `random_graphs`.

``make fuzz`` runs 5,000 graphs an engine, from a seed of its own.
"""

import json
import os
import subprocess
import sys
from functools import partial

import pytest
import random_graphs
from distributed import Client, LocalCluster
from random_graphs import RANKS, STYLES, interpret, make, may_fail, problems

import tilewright as tw
from tilewright.backends.mpi import launcher
from tilewright.backends.ranks import outcome

pytestmark = pytest.mark.long

GRAPHS = int(os.environ.get("TILEWRIGHT_FUZZ", "0"))
"""How many an engine; 0 for what the suite has time for."""
FIRST = int(os.environ.get("TILEWRIGHT_FUZZ_SEED", "0"))


def cases(usual):
    """Every fourth has tasks that fail."""
    return (make(seed, failures=seed % 4 == 0) for seed in range(FIRST, FIRST + (GRAPHS or usual)))


def on(backend, case, **options):
    return tw.run(case.graph(), case.data, backend=backend, **options)


@pytest.fixture(scope="module")
def pool():
    with tw.mpi.Pool(RANKS) as ranks:
        yield ranks


@pytest.fixture(scope="module")
def client():
    quiet = {"dashboard_address": "127.0.0.1:0", "silence_logs": 60}
    cluster = LocalCluster(n_workers=RANKS, threads_per_worker=2, **quiet)
    with cluster, Client(cluster, set_as_default=False) as client:
        yield client


def test_the_generator_makes_what_engines_may_get_wrong():
    graphs = [make(seed) for seed in range(200)]
    calls = [call for case in graphs for call in case.calls]
    assert {call.style for call in calls} == set(STYLES) - {"fail"}
    assert {access for call in calls for _, access in call.uses} == {"R", "W", "RW"}
    assert {type(call.on) for call in calls} == {type(None), int, tuple}
    assert max(len(call.uses) for call in calls) == 4
    assert not all(given for case in graphs for given in case.given)
    assert any(call.style == "fail" for seed in range(20) for call in make(seed, failures=True).calls)


def test_the_specification_of_a_small_graph_by_hand():
    case = make(0)
    case.given, case.shapes = [True, True], [(1,), (1,)]
    case.calls = [
        random_graphs.Call("place", ((0, "R"), (1, "W")), None, 0.0),  # h0 = 1, so read 1: h1 = 7 + 0 + 1
        random_graphs.Call("place", ((1, "RW"),), None, 0.0),  # read 8: h1 = 56 + 101
    ]
    assert interpret(case) == {"h0": 1, "h1": 157}


def test_failures_that_may_be_reported_wait_for_no_other():
    case = make(0)
    fail, place = (partial(random_graphs.Call, style, on=None, delay=0.0) for style in ("fail", "place"))
    case.calls = [
        fail(((0, "W"),)),
        place(((0, "R"), (1, "W"))),
        fail(((1, "R"),)),
        fail(((2, "W"),)),
        fail(((0, "W"),)),
    ]
    assert may_fail(case.calls, values_only=False) == {0, 3}
    assert may_fail(case.calls, values_only=True) == {0, 3, 4}


def test_serial():
    assert problems(cases(200), partial(on, "serial")) == []


@pytest.mark.parametrize("scheduler", ["critical-path", "lws", "random"])
def test_threads(scheduler):
    assert problems(cases(120), partial(on, "threads", workers=4, scheduler=scheduler)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_simulated_traces_are_valid(workers):
    machine = tw.Machine(ranks=RANKS, workers=workers, alpha=0.3, beta=0.001)

    def run(case):
        return tw.simulate(case.graph(), machine, owner=lambda handle: case.owner[handle.name], noise=0.5)

    assert problems(cases(150), run, ranks=True) == []
    assert problems(cases(50), lambda case: tw.simulate(case.graph(), machine, scheduler="heft"), ranks=True) == []


@pytest.mark.parametrize(("workers", "worth"), [(RANKS, outcome.WORTH), (2 * RANKS, 0)])
def test_ranks_of_a_pool(pool, monkeypatch, workers, worth):
    """Planned as a whole, and each part from arrays."""
    monkeypatch.setattr(outcome, "WORTH", worth)
    options = [{}, {"window": 1}, {"synchronous": True}]

    def run(case):
        return on("mpi", case, pool=pool, owner=case.owner, workers=workers, **options[case.seed % 3])

    assert problems(cases(120), run, ranks=True) == []


def test_a_task_never_runs_on_the_empty_message_of_a_rank_where_one_failed(pool):
    # In this graph task 12 fails on the rank that sends task 11 its argument; the notice may come after the message.
    for _ in range(40):
        case = make(20263104, failures=True)
        assert problems([case], partial(on, "mpi", pool=pool, owner=case.owner, workers=RANKS), ranks=True) == []


def test_prepared_graphs_on_a_pool(pool):
    assert problems(cases(80), partial(random_graphs.prepared, pool=pool), ranks=True) == []


def test_ranks_under_mpiexec():
    step = 500  # a launch, so that one that hangs is noticed
    for first in range(FIRST, FIRST + (GRAPHS or 160), step):
        count = min(step, FIRST + (GRAPHS or 160) - first)
        command = [launcher.mpiexec(), "-n", str(RANKS), sys.executable, random_graphs.__file__, str(first), str(count)]
        done = subprocess.run(command, env=launcher.environment("mpich"), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout) == []


@pytest.mark.parametrize("mode", ["resident", "tasks"])
def test_dask(client, monkeypatch, mode):
    worth = outcome.WORTH

    def run(case):
        monkeypatch.setattr(outcome, "WORTH", worth if case.seed % 2 else 0)
        return on("dask", case, client=client, mode=mode, owner=case.owner, timeout=300)  # a busy computer is no fault

    assert problems(cases(100), run, ranks=True) == []
