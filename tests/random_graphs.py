"""Random graphs that invite engines to go wrong, what a plain loop makes of them, and a comparison of a run with that.

`make(seed)` gives one graph with its data, owners and the sequential answer. Its tasks read, write and change up to four
handles each, in place or by returning values, as plain functions or as `Op(in_place=True)`, on the rank of what they
write or on another (``on=``). Many sleep between two looks at what they read and between two halves of what they write, so
that an engine that lets somebody else write meanwhile is caught. Some handles have no data, some have more than others; of
those without, some have a room, kept or not. Some accesses are groups. In some graphs tasks fail.

`interpret` is the specification: a loop over the calls with values in a dict. It uses nothing of tilewright.

On the ranks of mpiexec this file is a script: ``mpiexec -n 3 python random_graphs.py FIRST COUNT`` prints what went wrong
there, as JSON.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

import tilewright as tw
from tilewright import RW, Op, R, TaskGraph, W
from tilewright.graph import Layout

RANKS = 3
PRIME = 1_000_003
ACCESSES = {"R": R, "W": W, "RW": RW}


class Oops(Exception):
    """What a task raises that is to fail; its argument is the number of the task."""


@dataclass(frozen=True)
class Call:
    """One call: its style, for each argument the number of the handle and the access, and where it is to run."""

    style: str
    """``place``: in place; ``return``: new values; ``op``: in place by an `Op` that promises it; ``fail``: raises."""
    uses: tuple[tuple[int, str], ...]
    on: Any
    delay: float
    groups: tuple[int, ...] = ()
    """How many uses each argument is, 0 where it is one and no group; the others are one each."""

    def arguments(self, values: list[Any]) -> list[Any]:
        """The values, one for each use, as arguments: lists where they are a group."""
        values, found = list(values), []
        for size in self.groups:
            found.append([values.pop(0) for _ in range(size)] if size else values.pop(0))
        return found + values


@dataclass
class Case:
    """One graph, its data and its answer."""

    seed: int
    shapes: list[tuple[int, ...]]
    given: list[bool]
    """By handle, whether the run gets data for it."""
    owners: list[int]
    rooms: dict[int, bool] = field(default_factory=dict)
    """By handle without data that has a room: whether it is kept."""
    calls: list[Call] = field(default_factory=list)

    @cached_property
    def data(self) -> dict[str, Any]:
        """What the caller has; a run changes it."""
        return {
            f"h{i}": filled(shape, i + 1) for i, shape in enumerate(self.shapes) if self.given[i] and i in self.used
        }

    @property
    def used(self) -> set[int]:
        return {i for call in self.calls for i, _ in call.uses}

    @property
    def owner(self) -> dict[str, int]:
        return {f"h{i}": rank for i, rank in enumerate(self.owners)}

    def graph(self) -> TaskGraph:
        g = TaskGraph(f"random {self.seed}")
        handles = [
            g.handle(f"h{i}", shape=shape, dtype="int64", keep=self.rooms[i]) if i in self.rooms else g.handle(f"h{i}")
            for i, shape in enumerate(self.shapes)
        ]
        for number, call in enumerate(self.calls):
            uses = [ACCESSES[access](handles[i]) for i, access in call.uses]
            accesses = tuple(access for _, access in call.uses)
            shapes = tuple(self.shapes[i] for i, access in call.uses if access != "R")
            on = handles[call.on[1]] if isinstance(call.on, tuple) else call.on
            g.insert(STYLES[call.style], *call.arguments(uses), accesses, shapes, number, call.delay, on=on)
        return g

    @property
    def wanted(self) -> dict[str, int]:
        gone = {f"h{i}" for i, keep in self.rooms.items() if not keep}
        return {name: number for name, number in interpret(self).items() if name not in gone}


def make(seed: int, *, failures: bool = False, delays: bool = True, tasks: int = 24) -> Case:
    """The graph of a seed. With ``failures`` some of its tasks fail."""
    dice = random.Random(seed)
    count = dice.randint(2, 7)
    shapes = [dice.choice([(1,), (3,), (2, 3), (40, 60), (8,)]) for _ in range(count)]
    given = [dice.random() < 0.85 for _ in range(count)]
    case = Case(seed, shapes, given, [dice.randrange(RANKS) for _ in range(count)])
    there = list(given)
    more = random.Random(seed + 1_000_000)  # so that the rest of a graph stays what it was
    case.rooms = {i: more.random() < 0.5 for i in range(count) if not given[i] and more.random() < 0.7}
    wild = dice.random() < 0.5  # many writes that read nothing
    for _ in range(dice.randint(1, tasks)):
        chosen = dice.sample(range(count), dice.randint(1, min(4, count)))
        uses = []
        for i in chosen:
            access = dice.choice(["R", "W", "W", "RW"] if wild else ["R", "R", "W", "RW", "RW"])
            if not there[i]:
                access = "W"
            uses.append((i, access))
        written = [i for i, access in uses if access != "R"]
        style = dice.choice(["place", "return", "op", "op"])
        if style == "op" and not all(given[i] or i in case.rooms for i in written):
            style = "place"
        if failures and dice.random() < 0.15:
            style = "fail"
        for i in written:
            there[i] = True
        on: Any = None
        if dice.random() < 0.3:
            on = dice.choice([dice.randrange(RANKS), ("handle", dice.randrange(count))])
        delay = dice.choice([0.0, 0.0, 0.0005, 0.002]) if delays else 0.0
        groups, left = [], len(uses)
        while left and more.random() < 0.6:
            groups.append(more.choice([0, more.randint(1, left)]))
            left -= max(groups[-1], 1)
        case.calls.append(Call(style, tuple(uses), on, delay, tuple(groups)))
    return case


# ------------------------------------------------------------------ the specification


def interpret(case: Case) -> dict[str, int]:
    """The number in each handle at the end of the plain loop; handles without a value are left out."""
    numbers = {i: (i + 1) % PRIME for i in case.used if case.given[i]}
    for salt, call in enumerate(case.calls):
        read = 0
        for place, (i, access) in enumerate(call.uses):
            if access != "W":
                read = (read * 31 + numbers[i] + place) % PRIME
        for place, (i, access) in enumerate(call.uses):
            if access != "R":
                numbers[i] = (read * 7 + salt * 101 + place) % PRIME
    return {f"h{i}": number for i, number in numbers.items()}


def may_fail(calls: list[Call], *, values_only: bool) -> set[int]:
    """Tasks whose failure a run may report: those that are to fail and wait for no other such task.

    In one memory a task waits for all that the order of reads and writes says; ranks keep versions apart, so there it waits
    for what it reads (``values_only``).
    """
    barred: set[int] = set()
    failing = {number for number, call in enumerate(calls) if call.style == "fail"}
    writer: dict[int, int] = {}
    readers: dict[int, set[int]] = {}
    for number, call in enumerate(calls):
        before: set[int] = set()
        for i, access in call.uses:
            if i in writer and (access != "W" or not values_only):
                before.add(writer[i])
            if access != "R" and not values_only:
                before |= readers.get(i, set())
        for i, access in call.uses:
            if access == "R":
                readers.setdefault(i, set()).add(number)
            else:
                writer[i], readers[i] = number, set()
        if before & (failing | barred):
            barred.add(number)
    return failing - barred


# ------------------------------------------------------------------ what the tasks do


def filled(shape: tuple[int, ...], number: int) -> np.ndarray:
    """An array that shows if part of it is another's."""
    return (np.arange(int(np.prod(shape)), dtype=np.int64) + number).reshape(shape)


def number_in(array: np.ndarray) -> int:
    """The number that an array was filled with; one that nothing is filled with if it is torn."""
    flat = np.asarray(array).reshape(-1)
    number = int(flat[0])
    return number if np.array_equal(flat, np.arange(flat.size, dtype=np.int64) + number) else -12345


def look(buffers: Any, accesses: tuple[str, ...]) -> int:
    read = 0
    for place, (buffer, access) in enumerate(zip(buffers, accesses, strict=True)):
        if access != "W":
            read = (read * 31 + number_in(buffer) + place) % PRIME
    return read


def values_of(buffers: Any, accesses: tuple[str, ...], salt: int, delay: float) -> list[int]:
    """The numbers for what is written, in order; what is read is looked at twice."""
    read = look(buffers, accesses)
    if delay:
        time.sleep(delay)
        if look(buffers, accesses) != read:
            read = -1  # somebody changed it meanwhile
    places = [place for place, access in enumerate(accesses) if access != "R"]
    return [(read * 7 + salt * 101 + place) % PRIME for place in places]


def flat(args: tuple[Any, ...]) -> list[Any]:
    """The arguments with those of groups one by one."""
    return [buffer for arg in args for buffer in (arg if isinstance(arg, list) else [arg])]


def change(*args: Any) -> Any:
    """Change each written buffer in place, slowly; where there is none, return new values of all."""
    *buffers, accesses, shapes, salt, delay = flat(args)
    numbers = values_of(buffers, accesses, salt, delay)
    written = [buffer for buffer, access in zip(buffers, accesses, strict=True) if access != "R"]
    if any(buffer is None for buffer in written):
        return answer(numbers, shapes)
    for buffer, number in zip(written, numbers, strict=True):
        if delay:
            buffer[...] = -7
            time.sleep(delay / 2)
        buffer[...] = filled(buffer.shape, number)
    return None


def renew(*args: Any) -> Any:
    """The same by returned values."""
    *buffers, accesses, shapes, salt, delay = flat(args)
    return answer(values_of(buffers, accesses, salt, delay), shapes)


def answer(numbers: list[int], shapes: tuple[tuple[int, ...], ...]) -> Any:
    values = tuple(filled(shape, number) for shape, number in zip(shapes, numbers, strict=True))
    return values if len(values) > 1 else values[0] if values else None


def fail(*args: Any) -> None:
    *_, salt, delay = args
    time.sleep(delay)
    raise Oops(salt)


STYLES: dict[str, Any] = {
    "place": change,
    "return": renew,
    "op": Op("change in place", change, in_place=True),
    "fail": fail,
}


# ------------------------------------------------------------------ a graph that is laid out once


@dataclass
class Repeated:
    """What came out of the second run of a prepared graph, in the form of a `Run`."""

    trace: tw.Trace
    outputs: dict[Any, np.ndarray]
    backend: str = "prepared"

    def __getitem__(self, name: str) -> Any:
        return self.outputs[tw.Handle(name)]


def prepared(case: Case, **options: Any) -> Repeated:
    """Prepare a case and run it twice. What is neither written nor read is given back as it was."""
    graph = case.graph()
    shape_of = {f"h{i}": shape for i, shape in enumerate(case.shapes)}
    owner = case.owner
    graph.layout = Layout(RANKS, lambda h: owner[h.name], lambda h: shape_of[h.name])
    resident = tw.Resident({}, ranks=RANKS, owner=lambda h: 0, backend="mpi", **options)
    data = {tw.Handle(name): array for name, array in case.data.items()}
    step = resident.prepare(graph, inputs=list(data), outputs=list(graph.results), dtype=np.int64)
    for _ in range(2):
        for handle, array in data.items():
            step.inputs[handle][...] = array
        trace = step.traced()
    outputs = {h: array.copy() for h, array in ({**data, **step.outputs}).items()}
    resident.close()
    return Repeated(trace, outputs)


# ------------------------------------------------------------------ a run, compared


def problem(case: Case, run: Callable[[Case], Any], *, ranks: bool) -> str:
    """What is wrong with a run of a case; nothing if all is right. ``ranks``: its tasks have memories of their own."""
    failing = may_fail(case.calls, values_only=ranks)
    planned = False
    try:
        done = run(case)
        planned = done.backend == "simulate"
    except Oops as error:
        return "" if error.args[0] in failing else f"{case.seed}: task {error.args[0]} cannot fail: {sorted(failing)}"
    except Exception as error:
        return f"{case.seed}: {type(error).__name__}: {error} {getattr(error, '__notes__', '')}"
    if failing and not planned:
        return f"{case.seed}: ran, though tasks {sorted(failing)} fail"
    try:
        done.trace.check()
    except AssertionError as error:
        return f"{case.seed}: {error}"
    if planned:
        return ""
    wanted = case.wanted
    got = {name: number_in(done[name]) for name in wanted}
    if got != wanted:
        return f"{case.seed}: {got} instead of {wanted}"
    return "" if done.backend == "prepared" else wrong_in_place(case)


def wrong_in_place(case: Case) -> str:
    """What is wrong with the caller's arrays: one has the result, or what it had if all who wrote it returned values."""
    styles: dict[int, set[str]] = {}
    for call in case.calls:
        for i, access in call.uses:
            if access != "R":
                missing = any(not case.given[j] and j not in case.rooms for j, other in call.uses if other != "R")
                styles.setdefault(i, set()).add("either" if missing and call.style == "place" else call.style)
    for name, array in case.data.items():
        ways = styles.get(int(name[1:]), set())
        expected = int(name[1:]) + 1 if ways <= {"return"} else case.wanted[name] if ways <= {"place", "op"} else None
        if expected is not None and number_in(array) != expected:
            return f"{case.seed}: the caller's {name} has {number_in(array)} instead of {expected}"
    return ""


def problems(cases: Any, run: Callable[[Case], Any], *, ranks: bool = False) -> list[str]:
    """What is wrong with the runs of many cases."""
    return [found for case in cases if (found := problem(case, run, ranks=ranks))]


def on_ranks(first: int, count: int) -> list[str]:
    """What all ranks of this communicator find wrong."""
    from mpi4py import MPI

    def run(case: Case) -> Any:
        return tw.run(case.graph(), case.data, backend="mpi", owner=case.owner)

    found = []
    for seed in range(first, first + count):
        found += problems([make(seed, failures=seed % 4 == 0)], run, ranks=True)
        if seed % 4 == 1:
            found += problems([make(seed)], prepared, ranks=True)
    everywhere = MPI.COMM_WORLD.gather(found)
    return [] if everywhere is None else sorted({line for lines in everywhere for line in lines})


if __name__ == "__main__":
    lines = on_ranks(int(sys.argv[1]), int(sys.argv[2]))
    from mpi4py import MPI

    if MPI.COMM_WORLD.rank == 0:
        print(json.dumps(lines))
