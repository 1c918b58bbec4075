from functools import cache

import numpy as np
import pytest

import tilewright as tw
from tilewright.passes.versions import Dataflow
from tilewright.schedulers.heft import Heft
from tilewright.schedulers.peft import Peft, optimistic_costs
from tilewright.schedulers.placed import Timeline


def test_the_optimistic_cost_table_is_its_definition_on_every_pair_of_workers():
    graph = tw.cholesky_graph(4)
    machine = tw.Machine(
        workers=3,
        ranks=2,
        gpus=1,
        alpha=1e-5,
        beta=1e-9,
        gamma=1e-10,
        acceleration={"gemm": 5.0, "potrf": 0.5},
        device_alpha=1e-6,
    )
    flow = Dataflow(graph)
    groups = Timeline(graph, machine, flow).groups
    table = optimistic_costs(graph, machine, flow, groups)
    mean = machine.mean_transfer(machine.tile_size**2)
    workers = range(machine.size)

    @cache
    def oct_(t, p):
        return max(
            (
                min(
                    oct_(s.index, w)
                    + machine.cost(s, w)
                    + (mean if machine.node(w) != machine.node(p) and _reads(flow, s.index, t) else 0.0)
                    for w in workers
                )
                for s in graph.successors(graph.tasks[t])
            ),
            default=0.0,
        )

    for worker in workers:
        column = groups.index((machine.node(worker), machine.is_gpu(worker)))
        expected = [oct_(t, worker) for t in range(len(graph))]
        assert table[:, column] == pytest.approx(expected, rel=1e-12)


def _reads(flow, task, writer):
    return any(flow.writer[version] == writer for version in flow.reads[task])


def test_peft_and_heft_beat_the_eager_queue_on_cpus_and_gpus():
    graph = tw.cholesky_graph(10)
    machine = tw.Machine(workers=6, gpus=2, gamma=1e-10, acceleration={"gemm": 25.0, "syrk": 25.0, "trsm": 10.0})
    makespan = {name: tw.simulate(graph, machine, scheduler=name).makespan for name in ("eager", "heft", "peft")}
    assert makespan["heft"] < 0.8 * makespan["eager"]
    assert makespan["peft"] < 0.8 * makespan["eager"]


@pytest.mark.parametrize("planner", [Heft, Peft])
def test_a_plan_has_no_overlap_and_respects_transfers(planner):
    graph = tw.cholesky_graph(6)
    machine = tw.Machine(ranks=3, workers=2, alpha=2.0, beta=1e-5)
    timeline = planner().plan(graph, machine)
    for worker in range(machine.size):
        tasks = [t for t in range(len(graph)) if timeline.placement[t] == worker]
        mine = sorted((timeline.start[t], timeline.end[t]) for t in tasks)
        assert all(np.diff(np.ravel(mine)) >= 0)
    for task in graph:
        node = machine.node(timeline.placement[task.index])
        assert timeline.start[task.index] >= timeline.ready(task, node)
