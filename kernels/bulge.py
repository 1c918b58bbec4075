"""From a band to a tridiagonal matrix: bulges are chased down the band, sweep by sweep [1]_.

A band of half-width b is an array of shape (columns, 2 b + 1): row j has the entries (j, j), (j+1, j), ..., which is
LAPACK's lower band storage by columns, with room for bulges. Sweep s, counted from 0, makes column s tridiagonal by a
reflector on the rows s + 1 to s + b, and chases the bulge: block m of the sweep is its reflector on rows from s + 1 +
m b. A block of one sweep can follow when the sweep before has done one block more.

The kernels for one block are LAPACK's ?sb2st_kernels, which SciPy's wheels have inside but do not promise; where they
are not, or call a ?symv that is not sound, NumPy does the same, slower. Where nobody asks for the reflectors, the
whole chase is one call.

.. [1] LAPACK ?sytrd_sb2st; A. Haidar, H. Ltaief and J. Dongarra, Parallel reduction to condensed forms for symmetric
   eigenvalue problems using aggregated fine-grained and memory-aware kernels, SC11.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from tilewright.kernels import blas, symv
from tilewright.kernels.band import times
from tilewright.kernels.lapack import by_columns, inside, lapack, letter, plain, real_dtype
from tilewright.kernels.layout import address, by_reference
from tilewright.kernels.scratch import LINE, room

__all__ = ["apply", "blocks", "chase", "compact", "diagonals", "gather", "kernels", "pieces", "span"]


def blocks(n: int, b: int, sweep: int) -> int:
    """How many blocks a sweep has."""
    return -(-(n - 1 - sweep) // b)


def span(n: int, b: int, first: int, count: int, start: int, stop: int) -> tuple[int, int] | None:
    """The columns that `chase` touches; None where there is nothing to do."""
    low, high = n, 0
    for i in range(count):
        s = first + i
        begin, end = max(start - i, 0), min(stop - i, blocks(n, b, s))
        if begin < end:
            low, high = min(low, s + begin * b), max(high, min(s + 1 + end * b, n))
    return (low, high) if low < high else None


def gather(
    tiles: Sequence[np.ndarray], band: np.ndarray, places: tuple[tuple[int, int], ...], first: int, b: int
) -> None:
    """Columns of the band from tiles by columns; ``places`` has the first row and column of each."""
    band[...] = 0
    for tile, (row, column) in zip(tiles, places, strict=True):
        width, height = tile.shape
        for j in range(max(first, column), min(first + len(band), column + width)):
            low, high = max(j, row), min(j + b + 1, row + height)
            if low < high:
                band[j - first, low - j : high - j] = tile[j - column, low - row : high - row]


def chase(
    parts: Sequence[np.ndarray],
    v: np.ndarray,
    turn: np.ndarray | None,
    n: int,
    b: int,
    first: int,
    start: int,
    stop: int,
    column: int,
) -> None:
    """The blocks ``start`` - i to ``stop`` - i of each sweep ``first`` + i, for the sweeps that v has rows for.

    ``parts`` are columns of the band from ``column`` on, best those of `pieces`. Row i of v has the reflectors of sweep
    ``first`` + i at their rows, with tau in the place of the ones that they begin with. ``turn`` holds nothing: who
    writes it has his turn.
    """
    band = _in_one(parts, column)
    copied = band is None
    if band is None:
        band = _place(sum(map(len, parts)), 2 * b + 1, column, v.dtype)
        np.concatenate(parts, out=band)
    run = kernels(letter(v.dtype)) or _by_numpy
    tau = np.zeros(n, v.dtype)
    for i in range(len(v)):
        s = first + i
        begin, end = max(start - i, 0), min(stop - i, blocks(n, b, s))
        if begin < end:
            _sweep(run(band, v[i], tau, n, b, column), v[i], tau, n, b, s, begin, end)
    top = 0
    for part in parts if copied else ():
        part[...] = band[top : top + len(part)]
        top += len(part)


def pieces(n: int, b: int, size: int, dtype: np.dtype) -> list[np.ndarray]:
    """The band in one array, in parts of so many columns, for `chase` to work on where they are."""
    whole = _place(n, 2 * b + 1, 0, dtype, fresh=True)
    return [whole[first : first + size] for first in range(0, n, size)]


def _place(columns: int, width: int, first: int, dtype: np.dtype, fresh: bool = False) -> np.ndarray:
    """Room for columns from ``first`` on, at the place in a cache line that they have in an array of all."""
    lead = first * width * dtype.itemsize % LINE // dtype.itemsize
    shape = (lead + columns * width,)
    memory = _aligned(shape[0], dtype) if fresh else room("chase", shape, dtype)
    return memory[lead:].reshape(columns, width)


def _aligned(count: int, dtype: np.dtype) -> np.ndarray:
    raw = np.empty(count * dtype.itemsize + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + count * dtype.itemsize].view(dtype)


def _in_one(parts: Sequence[np.ndarray], first: int) -> np.ndarray | None:
    """The parts as one array, where they are one from the right place in a cache line on."""
    head = parts[0]
    place: int = head.__array_interface__["data"][0]
    if place % LINE != first * head.shape[1] * head.itemsize % LINE:
        return None
    columns = 0
    for part in parts:
        if not part.flags.c_contiguous or part.__array_interface__["data"][0] != place + columns * head.strides[0]:
            return None
        columns += len(part)
    return np.lib.stride_tricks.as_strided(head, (columns, head.shape[1]), head.strides)


def _sweep(
    kernel: Callable[[int, int, int], None],
    v: np.ndarray,
    tau: np.ndarray,
    n: int,
    b: int,
    s: int,
    begin: int,
    end: int,
) -> None:
    starts = range(s + 1 + begin * b, min(s + 2 + end * b, n), b)
    if begin:
        tau[starts[0]], v[starts[0]] = v[starts[0]], 1
    for m, at in enumerate(starts, begin):
        if m == end:
            break
        last = min(at + b, n)
        kernel(3 if m else 1, at, last)
        if last < n:
            kernel(2, at, last)
    for at in starts:
        v[at] = tau[at]


@cache
def kernels(kind: str) -> Callable[..., Callable[[int, int, int], None]] | None:
    """LAPACK's kernels for one block as SciPy's own library has them inside, or None; they call ?symv."""
    found = blas.load("openblas").inner(blas.BULGES[kind])
    if found is None or not symv.sound(kind):
        return None
    function = found

    def bound(
        band: np.ndarray, v: np.ndarray, tau: np.ndarray, n: int, b: int, column: int
    ) -> Callable[[int, int, int], None]:
        work = room("chase work", (4 * b + 4,), v.dtype)
        one, zero, low = by_reference(1), by_reference(0), b"L"
        start, stop = ctypes.c_int(), ctypes.c_int()
        ahead = low, zero
        between = ctypes.byref(start), ctypes.byref(stop), one, by_reference(n - column), by_reference(b), one
        behind = address(band), by_reference(2 * b + 1), address(v[column:]), address(tau[column:]), one, address(work)
        calls = {kind: (*ahead, by_reference(kind), *between, *behind) for kind in (1, 2, 3)}

        def kernel(kind: int, at: int, last: int) -> None:
            start.value, stop.value = at + 1 - column, last - column
            function(*calls[kind])

        return kernel

    return bound


def _by_numpy(
    band: np.ndarray, v: np.ndarray, tau: np.ndarray, n: int, b: int, column: int
) -> Callable[[int, int, int], None]:
    """The same kernels in NumPy."""
    item = band.itemsize
    flat = band.reshape(-1)

    def dense(row: int, first: int, rows: int, columns: int) -> np.ndarray:
        """Entries (row.., first..), all of which lie in the band."""
        return np.lib.stride_tricks.as_strided(
            flat[(first - column) * (2 * b + 1) + row - first :], (rows, columns), (item, 2 * b * item)
        )

    def reflector(x: np.ndarray, at: int) -> None:
        """Make the reflector of a column x, of which the first number stays."""
        kind = letter(band.dtype)
        alpha, rest = x[:1].copy(), x[1:].copy()
        factor = np.zeros(1, band.dtype)
        plain(f"{kind}larfg", len(x), alpha, rest, 1, factor)
        x[0], x[1:], v[at], v[at + 1 : at + len(x)], tau[at] = alpha[0], 0, 1, rest, factor[0]

    def kernel(kind: int, at: int, last: int) -> None:
        h = v[at:last]
        if kind == 1:
            reflector(dense(at, at - 1, last - at, 1)[:, 0], at)
        if kind != 2:
            block = dense(at, at, last - at, last - at)
            low = np.tril(block, -1)
            whole = low + low.conj().T + np.diag(block.diagonal().real)
            y = whole @ h * tau[at]
            w = y - h * (np.conj(tau[at]) * np.vdot(h, y) / 2)
            whole -= np.outer(w, h.conj()) + np.outer(h, w.conj())
            for j in range(last - at):  # the other triangle is not in the band
                block[j:, j] = whole[j:, j]
            return
        end = min(last + b, n)
        below = dense(last, at, end - last, last - at)
        below -= np.outer(below @ h * tau[at], h.conj())
        reflector(below[:, 0], last)
        g, rest = v[last:end], below[:, 1:]
        rest -= np.outer(g * np.conj(tau[last]), g.conj() @ rest)

    return kernel


def diagonals(band: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Diagonals d and e, as long as d, of a real tridiagonal matrix with the eigenvalues of a band.

    ``band`` is (n, b + 1): LAPACK's lower storage. By its chase of reflectors (?sytrd_sb2st, ?hetrd_hb2st) where that
    is inside SciPy's library and sound, else by rotations (?sbtrd), which take twice as long for wide bands.
    """
    (n, width), kind, real = band.shape, letter(band.dtype), real_dtype(band.dtype)
    b = width - 1
    d, e = np.zeros(n, real), np.zeros(n, real)
    a = room("chase whole", band.shape, band.dtype)
    np.copyto(a, band)
    whole = inside(blas.CHASES[kind]) if symv.sound(kind) else None
    if whole is None:
        name = "hbtrd" if band.dtype.kind == "c" else "sbtrd"
        unused, work = np.zeros(1, band.dtype), np.zeros(max(n, 1), band.dtype)
        lapack(f"{kind}{name}", b"N", b"L", n, b, a, width, d, e, unused, 1, work)
        return d, e
    sizes = np.zeros(1, band.dtype), np.zeros(1, band.dtype)
    words = b"N", b"N", b"L"
    whole(*words, n, b, a, width, d, e, sizes[0], -1, sizes[1], -1)
    reflectors, work = (np.zeros(max(int(size[0].real), 1), band.dtype) for size in sizes)
    whole(*words, n, b, a, width, d, e, reflectors, len(reflectors), work, len(work))
    return d, e


# ------------------------------------------------------------------ back


def compact(sweeps: Sequence[np.ndarray], forms: np.ndarray, turned: np.ndarray, n: int, b: int, first: int) -> None:
    """The reflectors of some sweeps, block by block: I - V T V^H for those of a block together; V and -V T.

    Reflectors of sweeps one after the other begin one row further down: b + count - 1 rows.
    """
    v = np.concatenate(sweeps)
    count, height = forms.shape[1:]
    minus = times(v.dtype)
    kind = letter(v.dtype)
    for m in range(len(forms)):
        block, right = forms[m], turned[m]
        block[...], right[...] = 0, 0
        tau = np.zeros(count, v.dtype)
        for i in range(count):
            at = first + i + 1 + m * b
            last = min(at + b, n)
            if at < n:
                block[i, i] = 1
                block[i, i + 1 : i + last - at] = v[i, at + 1 : last]
                tau[i] = v[i, at]
        t = by_columns("compact", count, count, v.dtype)
        t[...] = 0
        aligned = room("compact V", block.shape, v.dtype)
        np.copyto(aligned, block)
        plain(f"{kind}larft", b"F", b"C", height, count, aligned, height, tau, t, count)
        minus(block.T, t, right.T)


def apply(forms: np.ndarray, turned: np.ndarray, x: np.ndarray, n: int, b: int, first: int) -> None:
    """X := Q X for a block of columns, Q the product of the reflectors of some sweeps."""
    minus = times(x.dtype)
    count, height = forms.shape[1:]
    inner = room("apply", (len(x), count), x.dtype)
    target, product = x.T, inner.T
    for m in range(len(forms)):
        top = first + 1 + m * b
        rows = min(height, n - top)
        inner[...] = 0
        part = target[top : top + rows]
        minus(forms[m].T[:rows], part, product, "C")  # -V^H X
        minus(turned[m].T[:rows], product, part)  # X - V T V^H X
