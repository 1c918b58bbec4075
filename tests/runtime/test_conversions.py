"""Conversions as tasks."""

import numpy as np
import pytest
from matrices import spd_matrix

import tilewright as tw
from tilewright.conversions import with_conversions
from tilewright.precision import PrecisionMap

ROUTES = {"bfloat16": "cblas", "float16": "cblas", "bfloat16x2": "cblas"}.__getitem__


def converted(nt, precision):
    pm = precision if isinstance(precision, PrecisionMap) else PrecisionMap.uniform(nt, precision)
    return with_conversions(tw.cholesky_graph(nt), pm, ROUTES)


def labels(graph, op):
    return [task.label for task in graph if task.op.name == op]


def test_high_precision_needs_no_conversion():
    for precision in ("fp64", "fp32"):
        g = converted(5, precision)
        assert [task.label for task in g] == [task.label for task in tw.cholesky_graph(5)]
        assert not g.temporary


@pytest.mark.parametrize(("precision", "op", "family"), [
    ("bf16", "convert", "A:bfloat16"), ("fp16", "convert", "A:float16"),
    ("bf16x3", "split", "A:bfloat16x2"), ("tf32", "tf32", "A:tf32"),
])  # fmt: skip
def test_every_panel_tile_is_converted_once(precision, op, family):
    g = converted(5, precision)
    assert sorted(labels(g, op)) == sorted(f"{op}({i},{k})" for i in range(5) for k in range(i))
    assert g.temporary == {family}
    read_by_products = {u.handle.name for t in g if t.op.name in ("gemm", "syrk") for u in t.uses[:-1]}
    assert read_by_products == {family}


def test_copy_is_made_after_the_tile_is_final_and_before_its_readers():
    g = converted(4, "bf16")
    convert = g.task("convert(2,1)")
    assert [t.label for t in g.predecessors(convert)] == ["trsm(2,1)"]
    assert {t.label for t in g.successors(convert)} == {"syrk(2,1)", "gemm(3,2,1)"}


def test_simulated_and_saved_runs_have_nothing_to_count(tmp_path):
    from tilewright.saved import load

    simulated = tw.simulate(converted(4, "bf16"), tw.Machine(workers=2))
    assert simulated.conversions is None and "convert" in str(simulated)
    run = tw.tiled_cholesky(spd_matrix(40), precision="bf16", tile_size=10, return_run=True)[1]
    run.save(tmp_path / "run.json")
    assert load(tmp_path / "run.json").conversions is None
    assert run.conversions.count == 6


def test_a_new_version_gets_a_new_copy():
    g = tw.TaskGraph()
    A = g.handles("A")
    from tilewright.linalg.ops import gemm, trsm

    g.insert(gemm, tw.R(A[1, 0]), tw.R(A[1, 0]), tw.RW(A[1, 1]))
    g.insert(trsm, tw.R(A[0, 0]), tw.RW(A[1, 0]))
    g.insert(gemm, tw.R(A[1, 0]), tw.R(A[1, 0]), tw.RW(A[1, 1]))
    found = with_conversions(g, PrecisionMap.uniform(2, "bf16"), ROUTES)
    assert [t.op.name for t in found] == ["convert", "gemm", "trsm", "convert", "gemm"]


def test_each_reader_gets_the_form_of_the_tile_it_writes():
    g = converted(3, PrecisionMap([["fp64", 0, 0], ["fp32", "fp64", 0], ["bf16", "bf16", "fp64"]]))
    forms = {t.label: [u.handle.name for u in t.uses] for t in g if t.op.name not in ("convert",)}
    assert forms["trsm(1,0)"] == ["A:float32", "A"]  # L_00 is FP64, A_10 FP32
    assert forms["syrk(1,0)"] == ["A:float64", "A"]
    assert forms["gemm(2,1,0)"] == ["A:bfloat16", "A:bfloat16", "A"]


@pytest.mark.parametrize(("precision", "share"), [("bf16", 0.5), ("fp16", 0.5), ("bf16x3", 1.0)])
def test_messages_carry_the_narrow_copy(precision, share):
    """Against FP32: the panel travels in half the bytes; what trsm needs, the diagonal, stays FP32."""
    n, nb, nt = 160, 20, 8
    a = spd_matrix(n)
    tile = nb * nb * 4
    sent = {}
    for name in ("fp32", precision):
        run = tw.tiled_cholesky(
            a, precision=name, tile_size=nb, backend="mpi", workers=2, grid=(2, 1), return_run=True
        )[1]
        panel = [
            m for m in run.trace.messages if m.handle.name.startswith("A") and m.handle.index[0] != m.handle.index[1]
        ]
        sent[name] = sum(m.nbytes for m in panel), {m.handle.name for m in panel}, len(panel)
        diagonal = [m for m in run.trace.messages if m.handle.name == "A" and m.handle.index[0] == m.handle.index[1]]
        assert {m.nbytes for m in diagonal} == {tile}
        assert len(diagonal) == nt - 1
    assert sent[precision][2] == sent["fp32"][2]
    assert sent[precision][0] == share * sent["fp32"][0]
    assert sent["fp32"][1] == {"A"}
    assert len(sent[precision][1]) == 1 and ":" in min(sent[precision][1])
    assert run.conversions.sent_saved == (1 - share) * sent["fp32"][0]
    assert ("less to send" in str(run)) == (share < 1)
    assert not np.isnan(run.makespan)
