"""Train a model: `fit` builds the graphs of a training, runs them on any engine and says how it went."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tilewright.backends import BACKENDS, check_call
from tilewright.backends.mpi.options import is_rank
from tilewright.engine import run
from tilewright.graph import Handle, TaskGraph
from tilewright.host.cores import cores
from tilewright.runs.run import Run
from tilewright.schedulers import policy
from tilewright.training import checkpoint as checkpoints
from tilewright.training import models, randomness, trial, usage
from tilewright.training import precision as precisions
from tilewright.training.closed_form_head import HEADS, Head, head_data, insert_head, least_noise
from tilewright.training.compiled import BACKEND
from tilewright.training.compiled import problem as compiler_problem
from tilewright.training.contents import Contents
from tilewright.training.data import Dataset
from tilewright.training.data.augment import normalise
from tilewright.training.data.torch_data import two
from tilewright.training.fallback import LADDER, Fallback
from tilewright.training.identity import described, digest
from tilewright.training.learning_rates import schedule as find_schedule
from tilewright.training.losses import GradientPenalty, refuse
from tilewright.training.optimizers import optimizers
from tilewright.training.pipeline import pipeline_policy
from tilewright.training.randomness import hooked
from tilewright.training.replicas import replica
from tilewright.training.result import Result
from tilewright.training.scaler import LossScaler
from tilewright.training.state import Control, Log, Setup, Stage, State
from tilewright.training.step import Layout, Marks, Span, split, training_graph
from tilewright.training.tensorboard import open_file

__all__ = ["check_precision", "fit", "target_device"]

LEAST = 1 << 16
"""Parameters of a segment, without a pipeline: of a smaller one the tasks would take longer than what is in them."""

MOST_TASKS = 40_000
"""Of one graph; a longer training is several graphs, one after the other."""


def fit(
    model: nn.Module,
    train: Dataset | torch.utils.data.Dataset | torch.utils.data.DataLoader,
    test: Dataset | torch.utils.data.Dataset | torch.utils.data.DataLoader | None = None,
    *,
    epochs: int = 5,
    precision: str | torch.dtype = "fp32",
    optimizer: Any = "sgd",
    lr: float | None = None,
    schedule: str | Callable[[int], float] | None = None,
    loss: Callable[..., torch.Tensor] | None = None,
    batch_size: int | None = None,
    accumulate: int = 1,
    clip_norm: float | None = None,
    penalty: GradientPenalty | None = None,
    ema: float | None = None,
    backend: str = "threads",
    workers: int = 1,
    helpers: int | None = None,
    threads: int | None = None,
    pipeline: str | None = None,
    segments: int | None = None,
    head: str | None = None,
    head_noise: float = 0.1,
    scheduler: Any = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = True,
    progress: bool = False,
    log: str | Path | None = None,
    tensorboard: str | Path | None = None,
    device: str | torch.device | None = None,
    channels_last: bool = False,
    compile: bool | str = False,
    deterministic: bool = False,
    scaler: LossScaler | None = None,
    fallback: Fallback | str = "robust",
    seed: int = 0,
    allow_slow: bool = False,
    **options: Any,
) -> Result:
    """Train ``model`` and evaluate it after each epoch. It has the trained parameters afterwards, on its own device.

    What happens is what the plain loop of torch does: ``torch.manual_seed(seed)``, ``model.train()``, then for each
    batch ``optimizer.zero_grad()``, ``loss(model(x), y).backward()``, ``optimizer.step()``. What cannot be done that
    way is refused before any work.

    Parameters
    ----------
    model
        float32 parameters. Cut into segments where `tilewright.training.models.segments` says. Modules that are in
        ``eval()`` while others are not stay there, such as frozen batch norm; a model that is as a whole is not.
    train, test
        A `tilewright.training.data.Dataset`; or a torch data set of pairs (x, y), x of float32 or int64 and y a class,
        or a ``DataLoader`` of one, whose batch size is taken. They are read into memory once, and shuffled by ``seed``
        in each epoch. Without ``test`` nothing is evaluated.
    precision
        ``"fp32"`` (strict), ``"tf32"``, ``"bf16"``, ``"fp16"`` (with loss scaling), or ``"adaptive"``: the
        fastest the device has, and a safer one as soon as ``fallback`` says so. On a CPU that is BF16 if there are
        instructions for it, else FP32; a `Fallback` with a ladder of its own says otherwise. `torch.bfloat16` and
        "bfloat16" are "bf16", and so on.
    optimizer, lr, schedule
        A name of `OPTIMIZERS` or a function from parameters to a torch optimizer; its learning rate; its factor by
        number of updates, a name of `SCHEDULES` or a function. Each segment has an optimizer of its own, so what it
        does to a parameter must not depend on the others. Several optimizers: a mapping of prefixes of parameters'
        names to such optimizers, or to (optimizer, lr); the longest prefix has a parameter.
    loss
        Of (outputs, labels), a mean; cross entropy by default. Computed in FP32. `Losses` has several parts. Torch's
        own may have class weights, ``ignore_index`` and ``reduction="sum"``: a batch in several parts has the loss of
        the whole. Others that are no mean over images are refused there.
    batch_size, accumulate
        Images of a step, of all workers together, 64 by default, and in how many micro-batches each worker takes its
        share.
    clip_norm
        Largest 2-norm of the gradients, unscaled, of all parameters together.
    penalty
        A `GradientPenalty`, added to the loss of each micro-batch. The model stays in one segment.
    ema
        Keep an average of the parameters, ``ema * average + (1 - ema) * parameter`` after each step that is not
        skipped, evaluate that, and return it as ``result.average``. The model has the parameters themselves.
    backend, workers, helpers
        The engine; how many replicas share each batch; on ``threads``, how many more workers do what is not on the
        way to the next step: batches, evaluation, checkpoints (none on a CPU, one beside a GPU).
    threads
        Of torch in each task, on ``serial`` and ``threads``; by default the cores divided among the workers. The bits
        of a convolution's gradients depend on this number, and on no other choice of how to run.
    pipeline, segments
        A schedule, ``"gpipe"``, ``"1f1b"`` or ``"zero-bubble"``: each segment has a worker of its own, and ``workers``
        counts the replicas of the whole pipeline. And into how many segments to cut the model; by default, without a
        pipeline, those that have fewer than 65,536 parameters are joined.
    head, head_noise
        ``"ridge"`` or ``"gp"``: behind the last step, in the same graph, solve for a closed-form head on the features
        that the last segment gets; see `tilewright.training.closed_form_head`. O(n^2 d + n^3/3) for n training images.
        The noise is relative to a feature's variance; it must be so large that float64 can factor the matrix, some n^2
        1e-15.
    scheduler
        A policy of the engine instead of priorities; not with a pipeline.
    checkpoint, checkpoint_every, resume
        A folder; steps between checkpoints, an epoch by default; whether to go on from what is there.
    progress, log, tensorboard
        A line an epoch on standard error; a file that gets a JSON line a step; a folder that gets an event file.
    device
        A CUDA device if there is one, else the CPU.
    compile
        Compile each segment with `torch.compile`; a string is the name of one of torch's compilers. Losses then agree
        to rounding, not bit for bit. Evaluation is not compiled. On a CPU, convolutions in BF16 take minutes to compile
        and are then more than ten times slower than without.
    scaler, fallback
        Start of the loss scale; ``"robust"``, ``"literal"`` or a `Fallback` for adaptive precision.
    deterministic
        Have torch refuse what it cannot repeat, on a GPU.
    allow_slow
        Has no effect: what a CPU has no instructions for is widened, see `docs/training.md`.
    seed
        Of the order of images, crops, flips, and whatever a forward pass draws from torch's generator.
    options
        Of the engine: ``pool`` or ``comm`` for ``mpi``, ``client`` for ``dask``.

    Raises
    ------
    ValueError, TypeError
        Something does not fit; before any work.
    ImportError
        ``tensorboard`` is given, and that package is not installed.

    Notes
    -----
    In FP32, ``workers=R`` gives the bits of one worker with ``accumulate=R``: micro-batches and sums are the same.
    With R micro-batches on each of several workers sums associate differently, and losses agree to about 1e-6. Batch
    norm sees micro-batches, as in torch's DistributedDataParallel; running statistics are those of replica 0.

    On the ranks of ``mpiexec -n R python script.py`` the call is collective, with ``backend="mpi", workers=R``: all
    ranks make it, the model is that of rank 0, and all get the result. What is printed and written comes from rank 0.

    Examples
    --------
    >>> import torch
    >>> from tilewright import training
    >>> train, test = training.data.digits()
    >>> generator = torch.manual_seed(0)                         # of the first parameters; those of fit have seed=
    >>> result = training.fit(training.models.MLP(), train, test, epochs=3, batch_size=32)
    >>> result.test_accuracy > 0.9
    True
    """
    _check_engine(backend)
    check_call(fit, options, backend, also=("machine", "threads_per_task"))
    precision = precisions.named(precision)
    target = target_device(device) if backend in ("serial", "threads") else _host(device, backend)
    train, test, batch_size = two(train, test, batch_size)
    _check_data(model, train, test)
    if log is not None:
        _check_file(log)
    loss = nn.CrossEntropyLoss() if loss is None else loss
    _check_counts(epochs=epochs, batch_size=batch_size, accumulate=accumulate, workers=workers)
    optional = {"segments": segments, "threads": threads, "checkpoint_every": checkpoint_every}
    _check_counts(**{name: count for name, count in optional.items() if count is not None})
    _check_numbers(seed, helpers, clip_norm, ema, scaler, fallback, penalty)
    _check_parts(min(batch_size, len(train)), workers, accumulate)
    refuse(loss, penalty, workers * accumulate)
    _check_model(model, backend)
    if head is not None:
        _check_head(head, test, models.segments(model))
    _check_noise(head_noise, len(train))
    compiler = _compiler(compile, target, pipeline, penalty)
    segments = segments if penalty is None else _one_segment(segments, pipeline)
    control = _control(precision, model, target, loss, scaler, fallback)
    make = optimizers(optimizer, lr)
    make.check(model)
    per_epoch = -(-len(train) // batch_size)
    total = epochs * per_epoch
    rates = find_schedule(schedule, total)
    spare = (1 if target.type == "cuda" else 0) if helpers is None else helpers
    folder = str(checkpoint) if checkpoint is not None else None
    in_process = backend in ("serial", "threads")
    with training_mode(model):
        where = _cuts(model, train, segments, pipeline)
        parts = models.group(model, where)
        _try(model, train, batch_size, workers, accumulate, loss)
        words = tuple(map(Stage.words, parts)) if workers > 1 else ()
        layout = Layout(workers, accumulate, len(parts), pipeline is not None, pipeline == "zero-bubble", words)
        engine = _Engine(backend, layout, spare, threads, pipeline, scheduler, options)
        facts = {
            "data": f"{train.name}, {len(train)} images", "batch_size": batch_size, "seed": seed,
            "optimizer": make.said, "precision": precision, "parameters": sum(p.numel() for p in model.parameters()),
            "clip_norm": clip_norm, "penalty": None if penalty is None else str(penalty), "ema": ema,
            "loss": described(loss), "schedule": described(rates),
        }  # fmt: skip
        state, past = State.of(model, control), Log()
        if folder is not None:
            checkpoints.make_room(folder)
            checkpoints.check_extra(state.extra)
            facts["data"] += f", digest {digest(train.images, train.labels)}"
        found = checkpoints.read(folder) if folder is not None and resume else None
        if found is not None:
            checkpoints.check(found[0], found[2], facts, model, str(folder))
            state, past = found[0], found[1]
        setup = Setup(
            loss=_on(loss, target), optimizer=make, schedule=rates, recipe=train.recipe, device=str(target), seed=seed,
            batch=batch_size, cuts=where, clip_norm=clip_norm, penalty=penalty, ema=ema,
            checks=control.fallback is not None or control.precision == "fp16", channels_last=channels_last,
            progress=progress, log=str(log) if log is not None else None, checkpoint=folder, facts=facts,
            board=str(open_file(tensorboard)) if tensorboard is not None else None, compiler=compiler,
            in_place=in_process, keyed=workers * accumulate > 1 or pipeline is not None, head=head is not None,
        )  # fmt: skip
        replicas = _replicas(model, setup, workers) if in_process else [model] * workers
        resumed = state.step
        usage.forget()
        runs: list[tuple[Run, Marks]] = []
        closed_form: Head | None = None
        every = checkpoint_every or per_epoch
        stride = max(1, MOST_TASKS // (layout.places * (12 + 4 * len(parts) * accumulate)))
        with precisions.flags(control.precision, target.type, deterministic), precisions.nothing_ambient(target.type):
            while state.step < total:
                stop = min(total, state.step + stride)
                span = Span(
                    state.step, stop, len(train), batch_size, len(test) if test is not None else 0,
                    save_every=every if folder else 0, save_last=bool(folder) and stop == total,
                )  # fmt: skip
                last = head is not None and test is not None and stop == total
                closing = partial(insert_head, span=span, kind=str(head), noise=head_noise, classes=train.classes)
                graph, marks = training_graph(
                    layout, span, checks=setup.checks, norms=clip_norm is not None,
                    adaptive=control.fallback is not None, overlap=engine.overlap, then=closing if last else None,
                )  # fmt: skip
                data = _data(layout, replicas, state, replace(setup, past=past), train, test)
                done = engine.run(graph, data | (head_data(len(train), train.classes) if last else {}), progress)
                state = done[Handle("result", (0,))]
                log_of_run = done[Handle("log", (0,))]
                past = past.and_then(log_of_run)
                if last:
                    closed_form = done[Handle("head", (0,))]
                _let_go(done)
                runs.append((replace(done, measured=log_of_run.used), marks))
        if not (in_process and replicas[0] is model and runs):
            Contents(model).load(state.tensors, state.extra)
    return Result(
        precision=precision, log=past, runs=runs, per_epoch=per_epoch, epochs=epochs, resumed=resumed,
        facts=facts | _manifest(target, engine, setup, control, deterministic), state=state, model=model,
        head=closed_form,
    )  # fmt: skip


def _check_engine(backend: Any) -> None:
    """ValueError for an engine that is none, or computes nothing."""
    if backend == "simulate":
        raise ValueError(
            "backend 'simulate' computes nothing, so nothing would be trained; "
            "tw.simulate(training.step.training_graph(...)[0], machine) tells how long a training would take"
        )
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")


def _check_numbers(
    seed: Any, helpers: Any, clip_norm: Any, ema: Any, scaler: Any, fallback: Any, penalty: Any
) -> None:  # fmt: skip
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"seed must be an integer, not {seed!r}")
    if helpers is not None and (isinstance(helpers, bool) or not isinstance(helpers, int)):
        raise TypeError(f"helpers must be an integer, not {helpers!r}")
    if helpers is not None and helpers < 0:
        raise ValueError(f"helpers must not be negative, not {helpers}")
    if clip_norm is not None and not (_real(clip_norm) and clip_norm > 0):
        raise ValueError(f"clip_norm must be above 0, not {clip_norm!r}")
    if ema is not None and not (_real(ema) and 0 < ema < 1):
        raise ValueError(f"ema must be between 0 and 1, not {ema!r}")
    for name, value, kind in (("scaler", scaler, LossScaler), ("penalty", penalty, GradientPenalty)):
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name} must be a training.{kind.__name__}, not {value!r}")
    if not isinstance(fallback, str | Fallback):
        raise TypeError(f"fallback must be 'robust', 'literal' or a training.Fallback, not {fallback!r}")


def _real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_parts(batch: int, workers: int, accumulate: int) -> None:
    """ValueError if there are more micro-batches in a step than images."""
    if workers > batch:
        raise ValueError(f"workers={workers} share batches of {batch} images: pass fewer, or a larger batch_size")
    if workers * accumulate > batch:
        raise ValueError(
            f"accumulate={accumulate} cuts {batch} images of workers={workers} into {workers * accumulate} parts, and "
            f"each needs an image: pass a smaller accumulate, or a larger batch_size"
        )


def _check_model(model: nn.Module, backend: str) -> None:
    """ValueError, before any work, if parameters have no values yet, or hooks that stay behind."""
    lazy = [name for name, m in model.named_modules() if isinstance(m, nn.modules.lazy.LazyModuleMixin)
            and m.has_uninitialized_params()]  # fmt: skip
    if lazy:
        raise ValueError(
            f"layer {lazy[0]!r} is lazy and has no parameters yet: call the model once on some images first"
        )
    tensors = [*model.named_parameters(), *model.named_buffers()]
    empty = [name for name, tensor in tensors if tensor.is_meta]
    if empty:
        raise ValueError(
            f"{empty[0]} is on the meta device and has no values: model.to_empty(device='cpu'), then set or load them"
        )
    hooks = [name for name, p in model.named_parameters() if p._backward_hooks]
    if hooks and backend not in ("serial", "threads"):
        raise ValueError(f"parameter {hooks[0]} has hooks, which do not reach other processes; use backend='threads'")


def _cuts(model: nn.Module, train: Dataset, segments: int | None, pipeline: str | None) -> tuple[int, ...]:
    """Where the model is cut. ValueError if that is asked for, and its parts do not do what it does."""
    where = models.cuts(model, segments, 0 if pipeline is not None else LEAST)
    if len(where) == 2:
        return where
    asked = segments is not None or pipeline is not None
    problem = "" if asked else "hooks see each pass" if any(map(hooked, model.modules())) else ""
    problem = problem or trial.composes(model, where, _images(model, train, 2))
    if problem and asked:
        raise ValueError(f"the model cannot be cut into {len(where) - 1} segments: {problem}; pass segments=1")
    return (0, where[-1]) if problem else where


def _try(model: nn.Module, train: Dataset, batch: int, workers: int, accumulate: int, loss: Any) -> None:
    """ValueError for what only a few images can tell: batch norm of one image, a loss that is no mean."""
    last = len(train) % batch or batch
    small = [
        n for n in {min(batch, len(train)), last}
        if 1 in [size for part in split(n, workers) for size in split(part, accumulate)]
    ]  # fmt: skip
    if small and trial.alone(model, _images(model, train, 1)):
        of = "the last batch of an epoch" if small[0] == last and last < batch else "a batch"
        raise ValueError(
            f"{of} has {small[0]} image{'s' * (small[0] > 1)}, and a worker gets a single one at a time, of which "
            f"batch norm cannot take a variance: choose another batch_size ({len(train)} images are "
            f"{len(train) // batch} times {batch} and {len(train) % batch})"
        )
    few = _images(model, train, 8)
    labels = torch.from_numpy(train.labels[:8]).to(few.device)
    problem = trial.loss_problem(model, loss, few, labels, workers * accumulate)
    if problem:
        raise ValueError(problem)


def _images(model: nn.Module, data: Dataset, count: int) -> torch.Tensor:
    """Some images as a model gets them, where it is."""
    return torch.from_numpy(normalise(data.images[:count], data.recipe)).to(next(model.parameters()).device)


def _on(loss: Any, device: torch.device) -> Any:
    """A loss with its weights on a device."""
    return copy.deepcopy(loss).to(device) if isinstance(loss, nn.Module) and device.type != "cpu" else loss


@contextlib.contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """As ``model.train()`` leaves it, but for modules that were in ``eval()`` while others were not; then as before.

    Torch's generators are given back too.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    if any(mode for _, mode in modes):
        for module, mode in modes:
            module.training = module.training and mode
    try:
        yield
    finally:
        randomness.leave()
        for module, mode in modes:
            module.training = mode


def _replicas(model: nn.Module, setup: Setup, count: int) -> list[nn.Module]:
    """The model itself for the first replica, where it is on the device and has its layout, and copies."""
    here = all(t.device.type == setup.target.type for t in (*model.parameters(), *model.buffers()))
    first = model if here and setup.target.type == "cpu" and not setup.channels_last else replica(model, setup)
    return [first, *(replica(model, setup) for _ in range(count - 1))]


def _check_data(model: Any, train: Any, test: Any) -> None:
    """ValueError or TypeError, before any work, if something is no model, no data, or data of another kind."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch module, not {model if isinstance(model, type) else type(model)}")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("there is nothing to train: the model has no parameter that requires a gradient")
    for name, data in (("train", train), ("test", test)):
        if data is None and name == "test":
            continue
        if not isinstance(data, Dataset):
            raise TypeError(
                f"{name} must be a tilewright.training.data.Dataset(images, labels), not {type(data)}; a torch data "
                f"set of pairs (x, y), or a DataLoader of one, will do"
            )
        if not len(data):
            raise ValueError(f"{name} is an empty data set" + ("; leave it out" if name == "test" else ""))
    if test is not None and (test.shape, test.classes) != (train.shape, train.classes):
        raise ValueError(
            f"train has images of shape {train.shape} in {train.classes} classes, test of shape {test.shape} in "
            f"{test.classes}"
        )


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a positive integer, not {count!r}")


def _check_file(path: str | Path) -> None:
    """ValueError, before any work, if lines cannot be appended to a file."""
    try:
        with Path(path).open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise ValueError(f"cannot write the log {path}: {error.strerror}") from error


def _compiler(
    wanted: bool | str, device: torch.device, pipeline: str | None, penalty: GradientPenalty | None
) -> str | None:  # fmt: skip
    """The backend of torch.compile. ValueError if there is something that it cannot do."""
    if not wanted:
        return None
    name = BACKEND if wanted is True else wanted
    reason = compiler_problem(name, device)
    if not reason and penalty is not None:
        reason = "a compiled backward pass cannot be differentiated again, which a gradient penalty does"
    if not reason and pipeline == "zero-bubble":
        reason = "a compiled backward pass cannot be split, which zero-bubble does; use 1f1b"
    if reason:
        raise ValueError(f"compile={wanted!r}: {reason}")
    return name


def _one_segment(segments: int | None, pipeline: str | None) -> int:
    """For a gradient penalty. ValueError if more are asked for."""
    if pipeline is not None or segments not in (None, 1):
        raise ValueError(
            "a gradient penalty differentiates through the whole model twice: it takes one segment and no pipeline"
        )
    return 1


def _check_head(kind: Any, test: Dataset | None, parts: list[nn.Module]) -> None:
    if kind not in HEADS:
        raise ValueError(f"unknown head {kind!r}; known: {', '.join(HEADS)}")
    if test is None:
        raise ValueError("a closed-form head is measured on a test set; pass one")
    if len(parts) < 2:
        raise ValueError("a closed-form head takes the place of the last segment; this model has only one")


def _check_noise(noise: Any, n: int) -> None:
    if not (_real(noise) and math.isfinite(noise) and noise >= least_noise(n)):
        raise ValueError(
            f"head_noise must be a finite number from {least_noise(n):.1e} for {n} images, below "
            f"which their kernel matrix may have no Cholesky factor in float64, not {noise!r}"
        )


def _control(
    wanted: str, model: nn.Module, device: torch.device, loss: Any, scaler: LossScaler | None,
    fallback: Fallback | str,
) -> Control:  # fmt: skip
    """Where a training starts: its precision, the loss scale, and the ladder if it is adaptive."""
    scaler = replace(scaler) if scaler is not None else LossScaler()
    if wanted != "adaptive":
        precisions.check(wanted, device)
        precisions.check_model(model, loss, wanted)
        scaler.enabled = scaler.enabled and wanted == "fp16"
        return Control(wanted, scaler)
    plan = fallback if isinstance(fallback, Fallback) else Fallback(mode=fallback)
    rungs = precisions.ladder(plan.ladder, device)
    if plan.ladder == LADDER:  # nobody said which rungs
        rungs = tuple(rung for rung in rungs if precisions.pays(rung, device))
    if not rungs:
        raise ValueError(f"{device} has none of the precisions {', '.join(plan.ladder)}")
    plan = Fallback.from_state(plan.state_dict() | {"ladder": rungs})
    precisions.check_model(model, loss, plan.precision)
    scaler.enabled = plan.precision == "fp16"
    return Control(plan.precision, scaler, plan)


def check_precision(wanted: str, model: nn.Module, **options: Any) -> None:
    """ValueError, as `fit` would raise it with these options, if the model cannot be trained in a precision."""
    _control(
        wanted, model, target_device(options.get("device")), options.get("loss"), None,
        options.get("fallback", "robust"),
    )  # fmt: skip


def target_device(device: str | torch.device | None) -> torch.device:
    """That device, or a CUDA device if there is one, else the CPU. ValueError if it is neither, or not there."""
    have = torch.cuda.is_available()
    try:
        found = torch.device(device if device is not None else "cuda" if have else "cpu")
    except RuntimeError:
        raise ValueError(f"unknown device {device!r}; trainings run on 'cpu' and 'cuda', such as 'cuda:1'") from None
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"trainings run on 'cpu' and 'cuda', not on {str(found)!r}")
    if found.type == "cuda" and not have:
        raise ValueError(f"there is no CUDA device, so nothing can run on {str(found)!r}; pass 'cpu'")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"there is no device {str(found)!r}; CUDA devices here: {torch.cuda.device_count()}")
    return found


def _host(device: str | torch.device | None, backend: str) -> torch.device:
    """The CPU, for engines with several processes. ValueError if something else is meant, or would be by default."""
    if torch.cuda.is_available() if device is None else str(device) != "cpu":
        raise ValueError(f"backend {backend!r} sends values between processes and trains on CPUs; pass device='cpu'")
    return torch.device("cpu")


class _Engine:
    """How `tilewright.run` is called for a layout."""

    def __init__(
        self, backend: str, layout: Layout, helpers: int, threads: int | None, pipeline: str | None, scheduler: Any,
        options: dict[str, Any],
    ) -> None:  # fmt: skip
        if isinstance(scheduler, str):
            policy(scheduler)  # ValueError for another name
        if pipeline is not None and scheduler is not None:
            raise ValueError("a pipeline is a policy; pass either pipeline or scheduler")
        self.backend = backend
        self.scheduler = scheduler or (pipeline_policy(pipeline, layout) if pipeline else "prio")
        self.workers = layout.places + (helpers if backend == "threads" and not pipeline else 0)
        self.overlap = self.workers > 1
        self.options = dict(options)
        if backend in ("serial", "threads"):
            share = max(1, cores() // (1 if backend == "serial" else self.workers))
            self.options["threads_per_task"] = share if threads is None else threads

    def run(self, graph: TaskGraph, data: dict[str, Any], progress: bool) -> Run:
        bar = progress and self.backend not in ("serial", "threads")  # there the tasks themselves print
        options = self.options
        if self.backend not in ("serial", "threads") and graph.layout is not None:
            options = {"owner": {handle: graph.layout.owner(handle) for handle in graph.handles_used}} | options
        if self.backend == "mpi" and is_rank():
            options = {"root": 0} | options  # all begin with the model and the state of rank 0
        return run(
            graph, data, backend=self.backend, scheduler=self.scheduler, workers=self.workers, progress=bar, **options
        )


def _data(
    layout: Layout, replicas: list[nn.Module], state: State, setup: Setup, train: Dataset, test: Dataset | None
) -> dict[str, Any]:
    """What the graph reads, by place."""
    values: dict[str, Any] = {
        "state": state, "setup": setup, "images": train.images, "targets": train.labels,
    }  # fmt: skip
    if test is not None:
        values |= {"test_images": test.images, "test_targets": test.labels}
    own = [replicas[layout.stages(place)[0][0]] for place in range(layout.places)]
    return {"model": own} | {name: [value] * layout.places for name, value in values.items()}


def _let_go(run: Run) -> None:
    """Keep the trace of a run and not its data: another training may be measured next."""
    run.store.families.clear()
    run.store.given.clear()
    run.store.clear()


def _manifest(
    device: torch.device, engine: _Engine, setup: Setup, control: Control, deterministic: bool
) -> dict[str, Any]:  # fmt: skip
    """What this ran on, and the flags that numbers depend on."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {cores()} cores",
        "torch": torch.__version__, "backend": engine.backend, "workers": engine.workers,
        "threads_per_task": engine.options.get("threads_per_task", 1), "channels_last": setup.channels_last,
        "compiler": setup.compiler,
        "float32_matmul": "strict" if control.precision != "tf32" else "tf32", "autocast_cache": False,
        "deterministic": deterministic, "reduced_precision_reduction": {
            name: getattr(torch.backends.cuda.matmul, f"allow_{name}_reduced_precision_reduction")
            for name in ("fp16", "bf16")
        } if device.type == "cuda" else None,
    }  # fmt: skip
