"""The GPU halves of `tilewright bench gemm` and `bench solve`: the same figures, beside cuBLAS and cuSOLVER.

``--device cuda`` is the real thing. ``--device cpu`` takes the same code on CPU tensors: a test of it, no figure.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np

import tilewright as tw
from tilewright.benchmarks.table import story
from tilewright.benchmarks.timing import Contender, Times, alternate
from tilewright.kernels import tensors
from tilewright.linalg.gallery import conditioned_spd
from tilewright.linalg.gpu import device_factor
from tilewright.linalg.gpu_solve import DeviceProblem
from tilewright.linalg.runner import Runner
from tilewright.linalg.solve import SolveInfo

__all__ = ["Device", "measure_factors", "measure_solve"]

FP64_N = 32768
"""Largest order of the factorisations in FP64: matrix, factor and torch's factor are 26 GB."""


class Device:
    """A torch device: waiting for it, and what it is.

    Raises
    ------
    RuntimeError
        There is no such device here.
    """

    def __init__(self, name: str) -> None:
        import torch

        self.torch = torch
        self.device = torch.device(name)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError(f"--device {name}: torch {torch.__version__} sees no CUDA device here")
        self.cuda = self.device.type == "cuda"

    def wait(self) -> None:
        if self.cuda:
            self.torch.cuda.synchronize(self.device)

    def timed(self, name: str, call: Callable[[], Any], repeat: int | None = None) -> Contender:
        """A contender whose time ends when the device is done."""

        def whole() -> None:
            call()
            self.wait()

        return Contender(name, whole, self.wait, repeat)

    def facts(self) -> dict[str, Any]:
        """Device and versions, for the record."""
        facts: dict[str, Any] = {"device": str(self.device), "torch": self.torch.__version__}
        if self.cuda:
            properties = self.torch.cuda.get_device_properties(self.device)
            facts |= {
                "name": properties.name,
                "memory": properties.total_memory,
                "cuda": self.torch.version.cuda,
                "capability": f"{properties.major}.{properties.minor}",
                "driver": _driver(),
            }
        return facts


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.split()[0]
    return None


def covariance(n: int, device: Any, dtype: Any) -> Any:
    """exp(-16 |i - j| / n) plus 1 on the diagonal, made on the device: n^2 words and no index matrix."""
    import torch

    steps = torch.arange(1 - n, n, device=device, dtype=torch.float64).abs()
    decay = torch.exp(-16.0 * steps / n).to(dtype)
    a = torch.as_strided(decay, (n, n), (1, 1)).flip(0)  # row i from the bottom begins at i
    a.diagonal().add_(1.0)
    return a


def measure_factors(
    n: int, repeat: int, tiles: tuple[int, ...], tile_size: int | None, precision: str, name: str
) -> list[dict[str, Any]]:
    """Products of each size in the precision and in FP64, and the factorisations in both beside torch's.

    That in the precision is of order ``n``, from a matrix in FP32: 4 n^2 bytes, as many for the factor and n^2 for its
    BF16 panels, 43 GB at n = 65536. Those in FP64 are of order min(n, 32768).

    ``share`` is the rate of a factorisation over the fastest product of its precision in the same round; ``over_torch``
    how many times longer torch's FP64 factorisation took; ``python`` the time of launching over the time of the run.
    """
    device = Device(name)
    torch = device.torch
    contenders: list[Contender] = []
    flops: dict[str, float] = {}
    facts: dict[str, dict[str, Any]] = {}
    dtypes = {
        "fp64": torch.float64,
        "fp32": torch.float32,
        "tf32": torch.float32,
        "bf16": torch.bfloat16,
        "bf16x3": torch.bfloat16,
        "fp16": torch.float16,
    }
    for form in dict.fromkeys(("fp64", precision)):
        for tile in tiles:
            x, y = (torch.randn((tile, tile), device=device.device).to(dtypes[form]) for _ in "xy")
            label = f"torch.mm {form} {tile}"
            contenders.append(device.timed(label, partial(torch.mm, x, y)))
            flops[label] = 2.0 * tile**3
            facts[label] = {"precision": form, "tile_size": tile}
    launching: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    m = min(n, FP64_N)
    if n:
        cases = [(precision, covariance(n, device.device, torch.float32))] if precision != "fp64" else []
        cases.append(("fp64", double := covariance(m, device.device, torch.float64)))

        def factor(label: str, a: Any, form: str) -> None:
            record = device_factor(a, form, tile_size=tile_size, finish=form == "fp64")[3]
            sizes[label] = record.store.families["A"][0].shape[1]
            busy = record.trace.facts.get("launching", 0.0)
            launching.setdefault(label, []).append(busy / (record.makespan or 1.0))

        for form, a in cases:
            label = f"tilewright factor {form}"
            contenders.append(device.timed(label, partial(factor, label, a, form)))
            flops[label] = len(a) ** 3 / 3
            facts[label] = {"precision": form, "n": len(a)}
        label = "torch.linalg.cholesky fp64"
        contenders.append(device.timed(label, lambda: torch.linalg.cholesky(double)))
        flops[label] = m**3 / 3
        facts[label] = {"precision": "fp64", "n": m}
    with tensors.exact_sums(tf32=precision == "tf32") as switches:
        times = alternate(contenders, repeat)
    records = []
    for label, taken in times.items():
        entry = {
            "benchmark": "gemm", "contender": label, "gflops": flops[label] / taken.median / 1e9, **taken.record(),
            **facts[label], "share": _share(label, times, flops, facts), "switches": switches, "where": device.facts(),
        }  # fmt: skip
        if label in sizes:
            entry |= {"tile_size": sizes[label], "python": median(launching[label])}
        if facts[label]["precision"] == "fp64" and "n" in facts[label]:
            entry["over_torch"] = times["torch.linalg.cholesky fp64"].median / taken.median
        records.append(entry)
    return records


def _share(
    label: str, times: dict[str, Times], flops: dict[str, float], facts: dict[str, dict[str, Any]]
) -> float | None:
    if "n" not in facts[label]:
        return None
    products = [
        other for other in times if "n" not in facts[other] and facts[other]["precision"] == facts[label]["precision"]
    ]
    return median(
        flops[label] / seconds / max(flops[p] / times[p].seconds[turn] for p in products)
        for turn, seconds in enumerate(times[label].seconds)
    )


def measure_solve(
    n: int, condition: float, spectrum: str, repeat: int, precision: str, name: str
) -> list[dict[str, Any]]:
    """FP64 answers on the device beside torch's FP64 Cholesky and solve; ``this_over_ours`` is the goal's ratio."""
    device = Device(name)
    torch = device.torch
    a = torch.from_numpy(conditioned_spd(n, condition, spectrum)).to(device.device)
    b = torch.from_numpy(np.random.default_rng(1).standard_normal((n, 1))).to(device.device)
    found: dict[str, SolveInfo] = {}

    def ours(label: str, rung: str) -> None:
        if device.cuda:
            found[label] = tw.solve(a, b, precision=rung, return_info=True)[1]
            return
        problem = DeviceProblem(a, b, rung, "auto", True, True, False, True, None, Runner())
        problem.solve()
        found[label] = problem.finish(0.0)

    labels = {f"tilewright {rung}": rung for rung in dict.fromkeys((precision, "fp64"))}
    contenders = [device.timed(label, partial(ours, label, rung)) for label, rung in labels.items()]
    contenders.append(device.timed("torch cholesky + solve", lambda: torch.cholesky_solve(b, torch.linalg.cholesky(a))))
    times = alternate(contenders, repeat)
    mine = times[f"tilewright {precision}"].median
    records = []
    for label, taken in times.items():
        info = found.get(label)
        records.append(
            {
                "benchmark": "solve",
                "contender": label,
                "n": n,
                "condition": condition,
                "spectrum": spectrum,
                "gflops": (n**3 / 3 + 2 * n**2) / taken.median / 1e9,
                **taken.record(),
                "where": device.facts(),
                "this_over_ours": taken.median / mine,
                **(story(info) if info is not None else {}),
            }
        )
    return records
