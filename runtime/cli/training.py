"""``tilewright train``: train a model in one precision, or in several side by side.

The notebook is *Lab 2.1.4: Mixed Precision Training - Speed Up with AMP*.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tilewright.backends import COMPUTING, DEFAULT
from tilewright.cli.common import Json, Progress, as_json, emit, one_sentence, output, picture, progress, wrote

__all__ = ["train"]

_PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "adaptive")


@click.command()
@click.option(
    "--data",
    default="digits",
    show_default=True,
    metavar="DATA",
    help="digits, mnist5k, cifar10:PATH, synthetic or synthetic:N.",
)
@click.option("--model", type=click.Choice(["simple-resnet", "resnet18", "mlp"]), default="mlp", show_default=True)
@click.option("--residual", is_flag=True, help="With the residual additions that the notebook's simple-resnet lacks.")
@click.option("--width", type=click.IntRange(min=1), default=64, show_default=True, help="Channels of a resnet's stem.")
@click.option("--precision", type=click.Choice(_PRECISIONS), default="fp32", show_default=True)
@click.option("--compare", metavar="LIST", help="Train once in each of these precisions, such as fp32,fp16,bf16.")
@click.option("--epochs", type=click.IntRange(min=1), default=5, show_default=True)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Images of a step, of all workers.  [default: 64; a large GPU: up to 256]",
)
@click.option("--accumulate", type=click.IntRange(min=1), default=1, show_default=True, help="Micro-batches a worker.")
@click.option("--optimizer", type=click.Choice(["sgd", "adam", "adamw"]), default="sgd", show_default=True)
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="[default: the optimizer's usual one]")
@click.option(
    "--schedule", type=click.Choice(["constant", "cosine", "one-cycle"]), default="constant", show_default=True
)
@click.option("--clip-norm", type=click.FloatRange(min=0, min_open=True), help="Largest norm of the gradients.")
@click.option(
    "--penalty",
    type=click.FloatRange(min=0, min_open=True),
    help="Add so much of the squared norm of the gradient to the loss.",
)
@click.option(
    "--ema",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Evaluate an average of the parameters with this decay, such as 0.99.",
)
@click.option(
    "--loss-scale", type=click.FloatRange(min=0, min_open=True), help="The first one of fp16.  [default: 65536]"
)
@click.option(
    "--fallback",
    type=click.Choice(["robust", "literal"]),
    default="robust",
    show_default=True,
    help="When adaptive precision gives one up.",
)
@click.option(
    "--retry",
    type=click.IntRange(min=1),
    metavar="STEPS",
    help="Adaptive precision goes up again after so many good steps.  [default: never]",
)
@click.option("--backend", type=click.Choice(COMPUTING), default=DEFAULT, show_default=True)
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Replicas that share a batch."
)
@click.option("--pipeline", type=click.Choice(["gpipe", "1f1b", "zero-bubble"]), help="A worker for each segment.")
@click.option("--segments", type=click.IntRange(min=1), help="Parts to cut the model into.  [default: its own]")
@click.option("--head", type=click.Choice(["ridge", "gp"]), help="Solve for a closed-form head at the end, too.")
@click.option("--checkpoint", type=click.Path(path_type=Path, file_okay=False), help="A folder to save to, go on from.")
@click.option("--resume/--no-resume", default=True, show_default=True)
@click.option("--device", help="[default: a CUDA device if there is one]")
@click.option("--channels-last", is_flag=True, help="Store images with channels last.")
@click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="Compile each segment with torch.compile. On a CPU it makes BF16 convolutions slower.",
)
@click.option("--deterministic", is_flag=True, help="Have torch refuse what it cannot repeat.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--allow-slow", is_flag=True, help="Has no effect.", hidden=True)
@picture("--plot", help="Draw loss, accuracy, time, scale.")
@output("--report", suffixes=[".html"], help="Write the run as one page.")
@output("--trace", suffixes=[".json"], help="Write the trace, for ui.perfetto.dev.")
@output("--log", suffixes=[".jsonl"], help="Write a JSON line a step.")
@click.option("--tensorboard", type=click.Path(path_type=Path, file_okay=False), help="A folder for TensorBoard.")
@as_json
@progress
def train(
    data: str,
    model: str,
    residual: bool,
    width: int,
    precision: str,
    compare: str | None,
    epochs: int,
    batch_size: int | None,
    accumulate: int,
    optimizer: str,
    lr: float | None,
    schedule: str,
    clip_norm: float | None,
    penalty: float | None,
    ema: float | None,
    loss_scale: float | None,
    fallback: str,
    retry: int | None,
    backend: str,
    workers: int,
    pipeline: str | None,
    segments: int | None,
    head: str | None,
    checkpoint: Path | None,
    resume: bool,
    device: str | None,
    channels_last: bool,
    compiled: bool,
    deterministic: bool,
    seed: int,
    allow_slow: bool,
    plot: Path | None,
    report: Path | None,
    trace: Path | None,
    log: Path | None,
    tensorboard: Path | None,
    as_json: Json,
    progress: Progress,
) -> None:
    """Train a model as a task graph and say how it went."""
    if residual and model != "simple-resnet":
        raise click.UsageError("--residual is for --model simple-resnet")
    if compare is not None and checkpoint is not None:
        raise click.UsageError("--compare trains several models; a checkpoint holds one")
    names = [name.strip() for name in (compare or "").split(",")]
    with one_sentence():
        import torch

        from tilewright import training
        from tilewright.training.devices import target_device

        train_data, test_data = training.data.load(data)
        if model != "mlp" and train_data.shape[0] == 1:
            train_data, test_data = train_data.as_rgb(), test_data.as_rgb()
        extra: dict[str, Any] = {} if model == "mlp" else {"width": width}
        if residual:
            extra["residual"] = True

        def make() -> torch.nn.Module:
            torch.manual_seed(seed)
            return training.models.build(model, train_data.shape, train_data.classes, **extra)

        size = batch_size or training.batch_size_for(target_device(device))
        options: dict[str, Any] = {
            "epochs": epochs,
            "batch_size": size,
            "accumulate": accumulate,
            "optimizer": optimizer,
            "lr": lr,
            "schedule": schedule,
            "clip_norm": clip_norm,
            "fallback": training.Fallback(mode=fallback, retry=retry),
            "scaler": training.LossScaler(loss_scale) if loss_scale else None,
            "penalty": training.GradientPenalty(penalty) if penalty else None,
            "ema": ema,
            "backend": backend,
            "workers": workers,
            "pipeline": pipeline,
            "segments": segments,
            "head": head,
            "device": device,
            "channels_last": channels_last,
            "compile": compiled,
            "deterministic": deterministic,
            "seed": seed,
            "allow_slow": allow_slow,
            "log": log,
            "tensorboard": tensorboard,
            "progress": progress,
        }
        source = train_data.source
        table: training.Comparison | training.Result
        if compare is not None:
            table = training.compare(make, (train_data, test_data), precisions=names, **options)
            runs = [result.runs for result in table.results.values()]
        else:
            table = training.fit(
                make(), train_data, test_data, precision=precision, checkpoint=checkpoint, resume=resume, **options
            )
            runs = [table.runs]
        # Before the files: a disk that is full takes none of what has been learnt.
        emit(table.summary() | {"source": source}, as_json, lambda: click.echo(str(table.table())))
        if plot:
            table.plot(plot)
        if report:
            table.report(report)
        if trace and runs[0]:
            runs[0][-1][0].trace.to_perfetto(trace)
        wrote(plot, report, trace if runs[0] else None, log)
