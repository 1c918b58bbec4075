"""What the tasks of a training step do: functions of values, with no graph in them.

Ranks and Dask workers import them by name. Each takes the values of its handles in the order of its accesses and
returns what it writes; nothing else is shared between tasks.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tilewright.comm.schedule import cut
from tilewright.training import board, checkpoint, compiled, models, precision, usage
from tilewright.training.data.augment import bits, crop_and_flip, normalise, order
from tilewright.training.losses import Losses
from tilewright.training.scaler import LossScaler
from tilewright.training.state import Control, Log, Setup, Stage, State, Tape, Verdict

__all__ = [
    "apply",
    "apply_shared",
    "augment",
    "backward",
    "backward_input",
    "backward_weight",
    "blank",
    "bucket",
    "evaluate",
    "finish",
    "forward",
    "forward_loss",
    "judge",
    "load",
    "open_log",
    "open_stages",
    "record",
    "release",
    "save",
    "snapshot",
    "tally",
    "transfer",
    "unscale",
    "unscale_shared",
    "update",
]

Grads = list[torch.Tensor | None]

_generator = threading.Lock()
"""Of torch's random generator, which all threads share."""


# ------------------------------------------------------------------ before the first step


def open_stages(model: nn.Module, state: State, setup: Setup, *rest: Any) -> tuple[Any, ...]:
    """The stages of a replica that the last parameter names, their buffers, the control, a model for evaluation."""
    mine: tuple[int, ...] = rest[-1]
    replica = copy.deepcopy(model).to(setup.target)
    if setup.channels_last:
        replica = replica.to(memory_format=torch.channels_last)
    replica.train()
    names = {id(t): name for name, t in (*replica.named_parameters(), *replica.named_buffers())}
    parts = models.group(replica, setup.cuts)
    stages = [Stage(parts[s], names, setup.optimizer, setup.compiler, setup.ema) for s in mine]
    for stage in stages:
        stage.load(state.tensors, state.optimizer, state.average)
    control = Control("fp32", LossScaler())
    control.load_state_dict(state.control)
    precision.set_tf32(control.precision == "tf32", setup.target.type)
    with _generator, contextlib.suppress(RuntimeError):  # another version of torch has another kind of state
        torch.set_rng_state(state.random)
    examiner = copy.deepcopy(replica).eval()
    return *stages, *(stage.buffers for stage in stages), control, examiner


def open_log(setup: Setup, _: Any) -> Log:
    """An empty log, and the moment from which memory is measured."""
    return Log(memory=(usage.watch(setup.target), 0))


# ------------------------------------------------------------------ data


def load(
    images: np.ndarray,
    labels: np.ndarray,
    setup: Setup,
    _: Any,
    epoch: int,
    first: int,
    last: int,
    part: int,
    parts: int,
) -> tuple[Any, ...]:
    """The images of places ``first`` to ``last`` of the epoch's order that fall to part ``part`` of ``parts``."""
    start, stop = cut(last - first, parts)[part : part + 2] if parts > 1 else (0, last - first)
    wanted = order(len(images), setup.seed, epoch)[first + start : first + stop]
    return wanted, images[wanted], labels[wanted]


def augment(setup: Setup, batch: tuple[Any, ...], epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Crop, flip and normalise."""
    index, images, labels = batch
    images = crop_and_flip(images, index, setup.recipe, setup.seed, epoch)
    return normalise(images, setup.recipe), labels


def transfer(setup: Setup, _x: Any, _y: Any, batch: tuple[np.ndarray, np.ndarray], micro: int) -> tuple[Any, ...]:
    """To the device, cut into micro-batches: (inputs, labels, None for the host's copy)."""
    images, labels = (torch.from_numpy(part) for part in batch)
    if setup.target.type != "cpu":
        images = images.pin_memory().to(setup.target, non_blocking=True)
        labels = labels.pin_memory().to(setup.target, non_blocking=True)
    if setup.channels_last:
        images = images.to(memory_format=torch.channels_last)
    if micro == 1:
        return (images,), (labels,), None
    return torch.tensor_split(images, micro), torch.tensor_split(labels, micro), None


# ------------------------------------------------------------------ forward and backward, one segment, one micro-batch


def forward(
    stage: Stage, control: Control, setup: Setup, x: Any, buffers: Any, _y: Any, _tape: Any, m: int,
    key: tuple[int, ...],
) -> tuple[Any, ...]:  # fmt: skip
    """(buffers, output, tape). Autocast surrounds this alone."""
    x, y, tape = _through(stage, control, setup, x, m, key)
    return buffers, y.detach(), Tape(tape, y)


def forward_loss(
    stage: Stage, control: Control, setup: Setup, x: Any, buffers: Any, labels: Any, _score: Any, _tape: Any, m: int,
    key: tuple[int, ...], count: int,
) -> tuple[Any, ...]:  # fmt: skip
    """(buffers, (loss, correct, images, parts), tape) of the last segment: the loss in FP32, scaled on the tape."""
    x, y, tape = _through(stage, control, setup, x, m, key)
    target = labels[m]
    if y.dtype in (torch.float16, torch.bfloat16):
        y = y.float()
    loss, parts = _loss(setup.loss, y, target)
    correct = (y.argmax(1) == target).sum() if y.ndim == 2 and target.ndim == 1 else torch.zeros(())
    score = (loss.detach(), correct, len(target), parts)
    if setup.penalty is not None:
        of = [x] if setup.penalty.of == "inputs" else stage.trained
        extra = setup.penalty(loss, of, control.scaler.factor)
        loss, score = loss + extra, (*score[:3], {**parts, "penalty": extra.detach()})
    if len(target) != count:
        loss = loss / (count / len(target))
    if control.scaler.enabled:
        loss = loss * control.scaler.factor
    return buffers, score, Tape(tape, loss)


def _loss(loss: Any, y: Any, target: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """(the loss, its parts by name if it has any)."""
    try:
        return loss.by_name(y, target) if isinstance(loss, Losses) else (loss(y, target), {})
    except IndexError as error:
        error.add_note(f"outputs have shape {tuple(y.shape)}, and the largest label is {int(target.max())}")
        raise


def _through(stage: Stage, control: Control, setup: Setup, x: Any, m: int, key: tuple[int, ...]) -> tuple[Any, ...]:
    """(input, output, the input as a leaf); of micro-batch m of the batch, whose gradient nobody wants, no leaf."""
    whole = isinstance(x, tuple)
    x = x[m] if whole else x.detach().requires_grad_()
    if setup.penalty is not None and setup.penalty.of == "inputs":
        x.requires_grad_()
    if setup.checks and m == 0 and stage.buffers:
        stage.save_buffers()
    seeded = _seeded(setup, key) if stage.random else _NOTHING
    try:
        with seeded, precision.autocast(control.precision, setup.target.type):
            if stage.compiled is None:
                y = stage.module(x)
            else:
                with compiled.settings():
                    y = stage.compiled(x)
    except RuntimeError as error:
        _explain(error, x, control.precision)
        raise
    return x, y, None if whole else x


_NOTHING = contextlib.nullcontext()


def _explain(error: RuntimeError, x: torch.Tensor, precision: str) -> None:
    error.add_note(f"the segment got {str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}")
    if precision in ("fp16", "bf16") and "dtype" in str(error):
        error.add_note(
            f"under {precision} autocast layers return 16-bit tensors, and what the model made itself is float32; "
            f"where the two meet, cast one: source.to(destination.dtype)"
        )


@contextlib.contextmanager
def _seeded(setup: Setup, key: tuple[int, ...]) -> Iterator[None]:
    """Seed torch's generator by (seed, step, micro-batch, segment): dropout does not depend on who runs it, or when."""
    seed = int(bits(np.zeros((), dtype=np.uint64), setup.seed, *key)) % 2**63
    devices = [] if setup.target.type == "cpu" else [setup.target]
    with _generator, torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def backward(stage: Stage, grads: Grads | None, *rest: Any) -> tuple[Any, ...]:
    """(gradients, dy, x, dx, tape), both halves at once. dy and x are given up: None where there is one."""
    *boundary, tape, have, first = rest
    inputs = stage.trained if tape.x is None else [tape.x, *stage.trained]
    found = list(_gradients(tape.y, inputs, boundary[0] if have else None))
    dx = [] if tape.x is None else [None, found.pop(0)]
    tape.x = tape.y = None
    return _add(None if first else grads, _spread(stage, found)), *([None] if have else []), *dx, tape


def backward_input(stage: Stage, *rest: Any) -> tuple[Any, ...] | Tape:
    """(dy, x, dx, tape): the half that the segment before waits for."""
    *boundary, tape, have = rest
    tape.dy = boundary[0] if have else None
    dx = [] if tape.x is None else [None, _gradients(tape.y, [tape.x], tape.dy, retain=True)[0]]
    made = *([None] if have else []), *dx, tape
    return made if len(made) > 1 else tape


def backward_weight(stage: Stage, grads: Grads | None, tape: Tape, first: bool) -> tuple[Any, ...]:
    """(gradients, tape): the half that only the optimizer waits for."""
    found = list(_gradients(tape.y, stage.trained, tape.dy))
    tape.x = tape.y = tape.dy = None
    return _add(None if first else grads, _spread(stage, found)), tape


def _gradients(y: Any, inputs: list[Any], dy: Any, retain: bool = False) -> tuple[Any, ...]:
    """`torch.autograd.grad`; None for all inputs if none of them had a part in y."""
    if not inputs or not y.requires_grad:
        return (None,) * len(inputs)
    found: tuple[Any, ...] = torch.autograd.grad(y, inputs, dy, retain_graph=retain, allow_unused=True)
    return found


def _spread(stage: Stage, found: list[Any]) -> Grads:
    """Gradients by parameter, None for those that are not trained."""
    if len(found) == len(stage.parameters):
        return found
    left = iter(found)
    return [next(left) if p.requires_grad else None for p in stage.parameters]


def _add(grads: Grads | None, more: Grads) -> Grads:
    """Sum over micro-batches, in their order, as torch accumulates."""
    if grads is None:
        return more
    return [b if a is None else a if b is None else a.add_(b) for a, b in zip(grads, more, strict=True)]


# ------------------------------------------------------------------ gradients of all replicas


def bucket(stage: Stage, grads: Grads, flat: np.ndarray) -> None:
    """Copy gradients into a bucket and give them up. Missing ones count as zeros."""
    parts, counts = stage.opened(flat)
    mine = [g for g, p in zip(grads, stage.parameters, strict=True) if p.requires_grad]
    for part, g in zip(parts, mine, strict=True):
        if g is None:
            part.zero_()
        else:
            part.copy_(g)
    counts.copy_(torch.tensor([float(g is not None) for g in mine]))
    grads.clear()


def blank(flat: np.ndarray) -> None:
    """The bucket of a replica that had no image in this step."""
    flat.fill(0.0)


def _summed(stage: Stage, flat: np.ndarray) -> Grads:
    """The gradients in a bucket, by parameter; None for one that no replica has."""
    parts, counts = stage.opened(flat)
    left = iter([part if count else None for part, count in zip(parts, counts.tolist(), strict=True)])
    return [next(left) if p.requires_grad else None for p in stage.parameters]


Flags = dict[str, tuple[bool, float]]
"""By optimizer: is one of its gradients not finite, and the sum of the squares of all."""


def unscale(stage: Stage, control: Control, grads: Grads, _: Any) -> tuple[Grads, Flags]:
    """(gradients divided by the loss scale, their flags). Once a step, before anything uses them."""
    flags: Flags = {}
    for name in stage.optimizers:
        found = [g for g, owner in zip(grads, stage.owners, strict=True) if g is not None and owner == name]
        flags[name] = _unscaled(found, control.scaler)
    return grads, flags


def unscale_shared(stage: Stage, control: Control, flat: np.ndarray, _: Any) -> tuple[np.ndarray, Flags]:
    """As `unscale`, of the sum over all replicas: (bucket, its flags), the same on all of them."""
    return flat, unscale(stage, control, _summed(stage, flat), None)[1]


def _unscaled(found: list[torch.Tensor], scaler: LossScaler) -> tuple[bool, float]:
    """Divide by the scale, in place: (not finite?, sum of squares)."""
    if not found:
        return False, 0.0
    if scaler.enabled:
        torch._foreach_mul_(found, 1.0 / scaler.factor if scaler.factor else math.inf)
    squares = float(torch.stack(torch._foreach_norm(found)).double().square().sum())
    return not math.isfinite(squares) and not all(bool(torch.isfinite(g).all()) for g in found), squares


def judge(control: Control, setup: Setup, *rest: Any) -> Verdict:
    """What to do with the step: from the flags of every bucket and the scores of every replica."""
    flags = [(name, *flag) for part in rest[:-1] if isinstance(part, dict) for name, flag in part.items()]
    scores = [part for part in rest[:-1] if isinstance(part, tuple)]
    count = sum([n for _, _, n, _ in scores])
    loss = sum([float(value) * n for value, _, n, _ in scores]) / count
    parts = {key: sum([float(own[key]) * n for _, _, n, own in scores]) / count for key in scores[0][3]}
    infinite = sorted({name for name, bad, _ in flags if bad})
    used = [
        squares for name, _, squares in flags if len(infinite) == len(setup.optimizer.names) or name not in infinite
    ]
    norm = math.sqrt(sum(used)) if flags else None
    clip = 1.0
    if setup.clip_norm is not None and norm is not None and math.isfinite(norm):
        clip = min(1.0, setup.clip_norm / (norm + 1e-6))
    factors = {
        name: setup.schedule(control.taken.get(name, 0)) if setup.schedule else 1.0 for name in setup.optimizer.names
    }
    skipping = tuple(infinite) if setup.checks else ()
    return Verdict(
        bool(skipping), skipping, loss, parts, sum([int(c) for _, c, _, _ in scores]), count, norm, clip,
        control.precision, control.scaler.factor, factors,
    )  # fmt: skip


def apply(stage: Stage, buffers: Any, verdict: Verdict, grads: Grads) -> tuple[Any, ...]:
    """(stage, buffers, None for the gradients): a step of the optimizers that do not skip it.

    If one does, the buffers are again what they were before the forward pass, which has seen what is not finite.
    """
    if verdict.found_inf:
        stage.restore_buffers()
    if verdict.clip != 1.0:
        grads = [None if g is None else g * verdict.clip for g in grads]
    stage.step(grads, verdict)
    return stage, buffers, None


def apply_shared(stage: Stage, buffers: Any, verdict: Verdict, flat: np.ndarray) -> tuple[Any, ...]:
    """(stage, buffers, bucket): as `apply`, of the sum over all replicas."""
    grads = [None if g is None else g.to(p.device) for g, p in zip(_summed(stage, flat), stage.parameters, strict=True)]
    return *apply(stage, buffers, verdict, grads)[:2], flat


_GOOD = 100  # steps between two copies of a state that was good


def update(control: Control, verdict: Verdict, setup: Setup, *rest: Any) -> Any:
    """The loss scale, the counters and the precision of the next step; (control, stages) if that may change them."""
    *stages, step = rest
    if verdict.found_inf:
        control.skipped += 1
    else:
        control.updates += 1
    for name in setup.optimizer.names:
        control.taken[name] = control.taken.get(name, 0) + (name not in verdict.skipping)
    control.scaler.update(verdict.found_inf)
    if control.fallback is None:
        return (control, *stages) if stages else control
    event = control.fallback.observe(
        step, found_inf=verdict.found_inf, scale=control.scaler.factor, loss_finite=math.isfinite(verdict.loss)
    )
    if event is not None:
        control.precision = event.after
        control.scaler.enabled = event.after == "fp16"
        if not event.fell:
            control.scaler.restart()
        precision.set_tf32(event.after == "tf32", setup.target.type)
        if control.good is not None and not all(bool(torch.isfinite(p).all()) for s in stages for p in s.parameters):
            for stage, (tensors, optimizer) in zip(stages, control.good, strict=True):
                stage.load(tensors, optimizer)
    elif control.good is None or (control.updates % _GOOD == 0 and not verdict.found_inf):
        control.good = [(stage.tensors(), stage.optimizer_state()) for stage in stages]
    return (control, *stages) if stages else control


# ------------------------------------------------------------------ beside the steps


def record(log: Log, verdict: Verdict, control: Control, setup: Setup, step: int, epoch: int) -> Log:
    """One row about a step."""
    row = {
        "step": step, "epoch": epoch, "loss": verdict.loss, "correct": verdict.correct, "count": verdict.images,
        "precision": verdict.precision, "scale": verdict.scale, "skipped": verdict.found_inf, "norm": verdict.norm,
        "factor": next(iter(verdict.factors.values())), "updates": control.updates,
    }  # fmt: skip
    row |= {"parts": verdict.parts} if verdict.parts else {}
    if len(verdict.factors) > 1:
        row |= {"skipped_by": list(verdict.skipping), "factors": verdict.factors}
    log.steps.append(row)
    if setup.log:
        _write_line(setup.log, row)
    if setup.board:
        parts = {f"loss/{name}": value for name, value in verdict.parts.items()}
        rates = {f"rate{'/' if name else ''}{name}": value for name, value in verdict.factors.items()}
        norm = {} if verdict.norm is None else {"gradient norm": verdict.norm}
        board.append(setup.board, step, {
            "loss": verdict.loss, **parts, **rates, **norm, "train accuracy": verdict.correct / verdict.images,
            "loss scale": verdict.scale, "skipped": float(verdict.found_inf),
            "roundoff": precision.ROUNDOFF[verdict.precision],
        })  # fmt: skip
    events = control.fallback.events if control.fallback else []
    if events and events[-1].step == step:
        log.events.append(events[-1])
        if setup.log:
            _write_line(setup.log, events[-1]._asdict())
        if setup.progress:
            print(f"precision: {events[-1]}", file=sys.stderr, flush=True)
    return log


def _write_line(path: str, row: dict[str, Any]) -> None:
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def snapshot(control: Control, *rest: Any) -> State:
    """A copy of everything after a step: of stages, and of their buffers as replica 0 has them."""
    *parts, _, step, optimizer = rest
    stages, buffers = parts[: len(parts) // 2], parts[len(parts) // 2 :]
    tensors: dict[str, torch.Tensor] = {}
    state: dict[str, dict[str, Any]] = {}
    average: dict[str, torch.Tensor] = {}
    for stage, own in zip(stages, buffers, strict=True):
        tensors |= stage.tensors()
        tensors |= {name: b.detach().clone() for name, b in zip(stage.buffer_names, own, strict=True)}
        average |= stage.averages()
        if optimizer:
            state |= stage.optimizer_state()
    with _generator:
        random = torch.get_rng_state()
    return State(step, tensors, state, control.state_dict(), random, average)


def evaluate(
    state: State,
    examiner: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    setup: Setup,
    _: Any,
    first: int,
    last: int,
) -> tuple[nn.Module, tuple[float, int, int]]:
    """(model, (sum of losses, correct, images)) on part of the test set, in the precision that the training is in.

    With the averages of the parameters, if there are any.
    """
    x = torch.from_numpy(normalise(images[first:last], setup.recipe)).to(setup.target)
    y = torch.from_numpy(labels[first:last]).to(setup.target)
    if setup.channels_last:
        x = x.to(memory_format=torch.channels_last)
    with torch.no_grad():
        with precision.autocast(state.control["precision"], setup.target.type):
            outputs = torch.func.functional_call(examiner, state.tensors | state.average, (x,))
        outputs = outputs.float()
        loss = float(setup.loss(outputs, y)) * len(y)
        return examiner, (loss, int((outputs.argmax(1) == y).sum()), len(y))


def tally(log: Log, setup: Setup, *rest: Any) -> Log:
    """One row about an evaluation."""
    *scores, epoch = rest
    count = sum(n for _, _, n in scores)
    row = {
        "epoch": epoch, "test_loss": sum(loss for loss, _, _ in scores) / count,
        "test_accuracy": sum(correct for _, correct, _ in scores) / count,
    }  # fmt: skip
    log.evaluations.append(row)
    if setup.log:
        _write_line(setup.log, row)
    if setup.board:
        step = log.steps[-1]["step"] if log.steps else 0
        board.append(setup.board, step, {"test loss": row["test_loss"], "test accuracy": row["test_accuracy"]})
    if setup.progress:
        steps = [r for r in log.steps if r["epoch"] == epoch]
        seen = max(1, sum(r["count"] for r in steps))
        print(
            f"epoch {epoch + 1} | {steps[-1]['precision'] if steps else '':<4} | "
            f"loss {sum(r['loss'] * r['count'] for r in steps) / seen:.4f} | "
            f"train {sum(r['correct'] for r in steps) / seen:.2%} | test {row['test_accuracy']:.2%} | "
            f"skipped {sum(r['skipped'] for r in steps)}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    return log


def save(state: State, log: Log, setup: Setup, _: Any) -> tuple[None, int]:
    """Write the checkpoint: (None for the state, its step)."""
    checkpoint.write(str(setup.checkpoint), state, setup.past.and_then(log), setup.facts)
    return None, state.step


def finish(setup: Setup, state: State, log: Log) -> tuple[State, Log]:
    """State and log as the caller gets them: on the CPU, with the memory at its fullest."""
    state.tensors = {name: tensor.cpu() for name, tensor in state.tensors.items()}
    state.average = {name: tensor.cpu() for name, tensor in state.average.items()}
    state.optimizer = {
        name: {key: value.cpu() if isinstance(value, torch.Tensor) else value for key, value in own.items()}
        for name, own in state.optimizer.items()
    }
    log.memory = log.memory[0], usage.peak(setup.target)
    return state, log


def release(*values: Any) -> tuple[None, ...]:
    """None for every handle: nothing of a training stays behind on its workers."""
    return (None,) * len(values)
