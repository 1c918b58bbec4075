"""``tilewright contention``: where threads stop paying."""

from __future__ import annotations

from typing import Any

import click

from tilewright.cli.common import Json, as_json, emit, one_sentence

__all__ = ["contention"]


def _numbers(_: Any, __: Any, text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers with commas") from None


@click.command()
@click.option("--nt", type=click.IntRange(1, 100), default=32, show_default=True, help="Tile rows.")
@click.option("--tile-sizes", default="64,128,256,512", show_default=True, callback=_numbers, help="With commas.")
@click.option("--workers", default="1,2,4,8,16,32,64,128,256", show_default=True, callback=_numbers, help="Alike.")
@click.option("--dispatch", type=float, help="Microseconds of the lock for each task.  [default: measured here]")
@click.option("--gflops", type=float, help="Rate of a worker.  [default: by the rates of this computer]")
@as_json
def contention(
    nt: int, tile_sizes: list[int], workers: list[int], dispatch: float | None, gflops: float | None, as_json: Json
) -> None:
    """How many workers of one process its one lock feeds, by tile size: simulated, with the cost measured here.

    The graph is a Cholesky factorisation of nt x nt tiles.
    """
    import json

    import tilewright as tw

    with one_sentence():
        found = tw.contention_study(
            tw.cholesky_graph(nt=nt),
            tile_sizes=tile_sizes,
            workers=workers,
            dispatch=None if dispatch is None else dispatch * 1e-6,
            machine=None if gflops is None else tw.Machine(gamma=1e-9 / gflops),
        )
    emit(json.loads(found.to_json()), as_json, lambda: click.echo(found))
