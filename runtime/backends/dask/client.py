"""Which cluster a call uses: the user's `distributed.Client`, or a kept `LocalCluster`; and whether it is fit for use.

A fit cluster has workers, and they and the scheduler can import this version of tilewright. Every wait has a limit.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import multiprocessing
import os
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from tilewright.backends.dask import serializers
from tilewright.backends.dask.rank import TOPIC
from tilewright.backends.execution.nested import refuse
from tilewright.backends.ranks import lending
from tilewright.errors import WorkerDied
from tilewright.extras import brings
from tilewright.host.files import largest, private_folder
from tilewright.units import nbytes

if TYPE_CHECKING:
    from distributed import Client, Future
    from distributed.security import Security

__all__ = [
    "Ranks",
    "WorkerInfo",
    "check",
    "choose",
    "close",
    "ended",
    "kept",
    "kept_client",
    "make_current",
    "ranks_of",
    "refuse_tasks",
    "require_dask",
    "seen",
    "wait_for_workers",
    "workers_of",
]

ROOM = 0.6
"""Share of a worker's memory limit that data may take; Dask begins to spill there."""


def require_dask() -> None:
    """ImportError with the way to get Dask, if it is missing."""
    missing = [name for name in ("dask", "distributed") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"backend 'dask' needs {' and '.join(missing)}, which is not installed; {brings('dask')}")


class WorkerInfo(NamedTuple):
    """One Dask worker."""

    address: str
    threads: int
    memory: int
    """Limit in bytes; 0 for none."""


class Ranks(NamedTuple):
    """The Dask workers of one run, by rank."""

    members: tuple[WorkerInfo, ...]
    workers: int
    """Threads of each."""

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(member.address for member in self.members)


# ------------------------------------------------------------------ which client


def choose(client: Any, workers: int) -> Client:
    """The client that was passed, else the user's current one, else that of the kept cluster with ``workers`` workers.

    Raises
    ------
    TypeError
        Not a `distributed.Client`.
    ValueError
        The client is closed or asynchronous.
    """
    require_dask()
    from distributed import Client

    if client is None:
        client = _current() or (_kept if _kept in _abroad else None)
    if client in _abroad:
        raise RuntimeError(
            "this process is a fork of the one whose Dask client this is, and the client's threads are not here; "
            "make the fork before the first use of Dask, or start the process with the method spawn"
        )
    if client is None:
        return kept(workers)
    if not isinstance(client, Client):
        raise TypeError(f"client must be a distributed.Client, not {type(client).__name__}")
    if client.status != "running":
        raise ValueError(f"the Dask client is {client.status}; pass one that is connected")
    if client.asynchronous:
        raise ValueError(
            "the Dask client is asynchronous; backend 'dask' waits for its results, so it needs "
            "Client(..., asynchronous=False)"
        )
    return client


def _current() -> Client | None:
    """The client the user works with, as Dask's own collections see it."""
    if "distributed" not in sys.modules:
        return None
    from distributed import default_client

    try:
        return default_client()
    except ValueError:
        return None


# ------------------------------------------------------------------ the kept cluster

_kept: Client | None = None
_keeping = threading.Lock()

START = 60.0  # seconds for workers of the kept cluster to come up


def kept(workers: int) -> Client:
    """The client of a LocalCluster of one-thread workers that stays until the process ends; grows as asked.

    RuntimeError in a daemonic process, such as a worker of a multiprocessing pool: it may not start others. OSError
    where this process may not open as many files as that takes.
    """
    global _kept
    with _keeping:
        client = _kept
        if client is not None and client.status != "running":
            client = None  # closed by the user
        if client is None:
            if multiprocessing.current_process().daemon:
                raise RuntimeError(
                    "this process is a daemon, which may not have children, so backend 'dask' cannot start workers "
                    "here; pass client=, or use backend='threads', or start this process with daemon=False"
                )
            _check_open_files(_FILES + workers * _FILES_OF_A_WORKER, workers)
            _check_size_of_files()
            client = _start(workers)
            _kept = client
        missing = workers - len(workers_of(client))
        if missing > 0:
            _check_open_files(missing * _FILES_OF_A_WORKER, workers)
            with _our_way():
                client.cluster.scale(workers)
                client.wait_for_workers(workers, timeout=START)
        return client


_FILES, _FILES_OF_A_WORKER = 16, 12
"""What this process has open for a scheduler and a client, and for each worker, as counted in ``/proc/self/fd``."""


def _check_open_files(more: int, workers: int) -> None:
    """OSError where the system lets this process open fewer files than that: Dask would end half started."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        there = len(os.listdir("/proc/self/fd"))
    except (ImportError, OSError):
        return
    if limit != resource.RLIM_INFINITY and there + more > limit:
        raise OSError(
            24,
            f"{workers} Dask workers need some {there + more} open files in this process, which may have {limit}: "
            f"raise the limit (ulimit -n), use fewer workers, or backend='threads'",
        )


_WRITTEN = 1 << 16
"""Bytes of the largest file that Dask writes as it starts, and some more."""


def _check_size_of_files() -> None:
    """OSError where Dask may not write the files that it begins with."""
    limit = largest()
    if limit is not None and limit < _WRITTEN:
        raise OSError(
            27,
            f"a Dask cluster writes files of up to {nbytes(_WRITTEN)} as it starts, and this process may write none "
            f"above {nbytes(limit)}: raise the limit (ulimit -f), or take backend='threads'",
        )


_owner = -1
_abroad: list[Any] = []  # clients of the process that this one is a fork of


def _forked() -> None:
    """Note the clients that have lost their threads. Another cluster of this process would wait for them too."""
    global _keeping
    _keeping = threading.Lock()
    _abroad.extend(client for client in (_kept, _current()) if client is not None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def kept_client() -> Client | None:
    """The client of the kept cluster, if there is one now."""
    return _kept


def make_current(client: Client) -> None:
    """Compute Dask's collections on it from now on, as on a `distributed.Client` that the user starts."""
    from distributed.client import _get_global_client, _set_global_client

    if _get_global_client() is not client:
        _set_global_client(client)


def _start(workers: int) -> Client:
    global _owner
    from distributed import Client, LocalCluster

    from tilewright.backends.dask.nanny import Keeper

    with _our_way():
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            worker_class=Keeper,
            silence_logs=logging.CRITICAL,
            host=LOOPBACK,
            security=_keys(),
            dashboard_address=f"{LOOPBACK}:0",  # without, it asks for port 8787
            scheduler_kwargs={"dashboard": False},
        )
        client = Client(cluster, set_as_default=False)
    _owner = os.getpid()
    return client


LOOPBACK = "127.0.0.1"

_BEFORE = "distributed.nanny.pre-spawn-environ"
_SETTINGS: dict[str, Any] = {
    "distributed.scheduler.work-stealing": False,
    "distributed.comm.compression": None,
    "distributed.scheduler.http.routes": ["distributed.http.health"],  # whoever is on this computer may read them
    "distributed.worker.http.routes": ["distributed.http.health"],
    f"{_BEFORE}.OMP_NUM_THREADS": 1,
    f"{_BEFORE}.MKL_NUM_THREADS": 1,
    f"{_BEFORE}.OPENBLAS_NUM_THREADS": 1,
    f"{_BEFORE}.PYTHONSAFEPATH": 1,  # import nothing from the current folder
}


@contextmanager
def _our_way() -> Iterator[None]:
    """A block in which workers of the kept cluster are started, with our settings, and this process stays as it is.

    Dask keeps what workers spill, and looks for modules first, in a folder of a name that anybody can guess, and takes
    one that another user has made. So ours is in one that is this user's alone; nannies put it before all in the
    ``sys.path`` of this process, from which it goes again.
    """
    import dask

    scratch = private_folder(dask.config.get("temporary-directory", None) or tempfile.gettempdir())
    with dask.config.set(_SETTINGS | {"temporary-directory": str(scratch)}):
        changed = {"PYTHONHASHSEED", *dask.config.get(_BEFORE)}  # a nanny sets them here, for its worker to inherit
        before = {name: os.environ.get(name) for name in changed}
        os.environ["PYTHONSAFEPATH"] = "1"  # multiprocessing has a helper process, which is started first
        try:
            yield
        finally:
            sys.path[:] = [entry for entry in sys.path if not entry.startswith(str(scratch))]
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _keys() -> Security:
    """Keys made for this cluster, held in memory: who has none can neither connect nor read what goes over the wire.

    Without them any user of this computer could have a worker run code in our name.
    """
    from distributed.security import Security

    if importlib.util.find_spec("cryptography") is None:
        raise ImportError(
            f"a Dask cluster of one's own needs cryptography, for keys that keep other users out; "
            f"{brings('dask')}; or pass client="
        )
    return Security.temporary()


def close() -> None:
    """End the kept cluster, if there is one. Dask ends it with the process in any case."""
    global _kept
    with _keeping:
        client, _kept = _kept, None
        if client is not None and _owner == os.getpid():
            cluster = client.cluster
            client.close()
            with contextlib.suppress(KeyError):  # of Dask, where a worker goes of which the cluster has not heard yet
                cluster.close()


class SchedulerClock:
    """How busy the scheduler is from now on."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.began = time.perf_counter()
        self.busy: float = client.run_on_scheduler(time.thread_time)

    def share(self) -> float:
        """Processor time of the scheduler's thread, as a share of the time that passed."""
        busy = self.client.run_on_scheduler(time.thread_time) - self.busy
        return busy / (time.perf_counter() - self.began)


class Bulletin:
    """What workers tell while runs go on, by run. One subscription for each client: Dask keeps them for good."""

    def __init__(self, client: Client) -> None:
        self.readers: dict[str, Callable[[dict[str, Any]], None]] = {}
        client.subscribe_topic(TOPIC, self.hear)

    def hear(self, event: Any) -> None:
        """Pass on an event; on the client's event loop."""
        reader = self.readers.get(event[1]["run"])
        if reader is not None:
            reader(event[1])

    @contextmanager
    def read(self, run: str, reader: Callable[[dict[str, Any]], None]) -> Iterator[None]:
        """A block in which ``reader`` gets what is told of a run."""
        self.readers[run] = reader
        try:
            yield
        finally:
            del self.readers[run]


_bulletins: weakref.WeakKeyDictionary[Client, Bulletin] = weakref.WeakKeyDictionary()


def bulletin(client: Client) -> Bulletin:
    """The bulletin of a client."""
    if client not in _bulletins:
        _bulletins[client] = Bulletin(client)
    return _bulletins[client]


# ------------------------------------------------------------------ fit for use


def workers_of(client: Client) -> dict[str, Any]:
    """What the scheduler knows of each worker, by address."""
    found: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]  # some versions name only five of them
    return found


DEMAND = 10  # tasks for which Dask starts one thread: it guesses 0.5 s for each, and wants 5 s of work for a thread


def wait_for_workers(client: Client, timeout: float, workers: int | None = None) -> list[WorkerInfo]:
    """The workers there are, in order of address.

    Where there is none, an adaptive cluster is made to start some: as many as have ``workers`` threads, or one.

    Raises
    ------
    TimeoutError
        There is none after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    demand: list[Future] = []
    while True:
        ready = [
            WorkerInfo(address, facts["nthreads"], facts["memory_limit"] or 0)
            for address, facts in workers_of(client).items()
            if facts.get("status") in (None, "running")
        ]
        enough = sum(member.threads for member in ready) >= (workers or 1)
        late = time.monotonic() > deadline
        if ready and (enough or late or not demand):
            return sorted(ready)
        if late:
            raise TimeoutError(
                f"the Dask cluster at {client.scheduler.address} has no running worker after {timeout:g} s; start "
                f"some, or pass timeout= to wait longer"
            )
        if not demand:  # under a name of its own, or Dask knows how long such tasks take
            demand = client.map(abs, range(DEMAND * (workers or 1)), key=f"demand{uuid4().hex}", pure=False)
        time.sleep(0.05)


def ended(client: Client, futures: list[Future], seconds: float) -> bool:
    """Whether all end within some seconds."""
    from distributed import wait

    try:
        with client.as_current():
            wait(futures, timeout=seconds)
    except TimeoutError as error:
        # Dask keeps it in a cycle with its frames, and so with all data of the callers, until the garbage is collected.
        error.__traceback__ = error.__context__ = error.__cause__ = None
        return False
    return True


def ranks_of(found: list[WorkerInfo], workers: int | None) -> Ranks:
    """The ranks for ``workers`` threads in all: as few Dask workers as have them, the same number on each.

    Raises
    ------
    ValueError
        The cluster has fewer threads, or they cannot be had in equal shares.
    """
    most = min(member.threads for member in found)
    if workers is None:
        return Ranks(tuple(found), most)
    if workers > most * len(found):
        raise ValueError(
            f"workers={workers}, but the Dask cluster has {len(found)} workers of {most} "
            f"{'thread' if most == 1 else 'threads'}"
        )
    share = next((s for s in range(most, 0, -1) if workers % s == 0 and workers // s <= len(found)), 0)
    if not share:
        raise ValueError(
            f"workers={workers} cannot be had in equal shares on {len(found)} Dask workers of {most} threads"
        )
    return Ranks(tuple(found[: workers // share]), share)


_fit: weakref.WeakKeyDictionary[Client, dict[str, bool]] = weakref.WeakKeyDictionary()
"""By client: what was checked, and whether it and this process see each other's memory."""


def seen(client: Client, address: str) -> bool:
    """Whether this process and a worker, after `check`, read each other's memory."""
    return _fit[client][address]


def refuse_tasks() -> None:
    """RuntimeError in a task of Dask: it would wait for workers while it holds a thread of one."""
    refuse("dask")
    worker = sys.modules.get("distributed.worker")
    if worker is not None and hasattr(worker.thread_state, "execution_state"):
        raise RuntimeError(
            "this is a task on a Dask worker; backend 'dask' would wait there for workers, and the task holds one of "
            "their threads; use backend='threads' in tasks, or make this call where the client is"
        )


def check(client: Client, addresses: tuple[str, ...]) -> None:
    """Make sure, once for each, that workers and scheduler have this tilewright; find out whose memory is here.

    Raises
    ------
    RuntimeError
        Some cannot import it, or have another version.
    WorkerDied
        One of them left meanwhile.
    """
    serializers.install()
    known = _fit.setdefault(client, {})
    new = [address for address in addresses if address not in known]
    if not new:
        return
    ours = version("tilewright")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Dask warns about versions of packages that do not matter here
        try:
            found: dict[str, tuple[str, Any]] = dict(client.run(_prepare, lending.probe(), workers=new))
        except (KeyError, OSError) as error:
            raise WorkerDied(", ".join(new), f"it left the cluster ({error})") from None
        if "the scheduler" not in known:
            found["the scheduler"] = client.run_on_scheduler(_find), None
    for address, (theirs, _) in found.items():
        if theirs != ours:
            has = f"has version {theirs}" if theirs[:1].isdigit() else f"cannot import it ({theirs})"
            raise RuntimeError(
                f"{address} of the Dask cluster {has}, and this process has tilewright {ours}; install the same "
                f"tilewright on all machines of the cluster"
            )
    known.update((address, lending.sees(probe)) for address, (_, probe) in found.items())


def _prepare(caller: Any, dask_worker: Any = None) -> tuple[str, Any]:
    """The version here, and a probe if this process sees the caller."""
    try:
        from tilewright.backends.dask import rank
        from tilewright.backends.ranks import lending
    except Exception as error:
        return f"{type(error).__name__}: {error}", None
    rank.inbox(dask_worker)
    return version("tilewright"), lending.probe() if lending.sees(caller) else None


def _find() -> str:
    try:
        return str(importlib.import_module("tilewright").__version__)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


for _function in (_prepare, _find):
    _function.__module__ = "__main__"  # so that they travel by value, to machines without tilewright too
