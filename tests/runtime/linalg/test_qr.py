"""QR as users call it: conventions, kinds of input, engines, errors before any task runs."""

import pickle

import numpy as np
import pytest
import scipy.linalg
from matrices import DTYPES, qr_ratio, random_matrix, roundoff
from optional import torch

import tilewright as tw
from tilewright import SCHEDULERS, TiledMatrix
from tilewright.linalg.qr import _qr_graph
from tilewright.linalg.qr_plan import qr_plan

A = random_matrix(47, 13)
B = random_matrix(47, 4, seed=1)
DOMAINS = ("hierarchical", 2, "greedy", "binary")


def scipys(a, mode):
    """What SciPy says; to the empty ones from 1.14 on."""
    if a.size:
        return scipy.linalg.qr(a, mode=mode)
    (m, n), long = a.shape, mode in ("full", "r")
    q, r = np.eye(m, m if long else 0, dtype=a.dtype), np.zeros((m if long else 0, n), a.dtype)
    return {"r": (r,), "raw": ((a, np.zeros(0, a.dtype)), r)}.get(mode, (q, r))


class TestConventions:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("shape", [(7, 7), (9, 4), (4, 9), (1, 6), (6, 1), (0, 0), (0, 3), (3, 0)])
    def test_modes_have_the_shapes_of_scipy(self, dtype, shape):
        a = random_matrix(*shape, dtype)
        for mode in ("full", "economic", "r", "raw"):
            found, wanted = tw.qr(a, mode=mode, tile_size=3), scipys(a, mode)
            assert isinstance(found, tuple) and len(found) == len(wanted)
            if mode == "raw":
                (qr, tau), r = found
                assert np.allclose(qr, wanted[0][0], atol=1e3 * roundoff(dtype)) and qr.flags.f_contiguous
                assert np.allclose(tau, wanted[0][1], atol=1e3 * roundoff(dtype))
                assert np.allclose(r, wanted[1], atol=1e3 * roundoff(dtype)) and r.shape == wanted[1].shape
                continue
            for one, other in zip(found, wanted, strict=True):
                assert one.shape == other.shape and one.dtype == other.dtype
                assert np.allclose(np.abs(one), np.abs(other), atol=1e3 * roundoff(dtype)) or mode == "full"

    def test_integers_become_float64(self):
        (r,) = tw.qr(np.arange(6).reshape(3, 2), mode="r")
        assert r.dtype == np.float64 and r.shape == (3, 2)

    def test_runs_are_returned_where_asked(self):
        _, _, run = tw.qr(A, return_run=True, tile_size=6)
        (r, run) = tw.qr(A, mode="r", return_run=True, tile_size=6, tree="panel")
        assert r.shape == A.shape and {"geqrf", "larfb", "copy", "triu"} <= {task.op.name for task in run.graph}
        x, _, _, _, run = tw.lstsq(A, B, return_run=True, tile_size=6)
        assert x.shape == (13, 4) and "residues" in {task.op.name for task in run.graph}

    def test_what_is_wrong_is_named(self):
        for how, message in (
            ({"mode": "reduced"}, "unknown mode 'reduced'"),
            ({"tree": "bush"}, "unknown tree 'bush'"),
            ({"mode": "raw", "tree": "flat"}, "only tree='panel' makes"),
            ({"mode": "raw", "positive": True}, "own signs"),
        ):
            with pytest.raises(ValueError, match=message):
                tw.qr(A, **how)
        with pytest.raises(ValueError, match="must be 2-D"):
            tw.qr(np.zeros(3))
        with pytest.raises(ValueError, match="b has 3 rows, but the matrix has 47"):
            tw.lstsq(A, np.zeros(3))
        with pytest.raises(ValueError, match=r"b has a NaN or infinity at \(2, 0\)"):
            tw.lstsq(A[:4, :2], [1.0, 2.0, np.nan, 0.0])


class TestFactor:
    def test_its_parts(self):
        factor = tw.qr_factor(A, tile_size=5, tree="greedy")
        assert repr(factor) == "QRFactor(47 x 13, float64, tree='greedy')" and factor.tile_size == 5
        assert qr_ratio(A, factor.explicit(), factor.R) < 30
        q = factor.explicit(full=True)
        assert q.shape == (47, 47) and np.allclose(factor.apply(B[:, 0], "H"), q.T @ B[:, 0])
        assert np.allclose(factor.apply(B, "T"), q.T @ B) and np.allclose(factor.apply(B.T, side="R"), B.T @ q)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_solutions_of_full_rank(self, dtype):
        a, b = random_matrix(31, 12, dtype), random_matrix(31, 3, dtype, seed=1)
        for tree in ("panel", "greedy"):
            factor = tw.qr_factor(a, tile_size=5, tree=tree)
            for rhs in (b, b[:, 0]):
                x = factor.solve(rhs)
                wanted = scipy.linalg.lstsq(a, rhs)[0]
                assert x.shape == wanted.shape and np.allclose(x, wanted, atol=1e3 * roundoff(dtype))

    def test_wider_dtypes_of_right_hand_sides(self):
        factor = tw.qr_factor(A.astype("float32"), tile_size=5)
        for dtype in ("float64", "complex64", "complex128"):
            b = B.astype(dtype)
            assert factor.apply(b).dtype == dtype and factor.solve(b).dtype == dtype
            assert np.allclose(factor.apply(factor.apply(b, "H")), b, atol=1e-5)

    def test_a_zero_on_the_diagonal_is_singular_and_a_wide_matrix_is_for_lstsq(self):
        a = np.diag([1.0, 2.0, 0.0, 3.0])
        with pytest.raises(tw.SingularMatrixError, match=r"R\[2,2\] is exactly zero") as error:
            tw.qr_factor(a, tile_size=2, tree="flat").solve(np.ones(4))
        assert error.value.index == 2 and pickle.loads(pickle.dumps(error.value)).index == 2
        with pytest.raises(ValueError, match="lstsq has the solution of least norm"):
            tw.qr_factor(A.T).solve(np.ones(13))
        with pytest.raises(ValueError, match="its inverse"):
            tw.qr_factor(A.astype(complex)).apply(B, "T")

    def test_it_travels(self):
        factor = pickle.loads(pickle.dumps(tw.qr_factor(A, tile_size=6, tree="flat")))
        assert np.allclose(factor.apply(factor.apply(B), "H"), B)


class TestInput:
    @pytest.mark.parametrize("order", "CF")
    @pytest.mark.parametrize("overwrite", [False, True])
    def test_the_input_is_kept_unless_it_may_be_overwritten(self, order, overwrite):
        a = A.copy(order=order)
        for tree in ("panel", "flat"):
            q, r = tw.qr(a.copy(order=order), mode="economic", overwrite_a=overwrite, tile_size=6, tree=tree)
            wanted = tw.qr(A, mode="economic", tile_size=6, tree=tree)
            assert np.array_equal(q, wanted[0]) and np.array_equal(r, wanted[1])
        tw.qr(a, overwrite_a=overwrite, tile_size=6)
        assert np.array_equal(a, A) or (overwrite and order == "F")

    @pytest.mark.parametrize("packed", [False, True])
    def test_tiled_matrices(self, packed):
        tiles = TiledMatrix.from_numpy(A, 6) if packed else TiledMatrix.view(A.copy(), 6)
        q, r = tw.qr(tiles, mode="economic", tree="flat")
        wanted = tw.qr(A, mode="economic", tile_size=6, tree="flat")
        assert isinstance(q, TiledMatrix) and np.array_equal(q, wanted[0]) and np.array_equal(r, wanted[1])
        factor = tw.qr_factor(tiles, tree="flat")
        found = factor.apply(TiledMatrix.from_numpy(B, 3))
        assert isinstance(found, TiledMatrix) and np.array_equal(found, factor.apply(B))
        assert np.allclose(tw.lstsq(tiles, B)[0], scipy.linalg.lstsq(A, B)[0])

    @pytest.mark.needs("torch")
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_tensors_in_tensors_out(self, dtype):
        a, b = torch.from_numpy(random_matrix(19, 7, dtype)), torch.from_numpy(random_matrix(19, 2, dtype))
        q, r = tw.qr(a, mode="economic", tile_size=4)
        assert torch.is_tensor(q) and torch.allclose(q @ r, a, atol=1e3 * roundoff(dtype))
        factor = tw.qr_factor(a, tile_size=4, tree="greedy")
        for found in (factor.R, factor.explicit(), factor.apply(b, "H"), factor.apply(b.T, side="R"), factor.solve(b)):
            assert torch.is_tensor(found)
        x, residues, rank, s = tw.lstsq(a, b, tile_size=4)
        assert all(map(torch.is_tensor, (x, residues, s))) and rank == 7
        assert torch.allclose(x, factor.solve(b), atol=1e3 * roundoff(dtype))

    @pytest.mark.needs("distributed")
    def test_dask_arrays_of_any_chunks(self):
        import dask.array as da

        x, b = da.from_array(A, chunks=((2, 45), (6, 7))), da.from_array(B, chunks=(20, 4))
        for mode in ("economic", "full", "r"):
            found = tw.qr(x, mode=mode, positive=True, workers=2)
            wanted = tw.qr(A, mode=mode, positive=True)
            assert all(isinstance(part, da.Array) for part in found)
            for one, other in zip(found, wanted, strict=True):
                assert one.shape == other.shape
                assert mode == "full" or np.allclose(one.compute(), other, atol=1e-13)
        tall = random_matrix(400, 9)
        q, r = tw.qr(da.from_array(tall, chunks=(100, 9)), mode="economic", workers=2)
        assert q.chunks == ((100,) * 4, (9,)) and qr_ratio(tall, q.compute(), r.compute()) < 30
        q, r = tw.qr(da.from_array(tall, chunks=(100, 9)), mode="economic", tree="cholesky", workers=2)
        assert q.chunks == ((100,) * 4, (9,)) and qr_ratio(tall, q.compute(), r.compute()) < 30
        factor = tw.qr_factor(x, workers=2)
        applied = factor.apply(factor.apply(b, "H"))
        assert isinstance(applied, da.Array) and np.allclose(applied.compute(), B)
        assert np.allclose(factor.apply(factor.apply(B, "H")), B)
        assert isinstance(factor.R, da.Array) and np.allclose(np.abs(factor.R.compute()), np.abs(np.linalg.qr(A)[1]))
        wanted = scipy.linalg.lstsq(A, B)
        for right in (B, b[:, 0]):
            found = tw.lstsq(x, right, workers=2)
            assert np.allclose(found[0], wanted[0] if right.ndim == 2 else wanted[0][:, 0]) and found[2] == 13
            assert np.allclose(found[1], wanted[1] if right.ndim == 2 else wanted[1][0])
        wide = tw.lstsq(x.T, np.ones(13), workers=2)
        assert np.allclose(wide[0], scipy.linalg.lstsq(A.T, np.ones(13))[0])


class TestEngines:
    """One plan, one result, to the bit."""

    @pytest.mark.parametrize(
        ("backend", "workers", "tree"),
        [
            *(("threads", workers, tree) for workers in (1, 4) for tree in ("panel", "flat", "greedy", DOMAINS)),
            ("mpi", 2, "panel"),
            ("mpi", 2, DOMAINS),
            ("mpi", 4, "flat"),
            ("mpi", 4, "greedy"),
            ("dask", 2, "panel"),
            ("dask", 2, DOMAINS),
        ],
    )
    def test_engines_and_workers(self, backend, workers, tree):
        how = {"tree": tree, "tile_size": 1 if tree == "panel" else 6}  # 17 block columns are updated by twos
        if tree == DOMAINS and backend in ("mpi", "dask"):
            how["grid" if backend == "mpi" else "owner"] = (1, workers) if backend == "mpi" else tw.BlockCyclic(1, 2)
        for dtype in ("float64", "complex64") if backend == "threads" else ("complex128",):
            m = 19 if tree == "panel" else 33
            a, b = random_matrix(m, 17, dtype), random_matrix(m, 5, dtype, seed=1)
            base = {"tree": tree, "tile_size": how["tile_size"], "backend": "serial"}
            wanted = tw.qr(a, mode="economic", **base)
            found = tw.qr(a, mode="economic", backend=backend, workers=workers, **how)
            assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))
            one, other = tw.qr_factor(a, **base), tw.qr_factor(a, backend=backend, workers=workers, **how)
            assert np.array_equal(one.apply(b, "H"), other.apply(b, "H")) and np.array_equal(one.R, other.R)
            assert np.array_equal(one.solve(b), other.solve(b))
            found = tw.lstsq(a, b, backend=backend, workers=workers, **how)
            assert all(np.array_equal(x, y) for x, y in zip(found, tw.lstsq(a, b, **base), strict=True))

    @pytest.mark.parametrize(("backend", "workers"), [("mpi", 2), ("dask", 2)])
    def test_by_cholesky(self, backend, workers):
        a = random_matrix(700, 9)
        for b, note in ((a, False), (a[:, :1] + 1e-12 * a, True)):
            how = {"backend": backend, "workers": workers, "return_run": True}
            q, r, run = tw.qr(b, mode="economic", tree="cholesky", **how)
            assert qr_ratio(b, q, r) < 30 and (r.diagonal() > 0).all()
            assert any("given up" in text for text in run.notes) == note

    @pytest.mark.needs("mpi4py")
    def test_ranks_have_whole_groups_of_columns_and_only_panels_travel(self):
        a = random_matrix(40, 34)
        q, r, run = tw.qr(a, mode="economic", tile_size=2, backend="mpi", workers=2, return_run=True)
        assert all(np.array_equal(x, y) for x, y in zip((q, r), tw.qr(a, mode="economic", tile_size=2), strict=True))
        owner = run.graph.layout.owner
        for task in run.graph:
            assert len({owner(handle) for handle in task.writes}) == 1
            if task.op.name == "larfb" and owner(task.reads[0]) != owner(task.writes[0]):
                assert {handle.name for handle in task.reads if owner(handle) != owner(task.writes[0])} <= {"A", "T"}
        assert [owner(tw.Handle("A", (0, j))) for j in range(10)] == [0, 0, 1, 1, 1, 1, 0, 0, 0, 0]

    def test_panels_run_ahead_on_ranks_and_workers(self):
        """Simulated, of the time of all work without waits; 0.926 and 0.902 by the longest way alone."""
        for grid, ranks, workers, least in (((1, 2), 2, 1, 0.975), (None, 1, 4, 0.97)):
            plan = qr_plan(6144, 6144, "float64", workers=2, here=True, grid=grid)
            g = _qr_graph(plan, None, False, False, True)
            run = tw.simulate(g, tw.Machine(ranks=ranks, workers=workers))
            assert run.trace.makespan <= g.work() / (ranks * workers) / least

    @pytest.mark.needs("mpi4py")
    @pytest.mark.parametrize("how", [{"grid": (1, 2)}, {"grid": (2, 1), "tree": "panel"}], ids=["columns", "rows"])
    def test_panels_of_tiles_that_live_elsewhere_are_gathered_once(self, how):
        a = random_matrix(40, 34)
        q, r, run = tw.qr(a, mode="economic", tile_size=2, backend="mpi", workers=2, return_run=True, **how)
        assert all(np.array_equal(x, y) for x, y in zip((q, r), tw.qr(a, mode="economic", tile_size=2), strict=True))
        owner = tw.BlockCyclic(*how["grid"])
        groups = {tw.Handle(name, (i, j)): owner(j // 2, j // 2) for name in "AQ" for i in range(20) for j in range(17)}
        ranks = {record.task: record.rank for record in run.trace}
        work = [task for task in run.graph if task.op.name in ("geqrf", "larfb")]
        assert {ranks[task.index] for task in work} == {0, 1}
        assert all(ranks[task.index] == groups[handle] for task in work for handle in task.writes if handle in groups)
        sent = [message.handle for message in run.trace.messages if message.handle in groups]
        home = [handle for handle in groups if owner(*handle.index) != groups[handle]]
        panels = sum(len(task.writes) for task in work if task.op.name == "geqrf")
        assert len(sent) <= 2 * len(home) + 2 * panels  # there and back, and panels for A and for Q

    @pytest.mark.needs("mpi4py")
    def test_row_blocks_on_ranks_cross_once_each(self):
        a = random_matrix(6000, 30)
        q, r, run = tw.qr(a, mode="economic", backend="mpi", workers=2, return_run=True, positive=True)
        wanted = tw.qr(a, mode="economic", positive=True)
        assert np.allclose(q, wanted[0], atol=1e-13) and np.allclose(r, wanted[1], atol=1e-12)
        crossing = [
            task
            for task in run.graph
            if task.op.name == "ttqrt" and (task.uses[0].handle.index[0] % 2) != (task.uses[1].handle.index[0] % 2)
        ]
        assert len(crossing) == 1 and 0 < run.messages < 12

    def test_the_working_copy_of_the_matrix_goes_back_to_nobody(self):
        """As large as the matrix, and of no use: on ranks it was as much to bring home as Q."""
        for mode, wanted in (("economic", {"Q", "R"}), ("r", {"R"})):
            run = tw.qr(A, mode=mode, tree="greedy", tile_size=6, return_run=True)[-1]
            assert {handle.name for handle in run.graph.results} == wanted
        *_, run = tw.lstsq(A, A[:, 0], tree="greedy", tile_size=6, return_run=True)
        assert {handle.name for handle in run.graph.results} == {"R", "Y", "N"}
        assert "A" in {handle.name for handle in tw.qr_factor(A, tile_size=6).run.graph.results}

    @pytest.mark.parametrize("scheduler", SCHEDULERS)
    def test_policies(self, scheduler):
        wanted = tw.qr(A, backend="serial", tile_size=4, tree="greedy")
        for workers in (1, 3):
            found = tw.qr(A, scheduler=scheduler, workers=workers, tile_size=4, tree="greedy")
            assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))


class TestPlans:
    def test_the_rule_takes_row_blocks_panels_and_trees(self):
        tall = qr_plan(10**6, 64, "float64", workers=2, here=True)
        assert (tall.tree, tall.height, tall.width) == ("binary", 4096, 64)
        assert qr_plan(10**6, 64, "float64", workers=4, here=False, ranks=4).tree[0] == "hierarchical"
        assert qr_plan(4096, 4096, "float64", workers=2, here=True).tree == "panel"
        plans = [qr_plan(n, n, "float64", workers=2, here=True) for n in (1024, 2048, 4095, 4096, 8192)]
        assert [(p.width, p.across) for p in plans] == [(128, 1), (128, 2), (128, 4), (256, 2), (256, 2)]
        assert [qr_plan(4096, 4096, "float64", workers=w, here=True).tree == "panel" for w in (5, 6)] == [True, False]
        assert qr_plan(4096, 4096, "float64", workers=64, here=True).tree[0] == "hierarchical"
        assert qr_plan(4096, 4096, "float64", workers=2, here=False, ranks=2).tree[0] == "hierarchical"
        assert qr_plan(100, 100, "float64", workers=2, here=True)[2:4] == (100, 100)

    @pytest.mark.parametrize("shape", [(50, 50), (61, 47), (47, 61)])
    def test_updates_take_several_block_columns_and_the_next_panel_s_alone(self, shape):
        a = random_matrix(*shape, "complex128")
        q, r, run = tw.qr(a, mode="economic", tile_size=2, tree="panel", return_run=True)
        assert qr_ratio(a, q, r) < 30
        sizes = {
            len(task.writes) // (len(task.reads) - 1 - len(task.writes))
            for task in run.graph
            if task.op.name == "larfb"
        }
        assert max(sizes) == (shape[1] + 1) // 2 // 8 > 1
        (alone, *_), (first, *_) = ([t for t in run.graph if t.op.name == name] for name in ("larfb", "geqrf"))
        assert {h.index[1] for h in alone.writes} == {1} and {h.index[1] for h in first.writes if h.name == "A"} == {0}
        (found,) = tw.qr(a, mode="r", tile_size=2, tree="panel", workers=3)  # R takes the place of A's copy
        assert found.flags.f_contiguous and np.array_equal(found[: len(r)], r) and not found[len(r) :].any()
        factor = tw.qr_factor(a, tile_size=2, tree="panel", positive=True)
        assert qr_ratio(a, factor.explicit(), factor.R) < 30 and (factor.R.diagonal().real > 0).all()
        (positive,) = tw.qr(a, mode="r", tile_size=2, tree="panel", positive=True)
        assert np.array_equal(positive[: len(r)], factor.R)

    def test_bits_of_tall_matrices_do_not_depend_on_the_workers(self):
        a = random_matrix(9000, 40)
        one, other = (tw.qr(a, mode="economic", workers=workers) for workers in (1, 3))
        assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])
        assert qr_ratio(a, *one) < 30
