"""Mixed-precision training as task graphs: models, data, precisions, the step, pipelines, checkpoints, reports."""

try:
    import torch as _torch  # noqa: F401 - asked for once, here, in one sentence
except ImportError:
    raise ImportError("training needs torch; pip install 'tilewright[training]'") from None

from tilewright.training import data, models
from tilewright.training.fallback import LADDER, Event, Fallback
from tilewright.training.precision import PRECISIONS
from tilewright.training.scaler import LossScaler

__all__ = ["LADDER", "PRECISIONS", "Event", "Fallback", "LossScaler", "data", "models"]
