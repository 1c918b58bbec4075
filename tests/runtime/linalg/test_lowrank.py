"""The largest singular values by random vectors: errors, seeds, one visit of the tiles for each power iteration."""

import numpy as np
import pytest
from matrices import DTYPES, random_matrix, roundoff
from optional import torch

import tilewright as tw
from tilewright import TiledMatrix


def decaying(m, n, dtype="float64", rate=0.5):
    """Singular values rate^i, and these."""
    k = min(m, n)
    left, right = (np.linalg.qr(random_matrix(size, k, dtype, seed))[0] for seed, size in enumerate((m, n)))
    values = rate ** np.arange(k)
    return ((left * values) @ right.conj().T).astype(dtype), values


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40, 23), (23, 40), (30, 30), (50, 5), (5, 50)])
def test_the_error_is_nearly_that_of_the_best_approximation(dtype, shape):
    a, values = decaying(*shape, dtype)
    for k in (1, 3, 5):
        u, s, vh = tw.svd_lowrank(a, k, tile_size=7, oversample=4)
        assert u.shape == (shape[0], k) and s.shape == (k,) and vh.shape == (k, shape[1]) and s.dtype == a.real.dtype
        u64 = 60 * roundoff(dtype)
        assert np.linalg.norm(u.conj().T @ u - np.eye(k)) < u64 and np.linalg.norm(vh @ vh.conj().T - np.eye(k)) < u64
        assert np.abs(s - values[:k]).max() < 1e-3 * values[k - 1] + u64
        best = values[k] if k < len(values) else 0
        assert np.linalg.norm(a - u * s @ vh, 2) < 1.01 * best + u64


def test_all_of_a_small_matrix_to_working_precision():
    a = random_matrix(12, 9)
    u, s, vh = tw.svd_lowrank(a, 9, tile_size=4)
    assert np.abs(s - np.linalg.svd(a, compute_uv=False)).max() < 1e-14 and np.abs(a - u * s @ vh).max() < 1e-14


def test_power_iterations_make_slowly_falling_values_better():
    a, values = decaying(60, 60, rate=0.95)
    errors = [
        np.abs(tw.svd_lowrank(a, 5, tile_size=16, oversample=5, power_iters=p)[1] - values[:5]).max() for p in (0, 1, 3)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_small_values_of_a_steep_spectrum_come_with_power_iterations():
    a, values = decaying(40, 30, rate=0.1)
    s = tw.svd_lowrank(a, 12, tile_size=9, oversample=8, power_iters=2)[1]
    assert np.abs(s - values[:12]).max() < 1e-14 and np.abs(s[:9] / values[:9] - 1).max() < 1e-3


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_scaled_near_underflow_and_overflow(scale):
    a, values = decaying(30, 20)
    _, s, _ = tw.svd_lowrank(a * scale, 4, tile_size=8)
    assert np.abs(s / scale - values[:4]).max() < 1e-6


def test_a_power_iteration_visits_every_tile_once():
    *_, run = tw.svd_lowrank(random_matrix(20, 15), 3, tile_size=5, power_iters=2, return_run=True)
    visits = {}
    for task in run.graph:
        for handle in task.reads:
            if handle.name == "S" and task.op.name != "largest":
                visits[handle] = visits.get(handle, 0) + 1
    assert len(visits) == 12 and set(visits.values()) == {2 + 2}


@pytest.mark.parametrize(("backend", "workers"), [("threads", 3), ("mpi", 3), ("dask", 2)])
def test_engines_and_workers_make_the_same_bits(backend, workers):
    for dtype in ("float64", "complex64"):
        a, _ = decaying(33, 21, dtype)
        found = tw.svd_lowrank(a, 4, tile_size=6, backend=backend, workers=workers)
        wanted = tw.svd_lowrank(a, 4, tile_size=6, backend="serial")
        assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_seeds_make_the_same_vectors_for_every_tile_size_and_order():
    a = random_matrix(30, 22)
    found = [
        tw.svd_lowrank(b, 4, tile_size=nb, seed=3, power_iters=0, oversample=0)[1]
        for b in (a, np.asfortranarray(a))
        for nb in (5, 8, 30)
    ]
    assert all(np.allclose(one, found[0], rtol=1e-12, atol=0) for one in found)
    assert np.array_equal(found[0], found[3])  # the order in memory does not matter for bits
    other = tw.svd_lowrank(a, 4, tile_size=5, seed=4, power_iters=0, oversample=0)[1]
    assert not np.allclose(other, found[0], rtol=1e-6)


class TestInput:
    @pytest.mark.needs("torch")
    def test_tiles_and_tensors(self):
        a = random_matrix(19, 13)
        wanted = tw.svd_lowrank(a, 3, tile_size=6)
        tiled = tw.svd_lowrank(TiledMatrix.from_numpy(a, 6), 3)
        tensors = tw.svd_lowrank(torch.from_numpy(a), 3, tile_size=6)
        assert isinstance(tiled.U, TiledMatrix) and torch.is_tensor(tensors.Vh)
        for found in (tiled, tensors):
            assert all(np.array_equal(np.asarray(one), other) for one, other in zip(found, wanted, strict=True))

    @pytest.mark.needs("distributed")
    @pytest.mark.parametrize("chunks", [5, ((2, 17), (6, 7))])
    def test_dask_arrays_of_any_chunks(self, chunks):
        import dask.array as da

        a = random_matrix(19, 13)
        found = tw.svd_lowrank(da.from_array(a, chunks=chunks), 3, tile_size=6, workers=2)
        assert isinstance(found.U, da.Array) and isinstance(found.Vh, da.Array)
        for one, other in zip(found, tw.svd_lowrank(a, 3, tile_size=6), strict=True):
            assert np.array_equal(np.asarray(one), other)

    def test_refusals(self):
        a = random_matrix(9, 5)
        for kind, message, call in (
            (ValueError, "k=6, but 9 x 5 matrices have 5 singular values", lambda: tw.svd_lowrank(a, 6)),
            (ValueError, "k must be", lambda: tw.svd_lowrank(a, 0)),
            (ValueError, "seed", lambda: tw.svd_lowrank(a, 2, seed=-1)),
            (ValueError, "power_iters", lambda: tw.svd_lowrank(a, 2, power_iters=-1)),
            (ValueError, "NaN or infinity", lambda: tw.svd_lowrank(np.where(a > 0, np.nan, a), 2)),
        ):
            with pytest.raises(kind, match=message):
                call()
