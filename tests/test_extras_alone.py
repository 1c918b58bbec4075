"""Each extra where the core and this extra are to be had, and nothing else (`alone.py`).

All that the extra promises works, and what another extra would bring says so in one sentence with its command.
"""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

ROOT = Path(__file__).parent.parent
OPTIONAL = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]

PROMISES = {
    "torch": """
        tw.kernels.use("torch")
        import torch
        L = tw.tiled_cholesky(torch.tensor(A), tile_size=4, workers=1)
        assert torch.allclose(L @ L.T, torch.tensor(A))
        """,
    "mpi": "assert (tw.tiled_cholesky(A, tile_size=2, backend='mpi', workers=2) == L).all()",
    "dask": """
        from tilewright.backends.dask.client import require_dask
        require_dask()
        from urllib.request import urlopen
        from distributed import Client
        with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as client:
            assert (tw.tiled_cholesky(A, tile_size=2, backend="dask", client=client) == L).all()
            port = client.cluster.scheduler.http_server.port
            page = urlopen(f"http://127.0.0.1:{port}/status", timeout=30).read().decode()
        assert "Bokeh" in page and "embed_document" in page, page
        """,
    "plot": "run.gantt('run.png')",
    "frames": "assert len(run.trace.to_pandas()) == len(run.trace.records)",
    "metis": """
        from scipy.sparse import eye_array
        assert (tw.SparseOperator(eye_array(8).tocsr(), ranks=2, partition="metis") @ b == b).all()
        """,
    "graphs": """
        with open("a.dot", "w") as file:
            file.write("digraph { a -> b }")
        assert len(tw.read_graph("a.dot")) == 2
        """,
    "zarr": "assert tw.tiled_cholesky(A, tile_size=4, out='L.zarr') is not None",
    "hdf5": "assert tw.tiled_cholesky(A, tile_size=4, out='L.h5:/L') is not None",
    "training": """
        train, test = tw.training.data.digits()
        tw.training.data.write_cifar10("cifar", "parquet", *tw.training.data.synthetic(8))
        """,
    "tensorboard": "tw.training; from tilewright.training import tensorboard; tensorboard.open_file('events')",
}
"""By extra, what works with it, and without it ends in a sentence with its command."""

BEFORE = {"tensorboard": "training"}
"""What a promise asks for first: a training needs torch."""

TOGETHER = {"bench", "demo", "all"}  # unions of others
TOOLS = {"docs", "dev", "mkl"}  # the site, the tests; MKL's wheel is as torch's, and a gigabyte


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each child said: by extra and promise."""
    folder = tmp_path_factory.mktemp("alone")
    done = subprocess.run(
        [sys.executable, "-P", ROOT / "tests" / "alone.py", json.dumps(PROMISES)],
        capture_output=True,
        text=True,
        timeout=550,
        cwd=folder,
        env=os.environ | {"TILEWRIGHT_CACHE": str(folder), "TILEWRIGHT_BLAS": "openblas"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_extra_is_tried_or_is_one_of_others():
    assert set(PROMISES) | TOGETHER | TOOLS == set(OPTIONAL)


@pytest.mark.parametrize("extra", PROMISES)
def test_an_extra_alone_keeps_its_promise_and_the_others_say_what_brings_them(told, extra):
    kept = {promise for promise, said in told[extra].items() if said == "works"}
    assert extra in kept, told[extra][extra]
    assert kept == set(told["keeps"][extra]), {p: told[extra][p] for p in kept ^ set(told["keeps"][extra])}
    for promise in set(PROMISES) - kept:
        commands = [told["commands"][name] for name in (promise, BEFORE.get(promise)) if name]
        said = told[extra][promise]
        assert "\n" not in said and any(command in said for command in commands), (promise, said)
