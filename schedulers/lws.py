"""lws: locality work stealing [StarPU `lws`, PaRSEC `lfq`].

Tasks stay with the worker that made them ready, whose cache holds what they need. A worker takes its newest task;
when it has none it steals the oldest of its nearest neighbour, which is the one least likely to be in that
neighbour's cache.
"""

from __future__ import annotations

from tilewright.schedulers.stealing import Stealing

__all__ = ["LocalityWorkStealing"]


class LocalityWorkStealing(Stealing):
    """Victims by distance."""

    def victim(self, worker: int) -> int:
        """The nearest around the ring: w+1, w-1, w+2, ..."""
        up, down = self.after(worker), self.before(worker)
        return (worker + up if up <= down else worker - down) % len(self.deques)
