"""`tilewright bench accuracy`: the paths of solutions over conditions, spectra, precisions and matrices of papers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from typing import Any

import click
import numpy as np

import tilewright as tw
from tilewright.linalg.gallery import SPECTRA, conditioned_spd

__all__ = ["command", "gallery", "sweep", "table"]

CONDITIONS = (1e1, 1e2, 1e4, 1e6, 1e8, 1e10, 1e12, 1e14)
PRECISIONS = ("bf16", "bf16x3", "fp32", "fp64")


def gallery(n: int) -> Iterator[tuple[str, np.ndarray]]:
    """Trefethen's primes, Kac-Murdock-Szegoe, Matern covariances in the plane, the Laplacian of a square."""
    primes = [p for p in range(2, 20 * n + 30) if all(p % q for q in range(2, int(p**0.5) + 1))][:n]
    i = np.arange(n)
    apart = np.abs(i[:, None] - i)
    yield "Trefethen", np.diag(np.array(primes, float)) + np.isin(apart, 2 ** np.arange(31))
    for rho in (0.5, 0.9, 0.999):
        yield f"KMS {rho}", rho**apart
    points = np.random.default_rng(0).random((n, 2))
    points = points[np.argsort(points[:, 0])]
    distances = np.sqrt(((points[:, None] - points) ** 2).sum(axis=-1))
    for length in (0.03, 0.1, 0.3):
        r = np.sqrt(3) * distances / length
        yield f"Matern {length}", (1 + r) * np.exp(-r) + 1e-10 * np.eye(n)
    side = max(1, int(n**0.5))
    t = 2 * np.eye(side) - np.eye(side, k=1) - np.eye(side, k=-1)
    yield "Poisson", np.kron(t, np.eye(side)) + np.kron(np.eye(side), t)


def random(n: int) -> Iterator[tuple[str, np.ndarray]]:
    """Every spectrum with every condition."""
    for kind in SPECTRA:
        for condition in CONDITIONS:
            yield f"{kind} {condition:.0e}", conditioned_spd(n, condition, kind)


def sweep(n: int, tile_size: int) -> Iterator[dict[str, Any]]:
    """One record for each matrix and precision: path, iterations, backward error, or the exception."""
    for name, a in chain(random(n), gallery(n)):
        b = np.random.default_rng(1).standard_normal((len(a), 2))
        for precision in PRECISIONS:
            try:
                _, info = tw.solve(a, b, precision=precision, tile_size=tile_size, return_info=True)
            except (tw.AccuracyError, tw.NotPositiveDefiniteError) as error:
                what = type(error).__name__
                yield {"matrix": name, "n": len(a), "precision": precision, "path": what, "passed": False}
                continue
            yield {
                "matrix": name,
                "n": len(a),
                "precision": precision,
                "path": " -> ".join(f"{attempt.precision} ({attempt.code})" for attempt in info.path),
                "iterations": info.iterations,
                "backward_error": info.backward_error,
                "hpl": info.hpl_mxp_residual,
                "passed": info.hpl_mxp_residual <= 1,
            }


def table(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Lines of a table in Markdown: for each matrix the paths from every precision, and the largest backward error."""
    yield f"| matrix | {' | '.join(PRECISIONS)} | largest error / (n u) |"
    yield "|---" * (len(PRECISIONS) + 2) + "|"
    for name, group in groupby(rows, key=lambda row: row["matrix"]):
        mine = list(group)
        paths = [row["path"].replace(f"{row['precision']} (", "", 1).replace(")", "", 1) for row in mine]
        error = f"{max(row['hpl'] for row in mine):.2g}" if all("hpl" in row for row in mine) else "**raised**"
        yield f"| {name} | {' | '.join(paths)} | {error} |"


@click.command("accuracy")
@click.option("--n", default=512, show_default=True, help="Matrix size.")
@click.option("--tile-size", default=64, show_default=True, help="Rows of a tile.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines instead of a table in Markdown.")
def command(n: int, tile_size: int, as_json: bool) -> None:
    """Path, iterations and backward error of solutions; exit code 1 if one misses n u."""
    failed = []

    def rows() -> Iterator[dict[str, Any]]:
        for row in sweep(n, tile_size):
            if not row["passed"]:
                failed.append(row)
            yield row

    for line in map(json.dumps, rows()) if as_json else table(rows()):
        click.echo(line)
    if failed:
        raise click.exceptions.Exit(1)
