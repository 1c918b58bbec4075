"""LU by tournament and tiles: the factor of a matrix of which not even one block column is in memory."""

import os
import re
from contextlib import closing, suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import DTYPES, lu_ratio, random_matrix, roundoff

import tilewright as tw
from tilewright.linalg import lu_tiles, slab_plan
from tilewright.linalg.slab_plan import lu_plan, lu_plan_in, lu_plan_sized, lu_tiles_plan
from tilewright.linalg.slabs import TileBuffers, Volume
from tilewright.storage.opening import scratch_file
from tilewright.storage.ops import scatter

N, NB = 230, 32
SHAPES = [
    (256, 256),
    (230, 230),
    (230, 100),
    (100, 230),
    (33, 150),
    (150, 33),
    (20, 90),
    (65, 65),
    (1, 1),
    (0, 3),
    (3, 0),
]


@pytest.fixture(autouse=True)
def small_tiles_cost_nothing(monkeypatch):
    """Threads and tasks take more than matrices as small as these."""
    monkeypatch.setattr(slab_plan, "_TASK", 0)
    monkeypatch.setattr(slab_plan, "_THREAD", 0)


def least(plan, *how):
    with pytest.raises(MemoryError, match="the least is") as error:
        plan(*how, 1, 2)
    number, unit = re.search(r"the least is ([\d.]+) (\w+);", str(error.value)).groups()
    return int(float(number) * 1.01 * {"bytes": 1, "KiB": 2**10, "MiB": 2**20}[unit])


def by_tiles(a, out="F.npy", **how):
    return tw.lu_factor(
        a, out=out, **{"pivoting": "tournament", "tile_size": NB, "workers": 2, "overwrite_out": True} | how
    )


def same(one, other):
    assert np.array_equal(one.lu, other.lu) and np.array_equal(one.piv, other.piv)
    assert one.norms == pytest.approx(other.norms)
    assert one.lu.shape[0] != one.lu.shape[1] or one.slogdet() == other.slogdet()


class TestFactor:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_backward_error_of_a_few_roundoffs_and_the_pivots_in_core(self, here, dtype):
        for shape in ((N, N), (N, 100), (100, N)):
            a = random_matrix(*shape, dtype)
            np.save("a.npy", a)
            F = by_tiles("a.npy", memory=least(lu_tiles_plan, shape, NB, a.itemsize))
            assert lu_ratio(a, F.lu, F.piv) < 30 and F.lu.flags.f_contiguous
            assert np.abs(np.tril(F.lu, -1)[:, : min(shape)]).max() < 4
            wanted = tw.lu_factor(a, tile_size=NB, pivoting="tournament")
            assert np.array_equal(F.piv, wanted.piv) and F.norms == pytest.approx(wanted.norms)
            assert np.allclose(F.lu, wanted.lu, rtol=0, atol=1e4 * roundoff(dtype) * np.abs(F.lu).max())
        assert sorted(os.listdir()) == ["F.npy", "a.npy"]

    @pytest.mark.parametrize("shape", SHAPES)
    def test_memory_workers_engines_and_policies_change_no_bit(self, here, shape):
        a = random_matrix(*shape)
        np.save("a.npy", a)
        wanted = by_tiles("a.npy")
        small = least(lu_tiles_plan, shape, NB, 8)
        for how in ({}, {"workers": 3}, {"backend": "serial"}, {"scheduler": "random"}):
            same(by_tiles("a.npy", out="G.npy", memory=2 * small, **how), wanted)
        F, run = by_tiles("a.npy", out="G.npy", memory=small, return_run=True)
        same(F, wanted)
        assert run.planned <= small and len(run.graph) == lu_tiles_plan(shape, NB, 8, small, 2).tasks

    @settings(max_examples=8, deadline=None)
    @given(m=st.integers(1, 70), n=st.integers(1, 70), nb=st.integers(1, 20))
    def test_any_shape_and_tile_size(self, tmp_path_factory, m, n, nb):
        a, out = random_matrix(m, n), tmp_path_factory.mktemp("tiles") / "F.npy"
        F = by_tiles(a, out=out, tile_size=nb, memory=least(lu_tiles_plan, (m, n), nb, 8))
        assert lu_ratio(a, F.lu, F.piv) < 30

    @pytest.mark.needs("zarr")
    def test_functions_and_zarr_and_files_by_columns_are_read(self, here):
        import zarr

        a = random_matrix(N, N)
        np.save("c.npy", a)
        np.save("f.npy", np.asfortranarray(a))
        zarr.create_array("a.zarr", shape=(N, N), dtype="f8", chunks=(NB, NB), compressors=None)[...] = a
        function = tw.TileFunction(lambda i, j: a[i * NB : (i + 1) * NB, j * NB : (j + 1) * NB], (N, N), NB)
        wanted = by_tiles("c.npy")
        for source in ("f.npy", "a.zarr", function, a):
            same(by_tiles(source, out="G.npy"), wanted)

    def test_a_singular_matrix_warns_and_a_nan_is_found_at_its_place(self, here):
        a = random_matrix(100, 100)
        a[:, 40] = 0
        with pytest.warns(RuntimeWarning, match="Diagonal number 41 is exactly zero"):
            assert by_tiles(a).info == 41
        a[70, 41] = np.nan
        with pytest.raises(ValueError, match=r"NaN or infinity at \(70, 41\)"):
            by_tiles(a)

    def test_what_has_no_tournament_out_of_core_says_so(self, here):
        with pytest.raises(ValueError, match="on ranks has partial pivoting"):
            by_tiles(np.eye(8), tile_size=4, backend="mpi")
        with pytest.raises(ValueError, match="no pivoting='butterfly'"):
            by_tiles(np.eye(8), tile_size=4, pivoting="butterfly")
        with closing(scratch_file(here, (2, 2), "f8", "F")) as file, pytest.raises(ValueError, match="lies by columns"):
            file.write_rows(np.arange(2), 0, [np.ones((2, 2))])
        assert os.listdir() == []


def moved(plan, n, nb):
    """Numbers that are read and written, beside the passes over the matrix and the factor."""
    nt = -(-n // nb)
    return (plan.passing + (lu_tiles.stored(nt, nt) if plan.slabs.height else nt * nt)) * nb * nb


class TestPlan:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_tasks_reads_writes_and_buffers_are_those_planned(self, shape):
        (m, n), small = shape, least(lu_tiles_plan, shape, NB, 8)
        mt, nt = -(-m // NB), -(-n // NB)
        for cap in (small, int(1.2 * small), int(1.5 * small), None):
            plan = lu_tiles_plan(shape, NB, 8, cap, 2)
            g, volume = tw.TaskGraph("tiles"), Volume(shape, NB, 8)
            memory = TileBuffers(g.handles("buffer"), (NB, NB), 2 * plan.slabs.chunk)
            spots = TileBuffers(g.handles("spot"))
            lu_tiles.tile_lu(g, plan.slabs, 0, volume, memory, spots, check=True, log=False, dtype="float64")
            assert sum(rows * columns * 8 for rows, columns in memory.shapes) <= plan.data
            assert len(g) == plan.tasks
            if m % NB == n % NB == 0:
                moved = 2 * mt * nt + plan.passing, mt * nt + lu_tiles.stored(mt, nt)
                assert (volume.read, volume.written) == tuple(tiles * NB * NB * 8 for tiles in moved)

    def test_a_run_moves_what_its_plan_says(self, here):
        a = random_matrix(256, 256)
        cap = least(lu_tiles_plan, a.shape, NB, 8)
        _, run = by_tiles(a, memory=cap, return_run=True)
        plan = tw.plan(tw.lu_graph(8, 8, "tournament"), tile_size=NB, memory=cap, workers=2)
        facts = run.trace.facts
        assert (facts["read"], facts["written"], len(run.graph)) == (plan.read, plan.written, plan.tasks)
        assert "in blocks of 4 block rows" in str(run) and "in blocks of 4 block rows" in str(plan)

    def test_without_a_tile_size_what_moves_less_is_taken(self):
        nb, seen = 256, []
        for n, share in ((32768, 4), (32768, 16), (65536, 28), (32768, 48)):
            cap, choices = n * n * 8 // share, []
            for size in range(nb, 0, -64):  # the usual ones first
                with suppress(MemoryError):
                    choices.append(moved(lu_plan_in((n, n), size, 8, cap, 2), n, size))
            tiles, size = lu_plan_sized("tournament", (n, n), nb, 8, cap, 2)
            found, chosen = lu_plan_sized(None, (n, n), nb, 8, cap, 2)
            assert max(found.memory, tiles.memory) <= cap
            assert moved(found, n, chosen) <= min([moved(tiles, n, size), *choices][:2])
            seen.append((chosen, found.slabs.height > 0))
        assert seen[0] == (nb, False) and seen[-1][0] > nb and seen[-1][1]

    def test_without_a_tile_size_narrower_slabs_are_tried_before_no_slab_fits(self):
        shape, nb = (2048, 2048), 256
        cap = least(lu_plan_in, shape, nb, 8) // 2
        plan, size = lu_plan_sized("partial", shape, nb, 8, cap, 2)
        assert size < nb and plan.memory <= cap and not plan.slabs.height

    def test_with_a_tile_size_tiles_are_taken_where_no_block_column_fits(self):
        shape = (1024, 1024)
        enough = least(lu_plan_in, shape, NB, 8)
        below = int(enough / 1.03)
        assert not lu_plan(None, shape, NB, 8, enough, 2).slabs.height
        assert lu_plan(None, shape, NB, 8, below, 2).slabs.height
        with pytest.raises(MemoryError, match="too little for an LU factorisation"):
            lu_plan("partial", shape, NB, 8, below, 2)

    def test_memory_for_less_than_a_block_column_is_enough(self, here):
        shape, nb = (1200, 48), 16
        a = random_matrix(*shape)
        np.save("a.npy", a)
        cap = least(lu_tiles_plan, shape, nb, 8)
        with pytest.raises(MemoryError):
            tw.lu_factor("a.npy", out="F.npy", pivoting="partial", tile_size=nb, memory=cap, workers=2)
        F, run = tw.lu_factor("a.npy", out="F.npy", tile_size=nb, memory=cap, workers=2, return_run=True)
        assert "by tiles" in str(run) and lu_ratio(a, F.lu, F.piv) < 30

    def test_a_factor_by_tiles_solves(self, here):
        a = random_matrix(N, N)
        assert np.allclose(a @ by_tiles(a).solve(np.ones(N)), 1)


class Stopped(Exception):
    pass


class TestCheckpoint:
    @pytest.fixture
    def stopped(self, monkeypatch):
        """``stopped(k)``: a run ends when a tile of block column k is stored."""

        def at(k):
            def broken(order, buffer, tile, sums=False):
                if tile.column == k * NB:
                    raise Stopped
                scatter.function(order, buffer, tile, sums)

            with monkeypatch.context() as patch:
                patch.setattr(lu_tiles, "scatter", tw.Op("store", broken, in_place=True))
                with pytest.raises(Stopped):
                    by_tiles("a.npy", checkpoint="run")

        return at

    @pytest.mark.parametrize("shape", [(N, N), (100, N), (N, 100)])
    def test_a_run_that_stops_goes_on_to_the_same_bits_with_other_memory(self, here, stopped, shape):
        a = random_matrix(*shape)
        np.save("a.npy", a)
        wanted = by_tiles("a.npy", out="G.npy")
        stopped(2)
        cap = least(lu_tiles_plan, shape, NB, 8)
        F, run = by_tiles("a.npy", checkpoint="run", resume=True, memory="4MB", pivoting=None, return_run=True)
        same(F, wanted)
        assert cap > 0 and len(run.graph) < lu_tiles_plan(shape, NB, 8, cap, 2).tasks
        same(by_tiles("a.npy", checkpoint="run", resume=True), wanted)  # all is final

    def test_another_pivoting_another_matrix_and_torn_files_are_refused(self, here, stopped):
        a = random_matrix(N, N)
        np.save("a.npy", a)
        stopped(3)
        with pytest.raises(tw.CheckpointError, match="another pivoting: tournament, not None"):
            by_tiles("a.npy", checkpoint="run", resume=True, pivoting="partial")
        b = a.copy()
        b[40, 3] += 1
        np.save("b.npy", b)
        with pytest.raises(tw.CheckpointError, match=r"another matrix: .* tile \(1, 0\)"):
            by_tiles("b.npy", checkpoint="run", resume=True)
        with open("run/panels.npy", "r+b") as file:
            file.seek(128 + 8 * (5 * N + 40))
            file.write(b"\0" * 8)
        with pytest.raises(tw.CheckpointError, match=r"panels\.npy has other numbers in tile \(\d, 1\)"):
            by_tiles("a.npy", checkpoint="run", resume=True)
