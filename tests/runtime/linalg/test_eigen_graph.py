"""The graphs of eigenvalues: counts, work, what runs beside what."""

from itertools import pairwise

import pytest

from tilewright.kernels.bulge import blocks
from tilewright.linalg.eigen_graph import band_graph, chased_together, eigen_graph, panels, sweeps
from tilewright.linalg.tuning import band_width, eigen_plan


@pytest.mark.parametrize(("nt", "r"), [(1, 2), (2, 1), (3, 2), (4, 4), (6, 1)])
def test_tasks_of_the_band_by_formula(nt, r):
    b = 4
    g = band_graph(nt, r * b, b)
    counts = [nt - panel.row // (r * b) for panel in panels(nt * r * b, r * b, b)]  # tile rows below each panel
    assert len(counts) == nt * r - 1
    assert len(g) == sum(2 + 2 * t + t * (t + 1) // 2 for t in counts)


def test_its_work_is_four_thirds_n_cubed_and_lower_terms():
    works = [band_graph(nt, 16, 4).work() / (4 * nt**3) for nt in (4, 8, 16)]
    assert works[0] > works[1] > works[2] and 1 < works[2] < 1.3


def test_panels_begin_where_the_band_of_the_one_before_ends():
    for n, nb, b in ((24, 8, 4), (23, 8, 4), (9, 9, 4), (7, 7, 1), (4, 8, 3), (1, 1, 1), (2, 2, 1)):
        cut = list(panels(n, nb, b))
        assert [panel.column for panel in cut] == list(range(0, len(cut) * b, b))
        assert all(panel.row - panel.column == panel.width == b for panel in cut) and n - b * (len(cut) + 1) < 2


def test_chases_take_turns_and_run_beside_what_makes_the_band():
    g = eigen_graph(400, 100, 4, "float64", 0, 400, True, False, True)
    chases = [task for task in g if task.op.name == "chase"]
    assert all(one.index in other.predecessors for one, other in pairwise(chases))
    before, todo = set(), [chases[0].index]
    while todo:
        before.update(found := set(g.tasks[todo.pop()].predecessors) - before)
        todo += found
    panels_before = sum(g.tasks[index].op.name == "panel" for index in before)
    assert panels_before < 0.3 * sum(task.op.name == "panel" for task in g)
    assert sweeps(400, 4) == 398 and sweeps(400, 1) == sweeps(2, 2) == 0 and chased_together(16384, 64) == 16


def test_every_block_of_every_sweep_is_chased_once():
    for n, b in ((40, 3), (41, 4), (9, 2), (3, 2)):
        g = eigen_graph(n, 12, b, "float64", 0, n, True, False, True)
        seen = []
        for task in g:
            if task.op.name == "chase":
                _, _, first, start, stop, _ = task.params
                for i in range(min(chased_together(n, b), sweeps(n, b) - first)):
                    sweep = first + i
                    for m in range(max(start - i, 0), min(stop - i, blocks(n, b, sweep))):
                        assert not m or (sweep, m - 1) in seen
                        assert not sweep or (sweep - 1, min(m + 1, blocks(n, b, sweep - 1) - 1)) in seen
                        seen.append((sweep, m))
        assert sorted(seen) == [(s, m) for s in range(sweeps(n, b)) for m in range(blocks(n, b, s))]


def test_plans():
    assert [band_width(*args) for args in ((4096, 512, 64), (4096, 509, 64), (5, 5, 64), (0, 1, 1))] == [64, 1, 4, 1]
    for n in (0, 1, 10, 300, 1024, 1025, 5000):
        for vectors in (True, False):
            nb, b = eigen_plan(n, 2, vectors)
            assert (nb, b) == (max(n, 1), 0) if n <= 1024 else (1 <= b <= nb and nb % 32 == 0)
            assert eigen_plan(n, 2, vectors, 96)[1] == (0 if n <= 96 else 32 if n < 1024 else 64 if not vectors else 96)


def test_what_no_graph_has():
    with pytest.raises(ValueError, match="b=3 does not divide nb=8"):
        band_graph(2, 8, 3)
    with pytest.raises(ValueError, match="nt"):
        band_graph(-1, 8, 4)
