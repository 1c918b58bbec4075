"""Zeros on pages that are not there yet."""

from pathlib import Path

import numpy as np
import pytest

import tilewright as tw
from tilewright.matrices import random_spd
from tilewright.pages import zeros


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
