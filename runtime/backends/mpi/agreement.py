"""What the ranks of a call tell each other before anything runs: that all is well, and that they were called alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from mpi4py import MPI

from tilewright.backends.mpi.courier import calm
from tilewright.backends.ranks.outcome import freeze, thaw

__all__ = ["Agreement", "Clock", "agreement"]


class Clock(NamedTuple):
    """A host and its monotonic clock, which all its processes share."""

    host: str
    now: float


class Agreement:
    """Checks and facts that add up until the ranks exchange them.

    A rank that fails tells the others at once; those find out where they exchange. So it is one exchange for
    everybody, wherever it happened, as long as no other collective call stands between.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm = comm
        self.facts: dict[str, Any] = {}
        self.pending = False
        """Whether something was checked or noted here that others do not know of yet."""

    @contextmanager
    def block(self, *, exchange: bool = True) -> Iterator[dict[str, Any]]:
        """A block that all ranks pass together, or none. Collective, now or in a later block.

        What the block notes in the yielded dict has to be equal on all ranks (a `Clock` need not); after an exchange
        ``facts["everywhere"]`` has the notes of all.

        Raises
        ------
        Exception
            What the block raised here, or what it raised on the first other rank where it did.
        ValueError
            The ranks noted different things; the message names the first and who has which.
        """
        failure: BaseException | None = None
        facts = self.facts
        self.pending = True
        try:
            yield facts
        except BaseException as error:
            failure = error
        if failure is not None or exchange:
            self.facts, self.pending = {}, False
            facts["everywhere"] = _exchanged(self.comm, facts, failure)

    def settle(self) -> None:
        """Exchange what is pending: before another collective call."""
        if self.pending:
            with self.block():
                pass


def agreement(comm: MPI.Intracomm) -> Any:
    """One block that all ranks pass together, or none: `Agreement.block`. Collective."""
    return Agreement(comm).block()


def _exchanged(comm: MPI.Intracomm, facts: dict[str, Any], failure: BaseException | None) -> list[dict[str, Any]]:
    calm(comm.Ibarrier())
    everywhere = comm.allgather((None if failure is None else freeze(failure), facts))
    if failure is not None:
        raise failure
    for rank, (frozen, _) in enumerate(everywhere):
        if frozen is not None:
            theirs = thaw(frozen)
            theirs.add_note(f"raised on rank {rank}")
            raise theirs
    for name in dict.fromkeys(name for _, notes in everywhere for name in notes):
        values = [notes.get(name) for _, notes in everywhere]
        odd = next((rank for rank, value in enumerate(values) if value != values[0]), None)
        if odd is not None and not isinstance(values[0], Clock):
            raise ValueError(
                f"ranks were called with different {name}: {values[0]} on rank 0, {values[odd]} on rank {odd}; "
                f"give it in the call, the same on all ranks"
            )
    return [notes for _, notes in everywhere]
