"""No process of ours runs code from the current folder or for another user, and nobody keeps others waiting."""

import os
import socket
import stat
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import dask
import numpy as np
import psutil
import pytest

import tilewright as tw
from tilewright.backends.dask import client as clients
from tilewright.backends.mpi import connection

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("no_kept_cluster")]

NOBODY = 65534
TRAPS = ("queue", "numpy", "mpi4py", "pickle", "socket", "struct", "signal", "threading", "cloudpickle", "torch")


@pytest.fixture
def trapped(tmp_path):
    """A folder whose modules have the names of others, and say so when they run."""
    folder = tmp_path / "trap"
    folder.mkdir()
    for name in TRAPS:
        (folder / f"{name}.py").write_text(
            f"open({str(tmp_path / 'ran')!r}, 'a').write('{name} '); raise RuntimeError('trapped')"
        )
    return folder


def ended_well(arguments, folder):
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    done = subprocess.run(arguments, cwd=folder, env=environ, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert not (folder.parent / "ran").exists(), (folder.parent / "ran").read_text()
    return done.stdout


def test_a_command_runs_no_file_of_the_current_folder(trapped):
    command = str(Path(sysconfig.get_path("scripts"), "tilewright"))
    ended_well([command, "cholesky", "--n=32", "--tile-size=16", "--workers=2", "--backend=dask"], trapped)
    ended_well([sys.executable, "-m", "tilewright", "simulate", "cholesky", "--nt=2"], trapped)


OWNER = """
import os, numpy as np, tilewright as tw
before = dict(os.environ)
tw.tiled_cholesky(np.eye(32), tile_size=16, backend="mpi", workers=2)
for workers in (1, 2):
    tw.tiled_cholesky(np.eye(32), tile_size=16, backend="dask", workers=workers)
from tilewright.studies.network import ping_pong
assert len(ping_pong([8], 0.01)) == 1
changed = {n for n, _ in set(os.environ.items()) ^ set(before.items())}
assert changed <= {"__DASK_PARENT_PID"}, changed
"""


def test_ranks_workers_and_measurements_run_no_file_of_the_current_folder(trapped):
    ended_well([sys.executable, "-P", "-c", OWNER], trapped)


HELPER = """
import sys, numpy as np
def double(x): x *= 2
"""
SCRIPT = """
import numpy as np, tilewright as tw, helper
def triple(x): x *= 3
for backend in ("mpi", "dask"):
    g = tw.TaskGraph()
    x = g.handle("x")
    g.insert(tw.Op("double", helper.double), tw.RW(x))
    g.insert(tw.Op("triple", triple), tw.RW(x))
    run = tw.run(g, {x: np.ones(2)}, backend=backend, workers=2)
    print(run["x"].tolist())
"""


def test_a_script_beside_files_of_such_names_works_and_its_functions_arrive(trapped):
    """What its own process has not to import, as mpi4py, is imported from where it is installed by the ranks."""
    for name in TRAPS:
        if name not in ("mpi4py", "cloudpickle"):
            (trapped / f"{name}.py").unlink()
    (trapped / "cloudpickle.py").unlink()
    (trapped / "helper.py").write_text(HELPER)
    (trapped / "script.py").write_text(SCRIPT)
    assert ended_well([sys.executable, "script.py"], trapped) == "[6.0, 6.0]\n[6.0, 6.0]\n"


def listening():
    """(process, address) of every socket that this process and its children listen on."""
    me = psutil.Process()
    found = set()
    for process in (me, *me.children(recursive=True)):
        for each in process.net_connections("inet"):
            if each.status == psutil.CONN_LISTEN:
                found.add((process.name(), each.laddr.ip))
    return found


def test_whatever_listens_during_runs_is_on_loopback():
    before = listening()
    with tw.mpi.Pool(2):
        tw.tiled_cholesky(np.eye(32), tile_size=16, backend="mpi")
        tw.tiled_cholesky(np.eye(32), tile_size=16, backend="dask", workers=2)
        found = listening() - before
    assert {address for _, address in found} <= {"127.0.0.1", "::1"}


# ------------------------------------------------------------------ the kept Dask cluster

STRANGER = """
import asyncio, os, sys
import distributed.comm.tcp, distributed.protocol, encodings.idna, ssl
from distributed import Client, Security
keys = Security.temporary()
if os.geteuid() == 0:
    os.setuid(65534)
def knock(address, security):
    try:
        with Client(address, timeout=1.5, security=security, set_as_default=False) as client:
            return client.run_on_scheduler(os.getpid)
    except OSError as error:
        return "refused"
for address in sys.argv[1:]:
    print(knock(address.replace("tls:", "tcp:"), None), knock(address, keys))
"""


def test_another_user_cannot_have_the_kept_cluster_run_code(trapped):
    """Neither by its ports, nor by the folder in which Dask looks for modules and keeps what workers spill."""
    clients.close()
    theirs = trapped / "dask-scratch-space"  # where Dask would go
    theirs.mkdir(0o777)
    theirs.chmod(0o777)
    before = list(sys.path)
    with dask.config.set({"temporary-directory": str(trapped)}):
        client = clients.kept(1)
    places = client.run(lambda dask_worker: dask_worker.local_directory).values()
    mine = trapped / f"tilewright-{os.geteuid()}"
    assert stat.S_IMODE(mine.stat().st_mode) == 0o700 and all(Path(place).is_relative_to(mine) for place in places)
    assert sys.path == before and list(theirs.iterdir()) == []
    addresses = [client.scheduler.address, *clients.workers_of(client)]
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, addresses[0]], cwd="/", capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "refused refused\n"), done.stderr
    assert all(address.startswith("tls://127.0.0.1:") for address in addresses)
    assert client.submit(abs, -3).result(timeout=20) == 3


def test_without_cryptography_one_sentence_says_what_to_install(monkeypatch):
    clients.close()
    find = clients.importlib.util.find_spec
    monkeypatch.setattr(
        clients.importlib.util, "find_spec", lambda name, *rest: None if name == "cryptography" else find(name, *rest)
    )
    with pytest.raises(ImportError, match=r"needs cryptography.*pip install .*\[dask\]'.*or pass client="):
        tw.tiled_cholesky(np.eye(4), tile_size=2, backend="dask", workers=1)


# ------------------------------------------------------------------ the pool's socket


class Crowd:
    """Many connections to a door that say nothing, or something wrong."""

    def __init__(self, door, count, words=b""):
        self.address = door.environment["TILEWRIGHT_POOL"].replace("@", "\0", 1)
        self.count, self.words = count, words
        self.ends = []
        self.thread = threading.Thread(target=self._knock)
        self.thread.start()

    def _knock(self):
        for _ in range(self.count):
            try:
                end = socket.socket(socket.AF_UNIX)
            except OSError:  # as many as this process may have
                return
            end.settimeout(10)
            try:
                end.connect(self.address)
                end.sendall(self.words)
            except OSError:  # the door is closed, or was shut in its face
                end.close()
                continue
            self.ends.append(end)

    def close(self):
        self.thread.join()
        for end in self.ends:
            end.close()


def crowded(monkeypatch, count, words=b""):
    """Make every pool find a crowd at its door."""
    crowds = []

    class Crowded(connection.Listener):
        def __init__(self):
            super().__init__()
            crowds.append(Crowd(self, count, words))
            while len(crowds[-1].ends) < min(count, 500):  # it is first
                time.sleep(0.01)

    monkeypatch.setattr("tilewright.backends.mpi.pool.Listener", Crowded)
    return crowds


@pytest.mark.parametrize("count", [1, 1025])
def test_a_pool_starts_whoever_stands_at_its_door(count, monkeypatch):
    monkeypatch.setattr(connection, "PATIENCE", 1e9)  # none goes away by itself
    crowds = crowded(monkeypatch, count)
    try:
        with tw.mpi.Pool(2):
            L = tw.tiled_cholesky(4 * np.eye(8), tile_size=4, backend="mpi")
        assert np.array_equal(L, 2 * np.eye(8))
    finally:
        for crowd in crowds:
            crowd.close()


def welcomed(door, monkeypatch):
    """Both ends of the connection of one who has the key."""
    monkeypatch.setenv("TILEWRIGHT_POOL", door.environment["TILEWRIGHT_POOL"])
    monkeypatch.setenv("TILEWRIGHT_POOL_KEY", door.environment["TILEWRIGHT_POOL_KEY"])
    found = []
    thread = threading.Thread(target=lambda: found.append(connection.connect()))
    thread.start()
    here = door.admit(lambda: False)
    thread.join()
    here.send("welcome")
    assert found[0].recv() == "welcome"
    return here, found[0]


@pytest.mark.parametrize("words", [b"x" * 32, b"x" * 1000, b"half"])
def test_who_says_something_else_is_dismissed_and_holds_up_nobody(words, monkeypatch):
    door = connection.Listener()
    crowd = Crowd(door, 40, words)
    crowd.thread.join()
    here, there = welcomed(door, monkeypatch)
    door.close()
    crowd.close()
    here.close()
    there.close()


def test_who_says_nothing_is_dismissed_after_a_while(monkeypatch):
    monkeypatch.setattr(connection, "PATIENCE", 0.05)
    door = connection.Listener()
    crowd = Crowd(door, 3)
    crowd.thread.join()
    turns = iter(range(20))
    assert door.admit(lambda: next(turns, None) is None) is None
    assert [end.recv(1) for end in crowd.ends] == [b"", b"", b""]
    door.close()
    crowd.close()


def knocking(door):
    """What becomes of one who has the key."""
    told = []

    def knock():
        end = socket.socket(socket.AF_UNIX)
        end.connect(door.environment["TILEWRIGHT_POOL"].replace("@", "\0", 1))
        try:
            end.sendall(bytes.fromhex(door.environment["TILEWRIGHT_POOL_KEY"]))
            told.append(end.recv(1))
        except OSError:
            told.append(b"")
        end.close()

    return knock, told


def test_another_user_is_not_let_in_even_with_the_key(monkeypatch):
    door = connection.Listener()
    knock, told = knocking(door)
    turns = iter(range(20))
    thread = threading.Thread(target=knock)
    if os.geteuid() == 0:  # a stranger indeed
        child = os.fork()
        if child == 0:
            os.setuid(NOBODY)
            knock()
            os._exit(3 if told == [b""] else 4)
    else:
        me = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: me + 1)
        thread.start()
    assert door.admit(lambda: next(turns, None) is None) is None
    door.close()
    if os.geteuid() == 0:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    else:
        thread.join()
        assert told == [b""]


def test_who_has_the_key_comes_in(monkeypatch):
    door = connection.Listener()
    here, there = welcomed(door, monkeypatch)
    assert "TILEWRIGHT_POOL_KEY" not in os.environ
    door.close()
    here.close()
    there.close()
