"""Train on handwritten digits in several precisions, lose one on the way, and solve for a better head.

    python examples/training.py            (or: make demo-training)

Everything runs as task graphs: the comparison of the notebook, a network whose FP16 activations overflow, two
replicas, a pipeline, and a Gaussian process behind the network. Under two minutes on two cores.
The notebook is *Lab 2.1.4: Mixed Precision Training - Speed Up with AMP*.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from rich.console import Console
from torch import nn

from tilewright import training
from tilewright.training.pipeline import planned


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return training.models.MLP()


def hot() -> nn.Module:
    """A network that sees unscaled images: its first products, normalised right after, are beyond FP16's 65504."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 128),
        nn.BatchNorm1d(128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


@click.command()
@click.option("--epochs", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default="out", show_default=True)
def main(epochs: int, out: Path) -> None:
    """Compare precisions, fall back, share a batch, run a pipeline, solve for a head."""
    console = Console(highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    train, test = training.data.digits()
    options = {"epochs": epochs, "schedule": "one-cycle", "threads": 1}

    def say(text: object) -> None:
        console.print(text, markup=False, soft_wrap=True)

    say(f"{len(train)} digits to train on, {len(test)} to test\n")
    table = training.compare(mlp, (train, test), ["fp32", "bf16", "fp16"], **options)
    say(table.table())
    table.plot(out / "training-precisions.png")

    say("\nAdaptive precision, on images whose first products are too large for FP16:")
    unscaled = train.with_recipe(std=(2e-6,)), test.with_recipe(std=(2e-6,))
    ladder = training.Fallback(ladder=("fp16", "bf16", "fp32"))  # by default only what is faster than FP32 here
    adaptive = training.fit(hot(), *unscaled, precision="adaptive", fallback=ladder, **options)
    say(adaptive.table())
    adaptive.plot(out / "training-adaptive.png")

    say("\nTwo replicas share each batch, and evaluation runs beside the next steps:")
    one = training.fit(mlp(), train, test, accumulate=2, **options)
    two = training.fit(mlp(), train, test, workers=2, helpers=1, segments=3, **options)
    same = "the same bits" if two.losses == one.losses else "OTHER BITS"
    say(
        f"losses of one worker and of two replicas: {same}; {two.overlap or 0:.0%} of the all-reduce passed under "
        f"backward passes, {two.beside or 0:.0%} of evaluation and records beside training"
    )
    two.run.report(out / "training.html")
    two.run.trace.to_perfetto(out / "training-trace.json")

    say("\nA pipeline of three segments, four micro-batches, 1F1B:")
    for row in planned("1f1b", 3, 4):
        say("  " + " ".join(map(str, row)))
    piped = training.fit(mlp(), train, test, pipeline="1f1b", accumulate=4, **options | {"epochs": 1})
    say(f"loss after an epoch {piped.losses[-1]:.4f}, {len(piped.run.graph)} tasks on {piped.run.workers} workers")

    say("\nA Gaussian process on the features of a network trained for one epoch, by tiled Cholesky in the same graph:")
    for kind in ("ridge", "gp"):
        headed = training.fit(mlp(), train, test, head=kind, **options | {"epochs": 1})
        say(
            f"  {kind:<5}  network {headed.test_accuracy:.2%}, closed-form head {headed.head.test_accuracy:.2%} "
            f"({100 * headed.head_gain:+.1f} points)"
        )
    console.print()
    for name, what in (
        ("training-precisions.png", "loss, accuracy, time and loss scale of the precisions"),
        ("training-adaptive.png", "skipped steps and the change of precision"),
        ("training.html", "the run of two replicas: open in a browser"),
        ("training-trace.json", "its trace: open at https://ui.perfetto.dev"),
    ):
        say(f"{out / name}   {what}")


if __name__ == "__main__":
    main()
