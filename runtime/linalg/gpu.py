"""Cholesky of a torch tensor where it is: tiles are views of a tensor on the same device, nothing goes to the host.

The graph is that of `tilewright.linalg.mixed_graph`, the engine and the policies are the same. Three things differ. A
kernel only launches work, so potrf notes its info in a tile, and infos are looked at once, at the end. Work comes in
batches: where all tiles have one format, what is done to the tiles of a column is one launch
(`tilewright.passes.batches`), and the tile size leaves Python a twentieth of the time. And FP32 accumulation is a
promise: the switches of cuBLAS that would break it are set while the run lasts.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

from tilewright import ops
from tilewright.backends import named
from tilewright.engine import run
from tilewright.errors import NotPositiveDefiniteError
from tilewright.graph import RW, Handle, Op, Task, TaskGraph, W
from tilewright.kernels import potrf as potrf_kernel
from tilewright.kernels import tensors
from tilewright.linalg.mixed_factor import MixedFactor, default_shift, shifted
from tilewright.linalg.mixed_graph import chosen_routes, factor_graph
from tilewright.passes.batches import Batch, batched
from tilewright.precision import FORMATS, PrecisionMap, find_format
from tilewright.runs.run import Run
from tilewright.schedulers import Policy

__all__ = ["COLUMNS", "column_tasks", "device_factor", "device_tile_size", "factor_on_device", "in_columns"]

_BACKENDS = ("serial", "threads")

STREAMS = 4
"""Workers, each with a stream, unless the caller says another number."""

LAUNCH = 50e-6
"""Seconds of Python per task."""

SHARE = 0.05
"""The share of the time of a factorisation that Python may take."""

_RATES = {"fp64": 5e13, "fp32": 5e13, "tf32": 3e14, "bf16x3": 2e14, "bf16": 6e14, "fp16": 6e14}  # flop/s, H100-class


def device_tile_size(n: int, precision: PrecisionMap | str) -> int:
    """Rows of a tile on a GPU: as many columns of tiles, at least 4, as Python can launch in 5 % of the time.

    Examples
    --------
    >>> device_tile_size(65536, "bf16"), device_tile_size(32768, "fp64"), device_tile_size(4096, "bf16")
    (5120, 2048, 1024)
    """
    names = {precision} if isinstance(precision, str) else set(precision.counts())
    budget = SHARE * n**3 / 3 / max(_RATES[name] for name in names or {"fp64"})
    nt = 4
    while LAUNCH * column_tasks(nt + 1) <= budget:
        nt += 1
    step = 256
    return max(1, min(-(-n // (nt * step)) * step, n or 1))


def column_tasks(nt: int) -> int:
    """How many tasks the factorisation of nt block columns has at most: nt (nt - 1) / 2 updates, and 5 to a column."""
    return nt * (nt - 1) // 2 + 5 * nt + 1


def device_factor(
    a: Any,
    precision: str | PrecisionMap | None = None,
    *,
    lower: bool = True,
    tile_size: int | None = None,
    workers: int | None = None,
    scheduler: str | Policy = "critical-path",
    backend: str | None = None,
    shift: float = 0.0,
    finish: bool = True,
    route: str | None = None,
) -> tuple[Any, Any, PrecisionMap, Run]:
    """(L, d, precision map, run): the factor of A, or with ``finish=False`` of D A D + shift, and the diagonal of D.

    Parameters
    ----------
    a : (n, n) tensor
        float32 or float64, on any device; the triangle named by ``lower`` is read.
    precision
        As in `tiled_cholesky`; None is that of ``a``. TF32 is that of the tensor cores.
    route
        That of products with 16-bit operands: ``"autocast"`` or ``"widen"``; by default as `tensors.route` finds.

    Raises
    ------
    NotPositiveDefiniteError
        With the global order; the tasks after the one that failed have run in vain.
    ValueError, TypeError, OverflowError
        NaN or infinity, in ``a`` or by overflow; a wrong argument.
    """
    import torch

    if named(backend) not in _BACKENDS:
        raise ValueError(f"backend {backend!r} cannot run on {a.device}; use {' or '.join(_BACKENDS)}")
    if a.ndim != 2 or a.shape[0] != a.shape[1]:
        raise ValueError(f"the matrix a must be square, not of shape {tuple(a.shape)}")
    if a.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"no Cholesky kernel on {a.device} for dtype {a.dtype}; convert to float32 or float64")
    if a.requires_grad:
        raise TypeError("the factorisation is not differentiable; pass tensor.detach()")
    if not isinstance(precision, PrecisionMap):
        find_format(precision := precision or {torch.float32: "fp32", torch.float64: "fp64"}[a.dtype])
    columns = not isinstance(precision, PrecisionMap) or precision.single is not None
    workers = STREAMS if workers is None else workers
    n = len(a)
    nb = tile_size or (precision.tile_size if isinstance(precision, PrecisionMap) else None)
    if nb is None:
        nt = precision.nt if isinstance(precision, PrecisionMap) else 0
        nb = -(-n // nt) if nt else device_tile_size(n, precision)
    nt = -(-n // nb)
    asked = precision if isinstance(precision, PrecisionMap) else PrecisionMap.uniform(nt, precision)
    if asked.nt != nt:
        raise ValueError(f"the PrecisionMap has {asked.nt} x {asked.nt} tiles, but there are {nt} x {nt} of {nb}")
    computed = (
        PrecisionMap(  # the switch makes FP32 products TF32: no conversion
            [["fp32" if name == "tf32" else name for name in row] + [None] * (nt - len(row)) for row in asked.names]
            if nt
            else [[]]
        )
        if "tf32" in asked.counts()
        else asked
    )
    source = a if lower else a.mT
    L = torch.zeros((n, n), dtype=getattr(torch, computed.accumulate), device=a.device)
    d = torch.ones((n, 1), dtype=torch.float64, device=a.device)
    infos = torch.zeros((nt, 1), dtype=torch.int32, device=a.device)
    scales = computed.single is not FORMATS["fp64"]
    routes = chosen_routes(computed, route, partial(tensors.route, tensors.device_of(a)))
    graph = _with_infos(factor_graph(computed, routes, scales, finish, shift, wide=False))
    data: dict[str, Any] = {"I": {i: infos[i : i + 1] for i in range(nt)}}
    if columns:
        graph = in_columns(graph)
        data |= {"S": _columns(source, nb), "D": d, "A": _columns(L, nb), **_column_copies(graph, L, nb)}
    else:
        rows = {(i, 0): d[i * nb : (i + 1) * nb] for i in range(nt)}
        data |= {"S": _tiles(source, nb), "D": rows, **_buffers(graph, computed, L, nb)}
    used = {handle.name for handle in graph.handles_used}
    data = {name: tiles for name, tiles in data.items() if name in used}
    with tensors.exact_sums(tf32="tf32" in asked.counts()) as switches:
        record = run(graph, data, backend=backend, scheduler=scheduler, workers=workers)
        failed = infos[:, 0].tolist()  # the only wait for the device
    record.switches.update(switches)
    _check(failed, nb, n, source, L, lower)
    return (L if lower else L.mT), d[:, 0], asked, record


def factor_on_device(
    a: Any,
    precision: str | PrecisionMap,
    tile_size: int | None,
    workers: int | None,
    scheduler: str | Policy,
    backend: str | None,
    shift: float | None,
    route: str | None = None,
) -> MixedFactor:
    """`tilewright.linalg.factor.mixed_factor` of a tensor on a device; L and scale stay there."""
    name = "map" if isinstance(precision, PrecisionMap) else precision
    asked = precision if isinstance(precision, PrecisionMap) else PrecisionMap.uniform(1, precision)

    def factor(tried: float) -> MixedFactor:
        L, d, found, record = device_factor(
            a,
            precision,
            tile_size=tile_size,
            workers=workers,
            scheduler=scheduler,
            backend=backend,
            shift=tried,
            finish=False,
            route=route,
        )
        return MixedFactor(L, d, tried, name, found, record)

    found, attempts = shifted(factor, shift, default_shift(asked))
    return replace(found, attempts=attempts)


# ------------------------------------------------------------------ block columns


def _panel_flops(info: tuple[int, ...], c: tuple[int, ...]) -> float:
    m, n = c
    return n**3 / 3 + (m - n) * n**2


def _update_flops(p: tuple[int, ...], c: tuple[int, ...]) -> float:
    m, n = c
    return (n**2 + 2.0 * (m - n) * n) * p[-1]


def _column(task: Task) -> Any:
    """j of the tile (i, j) that is written."""
    return task.uses[-1].handle.index[1]


def _step(task: Task) -> Any:
    """(j, k) of an update of column j by column k."""
    return _column(task), task.uses[0].handle.index[1]


def _copy(task: Task) -> Any:
    return task.uses[-1].handle.name, _column(task)


_panel = Op("panel", weight=4, flops=_panel_flops)
_update = Op("update", weight=6, flops=_update_flops)

COLUMNS = {
    "potrf": Batch(_panel, _column), "trsm": Batch(_panel, _column),
    "syrk": Batch(_update, _step), "gemm": Batch(_update, _step),
    "convert": Batch(Op("cconvert", weight=0), _copy), "split": Batch(Op("csplit", weight=0), _copy),
    "diagonal": Batch(Op("diagonals", weight=0), lambda task: None, grouped=True),
    "scaled": Batch(Op("cscaled", weight=0), _column), "copy": Batch(ops.copy, _column),
    "unscaled": Batch(Op("cunscaled", weight=0), _column), "tril": Batch(ops.tril, _column),
}  # fmt: skip
"""What is done to all tiles of a block column at once."""


def in_columns(graph: TaskGraph) -> TaskGraph:
    """The graph of a factorisation on block columns ``A[j]``, the diagonal ``D`` as one handle."""

    def whole(handle: Handle) -> Handle:
        if handle.name == "D":
            return Handle("D")
        return handle if handle.name == "I" else Handle(handle.name, handle.index[1:])

    return batched(graph, COLUMNS, whole)


def _columns(x: Any, nb: int) -> dict[int, Any]:
    """The block columns of a lower triangle, from the diagonal down."""
    return {j: x[c:, c : c + nb] for j, c in enumerate(range(0, len(x), nb))}


def _column_copies(graph: TaskGraph, L: Any, nb: int) -> dict[str, dict[int, Any]]:
    """Room for the copies of what stands below the diagonal tiles."""
    import torch

    data: dict[str, dict[int, Any]] = {}
    for handle in graph.written:
        if handle.name in graph.temporary:
            (j,) = handle.index
            form = handle.name.partition(":")[2]
            shape: tuple[int, ...] = len(L) - (j + 1) * nb, nb
            if form == "bfloat16x2":
                form, shape = "bfloat16", (2, *shape)
            room = torch.empty(shape, dtype=getattr(torch, form), device=L.device)
            data.setdefault(handle.name, {})[j] = room
    return data


# ------------------------------------------------------------------ tiles


def _tiles(x: Any, nb: int) -> dict[tuple[int, ...], Any]:
    steps = range(0, len(x), nb)
    return {(i, j): x[r : r + nb, c : c + nb] for i, r in enumerate(steps) for j, c in enumerate(steps) if j <= i}


def _buffers(graph: TaskGraph, precision: PrecisionMap, L: Any, nb: int) -> dict[str, dict[tuple[int, ...], Any]]:
    """Tiles of the factor, and room for the copies that the graph makes."""
    import torch

    whole = _tiles(L, nb)
    data: dict[str, dict[tuple[int, ...], Any]] = {"L": dict(whole), "A": {}}
    for index, view in whole.items():
        dtype = getattr(torch, precision[index[0], index[1]].accumulate)
        data["A"][index] = view if dtype == L.dtype else torch.zeros(view.shape, dtype=dtype, device=L.device)
    for handle in graph.written:
        if handle.name in graph.temporary:
            form = handle.name.partition(":")[2]
            shape = (2, *whole[handle.index].shape) if form == "bfloat16x2" else whole[handle.index].shape
            dtype = getattr(torch, "bfloat16" if form == "bfloat16x2" else form)
            data.setdefault(handle.name, {})[handle.index] = torch.empty(shape, dtype=dtype, device=L.device)
    return data


def _with_infos(graph: TaskGraph) -> TaskGraph:
    """The same tasks; each potrf(k) also writes the info tile I[k]."""
    g = TaskGraph(graph.name)
    for task in graph:
        if task.op.name == "potrf":
            g.insert(_noting(task.op), W(Handle("I", task.uses[-1].handle.index[:1])), RW(task.uses[-1].handle))
        else:
            g.insert(task.op, *task.uses, *task.params)
    g.temporary = graph.temporary
    return g


@cache
def _noting(op: Op) -> Op:
    return replace(op, flops=_potrf_flops, explain=None)


def _potrf_flops(info: tuple[int, ...], a: tuple[int, ...]) -> float:
    return potrf_kernel.flops(a)  # type: ignore[arg-type]


def _check(infos: list[int], nb: int, n: int, source: Any, L: Any, lower: bool) -> None:
    """The first info that is not 0; then NaN and overflow, which no kernel looks for."""
    if not any(infos) and bool(L.diagonal().isfinite().all()):
        return
    if not bool(source.tril().isfinite().all()):
        row, column = (~source.tril().isfinite()).nonzero()[0].tolist()
        raise ValueError(f"the matrix a has a NaN or infinity at {(row, column) if lower else (column, row)}")
    for k, info in enumerate(infos):
        if info > 0:
            offset, size = k * nb, min(nb, n - k * nb)
            raise NotPositiveDefiniteError(offset + info, f"{ops.potrf.name}({k})", Handle("A", (k, k)), offset, size)
    raise OverflowError("a number of the factor does not fit the format of its tile")
