"""Engines: ways to run a graph. Each is imported when it is first used.

An engine is a subclass of `tilewright.backends.execution.engine.Engine`, with a row in the table here. What a call
wants to know of an engine are attributes of that class, such as `Engine.in_process`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from typing import Any

from tilewright.backends.execution.engine import Engine, check_options
from tilewright.scalars import choice

__all__ = ["BACKENDS", "COMPUTING", "DEFAULT", "check_call", "engine_class", "find_engine", "named"]

_ENGINES = {
    "serial": "tilewright.backends.serial.Serial",
    "threads": "tilewright.backends.threads.Threads",
    "mpi": "tilewright.backends.mpi.engine.MpiPool",
    "dask": "tilewright.backends.dask.engine.Dask",
    "simulate": "tilewright.backends.simulate.Simulator",
}

BACKENDS = tuple(_ENGINES)
"""Names of the engines."""

COMPUTING = BACKENDS[:-1]
"""Those that compute; ``"simulate"`` only predicts."""


DEFAULT = "threads"
"""The engine of a call that names none."""


def named(backend: str | None) -> str:
    """The name of an engine, `DEFAULT` for None."""
    return DEFAULT if backend is None else backend


def engine_class(backend: str | None, *, computes: bool = False) -> type[Engine]:
    """The class of the engine of that name. ValueError lists the names there are, if need be of those that compute."""
    backend = named(backend)
    if computes and isinstance(backend, str) and backend in BACKENDS and backend not in COMPUTING:
        raise ValueError(f"backend {backend!r} computes nothing; tw.simulate and tw.run return the predicted run")
    choice(backend, "backend", COMPUTING if computes else BACKENDS)
    module, _, name = _ENGINES[backend].rpartition(".")
    found: type[Engine] = getattr(importlib.import_module(module), name)
    return found


def find_engine(backend: str | Engine | None, options: Mapping[str, Any], *, computes: bool = True) -> Engine:
    """The engine of a call with this backend and options of that backend. Made once a call, and handed on.

    Parameters
    ----------
    backend
        A name, or None; or the engine of a call around this one, which is returned.
    options
        Those of that backend; none for an engine that is there already.
    computes
        Refuse one that computes nothing.

    Raises
    ------
    ValueError
        Unknown backend, or a bad value of an option.
    TypeError
        The backend has no such option.
    """
    if isinstance(backend, Engine):
        check_options(backend.name, options, ())
        return backend
    return engine_class(backend, computes=computes).of(dict(options))


def check_call(
    call: Callable[..., Any],
    options: Mapping[str, Any],
    backend: Any,
    also: Iterable[str] = (),
    near: Iterable[str] = (),
) -> None:
    """Refuse, in the name of a public call and before it works, ``**options`` that neither it nor its backend has.

    Parameters
    ----------
    call
        The function that was called, by its public name.
    options
        What it was given beyond its parameters.
    backend
        Its engine. One that is unknown is for others to refuse.
    also
        Options that the call hands on to others than the backend.
    near
        Other keywords of the call, which may be meant.

    Raises
    ------
    TypeError
        It names the options, and what may be meant by them: parameters of the call or options of the backend.
    """
    backend = named(backend)
    if not options or not isinstance(backend, str) or backend not in BACKENDS:
        return
    engine = engine_class(backend)
    if engine.together(options):
        return
    own = [p.name for p in signature(call).parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    check_options(backend, options, (*also, *engine.options), [*own, *near], call.__name__)
