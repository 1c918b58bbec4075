"""Pipeline schedules: the orders of torch, kept by every engine, with the bits of a training without pipeline."""

import copy

import pytest
import torch
import training_models as zoo
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.pipelining import schedules

import tilewright as tw
from tilewright.training import LossScaler, fit
from tilewright.training.pipeline import PIPELINES, Pipeline, action, pipeline_policy, planned, to_csv
from tilewright.training.step import Division, Span, training_graph

SHAPES = [(1, 1), (1, 4), (2, 2), (2, 5), (3, 3), (3, 6), (4, 4), (4, 8), (4, 12)]


class Recorder:
    """A stage that computes nothing and notes in which order a schedule of torch calls it."""

    def __init__(self, index):
        self.stage_index = index
        self.calls = []

    def forward_one_chunk(self, micro, *_, **__):
        self.calls.append(f"{self.stage_index}F{micro}")

    def backward_one_chunk(self, micro, **_):
        self.calls.append(f"{self.stage_index}B{micro}")

    def __getattr__(self, name):
        if name.startswith("get_"):
            return lambda *_: []
        return lambda *_: None


def torch_order(name, segments, micro):
    """What torch's schedules do on each rank: as called where they are loops, as planned where they are tables."""
    if name == "zero-bubble":
        made = schedules.ScheduleInterleavedZeroBubble.__new__(schedules.ScheduleInterleavedZeroBubble)
        made.n_local_stages, made.pp_group_size, made._n_microbatches = 1, segments, micro
        made.number_of_rounds = max(1, micro // segments)
        made.microbatches_per_round = micro // made.number_of_rounds
        rows = [made._calculate_single_rank_operations(rank) for rank in range(segments)]
        return [[str(a) for a in row if a is not None] for row in rows]
    kind = {"gpipe": schedules.ScheduleGPipe, "1f1b": schedules.Schedule1F1B}[name]
    order = []
    for rank in range(segments):
        made = kind.__new__(kind)
        made._num_stages, made._n_microbatches, made._stage, made.scale_grads = segments, micro, Recorder(rank), False
        for quiet in ("_initialize_stage", "_maybe_compute_loss", "_maybe_get_loss", "_update_losses"):
            setattr(made, quiet, lambda *_: None)
        made._check_inputs = lambda *_: ([()] * micro, [{}] * micro)
        made._step_microbatches()
        order.append(made._stage.calls)
    return order


def test_the_table_of_gpipe_that_torch_prints_is_the_same():
    made = schedules.ScheduleGPipe.__new__(schedules.ScheduleGPipe)
    made._num_stages, made._n_microbatches = 3, 5
    rows = made._get_pipeline_order()
    printed = [[str(a) for a in rows[rank] if a is not None and str(a)[-1].isdigit()] for rank in range(3)]
    assert printed == torch_order("gpipe", 3, 5)


@pytest.mark.parametrize(("segments", "micro"), SHAPES)
@pytest.mark.parametrize("name", PIPELINES)
def test_the_planned_order_is_that_of_torch(name, segments, micro):
    assert [[str(a) for a in row] for row in planned(name, segments, micro)] == torch_order(name, segments, micro)


@pytest.mark.parametrize("name", PIPELINES)
def test_the_csv_is_one_that_torch_reads(name):
    rows = [[schedules._Action.from_str(cell) for cell in row.split(",")] for row in to_csv(name, 3, 6).splitlines()]
    assert [[str(cell) for cell in row] for row in rows] == torch_order(name, 3, 6)


def orders(run, division, steps):
    """By worker, the actions in the order they ran."""
    found = [[] for _ in range(division.places)]
    for record in run.trace.records:
        task = run.graph.tasks[record.task]
        if action(task):
            found[task.on].append(str(action(task)))
    return found


@pytest.mark.parametrize("name", PIPELINES)
@given(segments=st.integers(1, 4), extra=st.integers(0, 3), steps=st.integers(1, 2), slow=st.integers(0, 3))
def test_the_policy_keeps_the_order_on_the_same_graph_whatever_tasks_cost(name, segments, extra, steps, slow):
    division = Division(1, segments + extra, segments, True, name == "zero-bubble")
    graph, _ = training_graph(division, Span(0, steps, 64 * steps, 64))
    cost = {"forward": 1.0 + slow, "forward_loss": 1.0, "backward": 2.0, "apply": 0.5}
    durations = dict.fromkeys((task.op.name for task in graph), 0.1) | cost
    machine = tw.Machine(workers=segments, durations=durations)
    run = tw.simulate(graph, machine, scheduler=Pipeline(name, division))
    run.trace.check()
    expected = [[str(a) for a in row] * steps for row in planned(name, segments, division.micro)]
    assert orders(run, division, steps) == expected


def test_1f1b_keeps_no_more_micro_batches_in_flight_than_there_are_segments_to_come():
    for s, row in enumerate(planned("1f1b", 4, 12)):
        live = most = 0
        for _, kind, _ in row:
            live += 1 if kind == "F" else -1
            most = max(most, live)
        assert most == 4 - s


def test_zero_bubble_is_shorter_than_1f1b_and_1f1b_not_longer_than_gpipe():
    spans = {}
    for name in PIPELINES:
        division = Division(1, 8, 4, True, name == "zero-bubble")
        graph, _ = training_graph(division, Span(0, 1, 64, 64))
        cost = {"forward": 1.0, "forward_loss": 1.0, "backward": 2.0, "backward_input": 1.0, "backward_weight": 1.0}
        costs = dict.fromkeys((task.op.name for task in graph), 1e-9) | cost
        spans[name] = tw.simulate(
            graph, tw.Machine(workers=4, durations=costs), scheduler=Pipeline(name, division)
        ).makespan
    assert spans["zero-bubble"] < spans["1f1b"] - 2 and spans["1f1b"] == pytest.approx(spans["gpipe"], abs=1e-6)


@pytest.mark.parametrize(
    ("make", "precision"),
    [(zoo.small_net, "fp32"), (zoo.small_net, "bf16"), (zoo.perceptron, "fp16")],
    ids=["convolutions-fp32", "convolutions-bf16", "perceptron-fp16"],
)
@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_on_threads_has_the_bits_of_one_worker_and_the_order_of_torch(name, make, precision):
    torch.manual_seed(0)
    alone = make()
    piped = copy.deepcopy(alone)
    data = zoo.tiny()
    options = {"epochs": 1, "accumulate": 3, "precision": precision, "scaler": LossScaler(scale=2.0**20)}
    one = fit(alone, data, zoo.tiny(8), **options)
    many = fit(piped, data, zoo.tiny(8), pipeline=name, **options)
    assert many.losses == one.losses and many.test_accuracy == one.test_accuracy
    assert [row["scale"] for row in many.steps] == [row["scale"] for row in one.steps]
    assert (many.skipped_steps > 0) == (precision == "fp16")
    for left, right in zip(alone.state_dict().values(), piped.state_dict().values(), strict=True):
        assert torch.equal(left, right)
    division = Division(1, 3, 3, True, name == "zero-bubble")
    expected = [row * 2 for row in torch_order(name, 3, 3)]
    assert orders(many.run, division, 2) == expected


def test_two_replicas_of_a_pipeline_share_each_batch():
    torch.manual_seed(0)
    alone = zoo.perceptron()
    shared = copy.deepcopy(alone)
    one = fit(alone, zoo.tiny(), epochs=1, accumulate=2)
    many = fit(shared, zoo.tiny(), epochs=1, workers=2, pipeline="1f1b")
    assert many.losses == one.losses


def test_an_unknown_pipeline_lists_those_there_are():
    with pytest.raises(ValueError, match="known: gpipe, 1f1b, zero-bubble"):
        pipeline_policy("dualpipe", Division())
