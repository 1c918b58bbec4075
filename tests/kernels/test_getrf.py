"""Kernels of LU factorisations: panels, exchanges, updates; against the reference, in every layout."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matrices import DTYPES, random_matrix, roundoff

from tilewright.kernels import blas, getrf, reference, steady, swaps, table
from tilewright.kernels.catalogue import TILE_OPS
from tilewright.kernels.columns import calls, column_ld, joined

LIBRARIES = [name for name, found in blas.available().items() if isinstance(found, blas.Library)]
OPS = ("getrf", "getrf2", "getrfn", "gemmn", "gemm2", "trsmn", "trsm2", "trsmu", "swptrsm", "swpgemm")
LETTERS = table.DTYPES


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


def kernel(op, library, dtype):
    return TILE_OPS[op].build(blas.load(library), LETTERS[dtype])


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_every_kernel_agrees_with_the_reference_in_every_layout(op, dtype, library):
    rng = np.random.default_rng(1)
    run = kernel(op, library, dtype)
    for sizes in ((1, 1, 1), (5, 8, 6), (9, 5, 33), (40, 31, 17)):
        spec = list(TILE_OPS[op].operands(*sizes))
        given = [steady.numbers(dtype, rng, shape, kind) for _, shape, kind in spec]
        wanted = TILE_OPS[op].called(*(tile.copy() for tile in given))
        TILE_OPS[op].reference(*wanted)
        bits = set()
        for layout in ("F", "C", "within", "strided"):
            found = TILE_OPS[op].called(*(placed(tile, layout) for tile in given))
            run(*found)
            for right, left in zip(wanted, found, strict=True):
                right, left = (np.concatenate(x) if isinstance(x, list) else x for x in (right, left))
                assert np.allclose(left, right, rtol=2e4 * roundoff(dtype), atol=2e3 * roundoff(dtype)), (op, layout)
            last = found[-2 if op in ("getrf", "getrf2") else -1]
            bits.add(np.concatenate(last).tobytes() if isinstance(last, list) else np.ascontiguousarray(last).tobytes())
        assert len(bits) == 1 or not steady.probe(run, op, dtype, dtype)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("flag", ["N", "T", "C"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_flags_mean_transposes(library, dtype, flag):
    a, x = random_matrix(7, 7, dtype) + 4 * np.eye(7, dtype=dtype), random_matrix(7, 3, dtype, seed=1)
    turn = {"N": lambda t: t, "T": lambda t: t.T, "C": lambda t: t.conj().T}[flag]
    for part, triangle in (("L", np.tril(a, -1) + np.eye(7, dtype=dtype)), ("U", np.triu(a))):
        found = np.asfortranarray(x)
        kernel("trsmn", library, dtype)(a, found, part, flag)
        assert np.allclose(turn(triangle) @ found, x, atol=1e3 * roundoff(dtype))
    found = np.zeros((7, 3), dtype, "F")
    kernel("gemmn", library, dtype)(a, np.asfortranarray(x), found, flag)
    assert np.allclose(found, -(turn(a) @ x), atol=1e3 * roundoff(dtype))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tau", [0.1, 0.6, 1])
def test_threshold_pivoting_agrees_with_the_reference(library, dtype, tau):
    for m, n, near in ((40, 40, 40), (70, 33, 33), (33, 70, 20), (30, 9, 4)):
        a = random_matrix(m, n, dtype)
        found, wanted = np.asfortranarray(a), a.copy()
        piv, other = np.zeros(min(m, n), np.int32), np.zeros(min(m, n), np.int32)
        kernel("getrf", library, dtype)([found[:near], found[near:]], piv, tau)
        reference.getrf([wanted[:near], wanted[near:]], other, tau)
        size = np.abs(np.tril(found, -1)).max()
        assert np.array_equal(piv, other) and size <= (1 + 1e-5) * (2**0.5 if found.dtype.kind == "c" else 1) / tau
        assert np.allclose(found, wanted, atol=1e5 * roundoff(dtype))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_strip_in_pieces_gives_the_bits_of_one_array(library, dtype):
    a = random_matrix(37, 6, dtype)
    whole, pieces = np.asfortranarray(a), [a[i : i + 8].copy() for i in range(0, 37, 8)]
    piv, other = np.zeros(6, np.int32), np.zeros(6, np.int32)
    run = table.find("getrf", "cpu", [dtype, "int32"]).function
    run([whole[i : i + 8] for i in range(0, 37, 8)], piv)
    run(pieces, other)
    assert np.array_equal(np.concatenate(pieces), whole) and np.array_equal(piv, other)


def test_tiles_of_one_array_are_one_strip_and_others_are_not():
    a = np.zeros((20, 12), order="F")
    tiles = [a[i : i + 5, 3:6] for i in range(5, 20, 5)]
    strip = joined(tiles)
    assert strip.shape == (15, 3) and strip.strides == a.strides and np.shares_memory(strip, a)
    assert column_ld(strip) == 20
    assert joined([tiles[0], tiles[2]]) is None
    assert joined([tiles[0], tiles[1].copy(order="F")]) is None
    assert joined([a[:5, :3], a[5:10, :2]]) is None


@pytest.fixture(params=["getrf2 inside", "getrf and a copy"])
def panels(request, monkeypatch):
    """The two ways of the kernel: SciPy's OpenBLAS has ?getrf2 inside, or no library has."""
    if request.param == "getrf and a copy":
        monkeypatch.setattr(blas.Library, "inner", lambda self, name: None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("library", LIBRARIES)
def test_panels_agree_with_the_reference_in_both_ways(panels, library, dtype):
    for m, n in ((60, 20), (20, 60), (33, 33), (1, 7), (7, 1)):
        a = random_matrix(m, n, dtype)
        found, wanted = np.asfortranarray(a), a.copy()
        piv, other = np.zeros(min(m, n), np.int32), np.zeros(min(m, n), np.int32)
        kernel("getrf", library, dtype)([found], piv)
        reference.getrf([wanted], other)
        assert np.array_equal(piv, other)
        assert np.allclose(found, wanted, atol=1e4 * roundoff(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("library", LIBRARIES)
def test_pivots_are_rows_of_the_panel_whatever_is_not_a_number(panels, library, dtype):
    rng = np.random.default_rng(3)
    run = kernel("getrf", library, dtype)
    for _ in range(30):
        m, n = rng.integers(1, 30, 2)
        a = np.asfortranarray(random_matrix(m, n, dtype))
        a[rng.random((m, n)) < rng.choice([0.1, 0.5, 1.1])] = rng.choice([np.nan, np.inf, -np.inf])
        piv = np.zeros(min(m, n), np.int32)
        with np.errstate(all="ignore"):
            run([a], piv)
        assert ((piv >= np.arange(len(piv))) & (piv < m)).all()


def test_a_panel_needs_no_memory_beside_itself_where_scipy_has_getrf2():
    if blas.load("openblas").inner("dgetrf2") is None:
        pytest.skip("this SciPy's library shows no dgetrf2")
    run, a, piv = (
        kernel("getrf", "openblas", "float64"),
        np.asfortranarray(random_matrix(600, 80)),
        np.zeros(80, np.int32),
    )
    run([a.copy(order="F")], piv)  # what is made once, at the first call
    peaks = []
    for _ in range(5):  # the least, as other threads take memory, too
        panel = a.copy(order="F")
        tracemalloc.start()
        run([panel], piv)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert min(peaks) < a.nbytes / 20


class TestSubnormalPivots:
    @pytest.mark.parametrize("library", LIBRARIES)
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("share", [0.99, 0.3, 2.0**-10])
    def test_their_rows_are_exchanged_and_divided(self, panels, library, dtype, share):
        s = np.finfo(dtype).tiny * np.finfo(dtype).dtype.type(share)
        for a in ([[0, s], [s, 0]], [[s, 1], [s / 2, 1]], [[0, 1], [s, 1]], [[s / 2, 1, 2], [s, 1, 1], [0, 3, 1]]):
            a = np.array(a, dtype, order="F")
            found, piv = a.copy(order="F"), np.zeros(len(a), np.int32)
            kernel("getrf", library, dtype)([found], piv)
            wanted, other = a.copy(), np.zeros(len(a), np.int32)
            reference.getrf([wanted], other)
            assert np.array_equal(piv, other)
            assert np.allclose(found, wanted, rtol=4 * np.finfo(dtype).eps, atol=0)

    @pytest.mark.parametrize("library", LIBRARIES)
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_substitution_divides_by_them(self, library, dtype):
        s = np.finfo(dtype).tiny * np.finfo(dtype).dtype.type(2.0**-8)
        u = np.array([[1, 2], [0, s]], dtype, order="F")
        x = np.array([[5], [2 * s]], dtype, order="F")
        kernel("trsmn", library, dtype)(u, x, "U")
        assert x.tolist() == [[1], [2]]
        a = np.array([[3, 6 + 2 * s]], dtype, order="F")
        kernel("trsmu", library, dtype)(
            np.array([[s, 0], [0, 1]], dtype), b := np.array([[3 * s, 1]], dtype, order="F")
        )
        assert b.tolist() == [[3, 1]] and a.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n"), [(1, 1), (40, 40), (70, 33), (33, 70), (100, 17), (5, 1), (1, 5)])
def test_the_recursion_is_the_reference(dtype, m, n):
    a = random_matrix(m, n, dtype)
    found, wanted = np.asfortranarray(a), a.copy()
    piv, other = np.zeros(min(m, n), np.int32), np.zeros(min(m, n), np.int32)
    getrf.recursive(found, piv, calls(blas.load("openblas"), LETTERS[dtype]))
    reference.getrf([wanted], other)
    assert np.array_equal(piv, other) and np.allclose(found, wanted, atol=1e4 * roundoff(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_candidates_give_the_highest_row_and_complex_ones_are_compared_by_both_parts(dtype):
    run = table.find("getrf", "cpu", [dtype, "int32"]).function
    a = np.array([[1, 0], [-2, 1], [2, 5]], dtype, order="F")
    piv = np.zeros(2, np.int32)
    run([a], piv)
    assert piv.tolist() == [1, 2]
    if np.dtype(dtype).kind == "c":
        a = np.array([[5], [3 + 3j]], dtype, order="F")  # |3 + 3i| = 4.2, but 3 + 3 = 6
        run([a], piv := np.zeros(1, np.int32))
        assert piv.tolist() == [1]


class TestExchanges:
    @given(st.data())
    def test_swaps_and_permutations_are_the_same(self, data):
        m = data.draw(st.integers(1, 12))
        k = data.draw(st.integers(0, m))
        piv = np.array([data.draw(st.integers(t, m - 1)) for t in range(k)], np.int32)
        a = np.arange(3.0 * m).reshape(m, 3)
        wanted = a.copy()
        for t, row in enumerate(piv):
            wanted[[t, row]] = wanted[[row, t]]
        assert np.array_equal(a[swaps.permutation(piv, m)], wanted)
        assert np.array_equal(swaps.sequence(swaps.permutation(piv, m)[:k]), piv)
        cuts = sorted({0, m, data.draw(st.integers(0, m))})
        for order in "CF":
            found = a.copy(order=order)
            tiles = [found[i:j] for i, j in pairwise(cuts)]
            for place in (tiles, [tile.copy() for tile in tiles]):
                swaps.swap_rows(piv, place)
                assert np.array_equal(np.concatenate(place), wanted)
                swaps.swap_rows(piv, place, backwards=True)
                assert np.array_equal(np.concatenate(place), a)

    def test_swaps_of_several_panels_count_from_their_own_tiles(self):
        a = np.asfortranarray(np.arange(12.0).reshape(6, 2))
        tiles = [a[:2], a[2:4], a[4:]]
        before = a.copy()
        pivots = [np.array([3, 1], np.int32), np.array([2, 3], np.int32)]
        swaps.swap(pivots, tiles)
        wanted = before[[3, 1, 4, 5, 2, 0]]  # 0 with 3; 2 with 4, then 3 with 5
        assert np.array_equal(a, wanted)
        swaps.swap(pivots, tiles, True)
        assert np.array_equal(a, before)

    @given(st.data())
    def test_swaps_of_panels_that_meet_are_those_of_one_after_the_other(self, data):
        heights = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
        m = sum(heights)
        full = [data.draw(st.integers(0, 4)) < 4 for _ in heights]  # a vector for each row, or not
        top, pivots, wanted = 0, [], np.arange(3.0 * m).reshape(m, 3)
        for height, all_rows in zip(heights, full, strict=True):
            rows = m - top
            count = height if all_rows else data.draw(st.integers(0, height))
            piv = np.array([data.draw(st.integers(t, rows - 1)) for t in range(count)], np.int32)
            for t, row in enumerate(piv):
                wanted[[top + t, top + row]] = wanted[[top + row, top + t]]
            pivots.append(piv)
            top += height
        ends = np.cumsum(heights)
        for order in "CF":
            found = np.arange(3.0 * m).reshape(m, 3).copy(order=order)
            tiles = [found[end - height : end] for end, height in zip(ends, heights, strict=True)]
            for place in (tiles, [tile.copy() for tile in tiles]):
                swaps.swap(pivots, place)
                assert np.array_equal(np.concatenate(place), wanted)
                swaps.swap(pivots, place, True)
                assert np.array_equal(np.concatenate(place), np.arange(3.0 * m).reshape(m, 3))

    @pytest.mark.parametrize("dtype", ["float16", "int64", "object", *DTYPES])
    def test_any_dtype_can_be_exchanged(self, dtype):
        a = np.arange(8).reshape(4, 2).astype(dtype)
        swaps.swap_rows(np.array([2], np.int32), [a])
        assert a[:, 0].tolist() == [4, 2, 0, 6]


def test_shapes_that_do_not_fit_are_named():
    run = kernel("getrf", "openblas", "float64")
    with pytest.raises(ValueError, match="6 x 2 numbers need 2 pivots of int32"):
        run([np.zeros((3, 2)), np.zeros((3, 2))], np.zeros(3, np.int32))
    with pytest.raises(ValueError, match="need 2 pivots of int32"):
        run([np.zeros((3, 2))], np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="do not fit C - A B"):
        kernel("gemmn", "openblas", "float64")(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 3)))
    for op in ("trsmn", "trsmu"):
        with pytest.raises(ValueError, match="do not fit"):
            kernel(op, "openblas", "float64")(np.zeros((2, 2)), np.zeros((3, 3)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_columns_move_as_rows_of_the_transpose_do(dtype):
    rng = np.random.default_rng(5)
    heights = [5, 5, 4]
    ends = np.cumsum(heights)
    pivots = [(np.arange(5) + rng.integers(0, 14 - end, 5)).astype(np.int32) for end in ends[:2]]
    pivots.append(np.array([3, 2, 3, 3], np.int32))
    a = random_matrix(6, 14, dtype)
    rows = a.T.copy()
    swaps.swap(pivots, [rows[end - height : end] for end, height in zip(ends, heights, strict=True)])
    for order in "CF":
        found = a.copy(order=order)
        tiles = [found[:, end - height : end] for end, height in zip(ends, heights, strict=True)]
        for place in (tiles, [tile.copy() for tile in tiles]):
            swaps.swap_columns(pivots, place)
            assert np.array_equal(np.concatenate(place, axis=1), rows.T)
            swaps.swap_columns(pivots, place, True)
            assert np.array_equal(np.concatenate(place, axis=1), a)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_two_panels_at_a_time_do_what_they_do_one_after_the_other(library, dtype):
    """P, L and U of a matrix of 11 rows by panels of 3 and 2 columns, then a block column beside them."""
    a = random_matrix(11, 9, dtype)
    factored, piv = np.asfortranarray(a[:, :5]), np.zeros(5, np.int32)
    reference.getrf([factored], piv)
    wanted = a[:, 5:].copy()
    reference.swpgemm(piv, [factored], [wanted])
    pivots = [piv[:3].copy(), piv[3:] - np.int32(3)]
    heights = [slice(0, 3), slice(3, 6), slice(6, 11)]
    panels = [factored[rows, columns] for rows in heights for columns in (slice(0, 3), slice(3, 5))]
    for run in (kernel("swpgemm", library, dtype), TILE_OPS["swpgemm"].reference):
        for copied in (False, True):
            whole = np.asfortranarray(a[:, 5:])
            tiles = [whole[rows].copy() if copied else whole[rows] for rows in heights]
            run(pivots, [tile.copy() for tile in panels] if copied else panels, tiles)
            assert np.allclose(np.concatenate(tiles), wanted, atol=1e4 * roundoff(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_block_columns_are_substituted_by_the_library_that_serves_substitutions(dtype):
    """L_kk^-1 A_k has the bits of `trsmn`, whatever library multiplies."""
    panel, a = placed(random_matrix(40, 24, dtype) / 24, "F"), placed(random_matrix(40, 17, dtype), "F")
    wanted = a[:24].copy(order="F")
    table.plain("trsmn", dtype).function(panel[:24], wanted, "L")
    for library in LIBRARIES:
        table._fill(blas.load(library))
        row = table.lookup("swpgemm", "cpu", f"any,{dtype}", dtype, library)
        found = a.copy(order="F")
        row.function(np.arange(24, dtype=np.int32), [panel[:24], panel[24:]], [found[:24], found[24:]])
        assert np.array_equal(found[:24], wanted)
        assert np.allclose(found[24:], a[24:] - panel[24:] @ wanted, atol=1e3 * roundoff(dtype))
