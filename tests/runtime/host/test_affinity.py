"""Which CPU each worker is bound to, on computers that need not be here; and that threads stay there and go back."""

import os
import threading

import numpy as np
import pytest

import tilewright as tw
from tilewright.host import affinity

bound = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no threads")


@pytest.fixture
def computer(tmp_path, monkeypatch):
    """A pretended computer: {cpu: (socket, core)}, all of which this process may use."""

    def make(cpus, allowed=None):
        for cpu, (socket, core) in cpus.items():
            folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
            folder.mkdir(parents=True)
            (folder / "physical_package_id").write_text(f"{socket}\n")
            (folder / "core_id").write_text(f"{core}\n")
        mask = set(cpus if allowed is None else allowed)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: mask, raising=False)
        return tmp_path

    return make


TWO_SOCKETS = {cpu: (cpu % 2, cpu // 2 % 4) for cpu in range(16)}
"""Sockets of four cores with two threads each; CPUs go round the sockets, and 8 to 15 are second threads."""


@pytest.mark.parametrize(
    ("workers", "cpus"),
    [
        (1, [0]),
        (2, [0, 1]),  # one on each socket
        (3, [0, 2, 1]),  # as Machine has them: two on the first
        (4, [0, 2, 1, 3]),
        (8, [0, 2, 4, 6, 1, 3, 5, 7]),  # cores before second threads
        (10, [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]),
    ],
)
def test_workers_get_cores_of_their_own_and_neighbours_share_a_socket(computer, workers, cpus):
    root = computer(TWO_SOCKETS)
    assert affinity.places(workers, root) == cpus
    assert affinity.sockets(root) == 2
    machine = tw.Machine(workers=workers, sockets=2)
    assert [machine.node(w) for w in range(workers)] == [TWO_SOCKETS[cpu][0] for cpu in cpus]


def test_only_cpus_that_the_process_may_use_are_taken(computer):
    root = computer(TWO_SOCKETS, allowed={3, 5, 6})
    assert affinity.places(3, root) == [6, 3, 5]
    with pytest.raises(ValueError, match="needs a core for each of 4 workers; this process may use 3"):
        affinity.places(4, root)


def test_where_the_kernel_says_nothing_all_cores_are_on_one_socket(computer):
    root = computer({}, allowed={2, 7})
    assert (affinity.places(2, root), affinity.sockets(root)) == ([2, 7], 1)


def masks(count):
    """A graph of tasks that write down where their thread may run."""
    g = tw.TaskGraph("masks")
    x = g.handles("x")
    for k in range(count):
        g.insert(note, tw.RW(x[k]))
    return g, {"x": [np.zeros(2) for _ in range(count)]}


def note(x):
    mask = os.sched_getaffinity(0)
    x[:] = len(mask), min(mask)


@bound
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("scheduler", ["lifo", "eager"])  # one says its order beforehand, one does not
def test_a_worker_stays_on_its_core_and_the_caller_is_as_before(workers, scheduler):
    before = os.sched_getaffinity(0)
    workers = min(workers, len(before))
    graph, data = masks(6)
    run = tw.run(graph, data, workers=workers, scheduler=scheduler, pin="cores")
    cpus = affinity.places(workers)
    for record in run.trace:
        assert list(run[graph.tasks[record.task].writes[0]]) == [1, cpus[record.worker]]
    assert os.sched_getaffinity(0) == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tilewright-worker")]


@bound
def test_a_task_that_fails_leaves_the_caller_unbound():
    before = os.sched_getaffinity(0)
    g = tw.TaskGraph()
    g.insert(fail, tw.RW(g.handle("x")))
    with pytest.raises(ZeroDivisionError):
        tw.run(g, {"x": np.zeros(1)}, workers=1, pin="cores")
    assert os.sched_getaffinity(0) == before


def fail(x):
    raise ZeroDivisionError


@bound
@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"pin": "sockets"}, ValueError, "pin must be 'cores' or None, not 'sockets'"),
        ({"pin": 3}, TypeError, "pin must be 'cores' or None, not 3"),
        ({"pin": "cores", "threads_per_task": 2}, ValueError, "so threads_per_task must be 1"),
        ({"pin": "cores", "devices": ["cpu"]}, ValueError, "leave out devices="),
        ({"pin": "cores", "backend": "serial"}, TypeError, "unknown option pin"),
        ({"pin": "cores", "workers": 10**5}, ValueError, "needs a core for each of"),
    ],
)
def test_what_cannot_be_pinned_is_refused_in_a_sentence(options, error, said):
    graph, data = wide() if "workers" in options else masks(1)
    with pytest.raises(error, match=said):
        tw.run(graph, data, **options)


def wide():
    """More tasks than any computer has cores that this process may use."""
    return masks(len(os.sched_getaffinity(0)) + 1)


def test_a_system_that_binds_nobody_says_so(monkeypatch):
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    graph, data = masks(1)
    with pytest.raises(ValueError, match=r"pin='cores' needs os\.sched_setaffinity, which this system does not have"):
        tw.run(graph, data, pin="cores")
