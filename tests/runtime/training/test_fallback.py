"""When a precision is given up."""

import pytest

from tilewright.training import Event, Fallback


def feed(fallback, steps, *, scale=1024.0, loss_finite=True, start=0):
    """Steps as a string, x for a skipped one; the first event."""
    for step, kind in enumerate(steps, start):
        event = fallback.observe(step, found_inf=kind == "x", scale=scale, loss_finite=loss_finite)
        if event:
            return event
    return None


def test_literal_mode_falls_to_fp32_above_a_tenth():
    fallback = Fallback(mode="literal")
    assert feed(fallback, "." * 18 + "xx") is None  # 2 of 20 is a tenth, not more
    assert feed(fallback, "x", start=20) == Event(20, "fp16", "fp32", "3 of 21 steps skipped, more than 10%")
    assert fallback.precision == "fp32"


def test_literal_mode_fires_at_the_first_step_if_that_overflows():
    assert feed(Fallback(mode="literal"), "x").step == 0


def test_robust_mode_forgives_the_search_for_a_scale():
    fallback = Fallback()
    assert feed(fallback, "x" * 16 + "." * 50) is None
    assert fallback.precision == "fp16"


def test_seventeen_skips_before_the_first_good_step_are_too_many():
    event = feed(Fallback(), "x" * 17)
    assert event == Event(16, "fp16", "bf16", "all of the first 17 steps skipped")


def test_robust_mode_falls_one_rung_when_ten_of_a_hundred_are_skipped():
    fallback = Fallback()
    assert feed(fallback, ".........x" * 9 + ".........") is None
    event = feed(fallback, "x", start=99)
    assert event == Event(99, "fp16", "bf16", "10 of the last 100 steps skipped")


def test_the_window_forgets():
    assert feed(Fallback(window=20), ("." + "x" * 4 + "." * 20) * 5) is None


def test_a_small_window_needs_five_skips():
    assert feed(Fallback(window=20), ".xxxx") is None
    assert feed(Fallback(window=20), ".xxxxx").reason == "5 of the last 6 steps skipped"


def test_a_scale_below_one_falls_at_once():
    assert feed(Fallback(), "x", scale=0.5).reason == "the loss scale fell to 0.5"


def test_three_bad_losses_in_a_row_fall():
    fallback = Fallback()
    feed(fallback, "xx", loss_finite=False)
    feed(fallback, ".")
    assert fallback.precision == "fp16"
    assert feed(fallback, "xxx", loss_finite=False).reason == "3 losses in a row were not finite"


def test_the_ladder_is_walked_down_and_its_end_holds():
    fallback = Fallback()
    order = []
    for _ in range(5):
        event = feed(fallback, "xxx", loss_finite=False)
        order.append(event and event.after)
    assert order == ["bf16", "tf32", "fp32", None, None]
    assert [e.after for e in fallback.events] == ["bf16", "tf32", "fp32"]


def test_a_state_continues_where_it_was():
    one, other = Fallback(window=10), None
    feed(one, ".xx.")
    other = Fallback.from_state(one.state_dict())
    assert other == one
    assert feed(one, "xxx") == feed(other, "xxx") is not None
    assert other.state_dict() == one.state_dict()


def test_after_enough_good_steps_it_goes_up_again_and_waits_twice_as_long_after_another_fall():
    fallback = Fallback(ladder=("fp16", "bf16", "fp32"), retry=10)
    feed(fallback, "xxx", loss_finite=False)
    assert feed(fallback, "." * 9) is None
    assert feed(fallback, "x" + "." * 9) is None  # in a row
    event = feed(fallback, ".", start=22)
    assert event == Event(22, "bf16", "fp16", "10 good steps in a row") and not event.fell
    assert feed(fallback, "." * 50) is None  # there is no rung above
    assert feed(fallback, "xxx", loss_finite=False).fell and fallback.retry == 20
    assert feed(fallback, "." * 19) is None and feed(fallback, ".").after == "fp16"
    assert Fallback.from_state(fallback.state_dict()) == fallback


def test_without_retry_a_precision_that_was_given_up_stays_so():
    fallback = Fallback()
    feed(fallback, "xxx", loss_finite=False)
    assert feed(fallback, "." * 1000) is None and fallback.precision == "bf16"


@pytest.mark.parametrize(
    "options",
    [{"mode": "bold"}, {"ladder": ()}, {"max_skip_ratio": 1.0}, {"retry": 0}, {"mode": "literal", "retry": 5}],
)
def test_nonsense_is_refused(options):
    with pytest.raises(ValueError):
        Fallback(**options)
