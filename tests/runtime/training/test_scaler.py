"""The loss scaler, beside torch's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.amp import GradScaler

from tilewright.training import LossScaler


def torch_scale_after(overflows, **options):
    """The scale of torch's own scaler after steps that overflow or not."""
    scaler = GradScaler("cpu", **options)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    for found in overflows:
        weight.grad = scaler.scale(torch.tensor([float("inf") if found else 1.0]))
        scaler.step(optimizer)
        scaler.update()
    return scaler


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_scale_and_state_follow_torch(overflows):
    scaler = LossScaler(scale=2.0**8, growth_interval=3)
    for found in overflows:
        scaler.update(found)
    assert scaler.state_dict() == torch_scale_after(overflows, init_scale=2.0**8, growth_interval=3).state_dict()


def test_defaults_are_those_of_torch():
    assert LossScaler().state_dict() == torch_scale_after([False]).state_dict() | {"_growth_tracker": 0}


def test_a_state_goes_to_torch_and_back():
    ours = LossScaler(scale=512.0, growth_interval=7, growth_tracker=3)
    theirs = GradScaler("cpu")
    theirs.load_state_dict(ours.state_dict())
    other = LossScaler()
    other.load_state_dict(theirs.state_dict())
    assert other == ours


def test_a_disabled_scaler_scales_by_one_and_keeps_its_attributes():
    """Erratum 3: torch's disabled scaler has no _growth_factor, so the notebook's Part 6 fails on a CPU."""
    scaler = LossScaler(enabled=False)
    scaler.update(True)
    assert scaler.factor == 1.0 and scaler.scale == 2.0**16 and scaler.growth_factor == 2.0
    assert scaler.state_dict() == {} == GradScaler("cpu", enabled=False).state_dict()
    scaler.load_state_dict({"scale": 1.0})
    assert scaler.scale == 2.0**16
    with pytest.raises(ValueError, match="disabled scaler"):
        LossScaler().load_state_dict({})


def test_hysteresis_forgives_the_first_overflow_after_a_good_step():
    scaler = LossScaler(scale=16.0, hysteresis=2)
    seen = []
    for found in (True, True, True, False, True):
        scaler.update(found)
        seen.append(scaler.scale)
    assert seen == [16.0, 8.0, 4.0, 4.0, 4.0]


def test_the_scale_stays_between_its_bounds():
    scaler = LossScaler(scale=2.0, min_scale=1.0, max_scale=4.0, growth_interval=1)
    for found, expected in ((True, 1.0), (True, 1.0), (False, 2.0), (False, 4.0), (False, 4.0)):
        scaler.update(found)
        assert scaler.scale == expected


@pytest.mark.parametrize(
    "options",
    [
        {"growth_factor": 1.0},
        {"backoff_factor": 1.0},
        {"growth_interval": 0},
        {"hysteresis": 0},
        {"min_scale": 2.0**17},
    ],
)
def test_numbers_that_cannot_work_are_refused(options):
    with pytest.raises(ValueError):
        LossScaler(**options)


def test_unscaling_belongs_into_fp32():
    """Erratum 5: the notebook divides in half precision and prints 0.0 as "preserved"."""
    small, scale = torch.tensor(1e-5), 65536.0
    scaled = (small * scale).half() ** 3
    assert (scaled / scale**3).item() == 0.0
    assert (scaled.float() / scale**3).item() == pytest.approx(1e-15, rel=2e-3)
