"""Measure alpha and beta of messages between ranks, and gamma of two kernels, on this computer.

MPI sends short messages at once (eager), longer ones after a handshake (rendezvous): two straight lines, not one. The
sizes of a ping-pong are split where two least-squares lines fit best. A flop in dgemm, which reuses its operands, is
ten times as fast as one in dgemv, which waits for memory; products of matrices and vectors want the latter.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from tilewright.backends.mpi.launcher import chosen, environment, libmpi, require_mpi4py
from tilewright.host.cores import cores
from tilewright.kernels import table
from tilewright.kernels.gemv import gemv
from tilewright.kernels.threads import limits, one_thread
from tilewright.machine import Machine

__all__ = ["SIZES", "Calibration", "Regime", "measure", "fit"]

SIZES = tuple(8 * 2**k for k in range(21))
"""Bytes of the messages of a ping-pong: 8 B to 8 MiB."""

_START = 60.0  # seconds for the ranks to start and to finish


class Regime(NamedTuple):
    """A range of message sizes with one straight line."""

    low: int
    """Bytes."""
    high: int
    alpha: float
    """Seconds per message."""
    beta: float
    """Seconds per 8-byte word."""


@dataclass(frozen=True)
class Calibration:
    """What was measured."""

    messages: list[tuple[int, float]]
    """(bytes, seconds of one way)."""
    regimes: list[Regime]
    gamma_gemm: float
    """Seconds per flop."""
    gamma_gemv: float

    def predicted(self, size: int) -> float:
        """Seconds of a message of ``size`` bytes."""
        regime = next((r for r in self.regimes if size <= r.high), self.regimes[-1])
        return regime.alpha + regime.beta * size / 8

    def machine(self, size: int = 1 << 15, kernel: str = "gemv", **fields: Any) -> Machine:
        """A machine with the line of messages of ``size`` bytes, and gamma of ``"gemv"`` or ``"gemm"``.

        ValueError for another kernel.
        """
        gammas = {"gemv": self.gamma_gemv, "gemm": self.gamma_gemm}
        if kernel not in gammas:
            raise ValueError(f"gamma was measured for gemv and gemm, not for {kernel!r}")
        regime = next((r for r in self.regimes if size <= r.high), self.regimes[-1])
        return Machine(alpha=regime.alpha, beta=regime.beta, gamma=gammas[kernel], **fields)

    def record(self) -> dict[str, Any]:
        """As JSON knows it."""
        return {
            "messages": self.messages,
            "regimes": [regime._asdict() for regime in self.regimes],
            "gamma_gemm": self.gamma_gemm,
            "gamma_gemv": self.gamma_gemv,
        }

    def __str__(self) -> str:
        lines = [f"{'bytes':>9} {'measured us':>12} {'model us':>9}"]
        lines += [f"{b:9d} {1e6 * t:12.2f} {1e6 * self.predicted(b):9.2f}" for b, t in self.messages]
        lines += [
            f"{r.low} to {r.high} bytes: alpha {1e6 * r.alpha:.2f} us, beta {1e9 * r.beta:.3f} ns a word"
            + (f" ({8 / r.beta / 1e9:.1f} GB/s)" if r.beta else "")
            for r in self.regimes
        ]
        for name, gamma in (("dgemm", self.gamma_gemm), ("dgemv", self.gamma_gemv)):
            lines.append(f"gamma of {name}: {1e9 * gamma:.4f} ns a flop ({1e-9 / gamma:.1f} GFLOP/s)")
        return "\n".join(lines)


def measure(*, sizes: Sequence[int] = SIZES, seconds: float = 2.0, n: int | None = None) -> Calibration:
    """Measure this computer with two ranks; about ``seconds`` for the messages and one for the kernels.

    Parameters
    ----------
    sizes
        Bytes of messages, at least two different ones.
    seconds
        For all messages together.
    n
        Order of the matrix of dgemv; by default 4096, which no cache holds.

    Raises
    ------
    ValueError
        Fewer than two sizes, one that is not positive, or no time.
    ImportError, LaunchError
        mpi4py or mpiexec is missing, or the ranks do not run.
    """
    wanted = sorted(set(sizes))
    if len(wanted) < 2 or wanted[0] < 1:
        raise ValueError(f"a ping-pong needs at least two positive sizes, not {list(sizes)}")
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, not {seconds}")
    messages = ping_pong(wanted, seconds)
    return Calibration(messages, fit(messages), *_gammas(n or 4096))


def ping_pong(sizes: Sequence[int], seconds: float) -> list[tuple[int, float]]:
    """(bytes, seconds of one way), the median of many."""
    from tilewright.backends.mpi.launcher import LaunchError

    require_mpi4py()
    launcher, kind, starter = chosen(2)
    command = [
        starter,
        "-n",
        "2",
        sys.executable,
        "-P",
        "-m",
        "tilewright.backends.mpi.pingpong",
        json.dumps([list(sizes), seconds]),
    ]
    try:
        done = subprocess.run(
            command,
            env=environment(kind, libmpi(launcher, kind)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_START + 2 * seconds,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchError(f"the ping-pong did not run: {error}") from None
    if done.returncode:
        raise LaunchError(f"the ping-pong ended with code {done.returncode}: {done.stderr.strip()[-500:]}")
    return [(int(size), float(taken)) for size, taken in json.loads(done.stdout.splitlines()[-1])]


def fit(messages: Sequence[tuple[int, float]]) -> list[Regime]:
    """One or two least-squares lines through (bytes, seconds), of relative errors; two if a quarter of the error goes.

    A line needs three points, and its alpha and beta are not negative.

    Examples
    --------
    >>> from tilewright.studies.network import fit
    >>> eager = [(8 * w, 1e-6 + 1e-9 * w) for w in (1, 10, 100, 500)]
    >>> rendezvous = [(8 * w, 5e-6 + 0.5e-9 * w) for w in (1000, 10_000, 100_000)]
    >>> [(r.high, round(r.alpha * 1e6, 6), round(r.beta * 1e9, 6)) for r in fit(eager + rendezvous)]
    [(4000, 1.0, 1.0), (800000, 5.0, 0.5)]
    """
    points = sorted(messages)
    (line, error), whole = _line(points), (points[0][0], points[-1][0])
    best = [Regime(*whole, *line)]
    for split in range(3, len(points) - 2):
        (left, e0), (right, e1) = _line(points[:split]), _line(points[split:])
        if e0 + e1 < (0.75 * error if len(best) == 1 else error):
            error = e0 + e1
            best = [Regime(points[0][0], points[split - 1][0], *left), Regime(points[split][0], points[-1][0], *right)]
    return best


def _line(points: Sequence[tuple[int, float]]) -> tuple[tuple[float, float], float]:
    """(alpha, beta) that minimise the sum of squared relative errors, and that sum."""
    from scipy.optimize import nnls

    words = np.array([size / 8 for size, _ in points])
    times = np.array([taken for _, taken in points])
    scale = words.max()
    A = np.column_stack([1 / times, words / scale / times])
    (alpha, beta), norm = nnls(A, np.ones(len(points)))
    return (float(alpha), float(beta / scale)), float(norm) ** 2


def _gammas(n: int) -> tuple[float, float]:
    """Seconds per flop of dgemm with tiles of 512, and of dgemv where all cores read from memory at once."""
    rng = np.random.default_rng(0)
    nb = 512
    a, b, c = (rng.standard_normal((nb, nb)) for _ in range(3))
    kernel = table.lookup("gemm", "cpu", "float64", "float64").function
    big, x, y = rng.standard_normal((n, n)), np.ones(n), np.empty(n)
    with limits(False), one_thread():
        gemm = _median(lambda: kernel(a, b, c), 20) / (2 * nb**3)
    return gemm, _together(big, x, y) / (2 * n * n) * cores()


def _together(big: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """Seconds of a product whose rows all cores share."""
    from concurrent.futures import ThreadPoolExecutor

    parts = np.array_split(np.arange(len(big)), cores())

    def part(rows: np.ndarray) -> None:
        with one_thread():
            gemv(big[rows[0] : rows[-1] + 1], x, y[rows[0] : rows[-1] + 1])

    with limits(False), ThreadPoolExecutor(cores()) as team:
        return _median(lambda: list(team.map(part, parts)), 11)


def _median(call: Any, count: int) -> float:
    call()
    times = []
    for _ in range(count):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return statistics.median(times)
