"""Contenders take turns."""

import pytest

from tilewright.benchmarks.timing import Contender, Times, alternate


def test_contenders_take_turns_and_the_first_round_is_not_counted():
    order = []
    runners = [Contender(name, lambda name=name: order.append(name)) for name in "ab"]
    times = alternate(runners, 3)
    assert order == ["a", "b"] * 4
    assert {name: len(taken.seconds) for name, taken in times.items()} == {"a": 3, "b": 3}


def test_without_warm_up_every_round_is_counted():
    order = []
    times = alternate([Contender("a", lambda: order.append("a"))], 2, warm_up=False)
    assert len(order) == len(times["a"].seconds) == 2


def test_prepare_runs_before_each_call():
    order = []
    alternate([Contender("a", lambda: order.append("call"), lambda: order.append("prepare"))], 1)
    assert order == ["prepare", "call"] * 2


def test_a_contender_may_repeat_less_often_than_the_others():
    times = alternate([Contender("slow", lambda: None, repeat=1), Contender("fast", lambda: None)], 3)
    assert (len(times["slow"].seconds), len(times["fast"].seconds)) == (1, 3)


def test_a_contender_that_raises_is_left_out_of_later_rounds_and_reported():
    calls = []

    def fail():
        calls.append(1)
        raise ValueError("too large")

    times = alternate([Contender("bad", fail), Contender("good", lambda: None)], 2)
    assert len(calls) == 1
    assert times["bad"].record() == {"error": "ValueError: too large"}
    assert len(times["good"].seconds) == 2


def test_a_record_has_median_and_extremes():
    assert Times([3.0, 1.0, 2.0]).record() == {"median": 2.0, "min": 1.0, "max": 3.0, "seconds": [3.0, 1.0, 2.0]}
    assert Times([1.0, 2.0]).median == pytest.approx(1.5)
