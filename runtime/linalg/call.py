"""What stands around a routine's loop: one call, from its arguments to the kind of result that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tilewright.arguments import is_chunked
from tilewright.backends import check_call, find_engine, named
from tilewright.distribution import BlockCyclic, chosen_owner, near_square
from tilewright.engine import run
from tilewright.graph import TaskGraph
from tilewright.host.memory import Peak
from tilewright.linalg.by_columns import ByColumns
from tilewright.linalg.chunked import Chunks
from tilewright.linalg.device import DeviceColumns, DeviceTriangle
from tilewright.linalg.finals import Finals
from tilewright.linalg.keeping import Keeping
from tilewright.linalg.matrix import Matrix, Triangle, is_device_tensor
from tilewright.linalg.right_hand_side import RightHandSide
from tilewright.runs.progress import ProgressOption
from tilewright.runs.run import Run
from tilewright.scalars import flag, positive
from tilewright.schedulers import Policy
from tilewright.schedulers import policy as find_policy
from tilewright.tiles import Store
from tilewright.units import nbytes

__all__ = ["Call"]

_ON_DEVICE = ("serial", "threads")


class Call:
    """One call of a public routine.

    A routine is a loop over tiles, its kernels, and some ten lines that use these methods in this order::

        call = Call(routine, a, options, backend=backend, workers=workers)
        with call.agreement() as facts:
            matrix = call.matrix(overwrite=overwrite_a)
            source = matrix.source(call.tile_size(tile_size, matrix, rule))
            facts.update(shape=source.shape, dtype=str(matrix.dtype), tile_size=source.tile_size)
        target = matrix.target()
        call.run(graph, {"S": source, "A": target})
        return call.result(matrix.result(target))

    Nothing else of the library asks what kind of matrix was given, or on which engine it is worked with.

    Parameters
    ----------
    routine
        The public function. Options are refused in its name; kept as `routine`.
    a
        Its first matrix.
    options
        Those of the engine.
    backend, scheduler, workers, progress
        See `tilewright.run`. With ``chunks`` and no backend a dask.array goes to ``"dask"``.
    return_run
        Whether `result` gives the `Run` as well.
    chunks
        Whether the routine works on a dask.array where its chunks are. It is gathered for an engine that was named.

    Attributes
    ----------
    a
        What to work with instead of the first matrix.
    engine
        Where it runs; made once, and handed on.
    on_device
        Whether that is a tensor on a GPU.
    record
        The run, after it.
    """

    def __init__(
        self,
        routine: Callable[..., Any],
        a: Any,
        options: Mapping[str, Any],
        *,
        backend: str | None = None,
        scheduler: str | Policy = "critical-path",
        workers: int | None = None,
        progress: ProgressOption = False,
        return_run: bool = False,
        chunks: bool = False,
    ) -> None:
        chunked = chunks and is_chunked(a)
        if chunked and backend not in (None, "dask"):
            a, chunked = a.compute(), False
        name = "dask" if chunked else named(backend)
        check_call(routine, options, name)
        self.routine = routine
        self.return_run = flag(return_run, "return_run")
        self.scheduler, self.workers, self.progress = scheduler, workers, progress
        self.on_device, self.chunked = is_device_tensor(a), chunked
        if self.on_device and name not in _ON_DEVICE:
            raise ValueError(f"backend {name!r} cannot run on {a.device}; use {' or '.join(_ON_DEVICE)}")
        self.options = options
        self.engine = find_engine(name, options, computes=not self.return_run)
        self.a = self.argument(a)
        self.record: Run | None = None
        self.keeping: Keeping | None = None
        """The checkpoint, if the caller wants one."""
        self.limit: int | None = None
        """Bytes that a run may take, on each rank."""

    # ---------------------------------------------------------------- before

    def argument(self, value: Any) -> Any:
        """What to work with instead of another argument; ranks call it together, before `agreement`."""
        return self.engine.argument(value)

    @contextmanager
    def agreement(self) -> Iterator[dict[str, Any]]:
        """A block that all ranks of a collective call pass together, or none; what is noted has to be equal on all."""
        with self.engine.agreement(run_follows=True) as facts:
            find_policy(self.scheduler)
            yield facts
            facts["workers"] = self.workers

    @property
    def has_data(self) -> bool:
        """Whether arguments hold values in this process, not only shapes."""
        return self.engine.has_data

    @property
    def here(self) -> bool:
        """Whether tasks write into arrays of this process."""
        return self.engine.in_process

    def matrix(self, *, overwrite: bool = False, what: str = "the matrix a") -> Any:
        """The first matrix, m x n, as tiles: a `Matrix`, or what does the same for chunks."""
        if self.chunked:
            return Chunks(self.a, self.engine, self.workers, overwrite=overwrite, triangle=False)
        return Matrix(self.a, overwrite=overwrite, what=what)

    def by_columns(self, *, overwrite: bool = False, square: bool = False, what: str = "the matrix a") -> Any:
        """The first matrix, m x n, as tiles by columns: a `ByColumns`, or what does the same for chunks."""
        if self.chunked:
            chunks = Chunks(self.a, self.engine, self.workers, overwrite=overwrite, triangle=False, order="F")
            if square and chunks.shape[0] != chunks.shape[1]:
                raise ValueError(f"{what} must be square, not {chunks.shape[0]} x {chunks.shape[1]}")
            return chunks
        return ByColumns(self.a, overwrite=overwrite, square=square, what=what)

    def triangle(self, *, lower: bool = True, overwrite: bool = False, what: str = "the matrix a") -> Any:
        """A triangle of the first matrix as tiles: a `Triangle`, or what does the same for chunks and on a device."""
        if self.on_device:
            return DeviceTriangle(self.a, lower=lower, overwrite=overwrite, what=what)
        if self.chunked:
            return Chunks(self.a, self.engine, self.workers, lower=lower, overwrite=overwrite)
        return Triangle(self.a, lower=lower, overwrite=overwrite, what=what)

    def columns(self, b: Any, n: int) -> Any:
        """Right-hand sides for a matrix of ``n`` rows."""
        return DeviceColumns(b, n, self.a.device) if self.on_device else RightHandSide(b, n)

    def tile_size(self, given: int | None, matrix: Any, rule: Callable[[int, int], int]) -> int:
        """Rows of a tile: as given, else as those that are there, else by rule(the smaller extent, workers)."""
        if given is None:
            given = matrix.tile_size or rule(min(matrix.shape), self.count())
        return positive(given, "tile_size")

    def count(self, most: int | None = None) -> int:
        """How many workers there are; ``most`` are of use."""
        return self.engine.workers(self.workers, most)

    def rank_rows(self) -> int:
        """Over how many ranks a column of tiles is dealt out: P of the block-cyclic distribution, 1 in one process."""
        ranks = self.engine.rank_count(self.workers)
        owner = chosen_owner(self.options) if ranks > 1 else None
        if owner is None:
            owner = near_square(ranks)
        return owner.P if isinstance(owner, BlockCyclic) else 1

    # ---------------------------------------------------------------- run

    def run(
        self,
        graph: TaskGraph,
        data: Mapping[str, Any],
        *,
        width: int | None = None,
        tiles: Any = None,
        first: Callable[[], None] | None = None,
        finals: Finals | None = None,
        facts: Mapping[str, Any] = {},
        keywords: Mapping[str, Any] = {},
    ) -> Run:
        """Run the graph.

        Parameters
        ----------
        width
            Tasks that can run at a time at most: more workers are of no use, as there are only those ``tiles``.
        first
            Raises what is to be reported instead of the ValueError of a task, such as a NaN that led to it.
        finals, facts, keywords
            For a checkpoint: what becomes final, on what the bits of it depend, how the call is made again.
        """
        workers = self.workers if width is None else self.count(max(1, width))

        def execute(graph: TaskGraph) -> Run:
            planned = None if self.limit is None else self._planned(graph, data, workers, self.limit)
            peak = None if planned is None else Peak()
            record = run(
                graph, data, backend=self.engine, scheduler=self.scheduler, workers=workers, progress=self.progress
            )
            if peak is None:
                return record
            measured = peak.bytes() if self.here else max(record.trace.grown, default=None)
            return replace(record, planned=planned, measured=measured)

        try:
            if self.keeping is None or finals is None:
                record = execute(graph)
            else:
                record = self.keeping.run(self.engine, workers, graph, finals, facts, keywords, execute)
        except ValueError:  # a LinAlgError is one
            with self.engine.agreement():
                if first is not None and self.has_data:
                    first()
            raise
        if width is not None and self.workers is not None and self.workers > max(1, width):
            record = replace(record, notes=(*record.notes, _too_few_tiles(tiles, max(1, width), self.workers)))
        self.record = record
        return record

    def note(self, text: str) -> None:
        """Add a note to the run."""
        assert self.record is not None
        self.record = replace(self.record, notes=(*self.record.notes, text))

    def _planned(self, graph: TaskGraph, data: Mapping[str, Any], workers: int | None, limit: int) -> int:
        """Bytes that a run is expected to take, on the fullest rank. MemoryError if that is more than the limit."""
        needs = self.engine.needs(graph, Store(data), workers)
        most = max(needs)
        if most > limit:
            where = f" on rank {needs.index(most)}" if len(needs) > 1 else " beside the matrix"
            hint = "more ranks" if not self.here else "overwrite_a=True"
            raise MemoryError(
                f"{self.routine.__name__} takes {nbytes(most)}{where}, more than memory={nbytes(limit)}; {hint} or "
                f"smaller tiles may need less"
            )
        return most

    def result(self, *values: Any) -> Any:
        """What the call returns: one value or a tuple of them, with the run at its end if that was asked for."""
        found = tuple(self.engine.result(value) for value in values)
        found += (self.record,) * self.return_run
        return found[0] if len(found) == 1 else found


def _too_few_tiles(tiles: Any, width: int, workers: int) -> str:
    have = "one tile has" if len(tiles) == 1 else f"{tiles.mt} x {tiles.nt} tiles have"
    return f"{width} of the {workers} workers asked for: {have} no work for more; a smaller tile_size has"
