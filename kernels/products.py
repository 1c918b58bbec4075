"""Tile kernels whose products have narrow operands: C := C - A B^T with A, B in 16 bits, sums and C in FP32.

There are several ways, *routes*, to such a product; a probe says which this machine has and why not the others:

==========  ========================================================================================================
route       what it does
==========  ========================================================================================================
cblas       MKL's ``cblas_gemm_bf16bf16f32`` and ``cblas_gemm_f16f16f32`` through ctypes: in place, no GIL, on AMX
mkldnn      torch's ``addmm_`` on FP32 tiles with ``torch.backends.mkldnn.matmul.fp32_precision = "bf16"`` (BF16 only)
widen       operands widened to FP32, the sgemm of the BLAS in use: what a tensor core computes, at the speed of FP32
autocast    ``torch.mm`` under `torch.autocast`, subtracted in FP32; the product itself is rounded to 16 bits once
reference   operands widened to FP32, NumPy's product: the specification of the others
==========  ========================================================================================================

None uses ``addmm`` under autocast: that would round the C tile at every update, and the error would grow with their
number.

From a product come gemm, syrk (its lower blocks), trsm and potrf. Those two work in FP32 on diagonal blocks of
``BLOCK`` columns, as they would if the tile were that small, and update what lies between by products. Such a product
rounds the same elements of L to the same 16 bits, so the error is that of smaller tiles: it does not depend on nt. For
bf16x3, and where operands are widened, they are FP32 throughout, as a product in between would be no faster.

``gemmn`` is the product of LU, C := C - A B, on tiles by columns: `tilewright.kernels.columns`.

Products of two numbers of 8 (BF16) or 11 bits (FP16) are exact in FP32. So ``widen`` rounds sums only, as the others
do. Its operands may be widened already, by a task: FP32 tiles for BF16 and FP16, three parts for bf16x3, see
`tilewright.kernels.narrow.widen`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import threading
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np

from tilewright.extras import brings
from tilewright.kernels import blas, choice, cpu, reference
from tilewright.kernels import gemm as fp32_gemm
from tilewright.kernels import lu as fp32_lu
from tilewright.kernels import potrf as fp32_potrf
from tilewright.kernels import syrk as fp32_syrk
from tilewright.kernels import trsm as fp32_trsm
from tilewright.kernels.columns import column_ld, columns_of
from tilewright.kernels.layout import address, by_rows, kernel_ld
from tilewright.kernels.narrow import narrowed, split_parts, widened, widened_here

__all__ = ["BLOCK", "FORMS", "OPS", "ROUTES", "Route", "cblas", "kernels", "operands", "probe", "route"]

FORMS = ("bfloat16", "float16", "bfloat16x2")
"""Narrow operands: storage dtypes of the table's rows. ``bfloat16x2`` are two BF16 parts, the operands of bf16x3."""

ROUTES = ("cblas", "mkldnn", "widen", "autocast", "reference")

OPS = ("gemm", "syrk", "trsm", "potrf", "gemmn")

BLOCK = 256
"""Columns of a diagonal block of trsm and rows of one of syrk."""

Product = Callable[[np.ndarray, np.ndarray, np.ndarray], None]

_ROW_MAJOR, _NO_TRANS, _TRANS = 101, 111, 112
_NATIVE = {"bfloat16": ("amx_bf16", "avx512_bf16"), "float16": ("amx_fp16", "avx512_fp16")}

_WORTH: dict[str, tuple[str, ...]] = {"bfloat16": ("amx_bf16",), "float16": ()}
"""Instructions with which products in 16 bits beat sgemm; without them the route is ``widen``.

amx_bf16: 550 against 270 GFLOP/s on two cores of a Xeon. avx512_bf16 alone: 128 against 124 in a factorisation on two
cores of a Zen 4, where ``widen`` also has its choice of BLAS libraries. avx512_fp16: 230 on one core of the Xeon and on
two, where sgemm has 270. amx_fp16 was never measured.
"""

_NATIVE_ROUTES = ("cblas", "mkldnn")  # autocast rounds more, so it has to be asked for


class Route(NamedTuple):
    """One way to multiply operands of one form on the CPU."""

    name: str
    form: str
    reason: str
    """Why it cannot be used here; empty if it can."""
    native: bool
    """It multiplies 16-bit operands by instructions that this CPU has for them."""
    note: str
    """What to know before it is asked for by name; may be empty."""


# ------------------------------------------------------------------ routes


def probe(form: str) -> list[Route]:
    """All routes for operands of one form, each with the reason why it cannot be used here."""
    base = _base(form)
    has = bool(set(_NATIVE[base]) & cpu.features())
    notes = {
        "cblas": "" if has else f"this CPU has none of {', '.join(_NATIVE[base])}",
        "mkldnn": "torch's FP32 products of other threads are rounded meanwhile",
        "widen": "in FP32",
        "autocast": "rounds each product to 16 bits",
        "reference": "slow: the specification",
    }
    return [
        Route(name, form, _missing(name, form), has and name not in ("widen", "reference"), notes[name])
        for name in ROUTES
    ]


def _base(form: str) -> str:
    """The format of the numbers in an operand of this form."""
    return "bfloat16" if form == "bfloat16x2" else form


def _missing(name: str, form: str) -> str:
    base = _base(form)
    if name == "cblas" and cblas(base) is None:
        return f"no MKL with {_SYMBOLS[base]} here"
    if name == "autocast" and form == "bfloat16x2":
        return "it rounds each product to 16 bits, so three of them do not add up to FP32"
    if name in ("mkldnn", "autocast") and not importlib.util.find_spec("torch"):
        return f"torch is not installed; {brings('torch')}"
    if name == "mkldnn":
        if base != "bfloat16":
            return "torch has no such switch for FP16"
        if tuple(map(int, version("torch").split(".")[:2])) < (2, 9):
            return "torch.backends.mkldnn.matmul.fp32_precision needs torch 2.9"
    return ""


def route(form: str, name: str | None = None, *, emulate: bool = False) -> Route:
    """The route for operands of this form, or the one of that name. Which one depends on the CPU and what is installed.

    Native products where they are faster than sgemm, else ``widen``, which is there on every computer.

    Parameters
    ----------
    form
        One of `FORMS`.
    name
        One of `ROUTES`.
    emulate
        Has no effect. It was needed where the CPU has no instructions for the form.

    Raises
    ------
    ValueError
        Unknown name, or it cannot be used here; the message has the reason.
    """
    found = {r.name: r for r in probe(form)}
    if name is not None:
        if name not in found:
            raise ValueError(f"unknown route {name!r}; there are {', '.join(ROUTES)}")
        if found[name].reason:
            raise ValueError(f"route {name!r} for {form}: {found[name].reason}")
        return found[name]
    if set(_WORTH[_base(form)]) & cpu.features():
        for native in _NATIVE_ROUTES:
            if not found[native].reason:
                return found[native]
    return found["widen"]


# ------------------------------------------------------------------ products

_SYMBOLS = {"bfloat16": "cblas_gemm_bf16bf16f32", "float16": "cblas_gemm_f16f16f32"}


@cache
def cblas(form: str) -> Callable[..., None] | None:
    """MKL's product of operands in this form, summed in FP32; None if it is not here."""
    for name in ("mkl", "torch"):
        with contextlib.suppress(OSError):
            function = getattr(ctypes.CDLL(blas.load(name).path), _SYMBOLS[form], None)
            if function is not None:
                function.restype = None
                return function
    return None


def _cblas_product(form: str) -> Product:
    call = cblas(form)
    assert call is not None
    minus_one, one = ctypes.c_float(-1), ctypes.c_float(1)

    def product(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
        lda, ldb, ldc = kernel_ld(a), kernel_ld(b), kernel_ld(c)
        if not (lda and ldb and ldc):
            by_rows(product, a, b, c)
            return
        m, n = c.shape
        call(
            _ROW_MAJOR,
            _NO_TRANS,
            _TRANS,
            m,
            n,
            a.shape[1],
            minus_one,
            address(a),
            lda,
            address(b),
            ldb,
            one,
            address(c),
            ldc,
        )

    return product


def _tensors(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[Any, ...]:
    import torch

    def tensor(tile: np.ndarray) -> Any:
        t = torch.from_numpy(tile)
        return t.view(torch.bfloat16) if tile.dtype == np.uint16 else t

    return tensor(a), tensor(b), tensor(c)


def _autocast_product(form: str) -> Product:
    def product(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
        import torch

        dtype = getattr(torch, form)
        ta, tb, tc = _tensors(a, b, c)
        ta, tb = ta.contiguous(), tb.contiguous()  # torch 2.13 multiplies what lies between two rows of A by 0
        if torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == dtype:
            p = torch.mm(ta, tb.T)  # the worker has entered it already
        else:
            with torch.autocast("cpu", dtype, cache_enabled=False):
                p = torch.mm(ta, tb.T)
        tc.sub_(p)

    return product


_switch_lock = threading.Lock()
_switch_users = 0
_switch_before = "none"


@contextlib.contextmanager
def _bf16_inside_mkldnn() -> Iterator[None]:
    """While a product runs, FP32 products of torch in any thread are rounded to BF16: the switch is process-wide."""
    import torch

    global _switch_users, _switch_before
    matmul = torch.backends.mkldnn.matmul
    with _switch_lock:
        if not _switch_users:
            _switch_before = matmul.fp32_precision
            matmul.fp32_precision = "bf16"
        _switch_users += 1
    try:
        yield
    finally:
        with _switch_lock:
            _switch_users -= 1
            if not _switch_users:
                matmul.fp32_precision = _switch_before


def _mkldnn_product(form: str) -> Product:
    def product(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
        import torch

        ta, tb, tc = (torch.from_numpy(x) for x in (widened(a), widened(b), c))
        with torch.autocast("cpu", enabled=False), _bf16_inside_mkldnn():
            tc.addmm_(ta, tb.T, alpha=-1)

    return product


def _reference_product(form: str) -> Product:
    def product(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
        c -= widened(a) @ widened(b).T

    return product


def _widen_product(form: str) -> Product:
    """C - A B^T by sgemm; bf16x3 in two products, as (A_h + A_l) B_h is one of FP32 numbers, the small terms first."""

    def product(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
        gemm, a, b = _fp32("gemm"), widened_here(a, 0), widened_here(b, 1)
        if a.ndim == 3:
            gemm(a[1], b[2], c)
            gemm(a[0], b[1], c)
        else:
            gemm(a, b, c)

    return product


_PRODUCTS = {
    "cblas": _cblas_product,
    "mkldnn": _mkldnn_product,
    "widen": _widen_product,
    "autocast": _autocast_product,
    "reference": _reference_product,
}


def _three(product: Product) -> Product:
    """bf16x3: C - (A_h + A_l) (B_h + B_l)^T without the product of the low parts, the small terms first."""

    def products(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
        (ah, al), (bh, bl) = split_parts(a), split_parts(b)
        product(al, bh, c)
        product(ah, bl, c)
        product(ah, bh, c)

    return products


# ------------------------------------------------------------------ products by columns


def _cblas_plain(form: str) -> Product:
    call = cblas(form)
    assert call is not None
    minus_one, one = ctypes.c_float(-1), ctypes.c_float(1)

    def product(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
        m, n = c.shape
        call(  # C^T := C^T - B^T A^T, which lie by rows
            _ROW_MAJOR,
            _NO_TRANS,
            _NO_TRANS,
            n,
            m,
            len(b),
            minus_one,
            address(b),
            column_ld(b),
            address(a),
            column_ld(a),
            one,
            address(c),
            column_ld(c),
        )

    return product


def _mkldnn_plain(form: str) -> Product:
    def product(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
        _mkldnn_product(form)(widened(b).T, widened(a), c.T)

    return product


def _autocast_plain(form: str) -> Product:
    def product(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
        _autocast_product(form)(b.T, a, c.T)

    return product


def _reference_plain(form: str) -> Product:
    def product(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
        c -= widened(a) @ widened(b)

    return product


def _widen_plain(form: str) -> Product:
    """As `_widen_product`."""

    def wide(tile: np.ndarray, slot: int) -> np.ndarray:
        return widened_here(tile.swapaxes(-1, -2), slot).swapaxes(-1, -2)

    def product(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
        gemmn, a, b = _fp32("gemmn"), wide(a, 0), wide(b, 1)
        if a.ndim == 3:
            gemmn(a[1], b[2], c)
            gemmn(a[0], b[1], c)
        else:
            gemmn(a, b, c)

    return product


_PLAIN = {
    "cblas": _cblas_plain,
    "mkldnn": _mkldnn_plain,
    "widen": _widen_plain,
    "autocast": _autocast_plain,
    "reference": _reference_plain,
}


def _all_columns(tile: np.ndarray) -> np.ndarray:
    """`columns_of`, of each part where there are several."""
    if tile.ndim == 2:
        return columns_of(tile)
    if all(column_ld(part) for part in tile):
        return tile
    return tile.swapaxes(1, 2).copy().swapaxes(1, 2)


# ------------------------------------------------------------------ kernels


def kernels(form: str, name: str) -> dict[str, Callable[..., Any]]:
    """The kernels of `OPS` for operands of this form by this route."""
    product, plain = _PRODUCTS[name](_base(form)), _PLAIN[name](_base(form))
    if form == "bfloat16x2" and name != "widen":
        product, plain = _three(product), _three(plain)
    fp32 = _fp32_reference if name == "reference" else _fp32
    small = 1 << 30 if form == "bfloat16x2" or name == "widen" else BLOCK  # where a product is no faster than FP32

    def gemm(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
        m, n = c.shape
        if a.shape[-2] != m or b.shape[-2:] != (n, a.shape[-1]):
            raise ValueError(f"gemm: A {a.shape}, B {b.shape} and C {c.shape} do not fit C - A B^T")
        product(a, b, c)

    def syrk(a: np.ndarray, c: np.ndarray) -> None:
        n = a.shape[-2]
        if c.shape != (n, n):
            raise ValueError(f"syrk: A {a.shape} and C {c.shape} do not fit C - A A^T")
        if name == "widen" and a.ndim == 2:
            fp32("syrk")(widened_here(a, 0), c)
            return
        for j in range(0, n, BLOCK):  # each block column from its diagonal block down
            product(a[..., j:, :], a[..., j : j + BLOCK, :], c[j:, j : j + BLOCK])

    def trsm(l: np.ndarray, a: np.ndarray) -> None:  # noqa: E741
        n = a.shape[1]
        if l.shape != (n, n):
            raise ValueError(f"trsm: L {l.shape} and A {a.shape} do not fit A L^-T")
        if n <= small:
            fp32("trsm")(l, a)
            return
        h = _half(n)
        trsm(l[:h, :h], a[:, :h])  # X1 := A1 L11^-T
        product(narrowed(form, a[:, :h], 0), narrowed(form, l[h:, :h], 1), a[:, h:])  # A2 := A2 - X1 L21^T
        trsm(l[h:, h:], a[:, h:])  # X2 := A2 L22^-T

    def potrf(a: np.ndarray) -> int:
        n = len(a)
        if a.shape != (n, n):
            raise ValueError(f"potrf: A {a.shape} is not square")
        if n <= small:
            info: int = fp32("potrf")(a)
            return info
        h = _half(n)
        info = potrf(a[:h, :h])  # L11 := chol(A11)
        if info:
            return info
        trsm(a[:h, :h], a[h:, :h])  # L21 := A21 L11^-T
        syrk(narrowed(form, a[h:, :h], 0), a[h:, h:])  # A22 := A22 - L21 L21^T
        info = potrf(a[h:, h:])  # L22 := chol(A22)
        return info + h if info > 0 else info

    def gemmn(a: np.ndarray, b: np.ndarray, c: np.ndarray, flag: str = "N") -> None:
        a = a if flag == "N" else a.swapaxes(-1, -2)
        if c.shape != (a.shape[-2], b.shape[-1]) or b.shape[-2] != a.shape[-1]:
            raise ValueError(f"gemmn: A {a.shape}, B {b.shape} and C {c.shape} do not fit C - A B (flag {flag})")
        if not (c.size and a.size):
            return
        target = columns_of(c)
        plain(_all_columns(a), _all_columns(b), target)
        if target is not c:
            np.copyto(c, target)

    return {"gemm": gemm, "syrk": syrk, "trsm": trsm, "potrf": potrf, "gemmn": gemmn}


def operands(form: str, name: str, op: str) -> tuple[str, ...]:
    """Dtypes of the operands that a kernel of `kernels` takes, by the table's names; the first is that of storage."""
    if op in ("trsm", "potrf"):
        return ("float32",)
    if name != "widen":
        return (form,)
    return form, "float32x3" if form == "bfloat16x2" else "float32"


def _half(n: int) -> int:
    """Half of n, in whole blocks."""
    return -(-n // (2 * BLOCK)) * BLOCK


_REFERENCE: dict[str, Callable[..., Any]] = {
    "gemm": reference.gemm,
    "syrk": reference.syrk,
    "trsm": reference.trsm,
    "potrf": reference.potrf,
    "gemmn": reference.gemmn,
}
_BUILD: dict[str, Callable[..., Any]] = {
    "gemm": fp32_gemm.build,
    "syrk": fp32_syrk.build,
    "trsm": fp32_trsm.build,
    "potrf": fp32_potrf.build,
    "gemmn": fp32_lu.build_gemmn,
}


def _fp32_reference(op: str) -> Callable[..., Any]:
    return _REFERENCE[op]


def _fp32(op: str) -> Callable[..., Any]:
    """The FP32 kernel of the library in use."""
    return _fp32_of(choice.library(op, "s"), op) or _REFERENCE[op]


@cache
def _fp32_of(library: blas.Library, op: str) -> Callable[..., Any] | None:
    kernel: Callable[..., Any] | None = _BUILD[op](library, "s")
    return kernel
