"""The bits of a kernel do not depend on where its tiles lie: found out, and kept by copies where it is not so."""

import numpy as np
import pytest
from matrices import DTYPES

from tilewright.kernels import lookup, products, steady, table
from tilewright.kernels.catalogue import TILE_OPS

OPS = tuple(steady.OPERANDS)


def drifting(a, b, c):
    """C - A B^H, with an error for tiles whose rows do not begin on a cache line."""
    c -= a @ b.conj().T
    if c.ctypes.data % 64 or (len(c) > 1 and c.strides[0] % 64):
        c *= 1 + 1e-15


def operands(op, dtype, m, n, k, seed=0):
    rng = np.random.default_rng(seed)
    return [steady.numbers(dtype, rng, shape, kind) for _, shape, kind in steady.OPERANDS[op](m, n, k)]


def cut(values, layout, offset):
    """The values in memory that begins ``offset`` bytes behind a cache line, by rows or columns, whole or cut out."""
    m, n = values.shape
    rows, columns = (m, n) if layout.endswith("rows") else (n, m)
    length = columns + (5 if layout.startswith("strided") else 0)
    memory = np.zeros(rows * length * values.itemsize + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    whole = memory[start : start + rows * length * values.itemsize].view(values.dtype).reshape(rows, length)
    tile = whole[:, :columns] if layout.endswith("rows") else whole[:, :columns].T
    tile[...] = values
    return tile


def kernel(op, dtype):
    return lookup(op, "cpu", *TILE_OPS[op].names(dtype)).function


def own(op):
    """The order in which its kernels take tiles, and the other one."""
    return ("columns", "rows") if TILE_OPS[op].by_columns else ("rows", "columns")


def result(op, tiles, function):
    function(*TILE_OPS[op].called(*tiles))
    written = tiles[-TILE_OPS[op].written :]
    return [
        np.tril(tile).tobytes() if op in ("potrf", "syrk") else np.ascontiguousarray(tile).tobytes() for tile in written
    ]


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_alignment_or_leading_dimension(library, op, dtype):
    """Views that begin at every offset within a cache line, packed and cut out, in every library."""
    function, (order, _) = kernel(op, dtype), own(op)
    item = np.dtype(dtype).itemsize
    for m, n, k in (
        (5, 8, 6),
        (37, 29, 41),
        (130, 67, 96),
        (13, 1, 13),
        (60, 1, 41),
        (13, 13, 1),
        (1, 9, 20),
        (40, 8, 1),
    ):
        values = operands(op, dtype, m, n, k)
        expected = result(op, [cut(v, order, 0) for v in values], function)
        offsets = range(0, 64, min(item, 8)) if m == 5 else (item % 64, 24 if item <= 8 else 48)
        for offset in offsets:
            for layout in (order, f"strided {order}"):
                assert result(op, [cut(v, layout, offset) for v in values], function) == expected, (m, offset, layout)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_the_order_of_memory(library, op, dtype):
    function, (order, other) = kernel(op, dtype), own(op)
    values = operands(op, dtype, 37, 29, 41)
    right = {"hemm": (1, 2, 3, 4), "trsml": (1,), "gemml": (1, 2), "gemmp": (1, 2)}.get(
        op, ()
    )  # right-hand sides are C-ordered
    expected = result(op, [cut(v, order, 0) for v in values], function)
    for layout in (other, f"strided {other}"):
        tiles = [cut(v, "rows" if place in right else layout, 8) for place, v in enumerate(values)]
        assert result(op, tiles, function) == expected


def test_a_kernel_whose_bits_depend_on_memory_fails_the_probe():
    assert not steady.probe(drifting, "gemm", "float64", "float64")
    assert not steady.probe(drifting, "gemm", "complex128", "complex128")


def test_such_a_kernel_then_works_on_copies_of_one_alignment():
    function = steady.settled(drifting)
    values = operands("gemm", "float64", 37, 29, 41)
    found = {
        result("gemm", [cut(v, layout, offset) for v in values], function)[0]
        for layout in ("rows", "strided rows", "columns")
        for offset in range(0, 64, 8)
    }
    assert len(found) == 1


def test_a_library_that_fails_is_found_out_at_the_first_look_up_and_said(monkeypatch, restore_blas):
    monkeypatch.setattr(steady, "_verdicts", {})
    row = table.lookup("gemm", "cpu", "float64", "float64")
    assert steady.steady(drifting, "drifting", "gemm", "float64", "float64") is not drifting
    assert steady.verdicts()["drifting", "gemm", "float64"] is False
    assert steady.steady(row.function, "again", "gemm", "float64", "float64") is row.function


def test_copies_pass_on_parameters_and_results_and_write_all_that_is_written():
    def both(a, x, scale, y):
        x *= scale
        y += a
        return 7

    a, x, y = np.ones((2, 2)), np.ones((2, 2)), np.ones((2, 2))
    assert steady.settled(both, 2)(a, x, 3.0, y) == 7
    assert (x == 3).all() and (y == 2).all() and (a == 1).all()


def test_a_probe_takes_narrow_operands_too():
    def exact(a, b, c):
        c -= (a.astype(np.uint32) << 16).view(np.float32) @ (b.astype(np.uint32) << 16).view(np.float32).T

    def of_the_first_byte(a, b, c):
        exact(a, b, c)
        c += a.ctypes.data % 64

    assert not steady.probe(of_the_first_byte, "gemm", "bfloat16", "float32")
    assert all(tile.dtype == np.uint16 for tile in operands("gemm", "bfloat16", 3, 4, 5)[:2])


def test_a_kernel_that_reads_beyond_its_rows_is_found_out():
    def greedy(a, b, c):
        beyond = np.lib.stride_tricks.as_strided(a, (len(a), a.shape[1] + 1), a.strides)
        c -= a @ b.conj().T + 0 * beyond[:, -1:]

    assert not steady.probe(greedy, "gemm", "float64", "float64")


@pytest.mark.parametrize("form", ["bfloat16", "float16", "bfloat16x2"])
def test_no_route_reads_what_lies_between_rows(form):
    for route in products.probe(form):
        if not route.reason:
            gemm = table.lookup("gemm", "cpu", form, "float32", f"{form}/{route.name}").function
            tiles = [steady._place(tile, 0, 14) for tile in operands("gemm", form, 50, 33, 50)[:2]]
            c = np.zeros((50, 33), np.float32)
            gemm(*tiles, c)
            assert np.isfinite(c).all(), route.name
