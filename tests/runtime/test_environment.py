"""Odd environments: each works, or says one sentence before work."""

import os
import subprocess
import sys

import pytest

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


def process(code, env=None):
    return subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, env=env)


@pytest.mark.parametrize(("backend", "workers"), [("serial", 1), ("threads", 2), ("mpi", 2)])
def test_a_deleted_working_directory_is_no_obstacle(backend, workers):
    done = process(SCRIPT.format(backend=backend, workers=workers))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_name_that_the_locale_cannot_say_is_refused_before_work():
    """Python has ASCII names of files where it is told not to have UTF-8."""
    code = (
        "import numpy as np, tilewright as tw\n"
        "tw.tiled_cholesky(np.eye(4), tile_size=2, out='\\xfc.npy', checkpoint='nothing')"
    )
    plain = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = process(code, env=os.environ | plain)
    said = done.stderr.splitlines()[-1]
    assert said.startswith(
        r"ValueError: out: names of files are ascii in this locale, which cannot say '\xfc.npy'; set"
    )


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


def test_where_a_deleted_working_directory_is_one_a_sentence_says_so():
    done = process(SCRIPT.format(backend="dask", workers=2))
    assert done.stderr.splitlines()[-1].startswith("OSError: the working directory was deleted, and Dask's workers")
    named = SCRIPT.replace("import numpy", "os.environ['TILEWRIGHT_BLAS'] = 'torch'; import numpy")
    done = process(named.format(backend="threads", workers=1))
    assert "TILEWRIGHT_BLAS=torch" in done.stderr.splitlines()[-1]
