"""What `fit` can be told beyond its own parameters: how a model learns, how that is executed, and what is recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any

from tilewright.keywords import strict
from tilewright.scalars import choice, flag, instance, shown
from tilewright.schedulers import policy as find_policy
from tilewright.training.closed_form_head import HEADS
from tilewright.training.fallback import Fallback
from tilewright.training.losses import GradientPenalty
from tilewright.training.pipeline import PIPELINES
from tilewright.training.scaler import LossScaler

__all__ = ["Execution", "Learning", "Recording", "SETTINGS", "flat", "grouped", "positive_counts"]


@strict
@dataclass(frozen=True)
class Learning:
    """How a model learns, beyond the optimizer, its learning rate and the loss.

    Parameters
    ----------
    schedule
        The factor of the learning rate by number of updates: a name of `SCHEDULES` or a function.
    accumulate
        In how many micro-batches each worker takes its share of a batch.
    clip_norm
        Largest 2-norm of the gradients, unscaled, of all parameters together.
    penalty
        A `GradientPenalty`, added to the loss of each micro-batch. The model stays in one segment.
    ema
        Keep an average of the parameters, ``ema * average + (1 - ema) * parameter`` after each step that is not
        skipped, evaluate that, and return it as ``result.average``. The model has the parameters themselves.
    scaler
        A `LossScaler`: where the loss scale of FP16 starts, and its limits.
    fallback
        ``"robust"``, ``"literal"`` or a `Fallback`, for adaptive precision.
    head, head_noise
        ``"ridge"`` or ``"gp"``: behind the last step, in the same graph, solve for a closed-form head on the features
        that the last segment gets; see `tilewright.training.closed_form_head`. O(n^2 d + n^3/3) for n training images.
        The noise is relative to a feature's variance; it must be so large that float64 can factor the matrix, some n^2
        1e-15.

    Raises
    ------
    ValueError, TypeError
        A value that cannot be.

    Examples
    --------
    >>> from tilewright import training
    >>> training.Learning(clip_norm=1.0, schedule="cosine").schedule
    'cosine'
    """

    schedule: str | Callable[[int], float] | None = None
    accumulate: int = 1
    clip_norm: float | None = None
    penalty: GradientPenalty | None = None
    ema: float | None = None
    scaler: LossScaler | None = None
    fallback: Fallback | str = "robust"
    head: str | None = None
    head_noise: float = 0.1

    def __post_init__(self) -> None:
        positive_counts(accumulate=self.accumulate)
        if self.clip_norm is not None and not (_real(self.clip_norm) and self.clip_norm > 0):
            raise ValueError(f"clip_norm must be above 0, not {shown(self.clip_norm)}")
        if self.ema is not None and not (_real(self.ema) and 0 < self.ema < 1):
            raise ValueError(f"ema must be between 0 and 1, not {shown(self.ema)}")
        for name, kind in (("scaler", LossScaler), ("penalty", GradientPenalty)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"{name} must be a training.{kind.__name__}, not {shown(value)}")
        if not isinstance(self.fallback, str | Fallback):
            raise TypeError(f"fallback must be 'robust', 'literal' or a training.Fallback, not {shown(self.fallback)}")
        if self.head is not None:
            choice(self.head, "head", HEADS)


@strict
@dataclass(frozen=True)
class Execution:
    """How a training is cut into tasks, and how these are executed.

    Parameters
    ----------
    pipeline
        A schedule, ``"gpipe"``, ``"1f1b"`` or ``"zero-bubble"``: each segment has a worker of its own, and ``workers``
        counts the replicas of the whole pipeline.
    segments
        Into how many segments to cut the model; by default, without a pipeline, those that have fewer than 65,536
        parameters are joined.
    helpers
        On ``threads``, how many more workers do what is not on the way to the next step: batches, evaluation,
        checkpoints (none on a CPU, one beside a GPU).
    threads
        How many threads torch has in each task, on ``serial`` and ``threads``; by default the cores divided among the
        workers. The bits of a convolution's gradients depend on this number, and on no other choice of how to run.
    scheduler
        A policy of the engine instead of priorities; not with a pipeline.
    channels_last
        Store images with channels last.
    compile
        Compile each segment with `torch.compile`; a string is the name of one of torch's compilers. Losses then agree
        to rounding, not bit for bit. Evaluation is not compiled. On a CPU, convolutions in BF16 take minutes to compile
        and are then more than ten times slower than without.
    deterministic
        Have torch refuse what it cannot repeat, on a GPU.
    allow_slow
        Has no effect: what a CPU has no instructions for is widened, see `docs/training.md`.

    Raises
    ------
    ValueError, TypeError
        A value that cannot be, or a pipeline and a scheduler.

    Examples
    --------
    >>> from tilewright import training
    >>> training.Execution(pipeline="1f1b").pipeline
    '1f1b'
    """

    pipeline: str | None = None
    segments: int | None = None
    helpers: int | None = None
    threads: int | None = None
    scheduler: Any = None
    channels_last: bool = False
    compile: bool | str = False
    deterministic: bool = False
    allow_slow: bool = False

    def __post_init__(self) -> None:
        positive_counts(segments=self.segments, threads=self.threads)
        if self.helpers is not None and (isinstance(self.helpers, bool) or not isinstance(self.helpers, int)):
            raise TypeError(f"helpers must be an integer, not {shown(self.helpers)}")
        if self.helpers is not None and self.helpers < 0:
            raise ValueError(f"helpers must not be negative, not {self.helpers}")
        if self.pipeline is not None:
            choice(self.pipeline, "pipeline", PIPELINES)
            if self.scheduler is not None:
                raise ValueError("a pipeline is a policy; pass either pipeline or scheduler")
        if isinstance(self.scheduler, str):
            find_policy(self.scheduler)  # ValueError for another name
        for name in ("channels_last", "deterministic", "allow_slow"):
            flag(getattr(self, name), name)
        if not isinstance(self.compile, str):
            flag(self.compile, "compile")


@strict
@dataclass(frozen=True)
class Recording:
    """What is written while a model trains.

    Parameters
    ----------
    checkpoint
        A folder that gets checkpoints.
    checkpoint_every
        Steps between two of them, an epoch by default.
    resume
        Whether to go on from the checkpoint that is there.
    log
        A file that gets a JSON line a step.
    tensorboard
        A folder that gets an event file, for TensorBoard.

    Raises
    ------
    ValueError, TypeError
        A value that cannot be.

    Examples
    --------
    >>> from tilewright import training
    >>> training.Recording(checkpoint="run", checkpoint_every=100).resume
    True
    """

    checkpoint: str | Path | None = None
    checkpoint_every: int | None = None
    resume: bool = True
    log: str | Path | None = None
    tensorboard: str | Path | None = None

    def __post_init__(self) -> None:
        positive_counts(checkpoint_every=self.checkpoint_every)
        flag(self.resume, "resume")
        for name in ("checkpoint", "log", "tensorboard"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str | PathLike):
                raise TypeError(f"{name} must be a path, not {shown(value)}")


_GROUPS = {"learning": Learning, "execution": Execution, "recording": Recording}

SETTINGS = {field.name: name for name, kind in _GROUPS.items() for field in fields(kind)}
"""The keywords of `fit` that belong to a group, and the parameter which takes that group."""


def flat(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of `fit` with the groups taken apart, each setting under its own name.

    Raises
    ------
    TypeError
        A group is of another class, or a setting is given both ways.

    Examples
    --------
    >>> flat({"epochs": 3, "ema": 0.9, "learning": Learning(clip_norm=1.0)})
    {'epochs': 3, 'ema': 0.9, 'clip_norm': 1.0}
    >>> flat({"clip_norm": 2.0, "learning": Learning(clip_norm=1.0)})
    Traceback (most recent call last):
        ...
    TypeError: clip_norm is given twice, as clip_norm=2.0 and by learning=Learning(clip_norm=1.0); leave one out
    """
    found = {name: value for name, value in given.items() if name not in _GROUPS}
    for name, kind in _GROUPS.items():
        group = given.get(name)
        if group is None:
            continue
        advice = f"a training.{kind.__name__}, such as training.{kind.__name__}({_SUCH_AS[name]})"
        for field in fields(instance(group, name, kind, advice)):
            value = getattr(group, field.name)
            if value is field.default or value == field.default:
                continue
            if field.name in given:
                raise TypeError(
                    f"{field.name} is given twice, as {field.name}={shown(given[field.name])} and by "
                    f"{name}={kind.__name__}({field.name}={shown(value)}); leave one out"
                )
            found[field.name] = value
    return found


_SUCH_AS = {"learning": "clip_norm=1.0", "execution": "pipeline='1f1b'", "recording": "checkpoint='run'"}


def grouped(given: Mapping[str, Any]) -> tuple[Learning, Execution, Recording, dict[str, Any]]:
    """The groups that keywords of `fit` make, with those that were given as groups; and what belongs to none."""
    rest = flat(given)
    learning, execution, recording = (
        {field.name: rest.pop(field.name) for field in fields(kind) if field.name in rest} for kind in _GROUPS.values()
    )
    return Learning(**learning), Execution(**execution), Recording(**recording), rest


def positive_counts(**counts: int | None) -> None:
    """ValueError for one that is given and is no positive integer."""
    for name, count in counts.items():
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise ValueError(f"{name} must be a positive integer, not {shown(count)}")


def _real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
