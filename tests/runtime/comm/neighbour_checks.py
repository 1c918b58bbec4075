"""Called by all ranks of a pool: discoveries over MPI, on patterns that every rank draws for itself."""

import time

import numpy as np

from tilewright.comm.mpi_endpoint import drive, endpoint
from tilewright.comm.neighbours import DISCOVERIES, discover


def pattern(ranks, seed):
    """By rank, what it asks of others. Most pairs go one way, some ranks ask nobody or are asked by nobody."""
    rng = np.random.default_rng(seed)
    density = rng.choice([0.0, 0.2, 0.6, 1.0])
    silent = rng.random(ranks) < 0.3
    return [
        {
            q: rng.integers(0, 2**62, rng.integers(1, 6))
            for q in range(ranks)
            if q != r and not silent[r] and rng.random() < density
        }
        for r in range(ranks)
    ]


def asked(wants, rank):
    return {q: mine[rank].tolist() for q, mine in enumerate(wants) if rank in mine}


def plain(found):
    return {q: words.tolist() for q, words in found.items()}


def mismatches(comm, first, last, synchronous):
    """How many (pattern, discovery) differ from the pattern itself, on this rank. No barrier anywhere between calls."""
    rng = np.random.default_rng(comm.rank)
    wrong = 0
    for seed in range(first, last):
        wants = pattern(comm.size, seed)
        for name in DISCOVERIES:
            if rng.random() < 0.02:
                time.sleep(0.002 * rng.random())  # ranks drift apart, so calls overlap
            found = drive(discover(endpoint(comm), wants[comm.rank], name, synchronous))
            wrong += plain(found) != asked(wants, comm.rank) or list(found) != sorted(found)
    return wrong


def fail_on_one(comm):
    if comm.rank == 1:
        raise ValueError("rank 1 says no")
    return comm.rank


def wait_for_ever(comm):
    if comm.rank == 1:
        raise ValueError("rank 1 left")
    comm.Barrier()


def add(comm, x):
    x[comm.rank] += 10
    return comm.size
