"""Threshold pivoting, no pivoting and butterflies: what they promise, and what happens where they fail."""

import re
import warnings
from math import ceil

import numpy as np
import pytest
from matrices import DTYPES, foster, inverse_ratio, lu_ratio, random_matrix, roundoff, solve_ratio, wilkinson

import tilewright as tw
from tilewright.linalg.butterfly import DEPTH, levels, meetings, random_butterflies
from tilewright.linalg.lu_graph import PIVOTING
from tilewright.linalg.tuning import lu_together

FALLING_BACK = ("threshold", "none", "butterfly")


def dominant(n, dtype="float64"):
    return random_matrix(n, n, dtype) + 2 * n * np.eye(n, dtype=dtype)


def backward_error(a, x, b):
    sizes = np.abs(a).sum(axis=1).max(), np.abs(x).max(), np.abs(b).max()
    return np.abs(b - a @ x).max() / (sizes[0] * sizes[1] + sizes[2])


class TestThreshold:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("tau", [0.1, 0.5, 0.9])
    def test_entries_of_l_are_at_most_one_over_tau(self, tau, dtype):
        for m, n, nb in ((25, 25, 7), (30, 11, 4), (11, 30, 4), (40, 20, 20)):
            a = random_matrix(m, n, dtype)
            factor = tw.lu_factor(a, pivoting="threshold", threshold=tau, tile_size=nb, workers=1)
            size = np.abs(factor.L)
            assert size.max() <= (1 + 1e-5) * (2**0.5 if a.dtype.kind == "c" else 1) / tau
            assert tau == 0.9 or size.max() > 1.01  # partial pivoting it is not
            assert lu_ratio(a, factor.lu, factor.piv) < 30
            assert 1 <= factor.growth <= (1 + 1 / tau) ** (min(m, n) - 1)

    def test_the_diagonal_is_taken_where_it_is_good_enough(self):
        a = np.array([[1.0, 0, 0], [1.9, 1, 0], [0.5, 0, 1]])
        assert tw.lu_factor(a, pivoting="threshold").piv.tolist() == [0, 1, 2]
        assert tw.lu_factor(a, pivoting="threshold", threshold=0.6).piv.tolist()[0] == 1

    def test_else_a_row_of_the_diagonal_tile_and_else_the_largest_of_all(self):
        a = np.eye(6)
        a[:, 0] = [0.1, 0.2, 0.7, 0.6, 1, 0.9]
        for tau, nb, row in ((0.5, 3, 2), (0.8, 3, 4), (0.5, 2, 4), (0.2, 2, 1), (0.1, 2, 0), (1, 3, 4), (0.95, 6, 4)):
            assert tw.lu_factor(a, pivoting="threshold", threshold=tau, tile_size=nb).piv[0] == row, (tau, nb)

    def test_fewer_rows_move_between_tiles(self):
        a, nb = random_matrix(60, 60), 10
        ends = np.arange(60) // nb * nb + nb
        far = [
            np.count_nonzero(tw.lu_factor(a, tile_size=nb, **how).piv >= ends)
            for how in ({}, {"pivoting": "threshold", "threshold": 0.5}, {"pivoting": "threshold", "threshold": 0.1})
        ]
        assert far[0] > 2 * far[1] > 4 * far[2]

    @pytest.mark.parametrize("update", ["tile", "column"])
    def test_one_is_partial_pivoting_to_the_bit(self, update):
        a = random_matrix(30, 30)
        one, other = (
            tw.lu_factor(a, tile_size=8, update=update, **how)
            for how in ({}, {"pivoting": "threshold", "threshold": 1})
        )
        assert np.array_equal(one.lu, other.lu) and np.array_equal(one.piv, other.piv)

    @pytest.mark.parametrize("nb", [1, 3, 8])
    def test_nasty_cases(self, nb):
        how = {"pivoting": "threshold", "threshold": 0.25, "tile_size": nb}
        swapped = np.kron([[0, 1], [1, 0]], np.eye(4))
        lu, piv = tw.lu_factor(swapped, **how)
        assert piv.tolist() == [4, 5, 6, 7, 4, 5, 6, 7] and np.array_equal(lu, np.eye(8))
        with pytest.warns(RuntimeWarning, match="Diagonal number 1"):
            zero = tw.lu_factor(np.zeros((5, 5)), **how)
        assert zero.info == 1 and zero.piv.tolist() == [0, 1, 2, 3, 4]
        s = np.finfo(float).tiny / 64
        small = tw.lu_factor(np.array([[0, s], [s, 0]]), **how)
        assert small.piv.tolist() == [1, 1] and small.solve(np.array([s, 2 * s])).tolist() == [2, 1]
        tiniest = np.array([[0, 5e-324], [5e-324, 0]])  # a quarter of it is zero, which is no pivot
        assert tw.lu_factor(tiniest, **how).piv.tolist() == [1, 1]
        bad = random_matrix(8, 8)
        bad[5, 2] = np.nan
        piv = tw.lu_factor(bad, check_finite=False, **how).piv
        assert ((piv >= np.arange(8)) & (piv < 8)).all()


class TestButterflies:
    @pytest.mark.parametrize("nt", [1, 2, 3, 4, 5, 8, 9])
    def test_every_row_has_its_place_on_every_level(self, nt):
        found = levels(nt)
        assert len(found) == DEPTH and sum(map(len, found)) == meetings(nt)
        blocks = [nt]
        for here in found:
            assert sorted(i for rows, _ in here for i in rows) == list(range(nt))
            halves = [ceil(block / 2) for block in blocks]
            assert {b - a for a, b in (rows for rows, _ in here if len(rows) == 2)} <= {*halves}
            blocks = [half for whole, up in zip(blocks, halves, strict=True) for half in (up, whole - up)]

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(("n", "nb"), [(1, 1), (2, 8), (5, 8), (7, 3), (8, 4), (13, 3), (23, 4), (24, 6)])
    def test_the_factor_is_that_of_the_transformed_matrix(self, n, nb, dtype):
        a = random_matrix(n, n, dtype)
        factor = tw.lu_factor(a, pivoting="butterfly", tile_size=nb, workers=1)
        u, v = (dense(n, nb, side, dtype) for side in (0, 1))
        lower, upper = np.tril(factor.lu, -1) + np.eye(n), np.triu(factor.lu)
        size = factor.growth * np.abs(a).max() * n
        assert np.allclose(lower @ upper, u.T @ a @ v, atol=50 * size * roundoff(dtype))
        assert np.array_equal(factor.piv, np.arange(n)) and factor.growth >= 0.1
        assert np.abs(u.T @ u - np.eye(n)).max() < 0.3  # nearly orthogonal
        assert n < 6 or np.count_nonzero(u[0]) == 4

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(("n", "nb"), [(1, 4), (11, 4), (20, 5), (16, 32)])
    def test_it_solves_and_has_an_inverse_and_a_determinant(self, n, nb, dtype):
        a, b = random_matrix(n, n, dtype), random_matrix(n, 3, dtype)
        factor = tw.lu_factor(a, pivoting="butterfly", tile_size=nb, workers=2)
        near = 100 * max(factor.growth, 1)
        for trans, op in enumerate((a, a.T, a.conj().T)):
            assert solve_ratio(op, factor.solve(b, trans), b) < near
        assert np.array_equal(tw.lu_solve(factor, b), factor.solve(b))
        assert inverse_ratio(a, factor.inv()) < near
        assert inverse_ratio(a, tw.inv(a, pivoting="butterfly", tile_size=nb)) < 30  # by another factor if need be
        close = 1e4 * near * roundoff(dtype)
        assert factor.det() == pytest.approx(np.linalg.det(a.astype(factor.det().dtype)), rel=close)
        for found, wanted in zip(factor.slogdet(), np.linalg.slogdet(a), strict=True):
            assert found == pytest.approx(wanted, rel=close, abs=close)
        assert tw.det(a, pivoting="butterfly", tile_size=nb) == pytest.approx(factor.det(), rel=close)
        for norm in (1, np.inf):
            assert factor.rcond(norm) == pytest.approx(1 / np.linalg.cond(a, norm), rel=0.7)

    def test_a_zero_leading_block_is_no_obstacle(self):
        a = np.kron([[0, 1], [1, 0]], random_matrix(16, 16))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert tw.lu_factor(a, pivoting="none", tile_size=5).info == 1
        for nb in (5, 16, 32):
            factor = tw.lu_factor(a, pivoting="butterfly", tile_size=nb)
            assert factor.info == 0 and factor.growth < 1e3
            x, info = tw.solve(a, np.ones(32), assume_a="gen", pivoting="butterfly", tile_size=nb, return_info=True)
            assert len(info.path) == 1 and backward_error(a, x, np.ones(32)) <= 32 * 2.0**-53

    def test_what_is_none_of_the_matrix_is_refused(self):
        a = random_matrix(12, 12)
        factor = tw.lu_factor(a, pivoting="butterfly", tile_size=4)
        for what in ("L", "U", "perm"):
            with pytest.raises(
                ValueError, match=rf"^{what} of a factor with butterflies is that of U\^T A V, not of A"
            ):
                getattr(factor, what)
        for call in (lambda: tuple(factor), lambda: factor[0], lambda: factor[1]):
            with pytest.raises(ValueError, match=r"the pair \(lu, piv\) of a factor with butterflies"):
                call()
        with pytest.raises(ValueError, match="gives no P, L and U of A"):
            tw.lu(a, pivoting="butterfly")
        with pytest.raises(ValueError, match="is for square matrices, not 12 x 5"):
            tw.lu_factor(a[:, :5], pivoting="butterfly")
        with pytest.raises(ValueError, match="tile_size of a factor with butterflies is its own, 4, not 5"):
            tw.lu_solve(factor, np.ones(12), tile_size=5)

    def test_the_same_call_gives_the_same_bits(self):
        a = random_matrix(20, 20)
        one, other = (tw.lu_factor(a, pivoting="butterfly", tile_size=6).lu for _ in range(2))
        assert np.array_equal(one, other)


def dense(n, nb, side, dtype):
    """U or V as a matrix: what its butterflies make of the identity."""
    from tilewright.linalg.butterfly import insert_butterflies

    g = tw.TaskGraph("butterflies")
    x = np.eye(n)
    tiles = tw.TiledMatrix.view(x, nb)
    insert_butterflies(g, g.handles("W"), g.handles("X"), side, tiles.mt, tiles.nt, forward=True)
    weights = {place: part.astype(float) for place, part in random_butterflies(n, nb, dtype).parts().items()}
    tw.run(g, {"X": tiles, "W": weights}, backend="serial")
    return x


class TestSolve:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("pivoting", PIVOTING)
    @pytest.mark.parametrize("shape", [(23,), (23, 3)])
    def test_every_pivoting_solves_to_working_precision(self, shape, pivoting, dtype):
        a = random_matrix(23, 23, dtype) if pivoting != "none" else dominant(23, dtype)
        b = random_matrix(23, int(np.prod(shape[1:])), dtype).reshape(shape)
        x, info = tw.solve(a, b, assume_a="gen", pivoting=pivoting, tile_size=6, return_info=True)
        assert x.shape == shape and x.dtype == dtype and backward_error(a, x, b) <= 23 * roundoff(dtype)
        assert [attempt.status for attempt in info.path] == ["converged"] and info.structure == "gen"
        assert info.growth < 1e4 and info.rcond > 1e-6 and info.backward_error <= 23 * roundoff(dtype)
        assert pivoting == "partial" or f"{pivoting} lu iteration" in str(info)

    def test_growth_without_pivoting_falls_back_to_partial_pivoting(self):
        a, b = np.array([[1e-20, 1], [1, 1]]), np.array([1.0, 2.0])
        assert tw.lu_factor(a, pivoting="none").growth == 1e20
        x, info = tw.solve(a, b, assume_a="gen", pivoting="none", return_info=True)
        assert np.allclose(x, [1, 1]) and info.growth == 1
        assert [attempt.status for attempt in info.path] == ["diverged", "converged"]
        assert info.path[0].reason == "growth 1.0e+20"

    def test_a_zero_pivot_falls_back_and_says_where(self):
        a = np.kron([[0, 1], [1, 0]], random_matrix(6, 6))
        x, info = tw.solve(a, np.ones(12), assume_a="gen", pivoting="none", tile_size=4, return_info=True)
        assert np.allclose(a @ x, 1)
        assert "breaks down at the leading minor of order 1 (-3)" in str(info)
        with pytest.warns(RuntimeWarning, match="Diagonal number 1"):
            factor = tw.lu_factor(a, pivoting="none", tile_size=4)
        assert factor.info == 1 and factor.growth == np.inf

    def test_refinement_that_does_not_converge_falls_back(self):
        n, nb = 24, 6
        q, r = (np.linalg.qr(random_matrix(n, n, seed=s))[0] for s in (1, 2))
        m = (q * 1e-10 ** np.linspace(0, 1, n)) @ r
        m[0, 0] = 1e-12  # what butterflies make of a: a growth of 2e9 at a condition of 1e10
        u, v = (dense(n, nb, side, float) for side in (0, 1))
        a = np.linalg.solve(u.T, m) @ np.linalg.inv(v)
        b = np.ones(n)
        assert 1e9 < tw.lu_factor(a, pivoting="butterfly", tile_size=nb).growth < 1e10
        x, info = tw.solve(a, b, assume_a="gen", pivoting="butterfly", tile_size=nb, return_info=True)
        assert backward_error(a, x, b) <= n * 2.0**-53 and info.growth < 100
        assert [attempt.status for attempt in info.path] == ["stalled", "converged"]
        assert info.path[0].reason.startswith("backward error")

    @pytest.mark.parametrize("pivoting", FALLING_BACK)
    def test_singular_matrices_are_found_by_partial_pivoting(self, pivoting):
        a = random_matrix(10, 10)
        a[:, 6] = 0
        with pytest.raises(tw.SingularMatrixError, match=r"U\[6,6\] is exactly zero"):
            tw.solve(a, np.ones(10), assume_a="gen", pivoting=pivoting, tile_size=4)
        a[:, 6] = a[:, 2]
        with pytest.warns(tw.AccuracyWarning, match="singular to working precision"):
            tw.solve(a, np.ones(10), assume_a="gen", pivoting=pivoting, tile_size=4)

    @pytest.mark.parametrize("a", [wilkinson(60), foster(60)])
    def test_butterflies_solve_what_partial_pivoting_cannot(self, a):
        x, info = tw.solve(a, np.ones(60), assume_a="gen", pivoting="butterfly", tile_size=7, return_info=True)
        assert backward_error(a, x, np.ones(60)) <= 60 * 2.0**-53
        assert info.growth < 1e4 and len(info.path) == 1

    def test_tensors_lists_and_nothing(self):
        assert tw.solve([[2.0, 1], [1, 3]], [3.0, 4], assume_a="gen", pivoting="butterfly") == pytest.approx(1)
        for pivoting in PIVOTING:
            assert tw.solve(np.zeros((0, 0)), np.zeros((0, 2)), assume_a="gen", pivoting=pivoting).shape == (0, 2)

    def test_refusals(self):
        a, b = random_matrix(4, 4), np.ones(4)
        for message, how in (
            ("unknown pivoting 'rook'", {"assume_a": "gen", "pivoting": "rook"}),
            ("pivoting='none' is not for a positive definite matrix, which takes None", {"pivoting": "none"}),
            (
                "precision='fp32' is not for a general matrix with another pivoting than partial, which takes 'auto'",
                {"assume_a": "gen", "pivoting": "none", "precision": "fp32"},
            ),
        ):
            with pytest.raises(ValueError, match=message):
                tw.solve(a, b, **how)
        a[1, 2] = np.inf
        with pytest.raises(ValueError, match=r"a NaN or infinity at \(1, 2\)"):
            tw.solve(a, b, assume_a="gen", pivoting="butterfly")


class TestInversesAndDeterminants:
    """They have no residual to refine with: a factor that is not good enough gives way to partial pivoting."""

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("pivoting", PIVOTING)
    def test_every_pivoting_gives_them(self, pivoting, dtype):
        a = dominant(23, dtype)
        x, run = tw.inv(a, pivoting=pivoting, tile_size=6, return_run=True)
        assert inverse_ratio(a, x) < 30 and not [note for note in run.notes if "gave way" in note]
        sign, size = np.linalg.slogdet(a)
        found = tw.slogdet(a, pivoting=pivoting, tile_size=6)
        assert np.allclose([found.sign, found.logabsdet], [sign, size], rtol=1e-4)
        assert np.isclose(tw.det(a, pivoting=pivoting, tile_size=6), sign * np.exp(size), rtol=1e-3)

    @pytest.mark.parametrize(
        ("pivoting", "a", "why"),
        [
            ("none", np.kron([[0, 1], [1, 0]], np.eye(6) + 0.1), "pivot 1 is zero"),
            ("none", np.array([[1e-20, 1], [1, 1]]), r"growth 1\.0e\+20"),
            ("threshold", random_matrix(12, 12), None),
            ("none", np.array([[1e-9, 1, 2], [1, 1, 3], [2, 5, 1]]), "backward error"),
            ("tournament", wilkinson(60), r"growth 5\.8e\+17"),
            ("threshold", foster(60), "growth"),
        ],
    )
    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_factor_that_is_not_good_enough_gives_way(self, pivoting, a, why, overwrite):
        how = {"pivoting": pivoting, "tile_size": 5}
        x, run = tw.inv(a.copy("F"), overwrite_a=overwrite, return_run=True, **how)
        notes = [note for note in run.notes if "gave way" in note]
        assert len(notes) == (why is not None)
        if why is not None:
            assert re.search(f"pivoting='{pivoting}' gave way to partial pivoting: {why}", notes[0])
            assert np.array_equal(x, tw.inv(a, tile_size=5))
            assert tw.det(a, overwrite_a=overwrite, **how) == tw.det(a, tile_size=5)
            assert tw.slogdet(a, **how) == tw.slogdet(a, tile_size=5)

    def test_butterflies_and_ranks_too(self):
        a = random_matrix(20, 20)
        a[:, 7] = a[:, 3]  # singular but for rounding: butterflies then have no exact zero
        assert abs(tw.det(a, pivoting="butterfly", tile_size=6)) < 1e-6
        a[:, 7] = 0
        with pytest.raises(tw.SingularMatrixError, match=r"U\[7,7\] is exactly zero"):
            tw.inv(a, pivoting="butterfly", tile_size=6)
        assert tw.det(a, pivoting="butterfly", tile_size=6) == 0


class TestRecursivePanels:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(("m", "n", "nb"), [(30, 30, 8), (33, 14, 6), (14, 33, 6), (9, 9, 2), (20, 5, 20)])
    def test_pivots_are_lapack_s_and_bits_do_not_depend_on_workers(self, m, n, nb, dtype):
        a = random_matrix(m, n, dtype)
        how = {"tile_size": nb, "update": "tile", "panel": "recursive"}
        wanted = tw.lu_factor(a, backend="serial", **how)
        assert lu_ratio(a, wanted.lu, wanted.piv) < 30
        assert np.array_equal(wanted.piv, tw.lu_factor(a, tile_size=nb, panel="single").piv)
        for workers in (1, 3):
            assert np.array_equal(tw.lu_factor(a, workers=workers, **how).lu, wanted.lu)

    def test_more_than_sixteen_workers_get_them(self):
        a = random_matrix(20, 20)
        for workers, ops in ((16, {"getrf"}), (17, {"getrf2", "trsm2", "gemm2"})):
            run = tw.lu_factor(a, tile_size=5, workers=workers).run
            assert {task.op.name for task in run.graph} & {"getrf", "getrf2", "trsm2", "gemm2"} == ops

    def test_packed_tiles_and_thresholds(self):
        a = random_matrix(27, 27)
        packed = tw.TiledMatrix.from_numpy(a, 6)
        for how in ({}, {"pivoting": "threshold", "threshold": 0.3}):
            factor = tw.lu_factor(packed, panel="recursive", update="tile", **how)
            wanted = tw.lu_factor(a, tile_size=6, panel="recursive", update="tile", **how)
            assert np.array_equal(factor.lu.to_numpy(), wanted.lu) and np.array_equal(factor.piv, wanted.piv)
            assert np.abs(wanted.L).max() <= 1 / how.get("threshold", 1) + 1e-12

    def test_a_singular_column_is_found(self):
        a = random_matrix(12, 12)
        a[:, 7] = 0
        with pytest.warns(RuntimeWarning, match="Diagonal number 8"):
            assert tw.lu_factor(a, tile_size=6, panel="recursive").info == 8

    def test_where_there_are_none_they_are_refused(self):
        for how in ({"pivoting": "none"}, {"pivoting": "tournament"}):
            with pytest.raises(
                ValueError, match="panel='recursive' is for pivoting partial and threshold in one process"
            ):
                tw.lu_factor(random_matrix(8, 8), panel="recursive", **how)
        with pytest.raises(ValueError, match="unknown panel"):
            tw.lu_factor(random_matrix(8, 8), panel="split")


class TestPanelsTogether:
    """Block columns updated by several panels in one task."""

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(("m", "n", "nb"), [(30, 30, 4), (33, 14, 3), (14, 33, 3), (11, 11, 1)])
    def test_pivots_are_lapack_s_and_bits_do_not_depend_on_workers(self, m, n, nb, dtype):
        a = random_matrix(m, n, dtype)
        how = {"shape": a.shape, "tile_size": nb, "dtype": dtype, "update": "column"}
        piv = tw.lu_factor(a, tile_size=nb).piv
        for pivoting in ("partial", "threshold"):
            for together in (2, 3):
                bits = set()
                for workers, packed in ((1, False), (3, False), (2, True)):
                    tiles = tw.TiledMatrix.view(np.asfortranarray(a).copy(order="F"), nb)
                    tiles = tw.TiledMatrix.from_numpy(a, nb) if packed else tiles
                    g = tw.lu_graph(tiles.mt, tiles.nt, pivoting, together=together, **how)
                    run = tw.run(g, {"A": tiles}, workers=workers)
                    found = np.concatenate([p + nb * h.index[0] for h, p in run["piv"].items()])
                    assert lu_ratio(a, tiles.to_numpy(), found) < 30
                    assert pivoting == "threshold" or np.array_equal(found, piv)
                    bits.add(np.ascontiguousarray(tiles.to_numpy()).tobytes())
                assert len(bits) == 1

    def test_many_panels_of_one_call_go_together_and_the_plan_says_so(self):
        a = random_matrix(40, 40)
        factor = tw.lu_factor(a, tile_size=2, update="column", workers=2)
        together = lu_together(40, 2)
        assert together == 4 and lu_ratio(a, factor.lu, factor.piv) < 30
        updates = [task for task in factor.run.graph if task.op.name == "swpgemm"]
        assert max(sum(use.handle.name == "piv" for use in task.uses) for task in updates) == together
        wanted = tw.lu_factor(a, tile_size=2, update="column", backend="serial")
        assert np.array_equal(factor.lu, wanted.lu)
        x = factor.solve(np.ones(40))
        assert np.abs(a @ x - 1).max() < 1e-11
