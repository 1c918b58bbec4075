"""Q R by panels: a panel is one task, and so is what its reflections do to a block column."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, Generic, NamedTuple, TypeVar

from tilewright.graph import RW, Handle, Handles, Op, R, TaskGraph, Use, W
from tilewright.kernels import band, bidiagonal
from tilewright.ops import geqrf, in_place, larfb

__all__ = ["Panel", "Panels", "PartPanels", "TilePanels", "cuts", "eliminate", "groups", "panel_flops", "qr_panels"]

Shape = tuple[int, ...]

_AHEAD = 1
"""Priority of panels and of what feeds the next two. The longest way is that of the last columns, which can wait."""


Columns = TypeVar("Columns")
"""What one update takes: a block column, or a range of them."""


class Panels(ABC, Generic[Columns]):
    """The panels of a matrix: how one is factored, and what its reflections are applied to."""

    g: TaskGraph

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def factor(self, k: int) -> None:
        """Insert A_k = Q_k R_k."""

    @abstractmethod
    def behind(self, k: int) -> Iterable[Columns]:
        """The block columns with columns behind panel k, that of panel k + 1 first."""

    @abstractmethod
    def update(self, k: int, j: Columns) -> None:
        """Insert A_j := Q_k^H A_j, for the columns of block column j behind the panel."""


def eliminate(panels: Panels[Any], k: int) -> None:
    """Insert Q R of panel k, and what it does to all behind it."""
    panels.factor(k)
    for j in panels.behind(k):
        panels.update(k, j)


def qr_panels(panels: Panels[Any]) -> None:
    """Insert the right-looking QR factorisation.

    Who updates the block column of panel k + 1 first can go on with that panel while others are updated.
    """
    for k in panels.g.range(len(panels)):
        eliminate(panels, k)


# ------------------------------------------------------------------ whole tile columns


def groups(first: int, stop: int, across: int) -> Iterator[range]:
    """Block columns from ``first`` on in groups that end at multiples of ``across``: so those of all steps coincide."""
    while first < stop:
        end = min((first // across + 1) * across, stop)
        yield range(first, end)
        first = end


class TilePanels(Panels[Sequence[int]]):
    """Whole tile columns of ``A[i,j]``, mt x nt; the vectors of panel k stay in A, its triangle is ``T[0,k]``.

    Parameters
    ----------
    across
        Block columns that one task updates at most; the next panel's is alone, so that it does not wait for others.
    corner
        ``corner[0,k]`` gets R of the panel; then vectors stand in A with their ones and zeros.
    gathered
        Tiles of a block column live on several ranks: all tasks of group x of them run where tile (x, x) lives, so that
        a tile travels once there and back, and between them panels alone.
    """

    def __init__(
        self,
        g: TaskGraph,
        A: Handles,
        T: Handles,
        mt: int,
        nt: int,
        across: int = 1,
        corner: Handles | None = None,
        gathered: bool = False,
    ) -> None:
        self.g, self.A, self.T, self.mt, self.nt, self.across, self.corner = g, A, T, mt, nt, across, corner
        self.gathered = gathered

    def __len__(self) -> int:
        return min(self.mt, self.nt)

    def _home(self, X: Handles, j: int) -> Handle | None:
        """A tile of which the rank works on block column j of X; None for that of its tiles."""
        if not self.gathered:
            return None
        group = j // self.across
        return X[group % self.mt, group]

    def factor(self, k: int) -> None:
        corner = [] if self.corner is None else [W(self.corner[0, k])]
        uses = [RW(self.A[i, k]) for i in self.g.range(k, self.mt)], W(self.T[0, k]), *corner
        self.g.insert(self.g.value(geqrf, self.mt - k), *uses, on=self._home(self.A, k), priority=_AHEAD)

    def behind(self, k: int) -> Iterator[Sequence[int]]:
        if self.across == 1:
            for j in self.g.range(k + 1, self.nt):
                yield (j,)
            return
        yield from groups(k + 1, min(k + 2, self.nt), 1)
        yield from groups(k + 2, self.nt, self.across)

    def update(self, k: int, j: Sequence[int]) -> None:
        self.apply(k, self.A, j, priority=_AHEAD if self.across > 1 and j[0] <= k + 2 else 0)

    def apply(self, k: int, X: Handles, c: Sequence[int], flag: str = "C", priority: float = 0) -> None:
        """Insert X_c := Q_k^H X_c, or with flag "N" Q_k X_c, for block columns beside each other."""
        g = self.g
        how = [] if flag == "C" and self.corner is None else [flag] if self.corner is None else [flag, True]
        vectors = [R(self.A[i, k]) for i in g.range(k, self.mt)]
        tiles = [RW(X[i, j]) for i in g.range(k, self.mt) for j in c]
        larfb_k = g.value(larfb, self.mt - k, len(c))
        g.insert(larfb_k, vectors, R(self.T[0, k]), tiles, *how, on=self._home(X, c[0]), priority=priority)


# ------------------------------------------------------------------ parts of tile columns


class Panel(NamedTuple):
    """Some columns of one tile column, from some row on."""

    k: int
    column: int
    """Its first column."""
    width: int
    row: int
    """Its first row."""


def cuts(n: int, nb: int, b: int) -> list[Panel]:
    """Panels of at most b of n columns, each within a tile of nb of them and from the diagonal down."""
    starts = [column for start in range(0, n, nb) for column in range(start, min(start + nb, n), b)]
    return [Panel(k, at, min(b, nb - at % nb, n - at), at) for k, at in enumerate(starts)]


def panel_flops(tiles: list[Shape], parts: list[Shape], t: Shape) -> float:
    return 2.0 * sum(part[1] for part in parts) * t[0] ** 2


def _left_flops(parts: list[Shape], t: Shape, tiles: list[Shape]) -> float:
    return 4.0 * t[0] * sum(part[1] for part in parts) * tiles[0][0]


def _back_flops(parts: list[Shape], t: Shape, x: Shape) -> float:
    return 4.0 * t[0] * sum(part[1] for part in parts) * x[0]


@cache
def _weighted(name: str, weight: float) -> Op:
    function, flops = {
        "panel": (band.panel, panel_flops),
        "left": (bidiagonal.from_left, _left_flops),
        "back": (band.back, _back_flops),
    }[name]
    return in_place(name, function, weight=weight, flops=flops)


class PartPanels(Panels[int]):
    """Parts of tile columns of ``A[i,j]``, whose buffers have tiles by columns; vectors and triangles are in rooms.

    Parameters
    ----------
    g, A
        Where to insert, and the tiles.
    cut
        The panels.
    nb, n
        Columns of a tile, and of the matrix.
    heights
        Rows of each tile row.
    dtype, V, T
        Those of the rooms, and their names: vectors ``V[i,k]`` and triangles ``T[k]``.
    below
        Which tile rows a panel has; by default all from its first row on.
    """

    def __init__(
        self,
        g: TaskGraph,
        A: Handles,
        cut: Sequence[Panel],
        nb: int,
        n: int,
        heights: Sequence[int],
        dtype: str,
        V: str = "V",
        T: str = "T",
        below: Callable[[Panel], Sequence[int]] | None = None,
    ) -> None:
        self.g, self.A, self.cut, self.nb, self.n = g, A, cut, nb, n
        self.heights, self._extent = heights, sum(heights)
        self._below = below or (lambda panel: range(panel.row // nb, len(heights)))
        self.V = g.handles(V, shape=self.shape, dtype=dtype)
        self.T = g.handles(T, shape=lambda k: (self.rank(k),) * 2, dtype=dtype)

    def __len__(self) -> int:
        return len(self.cut)

    def rank(self, k: int) -> int:
        """How many reflections panel k has."""
        return min(self.cut[k].width, self._extent - self.cut[k].row)

    def shape(self, i: int, k: int) -> tuple[int, int]:
        """The shape of the vectors of panel k in tile row i, by columns."""
        first, above = divmod(self.cut[k].row, self.nb)
        return self.rank(k), self.heights[i] - (above if i == first else 0)

    def below(self, k: int) -> Sequence[int]:
        """Tile rows of panel k."""
        return self._below(self.cut[k])

    def share(self, k: int) -> float:
        """Columns of panel k in tiles."""
        return self.cut[k].width / self.nb

    def vectors(self, k: int) -> list[Use]:
        return [R(self.V[i, k]) for i in self.below(k)]

    def factor(self, k: int) -> None:
        _, column, width, row = self.cut[k]
        below, J = self.below(k), column // self.nb
        self.g.insert(
            _weighted("panel", 6 * len(below) * self.share(k) ** 2),
            [RW(self.A[i, J]) for i in below],
            [W(self.V[i, k]) for i in below],
            W(self.T[k]),
            row % self.nb,
            column % self.nb,
            width,
            on=self.A[below[0], J],
        )

    def behind(self, k: int) -> range:
        end = self.cut[k].column + self.cut[k].width
        return range(end // self.nb, -(-self.n // self.nb) if end < self.n else 0)

    def update(self, k: int, j: int) -> None:
        _, column, width, row = self.cut[k]
        below = self.below(k)
        self.g.insert(
            _weighted("left", 12 * len(below) * self.share(k)),
            self.vectors(k),
            R(self.T[k]),
            [RW(self.A[i, j]) for i in below],
            row % self.nb,
            max(column + width - j * self.nb, 0),
            label=(k, j),
        )

    def back(self, x: Handle) -> None:
        """Insert X := Q_0 ... Q_k X for a block of columns ``x``, the last panel first."""
        for k, _, _, row in reversed(self.cut):
            weight = 12 * len(self.below(k)) * self.share(k)
            self.g.insert(_weighted("back", weight), self.vectors(k), R(self.T[k]), RW(x), row, label=(k, *x.index))
