"""``tilewright solve``: solve a system to FP64 accuracy and say how."""

from __future__ import annotations

from pathlib import Path

import click

from tilewright.cli.common import Json, as_json, emit, engine_options, one_sentence, order_and_file
from tilewright.linalg.gallery import SPECTRA
from tilewright.linalg.refinement import METHODS as _METHODS

__all__ = ["solve"]

PRECISIONS = ("auto", "bf16", "fp16", "tf32", "bf16x3", "fp32", "fp64")
METHODS = ("auto", *_METHODS)


@click.command()
@order_and_file
@click.option("--cond", type=click.FloatRange(min=1), default=100.0, show_default=True, help="Its condition number.")
@click.option("--spectrum", type=click.Choice(SPECTRA), default="geometric", show_default=True, help="Its eigenvalues.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of matrix and right-hand sides."
)
@click.option("--rhs", type=click.IntRange(min=1), default=1, show_default=True, help="Right-hand sides.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True, help="Where to begin.")
@click.option("--refine", type=click.Choice(METHODS), default="auto", show_default=True)
@click.option("--fallback/--no-fallback", default=True, help="Go on to higher precisions.  [default: yes]")
@click.option(
    "--assume-a",
    type=click.Choice(["pos", "gen"]),
    default="pos",
    show_default=True,
    help="Positive definite, or general: by LU.",
)
@click.option("--upper", is_flag=True, help="Read the upper triangle.")
@click.option("--check-symmetric", is_flag=True, help="Compare the triangles first.")
@engine_options
@click.option(
    "--repeat", type=click.IntRange(min=1), default=1, show_default=True, help="Solutions; the fastest counts."
)
@as_json
def solve(
    n: int | None,
    cond: float,
    spectrum: str,
    seed: int,
    matrix: Path | None,
    rhs: int,
    precision: str,
    refine: str,
    fallback: bool,
    assume_a: str,
    upper: bool,
    check_symmetric: bool,
    tile_size: int | None,
    backend: str,
    scheduler: str,
    workers: int | None,
    repeat: int,
    as_json: Json,
) -> None:
    """Solve a system to FP64 accuracy and say how."""
    import numpy as np

    import tilewright as tw
    from tilewright.linalg.gallery import conditioned_general, conditioned_spd, load_matrix

    with one_sentence():
        make = conditioned_spd if assume_a == "pos" else conditioned_general
        a = make(4096 if n is None else n, cond, spectrum, seed) if matrix is None else load_matrix(matrix)
        b = np.random.Generator(np.random.Philox(key=seed + 1)).standard_normal((len(a), rhs))
        first = "bf16" if precision == "auto" else precision
        # Loads the libraries, off the clock
        tw.solve(np.eye(32), np.ones(32), assume_a=assume_a, precision=first, tile_size=16)
        best = None
        for _ in range(repeat):
            try:
                _, info = tw.solve(
                    a,
                    b,
                    assume_a=assume_a,
                    precision=precision,
                    refine=refine,
                    fallback=fallback,
                    lower=not upper,
                    tile_size=tile_size,
                    check_symmetric=check_symmetric,
                    backend=backend,
                    scheduler=scheduler,
                    workers=workers,
                    return_info=True,
                )
            except tw.AccuracyError as error:
                raise click.ClickException(str(error)) from error  # exit code 1
            best = info if best is None or info.times["total"] < best.times["total"] else best
    assert best is not None
    found = best
    emit(found.as_dict(), as_json, lambda: click.echo(str(found)))
