"""torch's state per thread reaches the workers of a run."""

import numpy as np
import pytest
import torch
from dask_ops import torch_state

import tilewright as tw
from tilewright.backends.execution.torch_state import TorchState, capture
from tilewright.graph import Layout


def product(x, y):
    y[...] = torch.mm(torch.from_numpy(x), torch.from_numpy(x)).float().numpy()


def seen(workers=2):
    g = tw.TaskGraph()
    x = g.handles("x")
    for i in range(8):
        g.insert(torch_state, tw.W(x[i]))
    run = tw.run(g, {"x": [np.zeros(1) for _ in range(8)]}, workers=workers)
    return {int(v[0]) for v in run.store.families["x"]}


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_are_under_the_autocast_of_who_submitted(workers):
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert seen(workers) == {1 + 2 + 4 + 8}
    assert seen(workers) <= {0, 2}  # the default dtype of CPU autocast is BF16


def test_prepared_graphs_on_ranks_run_under_the_autocast_of_each_call():
    g = tw.TaskGraph()
    for r in range(2):
        g.insert(torch_state, tw.W(g.handles("x")[r]))
    g.layout = Layout(2, lambda handle: handle.index[0], lambda handle: (1,))
    x = [tw.Handle("x", (r,)) for r in range(2)]
    step = tw.Resident({}, ranks=2, owner=g.layout.owner, backend="mpi").prepare(g, inputs=[], outputs=x)
    with torch.autocast("cpu", torch.bfloat16):
        step()
        assert {int(step.outputs[handle][0]) for handle in x} == {1 + 2 + 4}
    step()
    assert {int(step.outputs[handle][0]) for handle in x} <= {0, 2}


def test_product_in_a_worker_is_rounded_as_in_the_caller():
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    g = tw.TaskGraph()
    for i in range(4):
        g.insert(product, tw.R(g.handle("x")), tw.W(g.handles("y")[i]))
    with torch.autocast("cpu", torch.bfloat16):
        wanted = torch.mm(torch.from_numpy(x), torch.from_numpy(x)).float().numpy()
        run = tw.run(g, {"x": x, "y": [np.zeros((64, 64), np.float32) for _ in range(4)]}, workers=2)
    assert all(np.array_equal(y, wanted) for y in run.store.families["y"])
    assert not np.array_equal(wanted, x @ x)


def test_state_is_plain_data():
    with torch.autocast("cpu", torch.float16):
        assert capture() == TorchState((("cpu", "float16"),), True, False)
    with torch.inference_mode():
        assert capture() == TorchState((), False, True)
    assert capture() == TorchState()


def test_entering_ends_with_the_block():
    with TorchState((("cpu", "bfloat16"),), False, False).entered():
        assert torch.is_autocast_enabled("cpu") and not torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()
    with TorchState((), False, True).entered():
        assert torch.is_inference_mode_enabled()
