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
    [
        (1, "a stays on rank 0, but the last task that writes it runs on 1; let it run there, with on="),
        (None, "a is kept on rank 0, but the graph's layout looks for it on 1"),
    ],
)
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


# ------------------------------------------------------------------ tw.prepare


def improve(a, x, y, done):
    y[:] = (x + a / x) / 2
    done[:] = abs(y - x) <= 1e-15 * y


def heron(ranks):
    """A square root on each rank, and on rank 0 whether the last of them has converged."""
    g = tw.TaskGraph("roots")
    a, x, y, done, all_done = (g.handles(name) for name in ("a", "x", "y", "done", "all"))
    for r in range(ranks):
        g.insert(improve, tw.R(a[r]), tw.R(x[r]), tw.W(y[r]), tw.W(done[r]))
    g.insert(every, *[tw.R(done[r]) for r in range(ranks)], tw.W(all_done[0]))
    return g


def every(*flags):
    *parts, result = flags
    result[:] = all(part.all() for part in parts)


def roots(numbers):
    zeros = {name: [np.zeros(1) for _ in numbers] for name in ("y", "done", "all")}
    return {"a": [np.array([float(n)]) for n in numbers], "x": [np.ones(1) for _ in numbers], **zeros}


def by_hand(numbers):
    """(repetitions, values)."""
    x = np.ones(len(numbers))
    for k in range(1, 50):
        before, x = x, (x + np.array(numbers) / x) / 2
        if (abs(x - before) <= 1e-15 * x).all():
            return k, x.tolist()
    raise AssertionError("no root in 50 steps")


def fail_at(x, count, limit):
    x += 1
    if x[0] > limit:
        raise ArithmeticError(f"beyond {limit}")
    count += 1


def next_one(own, given):
    own += 1
    if own[0] != given[0]:
        raise LookupError(f"{given[0]} is not the next one")


def increase(x):
    x += 1


def replaced(x):
    return x + 1


def options(backend, pool):
    return {"workers": 3, "pool": pool, "owner": lambda r=0: r} if backend == "mpi" else {"workers": 1}


@backends
class TestPrepare:
    def test_a_loop_ends_when_its_handle_says_so(self, backend, pool):
        numbers = [2, 9, 1e4]
        g = heron(3)
        x, y, done = g.handles("x"), g.handles("y"), g.handles("all")
        step = tw.prepare(
            g,
            roots(numbers),
            inputs=["a", "x"],
            carry={y[r]: x[r] for r in range(3)},
            backend=backend,
            **options(backend, pool),
        )
        wanted, values = by_hand(numbers)
        assert step.repeat(50, until=done[0]) == wanted
        assert [float(step.outputs[y[r]][0]) for r in range(3)] == values
        assert [float(step.inputs[x[r]][0]) for r in range(3)] == values
        for r in range(3):
            step.inputs[x[r]][:] = 1
        assert step.repeat(50, until=done[0]) == wanted
        assert step.repeat(5, until=done[0]) == 1 and step.repeat(0) == 0

    @pytest.mark.parametrize("times", [1, 2, 5])
    def test_what_is_carried_goes_on_from_call_to_call(self, backend, pool, times):
        g = tw.TaskGraph("twice")
        x, y = g.handles("x"), g.handles("y")
        for r in range(3):
            g.insert(double, tw.R(x[r]), tw.W(y[(r + 1) % 3]), on=r)
        carry = {y[(r + 1) % 3]: x[r] for r in range(3)}
        data = {"x": [np.full(4, 1.0 + r) for r in range(3)], "y": [np.zeros(4) for _ in range(3)]}
        step = tw.prepare(g, data, inputs=["x"], carry=carry, backend=backend, **options(backend, pool))
        for calls in (1, 2):
            assert step.repeat(times) == times
            for r in range(3):
                wanted = np.full(4, (1.0 + r) * 2 ** (calls * times))
                assert np.array_equal(step.outputs[y[(r + 1) % 3]], wanted)
                assert np.array_equal(step.inputs[x[r]], wanted)

    @pytest.mark.parametrize("task", [increase, replaced])
    def test_a_thousand_runs_of_two_prepared_graphs(self, backend, pool, task):
        g = tw.TaskGraph("count")
        x = g.handles("x")
        for r in range(3):
            g.insert(task, tw.RW(x[r]))
        two = [
            tw.prepare(
                g, {"x": [np.full(2, start) for _ in range(3)]}, inputs=["x"], backend=backend, **options(backend, pool)
            )
            for start in (0.0, 0.5)
        ]
        for _ in range(10):
            two[0]()
        assert two[0].repeat(1000) == two[1].repeat(1000) == 1000
        assert [float(two[0].outputs[x[r]][1]) for r in range(3)] == [1010.0] * 3
        assert [float(two[1].outputs[x[r]][1]) for r in range(3)] == [1000.5] * 3
        two[0].inputs[x[1]][:] = -1
        two[0]()
        assert two[0].outputs[x[1]].tolist() == [0, 0]

    @pytest.mark.parametrize("until", [False, True])
    def test_a_repetition_that_fails_ends_the_loop_everywhere(self, backend, pool, until):
        """Rank 1 fails in its 70th repetition; the others have at most those that were under way."""
        g = tw.TaskGraph("fails")
        x, n, flag = g.handles("x"), g.handles("n"), g.handle("flag")
        for r in range(3):
            g.insert(fail_at, tw.RW(x[r]), tw.RW(n[r]), 69 if r == 1 else np.inf)
        g.insert(never, tw.W(flag))
        data = {"x": [np.zeros(1) for _ in range(3)], "n": [np.zeros(1) for _ in range(3)], "flag": np.zeros(1)}
        step = tw.prepare(g, data, inputs=["x"], backend=backend, **options(backend, pool))
        with pytest.raises(ArithmeticError, match="beyond 69") as caught:
            step.repeat(10**6, until=flag if until else None)
        assert any("in task fail_at(1) (number 1)" in note for note in caught.value.__notes__)
        assert [float(step.outputs[n[r]][0]) for r in range(3)][1] == 69
        assert all(69 <= step.outputs[n[r]][0] <= 192 for r in range(3))
        for r in range(3):
            step.inputs[x[r]][:] = 0
        assert step.repeat(3) == 3

    def test_what_fails_in_later_repetitions_for_want_of_values_is_not_the_error(self, backend, pool):
        """Rank 1 misses what rank 0 did not make, one repetition later and in a task of lower index."""
        g = tw.TaskGraph("late")
        n, x = g.handle("n"), g.handles("x")
        g.insert(next_one, tw.RW(x[1]), tw.R(x[0]), on=1)
        g.insert(fail_at, tw.RW(x[0]), tw.RW(n), 40, on=0)
        g.insert(fail_at, tw.RW(x[2]), tw.W(g.handle("spare")), np.inf, on=2)
        data = {"x": [np.zeros(1), np.full(1, -1.0), np.zeros(1)], "n": np.zeros(1), "spare": np.zeros(1)}
        step = tw.prepare(g, data, backend=backend, **options(backend, pool))
        with pytest.raises(ArithmeticError, match="beyond 40"):
            step.repeat(64)

    def test_a_run_has_the_trace_and_the_values(self, backend, pool):
        g = heron(3)
        step = tw.prepare(g, roots([4, 4, 4]), backend=backend, **options(backend, pool))
        run = step.run()
        run.trace.check()
        assert len(run.trace) == 4 and run[tw.Handle("y", (2,))].tolist() == [2.5]
        assert len(run.trace.messages) == (2 if backend == "mpi" else 0)

    def test_rounds_begin_with_the_same_inputs(self, backend, pool):
        g = tw.TaskGraph("count")
        x = g.handles("x")
        for r in range(3):
            g.insert(increase, tw.RW(x[r]))
        step = tw.prepare(
            g, {"x": [np.zeros(1) for _ in range(3)]}, inputs=["x"], backend=backend, **options(backend, pool)
        )
        seconds = step.timed(4, 5)
        assert len(seconds) == (3 if backend == "mpi" else 1) and all(len(s) == 4 and min(s) > 0 for s in seconds)
        assert [float(step.outputs[x[r]][0]) for r in range(3)] == [5, 5, 5]

    def test_after_close_a_sentence_says_so(self, backend, pool):
        step = tw.prepare(heron(3), roots([1, 2, 3]), backend=backend, **options(backend, pool))
        step()
        step.close()
        with pytest.raises(RuntimeError, match="graph 'roots' was prepared, and closed since; prepare it again"):
            step()

    @pytest.mark.parametrize(
        ("change", "error", "complaint"),
        [
            (
                {"inputs": ["z"]},
                ValueError,
                "inputs has z, which graph 'roots' does not use; it uses a, all, done, x, y",
            ),
            ({"outputs": "y"}, TypeError, "outputs must be a list of handles or names, not"),
            ({"outputs": [3]}, TypeError, "outputs must be a list of handles or names, and 3 is neither"),
            ({"carry": {tw.Handle("a", (0,)): tw.Handle("x", (0,))}}, ValueError, r"no task writes a\[0\]"),
            ({"carry": {tw.Handle("y", (0,)): tw.Handle("q")}}, ValueError, "no task uses q"),
            (
                {"carry": {tw.Handle("y", (0,)): tw.Handle("x", (0,)), tw.Handle("y", (1,)): tw.Handle("x", (0,))}},
                ValueError,
                r"carry names x\[0\] twice",
            ),
            ({"gather": "all"}, (TypeError, ValueError), "gather"),
            ({"surprise": 1}, TypeError, "unknown option surprise"),
            ({"workers": 0}, ValueError, "workers"),
        ],
    )
    def test_bad_input_is_one_sentence(self, backend, pool, change, error, complaint):
        with pytest.raises(error, match=complaint):
            tw.prepare(heron(3), roots([1, 2, 3]), backend=backend, **{**options(backend, pool), **change})

    def test_bad_repetitions_are_one_sentence(self, backend, pool):
        step = tw.prepare(heron(3), roots([1, 2, 3]), backend=backend, **options(backend, pool))
        with pytest.raises(ValueError, match="times must be at least 0, not -1"):
            step.repeat(-1)
        with pytest.raises(ValueError, match=r"until=x\[0\], but no task of graph 'roots' writes it"):
            step.repeat(3, until=tw.Handle("x", (0,)))
        with pytest.raises(TypeError, match="until is a handle, such as"):
            step.repeat(3, until="all")

    def test_missing_data_is_named(self, backend, pool):
        with pytest.raises(tw.MissingDataError, match=r"the graph reads x\[0\]"):
            tw.prepare(heron(3), {**roots([1, 2, 3]), "x": {}}, backend=backend, **options(backend, pool))


def never(flag):
    flag[:] = 0


def test_several_workers_carry_as_well():
    g = heron(2)
    x, y = g.handles("x"), g.handles("y")
    step = tw.prepare(g, roots([4, 9]), inputs=["x"], carry={y[r]: x[r] for r in range(2)}, workers=2)
    assert step.repeat(50, until=tw.Handle("all", (0,))) > 3
    assert [float(step.outputs[y[r]][0]) for r in range(2)] == [2, 3]


def test_what_is_carried_has_to_be_made_where_it_is_needed(pool):
    g = tw.TaskGraph("apart")
    x, y = g.handles("x"), g.handles("y")
    g.insert(double, tw.R(x[0]), tw.W(y[1]))
    data = {"x": [np.ones(2)], "y": [np.ones(2), np.ones(2)]}
    with pytest.raises(ValueError, match=r"the last task that writes y\[1\] runs on rank 1, but x\[0\] lives on 0"):
        tw.prepare(g, data, carry={y[1]: x[0]}, backend="mpi", **options("mpi", pool))


def test_on_ranks_every_handle_needs_a_size(pool):
    g = tw.TaskGraph("made")
    g.insert(double, tw.R(g.handle("x")), tw.W(g.handle("y")))
    with pytest.raises(tw.MissingDataError, match="nobody says how large y is; give an array for it in data"):
        tw.prepare(g, {"x": np.ones(2)}, backend="mpi", pool=pool)


def test_another_thread_is_refused_during_a_call(pool):
    import threading

    g = tw.TaskGraph("waits")
    begun, go = threading.Event(), threading.Event()

    def hold(x):
        begun.set()
        assert go.wait(10)

    g.insert(hold, tw.RW(g.handle("x")))
    step = tw.prepare(g, {"x": np.zeros(1)}, backend="serial")
    other = threading.Thread(target=step)
    other.start()
    try:
        assert begun.wait(10)
        with pytest.raises(RuntimeError, match="this Prepared is running in another thread"):
            step.repeat(2)
    finally:
        go.set()
        other.join()


def test_a_rank_that_dies_in_a_loop_is_named():
    g = tw.TaskGraph("dies")
    x = g.handles("x")
    for r in range(2):
        g.insert(die_at, tw.RW(x[r]), 1000 if r == 1 else np.inf)
    with tw.mpi.Pool(2) as pool:
        step = tw.prepare(g, {"x": [np.zeros(1), np.zeros(1)]}, backend="mpi", pool=pool, workers=2, owner=lambda r: r)
        with pytest.raises(tw.RankDied, match="rank 1"):
            step.repeat(10**9)


def die_at(x, limit):
    x += 1
    if x[0] > limit:
        os.kill(os.getpid(), 9)


def _add(x, w):
    w += x


def _give(w, y):
    y[:] = w


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("backend", ["serial", "threads"])
def test_a_room_of_a_prepared_graph_is_zeros_in_each_run(backend, workers):
    g = tw.TaskGraph()
    x, y, w = g.handle("x"), g.handle("y"), g.handle("w", shape=(2,), dtype="float64")
    g.insert(_add, tw.R(x), tw.W(w))
    g.insert(_give, tw.R(w), tw.W(y))
    step = tw.prepare(g, {"x": np.ones(2), "y": np.zeros(2)}, inputs=[x], outputs=[y], backend=backend, workers=workers)
    for run in (step, step.traced, lambda: step.repeat(3)):
        step.outputs[y][:] = 0
        run()
        assert step.outputs[y].tolist() == [1, 1]
