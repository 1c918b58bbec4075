from dataclasses import replace

import numpy as np
import pytest

import tilewright as tw
from tilewright.plot.html import run_page
from tilewright.saved import load

MACHINE = tw.Machine(ranks=2, workers=2, alpha=1e-5, beta=1e-9, gamma=1e-9, durations={"potrf": {256: 0.01}})


def simulated():
    return tw.simulate(tw.cholesky_graph(5), MACHINE, owner=lambda h: h.index[0] % 2)


def training_like():
    return replace(measured(), measured=12345)


def measured():
    return tw.tiled_cholesky(np.eye(50) * 2, tile_size=13, return_run=True)[1]


@pytest.mark.parametrize("make", [simulated, measured, training_like])
def test_a_saved_run_comes_back_with_all_but_its_data(make, tmp_path):
    run = make()
    run.save(tmp_path / "run.json")
    back = load(tmp_path / "run.json")
    back.trace.check()
    assert back.trace.records == run.trace.records
    assert back.trace.messages == run.trace.messages
    assert [(task.label, task.predecessors) for task in back.graph] == [(t.label, t.predecessors) for t in run.graph]
    assert (back.bounds, back.idle_split, back.memory) == (run.bounds, run.idle_split, run.memory)
    assert (back.flops, back.machine) == (run.flops, run.machine)
    assert str(back) == str(run)
    assert run_page(back) == run_page(run)


def test_ops_of_the_user_keep_name_and_weight(tmp_path):
    g = tw.TaskGraph("mine")
    g.insert(tw.Op("stir", weight=3), tw.W(g.handle("pot")))
    tw.simulate(g).save(tmp_path / "run.json")
    back = load(tmp_path / "run.json")
    assert [(task.label, task.op.weight) for task in back.graph] == [("stir(pot)", 3)]


@pytest.mark.parametrize(
    ("text", "message"),
    [("{}", "is no saved run"), ("[1]", "is no saved run"), ("hm", "is no saved run"),
     ('{"tilewright_run": 99}', "has format 99")],
)  # fmt: skip
def test_another_file_is_refused(text, message, tmp_path):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "run.json")
