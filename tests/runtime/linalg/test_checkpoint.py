"""Runs that are killed go on from their checkpoint to the same bits; one that is of another run, or damaged, is refused."""

import contextlib
import inspect
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from again import measures_the_machine
from matrices import DTYPES, po_matrix, random_matrix

import tilewright as tw
from tilewright.linalg import slab_plan
from tilewright.storage.checkpoint import Checkpoint, checksum
from tilewright.storage.lines import Lines

N, NB = 230, 32
KILLS = int(os.environ.get("TILEWRIGHT_KILLS", "1"))


class Stopped(Exception):
    pass


def matrix(call, dtype="float64", n=N):
    return np.array(po_matrix(2, n, dtype)) if call is tw.tiled_cholesky else random_matrix(n, n, dtype)


@pytest.fixture(autouse=True)
def small_tiles_cost_nothing(monkeypatch):
    """Threads and tasks take more than matrices as small as these; so there are several slabs."""
    monkeypatch.setattr(slab_plan, "_TASK", 0)
    monkeypatch.setattr(slab_plan, "_THREAD", 0)


LEAST = {tw.tiled_cholesky: "200kB", tw.lu_factor: "500kB"}  # several slabs


def numbers(result):
    if isinstance(result, tuple):
        return list(result)
    return [result] if isinstance(result, np.ndarray) else [result.lu, result.piv, result.slogdet()]


def same(one, other):
    assert all(np.array_equal(a, b) for a, b in zip(numbers(one), numbers(other), strict=True))
    if isinstance(one, tw.LUFactor):
        assert one.norms == pytest.approx(other.norms)


def plain(call, a, nb=NB):
    return call(a, tile_size=nb, **({} if call is tw.tiled_cholesky else {"update": "tile"}))


@pytest.fixture
def stops(monkeypatch):
    """``stops(k)``: the run ends with an exception when block column k is to be noted."""
    add = Checkpoint.add

    def stop(at):
        def adds(self, panel, *args, **what):
            if panel == at:
                raise Stopped
            add(self, panel, *args, **what)

        monkeypatch.setattr(Checkpoint, "add", add if at is None else adds)

    return stop


CALLS = pytest.mark.parametrize("call", [tw.tiled_cholesky, tw.lu_factor], ids=["cholesky", "lu"])


@CALLS
@pytest.mark.parametrize("at", [0, 1, 5, 7])
def test_a_run_that_stops_goes_on_to_the_same_bits(here, stops, call, at):
    a = matrix(call)
    options = {"out": "L.npy", "checkpoint": "run", "tile_size": NB, "workers": 2, "memory": LEAST[call]}
    stops(at)
    with pytest.raises(Stopped) as error:
        call(a, **options)
    said = any(f"{at} block columns are finished and stay in run" in note for note in error.value.__notes__)
    assert said == (at > 0) == Path("run").exists() and not Path("L.npy").exists()
    stops(None)
    loaded = []
    found, run = call(a, resume=True, return_run=True, **options)
    same(found, plain(call, a))
    loaded = {
        use.handle.index[1]
        for task in run.graph
        if task.op.name == "load"
        for use in task.uses
        if use.handle.name == "A"
    }
    assert loaded == set(range(at, 8))  # what was finished is not made again
    same(call(a, resume=True, overwrite_out=True, **options), found)


@CALLS
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_goes_on(here, stops, call, dtype):
    a = matrix(call, dtype)
    stops(3)
    with pytest.raises(Stopped):
        call(a, checkpoint="run", tile_size=NB, out="L.npy")
    stops(None)
    same(call(a, checkpoint="run", tile_size=NB, out="L.npy", resume=True), plain(call, a))


def test_the_upper_triangle_goes_on(here, stops):
    a = matrix(tw.tiled_cholesky)
    stops(3)
    with pytest.raises(Stopped):
        tw.tiled_cholesky(a, lower=False, checkpoint="run", tile_size=NB, out="U.npy")
    stops(None)
    found = tw.tiled_cholesky(a, lower=False, checkpoint="run", tile_size=NB, out="U.npy", resume=True)
    assert np.array_equal(found, tw.tiled_cholesky(a, lower=False, tile_size=NB))


@pytest.mark.parametrize("memory", [("100kB", "200kB"), ("200kB", "100kB"), ("100kB", "100kB")])
def test_slabs_and_blocks_of_them_go_on_from_each_other(here, stops, memory):
    a = matrix(tw.tiled_cholesky)
    how = {"checkpoint": "run", "tile_size": NB, "out": "L.npy", "workers": 2}
    stops(1)
    with pytest.raises(Stopped):
        tw.tiled_cholesky(a, memory=memory[0], **how)
    stops(None)
    found, run = tw.tiled_cholesky(a, memory=memory[1], resume=True, return_run=True, **how)
    assert np.array_equal(found, tw.tiled_cholesky(a, tile_size=NB))
    assert bool(run.trace.facts["height"]) == (memory[1] == "100kB")
    loads = [use.handle for task in run.graph if task.op.name == "load" for use in task.uses]
    assert {handle.index[1] for handle in loads if handle.name == "A"} == set(range(1, 8))


@pytest.mark.parametrize("shape", [(90, 200), (200, 90)])
def test_matrices_of_any_shape_go_on(here, stops, shape):
    a = random_matrix(*shape)
    for out, at in (("F.npy", 2), ("G.npy", -(-shape[1] // NB) - 1)):
        stops(at)
        folder = f"run {out} {at}"
        shutil.rmtree(folder, ignore_errors=True)
        with pytest.raises(Stopped):
            tw.lu_factor(a, checkpoint=folder, tile_size=NB, out=out)
        stops(None)
        same(
            tw.lu_factor(a, checkpoint=folder, tile_size=NB, out=out, resume=True),
            tw.lu_factor(a, tile_size=NB, update="tile"),
        ) if shape[0] == shape[1] else None
        found = tw.lu_factor(a, checkpoint=folder, tile_size=NB, out=out, resume=True, overwrite_out=out is not None)
        wanted = tw.lu_factor(a, tile_size=NB, update="tile")
        assert np.array_equal(found.lu, wanted.lu) and np.array_equal(found.piv, wanted.piv)


@CALLS
@measures_the_machine
def test_what_was_finished_before_the_disk_was_full_stays_and_is_gone_on_from(here, monkeypatch, call):
    """The disk has room for some block columns, then for none, then again for all."""
    a = matrix(call)
    options = {"out": "L.npy", "checkpoint": "run", "tile_size": NB, "workers": 1, "memory": LEAST[call]}
    write, room = Lines.write, [0.5 * a.nbytes]

    def full(self, line, start, tiles):
        room[0] -= sum(tile.nbytes for tile in tiles)
        if room[0] < 0:
            raise OSError(28, f"cannot write {self.name}: No space left on device")
        write(self, line, start, tiles)

    with monkeypatch.context() as patch:
        patch.setattr(Lines, "write", full)
        with pytest.raises(OSError, match="cannot write .*: No space left on device") as error:
            call(a, **options)
    assert any("block columns are finished and stay in run" in note for note in error.value.__notes__)
    assert not Path("L.npy").exists()
    found, run = call(a, resume=True, return_run=True, **options)
    same(found, plain(call, a))
    assert sum(task.op.name == "commit" for task in run.graph) < 8


def test_entries_are_kept_back_for_some_seconds_and_not_lost_where_a_run_stops(here, stops):
    synced = []
    held = Checkpoint("other", {}, {}, every=1000)
    held.add(0, lambda: synced.append(0), tiles=[])
    assert Path("other/panels.log").read_bytes() == b"" and synced == [] and held.panels == []
    held.flush(lambda: synced.append(1))
    assert len(Path("other/panels.log").read_bytes().splitlines()) == 1 == len(held.panels) and synced == [1]
    held.close()
    a = matrix(tw.tiled_cholesky)
    stops(5)
    with pytest.raises(Stopped):
        tw.tiled_cholesky(a, checkpoint="run", tile_size=NB, every=1000, out="L.npy")
    assert len(Path("run/panels.log").read_bytes().splitlines()) == 5
    stops(None)
    assert np.array_equal(
        tw.tiled_cholesky(a, checkpoint="run", tile_size=NB, every=1000, resume=True, out="L.npy"),
        tw.tiled_cholesky(a, tile_size=NB),
    )
    assert len(Path("run/panels.log").read_bytes().splitlines()) == 8


class TestRefusals:
    @pytest.fixture
    def stopped(self, here, stops):
        np.save("a.npy", matrix(tw.lu_factor))
        stops(4)
        with pytest.raises(Stopped):
            tw.lu_factor("a.npy", out="F.npy", checkpoint="run", tile_size=NB)
        stops(None)
        return {"out": "F.npy", "checkpoint": "run", "tile_size": NB, "resume": True}

    def goes_on(self, message, options, a="a.npy", call=tw.lu_factor):
        with pytest.raises(tw.CheckpointError, match=message):
            call(a, **options)

    def test_another_call_is_refused_with_the_difference(self, stopped, monkeypatch):
        self.goes_on("run was begun with another tile size: 32, not 16", stopped | {"tile_size": 16})
        self.goes_on("begun with another routine: lu_factor, not tiled_cholesky", stopped, call=tw.tiled_cholesky)
        self.goes_on(r"another shape: \[230, 230\], not \[20, 20\]", stopped, np.eye(20))
        self.goes_on("another dtype: float64, not float32", stopped, np.eye(N, dtype="f4"))
        monkeypatch.setattr("tilewright.linalg.outofcore.choice.choice", lambda: "another library")
        self.goes_on("another BLAS: .*, not another library", stopped)

    def test_another_matrix_is_refused_with_the_tile_that_differs(self, stopped):
        a = np.load("a.npy")
        a[100, 40] += 1e-9
        self.goes_on(r"another matrix: the matrix a has other numbers in tile \(3, 1\)", stopped, a)

    def test_a_checkpoint_is_not_replaced_without_being_told(self, stopped):
        with pytest.raises(FileExistsError, match="run has the checkpoint of a run; pass resume=True"):
            tw.lu_factor("a.npy", **stopped | {"resume": False})

    def test_torn_and_swapped_files_are_refused(self, stopped, here, stops):
        panels = Path("run/panels.npy")
        data = panels.read_bytes()
        torn = bytearray(data)
        torn[len(data) // 3 :] = bytes(len(data) - len(data) // 3)
        panels.write_bytes(torn)
        self.goes_on(r"panels\.npy has other numbers in tile \(\d, 2\) than were written by the run", stopped)
        panels.write_bytes(data[: len(data) // 2])
        with pytest.raises(ValueError, match="is cut off"):
            tw.lu_factor("a.npy", **stopped)
        np.save("b.npy", random_matrix(N, N, seed=7))
        stops(4)
        with pytest.raises(Stopped):
            tw.lu_factor("b.npy", out="G.npy", checkpoint="other", tile_size=NB)
        stops(None)
        panels.write_bytes(Path("other/panels.npy").read_bytes())
        self.goes_on(r"other numbers in tile \(0, 0\)", stopped)

    def test_a_damaged_log_is_refused_and_half_a_line_at_its_end_is_not(self, stopped):
        log = Path("run/panels.log")
        lines = log.read_bytes().splitlines(keepends=True)
        assert len(lines) == 4
        log.write_bytes(b"".join([lines[0], lines[1].replace(b"panel", b"penal"), *lines[2:]]))
        self.goes_on(r"panels\.log is damaged in line 2", stopped)
        log.write_bytes(b"".join([lines[0], *lines[2:]]))
        self.goes_on(r"panels\.log has panel 2 in line 2", stopped)
        log.write_bytes(b"".join(lines[:3]) + lines[3][: len(lines[3]) // 2])
        same(tw.lu_factor("a.npy", **stopped), plain(tw.lu_factor, np.load("a.npy")))

    @pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 2, "facts": {}}'])
    def test_a_damaged_run_file_is_refused(self, stopped, text):
        Path("run/run.json").write_text(text)
        self.goes_on("damaged|another version", stopped)

    def test_a_folder_in_use_is_refused(self, stopped, here):
        facts = json.loads(Path("run/run.json").read_text())["facts"]
        held = Checkpoint("run", facts, {}, resume=True)
        with pytest.raises(BlockingIOError, match="another run has its checkpoint in run"):
            tw.lu_factor("a.npy", **stopped)
        held.close()
        tw.lu_factor("a.npy", **stopped)

    def test_the_result_that_was_half_written_has_to_be_there(self, here, stops):
        stops(4)
        a = matrix(tw.tiled_cholesky)
        options = {"out": "L.npy", "checkpoint": "run", "tile_size": NB}
        with pytest.raises(Stopped):
            tw.tiled_cholesky(a, **options)
        stops(None)
        os.remove("L.npy.part")
        with pytest.raises(FileNotFoundError, match=r"L\.npy\.part is gone"):
            tw.tiled_cholesky(a, **options, resume=True)


def test_a_checksum_tells_where_a_number_is_and_not_how_it_lies():
    for dtype in DTYPES:
        a = random_matrix(6, 5, dtype)
        large = np.zeros((12, 15), dtype)
        large[::2, ::3] = a
        assert len({checksum(a), checksum(np.asfortranarray(a)), checksum(large[::2, ::3])}) == 1
        for place in ((0, 0), (5, 4), (2, 3)):
            b = a.copy()
            b[place] = np.nextafter(b[place].real, b.real.dtype.type(9))
            assert checksum(b) != checksum(a)
        assert len({checksum(a), checksum(a[::-1]), checksum(a[:, ::-1]), checksum(a[[1, 0, 2, 3, 4, 5]])}) == 4


SCRIPT = """
import sys, time, pathlib, numpy as np, tilewright as tw
call, out, backend = getattr(tw, sys.argv[1]), sys.argv[2] or None, sys.argv[4]
a = "a.npy" if out else np.load("a.npy")
place = dict(out=out, memory=sys.argv[3], overwrite_out=True) if out else dict(backend=backend)
pathlib.Path("begun").touch()
started = time.monotonic()
found = call(a, **place, checkpoint="run", resume=True, tile_size=48, workers=2)
took = time.monotonic() - started
np.save("found.npy", numbers(found)[0])
pathlib.Path("took").write_text(repr(took))
"""


def rank_of(job):
    """The process id of a rank that a job has started."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    found = []
    for pid in parents:
        above = pid
        while above in parents and above != job.pid:
            above = parents[above]
        with contextlib.suppress(OSError):
            if above == job.pid and b"tilewright.backends.mpi.rank" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return max(found, default=None)


@pytest.mark.parametrize(
    ("call", "out", "memory", "backend"),
    [
        ("tiled_cholesky", "L.npy", "4.6MB", "threads"),
        ("lu_factor", "L.npy", "5.6MB", "threads"),
        ("qr", "", "", "threads"),
        ("lu_factor", "", "", "mpi"),
    ],
)
def test_kills_at_random_times_lead_to_the_same_bits(here, call, out, memory, backend):
    """One kill of each here, one of them of a rank; TILEWRIGHT_KILLS=25 makes a hundred (`make kills`).

    A kill comes at any time of the call, also while its pool starts or its checkpoint is opened. A run that comes to
    its end before is compared, and the next one begins again without a checkpoint.
    """
    rng = random.Random(f"{call} {out} {KILLS}")
    a = matrix(getattr(tw, call), n=480)
    np.save("a.npy", a)
    Path("job.py").write_text(inspect.getsource(numbers) + SCRIPT)
    wanted = numbers(plain(getattr(tw, call), a, 48))[0] if call != "qr" else tw.qr(a, tile_size=48)[0]
    command = [sys.executable, "job.py", call, out, memory, backend]
    killed, span = 0, 0.2
    while killed < KILLS:
        Path("begun").unlink(missing_ok=True)
        job = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while job.poll() is None and not Path("begun").exists():  # not while Python starts
            time.sleep(0.002)
        moment = time.monotonic() + rng.random() * span
        while job.poll() is None and time.monotonic() < moment:
            time.sleep(0.002)
        victim = job.pid if backend == "threads" else rank_of(job)
        if job.poll() is None and victim is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        _, said = job.communicate(timeout=120)
        if job.returncode:
            killed, span = killed + 1, 1.2 * span
            assert job.returncode == -signal.SIGKILL or "RankDied" in said or "LaunchError" in said, said
            if out and Path(out).exists():  # a name stands for a whole factor or nothing
                assert np.array_equal(np.load(out), wanted)
        else:
            compared(wanted, out, killed)
            span = float(Path("took").read_text())
    subprocess.run(command, check=True, timeout=120)
    compared(wanted, out, killed)


def compared(wanted, out, killed):
    """A run that came to its end has the bits of one without a checkpoint; the next one begins again."""
    assert np.array_equal(np.load(out or "found.npy"), wanted), f"other bits after {killed} kills"
    for name in ("found.npy", *([out] if out else [])):
        os.remove(name)
    shutil.rmtree("run")
