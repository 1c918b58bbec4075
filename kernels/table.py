"""The kernel table: which function runs an op on which device, in which storage and accumulate dtype.

A row is (op, device, storage, accumulate, source, function). ``storage`` is the dtype of the operands that are
only read, ``accumulate`` that of the tile that is written; ``any`` stands for all dtypes. Where an op has arguments
that are no tiles, or operands of several dtypes, ``storage`` has one name for each argument but the last, such as
``float64,any,int64``, and ``any`` lets pass whatever it is: pivots, vectors, groups, numbers. The reference rows are
complete; a BLAS library adds its own, and `lookup` takes those of the library in use where it has them.

Rows for operands in 16 bits come from `tilewright.kernels.products`, one set for each form and route; their source is
``form/route``, such as ``bfloat16/cblas``. An op that names its source gets that row and no other.

>>> from tilewright.kernels import table
>>> table.lookup("gemm", "cpu", "float64", "float64").source in ("mkl", "torch", "openblas")
True
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from tilewright.kernels import (
    blas,
    butterfly,
    choice,
    elements,
    equilibrate,
    gemmlb,
    hemm,
    move,
    narrow,
    products,
    steady,
    swaps,
    tensors,
    vectors,
)
from tilewright.kernels.catalogue import TILE_OPS
from tilewright.kernels.tile_op import ANY, TileOp

__all__ = [
    "DTYPES",
    "MIXED",
    "Row",
    "dtype_name",
    "find",
    "lookup",
    "plain",
    "register",
    "rows",
    "takes_tiles",
    "settles",
    "unsteady",
]

#                 storage and accumulate dtype -> BLAS letter
DTYPES = {"float32": "s", "float64": "d", "complex64": "c", "complex128": "z"}

#        op     one kernel for every dtype
MOVES: dict[str, Callable[..., Any]] = {
    "copy": move.copy,
    "zero": move.zero,
    "tril": move.tril,
    "finite": move.finite,
    "gauge": move.gauge,
    "diag": move.diag,
    "squares": move.squares,
    "identity": move.identity,
    "mirror": move.mirror,
    "transpose": move.transpose,
    "triu": move.triu,
    "signs": move.signs,
    "residues": move.residues,
    "times_rows": move.times_rows,
    "times_columns": move.times_columns,
    "blocks": hemm.blocks,
    **vectors.KERNELS,
    "convert": narrow.convert,
    "split": narrow.split,
    "tf32": narrow.round_tf32,
    "diagonal": narrow.diagonal,
    "scaled": narrow.scaled,
    "scalen": narrow.scalen,
    "geadd": elements.geadd,
    "rescale": elements.rescale,
    "retile": elements.retile,
    "regular": elements.regular,
    **equilibrate.KERNELS,
    "unscaled": narrow.unscaled,
    "gemmlb": gemmlb.gemmlb,
    "swap": swaps.swap,
    "exchange": swaps.swap,
    "swapc": swaps.swap_columns,
    "take": swaps.take,
    "trade": swaps.trade,
    "butterfly": butterfly.butterfly,
}
_UNPROBED = ("reference",)
"""Sources of rows that are taken as they are."""


class Row(NamedTuple):
    """One kernel."""

    op: str
    device: str
    storage: str
    accumulate: str
    source: str
    """Where the function comes from: a BLAS library's name, ``reference``, or what `register` was told."""
    function: Callable[..., Any]

    def __str__(self) -> str:
        return f"{self.op:<6} {self.device:<5} {self.storage:<11} {self.accumulate:<11} {self.source}"


Key = tuple[str, str, str, str]

_rows: dict[Key, dict[str, Row]] = {}
_patterns: dict[tuple[str, str], list[Key]] = {}
"""By op and device, the keys that have a name for each argument; those that name most of them first."""
_filled: set[str] = set()
_routed: set[str] = set()
"""Sources of the rows for narrow operands."""
_filling = threading.Lock()
_looked_up: dict[tuple[Key, str], Row] = {}
"""Rows of libraries as they are used: see `tilewright.kernels.steady`."""
_answers: dict[tuple[int, str, str], Row] = {}
"""What `plain` found, by `choice.changes`, op and dtype, until a row is added: for small matrices a search is long."""


def register(op: str, device: str, storage: str, accumulate: str, source: str, function: Callable[..., Any]) -> Row:
    """Add a row for arguments of these dtypes: see the module.

    Raises
    ------
    ValueError
        There is such a row already; the message lists the rows of that op.
    """
    row = Row(op, device, storage, accumulate, source, function)
    for name, value in zip(Row._fields[:5], row, strict=False):
        if not isinstance(value, str) or not value:
            raise TypeError(f"{name} must be a string that is not empty, not {value!r}")
    if not callable(function):
        raise TypeError(f"function must be a function of buffers, not {function!r}")
    sources = _rows.setdefault(row[:4], {})
    if source in sources:
        raise ValueError(f"the kernel table already has this row: {row}\n{_listing(op)}")
    sources[source] = row
    if "," in storage or (storage == ANY) != (accumulate == ANY):
        patterns = _patterns.setdefault((op, device), [])
        if row[:4] not in patterns:
            patterns.append(row[:4])
            patterns.sort(key=lambda key: [*key[2].split(","), key[3]].count(ANY))
    _answers.clear()
    return row


def dtype_name(tile: Any) -> str:
    """The name of a tile's format in the table: an array of uint16 holds BF16 numbers, or several parts of each."""
    name = _name_of(tile.dtype)
    return f"{name}x{tile.shape[0]}" if tile.ndim == 3 else name


@cache
def _name_of(dtype: Any) -> str:
    """NumPy takes 5 us to write it, and a program asks for each of its tiles."""
    return "bfloat16" if dtype == np.uint16 else str(dtype).removeprefix("torch.")


MIXED = "mixed"
"""The name of a group whose members have several dtypes."""


def find(op: str, device: str, names: Sequence[str], source: str = "") -> Row:
    """The row for the arguments of a task, by the name of each: its dtype, `MIXED`, or empty for a group of none.

    KeyError as `lookup`.
    """
    if device in tensors.DEVICES:
        _fill_device(device)
    for key in _patterns.get((op, device), ()):
        wanted = [*key[2].split(","), key[3]]
        if len(wanted) == len(names) and all(w == ANY or n in ("", w) for w, n in zip(wanted, names, strict=True)):
            return lookup(*key, source)
    *operands, target = names
    operands = [name for name in operands if name]
    if (op, device) in _patterns and not any(key[:2] == (op, device) for key in _rows.keys() - _patterns[op, device]):
        these = ", ".join(name or "an empty group" for name in names)
        raise KeyError(f"no kernel for {op} on {device} for arguments {these}. The table has:\n{_listing(op)}")
    storage = operands[0] if operands else target
    if len(set(operands)) > 1:
        if takes_tiles(op):
            raise KeyError(f"{op}: operands of different dtypes, {' and '.join(operands)}; convert them first")
        storage = ANY
    return lookup(op, device, storage, target or storage, source)


def takes_tiles(op: str) -> bool:
    """Whether the rows of an op name the dtypes of all its arguments, which hence are tiles, 2-D or 3-D."""
    return op not in MOVES and op not in tensors.MOVES and not any(name == op for name, _ in _patterns)


def lookup(op: str, device: str, storage: str, accumulate: str, source: str = "") -> Row:
    """The row to use: one that a user registered, else that of the op's library, else the reference.

    With ``source``, the row from there. Which library that is says `tilewright.kernels.choice`; its kernel is probed
    at the first use, and works on copies if its bits depend on where tiles lie: see `tilewright.kernels.steady`.

    Raises
    ------
    KeyError
        No row fits; the message lists the rows of that op.
    """
    for name, value in {
        "op": op,
        "device": device,
        "storage": storage,
        "accumulate": accumulate,
        "source": source,
    }.items():
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a string, not {value!r}")
    letter = next((DTYPES[name] for name in (accumulate, *storage.split(",")) if name in DTYPES), "d")
    library = choice.library(op, letter) if op in choice.ROUTINES else choice.current()
    _fill(library)
    if device in tensors.DEVICES:
        _fill_device(device)
    elif source or storage in products.FORMS:
        _fill_narrow()
        narrow.load()
    sources = _rows.get((op, device, storage, accumulate)) or _rows.get((op, device, ANY, ANY), {})
    users = [row for name, row in sources.items() if name not in (*blas.NAMES, "reference", *_routed)]
    if not source and not users and storage in products.FORMS and op in products.OPS:
        source = f"{storage}/{products.route(storage).name if device == 'cpu' else 'tensor'}"
    candidates = (sources.get(source),) if source else (*users, sources.get(library.name), sources.get("reference"))
    for row in candidates:
        if row is not None:
            return row if device != "cpu" or row.source in _UNPROBED or row in users else _steady(row)
    wanted = f"{op} on {device} for {storage} operands into {accumulate}" + (f" from {source}" if source else "")
    raise KeyError(f"no kernel for {wanted}. The table has:\n{_listing(op) or 'no row for ' + op}")


def plain(op: str, dtype: str) -> Row:
    """`lookup` on the CPU for tiles of one dtype, remembered."""
    key = choice.changes(), op, dtype
    found = _answers.get(key)
    if found is None:
        found = lookup(op, "cpu", dtype, dtype)
        _answers[key] = found
    return found


def _steady(row: Row) -> Row:
    key = row[:4], row.source
    found = _looked_up.get(key)
    if found is None:
        function = steady.steady(row.function, row.source, row.op, row.storage, row.accumulate)
        found = _looked_up[key] = row._replace(function=function)
    return found


def settles(op: str, *names: str) -> bool:
    """Whether the kernel for arguments of these dtypes works on copies of them, as its bits depend on where they lie.

    One dtype is that of all arguments.
    """
    row = plain(op, *names) if len(names) == 1 else find(op, "cpu", names)
    return row.function is not _rows[row[:4]][row.source].function


def unsteady(library: str) -> list[str]:
    """Op and dtype of a library's kernels whose bits depend on where tiles lie: they work on copies. Probes all."""
    found = []
    _fill(blas.load(library))
    for sources in list(_rows.values()):
        row = sources.get(library)
        if row is not None and _steady(row).function is not row.function:
            found.append(f"{row.op} {row.accumulate}")
    return found


def rows() -> Iterator[Row]:
    """Every row there is, reference rows first."""
    for op in choice.ROUTINES:
        for letter in DTYPES.values():
            _fill(choice.library(op, letter))
    _fill_narrow()
    for sources in _rows.values():
        yield from sources.values()


def _fill(library: blas.Library) -> None:
    """Add the rows of ``library`` once, also when two threads ask at the same time."""
    with _filling:
        if library.name in _filled:
            return
        for op, tile_op in TILE_OPS.items():
            for dtype, letter in DTYPES.items():
                function = None if tile_op.build is None else tile_op.build(library, letter, *_beside(tile_op, dtype))
                if function is not None:
                    register(op, "cpu", *tile_op.names(dtype), library.name, function)
        _filled.add(library.name)


def _beside(tile_op: TileOp, dtype: str) -> tuple[Callable[..., Any], ...]:
    """The kernel in use of the op that this one works with, if it does: choices change, so it is asked for anew."""
    other = tile_op.beside
    return (lambda *arguments: plain(other, dtype).function(*arguments),) if other else ()


def _fill_narrow() -> None:
    """Add the rows for narrow operands once; that may load a library."""
    with _filling:
        if "narrow" in _filled:
            return
        _filled.add("narrow")
        for form in products.FORMS:
            for route in products.probe(form):
                if route.reason:
                    continue
                _routed.add(source := f"{form}/{route.name}")
                for op, function in products.kernels(form, route.name).items():
                    for storage in products.operands(form, route.name, op):
                        register(op, "cpu", storage, "float32", source, function)


def _fill_device(device: str) -> None:
    """Add the rows for torch tensors on this device once."""
    with _filling:
        if f"device {device}" in _filled:
            return
        for op, storage, accumulate, source, function in tensors.rows(device):
            if "/" in source:
                _routed.add(source)
            register(op, device, storage, accumulate, source, function)
        for op, tile_op in TILE_OPS.items():
            if tile_op.tensor is not None and tensors.here(device):
                for dtype in ("float32", "float64"):
                    register(op, device, *tile_op.names(dtype), "tensor", tile_op.tensor)
        _filled.add(f"device {device}")


def _listing(op: str) -> str:
    return "\n".join(str(row) for sources in _rows.values() for row in sources.values() if row.op == op)


for _op, _tile_op in TILE_OPS.items():
    for _dtype in DTYPES:
        register(_op, "cpu", *_tile_op.names(_dtype), "reference", _tile_op.reference)
for _op, _function in MOVES.items():
    register(_op, "cpu", ANY, ANY, "reference", _function)
