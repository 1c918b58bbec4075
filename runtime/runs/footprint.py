"""How much data a rank holds at its fullest moment: an upper bound.

A handle counts on each rank that has it as its own, until the end: from the start where the run was given it, else
from the task that first writes it there, which with ``on=`` may be on several ranks. A room that is not kept
(`tilewright.rooms`) counts from the task that first writes it on each rank until the last task or message there that
uses it. A copy that a message brought counts from the start of the message to the end of the last task that reads it
there. Data of the caller counts too, though it lay there before the run and a tile may be a view of an array: the
process itself grows by less.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from tilewright.graph import Access, Handle

if TYPE_CHECKING:
    from tilewright.runs.run import Run

__all__ = ["held", "high_water", "nbytes_of"]


def high_water(run: Run) -> list[int]:
    """At most so many bytes by rank, from the shapes of the data or of the machine's tiles. O(accesses + messages)."""
    peaks = []
    for changes in held(run):
        now = peak = 0
        for _, change in changes:
            now += change
            peak = max(peak, now)
        peaks.append(peak)
    return peaks


def held(run: Run) -> list[list[tuple[float, int]]]:
    """By rank, when how many bytes come and go, in order of time; at equal times what is freed goes first."""
    size: dict[Handle, int] = {}
    home: set[tuple[int, Handle]] = set()
    known: set[Handle] = set()
    uses: dict[tuple[int, Handle], list[tuple[float, float]]] = defaultdict(list)  # reads by (rank, handle)
    events: dict[int, list[tuple[float, int]]] = defaultdict(list)
    copied = {(message.destination, message.handle) for message in run.trace.messages}
    rooms: dict[tuple[int, Handle], tuple[float, float]] = {}  # first write and last use by (rank, handle)
    for record in run.trace.records:
        for handle, access in run.graph.tasks[record.task].uses:
            if handle not in size:
                size[handle] = nbytes_of(run, handle)
            place = record.rank, handle
            if access is not Access.WRITE and place in copied:
                uses[place].append((record.start, record.end))
            if _comes_and_goes(run, handle):
                begin, until = rooms.get(place, (inf, 0.0))
                if access is not Access.READ:
                    begin = min(begin, record.start)
                rooms[place] = begin, max(until, record.end)
            elif place not in home and (access is not Access.READ or place not in copied):
                home.add(place)
                given = handle in run.graph.inputs and (access is Access.READ or handle not in known)
                known.add(handle)
                events[record.rank].append((0.0 if given else record.start, size[handle]))
    for message in run.trace.messages:
        sender = message.source, message.handle
        sends_its_own = message.writer < 0 and message.source != message.destination
        if sends_its_own and sender not in home and sender not in rooms:
            home.add(sender)
            events[message.source].append((0.0, message.nbytes))
        if (message.source, message.handle) in rooms:
            begin, until = rooms[message.source, message.handle]
            rooms[message.source, message.handle] = begin, max(until, message.end)
    for (rank, handle), (begin, until) in rooms.items():
        if begin < inf:
            events[rank] += [(begin, size[handle]), (until, -size[handle])]
    for message in run.trace.messages:
        place = message.destination, message.handle
        if message.source == message.destination:
            continue
        until = max((end for start, end in uses[place] if start >= message.end), default=message.end)
        events[message.destination].append((message.start, message.nbytes))
        events[message.destination].append((until, -message.nbytes))
    return [sorted(events[rank]) for rank in range(run.trace.ranks)]


def _comes_and_goes(run: Run, handle: Handle) -> bool:
    room = run.graph.rooms.get(handle.name)
    return room is not None and not room.keep and handle not in run.graph.inputs


def nbytes_of(run: Run, handle: Handle) -> int:
    """Bytes of a handle's value, from the store, its room or the machine."""
    nbytes = getattr(run.store[handle], "nbytes", None)
    if nbytes is not None:
        return int(nbytes)
    if handle.name in run.graph.rooms:
        return run.graph.rooms[handle.name].nbytes(handle, partial(_shape, run))
    return round(8 * run.machine.words(handle)) if run.machine is not None else 0


def _shape(run: Run, handle: Handle) -> tuple[int, ...]:
    value, machine = run.store[handle], run.machine
    if value is not None:
        return tuple(value.shape)
    return () if machine is None else machine.shape(handle) if machine.shape else (machine.tile_size,) * 2
