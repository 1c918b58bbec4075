"""Eigenvalues and eigenvectors under LAPACK's tests: its matrices, its ratios, its threshold."""

import numpy as np
import pytest
import scipy.linalg
from matrices import DTYPES, HERMITIAN, eigen_ratios, he_matrix, random_matrix, roundoff, values_ratio

import tilewright as tw

THRESHOLD = 60
SIZES = [(n, nb, b) for nb, b in ((3, 3), (4, 2), (8, 4)) for n in sorted({0, 1, 2, nb - 1, nb + 1, 2 * nb + 3})]


def orders(a):
    large = np.zeros((2 * len(a), 3 * len(a)), a.dtype)
    large[::2, ::3] = a
    return {"C": a, "F": np.asfortranarray(a), "strided": large[::2, ::3]}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "nb", "b"), SIZES)
def test_lapack_ratios(dtype, n, nb, b):
    for kind in HERMITIAN[(n + nb) % 3 :: 3]:
        a = he_matrix(kind, n, dtype)
        w, v = tw.eigh(a, tile_size=nb, band=b, workers=1 + kind % 2)
        assert w.dtype == a.real.dtype and v.dtype == a.dtype and v.shape == (n, n) and (np.diff(w) >= 0).all()
        ratios = eigen_ratios(a, w, v)
        assert max(ratios) < THRESHOLD, f"type {kind}: {ratios}"
        only = tw.eigvalsh(a, tile_size=nb, band=b, workers=1)
        if n:
            ratio = values_ratio(a, only, scipy.linalg.eigvalsh(a))
            assert max(ratio, values_ratio(a, w, only)) < THRESHOLD, f"type {kind}: {ratio}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("subset", [(0, 0), (0, 3), (7, 9), (14, 17), (18, 18), (2, 15), (0, 18)])
def test_subsets_are_those_of_scipy(dtype, subset):
    for kind in (1, 8, 9, 10, 11, 12, 13, 15, 16, 17)[sum(subset) % 2 :: 2]:
        a = he_matrix(kind, 19, dtype)
        w, v = tw.eigh(a, subset_by_index=subset, tile_size=6, band=3)
        wanted = scipy.linalg.eigh(a, eigvals_only=True)
        assert len(w) == v.shape[1] == subset[1] - subset[0] + 1
        top = np.abs(wanted).max() * roundoff(dtype)
        wanted = wanted[subset[0] : subset[1] + 1]
        assert np.abs(w.astype(float) - wanted).max() <= THRESHOLD * top, f"type {kind}"
        assert max(eigen_ratios(a, w, v)) < THRESHOLD, f"type {kind}: {eigen_ratios(a, w, v)}"
        only = tw.eigvalsh(a, subset_by_index=list(subset), tile_size=6, band=3)
        assert np.abs(only.astype(float) - w).max() <= THRESHOLD * top, f"type {kind}"


@pytest.mark.parametrize("nb", [1, 2, 4, 6, 9, 12, 23, 24, 30])
@pytest.mark.parametrize(("n", "b"), [(24, 4), (23, 6), (13, 12), (5, 2)])
@pytest.mark.parametrize("lower", [True, False])
def test_any_order_tile_size_and_band(n, nb, b, lower):
    dtype = DTYPES[(n + nb) % 4]
    a = random_matrix(n, n, dtype)
    a = a + a.conj().T
    half = np.tril(a) if lower else np.triu(a)
    w, v = tw.eigh(half, lower=lower, tile_size=nb, band=min(b, nb), workers=1)
    assert max(eigen_ratios(a, w, v)) < THRESHOLD
    assert values_ratio(a, tw.eigvalsh(half, lower=lower, tile_size=nb, band=min(b, nb), workers=1), w) < THRESHOLD


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_depend_neither_on_the_order_in_memory_nor_on_the_other_triangle(dtype):
    a = he_matrix(13, 17, dtype)
    found = [tw.eigh(b, tile_size=4, band=2) for b in orders(a).values()]
    found += [tw.eigh(b, tile_size=4, band=2) for b in orders(np.tril(a) + np.triu(np.full_like(a, 7), 1)).values()]
    assert len({w.tobytes() + v.tobytes() for w, v in found}) == 1


def test_imaginary_parts_on_the_diagonal_do_not_count():
    a = he_matrix(13, 9, "complex128")
    found = tw.eigvalsh(a + 1j * np.diag(np.arange(9.0)), tile_size=4, band=2)
    assert np.array_equal(found, tw.eigvalsh(a, tile_size=4, band=2))


@pytest.mark.parametrize("n", [21, 60])
def test_clusters_have_orthogonal_vectors(n):
    """Wilkinson's matrix has pairs of eigenvalues that agree to all digits."""
    a = np.diag(np.abs(np.arange(n) - n // 2).astype(float)) + np.eye(n, k=1) + np.eye(n, k=-1)
    for subset in (None, (n - 6, n - 1), (n // 2, n - 1)):
        w, v = tw.eigh(a, tile_size=8, band=4, subset_by_index=subset)
        assert max(eigen_ratios(a, w, v)) < THRESHOLD


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_smallest_and_the_largest_numbers_there_are(dtype):
    limits = np.finfo(dtype)
    a = he_matrix(13, 11, dtype)
    for scale in (float(limits.smallest_subnormal) * 64, float(limits.max) / 16):
        w = tw.eigvalsh((a * scale).astype(dtype), tile_size=4, band=2)
        wanted = np.linalg.eigvalsh(a.astype(complex)) * scale
        assert np.isfinite(w).all() and np.abs(w - wanted).max() <= np.abs(wanted).max() * 0.05
