"""Butterflies: the matrix they are, in pairs of tiles and within one, forward and transposed, by rows and by columns."""

import numpy as np
import pytest
from matrices import DTYPES, random_matrix, roundoff

from tilewright.kernels import table
from tilewright.kernels.butterfly import butterfly, halves

ROOT = 0.5**0.5


def matrix(r, s):
    """[[R, S], [R, -S]] / sqrt(2); rows without a partner have r alone."""
    m, k = len(r), len(s)
    b = np.zeros((m + k, m + k))
    b[np.arange(m), np.arange(m)] = np.where(np.arange(m) < k, ROOT, 1) * r
    b[np.arange(k), m + np.arange(k)] = ROOT * s
    b[m + np.arange(k), np.arange(k)] = ROOT * r[:k]
    b[m + np.arange(k), m + np.arange(k)] = -ROOT * s
    return b


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("forward", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "k"), [(4, 4), (5, 3), (4, 0), (1, 1), (2, 1)])
def test_two_tiles_are_the_halves_of_a_butterfly(m, k, dtype, forward, turned):
    a, real = random_matrix(m + k, 3, dtype), np.empty(0, dtype).real.dtype
    r, s = (np.exp(np.random.default_rng(n).uniform(-0.05, 0.05, n)).astype(real) for n in (m, k))
    b = matrix(r, s)
    wanted = (b if forward else b.T) @ a
    for order in "CF":
        found = (a.T if turned else a).copy(order=order)
        tiles = [found[:, :m], found[:, m:]] if turned else [found[:m], found[m:]]
        table.find("butterfly", "cpu", [real.name, dtype]).function([r, s], tiles, forward, turned)
        assert np.allclose(found.T if turned else found, wanted, atol=20 * roundoff(dtype))


@pytest.mark.parametrize("forward", [False, True])
@pytest.mark.parametrize(("n", "cuts"), [(8, 1), (8, 2), (7, 2), (3, 4), (1, 1), (2, 2)])
def test_one_tile_is_cut_into_parts_with_halves(n, cuts, forward):
    a, r = random_matrix(n, 2), np.linspace(0.9, 1.1, n)
    parts = halves(n, cuts)
    assert len(parts) == cuts and parts[0][0] == 0 and parts[-1][2] == n
    wanted = a.copy()
    for begin, middle, end in parts:
        assert 0 <= 2 * middle - begin - end <= 1
        b = matrix(r[begin:middle], r[middle:end])
        wanted[begin:end] = (b if forward else b.T) @ a[begin:end]
    butterfly([r], [a], forward, False, cuts)
    assert np.allclose(a, wanted, atol=1e-15)
