"""Run by both ranks of ``mpiexec -n 2``: each writes what it saw as one line of JSON, by rank, into a folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from mpi4py import MPI

folder = Path(sys.argv[1])
sys.path.insert(0, str(Path(__file__).parents[2]))

import training_models as zoo  # noqa: E402 - where the path says

from tilewright.training import fit  # noqa: E402

torch.set_num_threads(1)
rank = MPI.COMM_WORLD.rank
torch.manual_seed(rank)  # ranks that begin with different weights
model = zoo.perceptron()
options = {"backend": "mpi", "workers": 2, "checkpoint": folder / "run"}
first = fit(model, zoo.tiny(), epochs=1, **options)
again = fit(zoo.perceptron(), zoo.tiny(), zoo.tiny(16), epochs=2, head="gp", **options)
try:
    fit(model, zoo.tiny(), epochs=1, batch_size=32 + rank, backend="mpi", workers=2)
except ValueError as error:
    different = str(error)
seen = {
    "losses": [first.losses, again.losses],
    "resumed": again.resumed,
    "accuracy": again.test_accuracy,
    "head": again.head.test_accuracy,
    "messages": again.run.messages,
    "different": different,
    "weights": [p.tolist() for p in model.parameters()],
}
(folder / f"{rank}.json").write_text(json.dumps(seen))
