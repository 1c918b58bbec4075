"""A row matches the dtypes of the arguments that it names, and lets the others pass."""

import numpy as np
import pytest

import tilewright as tw
from tilewright import RW, Op, R, TaskGraph, W
from tilewright.kernels import catalogue, table
from tilewright.kernels.tile_op import TileOp


@pytest.fixture
def op(monkeypatch):
    """A fresh name for an op, whose rows go away again."""
    for name in ("_rows", "_patterns"):
        monkeypatch.setattr(table, name, dict(getattr(table, name)))
    monkeypatch.setattr(table, "_answers", {})
    return "toy"


def toy_panel(tiles, pivots):
    """Sort the rows of a panel by their first number, backwards; pivots are where they were."""
    panel = np.concatenate(tiles)
    pivots[:] = np.argsort(-panel[:, 0].real, kind="stable")
    start = 0
    for tile in tiles:
        tile[...] = panel[pivots[start : start + len(tile)]]
        start += len(tile)


@pytest.mark.parametrize("dtype", table.DTYPES)
@pytest.mark.parametrize("index", ["int32", "int64"])
@pytest.mark.parametrize("backend", ["serial", "threads"])
def test_a_panel_of_tiles_with_a_pivot_vector_is_a_kernel(op, dtype, index, backend):
    for name in table.DTYPES:
        table.register(op, "cpu", name, "any", "toys", toy_panel)
    rng = np.random.default_rng(0)
    a = rng.standard_normal((7, 3)).astype(dtype)
    A = tw.TiledMatrix.from_numpy(a, 3)
    g = TaskGraph()
    tiles, piv = g.handles("A"), g.handle("piv", shape=7, dtype=index, keep=True)
    g.insert(Op(op), [RW(tiles[i, 0]) for i in range(3)], W(piv))
    run = tw.run(g, {"A": A}, backend=backend, workers=2)
    order = np.argsort(-a[:, 0].real, kind="stable")
    assert run["piv"].tolist() == order.tolist() and run["piv"].dtype == index
    assert np.array_equal(A.to_numpy(), a[order]) and run.kernels[op] == "toys"


def test_the_row_that_names_most_is_taken_and_each_dtype_has_its_own(op):
    found = []
    for storage, accumulate in (("any,any", "float32"), ("float64,any", "float32"), ("float64,int64", "float32")):
        table.register(op, "cpu", storage, accumulate, storage, lambda *_, row=storage: found.append(row))
    for names, wanted in (
        (["float64", "int64", "float32"], "float64,int64"),
        (["float64", "int32", "float32"], "float64,any"),
        (["complex64", "uint8", "float32"], "any,any"),
        (["", "int64", "float32"], "float64,int64"),  # a group of none is of every dtype
        ([table.MIXED, "int64", "float32"], "any,any"),
    ):
        assert table.find(op, "cpu", names).source == wanted, names


def test_what_no_row_names_is_refused_before_the_first_task_with_all_rows_of_the_op(op):
    table.register(op, "cpu", "float64,any", "float64", "toys", lambda a, v, c: None)
    g = TaskGraph()
    a, v, c = map(g.handle, "avc")
    g.insert(Op(op), R(a), R(v), RW(c))
    data = {"a": np.ones((2, 2), np.float32), "v": np.arange(2), "c": np.ones((2, 2))}
    with pytest.raises(
        KeyError, match=f"no kernel for {op} on cpu for arguments float32, int64, float64.*float64,any.*toys"
    ):
        tw.run(g, data, workers=1)
    with pytest.raises(TypeError, match=rf"{op}\(c\): v must be an array for a kernel, not str"):
        tw.run(g, data | {"v": "one"}, workers=1)


def test_a_group_of_several_dtypes_finds_no_row_that_names_one(op):
    table.register(op, "cpu", "float64", "any", "toys", toy_panel)
    g = TaskGraph()
    A = g.handles("A")
    g.insert(Op(op), [RW(A[0, 0]), RW(A[1, 0])], W(g.handle("p", shape=4, dtype="int64")))
    with pytest.raises(KeyError, match=f"no kernel for {op}"):
        tw.run(g, {"A": {(0, 0): np.ones((2, 2)), (1, 0): np.ones((2, 2), np.float32)}}, workers=1)


def test_kernels_that_take_all_dtypes_take_vectors_and_integers_too():
    g = TaskGraph()
    g.insert(tw.ops.copy, R(g.handle("x")), W(g.handle("y", shape=5, dtype="int64", keep=True)))
    assert tw.run(g, {"x": np.arange(5)}, workers=1)["y"].tolist() == [0, 1, 2, 3, 4]


def test_one_description_of_an_op_gives_all_its_rows(op, monkeypatch):
    def build(library, letter):
        return (lambda tiles, pivots: toy_panel(tiles, pivots)) if letter in "sd" else None

    toy = TileOp(op, build, toy_panel, lambda tiles, pivots: 0.0, ("getrf", "getrf"), named=(True, False))
    monkeypatch.setitem(catalogue.TILE_OPS, op, toy)
    monkeypatch.setattr(table, "_filled", set())
    monkeypatch.setattr(table, "_rows", {})
    monkeypatch.setattr(table, "_patterns", {})
    for dtype in table.DTYPES:
        table.register(op, "cpu", *toy.names(dtype), "reference", toy.reference)
    library = table.choice.library("gemm", "d")
    table._fill(library)
    assert table.find(op, "cpu", ["float64", "int32"]).source == library.name
    assert table.find(op, "cpu", ["complex128", "int32"]).source == "reference"


def test_every_op_of_the_catalogue_has_a_reference_for_every_dtype():
    found = [row for row in table.rows() if row.source == "reference"]
    rows = {(row.op, name) for row in found for name in (*row.storage.split(","), row.accumulate)}
    assert {(op, dtype) for op in catalogue.TILE_OPS for dtype in table.DTYPES} <= rows
