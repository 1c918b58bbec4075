"""Data that stays on ranks, and graphs prepared on it."""

import gc
import os
import time
from pathlib import Path

import numpy as np
import pytest

import tilewright as tw
from tilewright.backends import COMPUTING
from tilewright.graph import Layout

BACKENDS = [name for name in COMPUTING if name != "dask"]
backends = pytest.mark.parametrize("backend", BACKENDS)


def scale(a, x, y):
    np.multiply(a, x, out=y)


def double(x, y):
    return 2 * x


def fail(x, y):
    raise ArithmeticError("what the task said")


def both(x):
    x[...] += 1


def swap(x, y):
    return y, x


@pytest.fixture(scope="module")
def pool():
    with tw.mpi.Pool(3) as pool:
        yield pool


@pytest.mark.parametrize(
    ("place", "complaint"),
    [(1, "a stays on rank 0, but the last task that writes it runs on 1; let it run there, with on="),
     (None, "a is kept on rank 0, but the graph's layout looks for it on 1")],
)  # fmt: skip
def test_data_that_would_be_old_in_the_next_run_is_refused(pool, place, complaint):
    g = tw.TaskGraph("elsewhere")
    a = g.handle("a")
    g.insert(both, tw.RW(a), on=place)
    g.layout = Layout(3, lambda handle: 0 if place else 1, lambda handle: (4,))
    home = tw.Resident({a: np.zeros(4)}, ranks=3, owner=lambda handle: 0, backend="mpi", pool=pool)
    with pytest.raises(ValueError, match=complaint):
        home.prepare(g, inputs=[], outputs=[])


def family(name, count):
    return [tw.Handle(name, (r,)) for r in range(count)]


def ring(op=scale, ranks=3):
    """y[r+1] = a[r+1] x[r]: everybody needs what the neighbour has."""
    g = tw.TaskGraph("ring")
    a, x, y = (g.handles(name) for name in "axy")
    for r in range(ranks):
        target = (r + 1) % ranks
        if op is scale:
            g.insert(scale, tw.R(a[target]), tw.R(x[r]), tw.W(y[target]))
        else:
            g.insert(op, tw.R(x[r]), tw.W(y[target]))
    g.layout = Layout(ranks, lambda handle: handle.index[0], lambda handle: (4,))
    return g


def resident(backend, graph, data, **options):
    layout = graph.layout
    return tw.Resident(data, ranks=layout.ranks, owner=layout.owner, backend=backend, **options)


@backends
class TestEveryEngine:
    def test_many_calls_see_new_inputs_and_the_same_data(self, backend, pool):
        graph = ring()
        data = {handle: np.full(4, 10.0 + r) for r, handle in enumerate(family("a", 3))}
        step = resident(backend, graph, data).prepare(graph, inputs=family("x", 3), outputs=family("y", 3))
        for call in range(3):
            for r, handle in enumerate(family("x", 3)):
                step.inputs[handle][...] = 100 * call + r
            step()
            for r, handle in enumerate(family("y", 3)):
                assert np.array_equal(step.outputs[handle], np.full(4, (10.0 + r) * (100 * call + (r - 1) % 3)))

    def test_values_that_a_function_returns_go_where_the_handle_lives(self, backend, pool):
        graph = ring(double)
        step = resident(backend, graph, {}).prepare(graph, inputs=family("x", 3), outputs=family("y", 3))
        step.inputs[family("x", 3)[1]][...] = 7
        step()
        assert np.array_equal(step.outputs[family("y", 3)[2]], np.full(4, 14.0))

    def test_failing_task_ends_the_call_and_the_next_call_works(self, backend, pool):
        bad, good = ring(fail), ring(double)
        home = resident(backend, good, {})
        broken = home.prepare(bad, inputs=family("x", 3), outputs=family("y", 3))
        with pytest.raises(ArithmeticError, match="what the task said") as caught:
            broken()
        assert any("fail(" in note for note in caught.value.__notes__)
        step = home.prepare(good, inputs=family("x", 3), outputs=family("y", 3))
        step.inputs[family("x", 3)[0]][...] = 1
        step()
        assert np.array_equal(step.outputs[family("y", 3)[1]], np.full(4, 2.0))

    def test_version_that_was_sent_is_not_the_one_written_after(self, backend, pool):
        """x[0] goes to rank 1, is changed, goes to rank 1 again: both values arrive, in that order."""
        g = tw.TaskGraph("versions")
        x, y = g.handles("x"), g.handles("y")
        g.insert(double, tw.R(x[0]), tw.W(y[1]))
        g.insert(both, tw.RW(x[0]))
        g.insert(scale, tw.R(y[1]), tw.R(x[0]), tw.W(y[2]))
        g.layout = Layout(3, lambda handle: handle.index[0], lambda handle: (1000,))
        step = resident(backend, g, {}).prepare(g, inputs=[x[0]], outputs=[y[2], y[1], x[0]])
        for call in range(1, 4):
            step.inputs[x[0]][...] = call
            step()
            assert np.array_equal(step.outputs[y[2]], np.full(1000, 2.0 * call * (call + 1)))
            assert np.array_equal(step.inputs[x[0]], np.full(1000, call + 1.0))

    def test_data_that_stays_is_what_the_last_run_made_of_it(self, backend, pool):
        """a[0] is changed on rank 1 and then on rank 0 again, where the next run finds it."""
        g = tw.TaskGraph("stays")
        a, y = g.handles("a"), g.handles("y")
        g.insert(both, tw.RW(a[0]), on=1)
        g.insert(both, tw.RW(a[0]), on=0)
        g.insert(double, tw.R(a[0]), tw.W(y[2]))
        g.layout = Layout(3, lambda handle: handle.index[0], lambda handle: (4,))
        step = resident(backend, g, {a[0]: np.zeros(4)}).prepare(g, inputs=[], outputs=[y[2]])
        for call in range(1, 4):
            step()
            assert np.array_equal(step.outputs[y[2]], np.full(4, 4.0 * call))

    def test_data_of_another_dtype_travels(self, backend, pool):
        g = tw.TaskGraph("single")
        a, y = g.handles("a"), g.handles("y")
        g.insert(double, tw.R(a[0]), tw.W(y[2]))
        g.layout = Layout(3, lambda handle: handle.index[0], lambda handle: (4,))
        data = {a[0]: np.arange(4, dtype=np.float32)}
        step = resident(backend, g, data).prepare(g, inputs=[], outputs=[y[2]])
        step()
        assert step.outputs[y[2]].tolist() == [0, 2, 4, 6]

    def test_values_may_change_places(self, backend, pool):
        g = tw.TaskGraph("swap")
        x, y = g.handle("x"), g.handle("y")
        g.insert(swap, tw.RW(x), tw.RW(y))
        g.layout = Layout(3, lambda handle: 0, lambda handle: (2,))
        step = resident(backend, g, {}).prepare(g, inputs=[x, y], outputs=[x, y])
        step.inputs[x][...], step.inputs[y][...] = 1, 2
        step()
        assert (step.outputs[x].tolist(), step.outputs[y].tolist()) == ([2, 2], [1, 1])

    def test_trace_has_every_task_and_message(self, backend, pool):
        graph = ring(double)
        step = resident(backend, graph, {}).prepare(graph, inputs=family("x", 3), outputs=family("y", 3))
        trace = step.traced()
        trace.check()
        assert len(trace) == 3
        if backend == "mpi":
            assert [(m.source, m.destination, m.nbytes) for m in sorted(trace.messages)] == [
                (0, 1, 32), (1, 2, 32), (2, 0, 32)
            ]  # fmt: skip

    def test_bad_input_is_one_sentence(self, backend, pool):
        graph = ring()
        home = resident(backend, graph, {})
        with pytest.raises(tw.MissingDataError, match=r"the graph reads a\[1\], which is neither kept"):
            home.prepare(graph, inputs=family("x", 3), outputs=family("y", 3))
        bare = tw.TaskGraph("bare")
        with pytest.raises(ValueError, match="graph 'bare' has no layout"):
            home.prepare(bare, inputs=[], outputs=[])
        with pytest.raises(ValueError, match="is for 2 ranks, but the data lies on 3"):
            home.prepare(ring(ranks=2), inputs=[], outputs=[])
        with pytest.raises(ValueError, match="ranks must be at least 1, not 0"):
            tw.Resident({}, ranks=0, owner=lambda handle: 0, backend=backend)
        with pytest.raises(ValueError, match=r"owner puts x\[0\] on rank 3, but there are ranks 0..2"):
            tw.Resident({family("x", 1)[0]: np.ones(1)}, ranks=3, owner=lambda handle: 3, backend=backend)


def test_unknown_backend_is_named():
    with pytest.raises(ValueError, match="unknown backend 'smoke'"):
        tw.Resident({}, ranks=1, owner=lambda handle: 0, backend="smoke")


class TestPool:
    def test_pool_of_another_size_is_refused(self, pool):
        with pytest.raises(ValueError, match="the data is for 2 ranks, but the pool has 3"):
            tw.Resident({}, ranks=2, owner=lambda handle: 0, backend="mpi")

    def test_synchronous_sends_give_the_same_values(self, pool):
        graph = ring(double)
        home = resident("mpi", graph, {}, synchronous=True)
        step = home.prepare(graph, inputs=family("x", 3), outputs=family("y", 3))
        step.inputs[family("x", 3)[2]][...] = 3
        step()
        assert np.array_equal(step.outputs[family("y", 3)[0]], np.full(4, 6.0))

    def test_data_on_the_ranks_is_freed_with_its_object(self, pool):
        graph = ring()

        def memory():
            return sum(
                int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") for pid in pool.pids
            )

        before = memory()
        data = {handle: np.ones(8 << 20) for handle in family("a", 3)}
        home = resident("mpi", graph, data)
        assert memory() - before > 150e6
        del home, data
        gc.collect()
        deadline = time.monotonic() + 10
        while memory() - before > 50e6 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert memory() - before < 50e6

    def test_closed_pool_says_that_its_data_is_gone(self):
        graph = ring(double, ranks=1)
        with tw.mpi.Pool(1):
            step = resident("mpi", graph, {}).prepare(graph, inputs=family("x", 1), outputs=family("y", 1))
        with pytest.raises(RuntimeError, match="what was kept on its ranks is gone"):
            step()

    def test_dead_rank_is_named(self):
        graph = ring(double, ranks=2)
        with tw.mpi.Pool(2) as pool:
            step = resident("mpi", graph, {}).prepare(graph, inputs=family("x", 2), outputs=family("y", 2))
            os.kill(pool.pids[1], 9)
            with pytest.raises(tw.RankDied, match="rank 1"):
                step()


def test_after_close_a_sentence_says_that_the_data_is_gone():
    op = tw.DenseOperator(np.eye(3), ranks=2, backend="threads")
    assert np.array_equal(op @ np.ones(3), np.ones(3))
    op.close()
    with pytest.raises(RuntimeError, match=r"what was kept on the ranks is gone since close\(\)"):
        op @ np.ones(3)
