"""The three demonstrations, beside torch."""

import math

from optional import torch

from tilewright.cli.rounding import demonstrations, format_rows

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def torch_cube(x, dtype):
    y = torch.tensor(x, dtype=torch.float64).to(dtype)
    return y * y * y


def results(expression):
    return next(d.results for d in demonstrations() if d.expression == expression)


def test_overflow():
    found = results("70000")
    assert math.isinf(found["fp16"])
    assert found == {name: torch.tensor(70000.0).to(dtype).double().item() for name, dtype in DTYPES.items()}


def test_underflow():
    found = results("(1e-5)^3")
    assert found["fp16"] == 0
    assert found == {name: torch_cube(1e-5, dtype).double().item() for name, dtype in DTYPES.items()}


def test_scaling_undone_in_fp16_preserves_nothing():
    """The notebook prints "preserved!" beside 0.0."""
    assert results("(2^16 1e-5)^3 / 2^48, divided in the format")["fp16"] == 0
    assert (torch_cube(2.0**16 * torch.tensor(1e-5).half().item(), torch.float16) / 2.0**48).item() == 0


def test_scaling_undone_in_fp32_preserves_the_gradient():
    found = results("(2^16 1e-5)^3 / 2^48, divided in FP32")["fp16"]
    scaled = torch.tensor(1e-5).half() * 2.0**16
    assert found == ((scaled**2 * scaled).float() / 2.0**48).item()
    assert abs(found - 1e-15) < 0.01e-15


def test_rows_have_u_and_eps_beside_each_other():
    assert [(row["format"], row["eps"] / row["u"]) for row in format_rows()] == [
        (name, 2.0) for name in ("fp64", "fp32", "tf32", "bf16x3", "bf16", "fp16")
    ]
