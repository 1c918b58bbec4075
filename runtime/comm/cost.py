"""What collectives and products cost: the lecture's formulas as functions.

The lecture is V. Eijkhout's *Parallel scalability*.

A message of n words takes alpha + beta n seconds, a flop gamma seconds; a rank sends one message and receives one at a
time. With L = ceil(log2 p) and blocks of b = ceil(n/p) words:

=============== ==========================  ============================================================= ===
operation       algorithm                   seconds                                                       row
=============== ==========================  ============================================================= ===
broadcast       tree                        L (alpha + n beta)                                            C1
broadcast       scatter-allgather           (L + p-1) alpha + 2 (p-1) b beta                              C7
broadcast       linear-scatter-allgather    2 (p-1) alpha + 2 (p-1) b beta                                C7
reduce          tree                        L (alpha + n beta + n gamma)                                  C2
reduce          scatter-gather              (L + p-1) alpha + 2 (p-1) b beta + (p-1) b gamma              C8
scatter, gather tree                        L alpha + (p-1) b beta                                        C3
scatter, gather linear                      (p-1) alpha + (p-1) b beta                                    C3
allgather       exchange                    L alpha + (p-1) b beta                                        C5
allgather       ring                        (p-1) alpha + (p-1) b beta                                    C4
allgather       gather-broadcast            2 L alpha + ((p-1) b + L n) beta                              C5
reduce_scatter  exchange                    L alpha + (p-1) b (beta + gamma)                              C6
reduce_scatter  ring                        (p-1) alpha + (p-1) b (beta + gamma)                          C8
allreduce       exchange                    2 L alpha + 2 (p-1) b beta + (p-1) b gamma                    C8
allreduce       ring                        2 (p-1) alpha + 2 (p-1) b beta + (p-1) b gamma                C8
allreduce       tree                        L (2 alpha + 2 n beta + n gamma)                              C1+C2
allreduce       chain                       (p-1) (4 alpha + 4 b beta + 2 b gamma)                        -
=============== ==========================  ============================================================= ===

These are the corrected formulas: the lecture's long broadcast (p alpha + beta n (p-1)/p) counts each of its two halves
half, and its tree for sums adds n (p-1)/p words a round where the receiver adds n.

A graph on the simulator takes exactly this long where all blocks are equal (p divides n); for trees towards the root if
also p is a power of two. Otherwise it takes at most this long, as ranks that are free early send early and some
blocks are shorter than b; only where two phases follow each other can an early message of the second keep the port of a
late one of the first. A chain takes less: a rank adds one block while it receives the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

from tilewright.comm.schedule import algorithms, ceil_log2, named, schedule
from tilewright.keywords import strict
from tilewright.machine import A_MACHINE, NO_GAMMA, Machine
from tilewright.scalars import instance, whole
from tilewright.scalars import ranks as rank_count

__all__ = ["MACHINE", "Terms", "best", "cost", "lower_bound", "seconds", "terms"]

MACHINE = Machine(alpha=4.7e-6, beta=1.1e-9, gamma=2e-10)
"""Two ranks of one host, as measured when the project began: what "auto" plans with where no machine is given."""

LONGEST = 2**63 - 1
"""Words of a vector that an index can count."""

Round = tuple[float, float]
"""Words that the critical rank receives in a round, then flops before the next; (0, m) is computation alone."""


class Terms(NamedTuple):
    """How often alpha, beta and gamma count."""

    alpha: int
    beta: Fraction | int
    gamma: Fraction | int

    def seconds(self, machine: Machine) -> float:
        return float(self.alpha * machine.alpha + self.beta * machine.beta + self.gamma * _gamma(machine, self.gamma))


def _gamma(machine: Machine, flops: float | Fraction) -> float:
    return known_gamma(machine) if flops else machine.gamma or 0.0


def known_gamma(machine: Machine) -> float:
    """Seconds of a flop. ValueError if the machine does not say, TypeError if it is none."""
    instance(machine, "machine", Machine, A_MACHINE)
    if machine.gamma is None:
        raise ValueError(NO_GAMMA)
    return machine.gamma


# ------------------------------------------------------------------ closed forms

#              p, n, L = ceil(log2 p), m = (p - 1) ceil(n/p)
_FORMULAS: dict[tuple[str, str], Callable[[int, int, int, int], tuple[int, int, int]]] = {
    ("broadcast", "tree"):                     lambda p, n, L, m: (L, L * n, 0),
    ("broadcast", "scatter-allgather"):        lambda p, n, L, m: (L + p - 1, 2 * m, 0),
    ("broadcast", "linear-scatter-allgather"): lambda p, n, L, m: (2 * (p - 1), 2 * m, 0),
    ("reduce", "tree"):                        lambda p, n, L, m: (L, L * n, L * n),
    ("reduce", "scatter-gather"):              lambda p, n, L, m: (L + p - 1, 2 * m, m),
    ("scatter", "tree"):                       lambda p, n, L, m: (L, m, 0),
    ("scatter", "linear"):                     lambda p, n, L, m: (p - 1, m, 0),
    ("gather", "tree"):                        lambda p, n, L, m: (L, m, 0),
    ("gather", "linear"):                      lambda p, n, L, m: (p - 1, m, 0),
    ("allgather", "exchange"):                 lambda p, n, L, m: (L, m, 0),
    ("allgather", "ring"):                     lambda p, n, L, m: (p - 1, m, 0),
    ("allgather", "gather-broadcast"):         lambda p, n, L, m: (2 * L, m + L * n, 0),
    ("reduce_scatter", "exchange"):            lambda p, n, L, m: (L, m, m),
    ("reduce_scatter", "ring"):                lambda p, n, L, m: (p - 1, m, m),
    ("allreduce", "exchange"):                 lambda p, n, L, m: (2 * L, 2 * m, m),
    ("allreduce", "ring"):                     lambda p, n, L, m: (2 * (p - 1), 2 * m, m),
    ("allreduce", "tree"):                     lambda p, n, L, m: (2 * L, 2 * L * n, L * n),
    ("allreduce", "chain"):                    lambda p, n, L, m: (4 * (p - 1), 4 * m, 2 * m),
}  # fmt: skip


def _check(operation: str, algorithm: str, p: int, n: int) -> None:
    named(operation)
    rank_count(p, "p")
    whole(n, "n", 0, LONGEST)
    schedule(operation, algorithm, p, n)


@strict
def terms(operation: str, algorithm: str, p: int, n: int) -> Terms:
    """The closed form of the module's table.

    Parameters
    ----------
    operation
        A collective by the name of its function, such as ``"allreduce"``.
    algorithm
        One of its algorithms.
    p, n
        Ranks, and words of the vector.

    Returns
    -------
    terms : Terms
        Messages, words and flops on the way to the last rank; ``.seconds(machine)`` weighs them.

    Raises
    ------
    ValueError, TypeError
        Unknown names; p below 1, n below 0.

    Examples
    --------
    >>> from tilewright.comm import terms
    >>> terms("allreduce", "exchange", p=8, n=1000)
    Terms(alpha=6, beta=1750, gamma=875)
    """
    _check(operation, algorithm, p, n)
    return Terms(*_FORMULAS[named(operation), algorithm](p, n, ceil_log2(p), (p - 1) * -(-n // p)))


@strict
def lower_bound(operation: str, p: int, n: int) -> Terms:
    """The lecture's optimal complexity: no algorithm needs less of any of the three.

    Latency and bandwidth are bounds one by one; no algorithm need reach both.

    Parameters
    ----------
    operation
        A collective by the name of its function.
    p, n
        Ranks, and words of the vector.

    Returns
    -------
    terms : Terms

    Raises
    ------
    ValueError, TypeError
        Unknown operation; p below 1, n below 0.

    Examples
    --------
    >>> from tilewright.comm import lower_bound
    >>> lower_bound("reduce", p=4, n=100)
    Terms(alpha=2, beta=100, gamma=Fraction(75, 1))
    """
    operation = named(operation)
    whole(p, "p", 1)
    whole(n, "n", 0, LONGEST)
    L, part = ceil_log2(p), Fraction((p - 1) * n, p)
    if operation in ("broadcast", "reduce"):
        return Terms(L, n if p > 1 else 0, part if operation == "reduce" else 0)
    sums = operation in ("reduce_scatter", "allreduce")
    return Terms(L, 2 * part if operation == "allreduce" else part, part if sums else 0)


# ------------------------------------------------------------------ seconds


def rounds(operation: str, algorithm: str, p: int, n: int) -> Iterator[Round]:
    """The rounds of the critical rank, with full blocks: (words received, words added)."""
    block = -(-n // p)
    if p & (p - 1) and algorithm == "tree" and operation in ("scatter", "gather"):
        yield from ((words, 0) for words in _halves(p, block))  # counted at the root
        return
    for transfers in schedule(operation, algorithm, p, n if p == 1 else block * p):
        words = max(transfer.words for transfer in transfers)
        if words == block * p:
            words = n  # whole vectors are not cut
        yield words, words if transfers[0].add else 0


def _halves(p: int, block: int) -> Iterator[int]:
    while p > 1:
        yield p // 2 * block
        p -= p // 2


def seconds(parts: Iterable[Round], machine: Machine, start: float = 0.0) -> float:
    """The end of rounds that follow each other, added up in the order in which a clock passes through them."""
    time = start
    for words, flops in parts:
        if words or not flops:
            time += machine.alpha + machine.beta * words
        if flops:
            time += _gamma(machine, flops) * flops
    return time


@strict
def cost(operation: str, algorithm: str = "auto", *, p: int, n: int, machine: Machine) -> float:
    """Seconds of a collective on p ranks and n words.

    Parameters
    ----------
    operation
        ``"broadcast"``, ``"reduce"``, ``"scatter"``, ``"gather"``, ``"allgather"``, ``"reduce_scatter"`` or
        ``"allreduce"``.
    algorithm
        One of the module's table; ``"auto"`` is the cheapest.
    p, n
        Ranks, and words of the whole vector.
    machine
        ``alpha`` in seconds per message, ``beta`` in seconds per 8-byte word, ``gamma`` in seconds per flop.

    Returns
    -------
    Seconds: `terms` of the operation, with rounds added up as the simulator's clock passes through them.

    Raises
    ------
    ValueError
        Unknown operation or algorithm, p below 1, n below 0; sums on a machine without gamma.

    Examples
    --------
    >>> import tilewright as tw
    >>> machine = tw.Machine(alpha=1e-6, beta=1e-9, gamma=1e-9)
    >>> g = tw.comm.broadcast(ranks=8, n=10_000, algorithm="tree")
    >>> tw.simulate(g, machine).makespan == tw.comm.cost("broadcast", "tree", p=8, n=10_000, machine=machine)
    True
    """
    instance(machine, "machine", Machine, A_MACHINE)
    if isinstance(algorithm, str) and algorithm == "auto":
        algorithm = best(operation, p, n, machine)
    operation = named(operation)
    _check(operation, algorithm, p, n)
    return seconds(rounds(operation, algorithm, p, n), machine)


@strict
def best(operation: str, p: int, n: int, machine: Machine | None = None) -> str:
    """The cheapest algorithm by its closed form; of equals the first of the table. By default on `MACHINE`.

    Parameters
    ----------
    operation
        A collective by the name of its function.
    p, n
        Ranks, and words of the vector.
    machine
        What a message, a word and a flop cost.

    Returns
    -------
    algorithm : str

    Raises
    ------
    ValueError, TypeError
        Unknown operation; p below 1, n below 0.

    Examples
    --------
    >>> import tilewright as tw
    >>> machine = tw.Machine(alpha=1e-6, beta=1e-9, gamma=1e-10)
    >>> tw.comm.best("broadcast", 16, 10, machine), tw.comm.best("broadcast", 16, 10**7, machine)
    ('tree', 'scatter-allgather')
    """
    machine = MACHINE if machine is None else instance(machine, "machine", Machine, A_MACHINE)
    return min(algorithms(operation), key=lambda name: terms(operation, name, p, n).seconds(machine))
