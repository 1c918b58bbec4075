"""What libraries the process has loaded: found again when that changed, and only then."""

import ctypes
import subprocess
import sys

import pytest
import threadpoolctl

from tilewright.kernels import loaded, threads

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the linker counts on Linux")


@linux
def test_the_same_libraries_are_found_once(monkeypatch):
    found = loaded.controller()
    monkeypatch.delattr(threadpoolctl.ThreadpoolController, "_load_libraries")
    assert loaded.controller() is found
    for _ in range(3):
        with threads.limits(functions=True):
            pass


@linux
def test_a_library_that_is_loaded_later_is_found_and_held():
    code = """
import numpy, threadpoolctl
from tilewright.kernels import loaded, threads
before, known = loaded.changes(), loaded.controller()
import scipy.linalg
assert loaded.changes()[0] > before[0]
fresh = loaded.controller()
assert len(fresh.lib_controllers) > len(known.lib_controllers)
with threads.limits(functions=True):
    print(*{pool["num_threads"] for pool in threadpoolctl.threadpool_info()})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]


def test_where_nobody_counts_they_are_looked_for_each_time(monkeypatch):
    monkeypatch.setattr(loaded, "_walk", lambda: None)
    assert loaded.changes() is None
    assert loaded.controller() is not loaded.controller()


@linux
def test_a_linker_that_does_not_count_is_seen(monkeypatch):
    monkeypatch.setattr(loaded, "_walk", lambda: lambda call, counts: 0)
    assert loaded.changes() is None and isinstance(loaded.controller(), threadpoolctl.ThreadpoolController)
    assert ctypes.sizeof(loaded._Object) == 8 * 6 or ctypes.sizeof(ctypes.c_void_p) != 8
