"""Factorisations of matrices larger than memory: what stands around the loops by slabs and by tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tilewright.backends.execution.engine import Engine
from tilewright.graph import Handle, TaskGraph
from tilewright.host.memory import Peak, available
from tilewright.kernels import choice
from tilewright.kernels.move import gauge
from tilewright.linalg.blocks import insert_cholesky
from tilewright.linalg.call import Call
from tilewright.linalg.keeping import Keeping
from tilewright.linalg.lu_tiles import reordered, tile_lu
from tilewright.linalg.slab_plan import (
    MOVERS,
    SlabPlan,
    cholesky_plan,
    lu_plan,
    lu_plan_in,
    lu_plan_sized,
    lu_tiles_plan,
    panel_copied,
)
from tilewright.linalg.slabs import AHEAD, Strips, TileBuffers, Volume, slab_lu
from tilewright.runs.run import Run
from tilewright.scalars import flag, real, whole
from tilewright.schedulers import policy as find_policy
from tilewright.schedulers.aside import Aside
from tilewright.storage.checkpoint import Checkpoint, read_call
from tilewright.storage.checksums import CheckpointError, checksum
from tilewright.storage.matrix import Stored, StoredTile, StoredTiles, check_tiles
from tilewright.storage.npy import RawFile, create_npy, read_npy
from tilewright.storage.opening import Output, is_stored, open_source, scratch_file
from tilewright.storage.ops import MOVES
from tilewright.tiles import TiledMatrix
from tilewright.units import nbytes, size

__all__ = ["LUParts", "Outside", "cholesky_by_slabs", "lu_by_slabs", "run_beside"]


Look = Callable[[int, int, np.ndarray], object]
"""``look(i, k, tile)`` is shown a tile of the matrix that is read again."""
Read = Callable[[int, StoredTile, np.ndarray], object]
"""``read(k, tile, buffer)`` reads a finished tile of block column k."""


@dataclass
class Outside:
    """What a call says about memory and disks: its keywords ``out``, ``memory``, ``checkpoint`` and so on.

    Raises
    ------
    TypeError, ValueError
        One of them is not what it should be, or of no use without another.
    """

    out: Any = None
    memory: Any = None
    checkpoint: Any = None
    resume: bool = False
    every: float = 0.0
    overwrite_out: bool = False
    restart: int = 0
    limit: int | None = field(init=False, default=None)
    """``memory`` in bytes."""

    def __post_init__(self) -> None:
        self.resume, self.overwrite_out = flag(self.resume, "resume"), flag(self.overwrite_out, "overwrite_out")
        self.every = float(real(self.every, "every", 0))
        self.restart = whole(self.restart, "restart", 0)
        if self.memory is not None:
            self.limit = size(self.memory, "memory")
        if self.checkpoint is not None and not isinstance(self.checkpoint, str | Path):
            raise TypeError(f"checkpoint must be a folder, not {self.checkpoint!r}")
        if self.checkpoint == "":
            raise ValueError("checkpoint must be a folder, not ''")
        if self.checkpoint is None and (self.resume or self.every or self.restart):
            name = "resume" if self.resume else "every" if self.every else "restart"
            raise ValueError(f"{name}= needs checkpoint=, the folder that has or gets what is finished")
        if self.overwrite_out and self.out is None:
            raise ValueError("overwrite_out=True needs out=, the file that may be replaced")

    def used(self, a: Any) -> bool:
        """Whether a call with the matrix ``a`` goes by slabs; else ``memory`` is at most a limit for it."""
        return self.out is not None or is_stored(a)

    def keep(self, call: Call, a: Any) -> None:
        """Give a call in core its checkpoint, if it has one. ValueError where there is none."""
        if self.checkpoint is None:
            return
        if call.on_device or call.engine.virtual:
            where = f"a tensor on {call.a.device}" if call.on_device else f"backend {call.engine.name!r}"
            raise ValueError(f"{call.routine.__name__} has no checkpoint= for {where}")
        if self.restart and call.engine.in_process:
            raise ValueError(
                f"restart={self.restart} is for ranks and workers that can die alone; backend {call.engine.name!r} is "
                f"this process, so make the call again with resume=True"
            )
        if self.every and call.engine.writes_at_once:
            raise ValueError(
                f"every={self.every:g} is not for backend {call.engine.name!r}, where each panel is written before its "
                f"task ends; leave it out"
            )
        call.keeping = Keeping(self.checkpoint, self.resume, self.every, self.restart, call.routine.__name__, a)

    def refuse(self, call: str, **others: Any) -> None:
        """ValueError for what a call by slabs cannot do: ``name=value`` that is not None or False."""
        for name, value in others.items():
            if value is not None and value is not False:
                raise ValueError(f"{call} with out= or a matrix on a disk has no {name}={value!r}")

    def check_engine(self, engine: Engine) -> None:
        """ValueError for an engine that cannot work out of core."""
        if not engine.in_process and not engine.on_ranks:
            raise ValueError(f"out of core the backend is serial, threads or mpi, not {engine.name!r}")

    def check_options(self, options: Mapping[str, Any]) -> None:
        """ValueError for those of an engine that say where data is: out of core that is given."""
        others = [name for name in options if name not in ("pool", "comm")]
        if others:
            raise ValueError(f"out of core there is no {', '.join(others)}=")

    def check_fits(self, call: Call, like: Any, what: str) -> None:
        """MemoryError if a call in core whose result is ``like`` this one, or None, takes more than ``memory`` says.

        `Call.run` sees to the same for each rank, and for what the graph makes beside the result.
        """
        call.limit = self.limit
        if self.limit is None or not call.engine.in_process:
            return
        planned = 0 if like is None else _bytes_like(like)
        if planned > self.limit:
            raise MemoryError(
                f"{what} takes {nbytes(planned)} beside the matrix, more than memory="
                f"{nbytes(self.limit)}; with out= the factor goes to a file, and a part of it is in "
                f"memory at a time"
            )

    def cap(self) -> int | None:
        """The limit; without one half of what the system has now."""
        if self.limit is not None:
            return self.limit
        there = available()
        return None if there is None else there // 2


class _Job:
    """One factorisation by slabs: its matrix, checkpoint, output and run. A block column is final when it is stored."""

    def __init__(
        self,
        call: Call,
        outside: Outside,
        a: Any,
        *,
        lower: bool = True,
        square: bool,
        tile_size: int | None,
        rule: Callable[[int, int], int],
        order: Literal["C", "F"],
    ) -> None:
        outside.check_engine(call.engine)
        outside.check_options(call.options)
        find_policy(call.scheduler)
        self.call, self.outside, self.given, self.lower, self.order = call, outside, a, lower, order
        if outside.out is None:
            raise ValueError("a matrix on a disk needs out=, where its factor goes")
        if outside.restart:
            raise ValueError(f"restart={outside.restart} is for calls in core; with out= call again with resume=True")
        self.opened = open_source(a)
        self.source = self.opened if lower else self.opened.T
        self.checkpoint: Checkpoint | None = None
        self.output: Output | None = None
        self.work: Stored | None = None
        self.workers = call.count()
        try:
            m, n = self.source.shape
            if square and m != n:
                raise ValueError(f"the matrix a must be square, not {m} x {n}")
            made = self.source.tile_size
            self.nb = call.tile_size(tile_size if tile_size is not None else made, _Extent((m, n)), rule)
            if made is not None and self.nb != made:
                raise ValueError(f"tile_size={self.nb}, but {self.source.name} makes tiles of {made}")
            check_tiles(self.source, self.nb)
        except BaseException:
            self.close()
            raise

    @property
    def shape(self) -> tuple[int, int]:
        return self.source.shape

    @property
    def item(self) -> int:
        return self.source.dtype.itemsize

    def close(self) -> None:
        """Give back files that were opened here."""
        if isinstance(self.given, str | Path) or self.opened is not self.given:
            self.opened.close()
        if self.checkpoint is not None:
            self.checkpoint.close()
        if self.work is not None:
            self.work.close()

    @contextmanager
    def going(
        self, routine: str, keywords: Mapping[str, Any], apart: Literal["C", "F"] | None = None, **more: str
    ) -> Iterator[None]:
        """With the checkpoint and the output open; without a checkpoint nothing is left of what is not whole.

        ``apart``: block columns are kept in a file of their own, of that order, until all are final, as a checkpoint or
        a result that is no file by columns needs them; without either the result takes their place. ``more`` are facts
        that have to be the same to go on.
        """
        facts = {
            "routine": routine, "shape": list(self.shape), "dtype": str(self.source.dtype), "tile_size": self.nb,
            "BLAS": str(choice.choice()), **({"lower": self.lower} if routine == "tiled_cholesky" else {}),
            **more,
        }  # fmt: skip
        outside = self.outside
        try:
            if outside.checkpoint is not None:
                named = {name: value for name, value in keywords.items() if value is not None}
                self.checkpoint = Checkpoint(
                    outside.checkpoint,
                    facts,
                    {"routine": routine, **self._paths(), "keywords": named},
                    resume=outside.resume,
                    every=outside.every,
                )
            again = bool(self.checkpoint and self.checkpoint.panels)
            shape, order = self._result_shape(), self._result_order()
            self.output = Output(
                outside.out,
                shape,
                self.source.dtype,
                order,
                self.nb,
                overwrite=outside.overwrite_out,
                again=again and not apart,
            )
            if apart == "C" or (apart and not (self.checkpoint is None and _by_columns(self.output.matrix))):
                self.work = self._panels(again, apart)
            try:
                yield
            except BaseException as error:
                self._keep(error)
                raise
        except BaseException:
            finished = self.checkpoint is not None and bool(self.checkpoint.panels)
            if self.output is not None:
                self.output.abandon(keep=finished)
            if self.checkpoint is not None:
                self.checkpoint.discard()
            raise
        finally:
            self.close()

    def _keep(self, error: BaseException) -> None:
        """Keep what is finished, and say so."""
        if self.checkpoint is not None:
            with suppress(OSError):
                self.checkpoint.flush(self.result().sync)
        if self.checkpoint is not None and self.checkpoint.panels and isinstance(error, Exception):
            done = len(self.checkpoint.panels)
            error.add_note(
                f"{done} block columns are finished and stay in {self.checkpoint.folder}; the same call "
                f"with resume=True goes on from them"
            )

    def _result_shape(self) -> tuple[int, int]:
        return self.shape if self.lower else self.shape[::-1]

    def _result_order(self) -> Literal["C", "F"]:
        return self.order if self.lower else "F"

    def result(self) -> Stored:
        """What block columns are written into."""
        if self.work is not None:
            return self.work
        assert self.output is not None
        return self.output.matrix if self.lower else self.output.matrix.T

    def _panels(self, again: bool, order: Literal["C", "F"]) -> Stored:
        """The file of block columns: in the checkpoint, or without a name beside the output."""
        m, n = self.shape
        if self.checkpoint is None:
            assert self.output is not None
            folder = Path(".") if self.output.path is None else self.output.path.parent
            return scratch_file(folder, (m, n), self.source.dtype, order)
        path = self.checkpoint.folder / "panels.npy"
        try:
            file = path.open("r+b" if again else "w+b", buffering=0)
        except OSError as error:
            raise type(error)(error.errno, f"cannot write {path}: {error.strerror}") from error
        try:
            if not again:
                return create_npy(file, path, (m, n), self.source.dtype, order)
            found = read_npy(file, path)
            if (found.shape, found.dtype, found.order) != ((m, n), self.source.dtype, order):
                raise CheckpointError(f"{path} is not the file of this run")
            return found
        except BaseException:
            file.close()
            raise

    def _paths(self) -> dict[str, str]:
        """Matrix and output, where both are files."""
        a, out = self.given, self.outside.out
        if not isinstance(a, str | Path) or not isinstance(out, str | Path):
            return {}
        return {"a": str(Path(a).absolute()), "out": str(Path(out).absolute())}

    def finished(self, rows: Callable[[int], range], look: Look, read: Read) -> int:
        """How many block columns the checkpoint has; each tile of them, and what it was made of, is read and compared.

        ``rows(k)`` are those of block column k; ``look(i, k, tile)`` is shown what it was made of.
        ``read(k, tile, buffer)`` reads one of block column k.

        Raises
        ------
        CheckpointError
            The matrix is another one, or files were changed or mixed up.
        """
        if self.checkpoint is None or not self.checkpoint.panels:
            return 0
        sources, tiles = StoredTiles(self.source, self.nb), StoredTiles(self.result(), self.nb)
        folder = self.checkpoint.folder
        for k, entry in enumerate(self.checkpoint.panels):
            if not len(rows(k)) == len(entry["of"]) == len(entry["tiles"]) or not self._pivots_fit(k, entry):
                raise CheckpointError(f"{self.checkpoint.log} is damaged in line {k + 1}")
            for place, i in enumerate(rows(k)):
                for which, stored, name in ((sources, entry["of"], "of"), (tiles, entry["tiles"], "tiles")):
                    tile = which[i, k]
                    buffer = np.empty(tile.shape, self.source.dtype, self.order)
                    (_read_plain if name == "of" else read)(k, tile, buffer)
                    if checksum(buffer) == stored[place]:
                        if name == "of":
                            look(i, k, buffer)
                    elif name == "of":
                        raise CheckpointError(
                            f"{folder} was begun with another matrix: {self.source.name} has other "
                            f"numbers in tile ({i}, {k})"
                        )
                    else:
                        raise CheckpointError(
                            f"{tile.matrix.name} has other numbers in tile ({i}, {k}) than were "
                            f"written by the run in {folder}"
                        )
        return len(self.checkpoint.panels)

    def _pivots_fit(self, k: int, entry: Mapping[str, Any]) -> bool:
        """Whether the row exchanges of a block column, if it has any, stay in the matrix."""
        piv, below = entry.get("piv"), self.shape[0] - k * self.nb
        if piv is None:
            return self.work is None or k * self.nb >= min(self.shape)
        return len(piv) == min(self.nb, min(self.shape) - k * self.nb) and max(piv, default=0) < below

    def kept_pivots(self, columns: range) -> dict[Handle, np.ndarray]:
        """The row exchanges of finished block columns, as the checkpoint has them."""
        kept = () if self.checkpoint is None else [(k, self.checkpoint.panels[k]) for k in columns]
        return {Handle("piv", (k,)): np.array(entry["piv"], np.int32) for k, entry in kept if "piv" in entry}

    def run(self, graph: TaskGraph, data: dict[Any, Any], plan: SlabPlan, volume: Volume) -> Run:
        """Run on the workers of the call, and threads beside them that read and write."""
        facts: dict[str, Any] = {"slabs": len(plan.slabs.bounds), "width": plan.width, "height": plan.slabs.height}
        return run_beside(self.call, graph, data, plan.memory, **facts)


def run_beside(
    call: Call,
    graph: TaskGraph,
    data: dict[Any, Any],
    planned: int,
    volume: tuple[int, int] | None = None,
    **facts: Any,
) -> Run:
    """Run on the workers of a call, and threads beside them that read and write. What it moved is in the facts;
    on ranks ``volume`` says it, bytes read and written, as each rank counts for itself."""
    engine, given = call.engine, (call.scheduler, call.workers)
    try:
        return _run_beside(call, graph, data, planned, volume if engine.on_ranks else None, facts)
    finally:
        call.scheduler, call.workers = given


def _run_beside(
    call: Call,
    graph: TaskGraph,
    data: dict[Any, Any],
    planned: int,
    volume: tuple[int, int] | None,
    facts: Mapping[str, Any],
) -> Run:
    workers, movers = call.count(), 0
    names = {handle.name for handle in graph.handles_used}
    data = {key: value for key, value in data.items() if (key.name if isinstance(key, Handle) else key) in names}
    if call.engine.moves_beside:
        ranks = call.engine.hold(call.workers)
        each = MOVERS if ranks == 1 else 1
        movers = each * ranks
        name = call.scheduler if isinstance(call.scheduler, str) else ""
        call.scheduler = Aside(find_policy(call.scheduler), MOVES, each, name)
        call.workers = workers + movers
    peak = Peak()
    record = call.run(graph, data)
    matrices = {id(tiles.matrix): tiles.matrix for tiles in data.values() if isinstance(tiles, StoredTiles)}
    read, written = (
        sum(getattr(matrix, f"bytes_{what}") for matrix in matrices.values()) for what in ("read", "written")
    )
    if volume is not None:
        read, written = volume
    record.trace.facts |= {"read": read, "written": written, **facts}
    notes = list(record.notes)
    if movers:
        notes.append(f"{movers} of the workers read and write, {workers} compute")
    measured = peak.bytes() if call.here else max(record.trace.grown, default=None)
    call.record = replace(record, planned=planned, measured=measured, notes=tuple(notes))
    return call.record


@dataclass
class _Extent:
    """As much of a matrix as a rule for tile sizes wants to know."""

    shape: tuple[int, int]
    tile_size: int | None = None


def _nothing(*_: object) -> None:
    pass


def _read_plain(k: int, tile: StoredTile, buffer: np.ndarray) -> None:
    tile.matrix.read([(tile.row, tile.column)], [buffer])


def _by_columns(matrix: Stored) -> bool:
    return isinstance(matrix, RawFile) and matrix.order == "F"


# ------------------------------------------------------------------ Cholesky


def cholesky_by_slabs(
    call: Call,
    outside: Outside,
    a: Any,
    *,
    lower: bool,
    tile_size: int | None,
    rule: Callable[[int, int], int],
    check_finite: bool,
) -> Any:
    """The factor of a triangle: what `tiled_cholesky` returns."""
    job = _Job(call, outside, a, lower=lower, square=True, tile_size=tile_size, rule=rule, order="C")
    n, nb = job.shape[0], job.nb
    nt = -(-n // nb)
    try:
        plan = cholesky_plan(n, nb, job.item, outside.cap(), job.workers)
    except BaseException:
        job.close()
        raise
    keywords = {
        "lower": lower,
        "tile_size": nb,
        "memory": outside.memory,
        "check_finite": check_finite,
        "overwrite_out": outside.overwrite_out,
    }
    with job.going("tiled_cholesky", keywords):
        first = job.finished(lambda k: range(k, nt), _nothing, _read_plain)
        if first:
            plan = cholesky_plan(n, nb, job.item, outside.cap(), job.workers, first)
        volume = Volume((n, n), nb, job.item)
        graph = TaskGraph(f"cholesky by slabs nt={nt}")
        data: dict[str, Any] = {"A": StoredTiles(job.source, nb), "L": StoredTiles(job.result(), nb)}
        checked = job.checkpoint is not None
        memory = insert_cholesky(graph, nt, plan.slabs, first, volume, check=check_finite, log=checked, sums=checked)
        if checked:
            data["log"] = job.checkpoint
        data["buffer"] = [np.empty(shape, job.source.dtype) for shape in memory.shapes]
        job.run(graph, data, plan, volume)
        assert job.output is not None
        return call.result(job.output.finish(sync=checked))


# ------------------------------------------------------------------ LU


@dataclass
class LUParts:
    """What an LU factor is made of."""

    lu: Any
    piv: np.ndarray
    diagonal: np.ndarray
    sizes: dict[Handle, np.ndarray]
    tile_size: int


def lu_by_slabs(
    call: Call,
    outside: Outside,
    a: Any,
    *,
    tile_size: int | None,
    rule: Callable[[int, int], int],
    check_finite: bool,
    square: bool = False,
    pivoting: str | None = None,
) -> tuple[LUParts, TiledMatrix]:
    """The factor of a general matrix; and the tiling of the matrix.

    By slabs with partial pivoting or by tiles with a tournament; where ``pivoting`` is None, whichever moves less.
    """
    job = _Job(call, outside, a, square=square, tile_size=tile_size, rule=rule, order="F")
    shape, nb, cap = job.shape, job.nb, outside.cap()
    try:
        how = job.item, cap, job.workers, panel_copied(str(job.source.dtype))
        free = tile_size is None and job.source.tile_size is None
        begun = _begun(outside)
        if begun is not None:
            pivoting, nb = pivoting or begun[0], begun[1] if free else nb
        if free and begun is None:
            plan, nb = lu_plan_sized(pivoting, shape, nb, *how)
        else:
            plan = lu_plan(pivoting, shape, nb, *how)
        job.nb = nb
    except BaseException:
        job.close()
        raise
    tournament = plan.slabs.height > 0
    keywords = {
        "tile_size": nb,
        "memory": outside.memory,
        "check_finite": check_finite,
        "overwrite_out": outside.overwrite_out,
        "pivoting": "tournament" if tournament else None,
    }
    facts = {"pivoting": "tournament"} if tournament else {}
    sizes: dict[Handle, np.ndarray] = {}

    def look(i: int, k: int, tile: np.ndarray) -> None:
        found = sizes[Handle("M", (i, k))] = np.zeros((1, 1 + sum(tile.shape)))
        gauge(tile, found, (), False)

    with job.going("lu_factor", keywords, apart="C" if tournament else "F", **facts):
        record, piv, diagonal = (_tiles if tournament else _slabs)(job, plan, cap, check_finite, look)
        if len(sizes) < -(-shape[0] // nb) * -(-shape[1] // nb):  # of the others `look` made them
            sizes.update(record["M"])
        assert job.output is not None
        lu = job.output.finish(sync=job.checkpoint is not None)
    tiling = TiledMatrix(shape, nb, job.source.dtype, np.empty(0, job.source.dtype), packed=True)
    return LUParts(lu, piv, diagonal, sizes, nb), tiling


def _begun(outside: Outside) -> tuple[str, int] | None:
    """Pivoting and tile size of the run that is to go on, if there is one."""
    if not outside.resume or outside.checkpoint is None:
        return None
    try:
        facts = read_call(Path(outside.checkpoint))["facts"]
    except (OSError, CheckpointError):
        return None  # said where the checkpoint is opened
    nb = facts.get("tile_size")
    if facts.get("routine") != "lu_factor" or type(nb) is not int or nb < 1:
        return None
    return ("tournament" if facts.get("pivoting") == "tournament" else "partial"), nb


def _slabs(job: _Job, plan: SlabPlan, cap: int | None, check: bool, look: Look) -> tuple[Run, np.ndarray, np.ndarray]:
    """The factor by slabs, with partial pivoting: its run, row exchanges and diagonal."""
    (m, n), nb, dtype = job.shape, job.nb, job.source.dtype
    mt, nt = -(-m // nb), -(-n // nb)
    first = job.finished(lambda k: range(mt), look, _read_plain)
    if first:
        plan = lu_plan_in((m, n), nb, job.item, cap, job.workers, first, copied=panel_copied(str(dtype)))
    volume = Volume((m, n), nb, job.item)
    graph = TaskGraph(f"lu by slabs {m} x {n} tile_size={nb}")
    work = StoredTiles(job.result(), nb)
    data: dict[Any, Any] = {"A": StoredTiles(job.source, nb), "P": work, **job.kept_pivots(range(first))}
    passing = TileBuffers(graph.handles("buffer"), (nb, nb), plan.slabs.chunk * AHEAD)
    ragged = n % nb
    memory = Strips(graph.handles("S"), graph.handles("E"), nt - 1 if ragged else -1, plan.width)
    columns = min(plan.width, n // nb)
    data["S"] = TiledMatrix.view(np.empty((m, columns * nb), dtype, "F"), nb)
    data["E"] = TiledMatrix.view(np.empty((m, ragged), dtype, "F"), nb)
    assert job.output is not None
    data["F"] = StoredTiles(job.output.matrix, nb)
    checked = job.checkpoint is not None
    slab_lu(
        graph,
        plan.slabs,
        first,
        volume,
        memory,
        passing,
        by_rows=job.source.order == "C",
        check=check,
        log=checked,
        sums=checked,
        dtype=str(dtype),
        apart=job.work is not None,
    )
    if checked:
        data["log"] = job.checkpoint
    if passing.shapes:
        data["buffer"] = [np.empty(shape, dtype, "F") for shape in passing.shapes]
    record = job.run(graph, data, plan, volume)
    return record, *_pivots(job, record, first, _read_plain)


def _tiles(job: _Job, plan: SlabPlan, cap: int | None, check: bool, look: Look) -> tuple[Run, np.ndarray, np.ndarray]:
    """The same by tiles, with a tournament."""
    (m, n), nb, dtype = job.shape, job.nb, job.source.dtype
    mt = -(-m // nb)
    orders = _Orders(job)
    first = job.finished(lambda k: range(mt), look, orders.read)
    if first:
        plan = lu_tiles_plan((m, n), nb, job.item, cap, job.workers, first)
    volume = Volume((m, n), nb, job.item)
    graph = TaskGraph(f"lu by tiles {m} x {n} tile_size={nb}")
    memory = TileBuffers(graph.handles("buffer"), (nb, nb), AHEAD * plan.slabs.chunk)
    spots = TileBuffers(graph.handles("spot"))
    checked = job.checkpoint is not None
    tile_lu(graph, plan.slabs, first, volume, memory, spots, check=check, log=checked, dtype=str(dtype))
    rows, work = orders.after(first), StoredTiles(job.result(), nb)
    assert job.output is not None
    data: dict[Any, Any] = {"A": StoredTiles(job.source, nb), "F": StoredTiles(job.output.matrix, nb)}
    data |= {"P": work, "B": work, "L": work, "order": rows}
    data |= job.kept_pivots(range(first))
    if checked:
        data["log"] = job.checkpoint
    data["buffer"] = [np.empty(shape, dtype, "F") for shape in memory.shapes]
    data["spot"] = [np.empty(shape[0], np.int32) for shape in spots.shapes]
    record = job.run(graph, data, plan, volume)
    return record, *_pivots(job, record, first, orders.read)


class _Orders:
    """Which row of the file is which row of the factor, after each block column that a checkpoint has."""

    def __init__(self, job: _Job) -> None:
        self.job, self.columns, self.rows = job, 0, np.arange(job.shape[0])

    def after(self, columns: int) -> np.ndarray:
        """The rows when so many block columns are final."""
        if columns < self.columns:
            self.columns, self.rows = 0, np.arange(self.job.shape[0])
        for panel, piv in self.job.kept_pivots(range(self.columns, columns)).items():
            reordered(piv, self.rows, panel.index[0] * self.job.nb)
        self.columns = columns
        return self.rows

    def read(self, k: int, tile: StoredTile, buffer: np.ndarray) -> None:
        """Read a tile of a block column that is final."""
        rows = self.after(k + 1)[tile.row : tile.row + tile.shape[0]]
        tile.matrix.read_rows(rows, tile.column, [buffer])


def _pivots(job: _Job, record: Run, first: int, read: Read) -> tuple[np.ndarray, np.ndarray]:
    """Row exchanges and diagonal, of block columns before ``first`` as an earlier run left them."""
    least, nb, dtype = min(job.shape), job.nb, job.source.dtype
    piv, diagonal = np.arange(least, dtype=np.int32), np.ones(least, dtype)
    kept, work = job.kept_pivots(range(first)), StoredTiles(job.result(), nb)
    for k, start in enumerate(range(0, least, nb)):
        if k >= first:
            local, found = record.store[Handle("piv", (k,))], record.store[Handle("D", (k,))]
        else:
            tile = work[k, k]
            buffer = np.empty(tile.shape, dtype, "F")
            read(k, tile, buffer)
            local, found = kept[Handle("piv", (k,))], buffer.diagonal()
        piv[start : start + nb] = local + np.int32(start)
        diagonal[start : start + nb] = found
    return piv, diagonal


def _bytes_like(a: Any) -> int:
    """Bytes of a result of the shape of an array, of LAPACK's dtype."""
    shape, dtype = np.shape(a), getattr(a, "dtype", None)
    item = getattr(dtype, "itemsize", 8)
    return int(np.prod(shape, dtype=np.int64)) * (item if getattr(dtype, "kind", "f") in "fc" else 8)
