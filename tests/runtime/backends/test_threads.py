"""The threads engine: contracts with policies, Ctrl-C, and the user's BLAS settings."""

import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import threadpoolctl
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import spd_matrix

import tilewright as tw
from tilewright import RW, Machine, R, SchedulerError, Task, TaskGraph, W, cholesky_graph
from tilewright.backends import COMPUTING
from tilewright.kernels import blas
from tilewright.kernels.threads import limits, one_thread
from tilewright.passes.frontier import Frontier
from tilewright.schedulers import policy

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("no_kept_cluster")]


def noop(*buffers):
    return None


def independent(count):
    g = TaskGraph()
    A = g.handles("A")
    for i in range(count):
        g.insert(noop, W(A[i]))
    return g


class Fifo:
    """The smallest policy, to be broken in one place each."""

    def prepare(self, graph: TaskGraph, machine: Machine) -> None:
        self.queue: list[Task] = []

    def push(self, task: Task, worker: int | None = None) -> None:
        self.queue.append(task)

    def pop(self, worker: int) -> Task | None:
        return self.queue.pop(0) if self.queue else None


workers_ = pytest.mark.parametrize("workers", [1, 2, 4])


@workers_
class TestPolicies:
    @pytest.mark.parametrize("shared", [False, True])
    def test_policy_that_withholds_every_task_is_an_error(self, workers, shared):
        class Miser(Fifo):
            def pop(self, worker):
                return None

        policy = Miser()
        policy.shared = shared
        with pytest.raises(SchedulerError, match="Miser gives no task to any worker, though 8 of the 8 tasks left are"):
            tw.run(independent(8), {}, scheduler=policy, workers=workers)

    @pytest.mark.parametrize("shared", [False, True])
    def test_policy_that_loses_a_task_is_an_error(self, workers, shared):
        class Loser(Fifo):
            def push(self, task, worker=None):
                if task.label != "trsm(2,0)":
                    super().push(task)

        policy = Loser()
        policy.shared = shared
        g = cholesky_graph(nt=3)
        data = {"A": tw.TiledMatrix.from_numpy(spd_matrix(6), 2)}
        with pytest.raises(
            SchedulerError, match=r"Loser gives no task to any worker, though 1 of the \d tasks left are"
        ):
            tw.run(g, data, scheduler=policy, workers=workers)

    def test_policy_that_gives_a_task_twice_is_an_error_that_names_it(self, workers):
        class Twice(Fifo):
            def pop(self, worker):
                return self.queue[0] if self.queue else None

        with pytest.raises(SchedulerError, match=r"Twice gives out noop\(0\), which is (running|done)"):
            tw.run(independent(8), {}, scheduler=Twice(), workers=workers)

    @pytest.mark.parametrize(
        "made_up",
        ["potrf", 3, independent(8).tasks[0], object()],
        ids=["a name", "a number", "another graph's task", "an object"],
    )
    def test_policy_that_makes_tasks_up_is_an_error(self, workers, made_up):
        class Dreamer(Fifo):
            def pop(self, worker):
                return made_up

        with pytest.raises(SchedulerError, match="Dreamer gives out .*, which is no task of this graph"):
            tw.run(independent(8), {}, scheduler=Dreamer(), workers=workers)

    def test_policy_that_gives_a_task_too_early_is_an_error_and_the_task_does_not_run(self, workers):
        class Hasty(Fifo):
            def prepare(self, graph, machine):
                super().prepare(graph, machine)
                self.last = graph.tasks[-1]

            def pop(self, worker):
                return self.last

        ran = []
        g = TaskGraph()
        x = g.handle("x")
        g.insert(noop, RW(x))
        g.insert(lambda _: ran.append(1), RW(x))
        with pytest.raises(SchedulerError, match="which waits for 1 tasks"):
            tw.run(g, {"x": 0}, scheduler=Hasty(), workers=workers)
        assert ran == []

    @pytest.mark.parametrize("method", ["prepare", "push", "pop"])
    def test_error_in_a_policy_comes_out(self, workers, method):
        class Broken(Fifo):
            pass

        def broken(self, *args):
            raise ZeroDivisionError(method)

        setattr(Broken, method, broken)
        with pytest.raises(ZeroDivisionError, match=method):
            tw.run(cholesky_graph(2), {"A": tw.TiledMatrix.empty((4, 4), 2)}, scheduler=Broken(), workers=workers)

    def test_error_in_a_policy_in_the_middle_of_a_run_comes_out_and_names_the_policy(self, workers):
        class Tired(Fifo):
            def push(self, task, worker=None):
                if worker is not None:
                    raise ZeroDivisionError
                super().push(task)

        g = cholesky_graph(nt=4)
        data = {"A": tw.TiledMatrix.from_numpy(spd_matrix(8), 2)}
        with pytest.raises(ZeroDivisionError) as caught:
            tw.run(g, data, scheduler=Tired(), workers=workers)
        assert caught.value.__notes__ == ["in scheduler Tired"]

    def test_own_policy_may_bind_tasks_to_workers(self, workers):
        class Owner:
            """Three methods and no promise: tile row i belongs to worker i mod p."""

            def prepare(self, graph, machine):
                self.queues = [[] for _ in range(machine.workers)]

            def push(self, task, worker=None):
                self.queues[task.writes[0].index[0] % len(self.queues)].append(task)

            def pop(self, worker):
                return self.queues[worker].pop(0) if self.queues[worker] else None

        a = spd_matrix(60)
        g = cholesky_graph(nt=10)
        for _ in range(10):
            tiles = tw.TiledMatrix.from_numpy(a, 6)
            run = tw.run(g, {"A": tiles}, scheduler=Owner(), workers=workers)
            run.trace.check()
            assert all(r.worker == g.tasks[r.task].writes[0].index[0] % workers for r in run.trace)
            assert np.allclose(np.tril(tiles.to_numpy()), np.linalg.cholesky(a))
        assert run.scheduler == "Owner"

    def test_policy_may_decide_by_what_others_were_given(self, workers):
        """A worker gets a task only if no other has had fewer: None now does not mean None for ever."""

        class Fair(Fifo):
            def prepare(self, graph, machine):
                super().prepare(graph, machine)
                self.given = [0] * machine.workers

            def pop(self, worker):
                if not self.queue or self.given[worker] > min(self.given):
                    return None
                self.given[worker] += 1
                return self.queue.pop(0)

        for _ in range(20):
            run = tw.run(independent(12), {}, scheduler=Fair(), workers=workers)
            run.trace.check()
            assert [sum(r.worker == w for r in run.trace) for w in range(workers)] == [12 // workers] * workers

    def test_policy_sees_which_worker_made_a_task_ready(self, workers):
        seen = []

        class Watcher(Fifo):
            def push(self, task, worker=None):
                seen.append(worker)
                super().push(task)

        g = TaskGraph()
        x, y = g.handle("x"), g.handle("y")
        g.insert(noop, W(x))
        g.insert(noop, R(x), W(y))
        run = tw.run(g, {}, scheduler=Watcher(), workers=workers)
        assert seen == [None, run.trace.records[0].worker]


class TestWorkers:
    def test_independent_tasks_run_side_by_side(self):
        meet = threading.Barrier(3, timeout=30)
        g = TaskGraph()
        A = g.handles("A")
        for i in range(3):
            g.insert(lambda x: meet.wait() and None, RW(A[i]))
        run = tw.run(g, {"A": [0, 0, 0]}, workers=3)
        assert {record.worker for record in run.trace} == {0, 1, 2}

    def test_one_worker_runs_in_the_calling_thread(self):
        g = TaskGraph()
        g.insert(lambda x: threading.current_thread(), RW(g.handle("x")))
        assert tw.run(g, {"x": 0}, workers=1)["x"] is threading.current_thread()

    def test_of_two_errors_the_one_of_the_earlier_task_comes_out(self):
        meet = threading.Barrier(2, timeout=30)

        def fail(x, number):
            meet.wait()
            raise ValueError(f"task {number}")

        g = TaskGraph()
        A = g.handles("A")
        for i in range(2):
            g.insert(fail, RW(A[i]), i)
        for _ in range(20):
            with pytest.raises(ValueError, match="task 0"):
                tw.run(g, {"A": [0, 0]}, workers=2)

    def test_interpreter_exit_raised_by_a_task_comes_out(self):
        g = TaskGraph()
        A = g.handles("A")
        for i in range(4):
            g.insert(lambda x: sys.exit(3), RW(A[i]))
        with pytest.raises(SystemExit):
            tw.run(g, {"A": [0] * 4}, workers=2)

    def test_thread_that_cannot_start_ends_the_run_without_a_leftover(self, monkeypatch):
        start, started = threading.Thread.start, []

        def refuse(thread):
            if len(started) == 2:
                raise RuntimeError("can't start new thread")
            started.append(thread)
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            tw.run(cholesky_graph(6), {"A": tw.TiledMatrix.from_numpy(spd_matrix(12), 2)}, workers=4)
        assert [thread.is_alive() for thread in started] == [False, False]


INTERRUPTED = """
import signal, sys, threading, time
import tilewright as tw

signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may have had it ignored
running, ran = [], []

def task(x, duration):
    running.append(1)
    sys.stdout.write("begun\\n")
    sys.stdout.flush()
    end = time.monotonic() + duration
    while time.monotonic() < end:
        time.sleep(0.01)
    running.pop()
    ran.append(1)

g = tw.TaskGraph()
A = g.handles("A")
for i in range(1000):
    g.insert(task, tw.RW(A[i]), 0.1 if i else 0.6)  # the first worker is the last to end
try:
    tw.run(g, {"A": [0] * 1000}, backend=sys.argv[1], workers=int(sys.argv[2]), progress=sys.argv[3] == "progress")
except KeyboardInterrupt as error:
    workers = [t for t in threading.enumerate() if t is not threading.main_thread() and "worker" in t.name]
    print("interrupted", "running", len(running) if sys.argv[2] != "1" else 0, "threads", len(workers), "ran", len(ran) < 100)
"""


@pytest.mark.parametrize(
    ("backend", "workers", "progress"),
    [("serial", 1, ""), ("threads", 1, ""), ("threads", 2, ""), ("threads", 4, ""), ("threads", 2, "progress")],
)
def test_ctrl_c_ends_a_run_promptly_and_leaves_nothing(backend, workers, progress):
    """When KeyboardInterrupt surfaces no task is running any more; 1000 tasks would take minutes."""
    command = [sys.executable, "-c", INTERRUPTED, backend, str(workers), progress]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "begun\n"
            time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert out.splitlines()[-1:] == ["interrupted running 0 threads 0 ran True"], err
    assert process.returncode == 0


def pools():
    return sorted((pool["filepath"], pool["num_threads"]) for pool in threadpoolctl.threadpool_info())


class TestThreadSettings:
    @pytest.fixture
    def torch_threads(self):
        import torch

        before = torch.get_num_threads()
        yield torch
        torch.set_num_threads(before)

    @pytest.mark.parametrize("backend", COMPUTING)
    @pytest.mark.parametrize("threads", [1, 2, 3])
    def test_settings_are_the_users_after_a_run_and_after_a_failed_run(self, library, torch_threads, backend, threads):
        torch_threads.set_num_threads(threads)
        with threadpoolctl.threadpool_limits(threads):
            before = pools(), torch_threads.get_num_threads()
            for a in (spd_matrix(20), -spd_matrix(20)):
                for workers in (1, 2):
                    try:
                        tw.tiled_cholesky(a, tile_size=6, backend=backend, workers=workers)
                    except tw.NotPositiveDefiniteError:
                        assert a[0, 0] < 0
                    assert (pools(), torch_threads.get_num_threads()) == before
        assert before[1] == threads

    @pytest.mark.needs("torch")
    def test_torch_s_first_work_in_a_thread_leaves_it_at_one(self, library, torch_threads):
        """Torch sets the numbers of a new thread at its first work there, once somebody has called set_num_threads."""
        torch_threads.set_num_threads(2)
        seen = []

        def work():
            with one_thread():
                torch_threads.ones(40, 40) @ torch_threads.ones(40, 40)
                seen.extend(setting.get() for setting in library.threads if setting.of_thread)
                seen.append(torch_threads.get_num_threads())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert set(seen) == {1}

    def test_library_has_one_thread_in_each_task_and_the_users_number_after(self, library):
        seen = []

        def look(x):
            of_thread = [setting for setting in library.threads if setting.of_thread]
            if of_thread:
                seen.append(max(setting.get() for setting in of_thread))
            else:
                seen.append(max(p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"))

        g = TaskGraph()
        A = g.handles("A")
        for i in range(6):
            g.insert(look, RW(A[i]))
        with threadpoolctl.threadpool_limits(2):
            tw.run(g, {"A": [0] * 6}, workers=2)
            assert {p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"} == {2}
        assert seen == [1] * 6

    def test_overlapping_runs_restore_the_setting_when_the_last_one_ends(self):
        first_began, second_ended = threading.Event(), threading.Event()

        def long(x):
            first_began.set()
            assert second_ended.wait(30)

        def outer():
            g = TaskGraph()
            g.insert(long, RW(g.handle("x")))
            tw.run(g, {"x": 0}, workers=1)

        with threadpoolctl.threadpool_limits(2):
            before = pools()
            thread = threading.Thread(target=outer)
            thread.start()
            try:
                assert first_began.wait(30)
                tw.run(independent(3), {}, workers=2)
                assert {p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"} == {1}
            finally:
                second_ended.set()
                thread.join()
            assert pools() == before

    def test_run_that_began_first_and_ended_first_leaves_the_restoring_to_the_last(self):
        """The setting is restored by another thread than the one that set it, which is still alive."""
        second_began, first_ended = threading.Event(), threading.Event()

        def long(x):
            second_began.set()
            assert first_ended.wait(30)

        def second():
            g = TaskGraph()
            g.insert(long, RW(g.handle("x")))
            tw.run(g, {"x": 0}, workers=1)

        def launch(x):
            thread.start()
            assert second_began.wait(30)

        thread = threading.Thread(target=second)
        g = TaskGraph()
        g.insert(launch, RW(g.handle("x")))
        with threadpoolctl.threadpool_limits(2):
            before = pools()
            try:
                tw.run(g, {"x": 0}, workers=1)
            finally:
                first_ended.set()
                thread.join()
            assert pools() == before

    def test_one_thread_restores_the_setting_of_the_calling_thread(self, library):
        previous = [setting.get() for setting in library.threads]
        try:
            for setting in library.threads:
                setting.set(2)
            with one_thread():
                assert {setting.get() for setting in library.threads if setting.of_thread} <= {1}
            with pytest.raises(ZeroDivisionError), one_thread():
                raise ZeroDivisionError
            assert {setting.get() for setting in library.threads} == {2}
        finally:
            for setting, threads in zip(library.threads, previous, strict=True):
                setting.set(threads)

    def test_the_threads_of_scipys_blas_are_those_of_scipy_and_not_of_numpy(self):
        openblas = blas.load("openblas")
        pools = [p for p in threadpoolctl.threadpool_info() if p["filepath"] == openblas.path]
        assert [p["version"] for p in pools] == [openblas.version.split()[1]]
        assert "numpy.libs" not in openblas.path

    def test_a_run_of_tile_kernels_holds_the_library_in_use_at_one_thread(self, library):
        """Without looking for all libraries that are loaded, which takes longer than a small factorisation."""
        whole = [setting for setting in library.threads if not setting.of_thread]
        before = [setting.get() for setting in whole]
        with limits(False):
            assert {setting.get() for setting in whole} <= {1}
            with limits(False):
                assert {setting.get() for setting in whole} <= {1}
            assert {setting.get() for setting in whole} <= {1}
        assert [setting.get() for setting in whole] == before


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(0, 10_000), st.sampled_from(["prio", "critical-path", "lookahead(2)"]))
def test_one_worker_that_knows_the_order_beforehand_gets_the_tasks_as_by_push_and_pop(count, seed, scheduler):
    """`Ranked.alone` is the order of push and pop, where it is one."""
    generator = random.Random(seed)
    g = tw.TaskGraph()
    x = g.handles("x")
    for _ in range(count):
        uses = [tw.R(x[generator.randrange(6)]) for _ in range(generator.randrange(3))]
        g.insert(pass_on, *uses, tw.RW(x[6 + generator.randrange(4)]), priority=float(generator.randrange(2)))
    asked, frontier, order = policy(scheduler), Frontier(g), []
    asked.prepare(g, Machine(workers=1))
    ready = frontier.start()
    while not frontier.finished:
        for task in ready:
            asked.push(task, 0)
        order.append(asked.pop(0))
        frontier.hand_out(order[-1])
        ready = frontier.done(order[-1])
    run = tw.run(g, {"x": [0] * 10}, workers=1, scheduler=scheduler)
    run.trace.check()
    known = asked.alone()
    assert known is None or [record.task for record in run.trace] == [task.index for task in known] == [
        task.index for task in order
    ]
    assert known is not None or scheduler == "lookahead(2)" or len({task.priority for task in g}) == 2


def pass_on(*values):
    return values[-1]
