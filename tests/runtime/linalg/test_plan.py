"""What a graph would take is said before anything runs, and is what it takes."""

from unittest.mock import patch

import numpy as np
import pytest
from matrices import random_matrix

import tilewright as tw
from tilewright.linalg import slab_plan

NB = 128


def test_a_factorisation_by_slabs_takes_what_was_planned(tmp_path):
    a = random_matrix(1536, 1536) + 200 * np.eye(1536)
    for name, call, graph, memory in (
        ("cholesky", tw.tiled_cholesky, tw.cholesky_graph(nt=12), "8MB"),
        ("lu", tw.lu_factor, tw.lu_graph(12, 12), "14MB"),
    ):
        plan = tw.plan(graph, tile_size=NB, memory=memory, workers=2)
        run = call(a, out=tmp_path / f"{name}.npy", memory=memory, tile_size=NB, workers=2, return_run=True)[1]
        assert plan.tasks == len(run.graph) and plan.memory == run.planned and plan.fits and len(plan.slabs) > 1
        assert (plan.read, plan.written) == (run.trace.facts["read"], run.trace.facts["written"])
        assert plan.compute > 0 and plan.move == (plan.read + plan.written) / 1e9
        assert plan.seconds == max(plan.compute, plan.move)
        text = str(plan)
        for word in (f"{plan.tasks} tasks on 2 workers", "of up to", "MiB of ", "written", "computing"):
            assert word in text, text


def test_blocks_are_planned_where_they_read_less(tmp_path):
    with patch.object(slab_plan, "_TASK", 0), patch.object(slab_plan, "_THREAD", 0):
        a = random_matrix(512, 512)
        a = a @ a.T + 512 * np.eye(512)
        how = {"tile_size": 32, "memory": 14 * 32 * 32 * 8, "workers": 2}
        plan = tw.plan(tw.cholesky_graph(nt=16), **how)
        _, run = tw.tiled_cholesky(a, out=tmp_path / "L.npy", return_run=True, **how)
    assert plan.height == 2 and plan.tasks == len(run.graph) and plan.memory == run.planned and plan.fits
    assert (plan.read, plan.written) == (run.trace.facts["read"], run.trace.facts["written"])
    assert "8 of up to 2 block columns, in blocks of 2 block rows" in str(plan)


def test_with_enough_memory_and_for_other_graphs_all_data_is_in_memory():
    plan = tw.plan(tw.cholesky_graph(nt=4), tile_size=NB, memory="1GB")
    assert plan.slabs == () and plan.read == 0 and plan.memory == plan.data == 10 * NB * NB * 8 and plan.tasks == 20
    g = tw.TaskGraph("mine")
    x, y = g.handles("x"), g.handles("y", shape=(3, 5), dtype="float32")
    g.insert(np.copyto, tw.R(x[0, 0]), tw.W(y[0]))
    plan = tw.plan(g, tile_size=10, dtype="complex64", memory=100)
    assert plan.data == 10 * 10 * 8 + 3 * 5 * 4 and not plan.fits
    assert "of 100 bytes: too little" in str(plan) and "not known" in str(plan)


def test_too_little_memory_says_the_least():
    with pytest.raises(MemoryError, match=r"memory=1000 bytes is too little .* the least is"):
        tw.plan(tw.cholesky_graph(nt=4), tile_size=NB, memory=1000)


@pytest.mark.parametrize(("mt", "nt", "tree"), [(6, 5, "panel"), (5, 4, "greedy")])
def test_a_qr_factorisation_through_pages_takes_what_was_planned(tmp_path, mt, nt, tree):
    np.save(tmp_path / "a.npy", random_matrix(mt * NB, nt * NB))
    graph = tw.qr_graph(mt, nt, tree)
    with pytest.raises(MemoryError, match="the least is"):
        tw.plan(graph, tile_size=NB, memory=1000, workers=2)
    with patch.object(slab_plan, "_TASK", 0), patch.object(slab_plan, "_THREAD", 0):
        memory = int(0.97 * tw.plan(graph, tile_size=NB).data)
        plan = tw.plan(graph, tile_size=NB, memory=memory, workers=2)
        how = {"tile_size": NB, "tree": tree, "memory": memory, "workers": 2, "return_run": True}
        _, run = tw.qr(tmp_path / "a.npy", mode="r", out=tmp_path / "R.npy", **how)
    assert plan.tasks == len(run.graph) and plan.memory == run.planned <= memory and plan.slabs == ()
    assert (plan.read, plan.written) == (run.trace.facts["read"], run.trace.facts["written"])
    assert "written" in str(plan) and plan.read > 0
