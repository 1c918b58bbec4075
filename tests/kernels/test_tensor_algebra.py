"""LU and level 3 on torch's tensors: the reference is the specification, CPU tensors stand for a GPU's."""

from itertools import product

import numpy as np
import pytest
from matrices import lu_ratio, random_matrix, roundoff
from optional import torch

import tilewright as tw
from tilewright.graph import Handle
from tilewright.kernels import swaps, table
from tilewright.kernels.catalogue import TILE_OPS
from tilewright.tiles import TiledMatrix

pytestmark = pytest.mark.needs("torch")

REAL = ("float32", "float64")


def tensors(value):
    """Arrays as tensors; pivots stay where they are, on the host."""
    if isinstance(value, list):
        return [tensors(one) for one in value]
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value


def flat(value):
    return [np.asarray(one) for one in (value if isinstance(value, list) else [value])]


def strip(heights, width, dtype, seed=0):
    return [random_matrix(h, width, dtype, seed=seed + k) for k, h in enumerate(heights)]


def upper(n, dtype):
    return random_matrix(n, n, dtype) + 4 * np.eye(n, dtype=dtype)


def cases(dtype):
    """(op, arguments, flags)"""
    piv = lambda: np.array([7, 1, 8, 3], np.int32)  # noqa: E731
    for heights, width in (((5, 5, 3), 5), ((4,), 6), ((6, 6), 3), ((1,), 1)):
        for flags in ((), (0.4,)):
            yield "getrf", [strip(heights, width, dtype), np.zeros(min(sum(heights), width), np.int32)], flags
    for m, n in ((40, 40), (45, 20), (20, 45), (1, 1), (3, 1)):
        yield "getrfn", [random_matrix(m, n, dtype) + 9 * np.eye(m, n, dtype=dtype)], ()
    yield "getrfn", [np.zeros((20, 20), dtype)], ()
    for flag in "NTC":
        yield "gemmn", [random_matrix(4, 4, dtype), random_matrix(4, 4, dtype, seed=1), upper(4, dtype)], (flag,)
    for part, flag in product("LU", "NTC"):
        yield "trsmn", [upper(6, dtype) / 4, random_matrix(4, 3, dtype)], (part, flag)
    yield "trsmu", [upper(6, dtype), random_matrix(3, 4, dtype)], ()
    yield "swptrsm", [piv(), upper(4, dtype) / 4, strip((4, 4, 2), 3, dtype)], ()
    yield "swpgemm", [piv(), strip((4, 4, 2), 4, dtype, 9), strip((4, 4, 2), 3, dtype)], ()
    for heights, width in (((5, 5, 3), 5), ((4,), 6), ((6, 6), 3)):
        count = min(sum(heights), width)
        for leaf, share in product(range(2), ((), (0.5,))):
            yield "getrf2", [strip(heights, width, dtype, 20), np.arange(count, dtype=np.int32)], (leaf, 2, *share)
    for flags in ((0, 1, 2, 2), (1, 2, 4, 4)):
        yield "trsm2", [upper(8, dtype) / 8], flags
        yield "gemm2", [upper(8, dtype) / 8, random_matrix(5, 8, dtype)], flags
    for heights, width in (((5, 5, 3), 4), ((4,), 6), ((3, 2), 5)):
        tiles, at, count = strip(heights, width, dtype, 30), (0, 2, 3)[: len(heights)], min(sum(heights), width)
        places, winners = np.zeros(width, np.int32), np.zeros((width, width), dtype)
        yield "elect", [places, tiles, winners], (at, heights[0])
        yield "electl", [places[:count], tiles, winners[:count]], (at, heights[0])
    here, there = np.array([7, 0, 2], np.int32), np.array([9, 8, -1], np.int32)
    one, two = random_matrix(3, 3, dtype), random_matrix(3, 3, dtype, seed=1)
    yield "match", [there, here, one, two], ()
    yield "matchl", [np.zeros(3, np.int32), here, there, one, two, np.zeros((3, 3), dtype)], ()
    for rows in (3, 5):
        yield "crown", [upper(3, dtype), random_matrix(rows, 3, dtype)], ()
    for flags, beta in product(("NN", "TN", "NT", "CC"), (0.0, 2.0)):
        yield "matmul", [random_matrix(4, 4, dtype, seed=k) for k in range(3)], (flags, -1.5, beta)
    for uplo, flag in product("LU", "NT"):
        yield "rankk", [random_matrix(4, 4, dtype), random_matrix(4, 4, dtype, seed=1)], (uplo, flag, True, -1.0, 1.0)
    for side, uplo, flag, diag in product("LR", "LU", "NT", "NU"):
        for op in ("trmm", "trsolve"):
            yield op, [upper(4, dtype), random_matrix(4, 4, dtype)], (side, uplo, flag, diag, 0.5)
    yield "lauum", [random_matrix(5, 5, dtype)], ()


@pytest.mark.parametrize("dtype", REAL)
def test_every_op_agrees_with_the_reference(dtype):
    seen = set()
    for op, arguments, flags in cases(dtype):
        wanted = [[t.copy() for t in a] if isinstance(a, list) else a.copy() for a in arguments]
        TILE_OPS[op].reference(*wanted, *flags)
        given = [tensors(a) if not (isinstance(a, np.ndarray) and a.dtype == np.int32) else a.copy() for a in arguments]
        names = [dtype if a.dtype.kind == "f" else str(a.dtype) for a in (flat(one)[0] for one in arguments)]
        table.find(op, "torch", names).function(*given, *flags)
        for found, expected in zip(given, wanted, strict=True):
            for one, other in zip(flat(found), flat(expected), strict=True):
                assert np.allclose(one, other, rtol=1e4 * roundoff(dtype), atol=1e3 * roundoff(dtype)), (op, flags)
        seen.add(op)
    assert seen == {
        name
        for name, tile_op in TILE_OPS.items()
        if tile_op.tensor
        and str(tile_op.tensor.__module__).rsplit(".", 1)[-1] in ("tensor_algebra", "panel", "tournament")
    }


def test_exchanges_move_the_same_rows_and_back():
    tiles = strip((4, 4, 2), 3, "float64")
    pivots = [np.array([9, 5, 2, 3], np.int32), np.array([1, 4, 2], np.int32)]
    wanted = [tile.copy() for tile in tiles]
    swaps.swap(pivots, wanted)
    found = tensors(tiles)
    exchange = table.find("swap", "torch", ["int32", "float64"]).function
    exchange(pivots, found)
    assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))
    exchange([torch.from_numpy(piv) for piv in pivots], found, True)
    assert all(np.array_equal(one, other) for one, other in zip(found, tiles, strict=True))
    columns = [torch.from_numpy(tile.T.copy()) for tile in tiles]
    table.find("swapc", "torch", ["int32", "float64"]).function(pivots, columns)
    assert all(np.array_equal(one.T, other) for one, other in zip(columns, wanted, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_sums_scales_tilings_and_mirrors_agree_with_those_of_arrays(dtype):
    def compare(op, arguments, *flags):
        wanted = [[t.copy() for t in a] if isinstance(a, list) else a.copy() for a in arguments]
        given = [
            [torch.from_numpy(t.copy()) for t in a] if isinstance(a, list) else torch.from_numpy(a.copy())
            for a in arguments
        ]
        if op == "mirror" and len(arguments) == 1:
            wanted, given = wanted * 2, given * 2
        names = [dtype] * len(wanted)
        table.find(op, "cpu", names).function(*wanted, *flags)
        table.find(op, "torch", names).function(*given, *flags)
        assert np.allclose(given[-1], wanted[-1], rtol=4 * roundoff(dtype), atol=4 * roundoff(dtype)), (op, flags)

    x, y = random_matrix(4, 5, dtype), random_matrix(4, 5, dtype, seed=1)
    nothing = np.full((4, 5), np.nan, dtype)
    for flag, alpha in product("NTCJ", (1.0, -2.5)):
        source = x.T.copy() if flag in "TC" else x
        compare("geadd", [source, y], flag, alpha, 0.5)
        compare("geadd", [source, nothing], flag, alpha, 0.0)
    square = random_matrix(5, 5, dtype)
    for alpha, part in product((1.0, 0.0, -3.0), ("", "L", "U")):
        compare("rescale", [square], alpha, part)
    compare("rescale", [nothing], 0.0)
    compare("mirror", [square])
    compare("mirror", [x, np.zeros((5, 4), dtype)])
    places = [(2, 0, 2, 5), (-2, 0, 4, 5)]
    compare("retile", [[random_matrix(4, 5, dtype, seed=2), random_matrix(4, 5, dtype, seed=3)], x], places)
    with pytest.raises(ValueError, match="geadd: X .4, 5. and Y .5, 5. do not fit"):
        table.find("geadd", "torch", [dtype, dtype]).function(torch.from_numpy(x), torch.from_numpy(square))


@pytest.mark.parametrize("update", ["tile", "column"])
@pytest.mark.parametrize(
    ("pivoting", "panel"),
    [*product(("partial", "threshold"), ("single", "recursive")), *product(("none", "tournament"), ("single",))],
)
@pytest.mark.parametrize(("m", "n"), [(20, 20), (23, 14), (14, 23)])
def test_the_graph_of_lu_runs_on_tensors(m, n, pivoting, update, panel):
    nb = 6
    mt, nt = -(-m // nb), -(-n // nb)
    a = random_matrix(m, n) + (30 * np.eye(m, n) if pivoting == "none" else 0)
    tiles = {
        (i, j): torch.from_numpy(a[i * nb : (i + 1) * nb, j * nb : (j + 1) * nb].copy())
        for i in range(mt)
        for j in range(nt)
    }
    g = tw.lu_graph(mt, nt, pivoting, update, shape=(m, n), tile_size=nb, panel=panel)
    run = tw.run(g, {"A": tiles}, workers=2)
    lu = np.block([[tiles[i, j].numpy() for j in range(nt)] for i in range(mt)])
    piv = np.arange(min(m, n), dtype=np.int32)
    if pivoting != "none":
        for k in range(min(mt, nt)):
            piv[k * nb : (k + 1) * nb] = run.store[Handle("piv", (k,))] + k * nb
    assert lu_ratio(a, lu, piv) < 30
    if pivoting == "partial":
        assert np.array_equal(piv, tw.lu_factor(a, tile_size=nb).piv)
    elif pivoting == "tournament":
        arrays = tw.run(g, {"A": TiledMatrix.view(a, nb)})
        assert all(np.array_equal(arrays.store[h], run.store[h]) for h in g.handles_used if h.name == "piv")


def test_a_tournament_keeps_its_candidates_in_tensors_where_these_are_given():
    n, nb = 23, 6
    g = tw.lu_graph(4, 4, "tournament", shape=(n, n), tile_size=nb)
    a = random_matrix(n, n)
    tiles = TiledMatrix.view(a, nb)
    given = {Handle("A", place): torch.from_numpy(tiles[place].copy()) for place in tiles}
    rooms = {h: g.rooms[h.name].of(h, lambda _: ()) for h in g.handles_used if h.name in ("C", "P", "crown", "piv")}
    assert len(rooms) > 20
    given |= {h: torch.zeros(shape, dtype=getattr(torch, str(dtype))) for h, (shape, dtype) in rooms.items()}
    tw.run(g, given, workers=2)
    wanted = tw.run(g, {"A": tiles})
    assert all(np.array_equal(given[h].numpy(), wanted.store[h]) for h in rooms if h.name == "piv")
    assert np.allclose(np.block([[given[Handle("A", (i, j))].numpy() for j in range(4)] for i in range(4)]), a)


def test_what_has_no_kernel_there_is_refused_before_the_first_task():
    tiles = {(i, j): torch.ones((4, 4), dtype=torch.float64) for i in range(2) for j in range(2)}
    tiles = {place: tile.to(torch.complex128) for place, tile in tiles.items()}
    graph = tw.lu_graph(2, 2, shape=(8, 8), tile_size=4, pivoting="tournament", dtype="complex128")
    with pytest.raises(KeyError, match="no kernel for elect.* on torch"):
        tw.run(graph, {"A": tiles})
    assert all(bool((tile == 1).all()) for tile in tiles.values())


@pytest.mark.parametrize("dtype", REAL)
def test_two_panels_at_a_time_agree_with_the_reference(dtype):
    pivots = [np.array([7, 1, 8], np.int32), np.array([4, 2, 2], np.int32)]
    heights, width = (3, 3, 5), 3
    panel = [upper(height, dtype)[:, :width] / 4 if height == 3 else random_matrix(5, 3, dtype) for height in heights]
    panel = [tile for tile in panel for _ in range(2)]
    tiles = strip(heights, 4, dtype)
    given = tensors(tiles)
    TILE_OPS["swpgemm"].reference(pivots, panel, tiles)
    table.find("swpgemm", "torch", ["int32", dtype, dtype]).function(pivots, tensors(panel), given)
    assert np.allclose(np.concatenate([tile.numpy() for tile in given]), np.concatenate(tiles), atol=1e-5)
