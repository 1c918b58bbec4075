"""Solutions on a device. The code does not ask which device; CPU tensors take it as well, so all but the last class run here."""

import importlib

import numpy as np
import pytest
from matrices import DTYPES, indefinite_matrix, random_matrix, roundoff, spd_matrix
from optional import torch

import tilewright as tw
from tilewright.arguments import is_tensor
from tilewright.linalg import ladder
from tilewright.linalg.gallery import conditioned_spd
from tilewright.linalg.gpu_solve import DeviceProblem, row_sums
from tilewright.linalg.runner import Runner

U = 2.0**-53


def solve(a, b, precision="bf16", refine="auto", fallback=True, lower=True, check_symmetric=False, tile_size=24):
    problem = DeviceProblem(
        torch.as_tensor(a),
        torch.as_tensor(b),
        precision,
        refine,
        fallback,
        True,
        check_symmetric,
        lower,
        tile_size,
        Runner(),
    )
    return problem.solve(), problem.finish(0.0)


@pytest.mark.parametrize("refine", ["auto", "cg", "gmres", "classical"])
@pytest.mark.parametrize("precision", ["bf16", "bf16x3", "fp32", "fp64"])
def test_every_method_and_precision_keeps_the_promise(precision, refine):
    for condition in (10.0, 1e8):
        a, b = conditioned_spd(100, condition, "arithmetic"), random_matrix(100, 2)
        x, info = solve(np.tril(a), b, precision, refine)
        r = np.abs(b - a @ x.numpy()).max(axis=0)
        assert (
            r <= 1.1 * 100 * U * (np.abs(a).sum(axis=1).max() * np.abs(x.numpy()).max(axis=0) + np.abs(b).max())
        ).all()
        assert info.backward_error <= 100 * U
        assert info.path[-1].status == "converged"


def test_ladder_is_climbed():
    _, info = solve(conditioned_spd(200, 1e12), np.ones(200), "bf16x3")
    assert len(info.path) > 1 and info.code < 0
    with pytest.raises(tw.AccuracyError, match="fallback=True"):
        solve(conditioned_spd(200, 1e12), np.ones(200), "bf16x3", fallback=False)


def test_auto_looks_at_the_same_sample_as_on_the_cpu(monkeypatch):
    monkeypatch.setattr(ladder, "SMALL", 1)
    a = conditioned_spd(400, 10.0)
    _, info = solve(a, np.ones(400), "auto", tile_size=100)
    assert info.estimate == ladder.estimate(a)


def test_upper_triangle_zero_right_hand_side_and_nothing():
    a = spd_matrix(40)
    x, _ = solve(np.triu(a), a @ np.ones(40), lower=False)
    assert np.allclose(x, 1, rtol=1e-12)
    x, info = solve(a, np.zeros(40))
    assert not x.any() and info.backward_error == 0
    assert solve(a, np.zeros((40, 0)))[0].shape == (40, 0)


def test_row_sums_are_those_of_the_full_matrix():
    a = spd_matrix(20)
    assert np.allclose(row_sums(torch.from_numpy(np.tril(a))), np.abs(a).sum(axis=1), rtol=1e-14)


def test_bad_input_is_named():
    a = spd_matrix(30)
    with pytest.raises(tw.NotPositiveDefiniteError) as caught:
        solve(indefinite_matrix(30, 17), np.ones(30))
    assert caught.value.order == 17
    with pytest.raises(ValueError, match="b has a NaN"):
        solve(a, np.full(30, np.nan))
    with pytest.raises(ValueError, match="b must have 30 rows"):
        solve(a, np.ones(29))
    with pytest.raises(ValueError, match="square"):
        solve(a[:20], np.ones(20))
    with pytest.raises(TypeError, match="complex"):
        solve(a, np.ones(30, complex))
    for leaf, other in ((a, np.ones(30)), (np.ones(30), a)):
        tensors = torch.tensor(leaf, requires_grad=True), torch.as_tensor(other)
        with pytest.raises(TypeError, match="not differentiable; pass tensor.detach"):
            solve(*(tensors if leaf is a else tensors[::-1]))
    with pytest.raises(ValueError, match="not symmetric"):
        solve(np.tril(a), np.ones(30), check_symmetric=True)
    a[3, 1], a[1, 3] = 1e-16, 0.0
    solve(a, np.ones(30), check_symmetric=True)  # apart by rounding errors of the largest entry, whatever this one is
    a[3, 1] = np.inf
    with pytest.raises(ValueError, match="the matrix a has a NaN"):
        solve(a, np.ones(30))


@pytest.fixture
def on_device(monkeypatch):
    """CPU tensors go the way of those on a GPU."""
    monkeypatch.setattr("tilewright.linalg.call.is_device_tensor", is_tensor)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lower", [True, False])
def test_companions_agree_with_the_tile_graphs(on_device, lower, dtype):
    a, b, u = spd_matrix(30, dtype), random_matrix(30, 2, dtype), roundoff(dtype)
    L = tw.tiled_cholesky(a, lower=lower)
    tensor = torch.from_numpy(L)
    for right in (b, b[:, 0]):
        x = tw.cho_solve(tensor, torch.from_numpy(right), lower=lower)
        assert x.shape == right.shape and np.allclose(x, tw.cho_solve(L, right, lower=lower), rtol=1e5 * u)
    assert tw.logdet(tensor) == pytest.approx(tw.logdet(L), rel=100 * u)
    inverse = tw.cho_inverse(tensor, lower=lower)
    assert torch.equal(inverse, inverse.mH)
    assert np.allclose(inverse, tw.cho_inverse(L, lower=lower), rtol=1e5 * u, atol=100 * u)


def test_companions_return_their_run(on_device):
    L = torch.from_numpy(tw.tiled_cholesky(spd_matrix(30)))
    for call, ops in (
        (lambda **how: tw.cho_solve(L, torch.ones(30), **how), ["copy", "trsml", "trsml"]),
        (lambda **how: tw.logdet(L, **how), ["logdiag", "total"]),
        (lambda **how: tw.cho_inverse(L, **how), ["identity", "trsml", "trsml", "mirror"]),
    ):
        value, run = call(return_run=True)
        assert np.array_equal(value, call())
        assert [task.op.name for task in run.graph] == ops
        assert set(run.kernels.values()) == {"tensor"}


def test_companions_name_bad_input(on_device):
    L = torch.from_numpy(tw.tiled_cholesky(spd_matrix(30)))
    for call in (lambda t: tw.cho_solve(t, torch.ones(2)), tw.cho_inverse):
        with pytest.raises(np.linalg.LinAlgError, match=r"singular: its diagonal is zero at \(0, 0\)"):
            call(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="b must have 30 rows"):
        tw.cho_solve(L, torch.ones(3))
    with pytest.raises(ValueError, match="backend 'dask' cannot run on cpu; use serial or threads"):
        tw.cho_solve(L, torch.ones(30), backend="dask")
    with pytest.raises(TypeError, match="L requires gradients"):
        tw.logdet(L.clone().requires_grad_())
    with pytest.raises(TypeError, match="no kernel on cpu for dtype torch.int64"):
        tw.logdet(torch.ones((2, 2), dtype=torch.int64))
    with pytest.raises(ValueError, match=r"b has a NaN or infinity at \(7\)"):
        tw.cho_solve(L, torch.full((30,), torch.nan).index_fill(0, torch.arange(7), 0.0))
    L[5, 3] = torch.inf
    with pytest.raises(ValueError, match=r"L has a NaN or infinity at \(5, 3\)"):
        tw.cho_solve(L, torch.ones(30))


@pytest.mark.parametrize("assume_a", ["gen", "sym", "her"])
def test_a_tensor_of_a_device_that_is_not_positive_definite_is_refused_and_not_taken_for_it(assume_a, monkeypatch):
    monkeypatch.setattr(importlib.import_module("tilewright.linalg.solve"), "is_device_tensor", torch.is_tensor)
    a = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match=r"is not for a tensor on a GPU, which takes None or 'pos'; a\.cpu\(\)"):
        tw.solve(a, torch.ones(2), assume_a=assume_a)


@pytest.mark.gpu
class TestCuda:
    @pytest.mark.parametrize("precision", ["auto", "bf16", "fp16", "bf16x3", "fp32", "fp64"])
    def test_solution_stays_on_the_device_and_keeps_the_promise(self, precision):
        a, b = conditioned_spd(2000, 1e4), random_matrix(2000, 2)
        x, info = tw.solve(
            torch.from_numpy(a).cuda(), torch.from_numpy(b).cuda(), precision=precision, return_info=True
        )
        assert x.is_cuda and info.hpl_mxp_residual <= 1
        assert np.abs(b - a @ x.cpu().numpy()).max() <= 1e-9

    def test_companions_stay_on_the_device(self):
        a = torch.from_numpy(spd_matrix(500)).cuda()
        L = tw.tiled_cholesky(a)
        x = tw.cho_solve(L, torch.ones(500, dtype=torch.float64, device="cuda"))
        assert x.is_cuda and torch.allclose(a @ x, torch.ones_like(x), rtol=1e-10)
        assert tw.cho_inverse(L).is_cuda
        assert tw.logdet(L) == pytest.approx(float(torch.logdet(a)), rel=1e-10)
        again, run = tw.cho_solve(L, torch.ones_like(x), return_run=True)
        assert torch.equal(again, x) and len(run.graph) == 3
