"""The notebook's first and sixth parts."""

import torch

from tilewright import training


def cells(text, title):
    row = next(line for line in text.splitlines() if line.startswith(title))
    return row[len(title) :].split()


def test_the_table_of_formats_has_the_numbers_of_the_notebook():
    table = training.formats()
    assert cells(table, "bits") == ["32", "16", "16"]
    assert cells(table, "exponent bits") == ["8", "5", "8"] and cells(table, "mantissa bits") == ["23", "10", "7"]
    assert cells(table, "eps") == ["1.19e-07", "0.000977", "0.00781"]
    assert cells(table, "used for") == ["weights,", "sums", "scaled", "losses", "products"]
    assert cells(table, "MB for 10^6 numbers") == ["4.00", "2.00", "2.00"]
    assert cells(table, "70000 becomes") == ["70000", "inf", "70144"]
    assert cells(table, "1e-06 becomes")[1] != "1e-06" and cells(table, "1e-15 becomes")[1] == "0"
    assert cells(table, "unit roundoff") == ["5.96e-08", "0.000488", "0.00391"]


def test_a_gradient_survives_scaling_only_if_it_is_unscaled_in_fp32():
    """Erratum 5."""
    table = training.scaling()
    assert cells(table, "in FP16") == ["0"] and cells(table, "scaled, divided in FP16") == ["0"]
    assert cells(table, "scaled, divided in FP32") == ["9.99e-16"] and cells(table, "in FP32") == ["1e-15"]


def test_the_batch_size_follows_the_memory_of_a_gpu(monkeypatch):
    from types import SimpleNamespace

    assert training.batch_size_for("cpu") == 64
    for memory, size in ((128e9, 256), (80e9, 128), (8e9, 64)):
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, m=memory: SimpleNamespace(total_memory=m))
        assert training.batch_size_for("cuda") == size
