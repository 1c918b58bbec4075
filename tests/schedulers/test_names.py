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


def test_priorities_of_libraries_fit_what_these_factor():
    def fit(graph):
        return {"parsec", "chameleon"} & set(fitting(graph))

    assert fit(tw.cholesky_graph(4)) == {"parsec", "chameleon"}
    for update in ("tile", "column"):
        assert fit(tw.lu_graph(4, 3, update=update)) == {"parsec", "chameleon"}
    assert fit(tw.lu_graph(4, 4, panel="recursive")) == {"parsec", "chameleon"}
    assert fit(tw.lu_graph(4, 4, "none")) == {"chameleon"}
    assert not fit(tw.lu_graph(4, 4, "tournament")) and not fit(tw.lu_graph(4, 4, "butterfly"))
    assert not fit(tw.lu_graph(4, 4, ranks=2))  # its exchanges are others
    g = tw.TaskGraph()
    g.insert(len, tw.R(g.handle("x")))
    assert not fit(g)
    own = tw.TaskGraph()
    own.insert(tw.Op("getrf", len), tw.RW(own.handle("x")))  # a user's, without tile indices
    assert not fit(own)
    tw.simulate(g, scheduler="parsec").trace.check()  # program order
