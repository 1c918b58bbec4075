"""``tilewright resume``: go on from the checkpoint of a run that was killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tilewright.cli.common import Progress, as_json, one_sentence, progress

__all__ = ["resume"]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--memory", help="Another limit than that of the call, such as 2GB.")
@click.option("--workers", type=click.IntRange(min=1), help="[default: one per core]")
@as_json
@progress
def resume(folder: Path, memory: str | None, workers: int | None, as_json: bool, progress: Progress) -> None:
    """Go on from the checkpoint in FOLDER, that of a factorisation from a file to a file."""
    from tilewright.linalg.factor import tiled_cholesky
    from tilewright.linalg.lu import lu_factor
    from tilewright.storage.checkpoint import CheckpointError, read_call

    with one_sentence():
        call = read_call(folder)["call"]
        routines: dict[str, Any] = {"tiled_cholesky": tiled_cholesky, "lu_factor": lu_factor}
        if call.get("routine") not in routines:
            raise CheckpointError(f"{folder} is of {call.get('routine')}, which this tilewright has not")
        if "a" not in call or "out" not in call:
            raise CheckpointError(
                f"the matrix of the run in {folder} was not in a file, or its factor did not go to "
                f"one; make the call again in Python, with resume=True"
            )
        keywords = {**call["keywords"], **({} if memory is None else {"memory": memory})}
        routine = routines[call["routine"]]
        _, run = routine(
            call["a"],
            out=call["out"],
            checkpoint=folder,
            resume=True,
            workers=workers,
            return_run=True,
            progress=progress,
            **keywords,
        )
    if as_json:
        click.echo(
            json.dumps(
                {
                    "out": call["out"],
                    "routine": call["routine"],
                    "tasks": len(run.graph),
                    "seconds": run.makespan,
                    "memory": run.measured,
                }
            )
        )
    else:
        click.echo(run)
        click.echo(f"wrote {call['out']}")
