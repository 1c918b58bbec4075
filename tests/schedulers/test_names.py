import pytest

import tilewright as tw
from tilewright.schedulers import fitting, policy


def test_a_name_may_carry_parameters():
    assert policy("lookahead(3)").depth == 3
    assert policy("lookahead()").depth == 1
    assert policy("random(7)").seed == 7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fastest", "unknown scheduler 'fastest'; known: eager, lifo"),
        ("fastest(2)", "unknown scheduler"),
        ("eager(2)", "'eager' does not take the parameters"),
        ("lookahead(k)", "cannot read the parameters"),
        ("lookahead(-1)", "must not be negative"),
    ],
)
def test_a_wrong_name_says_what_is_wrong(name, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        policy(name)


def test_cholesky_priorities_fit_cholesky_alone():
    assert {"parsec", "chameleon"} <= set(fitting(tw.cholesky_graph(4)))
    g = tw.TaskGraph()
    g.insert(len, tw.R(g.handle("x")))
    assert not {"parsec", "chameleon"} & set(fitting(g))
    tw.simulate(g, scheduler="parsec").trace.check()  # program order
