"""``tilewright bench train``: the training graph beside the loop that everyone writes by hand.

Both take the same steps: the same batches, prepared by the same functions, forward under autocast, loss in FP32,
backward, SGD with momentum and weight decay, loss and accuracy read at each step. They alternate, a few steps at a
time; of each turn the first step is left out, and the median of the others counts.

1. One worker with all cores of torch against the loop, in FP32 and BF16, and what BF16 gains.
2. Two MPI ranks of one thread against one process with two, at the same global batch.
3. The MLP on the digits, whose steps take a millisecond: there the overhead of tasks shows.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import click

from tilewright.benchmarks import options, record, table

__all__ = ["command", "measure"]

Turn = Callable[[], list[float]]


def hand_written(
    model: Any, data: Any, batch: int, precision: str, device: str, *, channels_last: bool = False
) -> list[float]:
    """Seconds of each step of the plain loop over the data, once."""
    import torch

    from tilewright.training.data.augment import crop_and_flip, normalise, order

    narrow = precision in ("bf16", "fp16")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(device, memory_format=layout).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
    scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")
    criterion = torch.nn.CrossEntropyLoss()
    seconds, correct = [], 0
    permutation = order(len(data), 0, 0)
    for first in range(0, len(data), batch):
        start = time.perf_counter()
        index = permutation[first : first + batch]
        images = torch.from_numpy(normalise(crop_and_flip(data.images[index], index, data.recipe, 0, 0), data.recipe))
        x = images.to(device, memory_format=layout)
        y = torch.from_numpy(data.labels[index]).to(device)
        optimizer.zero_grad()
        with torch.autocast(device, dtype=dtype, cache_enabled=False) if narrow else nullcontext():
            outputs = model(x)
        loss = criterion(outputs.float(), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        loss.item()
        correct += (outputs.argmax(1) == y).sum().item()
        seconds.append(time.perf_counter() - start)
    return seconds


def tilewright(model: Any, data: Any, batch: int, precision: str, device: str, **options: Any) -> list[float]:
    """Seconds of each step of the graph."""
    from tilewright.training import fit

    result = fit(model, data, epochs=1, batch_size=batch, precision=precision, device=device, **options)
    return list(result.step_seconds.values())


def alternate(turns: dict[str, Turn], rounds: int) -> dict[str, list[float]]:
    """Steps of each contender, in turns, without the first of each turn; one turn before that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, turn in turns.items():
            steps = turn()
            if number:
                seconds[name] += steps[1:]
    return seconds


def measure(
    case: str,
    make: Callable[[], Any],
    data: Any,
    batch: int,
    turns: dict[str, dict[str, Any]],
    rounds: int,
    device: str,
    channels_last: bool = False,
) -> Iterator[dict[str, Any]]:
    """A record a contender. A contender's options: ``precision``, ``loop`` for the plain loop, else those of `fit`."""

    def turn(options: dict[str, Any]) -> list[float]:
        mine = dict(options)
        run = hand_written if mine.pop("loop", False) else tilewright
        return run(make(), data, batch, mine.pop("precision"), device, channels_last=channels_last, **mine)

    seconds = alternate({name: partial(turn, options) for name, options in turns.items()}, rounds)
    medians = {name: statistics.median(own) for name, own in seconds.items()}
    first = next(iter(medians))
    for name, own in seconds.items():
        yield {
            "benchmark": "train",
            "case": case,
            "contender": name,
            "batch": batch,
            "device": device,
            "median": medians[name],
            "min": min(own),
            "max": max(own),
            "seconds": own,
            "images_per_second": batch / medians[name],
            "of_first": medians[first] / medians[name],
        }


CASES = ("loop", "ranks", "mlp")


def cases(
    batch: int,
    steps: int,
    rounds: int,
    device: str,
    channels_last: bool,
    wanted: Sequence[str] = CASES,
    precisions: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:
    """The measurements that are wanted."""
    import torch

    from tilewright import mpi
    from tilewright.training import data as sets
    from tilewright.training import models

    def resnet() -> torch.nn.Module:
        torch.manual_seed(0)
        return models.SimpleResNet()

    def mlp() -> torch.nn.Module:
        torch.manual_seed(0)
        return models.MLP()

    images, _ = sets.synthetic(batch * steps, test=1)
    precisions = precisions or (["fp32", "bf16"] if device == "cpu" else ["fp32", "tf32", "bf16", "fp16"])
    for precision in precisions if "loop" in wanted else ():
        turns: dict[str, dict[str, Any]] = {
            f"plain loop, {precision}": {"loop": True, "precision": precision},
            f"tilewright, {precision}": {"precision": precision},
        }
        if precision == "tf32":
            del turns["plain loop, tf32"]  # what torch calls FP32 by default
        yield from measure("SimpleResNet", resnet, images, batch, turns, rounds, device, channels_last)
    if device == "cpu" and "ranks" in wanted:
        with mpi.Pool(2) as pool:
            for precision in precisions:
                turns = {
                    f"1 process x 2 threads, {precision}": {"precision": precision, "threads": 2},
                    f"2 ranks x 1 thread, {precision}": {
                        "precision": precision,
                        "workers": 2,
                        "backend": "mpi",
                        "pool": pool,
                    },
                }
                yield from measure("SimpleResNet", resnet, images, batch, turns, rounds, device, channels_last)
    if "mlp" not in wanted:
        return
    digits, _ = sets.digits()
    turns = {
        "plain loop, fp32": {"loop": True, "precision": "fp32"}, "tilewright, fp32": {"precision": "fp32"},
        "tilewright, 3 segments": {"precision": "fp32", "segments": 3},
    }  # fmt: skip
    yield from measure("MLP, digits", mlp, digits, 64, turns, 3 * rounds, device)


@click.command("train")
@click.option("--batch", type=click.IntRange(min=1), help="Images of a step.  [default: 128, on a GPU 256]")
@click.option("--steps", type=click.IntRange(min=2), default=4, show_default=True, help="Steps of a turn.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Turns of each contender.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--channels-last", is_flag=True)
@click.option("--case", "wanted", type=click.Choice(CASES), multiple=True, help="Measure this alone; may be repeated.")
@click.option("--precision", "precisions", multiple=True, help="Of these alone; may be repeated.")
@options.output
@options.as_json
def command(
    batch: int | None,
    steps: int,
    rounds: int,
    device: str,
    channels_last: bool,
    wanted: tuple[str, ...],
    precisions: tuple[str, ...],
    output: Path | None,
    as_json: bool,
) -> None:
    """The training graph beside a plain torch loop; BF16 beside FP32; ranks beside threads."""
    size = batch or (128 if device == "cpu" else 256)
    records = list(cases(size, steps, rounds, device, channels_last, wanted or CASES, precisions))
    strict = next((r["median"] for r in records if r["contender"] == "tilewright, fp32"), None)
    for row in records:
        if strict and row["case"] == "SimpleResNet" and row["contender"].startswith("tilewright"):
            row["of_fp32"] = strict / row["median"]
    record.append(output, records)
    for case in dict.fromkeys(row["case"] for row in records):
        own = [row for row in records if row["case"] == case]
        title = f"{case}, batch {own[0]['batch']}, {device}: seconds a step, median of {rounds} turns"
        table.show(
            title,
            "contender",
            {"s/step": "median", "images/s": "images_per_second", "of the one above": "of_first", "of FP32": "of_fp32"},
            own,
            as_json=as_json,
        )
