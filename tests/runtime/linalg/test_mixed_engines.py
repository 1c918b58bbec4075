"""Mixed precision on ranks and on Dask workers: the bits of threads, and messages as short as their readers need."""

import numpy as np
import pytest
from dask_ops import torch_state
from matrices import spd_matrix
from optional import torch

import tilewright as tw
from tilewright.backends.dask.client import kept
from tilewright.graph import Handle
from tilewright.linalg.mixed_graph import factor_graph
from tilewright.precision import FORMATS, PrecisionMap

pytestmark = pytest.mark.long

da = pytest.importorskip("dask.array")

N, NB, NT = 130, 20, 7
A = spd_matrix(N)

ENGINES = {
    "mpi": {"backend": "mpi"},
    "resident": {"backend": "dask", "mode": "resident"},
    "tasks": {"backend": "dask", "mode": "tasks"},
}
engines = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
modes = pytest.mark.parametrize("mode", ["resident", "tasks"])


def random_map(seed):
    return PrecisionMap(np.random.default_rng(seed).choice(list(FORMATS), (NT, NT)))


MAPS = {"band": PrecisionMap.band(NT, {0: "fp64", 2: "fp32", 4: "bf16"}), "random": random_map(0)}
PRECISIONS = {"bf16": "bf16", "bf16x3": "bf16x3", **MAPS}
precisions = pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)


def factor(precision, a=A, **options):
    return tw.tiled_cholesky(a, precision=precision, tile_size=NB, return_run=True, **options)


def panel(run):
    """The messages with tiles below the diagonal, in whatever form."""
    return [m for m in run.trace.messages if m.handle.name.startswith("A") and len(set(m.handle.index)) == 2]


@engines
@precisions
def test_factor_has_the_bits_of_the_serial_run(engine, precision):
    wanted, _ = factor(precision, backend="serial")
    L, run = factor(precision, workers=2, **engine)
    assert np.array_equal(L, wanted) and L.dtype == wanted.dtype
    run.trace.check()


@modes
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("precision", ["bf16", "fp64", MAPS["band"]], ids=["bf16", "fp64", "band"])
def test_dask_array_comes_back_with_its_chunks_and_the_bits_of_the_serial_run(precision, lower, mode):
    wanted, _ = factor(precision, lower=lower, backend="serial")
    client = kept(2)
    with client.as_current():
        L, run = factor(precision, da.from_array(A, chunks=(40, 50)), lower=lower, mode=mode, workers=2)
        assert np.array_equal(L.compute(), wanted)
    assert (L.chunks, L.dtype) == (da.from_array(A, chunks=(40, 50)).chunks, wanted.dtype)
    assert (run.conversions is None) == (precision == "fp64")


def test_dask_array_that_cannot_be_factored_is_refused_like_an_array():
    spoilt = A.copy()
    spoilt[77, 3] = np.nan
    minus = A - 1e3 * np.eye(N)
    with kept(2).as_current():
        with pytest.raises(ValueError, match=r"NaN or infinity at \(77, 3\)"):
            factor("bf16", da.from_array(spoilt, chunks=50), workers=2)
        with pytest.raises(tw.NotPositiveDefiniteError) as caught:
            factor(MAPS["band"], da.from_array(minus, chunks=50), workers=2)
        assert caught.value.order == 1
        with pytest.raises(TypeError, match="real matrices, not complex128"):
            factor("bf16", da.from_array(A + 0j, chunks=50))
        with pytest.raises(ValueError, match="7 x 7 tiles, but a matrix of 130 rows has 2 x 2"):
            tw.tiled_cholesky(da.from_array(A, chunks=65), precision=MAPS["band"], tile_size=65)
        with pytest.raises(ValueError, match="at least 1, not 0"):
            tw.tiled_cholesky(da.from_array(A, chunks=65), precision="bf16", tile_size=0)


@pytest.mark.parametrize(
    "engine", [ENGINES["resident"], ENGINES["tasks"] | {"overheads": (0.0, 0.0, 0.0)}], ids=["resident", "tasks"]
)
def test_panels_travel_between_dask_workers_in_half_the_bytes(engine):
    """With overheads of nothing no two tasks become one, so each message is one tile; Dask may move one twice."""
    runs = {name: factor(name, workers=2, grid=(2, 1), **engine)[1] for name in ("fp32", "bf16")}
    sent = {name: {(m.handle.index, m.destination): m.nbytes for m in panel(run)} for name, run in runs.items()}
    assert sent["bf16"] and {place: 2 * nbytes for place, nbytes in sent["bf16"].items()} == sent["fp32"]
    assert runs["bf16"].conversions.sent_saved == sum(m.nbytes for m in panel(runs["bf16"]))


def test_no_more_of_a_copy_comes_back_than_the_counts_need(monkeypatch):
    """Copies are temporary: Dask's workers keep them."""
    from tilewright.backends.dask import resident

    brought = []
    deliver = resident.deliver

    def noted(store, values, replaced):
        brought.extend(name for name, _ in values)
        deliver(store, values, replaced)

    monkeypatch.setattr(resident, "deliver", noted)
    factor("bf16", workers=2, backend="dask", mode="resident")
    assert set(brought) == {"A", "D"}


# ------------------------------------------------------------------ one tile in two forms


def several_forms(run, ranks):
    """By (tile, reading rank): forms in which tasks of another rank than the owner's read it."""
    plan = tw.MessagePlan(run.graph, ranks, tw.distribution.near_square(ranks))
    read = {}
    for task, place in zip(run.graph, plan.places, strict=True):
        for use in task.uses:
            name, _, form = use.handle.name.partition(":")
            owner = plan.owner(Handle(name, use.handle.index))
            if name == "A" and use.access is tw.R(use.handle).access and owner != place:
                read.setdefault((use.handle.index, place), set()).add(form)
    return {key: forms for key, forms in read.items() if len(forms) > 1}


@pytest.mark.parametrize(("pm", "ranks"), [(MAPS["band"], 2), (MAPS["random"], 4)], ids=MAPS)
def test_rank_that_needs_a_tile_in_two_forms_gets_one_message(pm, ranks):
    run = factor(pm, backend="mpi", workers=ranks)[1]
    assert several_forms(run, ranks), "the map has such tiles"
    pairs = [(m.handle.index, m.destination) for m in run.trace.messages if m.handle.name.startswith("A")]
    assert len(set(pairs)) == len(pairs)
    plan = tw.MessagePlan(run.graph, ranks, tw.distribution.near_square(ranks))
    assert run.messages == len(plan.messages)
    assert run.bytes == sum(run.store[m.handle].nbytes for m in plan.messages)
    stored = {i: np.dtype(pm[i].accumulate).itemsize for i in pm}
    for m in plan.messages:  # never more than the tile itself: a wider copy is made where it is read
        if m.handle.name.startswith("A"):
            assert run.store[m.handle].nbytes <= stored[m.handle.index] * run.store[Handle("A", m.handle.index)].size


def test_messages_of_two_forms_by_hand():
    """Rank 0 has tile rows 0, 2 and 4, rank 1 rows 1 and 3; updates of row 4 read BF16."""
    pm = PrecisionMap([["fp32"] * 5] * 4 + [["bf16"] * 4 + ["fp32"]])
    graph = factor_graph(pm, (("bfloat16", "reference"),), True, True, 0.0)
    sent = [str(m.handle) for m in tw.MessagePlan(graph, 2, tw.BlockCyclic(2, 1)).messages if m.handle.name != "D"]
    assert sent == [
        "A[0,0]",  # for trsm of rows 1 and 3
        "A[1,0]",  # for A_21, and rounded there for A_41
        "A[2,0]",
        "A:bfloat16[3,0]",  # for A_32; for A_43
        "A[1,1]",
        "A[2,1]",
        "A:bfloat16[3,1]",
        "A[2,2]",
        "A:bfloat16[3,2]",
        "A[3,3]",
    ]


# ------------------------------------------------------------------ autocast


def seen(**options):
    g = tw.TaskGraph()
    x = g.handles("x")
    for i in range(4):
        g.insert(torch_state, tw.W(x[i]))
    run = tw.run(g, {"x": [np.zeros(1) for _ in range(4)]}, workers=2, grid=(2, 1), **options)
    assert len({record.rank for record in run.trace}) == 2
    return {int(v[0]) for v in run.store.families["x"]}


@engines
def test_workers_of_other_processes_are_under_the_autocast_of_who_submitted(engine):
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert seen(**engine) == {1 + 2 + 4 + 8}
    with torch.autocast("cpu", torch.float16):
        assert seen(**engine) == {1 + 4}
    assert seen(**engine) <= {0, 2}  # the default dtype of CPU autocast is BF16
