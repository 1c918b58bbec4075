"""The training step as a task graph.

One step of replica r with micro-batches m and segments s, as the tasks are inserted::

    load -> augment -> transfer
    forward(m, 0) -> ... -> forward_loss(m, S-1)                     for each m
    backward(m, S-1) -> ... -> backward(m, 0)                        each adds to the gradients of its segment
    bucket(r, s) -> pack, add, unpack                                several replicas only: an all-reduce
    unscale(s) -> judge -> apply(s), update                          found_inf is data that judge reduces
    snapshot -> evaluate, save;  record                              of low priority: they overlap the next step

Handles start with the *place* that their value lives in: a replica's rank, or in a pipeline the rank of one of its
segments. So the owner of a handle is all that an engine with ranks has to know, and messages follow from it.

The gradients of a segment leave for the all-reduce as soon as its last backward pass is over, while those of the
segments before it run. A bucket is one FP32 array that stays where it is from step to step, so messages are bytes. Sums
go from left to right over the replicas, whoever is early: all have the same bits, those of one worker that accumulates
as often. What is not finite in one replica's gradients is not finite in the sum, so all see it.

Values are given up where they are last used and handles are those of the step before, so that a graph of many steps
needs the memory of one; only batches have two places, and the next one loads while this one trains.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

from tilewright.comm.collectives import Homes, lay
from tilewright.comm.schedule import schedule
from tilewright.graph import RW, Handle, Op, R, Task, TaskGraph, Use, W
from tilewright.graph import Layout as Owners
from tilewright.training import forward_backward, gradients, logbook, minibatch, replicas, update

__all__ = ["LOW", "OPS", "Builder", "Division", "Marks", "Span", "split", "training_graph"]

LOW = -10.0

_RESULTS = ("result", "log", "head")


def _last(uses: tuple[Use, ...]) -> tuple[object, ...]:
    """Indices of the last handle, without its place."""
    return uses[-1].handle.index[1:]


def _first(uses: tuple[Use, ...]) -> tuple[object, ...]:
    return uses[0].handle.index[1:]


OPS = {
    op.name: op
    for op in (
        Op("open", replicas.open_stages, weight=0), Op("open_log", logbook.open_log, weight=0),
        Op("load", minibatch.load, weight=0, fresh=True), Op("augment", minibatch.augment, weight=0, fresh=True),
        Op("transfer", minibatch.transfer, weight=0, fresh=True),
        Op("forward", forward_backward.forward, indices=_last, fresh=True),
        Op("forward_loss", forward_backward.forward_loss, indices=_last, fresh=True),
        Op("backward", forward_backward.backward, weight=2, indices=_last, fresh=True),
        Op("backward_input", forward_backward.backward_input, indices=_last),
        Op("backward_weight", forward_backward.backward_weight, indices=_last),
        Op("bucket", gradients.bucket, weight=0, indices=_last, in_place=True),
        Op("blank", gradients.blank, weight=0, indices=_last, in_place=True),
        Op("unscale", gradients.unscale, weight=0, indices=_last),
        Op("unscale_shared", gradients.unscale_shared, weight=0, indices=_last),
        Op("judge", update.judge, weight=0, fresh=True),
        Op("apply", update.apply, weight=0, indices=_first, fresh=True),
        Op("apply_shared", update.apply_shared, weight=0, indices=_first),
        Op("update", update.update, weight=0, fresh=True),
        Op("record", logbook.record, weight=0, fresh=True), Op("snapshot", replicas.snapshot, weight=0),
        Op("exam", replicas.exam, weight=0), Op("evaluate", logbook.evaluate, weight=0),
        Op("tally", logbook.tally, weight=0),
        Op("save", replicas.save, weight=0),
        Op("finish", replicas.finish, weight=0), Op("release", replicas.release, weight=0),
    )
}  # fmt: skip
"""Their functions take the values of a task's handles in the order of its accesses and return what it writes; tasks
share nothing else. Ranks and Dask workers import them by name."""


class Division(NamedTuple):
    """How a batch and a model are cut up."""

    replicas: int = 1
    micro: int = 1
    """Micro-batches of a replica in one step."""
    segments: int = 1
    pipeline: bool = False
    """Whether each segment has a place of its own."""
    split: bool = False
    """Whether the gradients of inputs and of weights are separate tasks."""
    words: tuple[int, ...] = ()
    """Numbers in the bucket of each segment: see `tilewright.training.state.Stage.words`. For several replicas."""

    @property
    def places(self) -> int:
        return self.replicas * (self.segments if self.pipeline else 1)

    def place(self, replica: int, segment: int) -> int:
        return replica * self.segments + segment if self.pipeline else replica

    def stages(self, place: int) -> list[tuple[int, int]]:
        """(replica, segment) of the stages that live at a place."""
        if self.pipeline:
            return [divmod(place, self.segments)]
        return [(place, s) for s in range(self.segments)]


class Span(NamedTuple):
    """Which steps a graph has, of which training."""

    start: int
    stop: int
    size: int
    """Images of the training set."""
    batch: int
    test_size: int = 0
    test_batch: int = 1000
    save_every: int = 0
    """Steps between checkpoints; 0 writes none but the one at the end of the span, if ``save_last``."""
    save_last: bool = False

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch; the last one may be smaller."""
        return -(-self.size // self.batch)


@dataclass
class Marks:
    """Where in the graph things are, for whoever reads a trace of it."""

    done: dict[int, int]
    """By step, the task that ends it on the first place."""
    last: dict[int, int]
    """By step, the last task that belongs to it."""


class Builder:
    """Handles and loops."""

    def __init__(
        self,
        layout: Division,
        span: Span,
        *,
        checks: bool,
        norms: bool,
        adaptive: bool,
        overlap: bool,
        then: Callable[[Builder], None] | None,
    ) -> None:
        self.layout = layout
        self.span = span
        self.looks = checks or norms
        self.adaptive = adaptive
        self.then = then
        self.low = LOW if overlap else 0.0
        self.g = TaskGraph("training")
        self.marks = Marks({}, {})
        self.rooms = Homes()
        """Where handles live that do not begin with their place, and the shapes of arrays."""
        self._names: dict[str, dict[tuple[int, ...], Handle]] = {}

    def h(self, name: str, *index: int) -> Handle:
        known = self._names.setdefault(name, {})
        handle = known.get(index)
        if handle is None:
            handle = known[index] = Handle(name, index)
        return handle

    def insert(self, op: str, *args: object, on: int, priority: float = 0.0) -> Task:
        return self.g.insert(OPS[op], *args, on=on, priority=priority)

    def stage(self, r: int, s: int) -> Handle:
        return self.h("stage", self.layout.place(r, s), r, s)

    def buffers(self, r: int, s: int) -> Handle:
        return self.h("buffers", self.layout.place(r, s), r, s)

    def bucket(self, r: int, s: int) -> Handle:
        p = self.layout.place(r, s)
        return self.rooms.note(self.h("bucket", p, r, s), p, self.layout.words[s])

    def owner(self, handle: Handle) -> int:
        rank = self.rooms.rank.get(handle)
        return handle.index[0] if rank is None else rank

    # ------------------------------------------------------------ a training

    def build(self) -> TaskGraph:
        h, layout, span = self.h, self.layout, self.span
        self.insert("open_log", R(h("setup", 0)), W(h("log", 0)), on=0)
        for p in range(layout.places):
            mine = layout.stages(p)
            self.insert(
                "open",
                R(h("model", p)),
                R(h("state", p)),
                R(h("setup", p)),
                [R(h("log", 0))] if p == 0 else [],  # memory is measured from before the model is there
                [W(self.stage(r, s)) for r, s in mine],
                [W(self.buffers(r, s)) for r, s in mine],
                W(h("control", p)),
                W(h("examiner", p)),
                tuple(s for _, s in mine),
                on=p,
            )
        for step in range(span.start, span.stop):
            self.step(step)
            self.marks.last[step] = len(self.g) - 1
        self.snapshot(0, span.stop, "result")
        self.insert("finish", R(h("setup", 0)), RW(h("result", 0)), RW(h("log", 0)), on=0)
        if self.then is not None:
            self.then(self)
        left: list[list[Handle]] = [[] for _ in range(layout.places)]
        for handle in self.g.written:
            if handle.name not in _RESULTS:
                left[self.owner(handle)].append(handle)
        for p, handles in enumerate(left):
            self.insert("release", [RW(handle) for handle in handles], on=p)
        self.g.temporary = {handle.name for handles in left for handle in handles}
        size = self.rooms.size
        for name in dict.fromkeys(handle.name for handle in size):  # the gradients of an all-reduce and its messages
            self.g.handles(name, shape=lambda *index, name=name: size[Handle(name, index)], dtype="float32")
        self.g.layout = Owners(layout.places, self.owner, lambda handle: self.rooms.size.get(handle, ()))
        return self.g

    def step(self, step: int) -> None:
        layout, span = self.layout, self.span
        epoch, position = divmod(step, span.per_epoch)
        first, last = position * span.batch, min((position + 1) * span.batch, span.size)
        micro = [
            (r, m)
            for r, part in enumerate(split(last - first, layout.replicas))
            for m, size in enumerate(split(part, layout.micro))
            if size
        ]
        for r in range(layout.replicas):
            self.batch(r, step, epoch, first, last)
        final = dict(micro)  # by replica, its last micro-batch
        for r, m in micro:
            for s in range(layout.segments):
                self.forward(r, m, s, step, last - first)
            if m != final[r]:
                for s in reversed(range(layout.segments)):
                    self.backward(r, m, s)
        for s in reversed(range(layout.segments)):
            for r, m in final.items():
                self.backward(r, m, s)
            self.reduce(s, final)
        self.use(step, epoch, micro)
        if position == span.per_epoch - 1 and span.test_size:
            self.test(step, epoch)
        if (span.save_every and (step + 1) % span.save_every == 0) or (span.save_last and step == span.stop - 1):
            self.save(step)

    def batch(self, r: int, step: int, epoch: int, first: int, last: int) -> None:
        """In turn in two places: a batch loads while the one before is used."""
        h, p, slot = self.h, self.layout.place(r, 0), step % 2
        batch, setup, priority = h("batch", p, r, slot), R(h("setup", p)), self.low / 2
        images, targets = R(h("images", p)), R(h("targets", p))
        self.insert(
            "load",
            images,
            targets,
            setup,
            W(batch),
            epoch,
            first,
            last,
            r,
            self.layout.replicas,
            on=p,
            priority=priority,
        )
        self.insert("augment", setup, RW(batch), epoch, on=p, priority=priority)
        self.insert(
            "transfer",
            setup,
            W(h("inputs", p, r, slot)),
            W(h("labels", p, r, slot)),
            RW(batch),
            self.layout.micro,
            on=p,
            priority=priority,
        )

    def forward(self, r: int, m: int, s: int, step: int, count: int) -> None:
        h, layout, slot = self.h, self.layout, step % 2
        p = layout.place(r, s)
        x = h("inputs", p, r, slot) if s == 0 else h("x", layout.place(r, s - 1), r, m, s - 1)
        key = (step, r * layout.micro + m, s)
        common = R(self.stage(r, s)), R(h("control", p)), R(h("setup", p)), R(x), RW(self.buffers(r, s))
        if s < layout.segments - 1:
            self.insert("forward", *common, W(h("x", p, r, m, s)), W(h("tape", p, r, m, s)), m, key, on=p)
        else:
            labels = h("labels", layout.place(r, 0), r, slot)
            self.insert(
                "forward_loss",
                *common,
                R(labels),
                W(h("score", p, r, m)),
                W(h("tape", p, r, m, s)),
                m,
                key,
                count,
                on=p,
            )

    def backward(self, r: int, m: int, s: int) -> None:
        h, layout = self.h, self.layout
        p = layout.place(r, s)
        stage, tape, grads = R(self.stage(r, s)), RW(h("tape", p, r, m, s)), h("grads", p, r, s)
        dy = [RW(h("dy", layout.place(r, s + 1), r, m, s))] if s < layout.segments - 1 else []
        x = [RW(h("x", layout.place(r, s - 1), r, m, s - 1))] if s > 0 else []
        dx = [W(h("dy", p, r, m, s - 1))] if s > 0 else []
        add = W(grads) if m == 0 else RW(grads)
        if layout.split:
            self.insert("backward_input", stage, dy, x, dx, tape, on=p)
            self.insert("backward_weight", stage, add, tape, m == 0, on=p)
        else:
            self.insert("backward", stage, add, dy, x, dx, tape, m == 0, on=p)

    def reduce(self, s: int, present: Collection[int]) -> None:
        """The gradients of segment s, summed over replicas; those that had nothing to do in this step add zeros."""
        h, layout = self.h, self.layout
        if layout.replicas == 1:
            if self.looks:
                p = layout.place(0, s)
                stage, control = R(self.stage(0, s)), R(h("control", p))
                self.insert("unscale", stage, control, RW(h("grads", p, 0, s)), W(h("flag", p, 0, s)), on=p)
            return
        buckets = {layout.place(r, s): self.bucket(r, s) for r in range(layout.replicas)}
        for r, (p, bucket) in enumerate(buckets.items()):
            if r in present:
                self.insert("bucket", R(self.stage(r, s)), RW(h("grads", p, r, s)), W(bucket), on=p)
            else:
                self.insert("blank", W(bucket), on=p)
        plan = schedule("allreduce", algorithm(layout.replicas), layout.replicas, layout.words[s])
        lay(self.g, self.rooms, plan, list(buckets), buckets.__getitem__, f"sum{s}")
        if self.looks:
            for r, (p, bucket) in enumerate(buckets.items()):
                stage, control = R(self.stage(r, s)), R(h("control", p))
                self.insert("unscale_shared", stage, control, RW(bucket), W(h("flag", p, r, s)), on=p)

    def use(self, step: int, epoch: int, micro: list[tuple[int, int]]) -> None:
        h, layout = self.h, self.layout
        last = layout.segments - 1
        scores = [R(h("score", layout.place(r, last), r, m)) for r, m in micro]
        for p in range(layout.places):
            verdict, setup = h("verdict", p), R(h("setup", p))
            r = layout.stages(p)[0][0]
            flags = [R(h("flag", layout.place(r, s), r, s)) for s in range(layout.segments)] if self.looks else []
            self.insert("judge", R(h("control", p)), setup, flags, scores, W(verdict), on=p)
            for r, s in layout.stages(p):
                mine = RW(self.stage(r, s)), RW(self.buffers(r, s))
                if layout.replicas > 1:
                    self.insert("apply_shared", *mine, R(verdict), RW(self.bucket(r, s)), on=p)
                else:
                    self.insert("apply", *mine, R(verdict), RW(h("grads", p, r, s)), on=p)
            stages = [RW(self.stage(r, s)) for r, s in layout.stages(p)] if self.adaptive else []
            task = self.insert("update", RW(h("control", p)), R(verdict), setup, stages, step, on=p)
            if p == 0:
                self.marks.done[step] = task.index
        self.insert(
            "record",
            RW(h("log", 0)),
            R(h("verdict", 0)),
            R(h("control", 0)),
            R(h("setup", 0)),
            step,
            epoch,
            on=0,
            priority=self.low,
        )

    # ------------------------------------------------------------ beside the steps

    def snapshot(self, r: int, step: int, name: str, op: str = "snapshot") -> None:
        h, layout = self.h, self.layout
        p = layout.place(r, 0)
        stages = [R(self.stage(r, s)) for s in range(layout.segments)]
        buffers = [R(self.buffers(0, s)) for s in range(layout.segments)]
        self.insert(op, R(h("control", p)), stages, buffers, W(h(name, p)), step, on=p)

    def test(self, step: int, epoch: int) -> None:
        h, layout, span = self.h, self.layout, self.span
        for r in range(layout.replicas):
            self.snapshot(r, step + 1, "copy", "exam")
        scores = []
        for c, first in enumerate(range(0, span.test_size, span.test_batch)):
            p = layout.place(c % layout.replicas, 0)
            scores.append(h("test_score", p, c))
            self.insert(
                "evaluate",
                R(h("copy", p)),
                R(h("test_images", p)),
                R(h("test_targets", p)),
                R(h("setup", p)),
                W(scores[-1]),
                first,
                min(first + span.test_batch, span.test_size),
                on=p,
                priority=self.low,
            )
        self.insert(
            "tally", RW(h("log", 0)), R(h("setup", 0)), [R(score) for score in scores], epoch, on=0, priority=self.low
        )

    def save(self, step: int) -> None:
        h = self.h
        self.snapshot(0, step + 1, "kept")
        self.insert(
            "save", RW(h("kept", 0)), R(h("log", 0)), R(h("setup", 0)), W(h("saved", 0)), on=0, priority=self.low
        )


def algorithm(replicas: int) -> str:
    """The all-reduce that adds from left to right for any number of replicas; with two terms the order is no matter."""
    return "exchange" if replicas == 2 else "chain"


def split(n: int, parts: int) -> list[int]:
    """Sizes of the parts as `numpy.array_split` and `torch.tensor_split` make them."""
    size, more = divmod(n, parts)
    return [size + (k < more) for k in range(parts)]


def training_graph(
    layout: Division,
    span: Span,
    *,
    checks: bool = False,
    norms: bool = False,
    adaptive: bool = False,
    overlap: bool = False,
    then: Callable[[Builder], None] | None = None,
) -> tuple[TaskGraph, Marks]:
    """The graph of some steps of a training, and where its steps end.

    Parameters
    ----------
    layout, span
        How things are cut, and which steps.
    checks, norms
        Whether gradients are looked at, because steps may be skipped or because they are clipped.
    adaptive
        Whether a step may change the precision, and with it the parameters.
    overlap
        Give what is not on the way to the next step a lower priority: for runs with workers to spare.
    then
        Adds tasks behind the last step, such as `tilewright.training.closed_form_head.insert_head`.

    Returns
    -------
    The graph reads, by place: model, state, setup, images, targets, test_images, test_targets; it leaves result[0], a
    `State`, and log[0]. About 9 + 3 S tasks a step for one replica and S segments. O(tasks) to build.
    """
    builder = Builder(layout, span, checks=checks, norms=norms, adaptive=adaptive, overlap=overlap, then=then)
    return builder.build(), builder.marks
