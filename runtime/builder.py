"""Functions that build a graph, and what goes with the graph: name, recipe, cache, levels, sizes. Said in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache, update_wrapper
from inspect import BoundArguments, signature
from typing import Any, Concatenate, ParamSpec, cast

from tilewright.door import upstairs
from tilewright.graph import DeferredGraph, Layout, Task, TaskGraph
from tilewright.host.garbage import uncollected
from tilewright.scalars import plain, positive

__all__ = ["MANY", "graph_builder"]

P = ParamSpec("P")

MANY = 5_000
"""Tasks from which on a graph is planned from its loops, if it has such; to record them takes some milliseconds."""


def graph_builder(
    name: str | Callable[..., str],
    *,
    cache: int | None = None,
    levels: Callable[..., float] | None = None,
    known: Callable[..., bool] | None = None,
    layout: Callable[..., Layout | None] | None = None,
    extents: Callable[..., Mapping[str, tuple[int, int]]] | None = None,
    tasks: Callable[..., float] | None = None,
) -> Callable[[Callable[Concatenate[TaskGraph, P], TaskGraph | None]], Callable[P, TaskGraph]]:
    """Make a function that inserts tasks into a graph one that returns a graph.

    The function gets an empty graph first, then the arguments of the call, and returns None; or, such as after a pass,
    another graph, whose name then stays. The graph travels to other processes as this call, so the function is one of
    a module, and equal arguments make equal graphs. What is said here holds until somebody inserts more tasks.

    Parameters
    ----------
    name
        The graph's name, in which fields such as ``{nt}`` are arguments of the call; or a function of them.
    cache
        How many graphs are kept, to be returned again for the same arguments; who gets one inserts nothing.
    levels
        ``levels(task, *arguments)``: the length of the longest path from a task to the end, in units of `Op.weight`,
        where the algorithm's author knows a formula.
    known
        ``known(*arguments)``: whether there is that formula for these; else there is for all.
    layout
        ``layout(*arguments)``: where the handles live, if the graph says so: `TaskGraph.layout`.
    extents
        ``extents(*arguments)``: tile rows and columns of the matrices it works on, by name; data is checked with it.
    tasks
        ``tasks(*arguments)``: about how many tasks there are. Where that is `MANY` and the loops are such as
        `tilewright.passes.loops` knows, they are recorded, and the tasks made when somebody asks for one.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> from tilewright.builder import graph_builder
    >>> def halve(x):
    ...     x /= 2
    >>> @graph_builder("halve {n} times")
    ... def halving_graph(g, n):
    ...     for _ in range(n):
    ...         g.insert(halve, tw.RW(g.handle("x")))
    >>> halving_graph(3)
    TaskGraph('halve 3 times', 3 tasks)
    """
    if cache is not None:
        positive(cache, "cache of a graph_builder")

    def decorate(function: Callable[Concatenate[TaskGraph, P], TaskGraph | None]) -> Callable[P, TaskGraph]:
        parameters = signature(function)

        def title(bound: BoundArguments) -> str:
            bound.apply_defaults()
            named = dict(list(bound.arguments.items())[1:])
            return name.format_map(named) if isinstance(name, str) else name(*bound.args[1:])

        def formula(values: tuple[Any, ...]) -> Callable[[Task], float] | None:
            if levels is None or not (known is None or known(*values)):
                return None
            return lambda task: levels(task, *values)

        def many(values: tuple[Any, ...]) -> bool:
            assert tasks is not None
            with suppress(ArithmeticError, TypeError, ValueError):  # the function says what is wrong with an argument
                return bool(tasks(*values) >= MANY)
            return False

        def deferred(called: str, values: tuple[Any, ...]) -> TaskGraph | None:
            loops, insert = upstairs("passes.loops:recorded")(call, values), cast("Callable[..., object]", function)
            return None if loops is None else DeferredGraph(called, loops, lambda g: insert(g, *values))

        def build(*args: P.args, **kwargs: P.kwargs) -> TaskGraph:
            bound = parameters.bind(None, *map(plain, args), **{name: plain(value) for name, value in kwargs.items()})
            called = title(bound)
            values: tuple[Any, ...] = bound.args[1:]
            graph = deferred(called, values) if tasks is not None and many(values) else None
            if graph is None:
                graph = TaskGraph(called)
                with uncollected():
                    made = function(graph, *bound.args[1:], **bound.kwargs)
                graph = graph if made is None else made
            form = formula(values)
            if form is not None:
                graph.closed_form = form
            if layout is not None:
                graph.layout = layout(*values)
            if extents is not None:
                graph.extents = dict(extents(*values))
            graph.recipe = call, values
            return graph

        call: Any = build if cache is None else lru_cache(maxsize=cache)(build)
        update_wrapper(call, function)
        call.loop, call.formula = function, formula  # for `tilewright.passes.loops`
        call.title = lambda *args: title(parameters.bind(None, *args))
        call.__signature__ = parameters.replace(parameters=list(parameters.parameters.values())[1:])
        return call

    return decorate
