"""One training in several precisions: the notebook's summary, from runs that share data, order and first weights.

The notebook is *Lab 2.1.4: Mixed Precision Training - Speed Up with AMP*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

from torch import nn

from tilewright.backends import check_call
from tilewright.door import upstairs
from tilewright.host.files import write_text
from tilewright.runs.progress import one_page
from tilewright.training import precision, usage
from tilewright.training.control import check_precision
from tilewright.training.data import Dataset
from tilewright.training.data.torch_data import two
from tilewright.training.devices import target_device
from tilewright.training.result import Result, Text, grid
from tilewright.training.settings import SETTINGS, flat
from tilewright.training.trainer import fit
from tilewright.units import seconds

__all__ = ["Comparison", "compare"]

_RESOLUTION = 32 << 20  # bytes; what a process holds varies by some megabytes for other reasons

_OWN = ("model", "train", "test", "precision", "options")
_OF_FIT = [name for name in (*signature(fit).parameters, *SETTINGS) if name not in _OWN]


@dataclass
class Comparison:
    """Results by precision; the first is the baseline of savings and speed-ups.

    Examples
    --------
    >>> from tilewright import training
    >>> model = lambda: training.models.MLP(3072, (4,))
    >>> data = training.data.synthetic(8, test=4)
    >>> found = training.compare(model, data, ("fp32",), warm_up=False, epochs=1, device="cpu")
    >>> found.baseline, found.speedup("fp32")
    ('fp32', 1.0)
    """

    results: dict[str, Result]
    """By the name of the precision, in the order of the call."""
    left: dict[str, int] = field(default_factory=dict)
    """Bytes that this process has more than before a training, when its model is gone and all was given back."""

    @property
    def baseline(self) -> str:
        """The precision that others are compared with."""
        return next(iter(self.results))

    def savings(self, name: str) -> float | None:
        """Share of the baseline's peak memory that is saved; None where that is too small to be told from noise."""
        base = self.results[self.baseline].peak_memory
        return 1 - self.results[name].peak_memory / base if base > _RESOLUTION else None

    def speedup(self, name: str) -> float | None:
        """The baseline's time of a step over this one's: medians, as a step that is interrupted tells nothing."""
        base, own = self.results[self.baseline].percentile(50), self.results[name].percentile(50)
        return base / own if own > 0 else None  # NaN where nothing was left to do

    def summary(self) -> dict[str, Any]:
        """The numbers as plain values, for JSON; those of the last precision at the top level too."""
        rows = {
            name: result.summary()
            | {"memory_savings": self.savings(name), "speedup": self.speedup(name), "memory_left": self.left.get(name)}
            for name, result in self.results.items()
        }
        return {**rows[next(reversed(rows))], "baseline": self.baseline, "compared": rows}

    def table(self) -> Text:
        """The notebook's summary: memory, time, accuracy, savings, speed-up; skipped steps and changes of precision.

        "After clean-up" is `left`.
        """
        names = list(self.results)

        def row(title: str, value: Callable[[Result], str]) -> list[str]:
            return [title, *(value(self.results[name]) for name in names)]

        def over(title: str, value: Callable[[str], float | None], form: str) -> list[str]:
            base = self.baseline
            cells = ["-" if n == base or (v := value(n)) is None else form.format(v) for n in names]
            return [title, *cells]

        rows = [
            ["Metric", *(name.upper() if name != "adaptive" else name for name in names)],
            row("Peak memory (MB)", lambda r: f"{r.peak_memory / 1e6:.1f}"),
            ["After clean-up (MB)", *(f"{self.left[n] / 1e6:.1f}" if n in self.left else "-" for n in names)],
            row("Training time (s)", lambda r: f"{r.seconds:.2f}"),
            row(
                "Step time p50 / p95",
                lambda r: " / ".join(seconds(r.percentile(q)) for q in (50, 95)) if r.runs else "-",
            ),
            row("Images per second", lambda r: f"{r.images_per_second:.0f}"),
            row("Final test accuracy (%)", lambda r: f"{100 * r.test_accuracy:.2f}"),
            row("Skipped steps", lambda r: str(r.skipped_steps)),
            row("Changes of precision", lambda r: str(len(r.events))),
            over(f"Memory savings vs {self.baseline.upper()}", self.savings, "{:.1%}"),
            over(f"Speed-up vs {self.baseline.upper()} (p50)", self.speedup, "{:.2f}x"),
        ]
        first = self.results[self.baseline]
        title = f"RESULTS SUMMARY: {first.epochs} epochs on {first.facts['device']}"
        events = [f"{name}: changed precision at {e}" for name, r in self.results.items() for e in r.events]
        return Text("\n".join([str(grid(rows, title)), *events]))

    def plot(self, path: str | Path) -> None:
        """Write the notebook's three panels side by side, and one of loss scales and skipped steps."""
        upstairs("plot.training:figure")(self.results, path)

    def report(self, path: str | Path) -> None:
        """Write table, figure and the runs, side by side, as one HTML page that opens offline."""
        write_text(path, upstairs("plot.training:page")(self.results, str(self.table())))

    def __str__(self) -> str:
        return str(self.table())


@one_page
def compare(
    model_factory: Callable[[], nn.Module],
    data: tuple[Dataset, Dataset],
    precisions: Sequence[str] = ("fp32", "fp16", "bf16"),
    *,
    warm_up: bool = True,
    **options: Any,
) -> Comparison:
    """Train a fresh model in each precision, with the same data in the same order.

    What the notebook's comparison gets wrong is right here by construction: FP32 is strict, the precision is the named
    one, everything of one training is given back before the next is measured, and what happens only once (thread pools,
    libraries, allocators) happens before the first.

    Parameters
    ----------
    model_factory
        Makes the same model at each call: seed torch in it.
    data
        (train, test)
    precisions
        Names that `fit` knows; the first is the baseline.
    warm_up
        Take two steps in each precision before anything is measured.
    options
        Those of `fit`, its groups too. ``tensorboard`` gets a folder for each precision, which TensorBoard shows side
        by side.

    Raises
    ------
    ValueError
        A precision is unknown or named twice; or as `fit`, before any work.

    Examples
    --------
    >>> import torch
    >>> from tilewright import training
    >>> def model():
    ...     torch.manual_seed(0)
    ...     return training.models.MLP(3072, (4,))
    >>> data = training.data.synthetic(8, test=4)
    >>> found = training.compare(model, data, ("fp32", "bf16"), warm_up=False, epochs=1, device="cpu")
    >>> first = [result.losses[0] for result in found.results.values()]
    >>> abs(first[0] - first[1]) < 0.1
    True
    """
    options = flat(options)
    check_call(compare, options, options.get("backend", "threads"), also=[*_OF_FIT, "machine", "threads_per_task"])
    precisions = [precision.named(name) for name in precisions]
    if not precisions or len(set(precisions)) < len(precisions):
        raise ValueError(f"precisions must be different names, not {', '.join(precisions) or 'none'}")
    if isinstance(model_factory, nn.Module) or not callable(model_factory):
        raise TypeError(f"model_factory must be a function that makes a model at each call, not {type(model_factory)}")
    if not isinstance(data, tuple) or len(data) != 2:
        raise TypeError(f"data must be a pair (train, test), not {type(data)}")
    train, test, options["batch_size"] = two(*data, options.get("batch_size"))
    for name in precisions:
        check_precision(name, model_factory(), **options)
    if warm_up:
        size = 2 * options["batch_size"]
        quiet = options | {"epochs": 1, "progress": False, "log": None, "tensorboard": None}
        for name in precisions:
            fit(model_factory(), train.take(slice(0, size)), test.take(slice(0, size)), precision=name, **quiet)
    results, left, board = {}, {}, options.get("tensorboard")
    where = target_device(options.get("device"))
    for name in precisions:
        before = usage.held(where)
        model = model_factory()
        own = options | ({"tensorboard": Path(board) / name} if board is not None else {})
        results[name] = fit(model, train, test, precision=name, **own)
        results[name].model = None  # nothing of it may be alive when the next one is measured
        del model
        left[name] = max(usage.held(where) - before, 0)
    return Comparison(results, left)
