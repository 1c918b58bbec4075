"""Odd environments: each works, or says one sentence before work."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

import tilewright as tw

pytestmark = pytest.mark.usefixtures("no_kept_cluster")

SCRIPT = """
import os, tempfile
folder = tempfile.mkdtemp()
os.chdir(folder)
os.rmdir(folder)
import numpy as np, tilewright as tw
L, run = tw.tiled_cholesky(4 * np.eye(40), tile_size=10, backend={backend!r}, workers={workers}, return_run=True)
assert (L == 2 * np.eye(40)).all()
"""


def process(code):
    return subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("backend", "workers"), [("serial", 1), ("threads", 2), ("mpi", 2)])
def test_a_deleted_working_directory_is_no_obstacle(backend, workers):
    done = process(SCRIPT.format(backend=backend, workers=workers))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_name_that_the_locale_cannot_say_is_refused_before_work(monkeypatch, tmp_path):
    """Python has ASCII names of files where it is told not to have UTF-8."""
    monkeypatch.setattr(os, "fsencode", lambda name: str(name).encode("ascii"))
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    message = r"out: names of files are ascii in this locale, which cannot say '.*\\xfc\.npy'; set PYTHONUTF8=1"
    with pytest.raises(ValueError, match=message):
        tw.tiled_cholesky(np.eye(4), tile_size=2, out=f"{tmp_path}/\xfc.npy", checkpoint=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_limit_of_open_files_is_met_before_dask_starts(monkeypatch):
    resource = pytest.importorskip("resource")
    from tilewright.backends.dask import client

    monkeypatch.setattr(client, "_kept", None)
    monkeypatch.setattr(client, "_start", lambda workers: pytest.fail("started"))
    monkeypatch.setattr(resource, "getrlimit", lambda what: (40, 40))
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("nothing says here how many files are open")
    with pytest.raises(
        OSError, match=r"4 Dask workers need some \d+ open files in this process, which may have 40: raise"
    ):
        client.kept(4)


def test_a_limit_on_the_size_of_files_is_met_before_ranks_or_workers_start(monkeypatch):
    resource = pytest.importorskip("resource")
    from tilewright.backends.dask import client
    from tilewright.backends.mpi import leftovers

    monkeypatch.setattr(client, "_kept", None)
    monkeypatch.setattr(client, "_start", lambda workers: pytest.fail("started"))
    monkeypatch.setattr(client, "_check_open_files", lambda more, workers: None)
    monkeypatch.setattr(resource, "getrlimit", lambda what: (1024, 1024))
    with pytest.raises(
        OSError, match=r"a Dask cluster writes files of up to 64 KiB .* none above 1 KiB: raise the limit"
    ):
        client.kept(2)
    assert re.search(r"5.2 MB of /dev/shm for each rank, .* no file above 1 KiB: raise", leftovers.needs_memory(2))
    monkeypatch.setattr(resource, "getrlimit", lambda what: (resource.RLIM_INFINITY,) * 2)
    assert "ulimit -f" not in leftovers.needs_memory(2)


def test_where_a_deleted_working_directory_is_one_a_sentence_says_so():
    done = process(SCRIPT.format(backend="dask", workers=2))
    assert done.stderr.splitlines()[-1].startswith("OSError: the working directory was deleted, and Dask's workers")
    named = SCRIPT.replace("import numpy", "os.environ['TILEWRIGHT_BLAS'] = 'torch'; import numpy")
    done = process(named.format(backend="threads", workers=1))
    assert "TILEWRIGHT_BLAS=torch" in done.stderr.splitlines()[-1]
