"""Checkpoints in core: what is final is kept, a run that stops goes on to the same bits, what does not fit is refused."""

import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from matrices import DTYPES, po_matrix, random_matrix

import tilewright as tw
from tilewright.linalg.finals import Finals, Kept, kept_graph
from tilewright.storage import parts
from tilewright.storage.checkpoint import Checkpoint

N, NB = 150, 32
PANELS = 5


class Stopped(Exception):
    pass


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def stops(monkeypatch):
    """``stops(k)``: the run ends with an exception when panel k is to be kept."""
    keep = parts.keep

    def stop(at):
        def keeps(folder, run, handles, *args, **what):
            if any(handle.name == "A" and handle.index[1] == at for handle in handles):
                raise Stopped
            keep(folder, run, handles, *args, **what | {"wait": not what["every"]})  # a part for each panel

        monkeypatch.setattr(parts, "keep", keep if at is None else keeps)

    return stop


def spd(dtype="float64", n=N):
    return np.array(po_matrix(2, n, dtype))


def general(dtype="float64", n=N):
    return random_matrix(n, n, dtype)


def numbers(result):
    if isinstance(result, np.ndarray):
        return [result]
    if isinstance(result, tuple):
        return list(result)
    if isinstance(result, tw.LUFactor):
        return [result.lu, result.piv, result.norms]
    return [result.R, result.explicit(), result.apply(np.eye(N))]


def same(one, other):
    assert all(np.array_equal(a, b) for a, b in zip(numbers(one), numbers(other), strict=True))


def with_run(call, *args, **how):
    *found, run = call(*args, return_run=True, **how)
    return (found[0] if len(found) == 1 else tuple(found)), run


KINDS = {
    "cholesky": (tw.tiled_cholesky, spd, {}),
    "upper": (tw.tiled_cholesky, spd, {"lower": False}),
    "mixed": (tw.tiled_cholesky, spd, {"precision": "bf16"}),
    "fp32": (tw.tiled_cholesky, spd, {"precision": "fp32"}),
    "lu": (tw.lu_factor, general, {"update": "tile"}),
    "columns": (tw.lu_factor, general, {"update": "column"}),
    "tournament": (tw.lu_factor, general, {"pivoting": "tournament"}),
    "threshold": (tw.lu_factor, general, {"pivoting": "threshold"}),
    "butterfly": (tw.lu_factor, general, {"pivoting": "butterfly"}),
    "recursive": (tw.lu_factor, general, {"panel": "recursive"}),
    "qr": (tw.qr, general, {"mode": "economic"}),
    "flat": (tw.qr, general, {"tree": "flat", "positive": True}),
    "greedy": (tw.qr_factor, general, {"tree": "greedy"}),
    "panel": (tw.qr_factor, general, {"tree": "panel", "positive": True}),
    "r": (tw.qr, general, {"mode": "r"}),
}
MADE = {"potrf", "getrf", "getrf2", "getrfn", "crown", "geqrf", "geqrt", "tsqrt", "ttqrt"}
"""Ops that make a panel."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("at", "backend"), [(1, "serial"), (3, "threads")])
def test_a_run_that_stops_goes_on_to_the_same_bits(stops, kind, at, backend):
    call, make, how = KINDS[kind]
    how = how | {"tile_size": NB, "backend": backend, "checkpoint": "run"}
    stops(at)
    with pytest.raises(Stopped) as error:
        call(make(), **how)
    assert any(f"{at} of {PANELS} block columns are finished and stay in run" in n for n in error.value.__notes__)
    stops(None)
    found, run = with_run(call, make(), resume=True, **how)
    assert f"{at} of {PANELS} block columns were in run" in run.notes
    made = {task.uses[0].handle.index[-1] for task in run.graph if task.op.name in MADE}
    assert made.isdisjoint(range(at))  # what was finished is not made again
    plain = {name: value for name, value in how.items() if name != "checkpoint"}
    same(found, call(make(), **plain))
    same(call(make(), resume=True, **how), found)  # all of it is there now


@pytest.mark.parametrize("at", [1, 2, 3, 5, 9])
def test_panels_that_update_together_are_kept_wherever_they_stop(stops, at):
    how = {"update": "column", "tile_size": 15, "workers": 2}
    stops(at)
    with pytest.raises(Stopped):
        tw.lu_factor(general(), checkpoint="run", **how)
    stops(None)
    found, run = with_run(tw.lu_factor, general(), checkpoint="run", resume=True, **how)
    assert f"{at} of 10 block columns were in run" in run.notes
    made = {task.uses[0].handle.index[-1] for task in run.graph if task.op.name == "getrf"}
    assert made == set(range(at, 10))
    wanted, whole = with_run(tw.lu_factor, general(), **how)
    updates = [task for task in whole.graph if task.op.name == "swpgemm"]
    assert max(sum(use.handle.name == "piv" for use in task.uses) for task in updates) == 2
    same(found, wanted)


@pytest.mark.parametrize("call", [tw.tiled_cholesky, tw.lu_factor, tw.qr])
@pytest.mark.parametrize("order", "CF")
def test_a_matrix_that_is_overwritten_is_known_by_what_it_was(stops, call, order):
    make = spd if call is tw.tiled_cholesky else general
    for dtype in DTYPES if order == "C" else DTYPES[:1]:
        a = np.array(make(dtype), order=order)
        how = {"tile_size": NB, "checkpoint": f"run {dtype}", "overwrite_a": True}
        stops(2)
        with pytest.raises(Stopped):
            call(a.copy(order), **how)
        stops(None)
        other = a.copy(order)
        other[40, 5] += 1
        with pytest.raises(
            tw.CheckpointError, match=r"another matrix: the matrix a has other numbers in tile \((1, 0|0, 1)\)"
        ):
            call(other, resume=True, **how)
        same(call(a.copy(order), resume=True, **how), call(a, tile_size=NB))


@pytest.mark.parametrize("shape", [(90, 200), (200, 90), (1, 1), (0, 0)])
def test_matrices_of_any_shape_go_on(stops, shape):
    a = random_matrix(*shape)
    for call, how in ((tw.lu_factor, {}), (tw.qr, {"tree": "greedy", "mode": "economic"})):
        folder = f"run {call.__name__}"
        options = how | {"tile_size": NB, "checkpoint": folder}
        if min(shape) > NB:
            stops(1)
            with pytest.raises(Stopped):
                call(a, **options)
            stops(None)
        same(call(a, resume=True, **options), call(a, tile_size=NB, **how))


def test_what_is_not_read_of_a_triangle_may_change(stops):
    a, b = spd(), spd()
    b[np.triu_indices(N, 1)] = np.nan
    for lower in (True, False):
        how = {"tile_size": NB, "checkpoint": f"run {lower}", "lower": lower}
        stops(3)
        with pytest.raises(Stopped):
            tw.tiled_cholesky(a, **how)
        stops(None)
        same(
            tw.tiled_cholesky(b if lower else b.T, resume=True, **how), tw.tiled_cholesky(a, tile_size=NB, lower=lower)
        )


def test_parts_are_kept_back_for_some_seconds_and_not_lost_where_a_run_stops(stops):
    a = spd()
    how = {"tile_size": NB, "every": 1000}
    tw.tiled_cholesky(a, checkpoint="whole", **how)
    assert len(list(Path("whole").glob("part-*.bin"))) == 1
    stops(3)
    with pytest.raises(Stopped):
        tw.tiled_cholesky(a, checkpoint="run", **how)
    assert len(list(Path("run").glob("part-*.bin"))) == 1
    stops(None)
    found, run = with_run(tw.tiled_cholesky, a, checkpoint="run", resume=True, **how)
    same(found, tw.tiled_cholesky(a, tile_size=NB))
    assert "3 of 5 block columns were in run" in run.notes


def test_no_thread_stays_and_nothing_where_nothing_is_finished(stops):
    before = set(threading.enumerate())
    stops(0)
    with pytest.raises(Stopped) as error:
        tw.tiled_cholesky(spd(), tile_size=NB, checkpoint="run")
    assert not Path("run").exists() and not any("finished" in note for note in error.value.__notes__)
    stops(None)
    tw.tiled_cholesky(spd(), tile_size=NB, checkpoint="run", every=1000)
    with pytest.raises(tw.NotPositiveDefiniteError):
        tw.tiled_cholesky(-spd(), tile_size=NB, checkpoint="other")
    assert set(threading.enumerate()) <= before and not Path("other").exists()


def test_a_full_disk_is_one_sentence_and_what_is_finished_stays(stops, monkeypatch):
    stops(PANELS)  # never, but each panel is a part
    written = os.pwrite
    calls = []

    def full(file, data, place):
        calls.append(place)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        return written(file, data, place)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match=r"cannot write .*part-[0-9a-f]+\.bin: No space left on device"):
        tw.lu_factor(general(), tile_size=NB, checkpoint="run", update="tile")
    monkeypatch.setattr(os, "pwrite", written)
    assert [path.name.split("-")[0] for path in Path("run").glob("[!.]*")].count("part") == 2
    assert not list(Path("run").glob(".*"))
    same(
        tw.lu_factor(general(), tile_size=NB, checkpoint="run", resume=True, update="tile"),
        tw.lu_factor(general(), tile_size=NB, update="tile"),
    )


class TestRefusals:
    @pytest.fixture
    def stopped(self, stops):
        stops(3)
        with pytest.raises(Stopped):
            tw.lu_factor(general(), checkpoint="run", tile_size=NB, update="tile")
        stops(None)
        return {"checkpoint": "run", "tile_size": NB, "resume": True, "update": "tile"}

    def refused(self, message, options, a=None, call=tw.lu_factor):
        with pytest.raises(tw.CheckpointError, match=message):
            call(general() if a is None else a, **options)

    def test_another_call_is_refused_with_the_difference(self, stopped, monkeypatch):
        bare = {name: value for name, value in stopped.items() if name != "update"}
        self.refused("begun with another tile size: 32, not 16", stopped | {"tile_size": 16})
        self.refused("begun with another routine: lu_factor, not tiled_cholesky", bare, spd(), tw.tiled_cholesky)
        self.refused("begun with another routine: lu_factor, not qr", bare, call=tw.qr)
        self.refused(r"another shape: \[150, 150\], not \[140, 140\]", stopped, general(n=140))
        self.refused("another dtype: float64, not float32", stopped, general("float32"))
        self.refused("another pivoting: partial, not none", stopped | {"pivoting": "none"})
        self.refused("another update: tile, not column", stopped | {"update": "column"})
        monkeypatch.setattr("tilewright.linalg.keeping.choice.choice", lambda: "another library")
        self.refused("another BLAS: .*, not another library", stopped)

    def test_another_tree_or_precision_is_refused(self, stops):
        for call, a, how, other, name in (
            (tw.qr, general(), {"tree": "flat"}, {"tree": "greedy"}, "tree: 'flat', not 'greedy'"),
            (tw.tiled_cholesky, spd(), {"precision": "bf16"}, {"precision": "fp32"}, "precision: bf16, not fp32"),
            (tw.tiled_cholesky, spd(), {"lower": True}, {"lower": False}, "lower: True, not False"),
        ):
            folder = f"run {name}"
            stops(2)
            with pytest.raises(Stopped):
                call(a, tile_size=NB, checkpoint=folder, **how)
            stops(None)
            self.refused(f"another {name}", {"checkpoint": folder, "tile_size": NB, "resume": True} | other, a, call)

    def test_another_matrix_is_refused_with_the_tile_that_differs(self, stopped):
        a = general()
        a[100, 40] = np.nextafter(a[100, 40], 9)
        before = sorted(Path("run").iterdir())
        self.refused(r"run was begun with another matrix: the matrix a has other numbers in tile \(3, 1\)", stopped, a)
        assert sorted(Path("run").iterdir()) == before

    def test_a_checkpoint_is_not_replaced_without_being_told(self, stopped):
        with pytest.raises(FileExistsError, match="run has the checkpoint of a run; pass resume=True"):
            tw.lu_factor(general(), **stopped | {"resume": False})

    def test_files_that_are_torn_swapped_or_from_elsewhere_are_refused(self, stopped, stops):
        first, second, third = sorted(Path("run").glob("part-*.bin"), key=lambda path: path.stat().st_mtime_ns)
        data = second.read_bytes()

        def refused(content, message):
            second.write_bytes(content)
            self.refused(message, stopped)
            second.write_bytes(data)

        torn = bytearray(data)
        torn[-5000] ^= 1
        refused(bytes(torn), r"part-\w+\.bin has other numbers in \w+\[.*\] than were written there")
        refused(data[:-4096], r"part-\w+\.bin is damaged: it was cut off, or something was added")
        refused(data[:100], r"part-\w+\.bin is damaged: its head")
        refused(data.replace(b'"run"', b'"rum"'), r"part-\w+\.bin is damaged: its head")
        refused(b"", r"part-\w+\.bin is damaged: its head")
        stops(3)
        with pytest.raises(Stopped):
            tw.lu_factor(general() + 1, checkpoint="other", tile_size=NB, update="tile")
        stops(None)
        foreign = next(Path("other").glob("part-*.bin"))
        shutil.copy(foreign, "run")
        self.refused(rf"{foreign.name} is of another run than .*run\.json", stopped)
        (Path("run") / foreign.name).unlink()
        a, b = first.read_bytes(), third.read_bytes()
        first.write_bytes(b)  # each part says itself what it is: swapped names change nothing
        third.write_bytes(a)
        Path("run/part-of-mine.txt").touch()
        Path(f"run/.tilewright-{2**30}-01234567.bin").touch()  # of a process that is gone
        same(tw.lu_factor(general(), **stopped), tw.lu_factor(general(), tile_size=NB, update="tile"))
        assert not list(Path("run").glob(".tilewright*"))

    def test_a_part_that_is_lost_is_made_again(self, stopped):
        sorted(Path("run").glob("part-*.bin"))[1].unlink()
        found, run = with_run(tw.lu_factor, general(), **stopped)
        same(found, tw.lu_factor(general(), tile_size=NB, update="tile"))
        assert "2 of 5 block columns were in run" in run.notes

    @pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 2, "facts": {}}'])
    def test_a_damaged_run_file_is_refused(self, stopped, text):
        Path("run/run.json").write_text(text)
        self.refused("damaged|another version", stopped)

    def test_a_folder_in_use_is_refused(self, stopped):
        facts = json.loads(Path("run/run.json").read_text())["facts"]
        held = Checkpoint("run", facts, {}, resume=True)
        with pytest.raises(BlockingIOError, match="another run has its checkpoint in"):
            tw.lu_factor(general(), **stopped)
        held.close()
        tw.lu_factor(general(), **stopped)

    def test_a_folder_that_cannot_be_made_is_one_sentence(self):
        Path("file").touch()
        with pytest.raises(OSError, match="cannot write a checkpoint in .*file"):
            tw.qr(general(), checkpoint="file")

    def test_words_that_have_no_use_are_refused(self):
        with pytest.raises(ValueError, match="restart= needs checkpoint="):
            tw.qr(general(), restart=1)
        with pytest.raises(
            ValueError, match="restart=3 is for ranks and workers that can die alone; backend 'threads'"
        ):
            tw.lu_factor(general(), restart=3, checkpoint="run")
        with pytest.raises(ValueError, match="restart must be at least 0, not -1|restart"):
            tw.tiled_cholesky(spd(), restart=-1, checkpoint="run")


def test_what_changes_before_it_is_final_is_a_fault_of_whoever_says_so():
    def change(x):
        x += 1

    def look(x, y):
        y += x

    g = tw.TaskGraph()
    A, B = g.handles("A"), g.handles("B")
    g.insert(change, tw.RW(A[0, 0]))
    g.insert(look, tw.R(A[0, 0]), tw.RW(B[0, 0]))
    g.insert(change, tw.RW(A[1, 0]))
    kept = Kept("run", "id", 0.0, False, {}, {}, (0,) * 3, "the matrix")
    assert [task.op.name for task in kept_graph(g, Finals((("A", 1),), "A"), kept)] == [
        "weigh", "change", "look", "change", "keep", "settle",
    ]  # fmt: skip
    late = tw.TaskGraph()
    A = late.handles("A")
    late.insert(tw.Op("change", change), tw.RW(A[0, 0]))
    late.insert(tw.Op("swap", change), tw.RW(A[0, 0]))
    late.insert(tw.Op("change", change), tw.RW(A[1, 0]))
    with pytest.raises(AssertionError, match=r"A\[0,0\] is changed before panel 0 is final"):
        kept_graph(late, Finals((("A", 1),), "A", behind=("swap",)), kept)
