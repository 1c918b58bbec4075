"""PETSc's MatMult on a 5-point stencil: run by ``mpirun`` with a Python that has petsc4py, without tilewright.

Each rank prints one JSON object: seconds of each product, on vectors that stay on the ranks, from barrier to end.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

__all__ = ["main"]


def rows(n: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(indptr, columns, values) of some rows of the stencil on n x n points."""
    i = np.arange(first, last)
    x, y = i // n, i % n
    columns = np.stack([i - n, i - 1, i, i + 1, i + n], axis=1)
    there = np.stack([x > 0, y > 0, np.ones(len(i), bool), y < n - 1, x < n - 1], axis=1)
    values = np.broadcast_to(np.array([-1.0, -1.0, 4.0, -1.0, -1.0]), columns.shape)
    indptr = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
    return indptr.astype(np.int32), columns[there].astype(np.int32), values[there]


def main() -> None:
    n, times = int(sys.argv[1]), int(sys.argv[2])
    from petsc4py import PETSc

    comm = PETSc.COMM_WORLD
    first, last = (n * n * rank // comm.size for rank in (comm.rank, comm.rank + 1))
    A = PETSc.Mat().createAIJ(((last - first, n * n), (last - first, n * n)), csr=rows(n, first, last))
    A.assemble()
    x, y = A.createVecs()
    x.set(1.0)
    seconds = []
    for _ in range(times + 3):
        comm.barrier()
        start = time.perf_counter()
        A.mult(x, y)
        seconds.append(time.perf_counter() - start)
    total = y.sum()
    print(json.dumps({"rank": comm.rank, "seconds": seconds[3:], "sum": total}), flush=True)  # the first three warm up


if __name__ == "__main__":
    main()
