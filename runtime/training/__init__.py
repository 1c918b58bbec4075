"""Mixed-precision training as task graphs: models, data, precisions, the step, pipelines, checkpoints, reports."""

try:
    import torch as _torch  # noqa: F401 - asked for once, here, in one sentence
except ImportError:
    from tilewright.extras import brings as _brings

    raise ImportError(f"training needs torch; {_brings('training')}") from None

from tilewright.training import data, models
from tilewright.training.comparison import Comparison, compare
from tilewright.training.fallback import LADDER, Event, Fallback
from tilewright.training.formats import batch_size_for, formats, scaling
from tilewright.training.learning_rates import SCHEDULES, Cosine, OneCycle
from tilewright.training.losses import GradientPenalty, Losses
from tilewright.training.optimizers import OPTIMIZERS
from tilewright.training.precision import PRECISIONS
from tilewright.training.result import Result
from tilewright.training.scaler import LossScaler
from tilewright.training.settings import Execution, Learning, Recording
from tilewright.training.trainer import fit

__all__ = [
    "Comparison",
    "LADDER",
    "OPTIMIZERS",
    "PRECISIONS",
    "SCHEDULES",
    "Cosine",
    "Event",
    "Execution",
    "Fallback",
    "GradientPenalty",
    "Learning",
    "LossScaler",
    "Losses",
    "OneCycle",
    "Recording",
    "Result",
    "batch_size_for",
    "compare",
    "data",
    "fit",
    "formats",
    "models",
    "scaling",
]
