"""Bulge chasing: LAPACK's kernels and ours in NumPy, in any order of tasks that the dependencies allow."""

import numpy as np
import pytest
from matrices import DTYPES, random_matrix, roundoff

from tilewright.kernels import blas, bulge, symv
from tilewright.kernels.lapack import letter


def band_of(a, b):
    """The lower band, by columns, with room for bulges."""
    n = len(a)
    band = np.zeros((n, 2 * b + 1), a.dtype)
    for j in range(n):
        band[j, : min(b + 1, n - j)] = a[j : j + b + 1, j]
    return band


def hermitian(n, b, dtype):
    a = random_matrix(n, n, dtype)
    return np.triu(np.tril(a + a.conj().T, b), -b)


def whole(band):
    n, width = band.shape
    lower = np.zeros((n, n), band.dtype)
    for j in range(n):
        lower[j : j + width, j] = band[j, : n - j]
    return lower + np.tril(lower, -1).conj().T


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "b"), [(3, 2), (9, 2), (12, 3), (13, 5), (10, 9), (6, 4)])
@pytest.mark.parametrize(
    "here",
    [pytest.param(True, marks=pytest.mark.needs("?sb2st_kernels"), id="lapack"), pytest.param(False, id="numpy")],
)
def test_a_tridiagonal_matrix_and_reflectors_that_lead_to_it(dtype, n, b, here, monkeypatch):
    kind = letter(np.dtype(dtype))
    assert not here or (bulge.kernels(kind) is not None) == symv.sound(kind)
    if not here:
        monkeypatch.setattr(bulge, "kernels", lambda letter: None)
    a, group = hermitian(n, b, dtype), 3
    band = band_of(a, b)
    x = np.eye(n, dtype=dtype)
    later = []
    for first in range(0, n - 2, group):
        count = min(group, n - 2 - first)
        v = np.zeros((count, n), dtype)
        for start in range(0, bulge.blocks(n, b, first) + count, 2):
            found = bulge.span(n, b, first, count, start, start + 2)
            if found is not None:
                bulge.chase([band[found[0] : found[1]]], v, None, n, b, first, start, start + 2, found[0])
        later.append((first, v))
    t = whole(band)
    assert np.array_equal(np.triu(np.tril(t, 1), -1), t)
    for first, v in reversed(later):
        shape = bulge.blocks(n, b, first), len(v), b + len(v) - 1
        forms, turned = np.zeros(shape, dtype), np.zeros(shape, dtype)
        bulge.compact([v[:1], v[1:]], forms, turned, n, b, first)
        bulge.apply(forms, turned, x, n, b, first)
    q = x.T
    u = roundoff(dtype)
    assert np.linalg.norm(q.conj().T @ q - np.eye(n)) < 30 * n * u
    assert np.linalg.norm(q @ t @ q.conj().T - a) < 30 * n * u * np.linalg.norm(a)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "here",
    [
        pytest.param(True, marks=pytest.mark.needs("?sb2st_kernels"), id="chase"),
        pytest.param(False, id="rotations"),
        pytest.param(None, id="?symv is not sound"),
    ],
)
def test_the_tridiagonal_matrix_of_a_band_in_one_call_has_its_eigenvalues(dtype, here, monkeypatch):
    kind = letter(np.dtype(dtype))
    assert not here or bulge.inside(blas.CHASES[kind]) is not None
    if here is False:
        monkeypatch.setattr(bulge, "inside", lambda name: None)
    if here is None:
        monkeypatch.setattr(symv, "sound", lambda kind, triangle=b"L": False)
        monkeypatch.setattr(bulge, "inside", lambda name: pytest.fail(f"{name} calls it"))
    for n, b in ((1, 1), (2, 1), (2, 0), (7, 6), (9, 1), (9, 2), (40, 5), (41, 16)):
        a = hermitian(n, b, dtype)
        band = np.ascontiguousarray(band_of(a, b)[:, : b + 1])
        before = band.copy()
        d, e = bulge.diagonals(band)
        assert d.shape == e.shape == (n,) and d.dtype == e.dtype == a.real.dtype and np.array_equal(band, before)
        found = np.linalg.eigvalsh(np.diag(d) + np.diag(e[:-1], -1) + np.diag(e[:-1], 1))
        wanted = np.linalg.eigvalsh(a)
        assert np.abs(found - wanted).max() <= 30 * n * roundoff(dtype) * np.abs(wanted).max()


@pytest.mark.needs("?sb2st_kernels")
def test_both_kinds_of_kernels_agree():
    a = hermitian(11, 3, "complex128")
    found = []
    for make in (bulge.kernels("z"), bulge._by_numpy):
        band, v, tau = band_of(a, 3), np.zeros((1, 11), complex), np.zeros(11, complex)
        for s in range(2):
            bulge._sweep(make(band, v[0], tau, 11, 3, 0), v[0], tau, 11, 3, s, 0, bulge.blocks(11, 3, s))
        found.append((band, v.copy()))
    assert np.allclose(found[0][0], found[1][0]) and np.allclose(found[0][1], found[1][1])


def test_the_columns_that_a_task_touches():
    assert bulge.span(20, 4, 0, 3, 0, 2) == (0, 9)  # blocks 0 and 1 of sweep 0, then 0 of sweep 1
    assert bulge.span(20, 4, 0, 3, 2, 4) == (2, 17)
    assert bulge.span(20, 4, 0, 3, 8, 10) is None
    assert [bulge.blocks(20, 4, s) for s in (0, 2, 3, 15, 18)] == [5, 5, 4, 1, 1]
