"""Policies alone: no threads, no clock. Each is pushed and popped as an engine would."""

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import programs

import tilewright as tw
from tilewright import RW, SCHEDULERS, Machine, Policy, TaskGraph, W, cholesky_graph
from tilewright.passes.frontier import Frontier
from tilewright.schedulers import policy as find_policy

names = pytest.mark.parametrize("name", SCHEDULERS)


def noop(*buffers):
    return None


def ready(count):
    """A graph of tasks that wait for nothing."""
    g = TaskGraph()
    A = g.handles("A")
    for i in range(count):
        g.insert(noop, W(A[i]))
    return g


def prepared(name, graph, workers=1):
    policy = find_policy(name)
    policy.prepare(graph, Machine(workers=workers))
    return policy


def order(name, graph, workers=1, turn=lambda step, workers: step % workers):
    """The order in which workers that take turns get the tasks, each done at once."""
    policy, frontier, result = prepared(name, graph, workers), Frontier(graph), []
    for task in frontier.start():
        policy.push(task)
    while not frontier.finished:
        worker = turn(len(result), workers)
        task = policy.pop(worker)
        if task is None and not getattr(policy, "shared", False):  # it placed what is ready on other workers
            worker, task = next((w, t) for w in range(workers) if (t := policy.pop(w)) is not None)
        assert task is not None, "a shared policy must give any worker a task while there is one"
        assert frontier.hand_out(task)
        result.append(task.index)
        for follower in frontier.done(task):
            policy.push(follower, worker)
    assert all(policy.pop(worker) is None for worker in range(workers))
    return result


@names
class TestEveryPolicy:
    def test_is_a_policy(self, name):
        assert isinstance(find_policy(name), Policy)
        assert find_policy(name) is not find_policy(name)

    @settings(max_examples=25)
    @given(program=programs, workers=st.integers(1, 5))
    def test_gives_out_every_task_once_and_in_a_valid_order(self, name, program, workers):
        g = program.graph()
        place = {index: k for k, index in enumerate(order(name, g, workers))}
        assert sorted(place) == list(range(len(g)))
        assert all(place[p] < place[task.index] for task in g for p in task.predecessors)

    @settings(max_examples=10)
    @given(program=programs, workers=st.integers(1, 5))
    def test_same_calls_give_the_same_plan(self, name, program, workers):
        assert order(name, program.graph(), workers) == order(name, program.graph(), workers)

    def test_prepare_forgets_the_run_before(self, name):
        policy = prepared(name, ready(4), workers=3)
        for task in ready(4):
            policy.push(task)
        policy.prepare(ready(2), Machine(workers=1))
        assert policy.pop(0) is None

    def test_one_worker_may_take_everything_that_is_shared(self, name):
        assert sorted(order(name, cholesky_graph(4), workers=4, turn=lambda step, workers: 3)) == list(range(20))

    def test_empty_policy_gives_none(self, name):
        assert prepared(name, TaskGraph(), workers=2).pop(1) is None


def test_eager_is_first_in_first_out():
    assert order("eager", ready(5)) == [0, 1, 2, 3, 4]


def test_lifo_is_last_in_first_out():
    assert order("lifo", ready(5)) == [4, 3, 2, 1, 0]


def test_lifo_follows_what_it_has_just_made_ready():
    """Two chains of three: one chain to its end, then the other."""
    g = TaskGraph()
    for name in "xy":
        for _ in range(3):
            g.insert(noop, RW(g.handle(name)))
    assert order("lifo", g) == [3, 4, 5, 0, 1, 2]
    assert order("eager", g) == [0, 3, 1, 4, 2, 5]


def test_random_is_seeded():
    plans = {}
    for seed in range(5):
        policy = SCHEDULERS["random"](seed=seed)
        plans[seed] = [order(policy, ready(20)) for _ in range(2)]
        assert plans[seed][0] == plans[seed][1]
    assert len({tuple(plan[0]) for plan in plans.values()}) == 5


def test_random_takes_each_ready_task_equally_often():
    counts = [0] * 4
    for seed in range(400):
        counts[order(SCHEDULERS["random"](seed=seed), ready(4))[0]] += 1
    assert min(counts) > 60


class TestCriticalPath:
    def test_largest_bottom_level_first(self):
        """Insertion order a b c; b heads the longer chain."""
        g = TaskGraph()
        x, y, z = (g.handle(name) for name in "xyz")
        g.insert(noop, RW(x))
        g.insert(noop, RW(y))
        g.insert(noop, RW(y))
        g.insert(noop, RW(y))
        g.insert(noop, RW(z))
        assert order("critical-path", g) == [1, 2, 0, 3, 4]

    def test_ties_go_to_the_smaller_row_then_to_the_smaller_index(self):
        g = TaskGraph()
        A, B = g.handles("A"), g.handles("B")
        for handle in (A[3, 0], A[1, 0], B[1, 0], A[0, 0], A[2, 0]):
            g.insert(noop, W(handle))
        assert order("critical-path", g) == [3, 1, 2, 4, 0]

    def test_cholesky_goes_down_the_panel_then_to_the_next_one(self):
        g = cholesky_graph(4)
        assert [g.tasks[i].label for i in order("critical-path", g)][:7] == [
            "potrf(0)",
            "trsm(1,0)",
            "trsm(2,0)",
            "trsm(3,0)",
            "gemm(2,1,0)",
            "gemm(3,1,0)",
            "syrk(1,0)",
        ]

    def test_closed_form_and_reverse_sweep_give_the_same_plan(self):
        for nt in range(1, 9):
            with_formula, without = cholesky_graph(nt), cholesky_graph(nt)
            without.closed_form = None
            assert order("critical-path", with_formula, 2) == order("critical-path", without, 2)

    def test_beats_eager_where_a_long_chain_is_inserted_last(self):
        """Four short tasks, then a chain of four, on two workers in unit time: 4 steps against 6."""
        g = TaskGraph()
        A = g.handles("A")
        for i in range(4):
            g.insert(noop, W(A[i]))
        for _ in range(4):
            g.insert(noop, RW(A[9]))
        assert makespan("critical-path", g, 2) == 4 == tw.bounds(g, 2).lower
        assert makespan("eager", g, 2) == 6


def makespan(name, graph, workers):
    """Steps of a machine on which every task takes one step."""
    policy, frontier, steps = prepared(name, graph, workers), Frontier(graph), 0
    for task in frontier.start():
        policy.push(task)
    while not frontier.finished:
        batch = [(worker, task) for worker in range(workers) if (task := policy.pop(worker)) is not None]
        for worker, task in batch:
            for follower in frontier.done(task):
                policy.push(follower, worker)
        steps += 1
    return steps


class TestLocalityWorkStealing:
    def test_worker_takes_the_newest_task_that_it_made_ready(self):
        g = ready(4)
        policy = prepared("lws", g, workers=2)
        for task in g:
            policy.push(task, 1)
        assert policy.pop(1) is g.tasks[3]

    def test_worker_without_tasks_steals_the_oldest(self):
        g = ready(4)
        policy = prepared("lws", g, workers=2)
        for task in g:
            policy.push(task, 1)
        assert policy.pop(0) is g.tasks[0]

    def test_nearest_neighbour_is_robbed_first(self):
        g = ready(2)
        policy = prepared("lws", g, workers=6)
        policy.push(g.tasks[0], 3)
        policy.push(g.tasks[1], 5)
        assert policy.pop(0) is g.tasks[1]  # worker 5 stands beside worker 0
        assert policy.pop(0) is g.tasks[0]

    @given(st.integers(1, 70), st.data())
    def test_the_victim_is_the_nearest_with_tasks_the_upper_one_first(self, workers, data):
        full = data.draw(st.lists(st.integers(0, workers - 1), min_size=1, max_size=5))
        worker = data.draw(
            st.integers(0, workers - 1).filter(lambda w: w not in full)
            if len(set(full)) < workers
            else st.sampled_from(full)
        )
        g = ready(1)
        policy = prepared("lws", g, workers)
        for owner in full:
            policy.push(g.tasks[0], owner)
        ring = [(worker + sign * step) % workers for step in range(workers) for sign in (1, -1)]
        assert policy.victim(worker) == next(w for w in ring if w in full)

    def test_first_tasks_are_dealt_out_in_turn(self):
        g = ready(5)
        policy = prepared("lws", g, workers=2)
        for task in g:
            policy.push(task)
        assert [list(queue) for queue in policy.deques] == [
            [g.tasks[0], g.tasks[2], g.tasks[4]],
            [g.tasks[1], g.tasks[3]],
        ]


def test_plans_do_not_depend_on_the_hash_seed():
    """String hashes differ between interpreters, and with them the order of every set of handles."""
    code = (
        "import tilewright as tw; from tilewright.passes.frontier import Frontier\n"
        "for name, policy in tw.SCHEDULERS.items():\n"
        "    g = tw.cholesky_graph(5); policy = policy(); policy.prepare(g, tw.Machine(workers=2)); f = Frontier(g)\n"
        "    for task in f.start(): policy.push(task)\n"
        "    plan = []\n"
        "    while not f.finished:\n"
        "        worker = len(plan) % 2\n"
        "        task = policy.pop(worker) or policy.pop(1 - worker); plan.append(task.index)\n"
        "        for follower in f.done(task): policy.push(follower, worker)\n"
        "    print(name, plan)\n"
    )
    plans = {
        subprocess.check_output([sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, text=True)
        for seed in ("1", "2")
    }
    assert len(plans) == 1
    assert len(plans.pop().splitlines()) == len(SCHEDULERS)


# ------------------------------------------------------------------ one object, one run


def in_a_task_of_itself(policy, run):
    """What a run says whose task starts another with the same policy."""
    g = TaskGraph()
    said = []

    def nested(_):
        with pytest.raises(tw.SchedulerError) as error:
            run(ready(2), policy)
        said.append(str(error.value))

    g.insert(nested, W(g.handle("x")))
    tw.run(g, {}, scheduler=policy, backend="threads", workers=1)
    return said


@pytest.mark.parametrize(
    "run",
    [
        lambda g, policy: tw.run(g, {}, scheduler=policy, backend="threads", workers=2),
        lambda g, policy: tw.run(g, {}, scheduler=policy, backend="threads", workers=2, devices=["cpu"]),
        lambda g, policy: tw.simulate(g, Machine(workers=2), scheduler=policy),
    ],
    ids=["threads", "devices", "simulate"],
)
def test_a_policy_in_another_run_is_refused_by_name_and_free_after_it(run):
    policy = find_policy("lws")
    (said,) = in_a_task_of_itself(policy, run)
    assert said == (
        "this LocalityWorkStealing object schedules another run that has not ended; "
        "several runs at once need an object each, or a scheduler's name"
    )
    assert len(run(ready(2), policy).trace) == 2
