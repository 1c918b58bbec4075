"""Singular values and vectors: LAPACK's ratios, kinds of input, engines."""

import numpy as np
import pytest
from matrices import DTYPES, GENERAL, ge_matrix, random_matrix, roundoff, svd_ratios, values_ratio
from optional import torch

import tilewright as tw
from tilewright import TiledMatrix

THRESHOLD = 50
SHAPES = [(0, 3), (3, 0), (1, 1), (1, 6), (6, 1), (2, 2), (7, 7), (8, 8), (9, 8), (19, 19), (19, 7), (7, 19), (23, 21)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n"), SHAPES)
@pytest.mark.parametrize(("nb", "b"), [(8, 4), (4, 4), (3, 1)])
def test_lapack_ratios(dtype, m, n, nb, b):
    for kind in GENERAL[(m + nb) % 3 :: 3]:
        a = ge_matrix(kind, m, n, dtype)
        u, s, vh = tw.svd(a, bool(kind % 2), tile_size=nb, workers=1)
        k = min(m, n)
        assert u.shape == (m, m if kind % 2 else k) and vh.shape == (n if kind % 2 else k, n)
        assert s.dtype == a.real.dtype and u.dtype == vh.dtype == a.dtype and (np.diff(s) <= 0).all()
        assert max(svd_ratios(a, u, s, vh)) < THRESHOLD, f"type {kind}: {svd_ratios(a, u, s, vh)}"
        only = tw.svdvals(a, tile_size=nb, band=b, workers=1)
        assert only.shape == s.shape and only.dtype == s.dtype and (only >= 0).all() and (np.diff(only) <= 0).all()
        assert values_ratio(a, only, s) < THRESHOLD, f"type {kind}: {values_ratio(a, only, s)}"


@pytest.mark.parametrize("nb", [1, 2, 4, 6, 9, 13, 14, 20])
@pytest.mark.parametrize(("m", "n"), [(14, 14), (13, 14), (24, 13), (18, 14)])
def test_any_tile_size_and_band(m, n, nb):
    for b, dtype in zip((1, 2, 3, 6), DTYPES, strict=True):
        a = random_matrix(m, n, dtype)
        s = tw.svdvals(a, tile_size=nb, band=min(b, nb), workers=1)
        assert values_ratio(a, s, np.linalg.svd(a, compute_uv=False)) < THRESHOLD


def test_small_singular_values_are_not_lost_as_those_of_a_square_would_be():
    left, right = (np.linalg.qr(random_matrix(20, 20, seed=seed))[0] for seed in (1, 2))
    wanted = 10.0 ** -np.arange(0.0, 20) * 1e3
    s = tw.svdvals((left * wanted) @ right, tile_size=5)
    assert np.abs(s - wanted).max() < 20 * 1e3 * roundoff("float64")
    assert (np.abs(s[:13] / wanted[:13] - 1) < 1e-3).all()  # down to 1e-12 of the largest


class TestInput:
    @pytest.mark.parametrize("packed", [False, True])
    def test_tiled_matrices(self, packed):
        a = random_matrix(19, 8)
        tiles = TiledMatrix.from_numpy(a, 6) if packed else TiledMatrix.view(a, 6)
        u, s, vh = tw.svd(tiles, False)
        wanted = tw.svd(a, False, tile_size=6)
        assert isinstance(u, TiledMatrix) and isinstance(vh, TiledMatrix)
        assert all(np.array_equal(one, other) for one, other in zip((u, s, vh), wanted, strict=True))

    @pytest.mark.needs("torch")
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_tensors_in_tensors_out(self, dtype):
        a = random_matrix(9, 14, dtype)
        u, s, vh = tw.svd(torch.from_numpy(a), tile_size=4)
        assert torch.is_tensor(u) and torch.is_tensor(vh) and max(svd_ratios(a, u.numpy(), s, vh.numpy())) < 50

    @pytest.mark.needs("distributed")
    @pytest.mark.parametrize("shape", [(22, 7), (7, 22), (12, 12)])
    def test_dask_arrays(self, shape):
        import dask.array as da

        a = random_matrix(*shape)
        found, wanted = tw.svd(da.from_array(a, chunks=5), tile_size=4, workers=2), tw.svd(a, tile_size=4)
        assert isinstance(found.U, da.Array) and found.Vh.shape == wanted.Vh.shape
        assert all(np.array_equal(np.asarray(one), other) for one, other in zip(found, wanted, strict=True))
        assert np.array_equal(
            tw.svdvals(da.from_array(a, chunks=5), tile_size=4, workers=2), tw.svdvals(a, tile_size=4)
        )

    def test_refusals(self):
        a = random_matrix(9, 5)
        nan = a.copy()
        nan[7, 3] = np.inf
        for kind, message, call in (
            (TypeError, "float16", lambda: tw.svd(a.astype("float16"))),
            (ValueError, "must be 2-D", lambda: tw.svdvals(a[0])),
            (ValueError, "band=7 is wider than the tiles, of 6 rows", lambda: tw.svdvals(a, tile_size=6, band=7)),
            (ValueError, r"has a NaN or infinity at \(7, 3\); check_finite=False", lambda: tw.svd(nan, tile_size=4)),
            (ValueError, r"has a NaN or infinity at \(7, 3\)", lambda: tw.svdvals(nan, tile_size=4)),
            (ValueError, r"has a NaN or infinity at \(3, 7\)", lambda: tw.svdvals(nan.T, tile_size=4)),
            (TypeError, "unknown option grad", lambda: tw.svd(a, grad=2)),
        ):
            with pytest.raises(kind, match=message):
                call()


@pytest.mark.parametrize(("backend", "workers"), [("threads", 3), ("mpi", 3), ("dask", 2)])
@pytest.mark.parametrize("shape", [(26, 9), (14, 15)])
def test_engines_and_workers_make_the_same_bits(backend, workers, shape):
    for dtype in ("float64", "complex64"):
        a = random_matrix(*shape, dtype)
        found, wanted = (
            tw.svd(a, False, tile_size=4, **how)
            for how in ({"backend": backend, "workers": workers}, {"backend": "serial"})
        )
        assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))
        found = tw.svdvals(a, tile_size=4, backend=backend, workers=workers)
        assert np.array_equal(found, tw.svdvals(a, tile_size=4, backend="serial"))
