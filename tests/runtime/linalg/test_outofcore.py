"""Factorisations of matrices on a disk: the bits of those in memory, within a cap, and what is refused."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from again import measures_the_machine
from matrices import DTYPES, po_matrix, random_matrix

import tilewright as tw
from tilewright.linalg import qr_outside, qr_plan, slab_plan
from tilewright.linalg.blocks import insert_cholesky
from tilewright.linalg.slab_plan import cholesky_plan, lu_plan_in
from tilewright.linalg.slabs import Volume

N, NB = 230, 32


def spd(n=N, dtype="float64"):
    return np.array(po_matrix(2, n, dtype))


@pytest.fixture(autouse=True)
def small_tiles_cost_nothing(monkeypatch):
    """Threads and tasks take more than matrices as small as these; so there are several slabs."""
    monkeypatch.setattr(slab_plan, "_TASK", 0)
    monkeypatch.setattr(slab_plan, "_THREAD", 0)


def quarter(plan, *sizes, workers=2):
    """Of the matrix, or what is needed for one block column."""
    found = plan(*sizes, None, workers)
    with pytest.raises(MemoryError, match="the least is") as error:
        plan(*sizes, 1, workers)
    number, unit = re.search(r"the least is ([\d.]+) (\w+);", str(error.value)).groups()
    least = float(number) * 1.01 * {"bytes": 1, "KiB": 2**10, "MiB": 2**20}[unit]
    return int(max(found.data / 4, least))


def left(folder):
    return sorted(os.listdir(folder))


@contextmanager
def somebody_else(folder):
    """Where root may do everything, be another user, who may do in ``folder`` all but read secret.npy and write into closed.

    Elsewhere the same for us.
    """
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    secret, closed = folder / "secret.npy", folder / "closed"
    np.save(secret, spd())
    secret.chmod(0o000)
    closed.chmod(0o555)
    if not root:
        yield
        closed.chmod(0o755)
        return
    folder.chmod(0o777)
    try:
        os.seteuid(65534)
    except OSError:
        pytest.skip("root here cannot be anybody else")
    try:
        yield
    finally:
        os.seteuid(0)


class TestCholesky:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("lower", [True, False])
    def test_a_quarter_of_the_matrix_gives_the_bits_of_all_of_it(self, here, dtype, lower):
        a = spd(dtype=dtype)
        np.save("a.npy", a if lower else np.asfortranarray(a))
        before = (here / "a.npy").read_bytes()
        cap = quarter(cholesky_plan, N, NB, a.itemsize)
        L, run = tw.tiled_cholesky(
            "a.npy", out="L.npy", memory=cap, lower=lower, tile_size=NB, workers=2, return_run=True
        )
        wanted = tw.tiled_cholesky(a, lower=lower, tile_size=NB)
        assert isinstance(L, np.memmap) and not L.flags.writeable and L.dtype == dtype
        assert np.array_equal(L, wanted) and np.array_equal(np.load("L.npy"), wanted)
        assert L.flags.c_contiguous == wanted.flags.c_contiguous
        assert len({task.label for task in run.graph if task.op.name == "load"}) > 0 and run.planned <= cap
        assert "slabs of" in str(run) and "planned" in str(run)
        assert (here / "a.npy").read_bytes() == before and left(here) == ["L.npy", "a.npy"]

    @pytest.mark.parametrize("n", [1, 31, 32, 33, 64, 200])
    @pytest.mark.parametrize("memory", ["least", None])
    def test_any_order_with_the_least_memory_and_with_plenty(self, here, n, memory):
        a = spd(n)
        np.save("a.npy", a)
        cap = None if memory is None else quarter(cholesky_plan, n, NB, 8)
        L = tw.tiled_cholesky("a.npy", out="L.npy", memory=cap, tile_size=NB, workers=2)
        assert np.array_equal(L, tw.tiled_cholesky(a, tile_size=NB))

    @pytest.mark.parametrize(
        ("backend", "scheduler"),
        [("serial", "eager"), ("threads", "eager"), ("threads", "lws"), ("threads", "heft"), ("threads", "ws")],
    )
    def test_engines_and_policies(self, here, backend, scheduler):
        a = spd()
        cap = quarter(cholesky_plan, N, NB, 8, workers=3)
        L = tw.tiled_cholesky(a, out="L.npy", memory=cap, tile_size=NB, backend=backend, scheduler=scheduler, workers=3)
        assert np.array_equal(L, tw.tiled_cholesky(a, tile_size=NB))

    def test_of_nothing(self, here):
        assert tw.tiled_cholesky(np.zeros((0, 0)), out="L.npy").shape == (0, 0)

    @pytest.mark.parametrize(
        ("tiles", "height", "passing"),
        [
            (60, 0, 4 * 12 + 9 * 7),
            (12, 2, sum(2 * j * (2 * (8 - j) + 14 - 2 * j) + (7 - j) * 3 for j in range(8))),
            (7, 1, sum(j * (16 - j + 15 - j) + 15 - j for j in range(16))),
        ],
        ids=["slabs", "blocks", "tiles"],
    )
    def test_reads_and_writes_are_those_of_the_scheme(self, here, tiles, height, passing):
        n, nb = 256, 16
        a = spd(n)
        np.save("a.npy", a)
        source = tw.TileFunction(lambda i, j: a[i * nb : i * nb + nb, j * nb : j * nb + nb], (n, n), nb)
        cap = (tiles + 2) * nb * nb * 8  # beside the buffers a tile for each worker
        plan = cholesky_plan(n, nb, 8, cap, 2)
        assert (plan.slabs.height, plan.passing) == (height, passing)
        tw.tiled_cholesky(source, out="L.npy", memory=cap, workers=2)
        tw.tiled_cholesky("a.npy", out="M.npy", memory=cap, tile_size=nb, workers=2)
        tile, nt = nb * nb * 8, n // nb
        run = tw.tiled_cholesky("a.npy", out="N.npy", memory=cap, tile_size=nb, workers=2, return_run=True)[1]
        moved = {"load": 0, "store": 0}
        for task in run.graph:
            if task.op.name in moved:
                moved[task.op.name] += sum(len(use.handle.index) == 1 for use in task.uses) * tile
        assert moved == {"load": (nt * (nt + 1) // 2 + passing) * tile, "store": nt * (nt + 1) // 2 * tile}
        assert len(run.graph) == plan.tasks and (run.trace.facts["read"], run.trace.facts["written"]) == (
            moved["load"],
            moved["store"],
        )
        assert ("in blocks of" in str(run)) == bool(height)
        wanted = tw.tiled_cholesky(a, tile_size=nb)
        assert all(np.array_equal(np.load(name), wanted) for name in ("L.npy", "M.npy", "N.npy"))

    @pytest.mark.parametrize("n", [31, 64, 200, 230, 500])
    def test_buffers_are_no_more_than_the_plan_has(self, n):
        nt = -(-n // NB)
        least = quarter(cholesky_plan, n, NB, 8)
        few = [(tiles + 2) * NB * NB * 8 for tiles in (9, 12, 16)]  # blocks, where there are enough tiles
        for cap in (*few, *(int(least * times) for times in (1, 1.3, 1.7, 2.5, 4))):
            plan = cholesky_plan(n, NB, 8, cap, 2)
            g, volume = tw.TaskGraph("slabs"), Volume((n, n), NB, 8)
            memory = insert_cholesky(g, nt, plan.slabs, 0, volume, check=True, log=False, sums=False)
            assert sum(rows * columns * 8 for rows, columns in memory.shapes) <= plan.data
            assert len(g) == plan.tasks
            if n % NB == 0:
                assert volume.read == (nt * (nt + 1) // 2 + plan.passing) * NB * NB * 8


class TestLU:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_a_quarter_of_the_matrix_gives_the_bits_of_all_of_it(self, here, dtype, order):
        a = random_matrix(N, N, dtype)
        np.save("a.npy", np.asarray(a, order=order))
        cap = quarter(lu_plan_in, (N, N), NB, a.itemsize)
        F, run = tw.lu_factor("a.npy", out="F.npy", memory=cap, tile_size=NB, workers=2, return_run=True)
        wanted = tw.lu_factor(a, tile_size=NB, update="tile")
        assert np.array_equal(F.lu, wanted.lu) and np.array_equal(F.piv, wanted.piv) and F.lu.flags.f_contiguous
        assert F.norms == pytest.approx(wanted.norms) and F.slogdet() == wanted.slogdet()
        assert run.planned <= cap and left(here) == ["F.npy", "a.npy"]
        b = random_matrix(N, 2, dtype, seed=3)
        assert np.allclose(F.solve(b), wanted.solve(b))

    @pytest.mark.parametrize(
        "shape", [(1, 1), (64, 64), (65, 65), (200, 90), (90, 200), (33, 150), (150, 33), (20, 90)]
    )
    @pytest.mark.parametrize("memory", ["least", None])
    def test_any_shape_with_the_least_memory_and_with_plenty(self, here, shape, memory):
        a = random_matrix(*shape)
        cap = None if memory is None else quarter(lu_plan_in, shape, NB, 8)
        F, run = tw.lu_factor(a, out="F.npy", memory=cap, tile_size=NB, workers=2, return_run=True)
        wanted = tw.lu_factor(a, tile_size=NB, update="tile")
        assert np.array_equal(F.lu, wanted.lu) and np.array_equal(F.piv, wanted.piv)
        assert F.norms == pytest.approx(wanted.norms)
        if memory is not None:
            plan = lu_plan_in(shape, NB, 8, cap, 2)
            assert len(run.graph) == plan.tasks

    def test_a_singular_matrix_warns_and_is_returned(self, here):
        a = np.diag([1.0, 0.0, 2.0])
        with pytest.warns(RuntimeWarning, match="Diagonal number 2 is exactly zero"):
            assert tw.lu_factor(a, out="F.npy", tile_size=2).info == 2


def least_for_qr(path, **how):
    """Bytes that a QR factorisation needs, as the refusal says."""
    with pytest.raises(MemoryError, match="for a QR factorisation of .* the least is") as error:
        tw.qr(path, memory=1, **how)
    number, unit = re.search(r"the least is ([\d.]+) (\w+);", str(error.value)).groups()
    return float(number) * 1.001 * {"bytes": 1, "KiB": 2**10, "MiB": 2**20}[unit] + 1


class TestQR:
    @pytest.mark.parametrize("shape", [(520, 520), (200, 90), (90, 200), (32, 150), (64, 64), (1, 1), (150, 1)])
    @pytest.mark.parametrize("memory", ["least", "half", None])
    def test_any_shape_gives_the_bits_of_panels_in_memory(self, here, shape, memory):
        a = random_matrix(*shape)
        np.save("a.npy", a)
        least = least_for_qr("a.npy", tile_size=NB, workers=2)
        cap = {"least": int(least), "half": int(max(least * 1.3, a.nbytes // 2)), None: None}[memory]
        Q, R, run = tw.qr("a.npy", memory=cap, tile_size=NB, workers=2, return_run=True)
        tree = "panel" if shape[1] > NB else "auto"
        q, r = tw.qr(a, mode="economic", tree=tree, tile_size=NB, workers=2)
        assert np.array_equal(Q, q) and np.array_equal(R, r)
        assert isinstance(Q, np.memmap) and not Q.flags.writeable and Q.flags.f_contiguous
        assert cap is None or run.planned <= cap
        assert left(here) == ["a.npy"]

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("memory", ["least", "half"])
    def test_a_tall_matrix_gives_the_bits_of_the_tree_in_memory(self, here, monkeypatch, dtype, memory):
        monkeypatch.setattr(qr_plan, "_LEAF", 1 << 14)
        a = random_matrix(3010, 7, dtype)
        np.save("a.npy", a)
        least = least_for_qr("a.npy", positive=True, workers=2)
        assert least < a.nbytes
        cap = int(least if memory == "least" else a.nbytes)
        for positive in (False, True):
            Q, R, run = tw.qr("a.npy", memory=cap, positive=positive, workers=2, return_run=True)
            q, r = tw.qr(a, mode="economic", positive=positive)
            assert np.array_equal(Q, q) and np.array_equal(R, r) and run.planned <= cap
        assert memory == "least" or run.trace.facts["read"] <= 3 * a.nbytes

    @pytest.mark.parametrize(("shape", "tree", "op", "copied"), [
        ((3010, 7), "auto", "geqrt", 288 * 7), ((3010, 7), "auto", "ttqrt", 2 * 288 * 7), ((200, 90), "panel", "geqrf", 200 * NB),
    ])  # fmt: skip
    def test_what_kernels_copy_whose_bits_depend_on_the_place_is_counted(
        self, here, monkeypatch, shape, tree, op, copied
    ):
        monkeypatch.setattr(qr_plan, "_LEAF", 1 << 14)
        np.save("a.npy", random_matrix(*shape))
        how = {"workers": 2, "tree": tree} | ({"tile_size": NB} if tree == "panel" else {})
        monkeypatch.setattr(qr_outside.table, "settles", lambda name, dtype: False)
        least = least_for_qr("a.npy", **how)
        monkeypatch.setattr(qr_outside.table, "settles", lambda name, dtype: name == op)
        assert least_for_qr("a.npy", **how) - least == pytest.approx(2 * 8 * copied, rel=0.02)

    def test_r_alone_of_a_tall_matrix_reads_it_once_and_writes_no_more_than_r(self, here, monkeypatch):
        monkeypatch.setattr(qr_plan, "_LEAF", 1 << 14)
        a = random_matrix(3010, 7)
        np.save("a.npy", a)
        cap = int(a.nbytes)
        R, run = tw.qr("a.npy", mode="r", memory=cap, workers=2, return_run=True, out="R.npy")
        assert np.array_equal(R, tw.qr(a, mode="r")[0]) and left(here) == ["R.npy", "a.npy"]
        assert run.trace.facts["read"] == a.nbytes and run.trace.facts["written"] == 7 * 7 * 8

    @pytest.mark.parametrize("tree", ["panel", "flat", "greedy", ("hierarchical", 2, "greedy", "binary")])
    @pytest.mark.parametrize("mode", ["full", "economic", "r"])
    def test_trees_and_modes(self, here, tree, mode):
        a = random_matrix(110, 70)
        how = {"mode": mode, "tree": tree, "tile_size": 16, "positive": True, "workers": 2}
        cap = int(least_for_qr(a, **how, out=("Q.npy", "R.npy") if mode != "r" else "R.npy") * 1.2)
        out = ("Q.npy", "R.npy") if mode != "r" else "R.npy"
        found = tw.qr(a, memory=cap, out=out, **how)
        for one, wanted in zip(found, tw.qr(a, **how), strict=True):
            assert np.array_equal(one, wanted)
        assert np.array_equal(
            tw.qr(a[:, :9], **how)[-1], tw.qr(a[:, :9], memory=cap, out=out, overwrite_out=True, **how)[-1]
        )
        assert left(here) == (["Q.npy", "R.npy"] if mode != "r" else ["R.npy"])

    @pytest.mark.parametrize(("backend", "scheduler"), [("serial", "eager"), ("threads", "lws"), ("threads", "heft")])
    def test_engines_policies_and_functions(self, here, backend, scheduler):
        a = random_matrix(150, 100)
        tiles = tw.TiledMatrix.view(a, NB)
        source = tw.TileFunction(lambda i, j: tiles[i, j], a.shape, NB)
        cap = int(least_for_qr(source, workers=3) * 1.2)
        Q, R = tw.qr(source, memory=cap, backend=backend, scheduler=scheduler, workers=3)
        q, r = tw.qr(a, mode="economic", tree="panel", tile_size=NB)
        assert np.array_equal(Q, q) and np.array_equal(R, r)

    @pytest.mark.needs("distributed")
    def test_what_cannot_be_done_is_said_and_leaves_nothing(self, here):
        a = random_matrix(90, 70)
        a[77, 50] = np.nan
        np.save("a.npy", a)
        for how, error, message in (
            ({}, ValueError, r"NaN or infinity at \(77, 50\)"),
            ({"out": "Q.npy"}, TypeError, "out of qr must be two"),
            ({"out": ("Q.npy", "a.npy")}, FileExistsError, r"a\.npy exists; overwrite_out=True replaces it"),
            ({"mode": "raw"}, ValueError, "has no mode='raw'"),
            ({"overwrite_a": True}, ValueError, "has no overwrite_a"),
            ({"backend": "dask"}, ValueError, "backend is serial, threads or mpi"),
            ({"memory": 1000}, MemoryError, "memory=1000 bytes is too little for a QR factorisation of 90 x 70"),
        ):
            with pytest.raises(error, match=message):
                tw.qr("a.npy", **{"out": ("Q.npy", "R.npy"), "tile_size": NB} | how)
            assert left(here) == ["a.npy"]
        with pytest.raises(MemoryError, match="qr takes"):
            tw.qr(np.ones((90, 70)), memory="50kB")


class TestSources:
    def test_memory_maps_and_functions_and_arrays(self, here):
        a = spd()
        np.save("a.npy", a)
        wanted = tw.tiled_cholesky(a, tile_size=NB)
        tiles = tw.TiledMatrix.view(a, NB)
        np.asfortranarray(a).T.tofile("raw")
        mapped = np.memmap("raw", "float64", "r", shape=(N, N), order="F")
        for source in (
            a,
            a[::-1, ::-1][::-1, ::-1],
            np.load("a.npy", mmap_mode="r"),
            mapped,
            tw.TileFunction(lambda i, j: tiles[i, j], (N, N), NB),
        ):
            L = tw.tiled_cholesky(
                source, out="L.npy", overwrite_out=True, tile_size=NB, memory=quarter(cholesky_plan, N, NB, 8)
            )
            assert np.array_equal(L, wanted)

    def test_a_memory_map_to_fill(self, here):
        out = np.lib.format.open_memmap("L.npy", "w+", "float64", (N, N))
        L = tw.tiled_cholesky(spd(), out=out, tile_size=NB)
        assert L is out and np.array_equal(np.load("L.npy"), tw.tiled_cholesky(spd(), tile_size=NB))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is no .npy file"),
            (b"nonsense", "is no .npy file"),
            ("cut", "is cut off"),
            ("negative", r"is no \.npy file: its shape is \(-8, -8\)"),
            ("vector", "must be 2-D"),
            ("integers", "has dtype int64"),
            ("big", "has dtype >f8"),
            ("missing", "cannot read a.npy: No such file"),
            ("oblong", "must be square"),
        ],
    )
    def test_what_is_no_matrix_is_refused_in_a_sentence_and_nothing_is_left(self, here, content, message):
        arrays = {
            "vector": np.zeros(4),
            "integers": np.eye(4, dtype=int),
            "big": np.eye(4, dtype=">f8"),
            "oblong": np.zeros((3, 4)),
            "cut": np.eye(8),
        }
        if isinstance(content, bytes):
            (here / "a.npy").write_bytes(content)
        elif content in arrays:
            np.save("a.npy", arrays[content])
            if content == "cut":
                os.truncate("a.npy", 300)
        elif content == "negative":
            np.save("a.npy", np.eye(8))
            whole = (here / "a.npy").read_bytes()
            (here / "a.npy").write_bytes(whole.replace(b"(8, 8), }  ", b"(-8, -8), }"))
        before = left(here)
        with pytest.raises((ValueError, TypeError, OSError), match=message):
            tw.tiled_cholesky("a.npy", out="L.npy")
        assert left(here) == before

    def test_a_function_that_makes_other_tiles_is_told(self, here):
        for make, message in (
            (lambda i, j: np.zeros((2, 3)), r"made tile \(0, 0\) of shape \(2, 3\)"),
            (lambda i, j: np.zeros((4, 4), complex), "of complex128, not float64"),
            (lambda i, j: 1 / 0, "division by zero"),
        ):
            with pytest.raises((ValueError, TypeError, ZeroDivisionError), match=message):
                tw.tiled_cholesky(tw.TileFunction(make, (8, 8), 4), out="L.npy")
        assert left(here) == []

    def test_numbers_that_are_none_are_found_at_their_place(self, here):
        a = spd()
        a[200, 70] = np.nan
        for call in (tw.tiled_cholesky, tw.lu_factor):
            with pytest.raises(ValueError, match=r"NaN or infinity at \(200, 70\); check_finite=False"):
                call(a, out="L.npy", tile_size=NB)
        a[200, 70], a[70, 200] = 0, np.nan  # not in the triangle that is read
        tw.tiled_cholesky(a, out="L.npy", tile_size=NB)

    def test_a_matrix_without_a_factor_has_the_order_of_its_first_bad_minor(self, here):
        a = spd()
        a[150, 150] = -1
        with pytest.raises(tw.NotPositiveDefiniteError, match=r"potrf\(4\) on A\[4,4\]") as error:
            tw.tiled_cholesky(a, out="L.npy", tile_size=NB, memory=quarter(cholesky_plan, N, NB, 8))
        assert error.value.order == 151 and left(here) == []


class TestRefusals:
    def test_too_little_memory_says_the_least_that_would_do_and_that_does(self, here):
        np.save("a.npy", spd())
        for call, name in (
            (tw.tiled_cholesky, "a Cholesky factorisation of order 230"),
            (tw.lu_factor, "an LU factorisation of 230 x 230"),
        ):
            with pytest.raises(MemoryError, match=f"memory=40 KiB is too little for {name} in tiles of 32") as error:
                call("a.npy", out="L.npy", memory=40 * 1024, tile_size=NB)
            assert left(here) == ["a.npy"]
            least = re.search(r"the least is ([\d.]+) KiB", str(error.value))[1]
            call("a.npy", out="L.npy", memory=f"{float(least) + 1}KiB", tile_size=NB, overwrite_out=True)
            os.remove("L.npy")

    def test_in_core_memory_is_a_limit_that_is_said_with_what_is_needed(self):
        a = spd()
        for call in (tw.tiled_cholesky, tw.lu_factor):
            with pytest.raises(
                MemoryError, match=r"the factor takes 413\.3 KiB beside the matrix, more than memory=97"
            ):
                call(a, memory="100kB")
            call(a, memory="1MB")
            order = "C" if call is tw.tiled_cholesky else "F"
            call(a.copy(order), memory="100kB", overwrite_a=True)
        with pytest.raises(MemoryError, match=r"qr takes .* MiB beside the matrix, more than memory=97"):
            tw.qr(a, memory="100kB")

    def test_what_is_there_is_not_overwritten_without_being_told(self, here):
        a = spd()
        np.save("L.npy", np.zeros(3))
        with pytest.raises(FileExistsError, match=r"L\.npy exists; overwrite_out=True replaces it"):
            tw.tiled_cholesky(a, out="L.npy", tile_size=NB)
        assert np.load("L.npy").shape == (3,) and left(here) == ["L.npy"]
        a[200, 200] = np.nan
        with pytest.raises(ValueError, match="NaN"):
            tw.tiled_cholesky(a, out="L.npy", tile_size=NB, overwrite_out=True)
        assert np.load("L.npy").shape == (3,) and left(here) == ["L.npy"]  # not even then
        tw.tiled_cholesky(spd(), out="L.npy", tile_size=NB, overwrite_out=True)
        assert np.load("L.npy").shape == (N, N)

    def test_two_runs_on_one_output_are_refused(self, here):
        seen = []

        def make(i, j):
            if not seen:
                seen.append("once")
                with pytest.raises(BlockingIOError, match=r"another run writes L\.npy"):
                    tw.tiled_cholesky(spd(), out="L.npy", tile_size=NB)
            return tiles[i, j]

        tiles = tw.TiledMatrix.view(spd(), NB)
        tw.tiled_cholesky(tw.TileFunction(make, (N, N), NB), out="L.npy")
        assert seen and np.array_equal(np.load("L.npy"), tw.tiled_cholesky(spd(), tile_size=NB))

    @pytest.mark.parametrize(
        ("how", "message"),
        [
            ({"backend": "dask"}, "backend is serial, threads or mpi, not 'dask'"),
            ({"precision": "bf16"}, "has no precision='bf16'"),
            ({"overwrite_a": True}, "has no overwrite_a=True"),
            ({"out": "L.txt"}, r"out must end in \.npy"),
            ({"out": 3}, "out must be a path"),
            ({"out": np.zeros((2, 2))}, "out has 2 x 2 numbers"),
            ({"memory": "much"}, "memory must be a number of bytes"),
            ({"out": "no/L.npy"}, "cannot write no/L.npy: No such file"),
            ({"resume": True}, "resume= needs checkpoint="),
            ({"out": "L.h5:/x/y.npy", "overwrite_out": 3}, "overwrite_out must be True or False"),
        ],
    )
    def test_what_cannot_be_done_is_refused_before_work(self, here, how, message):
        with pytest.raises((ValueError, TypeError, OSError), match=message):
            tw.tiled_cholesky(spd(8), **{"out": "L.npy", "tile_size": 4} | how)
        assert left(here) == []

    def test_a_matrix_on_a_disk_needs_an_output(self, here):
        np.save("a.npy", spd(8))
        with pytest.raises(ValueError, match="a matrix on a disk needs out="):
            tw.tiled_cholesky("a.npy")

    @pytest.mark.parametrize("call", [tw.tiled_cholesky, tw.lu_factor, tw.qr])
    def test_what_the_system_does_not_permit_is_one_sentence_and_leaves_nothing(self, here, call):
        np.save("a.npy", spd())
        two = call is tw.qr

        def out(name):
            return (name, "R.npy") if two else name

        (here / "closed").mkdir()
        (here / "folder.npy").mkdir()
        np.save("closed/b.npy", spd())
        call("a.npy", out=out("L.npy"), tile_size=NB)  # nothing is loaded while we are somebody else
        before = left(here)
        with somebody_else(here):
            for a, name, message in (
                ("folder.npy", "M.npy", "cannot read folder.npy: Is a directory"),
                ("secret.npy", "M.npy", "cannot read secret.npy: Permission denied"),
                ("a.npy", "closed/M.npy", "cannot write (in )?closed(/M.npy)?: Permission denied"),
            ):
                with pytest.raises(OSError, match=f"^{re.escape('[Errno ')}\\d+\\] {message}") as error:
                    call(a, out=out(name), tile_size=NB)
                assert "\n" not in str(error.value)
            call("closed/b.npy", out=out("L.npy"), tile_size=NB, overwrite_out=True)  # needs no room where it is
        (here / "secret.npy").unlink()
        assert left(here) == before and left(here / "closed") == ["b.npy"]

    @pytest.mark.parametrize("call", [tw.tiled_cholesky, tw.lu_factor, tw.qr])
    @pytest.mark.parametrize("order", "CF")
    def test_a_matrix_that_may_only_be_read_is_read_and_stays_as_it_was(self, here, call, order):
        a = np.asarray(spd(), order=order)
        np.save("a.npy", a)
        (here / "a.npy").chmod(0o400)
        before = (here / "a.npy").read_bytes(), (here / "a.npy").stat().st_mtime_ns
        for source in ("a.npy", np.load("a.npy", mmap_mode="r"), np.load("a.npy", mmap_mode="c")):
            call(source, out=("Q.npy", "R.npy") if call is tw.qr else "L.npy", tile_size=NB, overwrite_out=True)
            assert np.array_equal(source if isinstance(source, np.ndarray) else np.load(source), a)
        assert before == ((here / "a.npy").read_bytes(), (here / "a.npy").stat().st_mtime_ns)

    def test_a_disk_that_is_full_is_one_sentence_and_leaves_nothing(self, here):
        code = (
            "import resource, numpy as np, tilewright as tw; from tilewright.storage import npy\n"
            "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "a = 4 * np.eye(200); np.save('a.npy', a)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
            "try: tw.tiled_cholesky('a.npy', out='L.npy', tile_size=32)\n"
            "except OSError as error: print(error)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        assert "cannot write L.npy: File too large" in done.stdout and left(here) == ["a.npy"]


@pytest.mark.needs("zarr")
def test_zarr_arrays_in_and_out(here):
    import zarr

    a = spd()
    wanted = tw.tiled_cholesky(a, tile_size=NB)
    cap = quarter(cholesky_plan, N, NB, 8)
    stored = zarr.create_array("a.zarr", shape=a.shape, chunks=(NB, NB), dtype="f8", compressors=None)
    stored[:] = a
    for source in ("a.zarr", stored):
        L = tw.tiled_cholesky(source, out="L.zarr", memory=cap, tile_size=NB, overwrite_out=True)
        assert isinstance(L, zarr.Array) and L.chunks == (NB, NB) and np.array_equal(L[:], wanted)
    assert np.array_equal(
        tw.lu_factor("a.zarr", out="F.zarr", tile_size=NB).lu[:], tw.lu_factor(a, tile_size=NB, update="tile").lu
    )
    Q, R = tw.qr("a.zarr", out=("Q.zarr", "R.npy"), tile_size=NB)
    q, r = tw.qr(a, mode="economic", tree="panel", tile_size=NB)
    assert isinstance(Q, zarr.Array) and np.array_equal(Q[:], q) and np.array_equal(R, r)
    (here / "b.zarr").mkdir()
    with pytest.raises(ValueError, match="no zarr array"):
        tw.tiled_cholesky("b.zarr", out="M.zarr")
    packed = zarr.create_array("c.zarr", shape=a.shape, chunks=(NB, NB), dtype="f8")
    packed[:] = a
    with pytest.warns(RuntimeWarning, match=r"c\.zarr is compressed"):
        tw.tiled_cholesky("c.zarr", out="M.npy", tile_size=NB)
    assert left(here) == ["F.zarr", "L.zarr", "M.npy", "Q.zarr", "R.npy", "a.zarr", "b.zarr", "c.zarr"]


@pytest.mark.needs("h5py")
def test_hdf5_datasets_in_and_out(here):
    import h5py

    a = spd()
    wanted = tw.tiled_cholesky(a, tile_size=NB)
    with h5py.File("a.h5", "w") as file:
        file["group/a"] = a
        L = tw.tiled_cholesky(file["group/a"], out="L.h5", tile_size=NB)
        assert np.array_equal(L[:], wanted) and L.name == "/matrix"
        L.file.close()
    for source in ("a.h5", "a.h5:/group/a"):
        L = tw.tiled_cholesky(source, out="L.h5:/x", tile_size=NB, overwrite_out=True)
        assert np.array_equal(L[:], wanted) and L.name == "/x"
        L.file.close()
    Q, R = tw.qr("a.h5:/group/a", out=("Q.h5", "R.h5:/r"), tile_size=NB)
    q, r = tw.qr(a, mode="economic", tree="panel", tile_size=NB)
    assert np.array_equal(Q[:], q) and np.array_equal(R[:], r) and R.name == "/r"
    Q.file.close()
    R.file.close()
    b = np.ones(N)
    assert np.allclose(a @ tw.solve("a.h5:/group/a", b, tile_size=NB), b)
    assert np.array_equal(
        tw.lu_factor("a.h5", out="F.npy", tile_size=NB).lu, tw.lu_factor(a, tile_size=NB, update="tile").lu
    )
    with pytest.raises(ValueError, match="has no dataset b"):
        tw.tiled_cholesky("a.h5:/b", out="M.npy")
    assert left(here) == ["F.npy", "L.h5", "Q.h5", "R.h5", "a.h5"]


class TestSolve:
    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    @pytest.mark.parametrize("lower", [True, False])
    def test_a_positive_definite_system_to_fp64_accuracy(self, here, dtype, lower):
        a = spd(dtype=dtype)
        np.save("a.npy", np.tril(a) if lower else np.triu(a))
        for b in (random_matrix(N, 1, dtype)[:, 0], random_matrix(N, 3), random_matrix(N, 2, "complex128")):
            x, info = tw.solve("a.npy", b, memory="600kB", lower=lower, tile_size=NB, return_info=True)
            scale = np.abs(a).sum(axis=1).max() * np.abs(x).max() + np.abs(b).max()
            assert x.shape == b.shape and np.abs(a @ x - b).max() <= N * 2.0**-53 * scale
            assert info.structure == "pos" and info.backward_error <= N * 2.0**-53
        assert left(here) == ["a.npy"]

    @pytest.mark.parametrize("assume_a", ["gen", None])
    def test_a_general_system(self, here, assume_a):
        a = random_matrix(N, N)
        np.save("a.npy", a)
        b = random_matrix(N, 40, seed=5)
        x, info = tw.solve("a.npy", b, memory="1MB", assume_a=assume_a, tile_size=NB, return_info=True)
        assert np.allclose(a @ x, b) and info.structure == "gen" and left(here) == ["a.npy"]

    @pytest.mark.parametrize("assume_a", ["pos", "gen"])
    def test_a_factor_in_fp32_is_refined_and_takes_half_of_the_bytes(self, here, assume_a):
        a, b = (spd() if assume_a == "pos" else random_matrix(N, N)), random_matrix(N, 2)
        np.save("a.npy", a)
        moved = {}
        for precision in ("fp64", "fp32", "auto"):
            how = {"memory": "3MB", "assume_a": assume_a, "tile_size": NB, "return_info": True}
            x, info = tw.solve("a.npy", b, precision=precision, **how)
            assert np.allclose(a @ x, b) and info.backward_error <= N * 2.0**-53
            assert [step.precision for step in info.path] == ["fp64" if precision == "fp64" else "fp32"]
            moved[precision] = info.factor_run.trace.facts["written"]
        assert moved["fp32"] == moved["auto"] == moved["fp64"] / 2 and left(here) == ["a.npy"]

    def test_numbers_far_from_one_are_scaled_where_they_are_positive_definite(self, here):
        a, b = spd(), random_matrix(N, 1)[:, 0]
        d = np.ldexp(1.0, np.linspace(-60, 60, N).astype(int))
        np.save("a.npy", a * d * d[:, None])
        x, info = tw.solve("a.npy", b * d, memory="1MB", assume_a="pos", tile_size=NB, return_info=True)
        assert info.path[-1].precision == "fp32" and np.allclose(x * d, np.linalg.solve(a, b), rtol=1e-3)

    @pytest.mark.parametrize(
        ("case", "assume_a", "path"),
        [
            ("ill", "pos", ["fp32 breakdown", "fp64 converged"]),
            ("ill", "gen", ["fp32 stalled", "fp64 converged"]),
            ("large", "gen", ["fp32 overflow", "fp64 converged"]),
            ("small", "gen", ["fp32 breakdown", "fp64 converged"]),
            ("indefinite", None, ["fp32 breakdown", "fp64 breakdown", "fp32 converged"]),
        ],
    )
    def test_where_fp32_is_not_enough_fp64_takes_over(self, here, case, assume_a, path):
        n = 60
        q = np.linalg.qr(random_matrix(n, n))[0]
        if case == "ill":
            a = (q * np.logspace(0, -10, n)) @ q.T
            a = (a + a.T) / 2
        else:
            a = random_matrix(n, n) * {"large": 1e100, "small": 1e-100}.get(case, 1)
        np.save("a.npy", a)
        b = a @ np.ones(n)
        x, info = tw.solve("a.npy", b, memory="3MB", assume_a=assume_a, tile_size=16, return_info=True)
        assert [f"{step.precision} {step.status}" for step in info.path] == path
        assert info.backward_error <= n * 2.0**-53 and np.allclose(a @ x, b, rtol=1e-10, atol=1e-12 * np.abs(b).max())
        assert left(here) == ["a.npy"]

    def test_what_has_no_solution_is_said_and_nothing_is_left(self, here):
        np.save("a.npy", np.diag([1.0, 0.0, 2.0]))
        with (
            pytest.raises(tw.SingularMatrixError, match=r"U\[1,1\] is exactly zero"),
            pytest.warns(RuntimeWarning, match="exactly zero"),
        ):
            tw.solve("a.npy", np.ones(3), assume_a="gen", tile_size=2)
        with pytest.raises(tw.NotPositiveDefiniteError):
            tw.solve("a.npy", np.ones(3), tile_size=2)
        for how, message in (
            (
                {"precision": "bf16"},
                "precision='bf16' is not for a matrix on a disk, which takes 'auto', 'fp32' or 'fp64'",
            ),
            ({"memory": 100}, "memory=100 bytes is too"),
            ({"backend": "mpi"}, "backend='mpi' is not for a matrix on a disk, which takes 'serial' or 'threads'"),
            ({"b": np.ones(2)}, "b has 2 rows"),
        ):
            with pytest.raises((ValueError, MemoryError), match=message):
                tw.solve("a.npy", **{"b": np.ones(3)} | how)
        with pytest.raises(ValueError, match="memory='1GB' is not for a positive definite matrix, which takes None"):
            tw.solve(np.eye(3), np.ones(3), memory="1GB")
        assert left(here) == ["a.npy"]


RSS = """
import re, sys, numpy as np, tilewright as tw
from tilewright.host.memory import Peak
name, nb = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)

def matrix(n):
    if name == "tall":
        return rng.standard_normal((200 * n, 16))
    a = rng.standard_normal((n, n)) + np.diag([3.0 * n] * n)
    return np.tril(a) + np.tril(a, -1).T

def run(path, n, **how):
    how |= {"workers": 2} | ({} if name == "tall" else {"tile_size": nb})
    if name == "solve":
        return tw.solve(path, np.ones(n), **how)
    if name in ("qr", "tall"):
        return tw.qr(path, out=("q.npy", "r.npy"), overwrite_out=True, **how)
    if name == "tournament":
        how["pivoting"] = name
    return (tw.tiled_cholesky if name == "cholesky" else tw.lu_factor)(path, out="x.npy", overwrite_out=True, **how)

np.save("a.npy", matrix(2 * nb))
run("a.npy", 2 * nb)                                                      # what libraries keep for themselves
for n in map(int, sys.argv[3:]):
    a = matrix(n)
    np.save("a.npy", a)
    cap = a.nbytes // 4
    del a
    vectors = 48 * n if name == "solve" else 0
    try:
        run("a.npy", n, memory=1000 + vectors)
    except MemoryError as error:                                          # the least may be more, in so large tiles
        least = float(re.search(r"the least is ([\\d.]+) MiB", str(error))[1]) * 1.01 * 2**20 + vectors
    cap = max(cap, int(least))
    peak = Peak()
    run("a.npy", n, memory=cap)
    print(n, peak.bytes() / cap)
"""


@measures_the_machine
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says how much a process had at its peak")
@pytest.mark.parametrize("routine", ["cholesky", "lu", "tournament", "qr", "tall", "solve"])
def test_a_process_grows_by_no_more_than_a_quarter_of_the_matrix(here, routine):
    done = subprocess.run(
        [sys.executable, "-c", RSS, routine, "128", "800", "1100", "1500"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    grown = {int(n): float(part) for n, part in map(str.split, done.stdout.splitlines())}
    assert len(grown) == 3 and max(grown.values()) <= 1, grown
