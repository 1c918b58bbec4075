"""Files are whole, or as they were."""

import errno
import json
import os
import stat
import subprocess
import sys

import numpy as np
import pytest

import tilewright as tw
from tilewright.host.files import private_folder, replacing, sweep, write_text


def full(monkeypatch):
    """The disk is full when a file that was written shall take its place."""

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", fail)


RUN = tw.tiled_cholesky(4 * np.eye(8), tile_size=4, return_run=True)[1]
TABLE = tw.compare_schedulers(tw.cholesky_graph(2), [1, 2], schedulers=["eager"])
WRITERS = {
    "report.html": RUN.report,
    "run.json": RUN.save,
    "trace.json": RUN.trace.to_perfetto,
    "gantt.png": RUN.gantt,
    "gantt.svg": RUN.gantt,
    "dag.svg": lambda path: RUN.graph.to_svg(path, layout="layered"),
    "dag.png": lambda path: RUN.graph.to_png(path, layout="layered"),
    "dag.html": RUN.graph.to_html,
    "machine.json": tw.Machine().to_json,
    "compare.html": TABLE.report,
    "compare.pdf": TABLE.plot,
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_we_write_is_whole_or_the_file_before(name, tmp_path, monkeypatch):
    path = tmp_path / name
    WRITERS[name](path)
    assert path.stat().st_size > 10
    path.write_text("old")
    full(monkeypatch)
    with pytest.raises(OSError, match=f"cannot write .*{name}: No space left on device"):
        WRITERS[name](path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "old")]


GIVES = ("trace.json", "dag.svg", "dag.html", "machine.json")
"""Written by a method called to_...: these also return what they write, and write nothing without a path."""


@pytest.mark.parametrize("name", WRITERS)
def test_a_method_called_to_gives_what_it_writes_and_all_others_write_and_give_nothing(name, tmp_path):
    given = WRITERS[name](str(tmp_path / name))  # a string is a path, too
    if name in GIVES:
        text = json.dumps(given) if isinstance(given, dict) else given
        assert (tmp_path / name).read_text().rstrip("\n") == text.rstrip("\n")
        assert WRITERS[name](None) == given
    else:
        assert given is None
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_checkpoint_on_a_full_disk_is_one_sentence_and_keeps_the_one_before(tmp_path):
    script = f"""
import resource, signal, torch
from tilewright.training import checkpoint
from tilewright.training.state import Log, State
def state(size):
    return State(3, {{"w": torch.ones(size)}}, {{}}, {{}}, {{"cpu": torch.get_rng_state()}})
checkpoint.write({str(tmp_path)!r}, state(2), Log(), {{}})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    checkpoint.write({str(tmp_path)!r}, state(100_000), Log(), {{}})
except OSError as error:
    print(error)
print(checkpoint.read({str(tmp_path)!r})[0].tensors["w"].tolist())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        f"[Errno 27] cannot write {tmp_path / 'checkpoint.pt'}: File too large",
        "[1.0, 1.0]",
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_an_exception_in_the_block_leaves_nothing(tmp_path):
    def interrupted():
        with replacing(tmp_path / "a") as aside:
            aside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_links_are_followed_and_permissions_kept(tmp_path):
    real = tmp_path / "real.txt"
    real.write_text("old")
    real.chmod(0o600)
    (tmp_path / "link.txt").symlink_to(real)
    write_text(tmp_path / "link.txt", "new \ud800")
    assert (tmp_path / "link.txt").is_symlink() and real.read_text() == "new ?"
    assert stat.S_IMODE(real.stat().st_mode) == 0o600


def test_what_is_no_regular_file_is_written_in_place(tmp_path):
    write_text("/dev/null", "x")
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)


@pytest.mark.parametrize("name", ["none/a.txt", "x" * 300])
def test_a_place_where_nothing_can_be_is_named(name, tmp_path):
    with pytest.raises(OSError, match=f"cannot write .*{name}"):
        write_text(tmp_path / name, "x")


def test_only_what_dead_processes_left_is_swept(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    left = f".tilewright-{child.pid}-0123abcd.pt"
    stay = [
        f".tilewright-{os.getpid()}-0123abcd.pt",
        ".checkpoint.pt.backup",
        ".checkpoint.pt.99999999999999999999",
        ".tilewright-²-0123abcd.pt",
        ".tilewright-99999999999999999999-0123abcd.pt",
        ".tilewright-backup",
        "a",
    ]
    for name in (left, *stay):
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == set(stay)


def test_a_private_folder_is_nobody_else_s(tmp_path):
    mine = private_folder(tmp_path)
    assert mine.parent == tmp_path and stat.S_IMODE(mine.stat().st_mode) == 0o700
    assert private_folder(tmp_path) == mine  # the same again: nothing gathers
    traps = {"open": lambda: mine.chmod(0o777), "link": lambda: (mine.rmdir(), mine.symlink_to(tmp_path / "theirs"))}
    if os.geteuid() == 0:
        traps["another's"] = lambda: (mine.unlink(), mine.mkdir(0o700), os.chown(mine, 65534, 65534))
    (tmp_path / "theirs").mkdir(0o777)
    for trap in traps.values():
        trap()
        other = private_folder(tmp_path)
        assert other != mine and other.parent == tmp_path and stat.S_IMODE(other.stat().st_mode) == 0o700
