"""Odd environments: each works, or says one sentence before work."""

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


def process(code):
    return subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("backend", "workers"), [("serial", 1), ("threads", 2), ("mpi", 2)])
def test_a_deleted_working_directory_is_no_obstacle(backend, workers):
    done = process(SCRIPT.format(backend=backend, workers=workers))
    assert (done.returncode, done.stderr) == (0, "")


def test_where_a_deleted_working_directory_is_one_a_sentence_says_so():
    done = process(SCRIPT.format(backend="dask", workers=2))
    assert done.stderr.splitlines()[-1].startswith("OSError: the working directory was deleted, and Dask's workers")
    named = SCRIPT.replace("import numpy", "os.environ['TILEWRIGHT_BLAS'] = 'torch'; import numpy")
    done = process(named.format(backend="threads", workers=1))
    assert "TILEWRIGHT_BLAS=torch" in done.stderr.splitlines()[-1]
