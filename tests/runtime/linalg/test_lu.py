"""LU as users call it: SciPy's conventions, kinds of input, engines, errors before any task runs."""

import pickle
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
from again import measures_the_machine
from matrices import DTYPES, random_matrix, roundoff
from optional import torch

import tilewright as tw
from tilewright import SCHEDULERS, TiledMatrix

A = random_matrix(23, 23)
B = random_matrix(23, 4, seed=1)


def same(found, wanted):
    """Equal but for rounding, with equal shapes and dtypes."""
    found, wanted = (x if isinstance(x, tuple) else tuple(x) for x in (found, wanted))
    for left, right in zip(found, wanted, strict=True):
        u = roundoff(right.dtype) if right.dtype.kind in "fc" else 0
        assert left.shape == right.shape and left.dtype == right.dtype and np.allclose(left, right, atol=1e4 * u)


class TestConventionsOfSciPy:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("shape", [(7, 7), (9, 4), (4, 9), (1, 6), (6, 1), (0, 0), (0, 3), (3, 0)])
    def test_pairs_and_triples(self, dtype, shape):
        a = random_matrix(*shape, dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # SciPy takes empty matrices from 1.14 on
            same(
                tw.lu_factor(a, tile_size=3), scipy.linalg.lu_factor(a) if a.size else (a, np.arange(0, dtype=np.int32))
            )
            for how in ({}, {"permute_l": True}, {"p_indices": True}):
                same(tw.lu(a, tile_size=3, **how), scipy.linalg.lu(a, **how))
        assert tw.lu_factor(a, tile_size=3).lu.flags.f_contiguous

    @pytest.mark.parametrize("dtype", ["int64", "int8", "bool"])
    def test_integers_become_float64(self, dtype):
        a = (10 * random_matrix(6, 6)).astype(dtype) if dtype != "bool" else random_matrix(6, 6) > -0.5
        same(tw.lu(a, tile_size=3), scipy.linalg.lu(a.astype(float)))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_solutions_inverses_and_determinants(self, dtype):
        a = random_matrix(11, 11, dtype)
        factor, pair = tw.lu_factor(a, tile_size=4), scipy.linalg.lu_factor(a)
        for b in (random_matrix(11, 1, dtype)[:, 0], random_matrix(11, 5, dtype), random_matrix(11, 0, dtype)):
            for trans in (0, 1, 2):
                wanted = scipy.linalg.lu_solve(pair, b, trans)
                same([tw.lu_solve(factor, b, trans), factor.solve(b, trans), tw.lu_solve(pair, b, trans)], [wanted] * 3)
        same([tw.inv(a, tile_size=4), factor.inv()], [scipy.linalg.inv(a)] * 2)
        assert tw.det(a, tile_size=4).dtype == np.asarray(scipy.linalg.det(a)).dtype
        assert tw.det(a, tile_size=4) == pytest.approx(scipy.linalg.det(a), rel=1e6 * roundoff(dtype))
        for found, wanted in zip(tw.slogdet(a, tile_size=4), np.linalg.slogdet(a), strict=True):
            assert found.dtype == wanted.dtype and found == pytest.approx(wanted, rel=1e6 * roundoff(dtype))

    def test_of_nothing(self):
        empty = np.zeros((0, 0))
        assert tw.det(empty) == 1 and tw.slogdet(empty) == (1, 0) and tw.inv(empty).shape == (0, 0)
        assert tw.lu_solve(tw.lu_factor(empty), np.zeros((0, 2))).shape == (0, 2)
        assert tw.solve(empty, np.zeros(0), assume_a="gen").shape == (0,)

    def test_a_singular_factor_is_returned_with_a_warning(self):
        a = np.array([[1.0, 2, 3], [2, 4, 6], [1, 0, 1]])
        a[:, 2] = 0
        message = r"^Diagonal number 3 is exactly zero. Singular matrix.$"
        with pytest.warns(scipy.linalg.LinAlgWarning, match=message) as caught:
            lu, _ = tw.lu_factor(a)
        assert caught[0].filename == __file__ and lu[2, 2] == 0

    def test_widest_dtype_of_factor_and_right_hand_side(self):
        factor = tw.lu_factor(A.astype("float32"), tile_size=7)
        assert factor.solve(B).dtype == np.float64
        assert factor.solve(B.astype("complex64")).dtype == np.complex64
        assert factor.solve(np.ones(23, int)).dtype == np.float64


class TestFactor:
    def test_its_parts(self):
        factor = tw.lu_factor(A[:, :15], tile_size=6)
        assert np.allclose(factor.L @ factor.U, A[:, :15][factor.perm])
        assert len(factor) == 2 and factor[0] is factor.lu and factor[1] is factor.piv and factor.shape == (23, 15)
        assert repr(factor) == "LUFactor(23 x 15, float64, info=0)"
        assert np.isclose(
            factor.norms, [np.abs(A[:, :15]).max(), np.linalg.norm(A[:, :15], 1), np.linalg.norm(A[:, :15], np.inf)]
        ).all()
        assert {"getrf", "gauge"} <= {task.op.name for task in factor.run.graph}

    def test_norms_are_not_known_of_a_matrix_that_was_overwritten_unseen(self):
        factor = tw.lu_factor(np.asfortranarray(A), overwrite_a=True, check_finite=False, tile_size=6)
        assert np.array_equal(factor.lu, tw.lu_factor(A, tile_size=6).lu) and np.isnan(factor.norms).all()
        for call in (factor.rcond, lambda: factor.growth):
            with pytest.raises(ValueError, match="overwritten and not looked at"):
                call()

    def test_it_travels(self):
        factor = pickle.loads(pickle.dumps(tw.lu_factor(A, tile_size=6)))
        assert np.allclose(A @ factor.solve(B), B)

    def test_only_squares_have_determinants(self):
        factor = tw.lu_factor(A[:, :15])
        for call in (factor.det, factor.slogdet, factor.inv, factor.rcond):
            with pytest.raises(ValueError, match="is for square matrices, not 23 x 15"):
                call()

    def test_large_and_small_determinants(self):
        for scale in (1e-30, 1e-3, 1e3, 1e30):
            a = A[:9, :9] * scale
            assert tw.det(a, tile_size=4) == pytest.approx(np.linalg.det(a), rel=1e-10)
        assert tw.det(np.diag([1e200, 1e200, 1e-200, 1e-200])) == pytest.approx(1, rel=1e-12)
        assert tw.det(np.diag([1e-200, 1e-200, 1e200, 1e200])) == pytest.approx(1, rel=1e-12)
        assert tw.det(np.diag([3.0] * 700)) == np.inf and tw.det(np.diag([0.3] * 700)) == 0


class TestInput:
    @pytest.mark.parametrize("order", "CF")
    @pytest.mark.parametrize("overwrite", [False, True])
    def test_the_input_is_kept_unless_it_may_be_overwritten(self, order, overwrite):
        a = A.copy(order=order)
        lu, _ = tw.lu_factor(a, overwrite_a=overwrite, tile_size=6)
        assert np.array_equal(lu, tw.lu_factor(A, tile_size=6).lu)
        assert (lu is a) == (overwrite and order == "F")
        assert lu is a or np.array_equal(a, A)

    @pytest.mark.parametrize("packed", [False, True])
    def test_tiled_matrices(self, packed):
        tiles = TiledMatrix.from_numpy(A, 6) if packed else TiledMatrix.view(A.copy(), 6)
        lu, piv = tw.lu_factor(tiles)
        assert isinstance(lu, TiledMatrix) and lu.tile_size == 6
        wanted = tw.lu_factor(A, tile_size=6)
        assert np.array_equal(lu.to_numpy(), wanted.lu) and np.array_equal(piv, wanted.piv)
        assert np.array_equal(tw.lu_solve((lu, piv), B), wanted.solve(B))
        assert np.array_equal(np.asarray(tw.inv(tiles)), tw.inv(A, tile_size=6))

    @pytest.mark.needs("torch")
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_tensors_in_tensors_out(self, dtype):
        a, b = torch.from_numpy(random_matrix(13, 13, dtype)), torch.from_numpy(random_matrix(13, 2, dtype))
        factor = tw.lu_factor(a, tile_size=5)
        assert torch.is_tensor(factor.lu) and np.array_equal(factor.lu.numpy(), tw.lu_factor(a.numpy(), tile_size=5).lu)
        for found, wanted in ((factor.solve(b), b), (tw.solve(a, b, assume_a="gen"), b), (tw.inv(a) @ b, None)):
            assert torch.is_tensor(found)
            assert wanted is None or torch.allclose(a @ found, wanted, atol=1e4 * roundoff(dtype))
        assert all(map(torch.is_tensor, tw.lu(a))) and torch.is_tensor(factor.inv())

    @pytest.mark.needs("distributed")
    @pytest.mark.parametrize("chunks", [(5, 8), ((2, 12), (5, 9))])
    def test_dask_arrays_of_any_chunks(self, chunks):
        import dask.array as da

        a, b = A[:14, :14], B[:14]
        x = da.from_array(a, chunks=chunks)
        factor = tw.lu_factor(x, tile_size=6, workers=2)
        assert isinstance(factor.lu, da.Array) and factor.lu.chunks == x.chunks
        wanted = tw.lu_factor(a, tile_size=6, update="tile")
        assert np.array_equal(factor.lu.compute(), wanted.lu) and np.array_equal(factor.piv, wanted.piv)
        assert factor.det() == wanted.det() and factor.norms == wanted.norms
        assert np.allclose(a @ tw.lu_solve(factor, b), b)

    def test_refusals_come_before_any_task(self):
        cases = [
            (TypeError, "float16", lambda: tw.lu_factor(A.astype("float16"))),
            (ValueError, "must be 2-D, not of shape", lambda: tw.lu_factor(A[0])),
            (ValueError, "must be square, not 23 x 4", lambda: tw.inv(A[:, :4])),
            (ValueError, "must be square", lambda: tw.det(A[:, :4])),
            (ValueError, "must be square", lambda: tw.solve(A[:, :4], B, assume_a="gen")),
            (ValueError, "unknown pivoting", lambda: tw.lu_factor(A, pivoting="full")),
            (ValueError, "unknown update", lambda: tw.lu_factor(A, update="row")),
            (ValueError, "tile_size", lambda: tw.lu_factor(A, tile_size=0)),
            (TypeError, "unknown option grad", lambda: tw.lu_factor(A, grad=2)),
            (ValueError, "trans must be", lambda: tw.lu_solve(tw.lu_factor(A), B, 3)),
            (ValueError, "b has 5 rows, but the matrix has 23", lambda: tw.lu_solve(tw.lu_factor(A), B[:5])),
            (TypeError, "a pair of matrix and row exchanges", lambda: tw.lu_solve(A[0, 0], B)),
            (ValueError, "piv must be 23 row numbers", lambda: tw.lu_solve((A, np.arange(3)), B)),
            (ValueError, "counted from 0", lambda: tw.lu_solve((A, np.arange(1, 24)), B)),
            (ValueError, "assume_a must be 'pos', .* or a long name", lambda: tw.solve(A, B, assume_a="tri")),
            (ValueError, "refine='cg' is not for a general matrix", lambda: tw.solve(A, B, assume_a="gen", refine="cg")),
            (ValueError, r"b has a NaN or infinity at \(3, 0\)",
             lambda: tw.lu_solve(tw.lu_factor(A), np.where(np.arange(23)[:, None] == 3, np.nan, B))),
        ]  # fmt: skip
        for kind, message, call in cases:
            with pytest.raises(kind, match=message):
                call()
        frozen = np.asfortranarray(A)
        frozen.flags.writeable = False
        with pytest.raises(ValueError, match="read-only"):
            tw.lu_factor(frozen, overwrite_a=True)


class TestSolve:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("shape", [(23,), (23, 1), (23, 9)])
    def test_general_systems(self, dtype, shape):
        a, b = random_matrix(23, 23, dtype), random_matrix(23, int(np.prod(shape[1:])), dtype).reshape(shape)
        x, info = tw.solve(a, b, assume_a="gen", tile_size=6, return_info=True)
        assert x.shape == shape and x.dtype == dtype and np.allclose(a @ x, b, atol=1e4 * roundoff(dtype))
        assert info.structure == "gen" and info.backward_error <= 23 * roundoff(dtype)
        assert info.growth == pytest.approx(tw.lu_factor(a, tile_size=6).growth)
        assert "growth" in str(info) and "rcond" in str(info)

    def test_what_a_matrix_looks_like_decides(self):
        spd = A @ A.T + np.eye(23)
        spd = (spd + spd.T) / 2
        indefinite = spd.copy()
        indefinite[0, 1] = indefinite[1, 0] = 1000
        for a, kind in ((spd, "pos"), (A, "gen"), (-spd, "gen"), (indefinite, "gen")):
            x, info = tw.solve(a, B, assume_a=None, return_info=True)
            assert info.structure == kind and np.allclose(a @ x, B)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("lower", [True, False])
    def test_symmetric_and_hermitian_indefinite_systems_go_by_lu_and_say_so(self, dtype, lower):
        for name in ("sym", "her"):
            a = random_matrix(23, 23, dtype)
            a = a + (a.T if name == "sym" else a.conj().T)
            half, b = np.tril(a) if lower else np.triu(a), random_matrix(23, 3, dtype)
            x, info = tw.solve(half, b, assume_a=name, lower=lower, tile_size=6, return_info=True)
            assert np.allclose(a @ x, b, atol=1e5 * roundoff(dtype)) and info.structure == name
            assert info.path[-1].method == "lu" and "lu" in str(info)
        with pytest.raises(ValueError, match="must be square"):
            tw.solve(half[:, :5], b, assume_a="sym")

    def test_precisions(self):
        x = tw.solve(A.astype("f"), B.astype("f"), assume_a="gen")
        assert x.dtype == np.float32 and np.allclose(A @ x, B, atol=1e-2)
        assert tw.solve(A.astype("f"), B.astype("f"), assume_a="gen", precision="fp64").dtype == np.float64


ENGINES = [
    ("serial", None, "tile"),
    *(("threads", w, u) for w in (1, 2, 4) for u in ("tile", "column")),
    ("mpi", 2, "tile"),
    ("mpi", 4, "tile"),
    ("dask", 2, "tile"),
]


class TestEngines:
    """One plan, one result, to the bit."""

    @pytest.mark.parametrize(("backend", "workers", "update"), ENGINES)
    def test_engines_and_workers(self, backend, workers, update):
        for dtype in ("float64", "complex64") if backend in ("serial", "threads") else ("float64",):
            a, b = random_matrix(21, 16, dtype), random_matrix(16, 5, dtype)
            how = {"tile_size": 6, "update": update}
            wanted = tw.lu_factor(a, backend="serial", **how)
            found = tw.lu_factor(a, backend=backend, workers=workers, **how)
            assert np.array_equal(found.lu, wanted.lu) and np.array_equal(found.piv, wanted.piv)
            assert found.norms == wanted.norms
            square = tw.lu_factor(a[:16], backend=backend, workers=workers, **how)
            wanted = tw.lu_factor(a[:16], backend="serial", **how)
            assert np.array_equal(square.solve(b), wanted.solve(b)) and np.array_equal(square.inv(), wanted.inv())
            assert square.det() == wanted.det()

    @pytest.mark.parametrize(("backend", "workers"), [(b, w) for b, w, update in ENGINES[1:] if update == "tile"])
    def test_engines_and_workers_with_other_pivoting(self, backend, workers):
        a, b = random_matrix(14, 14) + 30 * np.eye(14), random_matrix(14, 2)
        for pivoting in ("threshold", "none", "butterfly"):
            how = {"pivoting": pivoting, "tile_size": 5, "update": "tile"}
            wanted = tw.lu_factor(a, backend="serial", **how)
            found = tw.lu_factor(a, backend=backend, workers=workers, **how)
            assert np.array_equal(found.lu, wanted.lu) and np.array_equal(found.piv, wanted.piv), pivoting
        assert np.array_equal(found.solve(b), wanted.solve(b)) and np.array_equal(found.inv(), wanted.inv())
        solved = [
            tw.solve(a, b, assume_a="gen", pivoting="butterfly", tile_size=5, backend=engine, workers=count)
            for engine, count in (("serial", None), (backend, workers))
        ]
        assert np.array_equal(*solved)
        a = np.kron([[0, 1], [1, 0]], a[:7, :7])  # where none gives way to partial
        for call in (tw.inv, tw.det):
            how = {"pivoting": "none", "tile_size": 5}
            wanted = call(a, tile_size=5, backend="serial")
            assert np.array_equal(call(a, backend=backend, workers=workers, **how), wanted)

    @pytest.mark.needs("mpi4py")
    def test_tournaments_have_the_bits_of_their_number_of_rank_rows(self):
        how = {"backend": "mpi", "tile_size": 6, "pivoting": "tournament"}
        one, other = (tw.lu_factor(A, grid=grid, **how) for grid in ((2, 1), (2, 2)))
        assert np.array_equal(one.lu, other.lu) and np.array_equal(one.piv, other.piv)
        assert np.allclose(one.L @ one.U, A[one.perm]) and np.abs(one.L).max() < 3
        assert {"elect", "matchl", "trade", "take", "crown"} <= {task.op.name for task in one.run.graph}

    @pytest.mark.parametrize("scheduler", SCHEDULERS)
    def test_policies(self, scheduler):
        wanted = tw.lu_factor(A, backend="serial", tile_size=4, update="tile")
        for workers in (1, 3):
            found = tw.lu_factor(A, scheduler=scheduler, workers=workers, tile_size=4, update="tile")
            assert np.array_equal(found.lu, wanted.lu)

    @measures_the_machine
    @pytest.mark.needs("mpi4py")
    def test_a_rank_that_dies_in_a_panel_ends_the_run_within_seconds(self, monkeypatch):
        monkeypatch.syspath_prepend(Path(__file__).parents[1] / "backends")
        import mpi_ops

        with tw.mpi.Pool(2) as pool:
            tw.lu_factor(A, tile_size=6, backend="mpi", pool=pool)
            g = tw.TaskGraph("lu whose second panel is deadly")
            g.handles("piv", shape=6, dtype="int32")
            for task in tw.lu_graph(3, 3, shape=(18, 18), tile_size=6):
                op = tw.Op("getrf", mpi_ops.killed_panel) if task.label == "getrf(1)" else task.op
                g.insert_again(task, op)
            began = time.perf_counter()
            with pytest.raises(tw.RankDied, match="died"):
                tw.run(g, {"A": TiledMatrix.view(np.asfortranarray(A[:18, :18]), 6)}, backend="mpi", pool=pool)
            assert time.perf_counter() - began < 5
