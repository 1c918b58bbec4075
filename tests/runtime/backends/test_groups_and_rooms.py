"""Groups and rooms mean the same on every engine: lists of buffers, and memory that nobody had to give."""

import os
import subprocess
import sys

import numpy as np
import pytest

import tilewright as tw
from tilewright import RW, Handle, Op, R, TaskGraph, W
from tilewright.errors import MissingDataError

NT, NB = 3, 2
ENGINES = {
    "serial": {"backend": "serial"},
    "threads": {"backend": "threads", "workers": 3},
    "one thread": {"backend": "threads", "workers": 1},
    "two memories": {"backend": "threads", "workers": 2, "devices": ["cpu"]},
    "mpi": {"backend": "mpi", "workers": 2},
    "mpi in columns": {"backend": "mpi", "workers": 2, "grid": (1, 2)},
    "dask resident": {"backend": "dask", "workers": 2, "mode": "resident"},
    "dask tasks": {"backend": "dask", "workers": 2, "mode": "tasks"},
}
every_engine = pytest.mark.parametrize("options", ENGINES.values(), ids=ENGINES)


def panel(tiles, rest, piv, T):
    assert isinstance(tiles, list) and rest == []
    assert not piv.any() and not T.any(), "rooms begin as zeros"
    for i, tile in enumerate(tiles):
        tile += i + 1
    piv[:] = [round(float(tile.sum())) for tile in tiles]
    T += sum(piv)


def update(piv, T, pairs, extra):
    left, right = pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]
    for source, target in zip(left, right, strict=True):
        target += source.sum() + piv[0] + T.sum() * extra


def panels_graph():
    """Like an LU: a task on a tile column that writes pivots (kept) and factors (not kept); updates of the others."""
    g = TaskGraph("panels")
    A = g.handles("A")
    piv = g.handles("piv", shape=lambda k: NT - k, dtype="int64", keep=True)
    T = g.handles("T", shape=(NB, 3), dtype=np.float32)
    for k in range(NT):
        g.insert(panel, [RW(A[i, k]) for i in range(k, NT)], [], W(piv[k]), W(T[k]), label=(k,))
        for j in range(k + 1, NT):
            rows = range(k, NT)
            g.insert(update, R(piv[k]), R(T[k]), [*(R(A[i, k]) for i in rows), *(RW(A[i, j]) for i in rows)], 0.5)
    return g


def panels_by_hand(a):
    cut = [slice(k * NB, (k + 1) * NB) for k in range(NT)]
    pivots = {}
    for k in range(NT):
        tiles = [a[cut[i], cut[k]] for i in range(k, NT)]
        pivots[Handle("piv", (k,))] = np.zeros(NT - k, np.int64)
        T = np.zeros((NB, 3), np.float32)
        panel(tiles, [], pivots[Handle("piv", (k,))], T)
        for j in range(k + 1, NT):
            update(pivots[Handle("piv", (k,))], T, tiles + [a[cut[i], cut[j]] for i in range(k, NT)], 0.5)
    return pivots


class TestEngines:
    @every_engine
    def test_a_factorisation_by_panels_with_pivots_and_factors(self, options):
        a = np.arange(36.0).reshape(6, 6)
        wanted = a.copy()
        pivots = panels_by_hand(wanted)
        for _ in range(2):  # again: rooms begin as zeros again
            A = tw.TiledMatrix.from_numpy(a, NB)
            run = tw.run(panels_graph(), {"A": A}, **options)
            run.trace.check()
            assert np.array_equal(A.to_numpy(), wanted)
            assert {h: v.tolist() for h, v in run["piv"].items()} == {h: v.tolist() for h, v in pivots.items()}
            assert np.array_equal(run[Handle("piv", (1,))], pivots[Handle("piv", (1,))])
            with pytest.raises(MissingDataError, match=r"T\[0\] is a room that the run gave back.*keep=True"):
                run[Handle("T", (0,))]

    @every_engine
    def test_one_graph_runs_twice_and_its_rooms_begin_as_zeros_each_time(self, options):
        graph = panels_graph()
        found = []
        for _ in range(2):
            A = tw.TiledMatrix.from_numpy(np.arange(36.0).reshape(6, 6), NB)
            run = tw.run(graph, {"A": A}, **options)
            found.append((A.to_numpy().tobytes(), [v.tolist() for v in run["piv"].values()]))
        assert found[0] == found[1]

    @every_engine
    def test_a_room_that_only_kernels_use(self, options):
        g = TaskGraph()
        A, B = g.handles("A"), g.handles("B", shape=(4, 4), dtype="float64")
        x, y, z = A[0, 0], B[0, 0], A[1, 1]
        g.insert(tw.ops.copy, R(x), W(y))
        g.insert(tw.ops.gemm, R(x), R(y), RW(z), on=y)
        a = np.arange(16.0).reshape(4, 4)
        run = tw.run(g, {x: a, z: np.zeros((4, 4))}, **options)
        assert np.array_equal(run[z], -a @ a.T)

    @every_engine
    def test_data_given_for_a_room_is_that_data(self, options):
        g = TaskGraph()
        x = g.handle("x", shape=3, dtype="float64")
        y = g.handle("y", shape=(3,), dtype="float64", keep=True)
        g.insert(add, R(x), [W(y)])
        run = tw.run(g, {"x": np.ones(3)}, **options)
        assert run["y"].tolist() == [1.0, 1.0, 1.0]

    @every_engine
    def test_a_function_may_return_the_value_of_a_room(self, options):
        g = TaskGraph()
        x, y = g.handle("x", shape=2, dtype="float64"), g.handle("y", shape=2, dtype="float64", keep=True)
        g.insert(fresh, W(x), 3.0)
        g.insert(fresh, W(y), 4.0)
        g.insert(add, R(x), [RW(y)])
        assert tw.run(g, **options)["y"].tolist() == [7.0, 7.0]

    @every_engine
    def test_tensors(self, options):
        torch = pytest.importorskip("torch")
        g = TaskGraph()
        x = g.handles("x", shape=(2, 3), dtype=torch.bfloat16)
        y = g.handle("y", shape=(2, 3), dtype=torch.float32, keep=True)
        for i in range(3):
            g.insert(fill_tensor, W(x[i]), i + 1.0)
        g.insert(sum_tensors, [R(x[i]) for i in range(3)], W(y))
        run = tw.run(g, **options)
        assert run["y"].dtype == torch.float32 and run["y"].tolist() == [[6.0] * 3] * 2


def add(x, ys):
    for y in ys:
        y += x


def fresh(x, value):
    return np.full(2, value)


def fill_tensor(x, value):
    assert not x.any() and x.is_contiguous()
    x.fill_(value)


def sum_tensors(xs, y):
    for x in xs:
        y += x.float()


class TestErrors:
    def test_a_room_that_is_read_before_it_is_written_is_named(self):
        for use in (R, RW):
            g = TaskGraph()
            g.insert(add, use(g.handles("T", shape=2, dtype="float64", keep=use is RW)[4]), [RW(g.handle("y"))])
            with pytest.raises(MissingDataError, match=r"reads T\[4\] before a task writes it, and it is a room"):
                tw.run(g, {"y": np.zeros(2)}, workers=1)

    def test_data_of_another_shape_or_dtype_than_the_room(self):
        g = TaskGraph()
        g.insert(fresh, W(g.handle("x", shape=2, dtype="float64")), 1.0)
        for wrong, has in ((np.zeros(3), r"shape \(3,\)"), (np.zeros(2, "f4"), "float32"), ("text", "str")):
            with pytest.raises(ValueError, match=rf"data for x has .*{has}.*room of shape \(2,\) and dtype float64"):
                tw.run(g, {"x": wrong}, workers=1)

    def test_missing_data_is_still_named(self):
        g = panels_graph()
        with pytest.raises(MissingDataError, match=r"reads A\[0,0\]"):
            tw.run(g, {}, workers=1)

    @pytest.mark.parametrize("backend", ["serial", "threads", "mpi", "dask"])
    def test_a_function_with_an_explain_returns_an_info(self, backend):
        g = TaskGraph()
        g.insert(SINGULAR, [RW(g.handle("x"))], W(g.handle("p", shape=2, dtype="int32", keep=True)))
        options = {} if backend == "serial" else {"workers": 2}
        assert tw.run(g, {"x": np.ones(2)}, backend=backend, **options)["p"].tolist() == [7, 7]
        with pytest.raises(ZeroDivisionError, match=r"factor\(x,p\): U\[1\] is zero"):
            tw.run(g, {"x": np.array([1.0, 0.0])}, backend=backend, **options)

    def test_a_function_with_an_explain_that_returns_values_is_told_so(self):
        g = TaskGraph()
        g.insert(Op("wrong", fresh, explain=explain), W(g.handle("x", shape=2, dtype="float64")), 1.0)
        with pytest.raises(
            TypeError, match=r"wrong\(x\) has an explain, so it returns None or an integer info, not nda"
        ):
            tw.run(g, workers=1)


def factor(xs, piv):
    piv += 7
    zero = np.flatnonzero(xs[0] == 0)
    return int(zero[0]) if zero.size else 0


def explain(task, store, info):
    return ZeroDivisionError(f"{task}: U[{info}] is zero")


SINGULAR = Op("factor", factor, explain=explain, in_place=True)


class TestMemory:
    def test_rooms_lose_their_memory_after_their_last_reader(self):
        import weakref

        alive = []

        def make(x):
            alive.append(weakref.ref(x.base if x.base is not None else x))

        def look(x, count):
            assert sum(ref() is not None for ref in alive) == count

        g = TaskGraph()
        T = g.handles("T", shape=1000, dtype="float64")
        for k in range(4):
            g.insert(make, W(T[k]))
            if k:
                g.insert(look, R(T[k - 1]), 2 if k < 3 else 1)  # nobody reads the last
        tw.run(g, backend="serial")

    def test_predicted_memory_counts_rooms_while_they_live(self):
        g = TaskGraph()
        T = g.handles("T", shape=(100,), dtype="float32")
        for k in range(10):
            g.insert(tw.ops.zero, W(T[k]))
            g.insert(tw.ops.finite, R(T[k]), "all")
        machine = tw.Machine(durations={"zero": 1.0, "finite": 1.0})
        assert tw.simulate(g, machine).memory == 400
        assert tw.run(g, backend="serial").memory == 400
        kept = TaskGraph()
        T = kept.handles("T", shape=(100,), dtype="float32", keep=True)
        for k in range(10):
            kept.insert(tw.ops.zero, W(T[k]))
        assert tw.simulate(kept, machine).memory == tw.run(kept, backend="serial").memory == 4000
        plan = tw.MessagePlan(g, 2, lambda i: i % 2)
        assert plan.peak_memory(lambda handle: 400) == [400, 400]

    def test_simulated_messages_have_the_size_of_their_rooms(self):
        g = TaskGraph()
        T = g.handles("T", shape=lambda i: (i + 1, 2), dtype="float64")
        for i in range(2):
            g.insert(tw.ops.zero, W(T[i]), on=0)
            g.insert(tw.ops.finite, R(T[i]), on=1)
        run = tw.simulate(g, tw.Machine(ranks=2, beta=1.0), owner=lambda handle: 0)
        assert sorted(m.nbytes for m in run.trace.messages) == [16, 32]


SCRIPT = """
import numpy as np, tilewright as tw
from mpi4py import MPI
from test_groups_and_rooms import panels_graph, panels_by_hand, NB
for gather in ("all", "root"):
    a = np.arange(36.0).reshape(6, 6)
    A = tw.TiledMatrix.from_numpy(a, NB)
    run = tw.run(panels_graph(), {"A": A}, backend="mpi", grid=(1, 2), gather=gather)
    wanted = panels_by_hand(a)
    if gather == "all" or MPI.COMM_WORLD.rank == 0:
        assert np.array_equal(A.to_numpy(), a)
        assert all(np.array_equal(run[h], v) for h, v in wanted.items())
        assert run["piv"].keys() == wanted.keys()
print("right")
"""


def test_ranks_of_mpiexec():
    from tilewright.backends.mpi import launcher

    command = [launcher.mpiexec(), "-n", "2", sys.executable, "-c", SCRIPT]
    path = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=60)
    assert done.stdout.count("right") == 2, done.stderr
