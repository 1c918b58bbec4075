"""The ``tilewright`` command.

Exit codes: 0 done; 1 the numbers failed (not positive definite, or a LAPACK ratio that does not pass), or ranks did not
start or died; 2 bad input, a file that cannot be read or written, or a missing optional package; 130 Ctrl-C. What went
wrong is said in one sentence. Tables go to standard output and progress to standard error; with ``--json``
standard output has exactly one line, a JSON object.
"""

from __future__ import annotations

import click

from tilewright.cli.common import LazyGroup

__all__ = ["BENCHMARKS", "COMMANDS", "main"]

COMMANDS = {
    "cholesky": ("tilewright.cli.cholesky", "Factor a symmetric positive definite matrix and say how it went."),
    "lu": ("tilewright.cli.lu", "Factor a general matrix with row exchanges and say how it went."),
    "solve": ("tilewright.cli.solve", "Solve a positive definite system to FP64 accuracy and say how."),
    "dag": ("tilewright.cli.cholesky", "Draw task graphs; no data needed."),
    "info": ("tilewright.cli.info", "What is installed, which BLAS is used, which kernels and engines there are."),
    "precision": ("tilewright.cli.precision", "Number formats, what they do to numbers, which products there are."),
    "compare": ("tilewright.cli.schedulers", "Run one graph under many policies, simulated or measured."),
    "simulate": ("tilewright.cli.schedulers", "Predict one run and print its bounds and idle times."),
    "spmv": ("tilewright.cli.spmv", "Multiply a sparse matrix on ranks: words, messages, times, conjugate gradients."),
    "report": ("tilewright.cli.schedulers", "One HTML page of saved runs, side by side."),
    "train": ("tilewright.cli.training", "Train a model in one precision, or in several side by side."),
    "matvec": ("tilewright.cli.matvec", "Multiply a dense matrix that stays on the ranks by vectors."),
    "scaling": ("tilewright.cli.matvec", "Efficiency of dense products: the lecture's formulas and simulated points."),
    "calibrate": ("tilewright.cli.matvec", "Measure alpha, beta and gamma of this computer."),
    "bench": ("tilewright.cli", "Measure tilewright beside other libraries."),
}
"""Commands and the modules that have them under their own names; modules are imported when a command is used."""

BENCHMARKS = {
    "cholesky": ("tilewright.benchmarks.cholesky", "Tiled Cholesky beside numpy, scipy, torch, dpotrf and dask."),
    "tiles": ("tilewright.benchmarks.tiles", "Every sensible tile size of Cholesky beside the one that is chosen."),
    "lu": ("tilewright.benchmarks.lu", "Tiled LU beside scipy, torch and dask, and beside dgemm."),
    "algebra": ("tilewright.benchmarks.algebra", "Products, inverses and systems of tiles beside numpy and scipy."),
    "solve": ("tilewright.benchmarks.solve", "FP64 answers beside scipy, torch and our FP64 path."),
    "accuracy": ("tilewright.benchmarks.accuracy", "Paths and backward errors over conditions and spectra."),
    "overhead": ("tilewright.benchmarks.overhead", "Time per empty task, beside dask and concurrent.futures."),
    "simulator": ("tilewright.benchmarks.simulator", "Predicted beside measured runs, simulated tasks per second."),
    "dask": ("tilewright.benchmarks.dask", "A Dask cluster: dask.array beside both modes of ours, and threads."),
    "gemm": (
        "tilewright.benchmarks.gemm",
        "Tile products in every format, by every route.",
    ),
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
