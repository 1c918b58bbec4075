"""Data parallel over ranks and Dask workers: the bits of one worker, and decisions that all take together."""

import contextlib
import copy
import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import training_models as zoo

import tilewright as tw
from tilewright.backends.mpi.launcher import environment, mpiexec
from tilewright.training import Fallback, LossScaler, fit, gradients
from tilewright.training.contents import Contents
from tilewright.training.optimizers import optimizers
from tilewright.training.randomness import Stream
from tilewright.training.state import Stage

pytestmark = pytest.mark.long

DATA, TEST = zoo.tiny(), zoo.tiny(16)


@pytest.fixture(scope="module")
def ranks():
    with tw.mpi.Pool(2) as pool:
        yield {"backend": "mpi", "pool": pool}


@pytest.fixture(scope="module")
def dask_workers():
    import distributed

    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=logging.ERROR
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.run(sys.path.insert, 0, str(Path(zoo.__file__).parent))
        yield {"backend": "dask", "client": client}


@pytest.fixture(params=["mpi", "dask"])
def engine(request):
    return request.getfixturevalue("ranks" if request.param == "mpi" else "dask_workers")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_processes_have_the_bits_of_one_worker_with_two_micro_batches(engine, precision):
    torch.manual_seed(0)
    alone = zoo.small_net()
    shared = copy.deepcopy(alone)
    one = fit(alone, DATA, epochs=2, accumulate=2, precision=precision)
    many = fit(shared, DATA, TEST, epochs=2, workers=2, precision=precision, **engine)
    assert many.losses == one.losses and len(many.log.evaluations) == 2
    for (name, left), right in zip(alone.state_dict().items(), shared.state_dict().values(), strict=True):
        assert torch.equal(left, right) or "running" in name or "num_batches" in name  # replica 0 saw half of them
    assert many.run.trace.ranks == 2 and many.run.messages > 0
    assert 0 <= many.overlap <= 1 and many.peak_memory > 0


def test_one_process_that_overflows_makes_all_skip(engine):
    """Failure 13: ranks that disagree on found_inf or on the scale drift apart."""
    marked = zoo.tiny(marked=[5])
    torch.manual_seed(0)
    alone = zoo.bursting_net()
    shared = copy.deepcopy(alone)
    options = {"epochs": 2, "batch_size": 32, "precision": "fp16"}
    one = fit(alone, marked, accumulate=2, scaler=LossScaler(scale=8.0), **options)
    many = fit(shared, marked, workers=2, scaler=LossScaler(scale=8.0), **options, **engine)
    assert many.skipped_steps == one.skipped_steps == 2
    assert [(row["scale"], row["skipped"]) for row in many.steps] == [(r["scale"], r["skipped"]) for r in one.steps]
    assert many.losses == pytest.approx(one.losses, nan_ok=True, abs=0)
    for left, right in zip(alone.parameters(), shared.parameters(), strict=True):
        assert torch.equal(left, right)


def test_all_processes_fall_back_together(engine):
    torch.manual_seed(0)
    result = fit(
        zoo.overflowing(),
        DATA,
        TEST,
        epochs=3,
        batch_size=32,
        workers=2,
        precision="adaptive",
        fallback=Fallback(("fp16", "bf16", "fp32")),
        **engine,
    )
    assert [str(event) for event in result.events] == ["step 2: fp16 -> bf16, 3 losses in a row were not finite"]
    assert [row["precision"] for row in result.steps] == ["fp16"] * 3 + ["bf16"] * 6


def test_checkpoints_of_processes_are_those_of_one(engine, tmp_path):
    torch.manual_seed(0)
    start = zoo.perceptron()
    whole = fit(copy.deepcopy(start), DATA, epochs=2, accumulate=2)
    fit(copy.deepcopy(start), DATA, epochs=1, workers=2, checkpoint=tmp_path, **engine)
    resumed = fit(copy.deepcopy(start), DATA, epochs=2, workers=2, checkpoint=tmp_path, **engine)
    assert resumed.losses == whole.losses and resumed.resumed == 2


def test_a_pipeline_over_processes_has_the_bits_of_one_worker(engine):
    torch.manual_seed(0)
    alone = zoo.perceptron()
    piped = copy.deepcopy(alone)
    one = fit(alone, DATA, TEST, epochs=1, accumulate=4, segments=2)
    many = fit(piped, DATA, TEST, epochs=1, accumulate=4, segments=2, pipeline="zero-bubble", **engine)
    assert many.losses == one.losses and many.test_accuracy == one.test_accuracy


def test_a_head_solved_by_processes_is_that_of_one(engine):
    train, test = zoo.tiny(600), zoo.tiny(64)
    found = []
    for options in ({"accumulate": 2}, {"workers": 2, **engine}):
        torch.manual_seed(0)
        found.append(fit(zoo.perceptron(), train, test, epochs=1, lr=0.001, head="ridge", **options))
    one, many = found
    assert many.head == one.head and many.head_gain > 0
    ranks = {record.rank for record in many.run.trace.records if many.run.graph.tasks[record.task].op.name == "gemm"}
    assert ranks == {0, 1}


def lives(pid):
    """Whether there is such a process, beyond an entry that the system has not cleared away yet."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_training_whose_process_dies_ends_with_an_error_and_resumes_bit_for_bit(engine, request, tmp_path):
    def mortal():
        torch.manual_seed(0)
        return torch.nn.Sequential(*zoo.perceptron(), zoo.DiesOnce(tmp_path / "die", 2))

    whole = fit(mortal(), DATA, epochs=3, accumulate=2)
    options = {"workers": 2, "checkpoint": tmp_path / "run"}
    pool = tw.mpi.Pool(2) if engine["backend"] == "mpi" else None
    with pool or contextlib.nullcontext():
        mine = engine | ({"pool": pool} if pool else {})
        fit(mortal(), DATA, epochs=1, **options, **mine)
        (tmp_path / "die").touch()
        with pytest.raises((tw.RankDied, tw.WorkerDied), match="died"):
            fit(mortal(), DATA, epochs=3, **options, **mine)
    if pool:
        until = time.monotonic() + 10
        while any(map(lives, pool.pids)) and time.monotonic() < until:
            time.sleep(0.01)
        assert pool.closed and not any(map(lives, pool.pids))
    else:
        engine["client"].wait_for_workers(2)
        engine["client"].run(sys.path.insert, 0, str(Path(zoo.__file__).parent))
    resumed = fit(mortal(), DATA, epochs=3, **options, **engine)
    assert resumed.resumed >= 2 and resumed.losses == whole.losses


@pytest.mark.timeout(60)
def test_a_script_on_the_ranks_of_mpiexec_trains_one_model(tmp_path):
    script = Path(__file__).parent / "training_spmd.py"
    command = [mpiexec(), "-n", "2", sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, env=environment("mpich"), capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr
    seen, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert seen["different"].startswith("ranks were called with different graph") and seen == other
    torch.manual_seed(0)
    alone = zoo.perceptron()
    first = fit(alone, DATA, epochs=1, accumulate=2)
    assert seen["losses"][0] == first.losses and seen["weights"] == [p.tolist() for p in alone.parameters()]
    torch.manual_seed(0)
    whole = fit(zoo.perceptron(), DATA, TEST, epochs=2, accumulate=2, head="gp")
    assert (seen["resumed"], seen["losses"][1], seen["accuracy"]) == (2, whole.losses, whole.test_accuracy)
    assert seen["head"] == whole.head.test_accuracy and seen["messages"] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_tensors_of_every_dtype_travel_bit_for_bit(engine, dtype):
    """Failure 21: MPI has no bf16, and NumPy has none either."""
    value = torch.arange(40).to(dtype) / 4 if dtype.is_floating_point else torch.arange(40)
    g = tw.TaskGraph()
    x, y = g.handles("x"), g.handles("y")
    g.insert(zoo.passed_on, tw.R(x[0]), tw.W(y[0]), on=0)
    g.insert(zoo.passed_on, tw.R(y[0]), tw.W(y[1]), on=1)
    run = tw.run(g, {"x": [value]}, workers=2, owner=lambda k: k, **engine)
    got = run[tw.Handle("y", (1,))]
    assert got.dtype == dtype and torch.equal(got, value)


def stage_of(*shapes, memory=None):
    module = torch.nn.Module()
    module.tensors = torch.nn.ParameterList(torch.zeros(shape) for shape in shapes)
    module.tensors[0].data = module.tensors[0].data.to(memory_format=memory) if memory else module.tensors[0].data
    stage = Stage(module, Contents(module), optimizers("sgd", None), Stream(torch.device("cpu"), 0))
    return stage, np.zeros(Stage.words(module), np.float32)


def summed(stage, flat, *replicas):
    total = np.zeros_like(flat)
    for grads in replicas:
        gradients.bucket(stage, list(grads), flat)
        total += flat
    return gradients.summed(stage, total)


def test_large_gradients_of_many_replicas_are_summed_in_fp32():
    """Failure 14: 8 x 20000 is beyond FP16; the order of division and sum does not matter in FP32."""
    stage, flat = stage_of(3)
    (total,) = summed(stage, flat, *[[torch.full((3,), 2e4)]] * 8)
    assert total.dtype == torch.float32 and torch.equal(total, torch.full((3,), 1.6e5))


def test_a_missing_gradient_counts_as_zero_and_one_that_all_lack_stays_missing():
    stage, flat = stage_of(2, (2, 2), 1)
    first, second = [torch.ones(2), None, None], [torch.ones(2), torch.full((2, 2), 3.0), None]
    a, b, c = summed(stage, flat, first, second)
    assert torch.equal(a, torch.full((2,), 2.0)) and torch.equal(b, torch.full((2, 2), 3.0)) and c is None


def test_a_bucket_takes_gradients_in_the_memory_order_of_their_parameters():
    stage, flat = stage_of((2, 3, 4, 4), memory=torch.channels_last)
    weight = stage.parameters[0]
    grad = torch.arange(96.0).view(2, 3, 4, 4)
    (found,) = summed(stage, flat, [grad])
    assert torch.equal(found, grad) and found.stride() == weight.stride()


def test_gpus_are_not_for_engines_that_send_values_between_processes():
    with pytest.raises(ValueError, match="trains on CPUs; pass device='cpu'"):
        fit(zoo.perceptron(), DATA, backend="mpi", device="cuda")
