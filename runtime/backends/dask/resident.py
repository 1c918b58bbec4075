"""Mode ``resident``: every Dask worker runs its rank's part in one long task; see `tilewright.backends.dask.rank`.

All ranks have to run at the same time, so the run waits until all have begun, for a limited time, and ends with
`WorkerDied` if one goes. Nothing is computed again: a lost part is noticed by its address.
"""

from __future__ import annotations

import pickle
import sys
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import numpy as np

from tilewright.backends.dask import client as clients
from tilewright.backends.dask.client import Ranks
from tilewright.backends.dask.courier import Share, pack
from tilewright.backends.dask.rank import Values, adopt, here, lent_of, run_part, told_of
from tilewright.backends.dask.remote import RemoteTile, RemoteTiles
from tilewright.backends.execution.buffers import layout
from tilewright.backends.execution.engine import Progress
from tilewright.backends.execution.program import Program
from tilewright.backends.execution.torch_state import capture
from tilewright.backends.ranks import lending
from tilewright.backends.ranks.outcome import Order, Outcome, listed_of, merge, planned
from tilewright.backends.ranks.output import show
from tilewright.backends.ranks.pickling import code
from tilewright.backends.ranks.segments import Mappings, Reference
from tilewright.distribution import by_handle, owners
from tilewright.errors import WorkerDied
from tilewright.graph import Access, Handle, TaskGraph
from tilewright.host.garbage import uncollected
from tilewright.host.memory import copy_all
from tilewright.kernels import choice
from tilewright.passes.messages import MessagePlan, place
from tilewright.runs.progress import Ran, takes_rows, tell
from tilewright.runs.trace import Trace
from tilewright.schedulers import Policy
from tilewright.tiles import Store, TiledMatrix

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Options", "at_most", "deliver", "families_of", "nbytes_of", "outlines_of", "run_resident", "scatter"]

PRINTED = 2.0  # seconds to wait for the last lines that tasks printed
SMALL = 1 << 16  # bytes that travel with the call; more are scattered
LOOK = 0.5  # seconds between two looks at the workers


class Options(NamedTuple):
    """What a run is told, beside its program."""

    owner: Any
    window: int
    timeout: float
    kept: bool
    """The cluster is our own, on this host."""


class Heard:
    """Shows what tasks printed. Called on the client's event loop."""

    def __init__(self) -> None:
        self._count = 0
        self._news = threading.Condition()

    def __call__(self, message: dict[str, Any]) -> None:
        show(message["rank"], message["said"], message["error"])
        with self._news:
            self._count += 1
            self._news.notify_all()

    def wait(self, count: int) -> None:
        """Wait until so many messages came, for a limited time."""
        with self._news:
            self._news.wait_for(lambda: self._count >= count, PRINTED)


def run_resident(
    client: Client, ranks: Ranks, program: Program, scheduler: str | Policy, options: Options, progress: Progress | None
) -> Trace:
    """Run a program; results go to its store, or stay on the workers where its matrices are `RemoteTiles`."""
    graph, store = program.graph, program.store
    rank_of = _where_data_is(client, ranks, program, owners(options.owner, len(ranks.members)))
    with uncollected():
        order: Order = by_handle(graph, rank_of), None, ()
        families, outlines = families_of(store), outlines_of(program)
        contents, key = _contents(program, order, families, outlines)
    policy = code(scheduler)
    stay = tuple(name for name, family in store.families.items() if isinstance(family, RemoteTiles))
    run = uuid4().hex[:8]
    path = tuple(sys.path) if options.kept else ()
    keys = [(f"{_word(graph.name)}-{run}", rank) for rank in range(len(ranks.members))]
    shares = [
        Share(
            run,
            keys[rank],
            rank,
            ranks.addresses,
            contents,
            key,
            policy,
            ranks.workers,
            options.window,
            choice.choice(),
            options.timeout,
            progress is not None,
            takes_rows(progress),
            here(),
            path,
            stay,
            clients.seen(client, ranks.addresses[rank]),
            capture(),
        )
        for rank in range(len(ranks.members))
    ]
    done = [0] * len(ranks.members)
    heard = Heard()

    def hear(message: dict[str, Any]) -> None:
        if "said" in message:
            heard(message)
            return
        done[message["rank"]] = message["done"]
        if progress is not None:
            tell(progress, sum(done), lambda: np.array(message["rows"], float).reshape(-1, len(Ran._fields)))

    clock = clients.SchedulerClock(client)
    with uncollected():
        parcels = _parcels(graph, rank_of, len(ranks.members), store)
    with clients.bulletin(client).read(run, hear):
        futures, lent = _submit(client, ranks, shares, parcels)
        results = _results(client, ranks, futures)
        heard.wait(sum(outcome.said for outcome, _ in results))
    outcomes = [outcome for outcome, _ in results]
    with uncollected():
        trace = merge(graph, ranks.workers, outcomes)
    replaced: set[Handle] = set().union(*(pickle.loads(outcome.values) for outcome in outcomes if outcome.values))
    for future, (_, values) in zip(futures, results, strict=False):
        deliver(store, _read(client, future, values), replaced)
    del lent  # what a task changed in place is read there
    if stay:
        _take_over(client, ranks, keys, planned(graph, len(ranks.members), order), store)
    if progress is not None:
        progress(len(graph))
    trace.facts = {
        "submitted": len(futures), "scheduler": clock.share(),
        "inputs": sum(nbytes_of(parcel.values()) for parcel in parcels),
        "results": sum(nbytes_of(values.values()) for _, values in results),
    }  # fmt: skip
    return trace


def _where_data_is(
    client: Client, ranks: Ranks, program: Program, owner: Callable[[Handle], int]
) -> Callable[[Handle], int]:
    """Owners; of tiles that are only read the worker that has them, so that they travel as messages."""
    written = set(program.graph.written)
    pieces = {
        handle: family.pieces[handle.index[0], handle.index[1]].future
        for handle in program.graph.inputs
        if handle not in written and isinstance(family := program.store.families.get(handle.name), RemoteTiles)
    }
    if not pieces:
        return owner
    rank_at = {address: rank for rank, address in enumerate(ranks.addresses)}
    found = client.who_has(list(pieces.values()))
    places = {
        handle: next((rank_at[address] for address in found[future.key] if address in rank_at), None)
        for handle, future in pieces.items()
    }

    def rank_of(handle: Handle) -> int:
        place = places.get(handle)
        return owner(handle) if place is None else place

    return rank_of


_dumped: weakref.WeakKeyDictionary[Program, tuple[Any, bytes, str]] = weakref.WeakKeyDictionary()
"""Prepared programs: with what they were pickled, as what, and the workers' key for it."""


def _contents(program: Program, *rest: Any) -> tuple[bytes, str]:
    """Graph and ``rest``, pickled, and the key under which workers keep what they make of it."""
    known = _dumped.get(program)
    if known is not None and known[0] == rest:
        return known[1:]
    contents = code((listed_of(program.graph), *rest))
    if not program.prepared:
        return contents, ""
    _dumped[program] = rest, contents, uuid4().hex
    return _dumped[program][1:]


def _word(name: str) -> str:
    """The first word of a graph's name, for keys; Dask's dashboard groups by it."""
    word = "".join(letter for letter in name.split()[0] if letter.isalnum()) if name.split() else ""
    return f"{word or 'graph'}-part" if word.isalpha() else "graph-part"


# ------------------------------------------------------------------ data


def families_of(store: Store) -> dict[str, tuple[tuple[int, int], int, int, str, str]]:
    """Shape, extents of tiles, dtype, order of each tiled matrix: what a worker has to know of tiles elsewhere."""
    return {
        name: (family.shape, family.tile_size, family.height, family.dtype.str, _order(family))
        for name, family in store.families.items()
        if isinstance(family, TiledMatrix)
    }


def _order(matrix: TiledMatrix) -> str:
    if isinstance(matrix, RemoteTiles):
        return matrix.order
    return layout(matrix[0, 0]) if len(matrix) else "C"


def outlines_of(program: Program) -> dict[Handle, tuple[tuple[int, ...], str]]:
    """Shape and dtype of the arrays that are in no tiled matrix."""
    store = program.store
    there = store.names()
    return {
        handle: (value.shape, value.dtype.str)
        for handle in program.graph.handles_used
        if handle.name in there
        and not isinstance(store.families.get(handle.name), TiledMatrix)
        and isinstance(value := store[handle], np.ndarray)
        and not value.dtype.hasobject
    }


def _parcels(graph: TaskGraph, owner: Callable[[Handle], int], ranks: int, store: Store) -> list[dict[Handle, Any]]:
    """By rank, the data it begins with: what it owns and somebody reads, and what is no array and it writes."""
    parcels: list[dict[Handle, Any]] = [{} for _ in range(ranks)]
    for handle in graph.inputs:
        parcels[owner(handle)][handle] = _piece_or_value(store, handle)
    there = store.names() - {name for name, family in store.families.items() if isinstance(family, TiledMatrix)}
    for task in graph.tasks if there else ():
        for handle, access in task.uses:
            if access is Access.WRITE and handle.name in there:
                value = store[handle]
                if handle in store.outlines:
                    continue
                if value is not None and (not isinstance(value, np.ndarray) or value.dtype.hasobject):
                    parcels[place(task, owner, ranks)].setdefault(handle, value)
    return parcels


def _piece_or_value(store: Store, handle: Handle) -> Any:
    family = store.families.get(handle.name)
    if isinstance(family, RemoteTiles):
        return family.pieces[handle.index[0], handle.index[1]]
    return store[handle]


def at_most(program: Program, window: int) -> int:
    """Bytes that no rank needs more of, whatever the plan: all data of the run, and the window. O(handles)."""
    sizes = [_size(program.store, handle) for handle in program.graph.handles_used]
    return sum(sizes) + max(window, max(sizes, default=0))


def _size(store: Store, handle: Handle) -> int:
    value = store[handle]
    return value.nbytes if isinstance(value, np.ndarray) else 0


def scatter(client: Client, value: Any, address: str) -> Future:
    """A value in the memory of one worker; past the scheduler where the worker can be reached."""
    try:
        future: Future = client.scatter([value], workers=[address], hash=False, direct=True)[0]
    except OSError:
        future = client.scatter([value], workers=[address], hash=False, direct=False)[0]
    return future


def deliver(store: Store, values: Values, replaced: set[Handle]) -> None:
    """Put results into the user's arrays; into the store where they have none. On several cores if it pays."""
    copies = []
    for handle, value in values.items():
        place = store[handle]
        if handle not in replaced and isinstance(place, np.ndarray) and isinstance(value, np.ndarray):
            copies.append((place, value))
        else:
            store[handle] = value
    copy_all(copies)


def _read(client: Client, future: Future, values: Values) -> Values:
    """Values of a rank; those that it lends are read in its memory."""
    places = {handle: value for handle, value in values.items() if isinstance(value, Reference)}
    there: dict[str, Mappings] = defaultdict(Mappings)  # the rank's memory, and this process' own
    try:
        arrays = {handle: there[place.path].array(place) for handle, place in places.items()}
    except OSError:  # Dask has moved them meanwhile
        arrays = client.submit(lent_of, future, pure=False).result()
    return values | arrays


def _take_over(client: Client, ranks: Ranks, keys: list[Any], plan: MessagePlan, store: Store) -> None:
    """Make tiles that stay on the workers chunks of a dask.array, without a task for each; others of it are zeros."""
    adopted: dict[Any, tuple[RemoteTiles, tuple[int, int]]] = {}
    stays = []
    blanks = {}
    written = {handle.name for handle in plan.final_places}
    for name, family in store.families.items():
        if not isinstance(family, RemoteTiles) or name in plan.graph.temporary or name not in written:
            continue
        for i, j in family:
            key = family.key(i, j)
            adopted[key] = family, (i, j)
            if (handle := Handle(name, (i, j))) in plan.final_places:
                stays.append((handle, key, family.upper))
            else:
                shape = family[i, j].shape
                blanks[key] = shape[:: -1 if family.upper else 1], family.dtype.str
    if not adopted:
        return

    try:
        sizes = client.run(adopt, keys, stays, blanks, ranks.addresses[0], workers=list(ranks.addresses))
    except (OSError, ValueError) as error:  # it is gone
        raise WorkerDied(", ".join(ranks.addresses), f"its part of the result is lost ({error})") from error
    places = {key: [address] for address, found in sizes.items() for key in found}
    nbytes = {key: size for found in sizes.values() for key, size in found.items()}

    if len(places) < len(adopted):
        raise WorkerDied(", ".join(ranks.addresses), "its part of the result is lost")

    async def publish() -> dict[Any, Future]:
        from distributed import Future

        await client.scheduler.update_data(who_has=places, nbytes=nbytes, client=client.id)
        futures = {key: Future(key, client) for key in places}
        for key in futures:
            client.futures[key].finish(type=np.ndarray)
        return futures

    for key, future in client.sync(publish).items():
        family, place = adopted[key]
        family.pieces[place] = RemoteTile(future, None, family.upper)


# ------------------------------------------------------------------ the tasks


def _submit(
    client: Client, ranks: Ranks, shares: list[Share], parcels: list[dict[Handle, Any]]
) -> tuple[list[Future], Any]:
    """The futures of all ranks' results and those of what they tell; and what is lent to the workers meanwhile."""
    from dask._task_spec import Task, TaskRef
    from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

    tasks: dict[Any, Any] = {}
    held: list[Future] = []  # until the tasks have begun
    lent = lending.lend_all(
        {
            (share.rank, handle): value
            for share, parcel in zip(shares, parcels, strict=True)
            if share.seen
            for handle, value in parcel.items()
            if not isinstance(value, RemoteTile)
        }
    )
    for share, parcel, address in zip(shares, parcels, ranks.addresses, strict=True):
        pieces = {handle: value for handle, value in parcel.items() if isinstance(value, RemoteTile)}
        values = {handle: value for handle, value in parcel.items() if handle not in pieces}
        for handle in values:
            if (share.rank, handle) in lent:
                values[handle] = lent[share.rank, handle][0]
        tiles = []
        for number, piece in enumerate(pieces.values()):
            held.append(piece.future)
            if piece.whole:
                tiles.append(TaskRef(piece.future.key))
            else:
                key = (f"pick-{share.run}", share.rank, number)
                tasks[key] = piece.node(key)
                tiles.append(TaskRef(key))
        large = sum(value.nbytes for value in values.values() if isinstance(value, np.ndarray)) > SMALL
        if large:
            values = {handle: pack(value) for handle, value in values.items()}
            held.append(scatter(client, values, address))
        tasks[share.key] = Task(
            share.key, run_part, share, list(pieces), TaskRef(held[-1].key) if large else values, *tiles
        )
    told = [(f"told-{share.run}", share.rank) for share in shares]
    tasks.update((key, Task(key, told_of, TaskRef(share.key))) for key, share in zip(told, shares, strict=True))
    keys = [share.key for share in shares]
    place = dict(zip([*keys, *told], ([address] for address in ranks.addresses * 2), strict=True))
    # Loose, so that a part whose worker is gone runs elsewhere, sees that, and says so.
    layer = MaterializedLayer(tasks, annotations={"workers": place.get, "allow_other_workers": True})
    futures: list[Future] = client.get(HighLevelGraph({"run": layer}, {"run": set()}), [*keys, *told], sync=False)
    return futures, lent


def nbytes_of(values: Iterable[Any]) -> int:
    """Bytes of the arrays among some values, here or lent."""
    return sum(value.nbytes if isinstance(value, np.ndarray | Reference) else 0 for value in values)


def _results(client: Client, ranks: Ranks, futures: list[Future]) -> list[tuple[Outcome, Values]]:
    """What happened on each rank, and the values it returned."""
    from distributed import CancelledError

    told = futures[-len(ranks.members) :]
    gone: list[str] = []
    try:
        while not clients.ended(client, told, LOOK):
            there = clients.workers_of(client)
            before, gone = gone, [address for address in ranks.addresses if address not in there]
            if set(gone) & set(before) and not all(future.done() for future in told):  # two looks: one may be too early
                raise WorkerDied(gone[0], "it left the cluster during a run")
        return [(result[0], result[1]) for result in client.gather(told, direct=True)]
    except CancelledError as error:
        raise WorkerDied(", ".join(ranks.addresses), f"its part of the run is lost ({error})") from error
    except BaseException:
        for future in futures:
            future.release()
        raise
