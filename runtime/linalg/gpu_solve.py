"""`solve` for torch tensors that are not in host memory: everything stays on their device.

The factor comes from `tilewright.linalg.gpu`, by the tile graph of the CPU. Refinement runs the loops of `System`;
but where these run a graph of tile tasks, a few calls of torch on whole tensors do, as a GPU does not need a vector cut
in pieces. Only a few numbers per step travel to the host.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, sqrt
from typing import Any

import numpy as np

from tilewright.linalg import ladder
from tilewright.linalg.classical import classical_graph
from tilewright.linalg.conjugate_gradients import cg_graph
from tilewright.linalg.gmres import gmres_start_graph, gmres_step_graph, gmres_update_graph
from tilewright.linalg.mixed import factor_on_device
from tilewright.linalg.operator import residual_graph
from tilewright.linalg.problem import Problem
from tilewright.linalg.solve_info import SolveInfo
from tilewright.linalg.stage import Stage
from tilewright.linalg.stopping import U
from tilewright.linalg.system import System

__all__ = ["DeviceProblem", "DeviceSystem", "row_sums"]


def row_sums(a: Any) -> Any:
    """The sums of |a_ij| along the rows of the symmetric matrix whose lower triangle is given."""
    below = a.tril().abs()
    return below.sum(dim=1) + below.sum(dim=0) - below.diagonal()


class DeviceSystem(System):
    """A `System` whose matrix and vectors are FP64 tensors on one device. A copy of A with both triangles is made."""

    nests = False  # an FP32 copy of A besides would cost memory that is scarce there

    def __init__(self, a: Any, b: Any, norm: float) -> None:
        import torch

        self.torch = torch
        lower = a.tril(-1)
        self.a = lower + lower.mT
        self.a.diagonal().copy_(a.diagonal())
        self.norm, self.nt = norm, 1
        self.n, self.m = b.shape
        self.kind = np.dtype(np.float64)
        self.b = b
        self.x, self.z, self.p, self.v = (torch.zeros_like(b) for _ in range(4))
        self.r = b.clone()
        self.sizes = np.zeros((3, self.m))
        self.scalars = {name: np.zeros((1, self.m)) for name in ("rho", "alpha", "beta", "curvature", "norm")}
        self.bound = _host(b.abs().amax(dim=0))
        self.residuals = []
        self.tolerance = sqrt(self.n) * U
        self._steps: dict[Callable[..., Any], Callable[..., None]] = {
            residual_graph: self._true_residual, classical_graph: self._classical_step,
            cg_graph: self._cg_step, gmres_start_graph: self._gmres_start,
            gmres_step_graph: self._gmres_step, gmres_update_graph: self._gmres_update,
        }  # fmt: skip

    def use(self, L: Any, scale: Any, tile_size: int = 0, narrow: Any = None) -> None:
        self.L, self.d = L, scale.reshape(self.n, 1)
        self.krylov = {name: {} for name in ("H", "Y")}
        self._basis: list[Any] = []
        size = _host(self.r.abs().amax(dim=0))
        if not (size < self.bound).all() or not bool(self.x.isfinite().all()):
            self.x.zero_()
            self.r.copy_(self.b)
        self._measure()

    def replay(self, graph: Callable[..., Any], *arguments: int) -> None:
        numbers = [k for k in arguments if not isinstance(k, bool)]  # the factor has no tiles in BF16 here
        self._steps[graph](*numbers)

    def restart(self) -> None:
        self.scalars["rho"][...] = inf
        self.p.zero_()

    # -------------------------------------------------------------- one step each

    def _precondition(self, r: Any) -> Any:
        """D L^-T L^-1 D r in the precision of L."""
        solve = self.torch.linalg.solve_triangular
        scaled = self.d * r
        size = scaled.abs().amax(dim=0)
        size = self.torch.where(size > 0, size, self.torch.ones_like(size))
        w = (scaled / size).to(self.L.dtype)
        w = solve(self.L.mT, solve(self.L, w, upper=False), upper=True)
        return self.d * w.to(r.dtype) * size

    def _measure(self) -> None:
        blocks = (self.x, self.r, self.d * self.r)
        self.sizes[...] = _host(self.torch.stack([block.abs().amax(dim=0) for block in blocks]))

    def _true_residual(self) -> None:
        self.torch.sub(self.b, self.a @ self.x, out=self.r)
        self._measure()

    def _classical_step(self) -> None:
        self.x += self._precondition(self.r)
        self._true_residual()

    def _cg_step(self) -> None:
        s = self.scalars
        z = self._precondition(self.r)
        rho = _host((self.r * z).sum(dim=0))
        s["beta"][0] = _ratio(rho, s["rho"][0])
        s["rho"][0] = rho
        self.p.mul_(self._on_device(s["beta"])).add_(z)
        v = self.a @ self.p
        s["curvature"][0] = _host((self.p * v).sum(dim=0))
        s["alpha"][0] = _ratio(rho, s["curvature"][0])
        alpha = self._on_device(s["alpha"])
        self.x += alpha * self.p
        self.r -= alpha * v
        self._measure()

    def _gmres_start(self) -> None:
        norm = self.r.norm(dim=0)
        self.scalars["norm"][0] = _host(norm)
        self._basis = [self._unit(self.r, norm)]

    def _gmres_step(self, k: int) -> None:
        w = self.a @ self._precondition(self._basis[k])
        for turn in range(2):
            h = self.torch.stack([(v * w).sum(dim=0) for v in self._basis])
            for v, coefficient in zip(self._basis, h, strict=True):
                w -= v * coefficient
            self.krylov["H"][k, turn] = _host(h)
        norm = w.norm(dim=0)
        self.scalars["norm"][0] = _host(norm)
        self._basis.append(self._unit(w, norm))

    def _gmres_update(self, k: int) -> None:
        y = self._on_device(self.krylov["Y"][k])
        u = self.torch.zeros_like(self.x)
        for v, coefficient in zip(self._basis, y, strict=False):
            u += v * coefficient
        self.x += self._precondition(u)
        self._true_residual()

    def grow(self, k: int) -> None:
        self.krylov["Y"][k] = np.zeros((k, self.m))

    def _unit(self, w: Any, norm: Any) -> Any:
        return self.torch.where(norm > 0, w / norm, self.torch.zeros_like(w))

    def _on_device(self, values: np.ndarray) -> Any:
        return self.torch.as_tensor(values, device=self.b.device)


def _host(tensor: Any) -> np.ndarray:
    values: np.ndarray = tensor.detach().cpu().numpy()
    return values


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros_like(above), where=(below > 0) & np.isfinite(below))


class DeviceProblem(Problem):
    """A `Problem` with tensors. Entries beyond 2^400 are not scaled: where that overflows, `AccuracyError` says so."""

    def __init__(
        self, a: Any, b: Any, precision: Any, refine: str, fallback: bool, check_finite: bool, check_symmetric: bool,
        lower: bool, tile_size: int | None, stage: Stage,
    ) -> None:  # fmt: skip
        import torch

        if a.ndim != 2 or a.shape[0] != a.shape[1]:
            raise ValueError(f"the matrix a must be square, not of shape {tuple(a.shape)}")
        b = torch.as_tensor(b, device=a.device)
        if b.ndim not in (1, 2) or len(b) != len(a):
            raise ValueError(f"b must have {len(a)} rows, not shape {tuple(b.shape)}")
        if a.is_complex() or b.is_complex():
            raise TypeError("complex systems are solved on the CPU; pass a.cpu()")
        if a.requires_grad or b.requires_grad:
            raise TypeError("the solution is not differentiable; pass tensor.detach()")
        self.torch, self.n, self.stage = torch, len(a), stage
        self.precision, self.refine, self.fallback = precision, refine, fallback
        self.check_finite, self.check_symmetric, self.given_tile_size = check_finite, check_symmetric, tile_size
        self.roundoff = torch.finfo(a.dtype).eps / 2 if a.is_floating_point() else U
        self.a = (a if lower else a.mT).to(torch.float64)
        self.b = b.reshape(len(b), -1).to(torch.float64)
        self.info = SolveInfo(self.n, self.b.shape[1], "float64")
        self.system = None

    def solve(self) -> Any:
        if not self.b.numel():
            return self.b
        with self.timed("check"):
            if self.check_finite and not bool(self.b.isfinite().all()):
                raise ValueError("b has a NaN or infinity; check_finite=False skips this check")
            if self.check_symmetric and not bool(
                (self.a - self.a.mT).abs().max() <= self.n * self.roundoff * self.a.abs().max()
            ):
                raise ValueError("the matrix a is not symmetric")
            norm = float(row_sums(self.a).max())
            if self.check_finite and not np.isfinite(norm):
                raise ValueError("the matrix a has a NaN or infinity; check_finite=False skips this check")
        rungs = self._rungs()
        self.system = DeviceSystem(self.a, self.b, norm)
        self._climb(self.system, rungs)
        return self.system.x

    def _estimate(self) -> ladder.Estimate:
        rows = self.torch.as_tensor(ladder.sample(self.n), device=self.a.device)
        part = self.a.index_select(0, rows).index_select(1, rows)
        return ladder.judge(_host(part), self.n)

    def _mixed(self, rung: Any, shift: float | None) -> Any:
        stage = self.stage
        tile_size = self.given_tile_size if isinstance(rung, str) else None
        return factor_on_device(self.a, rung, tile_size, stage.workers, stage.scheduler, stage.backend, shift)

    def _start(self, guess: ladder.Estimate) -> ladder.Estimate:
        return guess  # no rates there: the lowest rung

    def _price(self, rung: str | None, below: Any) -> float:
        return inf  # not measured there

    def _ones(self) -> Any:
        return self.torch.ones(self.n, dtype=self.torch.float64, device=self.a.device)
