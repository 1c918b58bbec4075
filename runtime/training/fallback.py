"""When to give up a precision: the notebook's exercise, as a state machine with no tensors in it.

The notebook is *Lab 2.1.4: Mixed Precision Training - Speed Up with AMP*.

Literal mode is the exercise as it stands: more than ``max_skip_ratio`` of all steps skipped means FP32. Its weakness:
a loss scale that starts at 2^16 may need several skipped steps to find its value, so the ratio fires at step 1 if
step 1 overflows. Robust mode knows that, looks at a window, and goes down a ladder one rung at a time. With ``retry``
it goes up one rung after so many good steps: what overflowed early in a training need not do so later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["LADDER", "MODES", "Event", "Fallback"]

LADDER = ("fp16", "bf16", "tf32", "fp32")
"""From the fastest to the safest."""

MODES = ("literal", "robust")


class Event(NamedTuple):
    """One change of precision.

    Examples
    --------
    >>> from tilewright import training
    >>> event = training.Event(7, "fp16", "bf16", "6 of the last 20 steps skipped")
    >>> print(event, event.fell)
    step 7: fp16 -> bf16, 6 of the last 20 steps skipped True
    """

    step: int
    """The step after which it was decided."""
    before: str
    """The precision of that step."""
    after: str
    """The precision of the next step."""
    reason: str
    """In words."""

    @property
    def fell(self) -> bool:
        """Whether to a safer precision; else back up to a faster one."""
        return LADDER.index(self.after) > LADDER.index(self.before)

    def __str__(self) -> str:
        return f"step {self.step}: {self.before} -> {self.after}, {self.reason}"


@dataclass
class Fallback:
    """Decides after each step whether to leave its precision.

    Parameters
    ----------
    ladder
        The precisions to use, in this order; those that the device does not have are left out by the caller. Of the
        default `LADDER` also those that are no faster than FP32 there, as FP16 on a CPU.
    mode
        ``"robust"``: after calibration (up to the first good step, at most ``calibration`` skips), fall if at least
        ``max(least, max_skip_ratio * window)`` of the last ``window`` steps were skipped; or if the loss scale is
        below 1, which torch does not prevent; or if ``bad_losses`` losses in a row were not finite, which no loss
        scale can mend.
        ``"literal"``: fall to the last rung if more than ``max_skip_ratio`` of all steps so far were skipped.
    retry
        In robust mode, go up one rung after so many good steps in a row; each fall that follows a climb doubles it,
        so a training does not swing for ever. None, the default, never does.
    max_skip_ratio, window, least, calibration, bad_losses
        The numbers in these rules.
    rung, steps, skipped, calibrating, recent, bad, good, climbed, events
        The state, as `state_dict` has it: left alone but to go on with a training.

    Raises
    ------
    ValueError
        An unknown mode, an empty ladder, a ratio that is not from 0 to below 1, or a ``retry`` in literal mode.

    Examples
    --------
    >>> from tilewright import training
    >>> fallback = training.Fallback(("fp16", "fp32"), bad_losses=2)
    >>> for step in range(3):
    ...     event = fallback.observe(step, found_inf=False, scale=1024.0, loss_finite=step == 0)
    >>> print(event)
    step 2: fp16 -> fp32, 2 losses in a row were not finite
    >>> fallback.precision
    'fp32'
    """

    ladder: tuple[str, ...] = LADDER
    mode: str = "robust"
    max_skip_ratio: float = 0.10
    window: int = 100
    least: int = 5
    calibration: int = 16
    bad_losses: int = 3
    retry: int | None = None
    rung: int = 0
    steps: int = 0
    """Steps seen in this precision."""
    skipped: int = 0
    """Skipped ones among them."""
    calibrating: bool = True
    recent: deque[bool] = field(default_factory=deque)
    """Whether each of the last ``window`` steps after calibration was skipped."""
    bad: int = 0
    """Losses that were not finite, in a row."""
    good: int = 0
    """Steps that were neither skipped nor had such a loss, in a row."""
    climbed: bool = False
    """Whether it has gone up a rung."""
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, not {self.mode!r}")
        if not self.ladder:
            raise ValueError("the ladder needs at least one precision")
        if not 0 <= self.max_skip_ratio < 1:
            raise ValueError(f"max_skip_ratio must be at least 0 and below 1, not {self.max_skip_ratio}")
        if self.retry is not None and (self.retry < 1 or self.mode == "literal"):
            raise ValueError(f"retry must be at least 1 and is for mode 'robust', not {self.retry} for {self.mode!r}")

    @property
    def precision(self) -> str:
        """The precision of the next step."""
        return self.ladder[self.rung]

    def observe(self, step: int, *, found_inf: bool, scale: float, loss_finite: bool) -> Event | None:
        """Note how a step went; the change of precision that follows from it, if any. ``scale`` is the next step's."""
        self.steps += 1
        self.skipped += found_inf
        self.bad = 0 if loss_finite else self.bad + 1
        self.good = self.good + 1 if loss_finite and not found_inf else 0
        if self.rung < len(self.ladder) - 1:
            reason = self._literal() if self.mode == "literal" else self._robust(found_inf, scale)
            if reason:
                if self.retry is not None and self.climbed:
                    self.retry *= 2
                return self._move(step, len(self.ladder) - 1 if self.mode == "literal" else self.rung + 1, reason)
        if self.retry is not None and self.rung and self.good >= self.retry:
            self.climbed = True
            return self._move(step, self.rung - 1, f"{self.good} good steps in a row")
        return None

    def _move(self, step: int, rung: int, reason: str) -> Event:
        """Go to another rung, where everything is counted anew."""
        event = Event(step, self.precision, self.ladder[rung], reason)
        self.rung = rung
        self.events.append(event)
        self.steps = self.skipped = self.bad = self.good = 0
        self.calibrating = True
        self.recent.clear()
        return event

    def _literal(self) -> str:
        if self.skipped > self.max_skip_ratio * self.steps:
            return f"{self.skipped} of {self.steps} steps skipped, more than {self.max_skip_ratio:.0%}"
        return ""

    def _robust(self, found_inf: bool, scale: float) -> str:
        if self.bad >= self.bad_losses:
            return f"{self.bad} losses in a row were not finite"
        if scale < 1:
            return f"the loss scale fell to {scale:g}"
        if self.calibrating:
            if not found_inf:
                self.calibrating = False
            elif self.skipped <= self.calibration:
                return ""
            else:
                return f"all of the first {self.skipped} steps skipped"
        self.recent.append(found_inf)
        if len(self.recent) > self.window:
            self.recent.popleft()
        skipped = sum(self.recent)
        if skipped >= max(self.least, self.max_skip_ratio * self.window):
            return f"{skipped} of the last {len(self.recent)} steps skipped"
        return ""

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "ladder": list(self.ladder), "mode": self.mode, "max_skip_ratio": self.max_skip_ratio,
            "window": self.window, "least": self.least, "calibration": self.calibration,
            "bad_losses": self.bad_losses, "retry": self.retry, "rung": self.rung, "steps": self.steps,
            "skipped": self.skipped, "calibrating": self.calibrating, "recent": list(self.recent), "bad": self.bad,
            "good": self.good, "climbed": self.climbed,
            "events": [list(event) for event in self.events],
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Fallback:
        """The inverse of `state_dict`."""
        events: Sequence[Any] = state["events"]
        return cls(**state | {
            "ladder": tuple(state["ladder"]), "recent": deque(state["recent"]), "events": [Event(*e) for e in events],
        })  # fmt: skip
