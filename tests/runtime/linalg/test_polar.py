"""Polar decompositions: against SciPy's, singular and graded matrices, engines."""

import numpy as np
import pytest
import scipy.linalg
from matrices import DTYPES, GENERAL, ge_matrix, norm1, random_matrix, roundoff
from optional import torch

import tilewright as tw
from tilewright import TiledMatrix
from tilewright.linalg.polar import weights

THRESHOLD = 50
SHAPES = [(1, 1), (7, 7), (17, 17), (19, 8), (8, 19), (9, 8), (1, 5), (5, 1)]


def ratios(a, u, p, side):
    """||A - U P||_1 / (n ||A||_1 u), ||U^H U - I||_1 / (n u) of the smaller side, ||P - P^H||_1."""
    n, unit = max(a.shape), roundoff(a.dtype)
    scale = 2.0 ** -int(np.frexp(np.abs(a).max(initial=0))[1])
    wide = complex if a.dtype.kind == "c" else float
    a, u, p = a.astype(wide) * scale, u.astype(wide), p.astype(wide) * scale
    product = u @ p if side == "right" else p @ u
    gram = u.conj().T @ u if a.shape[0] >= a.shape[1] else u @ u.conj().T
    residual = norm1(a - product)
    return (
        residual / (n * norm1(a) * unit) if residual else 0.0,
        norm1(gram - np.eye(len(gram))) / (n * unit),
        norm1(p - p.conj().T),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_factors_of_all_kinds_of_matrices(dtype, m, n):
    for kind in GENERAL[m % 2 :: 2]:
        a, side = ge_matrix(kind, m, n, dtype), ("right", "left")[kind % 2]
        u, p = tw.polar(a, side, tile_size=6, workers=1)
        assert u.shape == (m, n) and p.shape == ((n, n) if side == "right" else (m, m)) and u.dtype == p.dtype == dtype
        found = ratios(a, u, p, side)
        assert max(found[:2]) < THRESHOLD and found[2] == 0, f"type {kind}: {found}"
        values = np.linalg.eigvalsh(p.astype(complex) * 2.0 ** -int(np.frexp(np.abs(a).max())[1]))
        assert values.min() > -THRESHOLD * max(m, n) * roundoff(dtype), f"type {kind}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("m", "n"), [(15, 15), (20, 7), (7, 20)])
def test_scipy_finds_the_same(dtype, side, m, n):
    a = random_matrix(m, n, dtype)
    found, wanted = tw.polar(a, side, tile_size=5), scipy.linalg.polar(a, side)
    for one, other in zip(found, wanted, strict=True):
        assert np.allclose(one, other, atol=1e3 * roundoff(dtype))


@pytest.mark.parametrize("nb", [1, 2, 3, 5, 11, 12, 13])
@pytest.mark.parametrize(("m", "n"), [(12, 12), (11, 12), (14, 5)])
def test_any_tile_size(m, n, nb):
    a = random_matrix(m, n, DTYPES[nb % 4])
    assert max(ratios(a, *tw.polar(a, tile_size=nb, workers=1), "right")[:2]) < THRESHOLD


@pytest.mark.parametrize("rank", [0, 1, 5])
def test_a_singular_matrix_has_a_factor_of_full_rank(rank):
    a = random_matrix(12, rank) @ random_matrix(rank, 9)
    assert max(ratios(a, *tw.polar(a, tile_size=4), "right")[:2]) < THRESHOLD


def test_ill_conditioned_matrices_take_six_steps_and_stay_orthogonal():
    left, right = (np.linalg.qr(random_matrix(16, 16, seed=seed))[0] for seed in (1, 2))
    a = (left * 10.0 ** -np.linspace(0, 15, 16)) @ right
    assert max(ratios(a, *tw.polar(a, tile_size=5), "right")[:2]) < THRESHOLD
    assert len(list(weights(1e-16, 2.0**-53))) == 6 and len(list(weights(0.5, 2.0**-53))) <= 4
    assert list(weights(1.0, 2.0**-53)) == []


def test_of_nothing():
    u, p = tw.polar(np.zeros((0, 3)))
    assert u.shape == (0, 3) and np.array_equal(p, np.zeros((3, 3)))


@pytest.mark.parametrize(("backend", "workers"), [("threads", 3), ("mpi", 2), ("dask", 2)])
def test_engines_and_workers_make_the_same_bits(backend, workers):
    for a in (random_matrix(17, 13), random_matrix(9, 14, "complex64")):
        found = tw.polar(a, tile_size=5, backend=backend, workers=workers)
        wanted = tw.polar(a, tile_size=5, backend="serial")
        assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))


class TestInput:
    @pytest.mark.needs("torch")
    def test_tiles_and_tensors(self):
        a = random_matrix(13, 9)
        wanted = tw.polar(a, tile_size=4)
        tiled, tensors = tw.polar(TiledMatrix.from_numpy(a, 4)), tw.polar(torch.from_numpy(a), tile_size=4)
        assert isinstance(tiled[0], TiledMatrix) and torch.is_tensor(tensors[1])
        for found in (tiled, tensors):
            assert all(np.array_equal(np.asarray(one), other) for one, other in zip(found, wanted, strict=True))

    @pytest.mark.needs("distributed")
    def test_dask_arrays(self):
        import dask.array as da

        a = random_matrix(13, 9)
        found = tw.polar(da.from_array(a, chunks=(4, 9)), tile_size=4, workers=2)
        assert isinstance(found[0], da.Array)
        wanted = tw.polar(a, tile_size=4)
        assert all(np.array_equal(np.asarray(one), other) for one, other in zip(found, wanted, strict=True))

    def test_refusals(self):
        a = random_matrix(9, 5)
        for kind, message, call in (
            (ValueError, "unknown side", lambda: tw.polar(a, "up")),
            (ValueError, "NaN or infinity", lambda: tw.polar(np.where(a > 0, np.nan, a), tile_size=4)),
            (TypeError, "float16", lambda: tw.polar(a.astype("float16"))),
        ):
            with pytest.raises(kind, match=message):
                call()
