"""How many workers a rank has where the call does not say: the cores that nobody else on its computer uses."""

import os

import pytest

from tilewright.backends.mpi import options
from tilewright.backends.mpi.options import cores_of_each, fewest_cores, per_rank


@pytest.mark.parametrize(
    ("here", "quota", "cores"),
    [
        ([range(8)], None, [8]),
        ([range(8)] * 4, None, [2] * 4),  # bound to nothing
        ([range(2), range(2, 4), range(4, 8)], None, [2, 2, 4]),  # bound to CPUs of their own
        ([range(4), range(4), range(4, 8), range(4, 8)], None, [2] * 4),  # bound to sockets
        ([range(2)] * 5, None, [1] * 5),
        ([range(8)] * 2, 3, [1, 1]),
        ([range(4), range(4, 8)], 100, [4, 4]),
        ([range(64)] * 4, 8, [2] * 4),
    ],
)
def test_ranks_share_the_cores_that_several_of_them_may_use(here, quota, cores):
    assert [cores_of_each(here, rank, quota) for rank in range(len(here))] == cores


class Told:
    """A communicator of which this process is a rank, where the others say that."""

    def __init__(self, rank, said):
        self.rank, self.said = rank, said

    def allgather(self, value):
        return [*self.said[: self.rank], value, *self.said[self.rank :]]


def test_of_several_computers_only_the_ranks_on_this_one_share_its_cores(monkeypatch):
    """Twelve ranks, four of them here; elsewhere a computer has fewer cores for each."""
    monkeypatch.setattr(options, "my_cpus", lambda: frozenset(range(16)))
    monkeypatch.setattr(options, "quota_of_this_process", lambda: None)
    neighbours = Told(1, [list(range(16))] * 3)
    assert fewest_cores(Told(5, [4] * 11), neighbours) == 4
    assert fewest_cores(Told(5, [4] * 8 + [3] * 3), neighbours) == 3
    assert per_rank(None, 12, own=4) == 4 and per_rank(24, 12, own=4) == 2


def test_the_cpus_of_a_process_are_those_of_its_mask():
    assert len(options.my_cpus()) == (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
