"""Kernels of QR factorisations: tiles, pairs of tiles, panels; against the reference, in every layout."""

import numpy as np
import pytest
import scipy.linalg
from matrices import DTYPES, random_matrix, roundoff

from tilewright.kernels import blas, geqrf, householder, steady, table
from tilewright.kernels.catalogue import TILE_OPS

LIBRARIES = [name for name, found in blas.available().items() if isinstance(found, blas.Library)]
OPS = ("geqrt", "unmqr", "tsqrt", "ttqrt", "tsmqr", "ttmqr", "geqrf", "larfb")
MADE = {"geqrt": 1, "tsqrt": 2, "ttqrt": 2, "geqrf": 1}
"""Which argument is T, where it is written."""
LETTERS = table.DTYPES


def kernels(op, dtype):
    """Of all libraries that have it."""
    built = (TILE_OPS[op].build(blas.load(name), LETTERS[dtype]) for name in LIBRARIES)
    return [kernel for kernel in built if kernel is not None]


def placed(a, layout):
    """The same numbers by rows, by columns, within columns of a larger matrix, or strided both ways."""
    m, n = a.shape
    if layout == "within":
        large = np.full((m + 3, n + 2), np.nan, a.dtype, "F")
        target = large[2 : m + 2, 1 : n + 1]
    elif layout == "strided":
        target = np.full((2 * m, 3 * n), np.nan, a.dtype)[::2, ::3]
    else:
        target = np.empty((m, n), a.dtype, layout)
    target[...] = a
    return target


def whole(argument):
    return np.concatenate(argument) if isinstance(argument, list) else argument


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_every_kernel_agrees_with_the_reference_in_every_layout(op, dtype):
    rng = np.random.default_rng(1)
    for run in kernels(op, dtype):
        for sizes in ((1, 1, 1), (5, 8, 6), (9, 5, 33), (40, 31, 17)):
            spec = list(TILE_OPS[op].operands(*sizes))
            given = [steady.numbers(dtype, rng, shape, kind) for _, shape, kind in spec]
            for flags in ((), *(flags for _, flags in TILE_OPS[op].adjoint)):
                wanted = TILE_OPS[op].called(*(tile.copy() for tile in given))
                TILE_OPS[op].reference(*wanted, *flags)
                bits = set()
                for layout in ("F", "C", "within", "strided"):
                    found = TILE_OPS[op].called(*(placed(tile, layout) for tile in given))
                    run(*found, *flags)
                    written = found[-TILE_OPS[op].written :]
                    for place, (right, left) in enumerate(zip(wanted, found, strict=True)):
                        right, left = (whole(x) for x in (right, left))
                        if place == MADE.get(op):  # what is below the triangles nobody reads
                            ib = len(left)
                            keep = np.concatenate(
                                [
                                    np.triu(np.ones((ib, min(ib, left.shape[1] - s)), bool))
                                    for s in range(0, left.shape[1], ib)
                                ],
                                axis=1,
                            )
                            right, left = np.where(keep, right, 0), np.where(keep, left, 0)
                        atol = 2e3 * roundoff(dtype) * max(1, np.abs(right).max(initial=0))
                        assert np.allclose(left, right, rtol=0, atol=atol), (op, layout, place)
                    bits.add(b"".join(np.ascontiguousarray(whole(x)).tobytes() for x in written))
                assert len(bits) == 1 or not steady.probe(run, op, dtype, dtype)


def orthogonal(dtype, m, apply):
    """The m x m matrix that ``apply`` multiplies by, and how far it is from unitary."""
    q = np.eye(m, dtype=dtype, order="F")
    apply(q)
    return q, np.abs(q.conj().T @ q - np.eye(m)).max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n", "ib"), [(1, 1, 1), (7, 7, 3), (12, 5, 2), (5, 12, 5), (40, 33, 8)])
def test_a_tile_is_the_product_of_its_factors(dtype, m, n, ib):
    a, k = random_matrix(m, n, dtype), min(m, n)
    for make, use in zip(kernels("geqrt", dtype), kernels("unmqr", dtype), strict=True):
        tile, t, v = np.array(a, order="F"), np.zeros((ib, k), dtype), np.zeros((n, m), dtype)
        make(tile, t, v)
        assert np.array_equal(v.T, tile)
        q, error = orthogonal(dtype, m, lambda c, v=v, t=t, use=use: use(v, t, c, "N", True))
        assert error < 100 * roundoff(dtype)
        assert np.allclose(q[:, :k] @ np.triu(tile[:k]), a, atol=100 * roundoff(dtype))
        other, _ = orthogonal(dtype, m, lambda c, v=tile, t=t, use=use: use(v, t, c))
        assert np.allclose(other, q.conj().T, atol=100 * roundoff(dtype))
        assert not tile[:k].diagonal().imag.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("kind", "n", "m", "extra"),
    [
        ("ts", 6, 6, 0),
        ("ts", 6, 2, 3),
        ("ts", 5, 9, 2),
        ("tt", 6, 6, 0),
        ("tt", 6, 2, 4),
        ("tt", 5, 9, 3),
        ("ts", 1, 1, 0),
    ],
)
def test_two_tiles_become_one_triangle_and_vectors_below_diagonals_stay(dtype, kind, n, m, extra):
    above, below = random_matrix(n + extra, n, dtype), random_matrix(m, n, dtype, seed=1)
    rows = min(m, n) if kind == "tt" else m
    part = np.triu(below[:rows]) if kind == "tt" else below
    stacked = np.concatenate([np.triu(above[:n]), part])
    for make, use in zip(kernels(f"{kind}qrt", dtype), kernels(f"{kind}mqr", dtype), strict=True):
        a, b, s = np.array(above, order="F"), np.array(below, order="F"), np.zeros((min(2, n), n), dtype)
        make(a, b, s)
        assert np.array_equal(np.tril(a[:n], -1), np.tril(above[:n], -1)) and np.array_equal(a[n:], above[n:])
        if kind == "tt":
            assert np.array_equal(np.tril(b[:rows], -1), np.tril(below[:rows], -1))
            assert np.array_equal(b[rows:], below[rows:])

        def run(c, b=b, s=s, use=use, flag="N"):
            top, rest = np.zeros((n + extra, c.shape[1]), dtype, "F"), np.zeros((m, c.shape[1]), dtype, "F")
            top[:n], rest[:rows] = c[:n], c[n:]
            use(b, s, top, rest, flag)
            c[:n], c[n:] = top[:n], rest[:rows]

        q, error = orthogonal(dtype, n + rows, run)
        assert error < 100 * roundoff(dtype)
        assert np.allclose(q[:, :n] @ np.triu(a[:n]), stacked, atol=100 * roundoff(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n"), [(1, 1), (40, 40), (200, 77), (77, 200), (150, 33), (5, 1), (1, 5), (64, 64)])
def test_panels_are_lapack_s(dtype, m, n):
    a, k = random_matrix(m, n, dtype), min(m, n)
    wanted, tau = scipy.linalg.qr(a, mode="raw")[0]
    for make, use in zip(kernels("geqrf", dtype), kernels("larfb", dtype), strict=False):
        strip, t = np.array(a, order="F"), np.zeros((k, k), dtype)
        make([strip[i : i + 30] for i in range(0, m, 30)], t)
        scale = 1e3 * roundoff(dtype)
        assert np.allclose(strip, wanted, atol=scale) and np.allclose(t.diagonal(), tau, atol=scale)
        assert not np.tril(t, -1).any()
        q, error = orthogonal(dtype, m, lambda c, v=strip, t=t, use=use: use([v], t, [c], "N"))
        assert error < 200 * roundoff(dtype)
        assert np.allclose(q[:, :k] @ np.triu(strip[:k]), a, atol=200 * roundoff(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("flag", ["C", "N"])
def test_an_update_of_block_columns_beside_each_other_is_that_of_one_array(dtype, flag):
    """As views of one array or in memory of their own; of vectors above R, or alone with their ones and zeros."""
    a, c = random_matrix(50, 13, dtype), random_matrix(50, 40, dtype, seed=1)
    rows, columns = (slice(0, 20), slice(20, 41), slice(41, 50)), (slice(0, 16), slice(16, 17), slice(17, 40))
    for make, use in zip(kernels("geqrf", dtype), kernels("larfb", dtype), strict=True):
        strip, t, r = np.array(a, order="F"), np.zeros((13, 13), dtype), np.full((13, 13), 7, dtype)
        alone, other = strip.copy(order="F"), t.copy()
        make([strip], t)
        make([alone], other, r)
        assert np.array_equal(other, t) and np.array_equal(r, np.triu(strip[:13]))
        assert np.array_equal(alone, np.tril(strip, -1) + np.eye(50, 13, dtype=dtype))
        wanted = np.array(c, order="F")
        use([strip], t, [wanted], flag)
        for full, v in ((False, strip), (True, alone)):
            whole = np.array(c, order="F")
            pieces = [[whole[i, j].copy() for j in columns] for i in rows]
            use([v[i] for i in rows], t, [whole[i, j] for i in rows for j in columns], flag, full)
            assert np.allclose(whole, wanted, atol=100 * roundoff(dtype))
            use([v[i].copy() for i in rows], t, [tile for row in pieces for tile in row], flag, full)
            assert np.array_equal(np.block(pieces), whole)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_strip_in_pieces_gives_the_bits_of_one_array(dtype):
    a = random_matrix(50, 40, dtype)
    run = table.find("geqrf", "cpu", [dtype, dtype]).function
    strip, t = np.array(a, order="F"), np.zeros((40, 40), dtype)
    run([strip[i : i + 8] for i in range(0, 50, 8)], t)
    pieces, other = [a[i : i + 8].copy() for i in range(0, 50, 8)], np.zeros((40, 40), dtype)
    run(pieces, other)
    assert np.array_equal(np.concatenate(pieces), strip) and np.array_equal(t, other)


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_scales_leave_the_reflections(scale):
    a = random_matrix(20, 9)
    tile, other = np.array(a, order="F"), np.array(a * scale, order="F")
    for t, one in ((np.zeros((3, 9)), tile), (np.zeros((3, 9)), other)):
        table.plain("geqrt", "float64").function(one, t)
    assert np.allclose(np.tril(tile, -1), np.tril(other, -1)) and np.allclose(
        np.triu(tile[:9]) * scale, np.triu(other[:9])
    )


def test_a_reflection_of_zeros_is_none():
    for dtype in DTYPES:
        beta, tau, v = householder.reflection(np.dtype(dtype).type(0), np.zeros(3, dtype))
        assert beta == 0 and tau == 0 and not v.any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_columns_make_no_reflections_of_nan(dtype):
    a = random_matrix(40, 36, dtype)
    a[:, 3] = a[:, 7] = 0
    a[:, 35] = a[:, 0]
    strip, t = np.array(a, order="F"), np.zeros((36, 36), dtype)
    table.find("geqrf", "cpu", [dtype, dtype]).function([strip], t)
    assert np.isfinite(strip).all() and np.isfinite(t).all()


def test_flops_are_those_of_lapack():
    assert geqrf.flops_geqrf([(4, 3), (4, 3)]) == 2 * 8 * 9 - 2 * 9 == geqrf.flops_geqrf([(3, 8)])
    assert TILE_OPS["tsmqr"].flops((4, 3), (2, 3), (3, 5), (4, 5)) == 4 * 4 * 5 * 3
    assert geqrf.flops_larfb([(4, 3), (2, 3)], (3, 3), [(4, 5), (4, 2), (2, 5), (2, 2)]) == 4 * 6 * 7 * 3 - 2 * 7 * 9
    assert TILE_OPS["unmqr"].flops((6, 3), (2, 3), (6, 5)) == 4 * 6 * 5 * 3 - 2 * 5 * 9


def test_shapes_that_do_not_fit_are_named():
    zeros = np.zeros
    for op, arguments, message in (
        ("geqrt", (zeros((4, 3)), zeros((2, 2))), "too small for 3 reflections"),
        ("unmqr", (zeros((4, 3)), zeros((2, 3)), zeros((5, 1))), "do not fit Q C"),
        ("tsqrt", (zeros((2, 3)), zeros((4, 3)), zeros((1, 3))), "do not fit"),
        ("tsmqr", (zeros((4, 3)), zeros((1, 3)), zeros((3, 2)), zeros((5, 2))), "do not fit"),
        ("geqrf", ([zeros((4, 3))], zeros((2, 2))), "too small for a panel of 4 x 3"),
        ("larfb", ([zeros((4, 3))], zeros((3, 3)), [zeros((5, 3))]), "do not fit Q C"),
        ("larfb", ([zeros((4, 3))] * 2, zeros((3, 3)), [zeros((4, 3))] * 3), "do not fit Q C"),
    ):
        with pytest.raises(ValueError, match=message):
            kernels(op, "float64")[0](*arguments)
