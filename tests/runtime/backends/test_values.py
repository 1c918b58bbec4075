"""What a handle may have, and what a task may return: the same on every engine.

All cases of one kind stand in one graph, so that an engine is asked once.
"""

import copy
import datetime
from functools import lru_cache, partial

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import tilewright as tw
from tilewright import RW, Handle, R, TaskGraph, W

pytestmark = pytest.mark.long

ENGINES = {
    "serial": {"backend": "serial"},
    "threads": {"backend": "threads", "workers": 2},
    "mpi": {"backend": "mpi", "workers": 2},
    "dask": {"backend": "dask", "workers": 2},
    "dask tasks": {"backend": "dask", "workers": 2, "mode": "tasks"},
}
engines = pytest.mark.parametrize("engine", ENGINES)
SPREAD = {"a": 0, "b": 1, "c": 0, "d": 1}
"""Owners by the first letter of a name, so that values travel."""


def run(engine, graph, data):
    """A run with the values by name; those of the ranks and of the caller apart."""
    options = dict(ENGINES[engine])
    if options["backend"] in ("mpi", "dask"):
        options["owner"] = {name: SPREAD[name[0]] for name in {handle.name for handle in graph.handles_used}}
    done = tw.run(graph, data, **options)
    done.trace.check()
    return done


# ------------------------------------------------------------------ values of every kind


def same(x, y):
    return x


def change(x):
    """Add one in place, or what comes next to it."""
    if isinstance(x, list):
        x.append(1)
    elif isinstance(x, dict):
        x["n"] = x.get("n", 0) + 1
    elif isinstance(x, bytearray):
        x.append(7)
    elif isinstance(x, set):
        x.add(len(x) + 10)
    elif sp.issparse(x):
        x.data += 1
    elif isinstance(x, np.recarray):
        x["b"] += 1
    else:
        x += 1


MUTABLE = {
    "plain": np.arange(6.0).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "turned": np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
    "backwards": np.arange(5.0)[::-1],
    "0-d": np.array(2.0),
    "empty": np.zeros((0, 3)),
    "half": np.ones(2, "f2"),
    "long": np.ones(2, "g"),
    "big-endian": np.ones(2, ">f8"),
    "objects": np.array([1, 2], object),
    "masked": np.ma.array([1.0, 2.0], mask=[False, True]),
    "matrix": np.matrix([[1.0, 2.0]]),
    "records": np.rec.array([(1, 2.0)], names="a,b"),
    "tensor": torch.arange(6.0).view(2, 3).T,
    "bf16": torch.ones(2).bfloat16(),
    "conjugate": torch.tensor([1 + 2j]).conj(),
    "sparse": sp.eye_array(3).tocsr(),
    "list": [5, [6]],
    "dict": {"n": 1},
    "set": {1},
    "bytes": bytearray(b"a"),
}
FIXED = {
    "int": 3,
    "float": np.float32(1.5),
    "text": "abc",
    "none in": (None, 1),
    "tuple": (1, (2, 3)),
    "date": datetime.date(2020, 1, 1),
    "strings": np.array(["a", "bcd"]),
    "days": np.array(["2020-01-01"], "M8[D]"),
    "record": np.zeros(2, [("a", "f8"), ("b", "i2")]),
}


def plain(value):
    """What a value is made of, with its type, in what compares."""
    kind = type(value).__name__
    if isinstance(value, torch.Tensor):
        return kind, value.dtype, value.shape, value.resolve_conj().tolist()
    if sp.issparse(value):
        return kind, value.toarray().tolist()
    if isinstance(value, np.ma.MaskedArray):
        return kind, value.mask.tolist(), value.filled(0).tolist()
    if isinstance(value, np.ndarray):
        return kind, value.dtype, value.shape, value.tolist()
    return kind, value


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@engines
def test_values_of_every_kind_are_read_returned_and_changed_in_place(engine):
    graph, data, wanted = TaskGraph(), {}, {}
    for name, value in {**MUTABLE, **FIXED}.items():
        a, b, c = (graph.handle(f"{letter} {name}") for letter in "abc")
        graph.insert(same, R(a), W(b))
        data[a.name] = copy.deepcopy(value)
        wanted[b.name] = value
        if name in MUTABLE:
            graph.insert(change, RW(a))
            graph.insert(change, RW(a))
            graph.insert(same, R(a), W(c))
            graph.insert(change, RW(c))
            twice, thrice = copy.deepcopy(value), copy.deepcopy(value)
            for other, times in ((twice, 2), (thrice, 3)):
                for _ in range(times):
                    change(other)
            wanted[a.name], wanted[c.name] = twice, thrice
    done = run(engine, graph, data)
    assert {name: plain(done[name]) for name in wanted} == {name: plain(value) for name, value in wanted.items()}


# ------------------------------------------------------------------ values that somebody else has too


def tail(x, y):
    return x[1:]


def boxed(x, y):
    return {"x": x}


def unboxed(x, y):
    return x["x"]


def twice(x, y):
    found = np.zeros(2)
    return found, found


def windows(x, y):
    found = np.zeros(4)
    return found[:3], found[1:]


def empty_lists(x, y):
    found = []
    return found, found


def exchanged(x, y):
    return y, x


def moved(x, y):
    return y, 2 * y


@lru_cache
def template(n):
    return np.zeros(n)


def from_template(x):
    return template(2)


def shares(x, y):
    return sp.csr_array((x.data, x.indices, x.indptr), shape=x.shape)


@engines
def test_what_a_task_returns_is_its_handle_s_alone(engine):
    graph, data, wanted = TaskGraph(), {}, {}

    def case(name, *steps, given=(), leads_to):
        """Steps of (function, accesses by letter), on handles of their own."""
        for function, *uses in steps:
            graph.insert(function, *(access(Handle(f"{letter} {name}")) for access, letter in uses))
        data.update({f"{letter} {name}": value for letter, value in dict(given).items()})
        wanted.update({f"{letter} {name}": value for letter, value in leads_to.items()})

    ones, turns = partial(np.ones, 3), partial(torch.ones, 3)
    for kind, make in (("array", ones), ("tensor", turns)):
        case(f"view of {kind}", (tail, (R, "a"), (W, "b")), (change, (RW, "b")), given={"a": make()},
             leads_to={"a": [1, 1, 1], "b": [2, 2]})  # fmt: skip
        case(f"{kind} in a box", (boxed, (R, "a"), (W, "b")), (unboxed, (R, "b"), (W, "c")), (change, (RW, "c")),
             given={"a": make()}, leads_to={"a": [1, 1, 1], "c": [2, 2, 2]})  # fmt: skip
    case("list", (same, (R, "a"), (W, "b")), (change, (RW, "b")), given={"a": [5]}, leads_to={"a": [5], "b": [5, 1]})
    case("sparse", (shares, (R, "a"), (W, "b")), (change, (RW, "b")), given={"a": sp.csr_array([[1.0, 2.0]])},
         leads_to={"a": [[1, 2]], "b": [[2, 3]]})  # fmt: skip
    case("one array twice", (twice, (W, "a"), (W, "c")), (change, (RW, "a")), leads_to={"a": [1, 1], "c": [0, 0]})
    case("windows", (windows, (W, "a"), (W, "c")), (change, (RW, "a")), leads_to={"a": [1] * 3, "c": [0] * 3})
    case("one list twice", (empty_lists, (W, "a"), (W, "c")), (change, (RW, "a")), leads_to={"a": [1], "c": []})
    case("exchanged", (exchanged, (RW, "a"), (RW, "c")), (change, (RW, "a")), (exchanged, (RW, "a"), (RW, "c")),
         given={"a": np.zeros(1), "c": np.full(1, 5.0)}, leads_to={"a": [0], "c": [6]})  # fmt: skip
    case("moved", (moved, (RW, "a"), (RW, "c")), (change, (RW, "a")), (change, (RW, "c")),
         given={"a": np.zeros(1), "c": np.full(1, 5.0)}, leads_to={"a": [6], "c": [11]})  # fmt: skip
    case("kept for the next call", (from_template, (W, "a")), (from_template, (W, "b")), (change, (RW, "a")),
         (from_template, (W, "c")), leads_to={"a": [1, 1], "b": [0, 0], "c": [0, 0]})  # fmt: skip
    done = run(engine, graph, data)
    found = {name: done[name].toarray() if sp.issparse(done[name]) else done[name] for name in wanted}
    assert {name: value if type(value) is list else value.tolist() for name, value in found.items()} == wanted
    template.cache_clear()


# ------------------------------------------------------------------ handles, places and functions


def doubled_into(x, y):
    x[...] = 2 * y


def scaled(group, factor):
    group[0] += 1
    group[1] *= factor


@engines
def test_a_task_that_has_a_handle_twice_reads_what_was_there(engine):
    graph = TaskGraph()
    a, b, c, d = map(graph.handle, "abcd")
    graph.insert(doubled_into, W(a), R(a))
    graph.insert(lambda y, x: doubled_into(x, y), R(b), W(b), on=np.int64(0))  # not where it lives
    graph.insert(scaled, [RW(c), RW(c)], 3)
    graph.insert(same, R(a), W(d))
    assert list(graph.inputs) == [a, b, c]
    done = run(engine, graph, {name: np.ones(2) for name in "abc"})
    assert {name: done[name].tolist() for name in "abcd"} == {"a": [2, 2], "b": [2, 2], "c": [6, 6], "d": [2, 2]}


@engines
def test_a_function_with_a_cache_that_no_module_has_is_sent_as_code(engine):
    @lru_cache
    def square(n):
        return n * n

    def nine(x):
        x += square(3)

    graph = TaskGraph()
    graph.insert(nine, RW(graph.handle("b")))
    assert run(engine, graph, {"b": np.zeros(1)})["b"].tolist() == [9]


class Unreadable:
    """What can be sent and not be read."""

    def __reduce__(self):
        return divmod, (1, 0)


@pytest.mark.parametrize("engine", ["mpi", "dask", "dask tasks"])
def test_what_a_rank_cannot_read_is_an_error_and_nobody_waits(engine):
    graph = TaskGraph()
    graph.insert(same, R(graph.handle("a")), Unreadable())
    with pytest.raises(ZeroDivisionError):
        run(engine, graph, {"a": np.ones(1)})
    graph = TaskGraph()
    graph.insert(change, RW(graph.handle("a")))
    assert run(engine, graph, {"a": np.ones(1)})["a"].tolist() == [2]


@pytest.mark.parametrize("place", [True, 9, -1, 1.0, "a", [1]])
def test_a_place_that_is_no_rank_is_refused(place):
    graph = TaskGraph()
    graph.insert(change, RW(graph.handle("a")), on=place)
    with pytest.raises(ValueError, match=r"change\(a\) is to run on .*, which is not one of the ranks 0 to 1"):
        tw.MessagePlan(graph, 2, lambda handle: 0)


class Counter:
    count = 0


@pytest.mark.parametrize("thing", [{}, sp.eye_array(2).tocsr(), Counter(), torch.nn.Parameter(torch.ones(1))])
def test_one_object_under_two_handles_is_refused_where_a_task_writes(thing):
    graph = TaskGraph()
    graph.insert(change, RW(graph.handle("a")))
    graph.insert(same, R(graph.handle("c")), W(graph.handle("b")))
    with pytest.raises(ValueError, match="a and c are the same memory"):
        tw.run(graph, {"a": thing, "c": thing})


@pytest.mark.parametrize("thing", [1, "text", (1, 2), datetime.date(2020, 1, 1), None, len])
def test_one_value_that_nobody_can_change_may_have_two_handles(thing):
    graph = TaskGraph()
    graph.insert(lambda x, y: 7, R(graph.handle("c")), W(graph.handle("a")))
    if thing is not None:
        assert tw.run(graph, {"a": thing, "c": thing}, backend="serial")["a"] == 7
