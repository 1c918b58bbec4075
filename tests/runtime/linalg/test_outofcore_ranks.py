"""Factorisations larger than memory on ranks: one store, each rank its block columns; and checkpoints through pages."""

import ctypes
import gc
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from matrices import po_matrix, random_matrix

import tilewright as tw
from tilewright.graph import R, W
from tilewright.host import memory
from tilewright.linalg import paged, qr_plan, slab_plan
from tilewright.storage.matrix import StoredTiles
from tilewright.storage.opening import open_source, scratch_file

pytestmark = pytest.mark.needs("mpi4py")

N, NB = 150, 32


@pytest.fixture(scope="module")
def pool():
    with tw.mpi.Pool(2) as ranks:
        yield ranks


@pytest.fixture(autouse=True)
def small_tiles_cost_nothing(monkeypatch):
    """Threads and tasks take more than matrices as small as these."""
    monkeypatch.setattr(slab_plan, "_TASK", 0)
    monkeypatch.setattr(slab_plan, "_THREAD", 0)


def left(folder):
    return sorted(os.listdir(folder))


def least(call, *args, **how):
    """The bytes that the message of too little memory says would do."""
    with pytest.raises(MemoryError, match="the least is") as error:
        call(*args, **how, memory=1)
    number, unit = re.search(r"the least is ([\d.]+) (\w+)", str(error.value)).groups()
    return int(float(number) * 1.01 * {"bytes": 1, "KiB": 2**10, "MiB": 2**20}[unit])


@pytest.mark.parametrize("lower", [True, False])
def test_cholesky_on_ranks_has_the_bits_of_that_in_core(here, pool, lower):
    a = np.array(po_matrix(2, N, "float64"))
    np.save("a.npy", a)
    how = {"out": "L.npy", "lower": lower, "tile_size": NB, "backend": "mpi"}
    cap = least(tw.tiled_cholesky, "a.npy", **how)
    assert cap < a.nbytes / 2
    L, run = tw.tiled_cholesky("a.npy", **how, memory=cap, return_run=True)
    wanted = tw.tiled_cholesky(a, lower=lower, tile_size=NB)
    assert np.array_equal(L, wanted) and isinstance(L, np.memmap) and not L.flags.writeable
    assert L.flags.c_contiguous == wanted.flags.c_contiguous and run.planned <= cap
    assert run.trace.ranks == 2 and {record.rank for record in run.trace.records} == {0, 1}
    facts = run.trace.facts
    assert facts["read"] > a.nbytes / 2 and facts["written"] >= sum(N - NB * k for k in range(5)) * NB * 8 - NB**2 * 20
    assert max(message.nbytes for message in run.trace.messages) < 1000  # only words travel
    assert left(here) == ["L.npy", "a.npy"] and "pages" in str(run)


@pytest.mark.parametrize(
    ("shape", "dtype", "memory"),
    [((N, N), "complex64", "least"), ((90, 140), "float64", None), ((140, 90), "float64", "least")],
)
def test_lu_on_ranks_has_the_bits_of_that_in_core(here, pool, shape, dtype, memory):
    a = random_matrix(*shape, dtype)
    np.save("a.npy", a)
    how = {"out": "F.npy", "tile_size": NB, "backend": "mpi"}
    cap = least(tw.lu_factor, "a.npy", **how) if memory else None
    found, wanted = tw.lu_factor("a.npy", **how, memory=cap), tw.lu_factor(a, tile_size=NB, update="tile")
    assert np.array_equal(found.lu, wanted.lu) and np.array_equal(found.piv, wanted.piv)
    assert found.norms == pytest.approx(wanted.norms)
    if shape[0] == shape[1]:
        assert found.slogdet() == wanted.slogdet()
        b = random_matrix(N, 1, dtype)[:, 0]
        assert np.array_equal(tw.lu_solve(found, b), tw.lu_solve(wanted, b))


@pytest.mark.parametrize("out", [None, ("Q.npy", "R.zarr"), ("Q.h5:/factors/q", "R.hdf5")])
def test_qr_on_ranks_has_the_bits_of_that_in_core(here, pool, out):
    for library in ("zarr", "h5py") if out else ():
        pytest.importorskip(library)
    a = random_matrix(N, 100)
    np.save("a.npy", a)
    nb = NB if out else 6  # 17 block columns are updated by twos
    how = {"tile_size": nb, "backend": "mpi", "out": out}
    Q, R = tw.qr("a.npy", **how, memory=least(tw.qr, "a.npy", **how))
    q, r = tw.qr(a, mode="economic", tree="panel", tile_size=nb)
    assert np.array_equal(Q[:, :], q) and np.array_equal(R[:, :], r)
    assert left(here) == sorted(["a.npy", *(path.partition(":")[0] for path in out or ())])


@pytest.mark.parametrize("tree", ["greedy"])
def test_trees_on_ranks_have_the_bits_of_those_in_core(here, pool, monkeypatch, tree):
    """Tiles that several ranks change: of a tree for several block columns, and of a tall matrix."""
    a = random_matrix(N, 70)
    np.save("a.npy", a)
    Q, R = tw.qr("a.npy", tile_size=16, tree=tree, backend="mpi", positive=True)
    q, r = tw.qr(a, mode="economic", tree=tree, tile_size=16, positive=True)
    assert np.array_equal(Q, q) and np.array_equal(R, r)
    monkeypatch.setattr(qr_plan, "_LEAF", 1 << 13)
    tall = random_matrix(2010, 7)
    np.save("tall.npy", tall)
    Q, R = tw.qr("tall.npy", tree=tree, backend="mpi")
    q, r = tw.qr(tall, mode="economic", tree=tree)
    assert np.array_equal(Q, q) and np.array_equal(R, r)


def test_a_tile_that_ranks_write_in_turn_has_the_last_word_whoever_reads_late(here, pool):
    """Rank 0 loads x before rank 1 stores the next one over it, in the same place of the file."""
    np.save("x.npy", np.ones((4, 4)))
    source = open_source("x.npy")
    work = scratch_file(here, (4, 4), "float64", "F")
    g = tw.TaskGraph("in turns")
    x, y = g.handles("x"), g.handles("y", shape=(4, 4), dtype="float64", keep=True)
    for turn in range(6):
        g.insert(_double, R(x[0, 0]), W(y[turn]), on=turn % 2)
        g.insert(_add, tw.RW(x[0, 0]), on=(turn + 1) % 2)
    families = {"x": paged.OnDisk(StoredTiles(work, 4), StoredTiles(source, 4), kept=True)}
    found = paged.paged(g, list(g), families, 0, ranks=2, place=lambda task: task.on)
    run = tw.run(found.graph, found.data(families), backend="mpi")
    for turn in range(6):
        assert (run.store[tw.Handle("y", (turn,))] == 2 * (1 + turn)).all()
    end = np.empty((4, 4), order="F")
    work.read([(0, 0)], [end])
    assert (end == 7).all()
    work.close()
    source.close()


def _double(x, y):
    y[...] = 2 * x


def _add(x):
    x += 1


_double = tw.Op("double", _double, in_place=True)
_add = tw.Op("add", _add, in_place=True)


def test_functions_and_zarr_are_read_by_ranks_and_arrays_of_the_caller_are_not(here, pool):
    a = np.array(po_matrix(2, 70, "float64"))
    how = {"tile_size": NB, "backend": "mpi"}
    wanted = tw.tiled_cholesky(a, tile_size=NB)
    blocks = a.copy()
    source = tw.TileFunction(lambda i, j: blocks[i * NB : i * NB + NB, j * NB : j * NB + NB], a.shape, NB)
    assert np.array_equal(tw.tiled_cholesky(source, out="L.npy", **how), wanted)
    zarr = pytest.importorskip("zarr")
    zarr.save("a.zarr", a)
    with pytest.warns(RuntimeWarning, match="compressed"):
        found = tw.tiled_cholesky("a.zarr", out="M.zarr", **how)
    assert np.array_equal(found[:, :], wanted)
    h5py = pytest.importorskip("h5py")
    found = tw.tiled_cholesky(source, out="M.h5", lower=False, **how)
    assert np.array_equal(found[:], tw.tiled_cholesky(a, tile_size=NB, lower=False)) and found.name == "/matrix"
    found.file.close()
    with h5py.File("M.h5", "r+") as file, pytest.raises(TypeError, match="give its path"):
        tw.tiled_cholesky(file["matrix"], out="K.npy", **how)
    for a_, out, error, message in (
        (a, "K.npy", TypeError, "write it to a file first"),
        (source, np.zeros((70, 70)), ValueError, "out= is a path"),
        (source, "L.npy", FileExistsError, "overwrite_out=True replaces it"),
    ):
        with pytest.raises(error, match=message):
            tw.tiled_cholesky(a_, out=out, **how)
    assert left(here) == ["L.npy", "M.h5", "M.zarr", "a.zarr"]


def test_what_is_wrong_with_the_matrix_is_said_with_its_place_in_it(here, pool):
    a = np.array(po_matrix(2, N, "float64"))
    a[100, 40] = np.nan
    np.save("a.npy", a)
    how = {"tile_size": NB, "backend": "mpi", "out": "L.npy"}
    for call in (tw.tiled_cholesky, tw.lu_factor):
        with pytest.raises(ValueError, match=r"NaN or infinity at \(100, 40\)"):
            call("a.npy", **how)
    a[100, 40] = a[40, 100]
    a[70, 70] = -1
    np.save("a.npy", a)
    with pytest.raises(tw.NotPositiveDefiniteError) as error:
        tw.tiled_cholesky("a.npy", **how)
    assert error.value.order == 71 and left(here) == ["a.npy"]


@pytest.mark.parametrize(
    ("call", "backend"), [("qr", "threads"), ("qr", "mpi"), ("tiled_cholesky", "mpi"), ("lu_factor", "mpi")]
)
def test_a_run_through_pages_that_stops_goes_on_to_the_same_bits(here, pool, call, backend):
    """A full stop half-way is what is left when later parts are gone."""
    a = np.array(po_matrix(2, N, "float64")) if call == "tiled_cholesky" else random_matrix(N, N)
    np.save("a.npy", a)
    routine = getattr(tw, call)
    how = {"tile_size": NB, "backend": backend, "checkpoint": "run", "return_run": True, "workers": 2}
    how["out"] = ("Q.npy", "R.npy") if call == "qr" else "F.npy"
    how["memory"] = int(1.5 * least(routine, "a.npy", **{**how, "checkpoint": None}) + 8 * 2 * N * NB)
    *first, run = routine("a.npy", **how)
    wanted = [np.array(part) for part in (first if call == "qr" else [getattr(first[0], "lu", first[0])])]
    parts = sorted(Path("run").glob("part-*.bin"), key=os.path.getmtime)
    assert len(parts) >= 5
    for part in parts[3:]:
        part.unlink()
    *again, second = routine("a.npy", **how, resume=True, overwrite_out=True)
    found = again if call == "qr" else [getattr(again[0], "lu", again[0])]
    assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))
    factored = {"qr": "geqrf", "lu_factor": "getrf", "tiled_cholesky": "potrf"}[call]
    made = [sum(task.op.name.startswith(factored) for task in record.graph) for record in (run, second)]
    assert made[0] == 5 > made[1] > 0 and any("block columns were in run" in note for note in second.notes)
    changed = np.load("a.npy")
    changed[3, 2] += 1e-3
    np.save("a.npy", changed)
    with pytest.raises(tw.CheckpointError, match=r"begun with another matrix: .* in tile \(0, 0\)"):
        routine("a.npy", **how, resume=True, overwrite_out=True)


def test_a_checkpoint_of_one_block_column_is_refused(here):
    np.save("a.npy", random_matrix(60, 20))
    with pytest.raises(ValueError, match="one block column, here 60 x 20 .* has no checkpoint="):
        tw.qr("a.npy", tile_size=NB, checkpoint="run")
    assert left(here) == ["a.npy"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says how much a process had at its peak")
@pytest.mark.parametrize("call", ["tiled_cholesky", "lu_factor", "qr"])
def test_no_rank_grows_by_more_than_its_memory(here, pool, monkeypatch, call):
    """Three sizes of three routines, after a call in which ranks take what libraries keep for themselves. What a run
    before has left on the heap would hide what this one takes, so each begins with none."""
    monkeypatch.undo()
    monkeypatch.chdir(here)
    routine, nb = getattr(tw, call), 128
    how = {"tile_size": nb, "backend": "mpi", "overwrite_out": True}
    how["out"] = ("Q.npy", "R.npy") if call == "qr" else "F.npy"
    grown = {}
    for n in (2200, 800, 1500, 2200):
        a = np.random.default_rng(0).standard_normal((n, n)) + np.diag([3.0 * n] * n)
        np.save("a.npy", np.tril(a) + np.tril(a, -1).T)
        cap = max(a.nbytes // 4, least(routine, "a.npy", **how))
        run_on_ranks(give_back, 2)
        *_, run = routine("a.npy", **how, memory=cap, return_run=True)
        assert run.planned <= cap
        grown[n] = (run.measured - cap) / 2**20
    assert max(grown.values()) <= 4, grown  # MiB of messages under way and of buffers, whatever n is


def run_on_ranks(function, ranks):
    g = tw.TaskGraph("on each rank")
    x = g.handles("x", shape=(1,), dtype="float64")
    for rank in range(ranks):
        g.insert(function, tw.RW(x[rank]), on=rank)
    tw.run(g, {x[rank]: np.ones(1) for rank in range(ranks)}, backend="mpi")


def give_back(x):
    """What malloc keeps of memory that nobody uses goes back to the system; of rooms that wait, too."""
    gc.collect()
    memory._waiting.clear()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def test_options_that_say_where_data_is_are_refused(here):
    np.save("a.npy", np.eye(20))
    with pytest.raises(ValueError, match="out of core there is no grid="):
        tw.tiled_cholesky("a.npy", out="M.npy", backend="mpi", grid=(1, 2))
