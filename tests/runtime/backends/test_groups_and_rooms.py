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
    "mpi, two workers a rank": {"backend": "mpi", "workers": 4, "grid": (1, 2)},
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


class TestPrepared:
    """Rooms begin anew in each run of a prepared graph, as in each `tw.run`."""

    @every_engine
    def test_a_factorisation_by_panels_begins_anew_in_each_run(self, options):
        graph = panels_graph()
        data = {"A": tw.TiledMatrix.from_numpy(np.zeros((6, 6)), NB)}
        step = tw.prepare(graph, data, inputs=["A"], **options)
        assert {handle.name for handle in step.outputs} == {"A", "piv"}
        for runs in ("once", "repeat", "traced"):
            whole = np.arange(36.0).reshape(6, 6) + len(runs)
            for handle, place in step.inputs.items():
                i, j = handle.index
                place[...] = whole[i * NB : (i + 1) * NB, j * NB : (j + 1) * NB]
            if runs == "repeat":
                assert step.repeat(2) == 2
            else:
                step() if runs == "once" else step.traced().check()
            for _ in range(2 if runs == "repeat" else 1):
                pivots = panels_by_hand(whole)
            for handle, place in step.outputs.items():
                i, j = handle.index if handle.name == "A" else (0, 0)
                wanted = whole[i * NB : (i + 1) * NB, j * NB : (j + 1) * NB]
                assert np.array_equal(place, pivots[handle] if handle.name == "piv" else wanted), handle
        step.close()

    @every_engine
    def test_a_room_as_large_as_others_data_and_one_that_a_function_replaces(self, options):
        g = TaskGraph()
        x, y = g.handles("x"), g.handle("y", shape=2, dtype="float64", keep=True)
        z = g.handles("z", shape=(2,), dtype="float32", like="x")
        w = g.handle("w", shape=2, dtype="float64")
        for i in range(2):
            g.insert(stack, R(x[i]), W(z[i]), on=x[1 - i])
        g.insert(fresh, W(w), 3.0)
        g.insert(add_first, [R(z[0]), R(z[1])], R(w), W(y))
        if options["backend"] == "mpi":
            options = {name: value for name, value in options.items() if name != "grid"}
            options["owner"] = {"x": lambda i: i, "y": 0, "z": lambda i: i, "w": 1}
        step = tw.prepare(g, {"x": [np.ones(2), np.ones(2)]}, inputs=["x"], **options)
        for value in (1.0, 5.0):
            for place in step.inputs.values():
                place[:] = value
            assert step.repeat(2) == 2 and step.outputs[y].tolist() == [2 * value + 3] * 2

    @every_engine
    def test_tensors(self, options):
        torch = pytest.importorskip("torch")
        g = TaskGraph()
        x = g.handles("x", shape=(2, 3), dtype=torch.bfloat16)
        y = g.handle("y", shape=(2, 3), dtype=torch.float32, keep=True)
        for i in range(3):
            g.insert(fill_tensor, W(x[i]), i + 1.0)
        g.insert(sum_tensors, [R(x[i]) for i in range(3)], W(y))
        step = tw.prepare(g, **options)
        step.repeat(3)
        assert step.outputs[y].dtype == torch.float32 and step.outputs[y].tolist() == [[6.0] * 3] * 2

    @every_engine
    def test_a_kept_room_may_be_carried_and_end_the_loop(self, options):
        g = TaskGraph()
        x, y = g.handle("x"), g.handle("y", shape=1, dtype="float64", keep=True)
        done = g.handle("done", shape=(), dtype="bool", keep=True)
        g.insert(successor, R(x), W(y))
        g.insert(reached, R(y), W(done), 4)
        step = tw.prepare(g, {"x": np.zeros(1)}, inputs=[x], carry={y: x}, **options)
        assert step.repeat(9, until=done) == 4 and step.outputs[y].tolist() == [4.0]

    @every_engine
    def test_an_info_of_a_prepared_function_is_explained(self, options):
        g = TaskGraph()
        g.insert(SINGULAR, [RW(g.handle("x"))], W(g.handle("p", shape=2, dtype="int32", keep=True)))
        step = tw.prepare(g, {"x": np.ones(2)}, inputs=["x"], **options)
        step()
        assert step.outputs[Handle("p", ())].tolist() == [7, 7]
        step.inputs[Handle("x", ())][1] = 0
        with pytest.raises(ZeroDivisionError, match=r"factor\(x,p\): U\[1\] is zero"):
            step()

    @pytest.mark.parametrize("engine", ["mpi", "mpi, two workers a rank", "dask resident"])
    def test_a_graph_comes_to_its_ranks_once(self, engine):
        g = TaskGraph()
        y = g.handle("y", shape=1, dtype="int64", keep=True)
        g.insert(note_arrivals, W(y), Arrives())
        step = tw.prepare(g, **ENGINES[engine])
        found = []
        for _ in range(3):
            step()
            found.append(int(step.outputs[y][0]))
        assert found[0] > 0 and set(found) == {found[0]}

    @pytest.mark.parametrize("backend", ["serial", "mpi"])
    def test_a_room_that_is_given_back_is_no_output_of_a_prepared_graph(self, backend):
        g = TaskGraph()
        w, y = g.handle("w", shape=2, dtype="float64"), g.handle("y", shape=2, dtype="float64", keep=True)
        g.insert(fresh, W(w), 1.0)
        g.insert(add, R(w), [W(y)])
        options = {"backend": backend, "workers": 1 if backend == "serial" else 2}
        with pytest.raises(ValueError, match=r"outputs has w, a room that is given back after its last .* keep=True"):
            tw.prepare(g, outputs=[w], **options)
        with pytest.raises(ValueError, match=r"carry has w, a room that is given back"):
            tw.prepare(g, carry={w: y}, **options)
        with pytest.raises(ValueError, match=r"until=w, a room that is given back after its last .* keep=True"):
            tw.prepare(g, **options).repeat(2, until=w)

    def test_data_of_another_shape_than_the_room_is_refused_on_ranks_too(self):
        g = TaskGraph()
        g.insert(fresh, W(g.handle("x", shape=2, dtype="float64", keep=True)), 1.0)
        with pytest.raises(ValueError, match=r"data for x has shape \(3,\).*room of shape \(2,\) and dtype float64"):
            tw.prepare(g, {"x": np.zeros(3)}, backend="mpi", workers=2)


ARRIVED = 0


class Arrives:
    """A parameter that counts how often it was read from a pickle in this process."""

    def __reduce__(self):
        return arrived, ()


def arrived():
    global ARRIVED
    ARRIVED += 1
    return Arrives()


def note_arrivals(y, _):
    y += ARRIVED


def stack(x, z):
    assert z.shape == (2, 2) and z.dtype == np.float32 and not z.any()
    z += x


def add_first(zs, w, y):
    for z in zs:
        y += z[0]
    y += w


def successor(x, y):
    assert not y.any(), "rooms begin as zeros"
    y += x + 1


def reached(y, done, goal):
    done[...] = y[0] >= goal


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
graph, A = panels_graph(), tw.TiledMatrix.from_numpy(np.zeros((6, 6)), NB)
for workers in (2, 4):  # one on each rank, two on each rank
    step = tw.prepare(graph, {"A": A}, inputs=["A"], backend="mpi", grid=(1, 2), workers=workers)
    for seed in range(2):
        whole = np.arange(36.0).reshape(6, 6) + seed
        for (_, (i, j)), place in step.inputs.items():
            place[...] = whole[i * NB : (i + 1) * NB, j * NB : (j + 1) * NB]
        step.repeat(2)
        panels_by_hand(whole)
        for handle, value in panels_by_hand(whole).items():
            assert np.array_equal(step.outputs[handle], value), (workers, handle)
print("right")
"""


def test_ranks_of_mpiexec():
    from tilewright.backends.mpi import launcher

    command = [launcher.mpiexec(), "-n", "2", sys.executable, "-c", SCRIPT]
    path = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=60)
    assert done.stdout.count("right") == 2, done.stderr
