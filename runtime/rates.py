"""How fast this computer multiplies in each format and moves bytes: by rule, or as the user had it measured.

Choices go by these numbers, such as where ``solve(precision="auto")`` starts; no clock is asked when they are made, so
they do not depend on the hour. `measure` stores what it finds; that belongs to one CPU and takes the place
of the rules.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from tilewright.host import cache as caches
from tilewright.kernels import cpu, table
from tilewright.kernels.threads import limits, one_thread

__all__ = [
    "RULES",
    "Rates",
    "Rule",
    "by_rule",
    "copy_cost",
    "current",
    "forget",
    "measure",
    "median_seconds",
    "path",
    "stored",
]


class Rule(NamedTuple):
    """The rate of products in one format on CPUs that have one of the instruction sets ``needs``; any CPU without."""

    format: str
    needs: tuple[str, ...]
    rate: float
    """Flops per second and core, for ``of`` == ""; else in units of the rate of that format."""
    of: str
    reason: str
    """Why, and what was measured."""


RULES = (
    Rule("fp64", ("amx_tile",), 55e9, "", "two AVX-512 units; Xeon: 165 to 172 GFLOP/s of dgemm on two cores, 110 of "
         "Cholesky at n = 6144 on a shared machine"),
    Rule("fp64", ("avx512f",), 45e9, "", "AVX-512; EPYC Zen 4: tiles of 512 at 45 GFLOP/s a core"),
    Rule("fp64", ("avx2",), 30e9, "", "half the width of AVX-512; not measured"),
    Rule("fp64", ("asimd", "neon"), 15e9, "", "vectors of 128 bits, two to four units; not measured"),
    Rule("fp64", (), 4e9, "", "no vector unit that we know of"),
    Rule("fp32", (), 2.0, "fp64", "twice as many numbers in a vector; Xeon: 320 against 165 GFLOP/s, EPYC: 124 "
         "against 62"),
    Rule("tf32", (), 0.95, "fp32", "operands rounded, products in FP32"),
    Rule("bf16", ("amx_bf16",), 4.5, "fp32", "Xeon: 943 to 1649 GFLOP/s on tiles of 512 to 2048, FP32 320"),
    Rule("bf16", ("avx512_bf16", "bf16"), 1.0, "fp32", "EPYC Zen 4: 128 GFLOP/s, FP32 124"),
    Rule("bf16", (), 0.95, "fp32", "operands widened, products in FP32"),
    Rule("bf16x3", (), 0.6, "fp32", "three products on AMX and the splitting took 1.4 to 1.9 times as long as FP32"),
    Rule("fp16", ("amx_fp16",), 4.5, "fp32", "as BF16 on AMX; not measured"),
    Rule("fp16", (), 0.95, "fp32", "operands widened, products in FP32; AVX-512's FP16 does not scale over cores: "
         "Xeon 210 GFLOP/s on two, 223 on one"),
)  # fmt: skip
"""The first that fits holds. Rates of large tiles in a factorisation on all cores, a little below those of gemm."""

_BANDWIDTH = 5e9  # bytes per second and core in tile tasks on shared machines: Xeon 9 to 10 GB/s on two, EPYC 12
_CHANNELS = 8  # cores that saturate a socket's memory
_TASK = 40e-6  # seconds per small task with its wait for others: steps of n = 1536 to 6144 on two cores of a Xeon


@dataclass(frozen=True)
class Rates:
    """Plain data, so that ranks can agree on one."""

    flops: Mapping[str, float]
    """Format to flops per second and core, of products in a factorisation on all cores."""
    bandwidth: float = _BANDWIDTH
    """Bytes per second and core that tile tasks read and write in memory, on all cores."""
    task: float = _TASK
    """Seconds that a task which hardly computes adds to a run."""
    source: str = "rule"
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Format to why its rate is that."""

    def computing(self, name: str, workers: int) -> float:
        """Flops per second of so many workers in this format."""
        return self.flops[name] * workers

    def moving(self, workers: int) -> float:
        """Bytes per second of so many workers."""
        return self.bandwidth * min(workers, _CHANNELS)


def by_rule(features: frozenset[str]) -> Rates:
    """Rates of a CPU with these instruction sets.

    Examples
    --------
    >>> zen4 = frozenset({"avx512f", "avx512_bf16"})
    >>> xeon = zen4 | {"amx_tile", "amx_bf16"}
    >>> [by_rule(cpu).flops["bf16"] / by_rule(cpu).flops["fp32"] for cpu in (zen4, xeon)]
    [1.0, 4.5]
    """
    return _by_rule(features)


@cache
def _by_rule(features: frozenset[str]) -> Rates:
    flops: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for rule in RULES:
        if rule.format not in flops and (not rule.needs or features.intersection(rule.needs)):
            flops[rule.format] = rule.rate * (flops[rule.of] if rule.of else 1.0)
            reasons[rule.format] = rule.reason
    return Rates(flops, reasons=reasons)


def current() -> Rates:
    """What was stored for this computer, else its rules."""
    return stored() or by_rule(cpu.features())


def path() -> Path:
    """Where the measured rates of this CPU lie. The environment variable ``TILEWRIGHT_CACHE`` names another folder."""
    return caches.file("rates", cpu.model(), sorted(cpu.features()))


@cache
def stored() -> Rates | None:
    """The measured rates, if the user had them measured. The disk is looked at once in a process.

    Warns
    -----
    RuntimeWarning
        There is a file that cannot be used; the rules hold.
    """
    return caches.read("rates", "the stored rates are", path, _rates)


def _rates(found: Any) -> Rates:
    flops = {str(name): float(rate) for name, rate in found["flops"].items()}
    rates = Rates(flops, float(found["bandwidth"]), float(found["task"]), f"measured, {path().name}")
    numbers = [*flops.values(), rates.bandwidth, rates.task]
    if not set(by_rule(frozenset()).flops) <= set(flops) or not all(0 < x < np.inf for x in numbers):
        raise ValueError("it has not a positive rate for every format")
    return rates


def measure(size: int = 512, repeat: int = 15) -> Path:
    """Measure the products of tiles of ``size`` rows and a copy of memory, and store them. About a second.

    ``tilewright calibrate --rates`` does it.

    Formats whose products have no kernel here keep their rule, scaled to the measured FP32.
    """
    rule = by_rule(cpu.features())
    flops: dict[str, float] = {}
    for name, dtype in (("fp64", "float64"), ("fp32", "float32")):
        flops[name] = _rate(dtype, dtype, np.ones((size, size), dtype), repeat)
    scale = flops["fp32"] / rule.flops["fp32"]
    flops |= {name: rate * scale for name, rate in rule.flops.items() if name not in flops}
    with contextlib.suppress(KeyError, ValueError):
        flops["bf16"] = _rate("bfloat16", "float32", np.full((size, size), 0x3F80, np.uint16), repeat)
    rates = Rates(flops, bandwidth=min(2 * 8 / copy_cost()[1], 1e12), source="measured")
    file = path()
    caches.write(file, asdict(rates))
    stored.cache_clear()
    return file


def forget() -> None:
    """Remove what was measured on this computer; the rules hold again."""
    path().unlink(missing_ok=True)
    stored.cache_clear()


def _rate(storage: str, accumulate: str, operand: np.ndarray, repeat: int) -> float:
    """Flops per second of one gemm on one core."""
    kernel = table.lookup("gemm", "cpu", storage, accumulate).function
    c = np.ones(operand.shape, accumulate)
    with limits(functions=False), one_thread():
        kernel(operand, operand, c)
        return 2.0 * len(c) ** 3 / median_seconds(lambda: kernel(operand, operand, c), repeat)


def copy_cost() -> tuple[float, float]:
    """(alpha, beta) of a copy from memory to memory: seconds for 1 word, seconds per word of 2^20 words."""
    small, large = (np.ones(words) for words in (1, 2**20))
    target = np.empty_like(large)
    alpha = median_seconds(lambda: np.copyto(target[:1], small), 200)
    beta = median_seconds(lambda: np.copyto(target, large), 15) / large.size
    return alpha, beta


def median_seconds(call: object, count: int) -> float:
    times = []
    for _ in range(count):
        start = perf_counter()
        call()  # type: ignore[operator]
        times.append(perf_counter() - start)
    return statistics.median(times)
