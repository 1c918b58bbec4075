"""A pool: ranks on this host that are started once and run many graphs."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from tilewright.backends.mpi.connection import Forget, Hello, Job, Listener, News, RemoteCall, Said
from tilewright.backends.mpi.deaths import Deaths
from tilewright.backends.mpi.launcher import (
    Launch,
    LaunchError,
    attached,
    brings_mpi,
    remove,
    require_mpi4py,
    shm_files,
    under_launcher,
)
from tilewright.backends.ranks.output import show
from tilewright.backends.ranks.pickling import dumps
from tilewright.backends.ranks.segments import Segment
from tilewright.errors import RankDied
from tilewright.keywords import strict
from tilewright.runs.progress import tell
from tilewright.scalars import plain
from tilewright.scalars import ranks as rank_count

if TYPE_CHECKING:
    from tilewright.backends.ranks.outcome import Outcome

__all__ = ["Pool", "active", "default"]

START = 60.0  # seconds for all ranks to connect
CLOSE = 5.0  # seconds for all ranks to end by themselves
keys = itertools.count()
"""For what is kept on ranks: see `Pool.forget`."""
GRACE = 5.0  # seconds for the other ranks to come out of a call that one of them left with an exception


@strict
class Pool:
    """``ranks`` processes under one mpiexec, kept warm between calls.

    Every rank has a connection of its own to this process, idle ranks sleep in it. They end with the pool, with its
    owner, or with each other, and leave nothing behind. Inside ``with Pool(...)`` all calls with ``backend="mpi"``
    that name no pool use this one. Threads may share it: their calls take turns. It can be neither pickled nor copied.

    Parameters
    ----------
    ranks
        How many; they may be more than there are cores.

    Raises
    ------
    ImportError
        mpi4py is not installed.
    LaunchError
        There is no mpiexec, the ranks do not come up within a minute, or they see a communicator of another size,
        because mpiexec and the MPI that mpi4py loads do not belong together.
    RuntimeError
        This process is a rank itself.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> with tw.mpi.Pool(1):
    ...     L = tw.tiled_cholesky(4 * np.eye(4), tile_size=2, backend="mpi")
    >>> L.diagonal()
    array([2., 2., 2., 2.])
    """

    def __init__(self, ranks: int) -> None:
        ranks = plain(ranks)
        if isinstance(ranks, bool) or not isinstance(ranks, int):
            raise TypeError(f"ranks must be an integer, not {ranks!r}")
        if ranks < 1:
            raise ValueError(f"a pool needs at least one rank, not {ranks}")
        rank_count(ranks)
        if under_launcher():
            raise RuntimeError("this process is a rank under mpiexec already; call with backend='mpi' on all ranks")
        require_mpi4py()
        self.ranks = ranks
        self._owner = os.getpid()
        self.scratch: Segment | None = None
        """Memory for the data of runs; its pages stay."""
        self.segments: weakref.WeakSet[Segment] = weakref.WeakSet()
        """Memory for data that stays between calls; ranks keep these mapped."""
        self.lock = threading.RLock()
        """Held during a run: one at a time."""
        self._busy = False
        self._poller: Any = None
        self._forgotten: list[int] = []
        self._connections: list[Connection] = []
        self._deaths = Deaths()
        self.pids: list[int] = []
        """Process ids by rank."""
        door = Listener()
        try:
            self._launch = Launch(ranks, "tilewright.backends.mpi.rank", door.environment)
            # Held by the finalizer alone, which also runs at exit.
            self._end = weakref.finalize(
                self, _end, os.getpid(), self._launch, self._connections, self.pids, self._deaths
            )
            self._welcome(door)
        except BaseException:
            if hasattr(self, "_end"):
                self.kill()
            self._deaths.close()
            raise
        finally:
            door.close()

    def _welcome(self, door: Listener) -> None:
        deadline = time.monotonic() + START

        def late() -> bool:
            return self._launch.ended or time.monotonic() > deadline

        def failed(what: str) -> LaunchError:
            said = self._launch.output() or "nothing"
            return LaunchError(f"{what} of {self.ranks} ranks; mpiexec said: {said}")

        for count in range(self.ranks):  # all, before any goes on: MPI lets none through alone
            connection = door.admit(late)
            if connection is None:
                raise failed(f"only {count} came up")
            self._connections.append(connection)
        hellos: dict[int, Hello] = {}
        arrived: dict[int, Connection] = {}
        for connection in self._connections:
            try:
                while not connection.poll(0.05):
                    if late():
                        raise failed(f"only {len(arrived)} found their MPI")
                hello: Hello = connection.recv()
            except (EOFError, OSError):
                raise failed(f"only {len(arrived)} found their MPI") from None
            if hello.problem:
                raise LaunchError(f"the ranks have no MPI: {hello.problem}; {brings_mpi()}")
            if hello.size != self.ranks:
                raise LaunchError(
                    f"mpiexec started {self.ranks} ranks, but rank {hello.rank} sees {hello.size}: mpiexec and the MPI "
                    f"that mpi4py loads do not belong together; install one of mpich, openmpi, impi-rt beside mpi4py"
                )
            hellos[hello.rank], arrived[hello.rank] = hello, connection
        self._connections[:] = [arrived[rank] for rank in range(self.ranks)]
        self.pids[:] = [hellos[rank].pid for rank in range(self.ranks)]
        for rank, connection in enumerate(self._connections):
            self._deaths.watch(rank, connection, self.pids[rank])
        self._launch.up = time.time()
        self._launch.files |= shm_files(self.pids)
        remove(attached(self._launch.files))

    # ------------------------------------------------------------ use

    def run(self, job: Job, progress: Callable[[int], object] | None) -> list[Outcome] | bytes:
        """What each rank tells of a run; or the frozen exception that they raised together before it.

        Raises
        ------
        RankDied
            A rank ended. The pool is over, and everything of it gone.
        RuntimeError
            The pool is closed.
        """
        with self._talk():
            return self._exchange(job, progress)

    def ask(self, requests: Sequence[Any]) -> list[Any]:
        """Send each rank its request, which may be pickled already; the answers by rank, bytes for a frozen exception.

        Raises as `run`; what is to be forgotten is forgotten first.
        """
        with self._talk():
            return self._ask(requests)

    @contextlib.contextmanager
    def _talk(self) -> Iterator[None]:
        """One talk with the ranks at a time; after one that broke off, the pool is over."""
        if os.getpid() != self._owner:
            raise RuntimeError(
                f"{self!r} belongs to process {self._owner}, of which this one is a fork; make another with "
                f"tw.mpi.Pool({self.ranks})"
            )
        with self.lock:
            if self.closed:
                raise RuntimeError(
                    "this pool is closed, and what was kept on its ranks is gone; make another with tw.mpi.Pool(...)"
                )
            if self._busy:  # the lock lets its own thread in again, from a function that is told progress
                raise RuntimeError(
                    f"{self!r} is in the middle of a run of this thread; wait for its end, or use another"
                )
            self._busy = True
            try:
                yield
            except BaseException:  # Ctrl-C too: ranks in the middle of a run are of no use
                self.kill()
                raise
            finally:
                self._busy = False
                self._flush()

    def _ask(self, requests: Sequence[Any]) -> list[Any]:
        for rank, (connection, request) in enumerate(zip(self._connections, requests, strict=True)):
            try:
                connection.send_bytes(request) if isinstance(request, bytes) else connection.send(request)
            except OSError:
                raise self._died(rank) from None
        answers: list[Any] = [None] * self.ranks
        if self._poller is None:  # `wait` would make a selector for every call
            self._poller = select.poll()
            for connection in self._connections:
                self._poller.register(connection.fileno(), select.POLLIN)
        rank_of = {connection.fileno(): rank for rank, connection in enumerate(self._connections)}
        left = self.ranks
        while left:
            for descriptor, _ in self._poller.poll():
                rank = rank_of[descriptor]
                try:
                    answer = self._connections[rank].recv()
                except (EOFError, OSError):
                    raise self._died(rank) from None
                if isinstance(answer, Said):
                    show(rank, *answer)
                    continue
                answers[rank] = answer
                left -= 1
        return answers

    def forget(self, key: int) -> None:
        """Free what the ranks keep under a key: now, or after the run that is going on. From any thread."""
        self._forgotten.append(key)
        if self.lock.acquire(blocking=False):
            try:
                self._flush()
            finally:
                self.lock.release()

    def _flush(self) -> None:
        if self._busy or not self._forgotten or self.closed:
            return
        keys = tuple(self._forgotten)
        del self._forgotten[: len(keys)]
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.send(Forget(keys))

    def call(self, function: str, *arguments: Any) -> list[Any]:
        """What ``function(comm, *arguments)`` returns on each rank; all ranks call it together.

        The function goes by name, ``"package.module:function"``, as its module may load MPI and this process must not.
        It may use ``comm``, a communicator of tilewright's own, and leaves no message under way. Arrays in `Segment`
        memory are passed as references; segments noted in `segments` stay mapped between calls.

        Raises
        ------
        Exception
            What it raised on some rank. If the others do not end within five seconds the pool is closed.
        RankDied, RuntimeError
            As `run`.
        """
        from tilewright.backends.ranks.outcome import thaw

        keep = {segment.serial for segment in self.segments} | ({self.scratch.serial} if self.scratch else set())
        call = RemoteCall(dumps((function, arguments)), sys.path, frozenset(keep))
        with self._talk():
            answers = self._exchange(call, None)
        if isinstance(answers, bytes):
            raise thaw(answers)
        return [answer for (answer,) in answers]

    def _exchange(self, job: Job | RemoteCall, progress: Callable[[int], object] | None) -> list[Any] | bytes:
        for rank, connection in enumerate(self._connections):
            try:
                connection.send(job)
            except OSError:
                raise self._died(rank) from None
        answers: dict[int, Any] = {}
        done = [0] * self.ranks
        while len(answers) < self.ranks:
            left = {c: r for r, c in enumerate(self._connections) if r not in answers}
            stuck = isinstance(job, RemoteCall) and any(isinstance(answer, bytes) for answer in answers.values())
            awake: list[Any] = wait(list(left), GRACE if stuck else None)
            if not awake:  # they wait for the one that failed
                self.kill()
                break
            for connection in awake:
                rank = left[connection]
                try:
                    answer = connection.recv()
                except (EOFError, OSError):
                    raise self._died(rank) from None
                if isinstance(answer, Said):
                    show(rank, *answer)
                elif isinstance(answer, News):
                    done[rank] = answer.done
                    if progress:
                        tell(progress, sum(done), lambda news: news.rows, answer)
                else:
                    answers[rank] = answer
        failed = next((answer for answer in answers.values() if isinstance(answer, bytes)), None)
        return failed if failed is not None else [answers[rank] for rank in range(self.ranks)]

    def _died(self, seen: int) -> RankDied:
        """The one that ended first: others may have fallen with it, and been seen before it."""
        first = self._deaths.first()
        rank = seen if first is None else first
        how = self._deaths.how(rank)
        return RankDied(rank, f"process {self.pids[rank]} ended{how}; the pool of {self.ranks} is closed")

    # ------------------------------------------------------------ end

    @property
    def closed(self) -> bool:
        return not self._end.alive

    def close(self) -> None:
        """End the ranks and wait for them. Harmless if they have ended."""
        self._end()
        self.scratch = None

    def kill(self) -> None:
        """End the ranks at once."""
        if self._end.detach():
            _kill(self._launch, self._connections, self.pids, self._deaths)
        self.scratch = None

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            f"a Pool is processes and can be neither pickled nor copied; make another with tw.mpi.Pool({self.ranks})"
        )

    def __enter__(self) -> Pool:
        _active.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        if self in _active:  # not in a fork that leaves the block as well
            _active.remove(self)
        self.close()

    def __repr__(self) -> str:
        return f"Pool({self.ranks}{', closed' if self.closed else ''})"


def _end(owner: int, launch: Launch, connections: list[Connection], pids: list[int], deaths: Deaths) -> None:
    if os.getpid() != owner:  # a fork of the owner has no say
        return
    for connection in connections:
        try:
            connection.send(None)
        except OSError:
            break
    else:
        launch.wait(CLOSE)
    _kill(launch, connections, pids, deaths)


def _kill(launch: Launch, connections: list[Connection], pids: list[int], deaths: Deaths) -> None:
    deaths.close()
    running = [] if launch.ended else pids
    launch.files |= shm_files(running)
    for connection in connections:  # without it a rank ends by itself, also one that has not said its process id
        connection.close()
    launch.kill(running)


# ------------------------------------------------------------------ which pool a call uses

_active: list[Pool] = []
_kept: dict[int, Pool] = {}
_choosing = threading.Lock()


_abroad: list[Any] = []  # pools of the process that this one is a fork of


def _forked() -> None:
    """Leave the pools alone: two processes cannot talk with the same ranks."""
    global _active, _kept, _choosing
    _abroad.extend((_active, _kept))
    _active, _kept, _choosing = [], {}, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def active() -> Pool | None:
    """The pool of the innermost ``with`` block, if any."""
    return _active[-1] if _active else None


def default(ranks: int) -> Pool:
    """The pool with so many ranks that stays between calls, until the end of this process; another if it was closed."""
    with _choosing:
        pool = _kept.get(ranks)
        if pool is None or pool.closed:
            pool = _kept[ranks] = Pool(ranks)
        return pool
