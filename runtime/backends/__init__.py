"""Engines: ways to run a program. Each is imported when it is first used.

A backend module has one function::

    execute(program, policy, workers, progress) -> Trace

It runs every task of ``program.graph`` once, each after its predecessors, or raises what the first failing task
raised, with a note that names the task. It leaves no thread, process or file behind. A module with options, or with
more than one process, also has a function ``site(options)``: see `tilewright.backends.execution.engine`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from typing import Any

from tilewright.backends.execution.engine import Backend, Site, check_options
from tilewright.scalars import choice

__all__ = ["BACKENDS", "backend", "check_call", "find_site", "options_of"]

_MODULES = {
    "serial": "tilewright.backends.serial",
    "threads": "tilewright.backends.threads",
    "mpi": "tilewright.backends.mpi.engine",
    "dask": "tilewright.backends.dask.engine",
}

BACKENDS = tuple(_MODULES)
"""Names of the engines."""


def backend(name: str) -> Backend:
    """The engine of that name. ValueError lists the names there are."""
    if isinstance(name, str) and name == "simulate":
        raise ValueError("backend 'simulate' computes nothing; tw.simulate and tw.run return the predicted run")
    choice(name, "backend", BACKENDS)
    engine: Backend = importlib.import_module(_MODULES[name])
    return engine


_engine = backend  # where an argument has that name


def find_site(backend: str, options: Mapping[str, Any]) -> Site:
    """The site of a call with this backend and options of that backend.

    Raises
    ------
    ValueError
        Unknown backend, or a bad value of an option.
    TypeError
        The backend has no such option.
    """
    engine: Any = _engine(backend)
    if hasattr(engine, "site"):
        found: Site = engine.site(dict(options))
        return found
    check_options(backend, options, ())
    return Site(engine)


def check_call(call: Callable[..., Any], options: Mapping[str, Any], backend: Any, also: Iterable[str] = ()) -> None:
    """Refuse, in the name of a public call and before it works, ``**options`` that neither it nor its backend has.

    Parameters
    ----------
    call
        The function that was called, by its public name.
    options
        What it was given beyond its parameters.
    backend
        Its engine, or ``"simulate"``. One that is unknown is for others to refuse.
    also
        Options that the call hands on to others than the backend.

    Raises
    ------
    TypeError
        It names the options, and what may be meant by them: parameters of the call or options of the backend.
    """
    if (
        not options
        or not isinstance(backend, str)
        or backend not in (*BACKENDS, "simulate")
        or _collective(backend, options)
    ):
        return
    own = [p.name for p in signature(call).parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    check_options(backend, options, (*also, *options_of(backend)), own, call.__name__)


def _collective(backend: str, options: Mapping[str, Any]) -> bool:
    """Whether ranks make this call together: they have to refuse it together, and their site does."""
    if backend != "mpi":
        return False
    from tilewright.backends.mpi.options import is_rank

    return options.get("comm") is not None or is_rank()


def options_of(backend: str) -> tuple[str, ...]:
    """The options of an engine, or of the simulator."""
    if backend == "simulate":
        from tilewright.backends.simulate import OPTIONS

        return OPTIONS
    known: tuple[str, ...] = getattr(_engine(backend), "OPTIONS", ())
    return known
