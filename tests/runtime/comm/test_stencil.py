"""The graph of a five-point stencil on a torus, in slabs and patches."""

import numpy as np
import pytest

import tilewright as tw
from tilewright.comm.domains import time
from tilewright.comm.stencil import division, stencil_graph

WEIGHTS = (2.0, 3.0, 5.0, 7.0, 11.0)


@pytest.mark.parametrize(
    ("cut", "p", "n"),
    [
        ("slab", 1, 5),
        ("slab", 2, 6),
        ("slab", 3, 7),
        ("slab", 5, 5),
        ("patch", 1, 1),
        ("patch", 4, 7),
        ("patch", 9, 11),
    ],
)
def test_it_is_the_stencil_of_the_whole_torus(cut, p, n):
    x = np.arange(n * n, dtype=float).reshape(n, n) ** 2
    r, c = division(cut, p)
    rows, columns = np.array_split(np.arange(n), r), np.array_split(np.arange(n), c)
    graph = stencil_graph(cut, p, n, WEIGHTS)
    data = {tw.Handle("x", (i, j)): x[np.ix_(rows[i], columns[j])] for i in range(r) for j in range(c)}
    run = tw.run(graph, data, backend="serial")
    y = np.block([[run[tw.Handle("y", (i, j))] for j in range(c)] for i in range(r)])
    up, down, left, right = (np.roll(x, step, axis) for axis in (0, 1) for step in (1, -1))
    assert np.array_equal(y, 2 * x + 3 * up + 5 * down + 7 * left + 11 * right)
    assert run.flops == 10 * n * n


@pytest.mark.parametrize(("cut", "p"), [("slab", 1), ("slab", 2), ("slab", 12), ("patch", 4), ("patch", 16)])
def test_on_the_simulator_it_takes_exactly_the_time_of_the_formula(cut, p):
    machine = tw.Machine(alpha=3.0, beta=0.25, gamma=0.5)
    run = tw.simulate(stencil_graph(cut, p, 48), machine, scheduler="eager")
    assert run.makespan == time(cut, p, 48, machine)
    assert len(run.trace.messages) == (0 if p == 1 else p * (2 if cut == "slab" else 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cube", 4, 8), "unknown cut 'cube'"),
        (("patch", 8, 8), "p=8 is no square"),
        (("slab", 9, 8), "n=8 points along a side are too few for 9 ranks"),
        (("slab", 0, 8), "p"),
        (("slab", 1, 0), "n must be at least 1, not 0"),
    ],
)
def test_bad_input_is_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        stencil_graph(*arguments)
