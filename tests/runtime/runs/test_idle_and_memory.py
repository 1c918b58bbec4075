import dataclasses
import html

import numpy as np
import pytest
import random_graphs

import tilewright as tw
from tilewright.plot.html import run_page
from tilewright.runs.footprint import high_water, nbytes_of
from tilewright.runs.idle import CAUSES, Idle, pieces, split, waits
from tilewright.runs.trace import TaskRecord, Trace
from tilewright.studies.synthetic import random_graph


def job(*_):
    return None


def on_rank(handle):
    return handle.index[0]


def two_ranks():
    """
    rank 0:  x[0] (0-1)                       c: RW x[0] (1-2)
    rank 1:         message x[0] (1-3)        b: R x[0], W y[1] (3-4)   d: RW y[1] (4-5)
    """
    g = tw.TaskGraph()
    x, y = g.handles("x"), g.handles("y")
    g.insert(job, tw.W(x[0]))
    g.insert(job, tw.R(x[0]), tw.W(y[1]))
    g.insert(job, tw.RW(y[1]))
    return tw.simulate(g, tw.Machine(ranks=2, alpha=2.0, tile_size=1), owner=on_rank)


def test_the_parts_of_idle_time_add_up_to_all_of_it():
    owner = lambda h: (h.index[0] + 2 * h.index[1]) % 3  # noqa: E731
    for scheduler in ("eager", "critical-path", "lws"):
        run = tw.simulate(
            tw.cholesky_graph(7), tw.Machine(ranks=3, workers=2, alpha=3.0), scheduler=scheduler, owner=owner
        )
        split_ = run.idle_split
        assert split_.total == pytest.approx(6 * run.makespan - run.trace.busy.sum())
        assert split_.total / (6 * run.makespan) == pytest.approx(run.idle)
        assert split_.communication > 0
        assert split_.overhead >= 0


def test_each_gap_is_named_after_its_cause():
    run = two_ranks()
    assert run.makespan == 5
    idle = split(run.trace)
    # Rank 0 runs out of tasks at 1, and all have begun at 4; rank 1 has a message under way from 1 to 3.
    assert idle == Idle(no_task=1 + 3, communication=2, tail=1)


def test_a_gap_between_tasks_is_split_at_the_last_predecessor_and_the_last_message():
    g = tw.TaskGraph()
    x, y, z = g.handles("x"), g.handles("y"), g.handles("z")
    g.insert(job, tw.W(y[1]))  # rank 1 at 0-1
    g.insert(job, tw.W(z[0]))  # rank 0 at 0-1
    g.insert(job, tw.W(x[0]))  # rank 0 at 1-2
    g.insert(job, tw.R(x[0]), tw.RW(y[1]))  # rank 1 at 5-6, after the message 2-5
    run = tw.simulate(g, tw.Machine(ranks=2, alpha=3.0), scheduler="eager", owner=on_rank)
    idle = split(run.trace)
    assert idle == Idle(no_task=1 + 3, communication=3, tail=1)
    reasons = waits(run.trace)
    assert (reasons[0].reason, reasons[2].reason, reasons[3].reason) == ("start", "worker", "message")
    assert reasons[2].on == 1
    assert run.trace.messages[reasons[3].on].handle == tw.Handle("x", (0,))


def test_a_worker_that_never_had_a_task_had_none_that_was_ready():
    run = tw.simulate(tw.cholesky_graph(1), tw.Machine(workers=4))
    assert split(run.trace) == Idle(no_task=3)
    assert waits(run.trace)[0] == ("start", -1, 0.0)


def chain_of(count, name="x"):
    g = tw.TaskGraph("chain")
    for _ in range(count):
        g.insert(job, tw.RW(g.handle(name)))
    return g


def independent(count):
    """Tasks that wait for nothing, all on rank 0."""
    g = tw.TaskGraph("wide")
    for i in range(count):
        g.insert(job, tw.W(g.handles("x")[0, i]))
    return g


def test_a_chain_on_two_workers_is_too_narrow_and_no_start_up():
    assert split(tw.simulate(chain_of(4), tw.Machine(workers=2)).trace) == Idle(no_task=4)


def test_the_last_tasks_of_a_wide_graph_are_its_tail():
    """5 tasks on 4 workers: three have nothing to do while the last one runs."""
    assert split(tw.simulate(independent(5), tw.Machine(workers=4)).trace) == Idle(tail=3)


def test_a_rank_without_tasks_waits_for_data_while_they_queue_on_another():
    run = tw.simulate(independent(4), tw.Machine(ranks=2, alpha=1.0), owner=on_rank)
    assert split(run.trace) == Idle(data=3, no_task=1)  # nothing queues while the last one runs


def test_a_task_that_is_ready_and_kept_back_is_the_policy_in_a_simulation_and_start_up_on_an_engine():
    class Late:
        """It gives the second task to worker 0, whoever asks."""

        def prepare(self, graph, machine):
            self.ready = []

        def push(self, task, worker=None):
            self.ready.append(task)

        def pop(self, worker):
            return self.ready.pop(0) if self.ready and worker == 0 else None

    run = tw.simulate(independent(2), tw.Machine(workers=2), scheduler=Late())
    assert split(run.trace) == Idle(overhead=1, no_task=1)
    records = [TaskRecord(0, 0, 1.0, 2.0), TaskRecord(1, 1, 1.5, 2.5)]
    assert split(Trace(independent(2), 2, records)) == Idle(startup=2.5, tail=0.5)


def test_pieces_are_the_idle_times_one_by_one():
    run = two_ranks()
    found = [tuple(piece) for piece in pieces(run.trace)]
    assert found == [
        (0, 0, 1.0, 4.0, "no_task"),
        (0, 0, 4.0, 5.0, "tail"),
        (1, 0, 0.0, 1.0, "no_task"),
        (1, 0, 1.0, 3.0, "communication"),
    ]


@pytest.mark.parametrize("seed", range(6))
def test_pieces_and_their_sums_agree_and_fill_the_gaps_of_every_worker(seed):
    graph = random_graph(6, 6, seed)
    machine = tw.Machine(ranks=3, workers=2, alpha=2.0, beta=0.01, tile_size=8)
    run = tw.simulate(graph, machine, scheduler="random", owner=lambda h: h.index[0] % 3)
    total = dict.fromkeys(CAUSES, 0.0)
    busy = {(r, w): [] for r in range(3) for w in range(2)}
    for record in run.trace:
        busy[record.rank, record.worker].append((record.start, record.end))
    for piece in pieces(run.trace):
        total[piece.cause] += piece.end - piece.start
        busy[piece.rank, piece.worker].append((piece.start, piece.end))
    assert total == pytest.approx({cause: getattr(run.idle_split, cause) for cause in CAUSES})
    for spans in busy.values():
        end = 0.0
        for start, until in sorted(span for span in spans if span[0] < span[1]):
            assert start == pytest.approx(end)
            end = until
        assert end == pytest.approx(run.makespan)


def test_the_chain_that_set_the_makespan_is_that_of_the_schedule():
    """A chain of 3 behind two tasks that a first-in-first-out policy runs first on the one worker."""
    g = independent(2)
    for _ in range(3):
        g.insert(tw.Op("link", weight=2), tw.RW(g.handle("y")))
    run = tw.simulate(g, tw.Machine(workers=1), scheduler="eager")
    assert [task.index for task in run.chain.tasks] == [0, 1, 2, 3, 4]
    assert [wait.reason for wait in run.chain.waits] == ["start", "worker", "worker", "dependency", "dependency"]
    assert (run.chain.work, run.chain.messages, run.chain.between) == (8, 0, 0)
    assert run.bounds.critical_path == 6


def test_messages_are_a_part_of_the_chain():
    run = two_ranks()
    assert [task.index for task in run.chain.tasks] == [0, 1, 2]
    assert [wait.reason for wait in run.chain.waits] == ["start", "message", "dependency"]
    assert (run.chain.work, run.chain.messages, run.chain.between) == (3, 2, 0)


@pytest.mark.parametrize("scheduler", ["eager", "lifo", "critical-path", "heft"])
@pytest.mark.parametrize("seed", range(3))
def test_the_parts_of_the_chain_add_up_to_the_makespan(scheduler, seed):
    run = tw.simulate(random_graph(5, 4, seed), tw.Machine(workers=3), scheduler=scheduler)
    chain = run.chain
    assert chain.work + chain.messages + chain.between == pytest.approx(run.makespan)
    assert len({task.index for task in chain.tasks}) == len(chain)


def test_efficiency_is_work_over_workers_times_makespan():
    run = tw.simulate(independent(4), tw.Machine(workers=2))
    assert (run.efficiency, run.of_bound, run.idle) == (1, 1, 0)
    run = tw.simulate(chain_of(4), tw.Machine(workers=2))
    assert (run.efficiency, run.of_bound, run.idle) == (0.5, 1, 0.5)
    for count in (1, 3, 7):
        run = tw.simulate(tw.cholesky_graph(7), tw.Machine(workers=count))
        assert run.efficiency == pytest.approx(7**3 / (count * run.makespan)) == pytest.approx(1 - run.idle)


# ------------------------------------------------------------------ the verdict


def backwards(graph):
    """A policy that runs what has the shortest way to go first."""

    class Backwards:
        def prepare(self, graph, machine):
            self.levels, self.ready = graph.bottom_levels(machine.costs(graph)), []

        def push(self, task, worker=None):
            self.ready.append(task)

        def pop(self, worker):
            if not self.ready:
                return None
            self.ready.sort(key=lambda task: (-self.levels[task.index], task.index))
            return self.ready.pop()

    return Backwards()


def constructed(limit):
    """A run of which one knows what limits it."""
    if limit == "critical path":
        return tw.simulate(chain_of(6), tw.Machine(workers=2))
    if limit == "work":
        return tw.simulate(independent(40), tw.Machine(workers=4))
    if limit == "messages":  # a chain that goes from rank to rank and back
        g = tw.TaskGraph()
        x = g.handles("x")
        g.insert(job, tw.W(x[0]))
        for k in range(6):
            g.insert(job, tw.R(x[k % 2]), tw.W(x[(k + 1) % 2]))
        return tw.simulate(g, tw.Machine(ranks=2, alpha=5.0), owner=on_rank)
    if limit == "distribution":
        return tw.simulate(independent(10), tw.Machine(ranks=3, alpha=0.1), owner=on_rank)
    if limit == "policy":  # 30 tasks of length 1 before a chain of 10, on four workers
        g = independent(30)
        for _ in range(10):
            g.insert(job, tw.RW(g.handle("y")))
        return tw.simulate(g, tw.Machine(workers=4), scheduler=backwards(g))
    if limit == "start-up":  # three of four workers begin late, and then queue behind each other's tasks
        g = independent(16)
        starts = [[0, 1, 2, 3, 4, 5, 6], [4, 5, 6], [4, 5, 6], [4, 5, 6]]
        places = [(worker, start) for worker, own in enumerate(starts) for start in own]
        records = [TaskRecord(t, w, float(at), at + 1.0) for t, (w, at) in enumerate(places)]
        data = dict.fromkeys(g.handles_used, 0)
        return dataclasses.replace(tw.run(g, data, workers=1), trace=Trace(g, 4, records), workers=4)
    pause = 0.19 if limit == "width" else 2.0  # that the engine takes before each task of length 1
    records = [TaskRecord(t, 0, (1 + pause) * t + pause, (1 + pause) * (t + 1)) for t in range(8)]
    return dataclasses.replace(
        tw.run(chain_of(8), {"x": 0}, workers=1), trace=Trace(chain_of(8), 2, records), workers=2
    )


LIMITED = ["critical path", "work", "start-up", "messages", "distribution", "policy", "engine", "width"]


@pytest.mark.parametrize("limit", LIMITED)
def test_the_verdict_says_what_limits_a_run_that_was_made_for_it(limit):
    run = constructed(limit)
    assert run.verdict.limit == limit, str(run)
    assert str(run.verdict).endswith(".") and str(run.verdict).count(". ") == 0
    assert " ".join(str(run.verdict).split()) in " ".join(str(run).split())
    assert f"{run.verdict}" in html.unescape(run_page(run))


def test_the_verdict_on_a_chain_has_no_use_for_workers():
    assert str(constructed("critical path").verdict) == (
        "The critical path is 100% of the makespan: more workers cannot help, nor another policy; smaller tiles or a "
        "shorter chain would."
    )


def test_the_policy_is_not_blamed_for_a_late_start():
    assert str(constructed("start-up").verdict) == (
        "For 43% of the workers' time, most of what was idle, they waited for their first task though some were ready: "
        "the run of 7 s is short, and in a longer one its start would matter less."
    )
    late = constructed("policy")  # the same run, whose first task comes two units later than it might
    shifted = [record._replace(start=record.start + 2, end=record.end + 2) for record in late.trace.records]
    trace = Trace(late.graph, 4, shifted)
    assert "another policy may save up to " in str(late.verdict)
    saved = [
        int(str(run.verdict).split("save up to ")[1].split("%")[0])
        for run in (late, dataclasses.replace(late, trace=trace))
    ]
    gap, makespan = late.makespan - late.bounds.lower, late.makespan
    assert saved == [round(100 * gap / makespan), round(100 * gap / (makespan + 2))]


def test_the_verdict_of_a_busy_run_says_how_far_more_workers_go():
    assert "busy 100% of the time: more workers would help (up to 40 times the speed of one)" in str(
        constructed("work").verdict
    )


def test_nothing_to_do_has_a_verdict():
    run = tw.simulate(tw.TaskGraph("none"))
    assert run.verdict.limit == "nothing" and len(run.chain) == 0
    assert "verdict" in str(run)


def test_in_a_chain_every_task_waits_for_its_predecessor():
    g = tw.TaskGraph()
    for _ in range(4):
        g.insert(job, tw.RW(g.handle("x")))
    run = tw.simulate(g, tw.Machine(workers=2))
    assert [wait.reason for _, wait in sorted(waits(run.trace).items())] == ["start", *["dependency"] * 3]


def test_memory_counts_inputs_from_the_start_and_copies_while_they_are_read():
    run = two_ranks()
    assert high_water(run) == [8, 16]  # rank 1: y[1], and the copy of x[0]
    assert run.memory == 16


def test_memory_of_a_measured_run_is_the_size_of_its_buffers():
    a = np.eye(20) * 3
    _, run = tw.tiled_cholesky(a, tile_size=7, return_run=True)
    lower = 49 + 49 + 36 + 49 + 42 + 42  # tiles (0,0), (1,1), (2,2), (1,0), (2,0), (2,1)
    assert run.memory == 2 * 8 * lower  # of the matrix and of the factor


def test_memory_that_was_not_measured_is_called_an_upper_bound():
    _, run = tw.tiled_cholesky(np.eye(20) * 3, tile_size=7, return_run=True)
    for shown in (str(run), run._repr_html_()):
        assert "at most 4.172 KiB of data, that of the caller included" in shown
    assert "at most 16 bytes of data on the fullest rank" in str(two_ranks())
    measured = dataclasses.replace(run, measured=1 << 20)
    assert measured.memory == 1 << 20 and "memory         1 MiB, measured" in str(measured)


def double(a, b):
    return 2 * a


def test_the_bound_counts_what_was_given_and_what_was_made():
    g = tw.TaskGraph()
    x, y, z = map(g.handle, "xyz")
    g.insert(double, tw.R(x), tw.W(y))
    g.insert(double, tw.R(y), tw.W(z))
    run = tw.run(g, {"x": np.zeros(100)}, backend="serial")
    assert run.memory == sum(run[name].nbytes for name in "xyz") == 2400


def needed(run):
    """Bytes that each rank cannot do without: what its tasks and messages use, from the first use there to the last."""
    spans = {}
    for record in run.trace.records:
        for handle, _ in run.graph.tasks[record.task].uses:
            spans.setdefault((record.rank, handle), []).extend((record.start, record.end))
    for message in run.trace.messages:
        spans.setdefault((message.source, message.handle), []).extend((message.start, message.end))
    peaks = []
    for rank in range(run.trace.ranks):
        mine = [(min(times), max(times), nbytes_of(run, h)) for (r, h), times in spans.items() if r == rank]
        moments = {begin for begin, _, _ in mine}
        peaks.append(max((sum(n for b, e, n in mine if b <= now < e) for now in moments), default=0))
    return peaks


def test_memory_is_no_less_than_what_a_rank_needs_wherever_handles_are_written():
    for seed in range(1, 120, 2):
        case = random_graphs.make(seed)
        ranks = tw.Machine(ranks=random_graphs.RANKS, workers=2, alpha=0.3, beta=0.001)
        if any(i not in case.rooms and not case.given[i] for i in case.used):
            continue  # nobody knows how large that is
        run = tw.simulate(case.graph(), ranks, owner=lambda h, case=case: case.owner[h.name], data=case.data)
        assert all(most >= least for most, least in zip(high_water(run), needed(run), strict=True)), seed


def test_a_handle_that_is_written_on_two_ranks_counts_on_both():
    g = tw.TaskGraph()
    x = g.handle("x")
    g.insert(job, tw.RW(x), on=0)
    g.insert(job, tw.W(x), on=1)
    run = tw.simulate(g, tw.Machine(ranks=2), owner=lambda h: 0, data={"x": np.zeros(5)})
    assert high_water(run) == [40, 40]


def test_the_owner_holds_what_it_only_sends():
    g = tw.TaskGraph()
    g.insert(job, tw.R(g.handle("x")), tw.W(g.handle("y")), on=1)
    run = tw.simulate(g, tw.Machine(ranks=2, alpha=1.0), owner=lambda h: 0, data={"x": np.zeros(5), "y": np.zeros(1)})
    assert high_water(run)[0] >= 40
