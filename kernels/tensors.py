"""Tile kernels on torch tensors: rows of the table for device ``cuda``.

They are torch operations and nothing else, so they also run on CPU tensors, device ``torch`` of the table: that is how
they are tested where there is no GPU. A call puts work on the current stream and returns; none waits for the device.
So potrf writes its info into a tile of its own, and scaling reports no NaN: who starts the run looks at the end.

Products with 16-bit operands have routes here too. By default ``addmm`` or ``mm`` with ``out_dtype=float32`` where this
torch and device have them; else ``autocast``, which is ``mm`` under `torch.autocast`, its result rounded to 16 bits
once, and for bf16x3, for which that is too often, ``widen``: operands in FP32. Those two can be asked for. C is FP32 in
all of them. On CUDA, that sums are FP32 is a promise only with the switches of `exact_sums`.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from tilewright.kernels import tensor_algebra, tensor_vectors

__all__ = ["BLOCK", "DEVICES", "ROUTES", "device_of", "exact_sums", "here", "kernels", "product_route", "route", "rows"]

DEVICES = ("cuda", "torch")
"""CUDA tensors; CPU tensors."""

ROUTES = ("autocast", "widen")
"""What can be asked for, beside the default."""

BLOCK = 512
"""Columns of a diagonal block of trsm and potrf that is done in FP32, where products have 16-bit operands."""

Tensor = Any


def device_of(tile: Any) -> str:
    """The table's device for a tile: ``cpu`` for a NumPy array."""
    device = getattr(tile, "device", None)
    if device is None or isinstance(device, str):  # NumPy 2 arrays say "cpu"
        return "cpu"
    return "torch" if device.type == "cpu" else str(device.type)


# ------------------------------------------------------------------ promises


@contextlib.contextmanager
def exact_sums(tf32: bool = False) -> Iterator[dict[str, Any]]:
    """While the block lasts, cuBLAS accumulates 16-bit products in FP32, and FP32 ones are FP32 (TF32 if asked for).

    By default it may reduce partial sums in 16 bits, also those of a product split along k. The switches are
    process-wide and restored at the end. Yields what was set, for the record.
    """
    import torch

    matmul = torch.backends.cuda.matmul
    wanted: dict[str, Any] = {f"allow_{form}_reduced_precision_reduction": False for form in ("fp16", "bf16")}
    wanted |= {"allow_fp16_accumulation": False, "allow_tf32": tf32}
    before: dict[str, Any] = {}
    record: dict[str, Any] = {}
    for name, value in wanted.items():
        try:
            before[name] = getattr(matmul, name)
            split = getattr(matmul, f"{name}_split_k", None) if name.endswith("reduction") else None
        except RuntimeError:  # allow_tf32, where the process uses the newer name
            name, value = "fp32_precision", "tf32" if value else "ieee"
            before[name], split = getattr(matmul, name), None
        except (AttributeError, AssertionError):  # older torch has fewer
            continue
        record[name] = value
        if split is not None:
            before[name], value = (before[name], split), (value, value)
            record[f"{name}_split_k"] = value[1]
        setattr(matmul, name, value)
    try:
        yield record
    finally:
        for name, value in before.items():
            setattr(matmul, name, value)


# ------------------------------------------------------------------ products


@cache
def product_route(device: str, form: str) -> str:
    """``addmm``, ``mm`` (both with out_dtype=float32) or ``autocast``: the first that works here, tried once."""
    import torch

    place = "cpu" if device == "torch" else device
    x = torch.ones((16, 16), dtype=getattr(torch, form), device=place)
    c = torch.zeros((16, 16), dtype=torch.float32, device=place)
    for name in ("addmm", "mm"):
        with contextlib.suppress(RuntimeError, TypeError, NotImplementedError):
            _product(name, place, x.dtype)(x, x, c)
            if bool((c == -16).all()):
                return name
            c.zero_()
    return "autocast"


def route(device: str, form: str, name: str | None = None) -> str:
    """The route of products with operands in this form on a device, or the one of that name.

    ValueError if it cannot be used there.
    """
    if name is None:
        found = product_route(device, "bfloat16" if form == "bfloat16x2" else form)
        return "widen" if (found, form) == ("autocast", "bfloat16x2") else found
    if name not in ROUTES:
        raise ValueError(f"route {name!r} is none of torch's on {device}; there are {' and '.join(ROUTES)}")
    if (name, form) == ("autocast", "bfloat16x2"):
        raise ValueError(
            f"route {name!r} for {form}: it rounds each product to 16 bits, so three of them do not add up to FP32"
        )
    return name


def _product(name: str, place: str, dtype: Any) -> Callable[[Tensor, Tensor, Tensor], None]:
    import torch

    def addmm(a: Tensor, b: Tensor, c: Tensor) -> None:
        c.copy_(torch.addmm(c, a, b.mT, alpha=-1, out_dtype=torch.float32))

    def mm(a: Tensor, b: Tensor, c: Tensor) -> None:
        c.sub_(torch.mm(a, b.mT, out_dtype=torch.float32))

    def autocast(a: Tensor, b: Tensor, c: Tensor) -> None:
        with torch.autocast(place, dtype, cache_enabled=False):
            p = torch.mm(*(t if t.is_cuda else t.contiguous() for t in (a, b.mT)))  # see `products`
        c.sub_(p)

    return {"addmm": addmm, "mm": mm, "autocast": autocast, "widen": _widened}[name]


def _plain(a: Tensor, b: Tensor, c: Tensor) -> None:
    c.addmm_(a, b.mT, alpha=-1)


def _widened(a: Tensor, b: Tensor, c: Tensor) -> None:
    _plain(a.float(), b.float(), c)


# ------------------------------------------------------------------ kernels


def _narrow(form: str) -> Callable[[Tensor], Tensor]:
    import torch

    def two(tile: Tensor) -> Tensor:
        parts = torch.empty((2, *tile.shape), dtype=torch.bfloat16, device=tile.device)
        split(tile, parts)
        return parts

    return two if form == "bfloat16x2" else lambda tile: tile.to(getattr(torch, form))


def _solve(l: Tensor, a: Tensor) -> None:  # noqa: E741
    import torch

    a.copy_(torch.linalg.solve_triangular(l.mT, a, upper=True, left=False))  # X L^T = A; reads the lower triangle of L


def kernels(device: str, form: str | None, name: str = "") -> dict[str, Callable[..., Any]]:
    """gemm, syrk, trsm and potrf; with a ``form``, operands of products are narrow and panels are done in blocks.

    ``name`` is the route of such products.
    """
    import torch

    if form is None:
        product, block = _plain, 1 << 30
        narrow: Callable[[Tensor], Tensor] = lambda tile: tile  # noqa: E731
    else:
        base = "bfloat16" if form == "bfloat16x2" else form
        place = "cpu" if device == "torch" else device
        one = _product(name or route(device, form), place, getattr(torch, base))
        narrow, block = _narrow(form), BLOCK

        def product(a: Tensor, b: Tensor, c: Tensor) -> None:
            if form == "bfloat16x2":  # the small terms first
                one(a[1], b[0], c)
                one(a[0], b[1], c)
                one(a[0], b[0], c)
            else:
                one(a, b, c)

    def half(n: int) -> int:
        return -(-n // (2 * block)) * block

    def gemm(a: Tensor, b: Tensor, c: Tensor) -> None:
        product(a, b, c)

    def syrk(a: Tensor, c: Tensor) -> None:  # C may go on below its diagonal tile
        n = c.shape[1]
        step = max(n // 4, 256)  # block columns from the diagonal down: 5/8 of the flops of a whole product
        for j in range(0, n, step):
            end = min(j + step, n)
            product(a[..., j:, :], a[..., j:end, :], c[j:, j:end])

    def trsm(l: Tensor, a: Tensor) -> None:  # noqa: E741
        n = a.shape[1]
        if n <= block:
            _solve(l, a)
            return
        h = half(n)
        trsm(l[:h, :h], a[:, :h])
        product(narrow(a[:, :h]), narrow(l[h:, :h]), a[:, h:])
        trsm(l[h:, h:], a[:, h:])

    def factor(a: Tensor) -> Tensor:
        n = len(a)
        if n <= block:
            lower, info = torch.linalg.cholesky_ex(a, check_errors=False)
            a.copy_(lower)
            return info
        h = half(n)
        first = factor(a[:h, :h])
        trsm(a[:h, :h], a[h:, :h])
        syrk(narrow(a[h:, :h]), a[h:, h:])
        second = factor(a[h:, h:])
        return torch.where(first > 0, first, torch.where(second > 0, second + h, second))

    def potrf(info: Tensor, a: Tensor) -> None:
        info.fill_(0).add_(factor(a))

    def waiting_potrf(a: Tensor) -> int:
        return int(factor(a))

    def panel(info: Tensor, c: Tensor) -> None:
        n = c.shape[1]
        potrf(info, c[:n])
        if len(c) > n:
            trsm(c[:n], c[n:])

    def update(p: Tensor, c: Tensor) -> None:
        syrk(p[..., p.shape[-2] - len(c) :, :], c)

    return {
        "gemm": gemm,
        "syrk": syrk,
        "trsm": trsm,
        "potrf": potrf,
        "waiting potrf": waiting_potrf,
        "panel": panel,
        "update": update,
    }


def convert(source: Tensor, target: Tensor) -> None:
    """target := source, rounded to its dtype; to or from the host where the two are on different devices."""
    target.copy_(source, non_blocking=True)


def split(source: Tensor, target: Tensor) -> None:
    """target := (h, l) in BF16, with h = bf16(source), l = bf16(source - h)."""
    target[0].copy_(source)
    target[1].copy_(source - target[0].to(source.dtype))


def copy(source: Tensor, target: Tensor, check: str | None = None) -> None:
    """target := source; nothing is looked at."""
    target.copy_(source)


def tril(target: Tensor) -> None:
    """Zeros above the diagonal."""
    target.tril_()


def diagonal(source: Tensor, d: Tensor) -> None:
    """d := |a_ii|^(-1/2), 1 where that is no number."""
    import torch

    a = source.diagonal().abs().to(d.dtype)
    d[:, 0] = torch.where((a > 0) & a.isfinite(), a, torch.ones_like(a)).rsqrt()


def scaled(source: Tensor, di: Tensor, dj: Tensor, target: Tensor, shift: float | None = None) -> None:
    """target := D_i S D_j in the precision of D; on a diagonal tile sign(a_ii) (1 + shift), zeros above."""
    block = source * dj[:, 0] * di
    if shift is not None:
        block = block.tril(-1)
        block.diagonal().copy_(source.diagonal().sign() * (1 + shift))
    target.copy_(block)


def unscaled(d: Tensor, tile: Tensor, part: str) -> None:
    """Row i over d_i."""
    tile.copy_(tile / d)


# Block columns of a lower triangle, from the diagonal down. All end at the last row, so a length says where one begins.


def diagonals(columns: Sequence[Tensor], d: Tensor) -> None:
    """d := |a_ii|^(-1/2) of a whole matrix: `diagonal` of each block column."""
    for source in columns:
        start = len(d) - len(source)
        diagonal(source, d[start : start + source.shape[1]])


def cscaled(source: Tensor, d: Tensor, target: Tensor, shift: float | None = None) -> None:
    """`scaled` of a block column; ``d`` is that of the whole matrix."""
    below = d[len(d) - len(source) :]
    scaled(source, below, below[: source.shape[1]], target, shift)


def cunscaled(d: Tensor, column: Tensor, part: str) -> None:
    """Row i over d_i."""
    unscaled(d[len(d) - len(column) :], column, part)


def cconvert(source: Tensor, target: Tensor) -> None:
    """`convert` of the rows below the diagonal tile."""
    convert(source[len(source) - len(target) :], target)


def csplit(source: Tensor, target: Tensor) -> None:
    """`split` of the rows below the diagonal tile."""
    split(source[len(source) - target.shape[1] :], target)


MOVES: dict[str, Callable[..., None]] = {
    "convert": convert,
    "split": split,
    "copy": copy,
    "tril": tril,
    "diagonal": diagonal,
    "scaled": scaled,
    "unscaled": unscaled,
    "diagonals": diagonals,
    "cscaled": cscaled,
    "cunscaled": cunscaled,
    "cconvert": cconvert,
    "csplit": csplit,
    **tensor_vectors.KERNELS,
    **tensor_algebra.KERNELS,
}


def here(device: str) -> bool:
    """Whether there is torch, and with it this device."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return device != "cuda" or bool(torch.cuda.is_available())


def rows(device: str) -> Iterator[tuple[str, str, str, str, Callable[..., Any]]]:
    """(op, storage, accumulate, source, function) of each row for this device, if there is one; ``any``: any dtype."""
    if not here(device):
        return
    for op, function in MOVES.items():
        yield op, "any", "any", "tensor", function
    for dtype in ("float32", "float64"):
        yield from _rows(kernels(device, None), dtype, dtype, "tensor")
    for form in ("bfloat16", "float16", "bfloat16x2"):
        default = route(device, form)
        for name in dict.fromkeys(("tensor", default, *ROUTES)):
            if (name, form) != ("autocast", "bfloat16x2"):
                found = kernels(device, form, default if name == "tensor" else name)
                yield from _rows(found, form, "float32", f"{form}/{name}")


def _rows(
    found: dict[str, Callable[..., Any]], storage: str, dtype: str, source: str
) -> Iterator[tuple[str, str, str, str, Callable[..., Any]]]:
    """A potrf with an info tile has int32 operands; one without waits for the device and returns the info."""
    for name, function in found.items():
        op = name.removeprefix("waiting ")
        operand = "int32" if name in ("potrf", "panel") else dtype if op in ("trsm", "potrf") else storage
        yield op, operand, dtype, source, function
