"""Factor two matrices, compare with SciPy and torch, and draw what happened.

    python examples/demo.py            (or: make demo)

The first matrix is real: the covariance of a Gaussian process over the 1,797 handwritten digits of scikit-learn. The
second is random. For each the demo writes a picture of the task graph, a trace and a Gantt chart of the run.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

import tilewright as tw
from tilewright.benchmarks.rivals import rivals
from tilewright.benchmarks.timing import Contender, alternate
from tilewright.extras import brings
from tilewright.linalg.gallery import random_spd
from tilewright.linalg.residual import THRESHOLD, cholesky_ratio
from tilewright.units import seconds

RIVALS = ("scipy", "torch")


def digits_covariance() -> np.ndarray:
    """K[i, j] = exp(-gamma |x_i - x_j|^2) between the images of digits, plus a nugget: noise in each measurement."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise click.ClickException(f"the digits come with scikit-learn; {brings('demo')}") from None
    images = load_digits().data  # (1797, 64), values 0 to 16
    squares = (images**2).sum(axis=1)
    distances = squares[:, None] + squares[None, :] - 2 * images @ images.T  # |x - y|^2 = |x|^2 + |y|^2 - 2 x.y
    covariance = np.exp(-1e-3 * distances)
    covariance[np.diag_indices(len(covariance))] += 1e-3
    return covariance


def factor(name: str, A: np.ndarray, rounds: int, table: Table) -> tw.Run:
    """Factor A as often as the others do, in turns with them, and add a row to the table."""
    calls = {"tilewright": lambda: tw.tiled_cholesky(A)} | rivals(A)
    contenders = [Contender(key, call) for key, call in calls.items() if key == "tilewright" or key in RIVALS]
    times = {key: taken.median for key, taken in alternate(contenders, rounds).items()}

    L, run = tw.tiled_cholesky(A, return_run=True)  # once more, to look at
    ratio = cholesky_ratio(A, L)
    time = times["tilewright"]
    table.add_row(
        f"{name}, n = {len(A)}",
        seconds(time),
        f"{run.flops / time / 1e9:.4g}",
        f"{ratio:.2g} {'PASS' if ratio < THRESHOLD else 'FAIL'}",
        *(f"{times[key] / time:.2f}x" if key in times else "not installed" for key in RIVALS),
    )
    return run


def write_pictures(name: str, run: tw.Run, out: Path) -> list[tuple[Path, str]]:
    """The task graph, the trace and the Gantt chart as files; each with how to open it."""
    dag, trace, gantt = out / f"{name}-dag.svg", out / f"{name}-trace.json", out / f"{name}-gantt.png"
    run.graph.to_svg(dag)
    run.trace.to_perfetto(trace)
    files = [(dag, "task graph: open in a browser"), (trace, "trace: open at https://ui.perfetto.dev")]
    try:
        from tilewright.plot.gantt import gantt as draw

        draw(run, gantt)
        files.append((gantt, "Gantt chart: open in an image viewer"))
    except ImportError as error:
        files.append((gantt, f"not written: {error}"))
    return files


@click.command()
@click.option("--n", type=click.IntRange(min=1), default=4096, show_default=True, help="Order of the random matrix.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Runs of each library.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default="out",
    show_default=True,
    help="Folder for the pictures.",
)
def main(n: int, rounds: int, out: Path) -> None:
    """Factor the digits' covariance and a random matrix; compare, and draw."""
    console = Console(highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    table = Table(
        title=f"A = L L^T, median of {rounds} runs",
        title_justify="left",
        caption="LAPACK ratio: |A - L L^T| / (n |A| u), in 1-norms; below 30 passes. "
        "scipy and torch: their time over ours, in turns with ours.",
    )
    table.add_column("matrix")
    for heading in ("time", "GFLOP/s", "LAPACK ratio", "scipy", "torch"):
        table.add_column(heading, justify="right")
    files = []
    for name, make in (("digits", digits_covariance), ("random", lambda: random_spd(n))):
        with console.status(f"{name}: factoring"):
            run = factor(name, make(), rounds, table)
            files += write_pictures(name, run, out)
    console.print(table)
    console.print(f"\nThe last run:\n{run}\n", markup=False)
    for path, what in files:
        console.print(f"{path}   {what}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
