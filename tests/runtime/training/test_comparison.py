"""The notebook's summary."""

import pytest
import torch
import training_models as zoo

from tilewright.training import compare

DATA = zoo.tiny(), zoo.tiny(16)


def make():
    torch.manual_seed(0)
    return zoo.perceptron()


def test_precisions_share_first_weights_and_order_of_data():
    table = compare(make, DATA, ["fp32", "bf16", "fp16"], epochs=2, batch_size=32)
    losses = [result.losses for result in table.results.values()]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-2) == pytest.approx(losses[2][0], rel=1e-2)
    assert len({tuple(own) for own in losses}) == 3
    assert [{row["precision"] for row in r.steps} for r in table.results.values()] == [{"fp32"}, {"bf16"}, {"fp16"}]


def test_the_table_survives_a_baseline_without_memory():
    """Erratum 4: the notebook divides by the memory of the first model, 0 on a CPU."""
    table = compare(make, DATA, ["fp32", "bf16"], epochs=1)
    for result in table.results.values():
        result.log.memory = (0, 0)
    assert table.savings("bf16") is None
    row = next(line for line in table.table().splitlines() if line.startswith("Memory savings"))
    assert row.split()[-2:] == ["-", "-"]


def test_the_model_before_is_gone_when_the_next_one_is_measured():
    """Erratum 6: earlier models stay alive while later ones are measured."""
    import gc
    import weakref

    made, alive = [], []

    def tracked():
        gc.collect()
        alive.append(sum(ref() is not None for ref in made))
        model = make()
        made.append(weakref.ref(model))
        return model

    compare(tracked, DATA, ["fp32", "bf16", "fp16"], epochs=1, warm_up=False)
    assert alive[-3:] == [0, 0, 0]


def test_the_table_has_the_memory_after_clean_up(monkeypatch):
    """Beyond that before the training, and never less than nothing: what a process has also falls for other reasons."""
    from tilewright.training import usage

    has = iter([100_000_000, 102_500_000, 200_000_000, 190_000_000])
    monkeypatch.setattr(usage, "held", lambda device: next(has))
    table = compare(make, DATA, ["fp32", "bf16"], epochs=1, warm_up=False)
    assert table.left == {"fp32": 2_500_000, "bf16": 0}
    row = next(line for line in table.table().splitlines() if line.startswith("After clean-up (MB)"))
    assert row.split()[-2:] == ["2.5", "0.0"]
    assert [row["memory_left"] for row in table.summary()["compared"].values()] == [2_500_000, 0]


def test_every_precision_warms_up_before_the_first_is_measured(monkeypatch):
    """Erratum 8: the notebook's first run pays for libraries and thread pools."""
    from tilewright.training import comparison, fit

    taken = []

    def noted(model, train, test, **options):
        taken.append((options["precision"], len(train)))
        return fit(model, train, test, **options)

    monkeypatch.setattr(comparison, "fit", noted)
    compare(make, DATA, ["fp32", "bf16"], epochs=1, batch_size=32)
    assert taken == [("fp32", 64), ("bf16", 64), ("fp32", 96), ("bf16", 96)]


@pytest.mark.parametrize("names", [[], ["fp32", "fp32"], ["fp32", "half"]])
def test_nonsense_is_refused(names):
    with pytest.raises(ValueError):
        compare(make, DATA, names)
