"""``tilewright resume``: go on from the checkpoint of a run that was killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tilewright.cli.common import Progress, as_json, one_sentence, progress

__all__ = ["resume"]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--memory", help="Another limit than that of the call, such as 2GB.")
@click.option("--workers", type=click.IntRange(min=1), help="[default: one per core]")
@click.option("--backend", help="Where it goes on.  [default: threads in core, else where it was]")
@click.option(
    "--matrix", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The matrix of a run in core: A.npy."
)
@click.option("--out", type=click.Path(path_type=Path), help="Where the factor of a run in core goes, .npy or .npz.")
@click.option("--overwrite-out", is_flag=True, help="Replace the file that stands where the result of the run goes.")
@as_json
@progress
def resume(
    folder: Path,
    memory: str | None,
    workers: int | None,
    backend: str | None,
    matrix: Path | None,
    out: Path | None,
    overwrite_out: bool,
    as_json: bool,
    progress: Progress,
) -> None:
    """Go on from the checkpoint in FOLDER, that of a factorisation.

    One from a file to a file says itself what they are. One in core was of an array: name the file that has it, unless
    it was a map of one, and a file for the factor, which is not there yet.
    """
    from tilewright.storage.checkpoint import CheckpointError, read_call

    with one_sentence():
        call = _checked(folder, read_call(folder)["call"])
        routines = _routines()
        if call.get("routine") not in routines:
            raise CheckpointError(f"{folder} is of {call.get('routine')}, which this tilewright has not")
        how = {"checkpoint": folder, "resume": True, "workers": workers, "progress": progress, "return_run": True}
        how |= call["keywords"] | ({} if memory is None else {"memory": memory})
        #   a folder may come from a stranger: which files may go is for who calls to say
        replaces = how.pop("overwrite_out", False) is not False
        routine = routines[call["routine"]]
        if call.get("core"):
            place, run = _in_core(call, routine, how, backend, matrix, out)
        else:
            try:
                place, run = _outside(
                    folder, call, routine, how | {"overwrite_out": overwrite_out}, backend, matrix, out
                )
            except FileExistsError as error:
                if overwrite_out or not replaces:
                    raise
                message = f"the run in {folder} replaces a file: {error.strerror}"
                raise click.UsageError(message.replace("overwrite_out=True", "--overwrite-out")) from error
    if as_json:
        click.echo(
            json.dumps(
                {
                    "out": place,
                    "routine": call["routine"],
                    "tasks": len(run.graph),
                    "seconds": run.makespan,
                    "memory": run.measured,
                }
            )
        )
    else:
        click.echo(run)
        click.echo(f"wrote {place}")


_KEYWORDS = frozenset(
    ("backend", "check_finite", "lower", "memory", "mode", "overwrite_out", "panel", "pivoting", "positive")
    + ("threshold", "tile_size", "tree", "update")
)
"""Words of a call that a checkpoint may say. None leads to another process or file: a stranger may have made it."""


def _checked(folder: Path, call: Any) -> dict[str, Any]:
    """What a checkpoint says of its call. CheckpointError for what no run writes."""
    from tilewright.storage.checkpoint import CheckpointError

    keywords = call.get("keywords") if isinstance(call, dict) else None
    if not isinstance(keywords, dict):
        raise CheckpointError(f"{folder / 'run.json'} is damaged: it does not say which call was made")
    others = sorted(keywords.keys() - _KEYWORDS)
    if others:
        raise CheckpointError(f"{folder / 'run.json'} has a keyword {others[0]!r}, which no run writes there")
    out = call.get("out", "")
    files = [call.get("a", ""), *(out if isinstance(out, list) else [out])]
    if not isinstance(call.get("routine"), str) or not all(isinstance(file, str) for file in files):
        raise CheckpointError(f"{folder / 'run.json'} is damaged: it does not say what was called with which files")
    return call


def _routines() -> dict[str, Callable[..., Any]]:
    from tilewright.linalg.factor import tiled_cholesky
    from tilewright.linalg.lu import lu_factor
    from tilewright.linalg.qr import qr, qr_factor

    return {"tiled_cholesky": tiled_cholesky, "lu_factor": lu_factor, "qr": qr, "qr_factor": qr_factor}


def _outside(
    folder: Path,
    call: dict[str, Any],
    routine: Callable[..., Any],
    how: dict[str, Any],
    backend: str | None,
    matrix: Path | None,
    out: Path | None,
) -> tuple[str, Any]:
    """Go on with a run from a file to a file."""
    from tilewright.storage.checkpoint import CheckpointError

    for name, given in (("matrix", matrix), ("out", out)):
        if given is not None:
            raise click.UsageError(f"--{name} is for runs in core; the run in {folder} goes from a file to a file")
    if backend is not None:
        how["backend"] = backend
    if "a" not in call or "out" not in call:
        raise CheckpointError(
            f"the matrix of the run in {folder} was not in a file, or its factor did not go to "
            f"one; make the call again in Python, with resume=True"
        )
    if isinstance(how.get("tree"), list):
        how["tree"] = tuple(tuple(step) if isinstance(step, list) else step for step in how["tree"])
    *_, run = routine(call["a"], out=call["out"], **how)
    return " and ".join([call["out"]] if isinstance(call["out"], str) else call["out"]), run


def _in_core(
    call: dict[str, Any],
    routine: Callable[..., Any],
    how: dict[str, Any],
    backend: str | None,
    matrix: Path | None,
    out: Path | None,
) -> tuple[str, Any]:
    """Go on with a run whose result was in memory: it goes to a file now."""
    import numpy as np

    from tilewright.host.files import replacing
    from tilewright.linalg.lu import LUFactor

    given = matrix or call.get("a")
    if given is None:
        raise click.UsageError("the matrix of this run was an array; name a file that has it: --matrix A.npy")
    names = {"tiled_cholesky": (), "lu_factor": ("lu", "piv"), "qr": ("Q", "R"), "qr_factor": ("Q", "R")}[
        call["routine"]
    ]
    suffix = ".npz" if names else ".npy"
    if out is None or out.suffix != suffix:
        raise click.UsageError(f"the factor of {call['routine']} goes to a file: --out PATH, one that ends in {suffix}")
    if isinstance(how.get("tree"), list):
        how["tree"] = tuple(tuple(step) if isinstance(step, list) else step for step in how["tree"])
    *found, run = routine(np.load(given), **how, **({} if backend is None else {"backend": backend}))
    parts = found
    if call["routine"] == "qr_factor":
        parts = [found[0].explicit(), found[0].R]
    elif isinstance(found[0], LUFactor):
        parts = [found[0].lu, found[0].piv]
    with replacing(out) as aside:
        if names:
            np.savez(aside, **dict(zip(names[-len(parts) :], parts, strict=True)))
        else:
            np.save(aside, parts[0])
    return str(out), run
