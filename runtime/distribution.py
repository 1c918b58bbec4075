"""Who owns which tile: distributions of tiles over ranks, and ScaLAPACK's index maps [1]_.

A distribution is called with the index of a tile and gives a rank. `owners` turns whatever a user passes as ``owner=``
into a function of a handle.

.. [1] L. S. Blackford et al., ScaLAPACK Users' Guide (1997), section 4.3, and TOOLS/{numroc,indxg2l,indxl2g}.f.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from math import isqrt
from operator import index as as_integer
from typing import Any, Protocol, runtime_checkable

from tilewright.graph import Handle, TaskGraph
from tilewright.keywords import strict
from tilewright.scalars import shown, whole

__all__ = [
    "BlockCyclic",
    "by_handle",
    "chosen_owner",
    "Distribution",
    "near_square",
    "numroc",
    "owners",
    "picture",
    "RowBlocks",
    "SymmetricBlockCyclic",
    "takes",
    "to_global",
    "to_local",
]


@runtime_checkable
class Distribution(Protocol):
    """A rule for tiles.

    Examples
    --------
    >>> import tilewright as tw
    >>> isinstance(tw.BlockCyclic(2, 3), tw.Distribution)
    True
    """

    @property
    def ranks(self) -> int:
        """How many ranks the rule uses."""

    def __call__(self, i: int, j: int) -> int:
        """The rank that owns tile (i, j)."""


@strict
@dataclass(frozen=True)
class BlockCyclic:
    """Tile (i, j) on a P x Q grid of ranks, counted row by row: rank (i mod P) Q + (j mod Q).

    Parameters
    ----------
    P, Q
        Rows and columns of ranks, at least 1.

    Raises
    ------
    ValueError, TypeError
        P or Q is below 1, or no integer.

    Examples
    --------
    >>> from tilewright.distribution import BlockCyclic, picture
    >>> print(picture(BlockCyclic(2, 3), mt=4, nt=5, lower=False))
    0 1 2 0 1
    3 4 5 3 4
    0 1 2 0 1
    3 4 5 3 4
    """

    P: int
    Q: int

    def __post_init__(self) -> None:
        for name, extent in (("P", self.P), ("Q", self.Q)):
            if whole(extent, f"BlockCyclic: {name}") < 1:
                raise ValueError(
                    f"BlockCyclic: {name} must be at least 1; a grid needs at least one row and one column of ranks, "
                    f"not {self.P} x {self.Q}"
                )

    @property
    def ranks(self) -> int:
        return self.P * self.Q

    def __call__(self, i: int, j: int) -> int:
        return i % self.P * self.Q + j % self.Q


@strict
@dataclass(frozen=True)
class SymmetricBlockCyclic:
    """For symmetric matrices, r (r-1) / 2 ranks: each rank is a pair {a, b} of 0..r-1 [2]_.

    Tile (i, j) belongs to the pair {i mod r, j mod r}; where these are equal, to pairs with that member in turn. The
    tiles that need tile (i, k) stand in row i and in column i, so on the r - 1 pairs with member i mod r: a Cholesky
    factorisation sends 1/sqrt(2) of the words of a square block-cyclic grid.

    .. [2] O. Beaumont et al., Symmetric block-cyclic distribution: fewer communications leads to faster dense
       Cholesky factorization, SC22.

    Parameters
    ----------
    r
        At least 2; there are r (r - 1) / 2 ranks.

    Raises
    ------
    ValueError, TypeError
        r is below 2, or no integer.

    Examples
    --------
    >>> from tilewright.distribution import SymmetricBlockCyclic, picture
    >>> print(picture(SymmetricBlockCyclic(3), mt=3, nt=3))
    0
    0 2
    1 2 1
    """

    r: int

    def __post_init__(self) -> None:
        if whole(self.r, "SymmetricBlockCyclic: r") < 2:
            raise ValueError(f"a symmetric block-cyclic distribution needs r >= 2, not {self.r}")

    @property
    def ranks(self) -> int:
        return self.r * (self.r - 1) // 2

    def __call__(self, i: int, j: int) -> int:
        r = self.r
        a, b = i % r, j % r
        if a == b:
            b = (a + 1 + (i // r + j // r) % (r - 1)) % r
        high, low = max(a, b), min(a, b)
        return high * (high - 1) // 2 + low


@strict
@dataclass(frozen=True)
class RowBlocks:
    """Contiguous blocks of the ``mt`` tile rows, as equal as they can be: rank floor(i ranks / mt).

    Parameters
    ----------
    ranks, mt
        Ranks, and tile rows, at least 1.

    Raises
    ------
    ValueError, TypeError
        One is below 1, or no integer.

    Examples
    --------
    >>> import tilewright as tw
    >>> [tw.RowBlocks(2, 5)(i, 0) for i in range(5)]
    [0, 0, 0, 1, 1]
    """

    ranks: int
    mt: int

    def __post_init__(self) -> None:
        if min(whole(self.ranks, "RowBlocks: ranks"), whole(self.mt, "RowBlocks: mt")) < 1:
            raise ValueError(
                f"RowBlocks needs at least one rank and one tile row, not {self.ranks} and {self.mt} (ranks and mt)"
            )

    def __call__(self, i: int, j: int) -> int:
        return i * self.ranks // self.mt


def near_square(ranks: int) -> BlockCyclic:
    """The block-cyclic grid P x Q of exactly ``ranks`` ranks whose P <= Q are closest."""
    if whole(ranks, "ranks") < 1:
        raise ValueError(f"a grid needs at least one rank, not {ranks}")
    P = next(P for P in range(isqrt(ranks), 0, -1) if ranks % P == 0)
    return BlockCyclic(P, ranks // P)


# ------------------------------------------------------------------ index maps, one dimension


def numroc(n: int, nb: int, p: int, P: int) -> int:
    """How many of n rows or columns, in blocks of nb, process p of P owns."""
    blocks, rest = divmod(n, nb)
    mine, extra = divmod(blocks, P)
    return mine * nb + (nb if p < extra else rest if p == extra else 0)


def to_local(g: int, nb: int, P: int) -> tuple[int, int]:
    """(process, local index) of global index g."""
    block, offset = divmod(g, nb)
    return block % P, block // P * nb + offset


def to_global(p: int, local: int, nb: int, P: int) -> int:
    """Global index of local index ``local`` on process p. The inverse of `to_local`."""
    block, offset = divmod(local, nb)
    return (block * P + p) * nb + offset


# ------------------------------------------------------------------ what users pass


def picture(owner: Callable[[int, int], int], mt: int, nt: int, *, lower: bool = True) -> str:
    """The owner of each tile, one tile row a line; with ``lower`` only the lower triangle.

    Examples
    --------
    >>> from tilewright.distribution import SymmetricBlockCyclic, picture
    >>> print(picture(SymmetricBlockCyclic(3), mt=4, nt=4))
    0
    0 2
    1 2 1
    1 0 1 0
    """
    table = [[str(owner(i, j)) for j in range(min(nt, i + 1) if lower else nt)] for i in range(mt)]
    width = max((len(cell) for row in table for cell in row), default=0)
    return "\n".join(" ".join(cell.rjust(width) for cell in row) for row in table)


def _is_rank(value: Any) -> bool:
    if isinstance(value, bool | type) or bool(getattr(value, "ndim", 0)):
        return False
    try:
        as_integer(value)
    except TypeError:
        return False
    return True


def chosen_owner(options: Mapping[str, Any]) -> Any:
    """The rule that ``owner=`` or ``grid=`` of a call says, for `owners`; None if neither is there.

    Raises
    ------
    ValueError, TypeError
        Both are given, or the grid is not two positive integers.
    """
    grid, owner = options.get("grid"), options.get("owner")
    if grid is None:
        return owner
    if owner is not None:
        raise ValueError("grid and owner both say who owns what; pass one of them")
    try:
        P, Q = (as_integer(side) for side in grid)
        return BlockCyclic(P, Q)
    except (TypeError, ValueError) as error:
        raise type(error)(f"grid must be two positive integers (P, Q), not {grid!r}") from None


def owner_for(graph: TaskGraph, owner: Any, ranks: int | None = None) -> Any:
    """The rule of a call, or where it has none that of the graph's layout; ``ranks`` of any number share its ranks."""
    if owner is None and graph.layout is not None:
        home = graph.layout.owner
        return {handle: home(handle) if ranks is None else home(handle) % ranks for handle in graph.handles_used}
    return owner


def by_handle(graph: TaskGraph, rank_of: Callable[[Handle], int]) -> tuple[int, ...]:
    """The owner of each handle in order of first access. ValueError as of ``rank_of``, first about a result: those have
    names that the user knows, while a call may read its argument under a name of its own."""
    try:
        return tuple(map(rank_of, graph.handles_used))
    except ValueError:
        for handle in graph.results:
            rank_of(handle)
        raise


def owners(owner: Any, ranks: int) -> Callable[[Handle], int]:
    """The owner of each handle.

    Parameters
    ----------
    owner
        A rule for all handles, or a dict of rules by handle or handle name. A rule is a `Distribution`, a rank, or a
        function of the handle's indices; of the handle, if it takes one argument and the handle has not one index. A
        copy in another format, ``A:bfloat16``, is where its tile of ``A`` is unless the dict has a rule for it. None is
        the block-cyclic rule on a near-square grid.
    ranks
        How many ranks there are.

    Returns
    -------
    A function of a handle. A `Distribution` sees a handle with one index i as tile (i, 0) and one without index as
    (0, 0). The function raises ValueError where a rule gives no rank from 0 to ``ranks - 1``.
    """
    if isinstance(owner, Distribution) and owner.ranks > ranks:
        raise ValueError(f"{owner} needs {owner.ranks} ranks, but there are {ranks}")
    rules: dict[Any, Any] = dict(owner) if isinstance(owner, Mapping) else {}  # a copy: the caller may change his
    default = near_square(ranks) if owner is None or isinstance(owner, Mapping) else owner

    settled = {key: rank for key, rank in rules.items() if type(rank) is int and 0 <= rank < ranks}
    families: dict[str, Callable[[Handle], Any]] = {}  # a check for a `Distribution` takes longer than its rule

    def rank_of(handle: Handle) -> int:
        rank: Any = settled.get(handle) if settled else None
        if rank is not None:
            return int(rank)
        own = rules.get(handle) if rules else None
        if own is not None:
            rank = _asked(own)(handle)
        else:
            rule = families.get(handle.name)
            if rule is None:
                given = rules.get(handle.name)
                if given is None:
                    given = rules.get(handle.name.partition(":")[0], default)
                rule = families[handle.name] = _asked(given)
            rank = rule(handle)
        if type(rank) is int and 0 <= rank < ranks:
            return rank
        if not _is_rank(rank) or not 0 <= as_integer(rank) < ranks:
            raise ValueError(f"owner of {handle} is {shown(rank)}, not one of the ranks 0 to {ranks - 1}")
        return as_integer(rank)

    return rank_of


def _asked(rule: Any) -> Callable[[Handle], Any]:
    """What a rule says of a handle."""
    if isinstance(rule, Distribution):
        return lambda handle: rule(*(*handle.index, 0, 0)[:2])
    if not callable(rule):
        return lambda handle: rule
    whole: dict[int, bool] = {}  # by number of indices, whether the rule is asked for the handle

    def ask(handle: Handle) -> Any:
        count = len(handle.index)
        if count not in whole:
            whole[count] = count != 1 and not takes(rule, count) and takes(rule, 1)
        return rule(handle) if whole[count] else rule(*handle.index)

    return ask


def takes(rule: Callable[..., Any], count: int) -> bool:
    """Whether a function can be called with so many arguments. True for a builtin that does not say."""
    try:
        signature(rule).bind(*(None,) * count)
    except TypeError:
        return False
    except ValueError:
        return True
    return True
