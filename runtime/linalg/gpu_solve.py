"""`solve` for torch tensors that are not in host memory: everything stays on their device.

The factor comes from `tilewright.linalg.gpu`, by the tile graph of the CPU. Refinement runs the loops and the graphs of
`System` with one tile, as a GPU does not need a vector cut in pieces. Only a few numbers per step travel to the host.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, sqrt
from typing import Any

import numpy as np

from tilewright.graph import TaskGraph
from tilewright.kernels.tensor_vectors import normsd
from tilewright.linalg import ladder
from tilewright.linalg.gpu import factor_on_device
from tilewright.linalg.operator import blocks_graph
from tilewright.linalg.problem import Problem
from tilewright.linalg.runner import Bindings, Runner
from tilewright.linalg.solve_info import SolveInfo
from tilewright.linalg.stopping import U
from tilewright.linalg.system import System

__all__ = ["DeviceProblem", "DeviceSystem", "row_sums"]


def row_sums(a: Any) -> Any:
    """The sums of |a_ij| along the rows of the symmetric matrix whose lower triangle is given."""
    sums = a.new_zeros((len(a), 1))
    normsd(a, sums)
    return sums[:, 0]


class DeviceSystem(System):
    """A `System` whose matrix and vectors are FP64 tensors on one device, each a single tile.

    F, the blocks on the diagonal of A, is a copy of A with both triangles. What the methods look at between two graphs,
    sizes and scalars, is copied to the host after each.
    """

    nests = False  # an FP32 copy of A besides would cost memory that is scarce there

    def __init__(self, a: Any, b: Any, norm: float) -> None:
        import torch

        self.torch = torch
        self.runner = Runner("serial")  # tasks of a single tile follow each other
        self.norm, self.nt = norm, 1
        self.n, self.m = b.shape
        self.kind = np.dtype(np.float64)
        self.b = b
        self.x, self.z, self.p, self.v = (torch.zeros_like(b) for _ in range(4))
        self.r = b.clone()
        self.A: Any = {(0, 0): a}
        self.diagonal = {(0, 0): torch.empty_like(a)}
        self.runner.run(blocks_graph(1), {"A": self.A, "F": self.diagonal})
        self._there = torch.zeros((8, self.m), dtype=b.dtype, device=b.device)
        self._here = torch.zeros((8, self.m), dtype=b.dtype)
        self._names = {"rho": 3, "alpha": 4, "beta": 5, "curvature": 6, "norm": 7}
        here = self._here.numpy()
        self.sizes = here[:3]
        self.scalars = {name: here[k : k + 1] for name, k in self._names.items()}
        self.bound = _host(b.abs().amax(dim=0))
        self.residuals = []
        self.tolerance = sqrt(self.n) * U

    def use(self, L: Any, scale: Any, tile_size: int = 0, narrow: Any = None) -> None:
        torch = self.torch
        d = scale.reshape(self.n, 1)
        vectors = {
            "B": self.b,
            "X": self.x,
            "R": self.r,
            "Z": self.z,
            "P": self.p,
            "V": self.v,
            "D": d,
            "W": torch.zeros_like(self.b, dtype=L.dtype),
            "S": self._small(3),
            "T": self._small(1),
        }
        self.data = {
            "A": self.A,
            "F": self.diagonal,
            "L": {(0, 0): L},
            "sizes": self._there[:3],
            **{name: [vector] for name, vector in vectors.items()},
            **{name: self._there[k : k + 1] for name, k in self._names.items()},
        }
        self.krylov = {name: {} for name in ("H", "Y", "number")}
        names = "basis", "H", "parts", "Y", "number"
        self._krylov: dict[str, Any] = {name: {} for name in names} | {"size": self._small(3)}
        self.bindings = Bindings(self.runner, self.data | self._krylov, (), ())
        size = _host(self.r.abs().amax(dim=0))
        if not (size < self.bound).all() or not bool(self.x.isfinite().all()):
            self.x.zero_()
            self.r.copy_(self.b)
        blocks = (self.x, self.r, d * self.r)
        self._there[:3] = torch.stack([block.abs().amax(dim=0) for block in blocks])
        self._here.copy_(self._there)

    def _small(self, rows: int) -> Any:
        return self.torch.zeros((rows, self.m), dtype=self.b.dtype, device=self.b.device)

    def replay(self, graph: Callable[..., TaskGraph], *arguments: Any) -> None:
        tasks = graph(1, *arguments)
        for name, index in tasks.inputs:
            if name in self.krylov:
                self._krylov[name][_key(index)].copy_(self.torch.from_numpy(self.krylov[name][_key(index)]))
        self.bindings.run(tasks)
        self._here.copy_(self._there)
        for name, index in tasks.written:
            if name in self.krylov:
                self.krylov[name][_key(index)][...] = _host(self._krylov[name][_key(index)])

    def restart(self) -> None:
        rho = self._names["rho"]
        self._there[rho] = self._here[rho] = inf
        self.p.zero_()

    def open_krylov(self, most: int) -> None:
        there = self._krylov
        if there["basis"]:
            return
        there["basis"][0], there["parts"][0] = self._small(most * self.n), self._small(most)
        for name, place, rows in (("H", 0, most), ("H", 1, most), ("Y", 0, most), ("number", 0, 1)):
            width = 1 if name == "number" else self.m
            there[name][place] = self._small(rows)[:, :width]
            self.krylov[name][place] = np.zeros((rows, width))


def _key(index: tuple[int, ...]) -> Any:
    """The key of a buffer in its family."""
    return index if len(index) > 1 else index[0]


def _host(tensor: Any) -> np.ndarray:
    values: np.ndarray = tensor.detach().cpu().numpy()
    return values


class DeviceProblem(Problem):
    """A `Problem` with tensors. Entries beyond 2^400 are not scaled: where that overflows, `AccuracyError` says so."""

    def __init__(
        self,
        a: Any,
        b: Any,
        precision: Any,
        refine: str,
        fallback: bool,
        check_finite: bool,
        check_symmetric: bool,
        lower: bool,
        tile_size: int | None,
        runner: Runner,
    ) -> None:
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
        self.torch, self.n, self.runner = torch, len(a), runner
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
        runner = self.runner
        tile_size = self.given_tile_size if isinstance(rung, str) else None
        return factor_on_device(self.a, rung, tile_size, runner.workers, runner.scheduler, runner.backend, shift)

    def _start(self, guess: ladder.Estimate) -> ladder.Estimate:
        return guess  # no rates there: the lowest rung

    def _price(self, rung: str | None, below: Any) -> float:
        return inf  # not measured there

    def _ones(self) -> Any:
        return self.torch.ones(self.n, dtype=self.torch.float64, device=self.a.device)
