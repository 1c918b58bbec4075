"""The ``tilewright`` command.

Exit codes: 0 done; 1 the numbers failed (not positive definite, or a LAPACK ratio that does not pass), or ranks did not
start or died; 2 bad input, a file that cannot be read or written, or a missing optional package; 130 Ctrl-C. What went
wrong is said in one sentence. Tables go to standard output and progress to standard error; with ``--json``
standard output has exactly one line, a JSON object; with ``--json FILE`` that goes into the file. What was written is
said on standard error.
"""

from __future__ import annotations

import click

from tilewright.cli.common import LazyGroup

__all__ = ["BENCHMARKS", "COMMANDS", "main"]

COMMANDS = {
    "cholesky": ("tilewright.cli.cholesky", "Factor a symmetric positive definite matrix and say how it went."),
    "lu": ("tilewright.cli.lu", "Factor a general matrix with row exchanges and say how it went."),
    "qr": ("tilewright.cli.qr", "Factor a matrix by reflections and say how it went."),
    "trees": ("tilewright.cli.qr", "Critical paths of QR by tree; who eliminates which tile."),
    "solve": ("tilewright.cli.solve", "Solve a positive definite system to FP64 accuracy and say how."),
    "dag": ("tilewright.cli.graphs", "Draw any task graph; no data needed."),
    "run": ("tilewright.cli.graphs", "Run any task graph on this computer and print what happened."),
    "info": ("tilewright.cli.info", "What is installed, which BLAS is used, which kernels and engines there are."),
    "precision": ("tilewright.cli.precision", "Number formats, what they do to numbers, which products there are."),
    "compare": ("tilewright.cli.schedulers", "Run any graph under many policies, simulated or measured."),
    "simulate": ("tilewright.cli.schedulers", "Predict one run of any graph and print its bounds."),
    "spmv": ("tilewright.cli.spmv", "Multiply a sparse matrix on ranks: words, messages, times, conjugate gradients."),
    "report": ("tilewright.cli.schedulers", "One HTML page of saved runs, side by side."),
    "train": ("tilewright.cli.training", "Train a model in one precision, or in several side by side."),
    "matvec": ("tilewright.cli.matvec", "Multiply a dense matrix that stays on the ranks by vectors."),
    "scaling": (
        "tilewright.cli.matvec",
        "Efficiency of products: formulas (Eijkhout, Parallel scalability) and simulated points.",
    ),
    "contention": ("tilewright.cli.contention", "How many workers one lock feeds: where threads stop paying."),
    "calibrate": ("tilewright.cli.matvec", "Measure alpha, beta and gamma of this computer."),
    "resume": ("tilewright.cli.resume", "Go on from the checkpoint of a factorisation that was killed."),
    "bench": ("tilewright.cli", "Measure tilewright beside other libraries."),
}
"""Commands and the modules that have them under their own names; modules are imported when a command is used."""

BENCHMARKS = {
    "cholesky": ("tilewright.benchmarks.cholesky", "Tiled Cholesky beside numpy, scipy, torch, dpotrf and dask."),
    "tiles": ("tilewright.benchmarks.tiles", "Every sensible tile size of Cholesky beside the one that is chosen."),
    "lu": ("tilewright.benchmarks.lu", "Tiled LU beside scipy, torch and dask, and beside dgemm."),
    "eig": ("tilewright.benchmarks.eig", "Eigenvalues and singular values beside scipy, torch and dask."),
    "qr": ("tilewright.benchmarks.qr", "Tile QR and TSQR beside scipy, numpy, torch and dask, and beside dgemm."),
    "outofcore": (
        "tilewright.benchmarks.outofcore",
        "Factorisations with memory of a part of the matrix beside those in core, and what a checkpoint costs.",
    ),
    "algebra": ("tilewright.benchmarks.algebra", "Products, inverses and systems of tiles beside numpy and scipy."),
    "solve": ("tilewright.benchmarks.solve", "FP64 answers beside scipy, torch and our FP64 path."),
    "hpl-mxp": ("tilewright.benchmarks.hpl_mxp", "The HPL-MxP benchmark, in each format, beside FP64."),
    "accuracy": ("tilewright.benchmarks.accuracy", "Paths and backward errors over conditions and spectra."),
    "overhead": ("tilewright.benchmarks.overhead", "Time per empty task, beside dask and concurrent.futures."),
    "simulator": ("tilewright.benchmarks.simulator", "Predicted beside measured runs, simulated tasks per second."),
    "dask": ("tilewright.benchmarks.dask", "A Dask cluster: dask.array beside both modes of ours, and threads."),
    "gemm": ("tilewright.benchmarks.gemm", "Tile products in every format, by every route."),
    "plan": ("tilewright.benchmarks.plan", "What one of many ranks plans, and what empty tasks cost on ranks."),
    "mpi": ("tilewright.benchmarks.mpi", "Ranks beside threads, what a pool costs, message counts."),
    "train": ("tilewright.benchmarks.train", "The training graph beside a plain torch loop, BF16, MPI ranks."),
    "matvec": ("tilewright.benchmarks.matvec", "Dense products on two ranks beside NumPy and the copy bandwidth."),
    "spmv": ("tilewright.benchmarks.spmv", "Sparse products on ranks beside SciPy, PETSc and the memory's bandwidth."),
}
"""Subcommands of ``tilewright bench``: each is ``command`` in its module."""


@click.group(cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tilewright", prog_name="tilewright", message="%(prog)s %(version)s")
def main() -> None:
    """Tiled linear algebra as task graphs."""


@click.group(cls=LazyGroup, table=BENCHMARKS, attribute="command")
def bench() -> None:
    """Measure tilewright beside other libraries."""
