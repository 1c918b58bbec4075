"""Eigenvalues as users call them: kinds of input, engines, errors before any task runs."""

import numpy as np
import pytest
from matrices import DTYPES, eigen_ratios, he_matrix, random_matrix, roundoff
from optional import torch

import tilewright as tw
from tilewright import SCHEDULERS, TiledMatrix

A = np.array(he_matrix(13, 22))
PLAN = {"tile_size": 6, "band": 3}
WANTED = np.linalg.eigvalsh(A)


class TestConventions:
    def test_a_pair_with_names(self):
        found = tw.eigh(A, **PLAN)
        assert np.allclose(found.eigenvalues, WANTED) and found.eigenvectors.shape == (22, 22)
        w, v, run = tw.eigh(A, **PLAN, return_run=True)
        assert np.array_equal(w, found.eigenvalues) and np.array_equal(v, found.eigenvectors)
        assert {"panel", "product", "update", "chase", "tridiag", "apply", "back"} <= {t.op.name for t in run.graph}
        w, run = tw.eigvalsh(A, **PLAN, return_run=True)
        assert np.allclose(w, WANTED) and "back" not in {t.op.name for t in run.graph}

    def test_the_input_is_kept(self):
        for a in (A.copy(), np.asfortranarray(A)):
            tw.eigh(a, **PLAN)
            assert np.array_equal(a, A)

    @pytest.mark.parametrize("dtype", ["int64", "int8", "bool"])
    def test_integers_become_float64(self, dtype):
        a = (100 * A).astype(dtype)
        assert np.allclose(tw.eigvalsh(a, **PLAN), np.linalg.eigvalsh(np.tril(a).astype(float)))

    def test_of_nothing(self):
        w, v = tw.eigh(np.zeros((0, 0)))
        assert w.shape == (0,) and v.shape == (0, 0) and tw.eigvalsh(np.zeros((0, 0), "F")).dtype == np.float32

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_plans_by_default(self, dtype):
        for n in (5, 130, 300):
            a = he_matrix(13, n, dtype)
            assert max(eigen_ratios(a, *tw.eigh(a))) < 60


class TestOneStage:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_small_matrix_is_one_task_and_a_note_says_so(self, dtype):
        for n in (1, 2, 31):
            a = np.array(he_matrix(13, n, dtype))
            w, v, run = tw.eigh(np.triu(a), lower=False, return_run=True)
            assert max(eigen_ratios(a, w, v)) < 60 and any("one stage" in note for note in run.notes)
            assert {t.op.name for t in run.graph} <= {"largest", "scale", "fill", "vectors", "scatter"}
            only, run = tw.eigvalsh(a, return_run=True)
            assert np.abs(only - w).max() <= 60 * roundoff(dtype) * np.abs(w).max()
            assert {t.op.name for t in run.graph} == {"largest", "scale", "fill", "values"}

    def test_subsets(self):
        for subset in ((0, 3), (5, 21), (21, 21)):
            w, v = tw.eigh(A, subset_by_index=subset)
            assert np.allclose(w, WANTED[subset[0] : subset[1] + 1]) and np.allclose(A @ v, v * w)
            assert np.allclose(tw.eigvalsh(A, subset_by_index=subset), w)

    def test_a_band_makes_it_two(self):
        _, run = tw.eigvalsh(A, band=3, return_run=True)
        names = {t.op.name for t in run.graph}
        assert {"panel", "gather", "values"} < names and not any("one stage" in note for note in run.notes)


class TestInput:
    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("lower", [True, False])
    def test_tiled_matrices(self, packed, lower):
        half = np.tril(A) if lower else np.triu(A)
        tiles = TiledMatrix.from_numpy(half, 6) if packed else TiledMatrix.view(half, 6)
        w, v = tw.eigh(tiles, band=3, lower=lower)
        assert isinstance(v, TiledMatrix) and v.tile_size == 6
        wanted = tw.eigh(half, **PLAN, lower=lower)
        assert np.array_equal(w, wanted[0]) and np.array_equal(v.to_numpy(), wanted[1])

    @pytest.mark.needs("torch")
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_tensors_in_tensors_out(self, dtype):
        a = np.array(he_matrix(13, 13, dtype))
        w, v = tw.eigh(torch.from_numpy(a), tile_size=5)
        assert torch.is_tensor(v) and max(eigen_ratios(a, w, v.numpy())) < 60

    @pytest.mark.needs("distributed")
    @pytest.mark.parametrize("chunks", [(5, 8), ((2, 20), (11, 11))])
    @pytest.mark.parametrize("dtype", ["float64", "complex64"])
    def test_dask_arrays_of_any_chunks(self, chunks, dtype):
        import dask.array as da

        a = np.array(he_matrix(13, 22, dtype))
        for lower in (True, False):
            half = np.tril(a) if lower else np.triu(a)
            w, v = tw.eigh(da.from_array(half, chunks=chunks), **PLAN, lower=lower, workers=2)
            wanted = tw.eigh(half, **PLAN, lower=lower)
            assert isinstance(v, da.Array) and v.shape == (22, 22)
            assert np.array_equal(w, wanted[0]) and np.array_equal(v.compute(), wanted[1])

    def test_refusals_come_before_any_task(self):
        nan = A.copy()
        nan[7, 3] = np.nan
        cases = [
            (TypeError, "float16", lambda: tw.eigh(A.astype("float16"))),
            (ValueError, "must be square, not 22 x 4", lambda: tw.eigvalsh(A[:, :4])),
            (ValueError, "must be 2-D", lambda: tw.eigh(A[0])),
            (ValueError, "band=7 is wider than the tiles, of 6 rows", lambda: tw.eigh(A, tile_size=6, band=7)),
            (ValueError, "band", lambda: tw.eigvalsh(A, band=0)),
            (ValueError, r"subset_by_index=\(3, 22\) is no part of the eigenvalues 0 to 21",
             lambda: tw.eigh(A, subset_by_index=(3, 22))),
            (ValueError, r"subset_by_index=\(4, 3\)", lambda: tw.eigh(A, subset_by_index=(4, 3))),
            (TypeError, "subset_by_index must be two numbers", lambda: tw.eigh(A, subset_by_index=3)),
            (TypeError, "unknown option grad", lambda: tw.eigh(A, grad=2)),
            (ValueError, r"has a NaN or infinity at \(7, 3\); check_finite=False", lambda: tw.eigh(nan, **PLAN)),
        ]  # fmt: skip
        for kind, message, call in cases:
            with pytest.raises(kind, match=message):
                call()
        assert np.isfinite(tw.eigvalsh(nan.T, **PLAN)).all()  # above the diagonal

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_nan_and_infinities_unseen_end_the_call(self, dtype):
        for value in (np.nan, np.inf):
            a = np.array(he_matrix(13, 14, dtype))
            a[9, 2] = value
            try:
                assert not np.isfinite(tw.eigvalsh(a, tile_size=4, band=2, check_finite=False)).all()
            except np.linalg.LinAlgError as error:
                assert "did not find all eigenvalues" in str(error)


ENGINES = [("serial", None), ("threads", 1), ("threads", 2), ("threads", 4), ("mpi", 3), ("dask", 2)]


class TestEngines:
    @pytest.mark.parametrize(("backend", "workers"), ENGINES)
    def test_engines_and_workers(self, backend, workers):
        for dtype in ("float64", "complex64") if backend in ("serial", "threads") else ("complex64",):
            a = he_matrix(13, 27, dtype)
            for subset in (None, (3, 11)):
                wanted = tw.eigh(a, **PLAN, backend="serial", subset_by_index=subset)
                found = tw.eigh(a, **PLAN, backend=backend, workers=workers, subset_by_index=subset)
                assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))
            found = tw.eigvalsh(a, **PLAN, backend=backend, workers=workers)
            assert np.array_equal(found, tw.eigvalsh(a, **PLAN, backend="serial"))

    @pytest.mark.parametrize("scheduler", SCHEDULERS)
    def test_policies(self, scheduler):
        wanted = tw.eigh(A, **PLAN, backend="serial")
        found = tw.eigh(A, **PLAN, scheduler=scheduler, workers=3)
        assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))

    def test_random_matrices_agree_with_numpy(self):
        a = random_matrix(40, 40)
        assert np.allclose(tw.eigvalsh(a + a.T, tile_size=16, band=8), np.linalg.eigvalsh(a + a.T))
