"""Hypothesis strategies: random programs over a few handles, shapes and tile sizes.

A random program is a list of calls of `mix`, whose result depends on the order of everything it reads and writes.
`RandomProgram.sequential` is the plain loop, the specification of every run.
"""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from tilewright import RW, R, TaskGraph, W

ACCESSES = {"R": R, "W": W, "RW": RW}


def mix(*args):
    """Change each written buffer in place, by a number made of all buffers that may be read."""
    *buffers, accesses, salt = args
    read = 0
    for place, (buffer, access) in enumerate(zip(buffers, accesses, strict=True)):
        if access != "W":
            read = (read * 31 + int(buffer[0]) + place) % 1_000_003
    for place, (buffer, access) in enumerate(zip(buffers, accesses, strict=True)):
        if access != "R":
            buffer[0] = (read * 7 + salt + place) % 1_000_003


def mix_returning(*args):
    """The same, but the new values are returned."""
    *buffers, accesses, _ = args
    copies = [buffer.copy() for buffer in buffers]
    mix(*copies, *args[-2:])
    written = tuple(copy for copy, access in zip(copies, accesses, strict=True) if access != "R")
    return written if len(written) > 1 else written[0] if written else None


@dataclass(frozen=True)
class Call:
    """One call: its function, and for each argument the handle's number and the access."""

    function: object
    uses: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class RandomProgram:
    """Calls in program order, on handles numbered from 0."""

    handles: int
    calls: tuple[Call, ...]

    @property
    def used(self):
        return sorted({i for call in self.calls for i, _ in call.uses})

    def data(self):
        return {f"h{i}": np.array([i + 1]) for i in self.used}

    def graph(self):
        g = TaskGraph("random")
        h = [g.handle(f"h{i}") for i in range(self.handles)]
        for salt, call in enumerate(self.calls):
            uses = [ACCESSES[access](h[i]) for i, access in call.uses]
            g.insert(call.function, *uses, tuple(access for _, access in call.uses), salt)
        return g

    def sequential(self):
        """The values that the plain loop leaves in the handles."""
        data = [np.array([i + 1]) for i in range(self.handles)]
        for salt, call in enumerate(self.calls):
            mix(*(data[i] for i, _ in call.uses), tuple(access for _, access in call.uses), salt)
        return [int(data[i][0]) for i in self.used]

    def left(self, run):
        """The values that a run leaves there."""
        return [int(run[f"h{i}"][0]) for i in self.used]


def _calls(handles):
    uses = st.lists(
        st.tuples(st.integers(0, handles - 1), st.sampled_from(["R", "W", "RW"])),
        min_size=1,
        max_size=4,
        unique_by=lambda use: use[0],
    ).map(tuple)
    return st.lists(st.builds(Call, st.sampled_from([mix, mix_returning]), uses), max_size=40).map(tuple)


programs = st.integers(1, 6).flatmap(lambda handles: st.builds(RandomProgram, st.just(handles), _calls(handles)))
"""Random programs of up to 40 tasks on up to 6 handles."""

orders = st.integers(0, 40)
"""Orders of small matrices, 0 and 1 among them."""

tile_sizes = st.integers(1, 50)
"""Tile sizes, many of them larger than the matrix or not dividing its order."""
