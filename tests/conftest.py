"""Fixtures that every test shares."""

import gc
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import zlib
from collections import Counter
from functools import cache

import pytest
from hypothesis import settings

from tilewright.benchmarks import timing
from tilewright.host.cores import cores
from tilewright.kernels import blas, choice

# Threads of OpenMP and OpenBLAS sleep between two calls, and do not look for work: tests share the cores with others,
# also the processes that they start. Nothing is computed otherwise. Takes effect in processes that start after this.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

timing.SETTLE = 0.0  # what a benchmark measures in a test is not looked at
gc.set_threshold(20_000, 20, 20)  # tests make many graphs and few cycles; the default looks 26,000 times for those

# The same examples on every machine, and no file left behind.
settings.register_profile("suite", deadline=None, derandomize=True, database=None)
settings.load_profile("suite")


def close_kept_cluster():
    """End the Dask cluster that calls of this process share, if one did begin."""
    clients = sys.modules.get("tilewright.backends.dask.client")
    if clients is not None:
        clients.close()


@pytest.fixture(autouse=True, scope="session")
def kept_cluster_ends_with_the_session():
    """Modules share it: a cluster takes seconds to start."""
    yield
    close_kept_cluster()


@pytest.fixture(scope="module")
def no_kept_cluster():
    """For modules that count threads, descriptors or sockets of this process, or start a cluster of their own."""
    close_kept_cluster()


LEFT_OUT = pytest.StashKey[dict[str, int]]()

ENGINES = {"mpi": "mpi4py", "dask": "distributed"}
"""What a test with the name of this engine as a parameter needs."""

# Threads that stay with the kept Dask cluster, and with Dask itself once it was used.
KEPT = ("IO loop", "Profile", "AsyncProcess", "Dask-Offload", "QueueFeederThread", "asyncio_", "zarr_")


@cache
def gpu():
    """Whether torch is here and sees a CUDA device."""
    return importlib.util.find_spec("torch") is not None and importlib.import_module("torch").cuda.is_available()


def lacks(item):
    """What this test needs and this computer does not have; empty if it can run."""
    if item.get_closest_marker("gpu") and not gpu():
        return "a GPU"
    values = list(item.callspec.params.values()) if hasattr(item, "callspec") else []
    values += [value.get("backend") for value in values if isinstance(value, dict)]
    packages = {ENGINES[value] for value in values if isinstance(value, str) and value in ENGINES}
    packages |= {package for mark in item.iter_markers("needs") for package in mark.args}
    return ", ".join(sorted(package for package in packages if not there(package)))


@cache
def there(name):
    """Whether there is a package, or a routine of LAPACK that no library promises."""
    if name == "?sb2st_kernels":
        return importlib.import_module("tilewright.kernels.bulge").kernels("d") is not None
    return importlib.util.find_spec(name) is not None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """``-n auto``: one more than CPUs, as tests wait for processes that start; beyond eight they wait for the longest file."""
    return min(cores() + 1, 8)


def pytest_sessionstart(session):
    """Processes ask over a socket how often a test was tried, before each: two short messages, so not held back for more.

    Who runs the tests in the background of a script has them ignore Ctrl-C, which tests send.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    asked = getattr(getattr(session.config, "failures_db", None), "sock", None)
    if asked is not None:
        asked.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else 40 ms a test


def begins(item):
    """Place of a test's file: those that take longest begin first, so that no process works alone at the end."""
    return 0 if item.get_closest_marker("long") else 1


def others(item):
    """Whether another pretended computer of portable.py has this test: ``TILEWRIGHT_SHARE="1 of 3"`` is the second third."""
    which, _, shares = os.environ.get("TILEWRIGHT_SHARE", "0 of 1").partition(" of ")
    return zlib.crc32(item.nodeid.encode()) % int(shares) != int(which)


def pytest_collection_modifyitems(config, items):
    """Leave out the tests that need a GPU where there is none, and engines that are not installed."""
    if hasattr(config, "workerinput"):  # one of several processes, which take files in this order
        items.sort(key=begins)
    why = {item: lacks(item) for item in items}
    left = {item for item in items if why[item] or others(item)}
    config.hook.pytest_deselected(items=[item for item in items if item in left])
    items[:] = [item for item in items if item not in left]
    config.stash[LEFT_OUT] = dict(Counter(filter(None, why.values())))


def pytest_terminal_summary(terminalreporter, config):
    """Say what was left out; a run without a GPU is no test of one."""
    for what, count in config.stash.get(LEFT_OUT, {}).items():
        hint = ": torch sees no CUDA device here (make test-gpu)" if what == "a GPU" else ""
        terminalreporter.write_line(f"{count} tests that need {what} were not run{hint}")


@pytest.fixture(autouse=True)
def no_thread_left_behind():
    """Fail a test that ends while a thread it started still lives."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if not thread.name.startswith(KEPT):
            thread.join(2)  # a progress display tells its thread to stop and does not wait for it
    left = [t.name for t in threading.enumerate() if t not in before and not t.name.startswith(KEPT)]
    assert not left, f"the test left threads behind: {left}"


@pytest.fixture(autouse=True, scope="module")
def only_own_garbage():
    """Collections of garbage do not look at the millions of objects of earlier modules; every training asks for some."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def restore_blas():
    """Return to the automatic choice of BLAS after the test."""
    yield
    choice.use(None)


@pytest.fixture(params=[name for name, found in blas.available().items() if isinstance(found, blas.Library)])
def library(request, restore_blas):
    """Each BLAS library that this machine has, in use."""
    choice.use(request.param)
    return choice.current()


def works(path):
    """Ubuntu's chromium is a stub that asks for a snap."""
    return subprocess.run([path, "--version"], capture_output=True, timeout=60, check=False).returncode == 0


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium or Chrome, else the one that Playwright brought; `make test` sees to it that there is one."""
    from playwright.sync_api import sync_playwright

    path = next(filter(works, filter(None, map(shutil.which, ("chromium", "google-chrome")))), None)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()
