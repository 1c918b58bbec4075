"""Solutions on a device. The code does not ask which device; CPU tensors take it as well, so all but the last class run here."""

import numpy as np
import pytest
from matrices import indefinite_matrix, random_matrix, spd_matrix
from optional import torch

import tilewright as tw
from tilewright.linalg import ladder, on_device
from tilewright.linalg.gallery import conditioned_spd
from tilewright.linalg.gpu_solve import DeviceProblem, row_sums
from tilewright.linalg.stage import Stage

U = 2.0**-53


def solve(a, b, precision="bf16", refine="auto", fallback=True, lower=True, check_symmetric=False, tile_size=24):
    problem = DeviceProblem(
        torch.as_tensor(a), torch.as_tensor(b), precision, refine, fallback, True, check_symmetric, lower, tile_size, Stage()
    )  # fmt: skip
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


@pytest.mark.parametrize("lower", [True, False])
def test_companions_agree_with_the_tile_graphs(lower):
    a, b = spd_matrix(30), random_matrix(30, 2)
    L = tw.tiled_cholesky(a, lower=lower)
    tensor = torch.from_numpy(L)
    assert np.allclose(
        on_device.cho_solve(tensor, torch.from_numpy(b), lower), tw.cho_solve(L, b, lower=lower), rtol=1e-10
    )
    assert on_device.logdet(tensor) == pytest.approx(tw.logdet(L), rel=1e-14)
    inverse = on_device.cho_inverse(tensor, lower)
    assert torch.equal(inverse, inverse.T) and np.allclose(inverse, tw.cho_inverse(L, lower=lower), rtol=1e-10)
    for call in (lambda t: on_device.cho_solve(t, torch.ones(2), True), lambda t: on_device.cho_inverse(t, True)):
        with pytest.raises(np.linalg.LinAlgError, match="singular"):
            call(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="b must have 30 rows"):
        on_device.cho_solve(tensor, torch.ones(3), lower)


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
        with pytest.raises(ValueError, match="no run"):
            tw.cho_solve(L, x, return_run=True)
