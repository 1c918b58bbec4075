"""Zeros on pages that are not there yet, and rooms that are used again."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tilewright as tw
from tilewright.host import memory
from tilewright.host.memory import memory_for, room, zeros
from tilewright.linalg.gallery import random_spd

pytestmark = pytest.mark.usefixtures("no_kept_cluster")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("n", [3, 1500], ids=["small", "large"])
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_zeros_are_those_of_numpy(n, dtype, order):
    a = zeros((n, n + 1), dtype, order)
    assert (a.shape, a.dtype, a.flags[f"{order}_CONTIGUOUS"], a.flags.writeable) == ((n, n + 1), dtype, True, True)
    assert not a.any()
    a[-1, -1] = 1
    assert a.sum() == 1


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_the_triangle_of_a_factor_that_is_not_written_takes_no_memory():
    a = random_spd(4000)
    tw.tiled_cholesky(a)  # what is loaded and kept by the first call is not counted
    before = resident()
    factor = tw.tiled_cholesky(a)
    assert resident() - before < 0.8 * factor.nbytes
    assert np.array_equal(factor, np.tril(factor))


def test_the_memory_of_a_factor_goes_with_it():
    a = random_spd(1500)
    tw.tiled_cholesky(a)
    before = resident()
    for _ in range(10):
        tw.tiled_cholesky(a)
    assert resident() - before < a.nbytes


@pytest.fixture
def nobody_waits(monkeypatch):
    """No room of an earlier test."""
    memory._waiting.clear()


class TestRoom:
    def test_a_room_that_nobody_uses_is_given_to_the_next(self, nobody_waits):
        first = room((1100, 1100), np.float64)
        first[...] = 1
        at = first.ctypes.data
        view = first[5:]
        del first
        second = room((1100, 1100), np.float64)
        assert second.ctypes.data != at  # a view still uses the first
        del view
        third = room((1090, 1100), np.float64)
        assert (third.ctypes.data, third.shape, third.flags.c_contiguous) == (at, (1090, 1100), True)

    def test_a_room_much_larger_than_needed_waits_for_somebody_else(self, nobody_waits):
        at = room((2200, 1100), np.float64).ctypes.data
        assert room((1100, 1100), np.float64).ctypes.data != at
        assert room((2200, 1000), np.float64).ctypes.data == at

    def test_rooms_on_huge_pages_are_a_kind_of_their_own(self, nobody_waits):
        at = room((5 << 20,), np.uint8, huge=True).ctypes.data
        assert room((5 << 20,), np.uint8).ctypes.data != at
        assert room((5 << 20,), np.uint8, huge=True).ctypes.data == at

    def test_rooms_that_wait_are_limited(self, nobody_waits, monkeypatch):
        monkeypatch.setattr(memory, "_KEPT", 5 << 20)
        for _ in range(2):
            rooms = [room((5 << 20,), np.uint8) for _ in range(3)]
            assert all(len(a) == 5 << 20 for a in rooms)
            del rooms
            assert len(memory._waiting) == 1

    @pytest.mark.parametrize("shape", [(0, 0), (3, 0), (7, 5)])
    def test_small_rooms_are_arrays_of_numpy(self, shape):
        assert room(shape, "float32").shape == shape


# ------------------------------------------------------------------ memory that is not there

ASKED = """
import resource, sys
import numpy as np, tilewright as tw
from pathlib import Path
from tilewright.backends.ranks.segments import Segment
from tilewright.host.memory import room, zeros

def factor(backend):
    return tw.tiled_cholesky(a, backend=backend)

a = np.eye(6000)
np.linalg.cholesky(a[:600, :600])
tw.tiled_cholesky(np.eye(1300), backend="threads")  # whatever starts up does so before there is a limit
calls = {
    "zeros": lambda: zeros((6000, 6000), "float64"), "room": lambda: room((6000, 6000), "float64"),
    "segment": lambda: Segment.create(8 * 6000**2), "serial": lambda: factor("serial"),
    "threads": lambda: factor("threads"),
}
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
open_before = len(list(Path("/proc/self/fd").iterdir()))
resource.setrlimit(resource.RLIMIT_AS, (used + 100 * 2**20,) * 2)
for name, call in calls.items():
    try:
        call()
    except BaseException as error:
        print(name, type(error).__name__, error)
print("left open", len(list(Path("/proc/self/fd").iterdir())) - open_before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the size of a process is read from /proc")
def test_memory_that_is_not_there_is_a_memory_error_with_what_was_asked_for_and_what_there_is():
    found = subprocess.run([sys.executable, "-c", ASKED], capture_output=True, text=True, timeout=60, check=True)
    *lines, left_open = found.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        [name, "MemoryError"] for name in ("zeros", "room", "segment", "serial", "threads")
    ], found.stdout
    for line in lines:
        assert re.search(r"no memory for 274\.7 MiB: .* has [\d.]+ [MG]iB of the [\d.]+ [MG]iB", line), line
    assert left_open == "left open 0"


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENOSPC, errno.EFBIG], ids=errno.errorcode.get)
def test_what_the_system_calls_an_error_of_files_is_one_of_memory(number):
    with pytest.raises(MemoryError, match="no memory for 1.5 KiB: ") as caught, memory_for(1536):
        raise OSError(number, os.strerror(number))
    assert isinstance(caught.value.__cause__, OSError)


def test_other_errors_of_the_system_stay_what_they_are():
    with pytest.raises(PermissionError), memory_for(1):
        raise PermissionError(errno.EACCES, "no")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(700_001,), (3, 250_000), (250_000, 3), (900, 901), (9, 300, 301)])
def test_large_arrays_of_any_form_are_copied_whole_on_several_cores(monkeypatch, shape, order):
    monkeypatch.setattr(memory, "cores", lambda: 4)
    source = np.random.default_rng(0).standard_normal(shape)
    target = np.full(shape, np.nan, order=order)
    small, empty = np.zeros(3), np.zeros((0, 5))
    memory.copy_all([(target, source), (small, np.ones(3)), (empty, empty.copy())])
    np.testing.assert_array_equal(target, source)
    assert small.sum() == 3


def test_small_arrays_are_handed_out_together():
    """A matrix in tiles of 128 KB has a thousand of them: each by itself took longer to hand out than to copy."""
    size = memory.LARGE // 4
    pairs = [(np.zeros(size, np.uint8), np.full(size, k, np.uint8)) for k in range(10)]
    assert [len(share) for share in memory._shares(pairs)] == [4, 4, 2]
    memory.copy_all(pairs)
    assert all((target == k).all() for k, (target, _) in enumerate(pairs))
    assert list(memory._shares([])) == []
