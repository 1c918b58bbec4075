"""Run by all ranks of ``mpiexec -n 3``: sparse operators as collective objects. Writes what it saw, by rank, as JSON."""

import json
import sys
from pathlib import Path

import numpy as np
import pyamg
import scipy.sparse as sp
from mpi4py import MPI

import tilewright as tw

comm = MPI.COMM_WORLD
A = sp.csr_array(pyamg.gallery.load_example("recirc_flow")["A"])
P = sp.csr_array(pyamg.gallery.poisson((10, 10), format="csr"))
x = np.random.default_rng(0).standard_normal(A.shape[0])
seen: dict[str, object] = {"products": [], "powers": [], "cg": []}
for partition in ("rows", "metis"):
    here = tw.SparseOperator(A, ranks=3, partition=partition, backend="serial")
    op = tw.SparseOperator(A, partition=partition, backend="mpi")
    both = np.stack([x, 2 * x], axis=1)
    seen["products"] += [
        np.array_equal(op @ x, here @ x),
        np.array_equal(op.T @ x, here.T @ x),
        np.array_equal(op @ both, here @ both),
    ]
seen["powers"] = [
    np.array_equal(op.powers(x, 4, method), here.powers(x, 4)) for method in ("separate", "halo", "two-stage")
]
for s in (1, 4):
    solution, report = tw.cg(tw.SparseOperator(P, backend="mpi", partition="bisection"), np.ones(100), s, rtol=1e-10)
    seen["cg"].append(report.converged and np.allclose(P @ solution, 1))
D, y = P.toarray(), np.arange(100.0)
half = comm.Split(comm.rank == 0)
seen["dense"] = [
    np.allclose(tw.matvec(D, y, backend="mpi"), D @ y),  # on all ranks
    tw.DenseOperator(D, backend="mpi").ranks == 3,
    np.allclose(tw.DenseOperator(D, layout="grid", backend="mpi") @ y, D @ y),
    tw.DenseOperator(D, backend="mpi", comm=half).ranks == half.size,  # on those of a communicator
    np.allclose(tw.matvec(D, y, backend="mpi", comm=half), D @ y),
    tw.DenseOperator(D, backend="mpi").power_iteration(5)[0]
    == tw.DenseOperator(D, ranks=3, backend="serial").power_iteration(5)[0],
]
with tw.SparseOperator(P, backend="mpi") as op:
    seen["narrow"] = [
        tw.cg(tw.SparseOperator(P.astype("f"), backend="mpi"), np.full(100, 1e-25, "f"))[1].converged,
        np.allclose(op @ y, P @ y),
    ]
try:
    tw.DenseOperator(D, ranks=2, backend="mpi")
except ValueError as error:
    seen["size"] = str(error)
try:
    tw.SparseOperator(A * (1 + (comm.rank == 2)), backend="mpi")
except ValueError as error:
    seen["different"] = str(error)
Path(sys.argv[1], f"{comm.rank}.json").write_text(json.dumps(seen, default=bool))
