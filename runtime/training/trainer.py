"""Train a model: `fit` builds the graphs of a training, runs them on any engine and says how it went."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from tilewright.backends import check_call, engine_class, named
from tilewright.engine import run
from tilewright.graph import Handle, TaskGraph
from tilewright.host.cores import cores
from tilewright.runs.progress import ProgressOption, checked, one_page
from tilewright.runs.run import Run
from tilewright.scalars import plain
from tilewright.training import checkpoint as checkpoints
from tilewright.training import models, randomness, usage
from tilewright.training import precision as precisions
from tilewright.training.closed_form_head import Head, head_data, insert_head
from tilewright.training.contents import Contents
from tilewright.training.control import Control, first_control
from tilewright.training.data import Dataset
from tilewright.training.data.torch_data import two
from tilewright.training.devices import host, target_device
from tilewright.training.identity import described, digest
from tilewright.training.learning_rates import schedule as find_schedule
from tilewright.training.losses import refuse
from tilewright.training.optimizers import optimizers
from tilewright.training.pipeline import pipeline_policy
from tilewright.training.replicas import replica
from tilewright.training.requirements import (
    check_data,
    check_engine,
    check_file,
    check_head,
    check_model,
    check_noise,
    check_on_images,
    check_parts,
    compiler,
    cuts,
    one_segment,
)
from tilewright.training.result import Result
from tilewright.training.settings import SETTINGS, Execution, Learning, Recording, grouped, positive_counts
from tilewright.training.state import Log, Setup, Stage, State
from tilewright.training.step import Division, Marks, Span, training_graph
from tilewright.training.tensorboard import open_file

__all__ = ["fit"]

MOST_TASKS = 40_000
"""Tasks of one graph; a longer training is several graphs, one after the other."""


@one_page
def fit(
    model: nn.Module,
    train: Dataset | torch.utils.data.Dataset | torch.utils.data.DataLoader,
    test: Dataset | torch.utils.data.Dataset | torch.utils.data.DataLoader | None = None,
    *,
    epochs: int = 5,
    precision: str | torch.dtype = "fp32",
    optimizer: Any = "sgd",
    lr: float | None = None,
    loss: Callable[..., torch.Tensor] | None = None,
    batch_size: int | None = None,
    backend: str | None = None,
    workers: int = 1,
    device: str | torch.device | None = None,
    seed: int = 0,
    progress: ProgressOption = False,
    learning: Learning | None = None,
    execution: Execution | None = None,
    recording: Recording | None = None,
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
    epochs
        How often the whole of ``train`` is gone through.
    precision
        ``"fp32"`` (strict), ``"tf32"``, ``"bf16"``, ``"fp16"`` (with loss scaling), or ``"adaptive"``: the
        fastest the device has, and a safer one as soon as ``fallback`` says so. On a CPU that is BF16 if there are
        instructions for it, else FP32; a `Fallback` with a ladder of its own says otherwise. `torch.bfloat16` and
        "bfloat16" are "bf16", and so on.
    optimizer, lr
        A name of `OPTIMIZERS` or a function from parameters to a torch optimizer; its learning rate. Each segment has
        an optimizer of its own, so what it does to a parameter must not depend on the others. Several optimizers: a
        mapping of prefixes of parameters' names to such optimizers, or to (optimizer, lr); the longest prefix has a
        parameter.
    loss
        A function of (outputs, labels) that gives a mean; cross entropy by default. Computed in FP32. `Losses` has
        several parts. Torch's own may have class weights, ``ignore_index`` and ``reduction="sum"``: a batch in several
        parts has the loss of the whole. Others that are no mean over images are refused there.
    batch_size
        Images of a step, of all workers together, 64 by default.
    backend, workers
        The engine; how many replicas of the model, or of its pipeline, share each batch.
    device
        A CUDA device if there is one, else the CPU.
    seed
        Decides the order of images, crops, flips, and whatever a forward pass draws from torch's generator.
    progress
        Write a line an epoch to standard error; ``"page"`` follows the tasks on a page, as in `tilewright.run`, and
        writes none.
    learning
        A `Learning`: schedule, micro-batches, clipping, penalty, average, loss scale, fallback, closed-form head.
    execution
        An `Execution`: pipeline, segments, helpers, threads, policy, memory format, compiler, determinism.
    recording
        A `Recording`: checkpoints, log, TensorBoard.
    options
        Any setting of these three by its own name, such as ``clip_norm=1.0``; and those of the engine: ``pool`` or
        ``comm`` for ``mpi``, ``client`` for ``dask``.

    Raises
    ------
    ValueError, TypeError
        Something does not fit, is unknown, or is given twice; before any work.
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
    >>> generator = torch.manual_seed(0)                         # for the first parameters; fit has seed= for the rest
    >>> result = training.fit(training.models.MLP(), train, test, epochs=3, batch_size=32)
    >>> result.test_accuracy > 0.9
    True
    """
    check_engine(backend)
    backend = named(backend)
    groups = {"learning": learning, "execution": execution, "recording": recording}
    learning, execution, recording, options = grouped(options | groups)
    check_call(fit, options, backend, also=("machine", "threads_per_task"), near=SETTINGS)
    precision = precisions.named(precision)
    in_process = engine_class(backend).in_process
    target = target_device(device) if in_process else host(device, backend)
    train, test, batch_size = two(train, test, batch_size)
    check_data(model, train, test)
    if recording.log is not None:
        check_file(recording.log)
    loss = nn.CrossEntropyLoss() if loss is None else loss
    epochs, batch_size, workers, seed, lr = map(plain, (epochs, batch_size, workers, seed, lr))
    positive_counts(epochs=epochs, batch_size=batch_size, workers=workers)
    progress = checked(progress)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"seed must be an integer, not {seed!r}")
    accumulate, penalty, head, pipeline = learning.accumulate, learning.penalty, learning.head, execution.pipeline
    check_parts(min(batch_size, len(train)), workers, accumulate)
    refuse(loss, penalty, workers * accumulate)
    check_model(model, backend, workers)
    if head is not None:
        check_head(test, models.segments(model))
    check_noise(learning.head_noise, len(train))
    compiled = compiler(execution.compile, target, pipeline, penalty)
    segments = execution.segments if penalty is None else one_segment(execution.segments, pipeline)
    control = first_control(precision, model, target, loss, learning.scaler, learning.fallback)
    make = optimizers(optimizer, lr)
    make.check(model)
    per_epoch = -(-len(train) // batch_size)
    total = epochs * per_epoch
    rates = find_schedule(learning.schedule, total)
    folder = str(recording.checkpoint) if recording.checkpoint is not None else None
    with training_mode(model):
        where = cuts(model, train, segments, pipeline)
        parts = models.group(model, where)
        check_on_images(model, train, batch_size, workers, accumulate, loss)
        words = tuple(map(Stage.words, parts)) if workers > 1 else ()
        division = Division(workers, accumulate, len(parts), pipeline is not None, pipeline == "zero-bubble", words)
        engine = _Engine(backend, division, execution, target, options)
        facts = {
            "data": f"{train.name}, {len(train)} images", "batch_size": batch_size, "seed": seed,
            "optimizer": make.said, "precision": precision, "parameters": sum(p.numel() for p in model.parameters()),
            "clip_norm": learning.clip_norm, "penalty": None if penalty is None else str(penalty), "ema": learning.ema,
            "loss": described(loss), "schedule": described(rates),
        }  # fmt: skip
        state, past = State.of(model, control), Log()
        if folder is not None:
            checkpoints.make_room(folder)
            checkpoints.check_extra(state.extra)
            facts["data"] += f", digest {digest(train.images, train.labels)}"
        found = checkpoints.read(folder) if folder is not None and recording.resume else None
        if found is not None:
            checkpoints.check(found[0], found[2], facts, model, str(folder))
            state, past = found[0], found[1]
        board = recording.tensorboard
        setup = Setup(
            loss=_on(loss, target),
            optimizer=make,
            schedule=rates,
            recipe=train.recipe,
            device=str(target),
            seed=seed,
            batch=batch_size,
            cuts=where,
            clip_norm=learning.clip_norm,
            penalty=penalty,
            ema=learning.ema,
            checks=control.fallback is not None or control.precision == "fp16",
            channels_last=execution.channels_last,
            progress=progress is True,
            log=str(recording.log) if recording.log is not None else None,
            checkpoint=folder,
            facts=facts,
            board=str(open_file(board)) if board is not None else None,
            compiler=compiled,
            in_place=in_process,
            keyed=workers * accumulate > 1 or pipeline is not None,
            head=head is not None,
        )
        replicas = _replicas(model, setup, workers) if in_process else [model] * workers
        resumed = state.step
        usage.forget()
        runs: list[tuple[Run, Marks]] = []
        closed_form: Head | None = None
        every = recording.checkpoint_every or per_epoch
        stride = max(1, MOST_TASKS // (division.places * (12 + 4 * len(parts) * accumulate)))
        deterministic = execution.deterministic
        with precisions.flags(control.precision, target.type, deterministic), precisions.default_state(target.type):
            while state.step < total:
                stop = min(total, state.step + stride)
                span = Span(
                    state.step,
                    stop,
                    len(train),
                    batch_size,
                    len(test) if test is not None else 0,
                    save_every=every if folder else 0,
                    save_last=bool(folder) and stop == total,
                )
                last = head is not None and test is not None and stop == total
                closing = partial(
                    insert_head, span=span, kind=str(head), noise=learning.head_noise, classes=train.classes
                )
                graph, marks = training_graph(
                    division,
                    span,
                    checks=setup.checks,
                    norms=learning.clip_norm is not None,
                    adaptive=control.fallback is not None,
                    overlap=engine.overlap,
                    then=closing if last else None,
                )
                data = _data(division, replicas, state, replace(setup, past=past), train, test)
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
    for path, reason in past.unwritten.items():
        warnings.warn(
            f"{path} could not be written to the end ({reason}); the training is complete, and all rows are in "
            f"result.log",
            RuntimeWarning,
            stacklevel=2,
        )
    return Result(
        precision=precision, log=past, runs=runs, per_epoch=per_epoch, epochs=epochs, resumed=resumed,
        facts=facts | _manifest(target, engine, setup, control, deterministic), state=state, model=model,
        head=closed_form,
    )  # fmt: skip


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


class _Engine:
    """How `tilewright.run` is called for a training."""

    def __init__(
        self, backend: str, division: Division, execution: Execution, device: torch.device, options: dict[str, Any]
    ) -> None:
        pipeline, threads = execution.pipeline, execution.threads
        self.backend = backend
        self.scheduler = execution.scheduler or (pipeline_policy(pipeline, division) if pipeline else "prio")
        self.engine = engine_class(backend)
        helpers = (1 if device.type == "cuda" else 0) if execution.helpers is None else execution.helpers
        spare = 0 if pipeline or self.engine.in_order or not self.engine.in_process else helpers
        self.workers = division.places + spare
        self.overlap = self.workers > 1
        self.options = dict(options)
        if self.engine.wide_tasks:
            share = max(1, cores() // (1 if self.engine.in_order else self.workers))
            self.options["threads_per_task"] = share if threads is None else threads

    def run(self, graph: TaskGraph, data: dict[str, Any], progress: ProgressOption) -> Run:
        bar = False if progress is True and self.engine.in_process else progress  # there the tasks themselves print
        options = self.options
        if self.engine.together(options):
            options = {"root": 0} | options  # all begin with the model and the state of rank 0
        return run(
            graph, data, backend=self.backend, scheduler=self.scheduler, workers=self.workers, progress=bar, **options
        )


def _data(
    division: Division, replicas: list[nn.Module], state: State, setup: Setup, train: Dataset, test: Dataset | None
) -> dict[str, Any]:
    """What the graph reads, by place."""
    values: dict[str, Any] = {"state": state, "setup": setup, "images": train.images, "targets": train.labels}
    if test is not None:
        values |= {"test_images": test.images, "test_targets": test.labels}
    own = [replicas[division.stages(place)[0][0]] for place in range(division.places)]
    return {"model": own} | {name: [value] * division.places for name, value in values.items()}


def _let_go(run: Run) -> None:
    """Keep the trace of a run and not its data: another training may be measured next."""
    run.store.families.clear()
    run.store.given.clear()
    run.store.clear()


def _manifest(
    device: torch.device, engine: _Engine, setup: Setup, control: Control, deterministic: bool
) -> dict[str, Any]:
    """What this ran on, and the flags that numbers depend on."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {cores()} cores",
        "torch": torch.__version__,
        "backend": engine.backend,
        "workers": engine.workers,
        "threads_per_task": engine.options.get("threads_per_task", 1),
        "channels_last": setup.channels_last,
        "compiler": setup.compiler,
        "float32_matmul": "strict" if control.precision != "tf32" else "tf32",
        "autocast_cache": False,
        "deterministic": deterministic,
        "reduced_precision_reduction": {
            name: getattr(torch.backends.cuda.matmul, f"allow_{name}_reduced_precision_reduction")
            for name in ("fp16", "bf16")
        }
        if device.type == "cuda"
        else None,
    }
