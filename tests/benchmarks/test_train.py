"""The training benchmark, on next to nothing."""

import torch

from tilewright.benchmarks.train import hand_written, measure
from tilewright.training import data, fit, models


def make():
    torch.manual_seed(0)
    return models.MLP(3 * 32 * 32, (8,))


def test_contenders_take_the_same_steps_and_ratios_follow_from_the_medians():
    images, _ = data.synthetic(48, test=1)
    turns = {"loop": {"loop": True, "precision": "fp32"}, "ours": {"precision": "bf16", "threads": 1}}
    rows = list(measure("MLP", make, images, 16, turns, 2, "cpu"))
    assert [row["contender"] for row in rows] == ["loop", "ours"]
    assert all(len(row["seconds"]) == 4 and row["median"] > 0 for row in rows)
    assert rows[1]["of_first"] == rows[0]["median"] / rows[1]["median"] and rows[0]["of_first"] == 1


def test_the_plain_loop_computes_what_the_graph_computes():
    images, _ = data.synthetic(48, test=1)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        by_hand, ours = make(), make()
        hand_written(by_hand, images, 16, "fp32", "cpu")
        fit(ours, images, epochs=1, batch_size=16, threads=1)
    finally:
        torch.set_num_threads(before)
    for left, right in zip(by_hand.parameters(), ours.parameters(), strict=True):
        assert torch.equal(left, right)
