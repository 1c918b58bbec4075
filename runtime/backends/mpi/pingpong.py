"""Two ranks that send messages to and fro: ``mpiexec -n 2 python -m tilewright.backends.mpi.pingpong [[sizes],
seconds]``.

Rank 0 prints one JSON list of (bytes, median seconds of one way).
"""

from __future__ import annotations

import json
import statistics
import sys
from time import perf_counter

import numpy as np
from mpi4py import MPI

__all__ = ["main"]


def main() -> None:
    comm = MPI.COMM_WORLD
    sizes, seconds = json.loads(sys.argv[1])
    results = []
    for size in sizes:
        buffer = [np.zeros(size, np.uint8), MPI.BYTE]
        _trips(comm, buffer, 3)  # buffers are registered, pages exist
        once = comm.bcast(statistics.median(_trips(comm, buffer, 5)))
        count = max(5, min(1000, int(seconds / len(sizes) / max(2 * once, 1e-9))))
        results.append((size, statistics.median(_trips(comm, buffer, count))))
    if comm.rank == 0:
        print(json.dumps(results))


def _trips(comm: MPI.Intracomm, buffer: list, count: int) -> list[float]:
    """Seconds of one way, measured there and back ``count`` times."""
    other = 1 - comm.rank
    comm.Barrier()
    times = []
    for _ in range(count):
        start = perf_counter()
        if comm.rank == 0:
            comm.Send(buffer, other)
            comm.Recv(buffer, other)
        else:
            comm.Recv(buffer, other)
            comm.Send(buffer, other)
        times.append((perf_counter() - start) / 2)
    return times


if __name__ == "__main__":
    main()
