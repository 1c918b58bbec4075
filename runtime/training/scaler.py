"""Loss scaling: multiply the loss so that small FP16 gradients do not vanish, divide the gradients before use.

The state machine alone, with no tensors in it. Whether a step overflowed comes in as ``found_inf``, the maximum over
all gradients of all workers, so that all scalers take the same decision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from tilewright.keywords import strict
from tilewright.scalars import flag, positive, real, whole

__all__ = ["LossScaler"]


@strict
@dataclass
class LossScaler:
    """Scale grows by ``growth_factor`` after ``growth_interval`` steps without overflow, and backs off after one.

    Defaults and state are those of ``torch.amp.GradScaler``; ``hysteresis`` is DeepSpeed's delayed shift: the scale
    backs off at every overflow but the first ``hysteresis - 1`` after a good step.

    Parameters
    ----------
    scale
        What the loss is multiplied by at first.
    growth_factor, backoff_factor
        What the scale is multiplied by where it grows, above 1, and where it backs off, between 0 and 1.
    growth_interval
        Steps without overflow after which it grows.
    growth_tracker, overflows
        The state: steps without overflow since the scale last changed, and overflows since the last good step.
    enabled
        Without, the scale is 1 and nothing changes it.
    hysteresis
        At which overflow after a good step it backs off; 1 is the first.
    min_scale, max_scale
        The scale stays within these.

    Raises
    ------
    ValueError
        A factor or an interval that could not work.
    TypeError
        An argument is of another kind.

    Examples
    --------
    >>> from tilewright import training
    >>> scaler = training.LossScaler(scale=1024.0, growth_interval=2)
    >>> for overflow in (True, False, False):
    ...     scaler.update(overflow)
    ...     print(scaler.factor)
    512.0
    512.0
    1024.0
    """

    scale: float = 2.0**16
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000
    growth_tracker: int = 0
    """Steps without overflow since the scale last changed."""
    enabled: bool = True
    """Without, the scale is 1 and nothing changes it."""
    hysteresis: int = 1
    min_scale: float = 0.0
    max_scale: float = math.inf
    overflows: int = 0
    """Overflows since the last good step."""
    start: float = field(init=False, compare=False)
    """The first scale."""

    def __post_init__(self) -> None:
        real(self.growth_factor, "growth_factor", 1, above=True)
        if real(self.backoff_factor, "backoff_factor", 0, above=True) >= 1:
            raise ValueError(f"backoff_factor must be below 1, not {self.backoff_factor}")
        positive(self.growth_interval, "growth_interval")
        positive(self.hysteresis, "hysteresis")
        whole(self.growth_tracker, "growth_tracker", 0)
        whole(self.overflows, "overflows", 0)
        real(self.scale, "scale", 0)
        real(self.min_scale, "min_scale", 0)
        real(self.max_scale, "max_scale", 0, infinite=True)
        if flag(self.enabled, "enabled") and not self.min_scale <= self.scale <= self.max_scale:
            raise ValueError(
                f"scale={self.scale} is not between min_scale={self.min_scale} and max_scale={self.max_scale}"
            )
        self.start = self.scale

    @property
    def factor(self) -> float:
        """What the loss is multiplied by."""
        return self.scale if self.enabled else 1.0

    def update(self, found_inf: bool) -> None:
        """Note how a step went: ``found_inf`` says that some gradient was not finite and the step was skipped."""
        if not self.enabled:
            return
        if found_inf:
            self.growth_tracker = 0
            self.overflows += 1
            if self.overflows >= self.hysteresis:
                self.scale = max(self.scale * self.backoff_factor, self.min_scale)
            return
        self.overflows = 0
        self.growth_tracker += 1
        if self.growth_tracker == self.growth_interval:
            self.growth_tracker = 0
            self.scale = min(self.scale * self.growth_factor, self.max_scale)

    def restart(self) -> None:
        """Begin again with the first scale: a training comes back to FP16."""
        self.scale, self.growth_tracker, self.overflows = self.start, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """The five keys of torch's GradScaler; empty if disabled, as there."""
        if not self.enabled:
            return {}
        return {
            "scale": self.scale,
            "growth_factor": self.growth_factor,
            "backoff_factor": self.backoff_factor,
            "growth_interval": self.growth_interval,
            "_growth_tracker": self.growth_tracker,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of this class or of torch's GradScaler. ValueError if it is empty and this one enabled."""
        if not self.enabled:
            return
        if not state:
            raise ValueError("the state is that of a disabled scaler; make this one with enabled=False to load it")
        self.scale = float(state["scale"])
        self.growth_factor = float(state["growth_factor"])
        self.backoff_factor = float(state["backoff_factor"])
        self.growth_interval = int(state["growth_interval"])
        self.growth_tracker = int(state["_growth_tracker"])
