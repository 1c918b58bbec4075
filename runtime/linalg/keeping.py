"""Runs of a call with ``checkpoint=`` whose result is in memory: kept, gone on with, and begun again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.backends.execution.engine import Engine
from tilewright.errors import RankDied, WorkerDied
from tilewright.graph import Handle, TaskGraph
from tilewright.kernels import choice
from tilewright.linalg.finals import Finals, Kept, kept_graph, panels_of, places_of
from tilewright.runs.run import Run
from tilewright.storage import parts
from tilewright.storage.checkpoint import Checkpoint, CheckpointError
from tilewright.storage.parts import TileInPart

__all__ = ["Keeping"]


class Keeping:
    """A checkpoint of one call in core.

    Parameters
    ----------
    folder, resume, every, restart
        As the caller said them; ``restart`` is how often a run begins again where a rank or worker died.
    routine
        The name of the call.
    a
        Its matrix, whose file `tilewright resume` reads if it is one that is mapped.
    what
        Its name in messages.
    """

    def __init__(
        self,
        folder: str | Path,
        resume: bool,
        every: float,
        restart: int,
        routine: str,
        a: Any,
        what: str = "the matrix a",
    ) -> None:
        self.folder, self.resume, self.every, self.restart = Path(folder).absolute(), resume, every, restart
        self.said, self.routine, self.what = str(folder), routine, what
        self.file = _file_of(a)
        self.wait = False
        """Whether tasks wait for the disk, so that nothing that waits for it is in memory."""
        self.files: dict[str, Any] | None = None
        """Matrix and results of a call from files to files."""

    def run(
        self,
        engine: Engine,
        workers: int | None,
        graph: TaskGraph,
        finals: Finals,
        facts: Mapping[str, Any],
        keywords: Mapping[str, Any],
        execute: Callable[[TaskGraph], Run],
    ) -> Run:
        """What ``execute`` makes of the graph with what the checkpoint needs.

        Parameters
        ----------
        facts
            On which the bits depend.
        keywords
            With which `tilewright resume` makes the call again.

        Raises
        ------
        FileExistsError, CheckpointError, OSError
            As `Checkpoint` and `tilewright.storage.parts`.
        RankDied, WorkerDied
            More often than ``restart`` allows; with a note that says how much is finished.
        """
        checkpoint: Checkpoint | None = None
        panels = panels_of(graph, finals)
        facts = {"routine": self.routine, **facts, "BLAS": str(choice.choice())}
        document = {"routine": self.routine, "core": self.files is None, "keywords": dict(keywords)}
        if self.file is not None:
            document["a"] = self.file
        document |= self.files or {}
        deaths = 0
        run = ""
        try:
            while True:
                told: Any = None
                if engine.leads:
                    try:
                        if checkpoint is None:
                            checkpoint = Checkpoint(self.folder, facts, document, resume=self.resume, every=self.every)
                        told = checkpoint.id, *_known(checkpoint, panels)
                    except Exception as error:
                        told = error
                told = engine.agreed(told)
                if isinstance(told, Exception):
                    raise told
                run, tiles, sources = told
                begun = _whole(panels, tiles)
                ranks, rank_of = engine.dealt(graph, workers)
                places = places_of(graph, rank_of) if ranks > 1 else (0,) * len(graph)
                wait = self.wait or engine.writes_at_once
                kept = Kept(str(self.folder), run, self.every, wait, tiles, sources, places, self.what)
                try:
                    record = execute(kept_graph(graph, finals, kept))
                    break
                except (RankDied, WorkerDied) as error:
                    if deaths == self.restart:
                        if deaths:
                            error.add_note(f"the run had begun again {deaths} times, as restart={self.restart} says")
                        raise
                    deaths += 1
                    engine.renew()
        except BaseException as error:
            with suppress(OSError):
                parts.settle(str(self.folder), run)
            self._say(error, checkpoint, panels)
            raise
        finally:
            if checkpoint is not None:
                checkpoint.close()
        notes = [*record.notes]
        if begun:
            notes.append(f"{begun} of {len(panels)} block columns were in {self.said}")
        if deaths:
            notes.append(f"begun again {deaths} times on other processes")
        return replace(record, notes=tuple(notes))

    def _say(self, error: BaseException, checkpoint: Checkpoint | None, panels: dict[int, set[Handle]]) -> None:
        """Note how much is finished, and where; leave nothing where nothing is."""
        if checkpoint is None:
            return
        done = 0
        with suppress(OSError, ValueError):
            done = _whole(panels, _known(checkpoint, panels)[0])
        checkpoint.discard()
        if isinstance(error, CheckpointError):
            return  # the same call would find the same
        if done and isinstance(error, Exception):
            error.add_note(
                f"{done} of {len(panels)} block columns are finished and stay in {self.said}; the same call with "
                f"resume=True goes on from them"
            )
        elif isinstance(error, RankDied | WorkerDied):
            error.add_note(f"no block column was finished yet in {self.said}")


def _known(
    checkpoint: Checkpoint, panels: dict[int, set[Handle]]
) -> tuple[dict[Handle, TileInPart], dict[Handle, str]]:
    """Tiles of parts that are there, and checksums of what they were made of."""
    tiles: dict[Handle, TileInPart] = {}
    sources: dict[Handle, str] = {}
    for part in checkpoint.parts():
        tiles |= part.tiles
        sources |= part.sources
    ours = set().union(*panels.values()) if panels else set()
    return {handle: where for handle, where in tiles.items() if handle in ours}, sources


def _whole(panels: dict[int, set[Handle]], tiles: Mapping[Handle, TileInPart]) -> int:
    """How many panels are there with all their tiles."""
    return sum(handles <= tiles.keys() for handles in panels.values())


def _file_of(a: Any) -> str | None:
    """The .npy file that an array is a map of."""
    name = getattr(a, "filename", None) if isinstance(a, np.memmap) else None
    return str(name) if name is not None and str(name).endswith(".npy") else None
