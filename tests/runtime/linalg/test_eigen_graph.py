"""The graphs of eigenvalues: counts, work, what runs beside what."""

import pytest

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


def test_chases_run_beside_each_other():
    """The longest chain of chases is much shorter than their number."""
    g = eigen_graph(400, 100, 4, "float64", 0, 400, False, False, True)
    depth = {}
    for task in g:
        before = max((depth[p] for p in task.predecessors), default=0)
        depth[task.index] = before + (task.op.name == "chase")
    chases = sum(task.op.name == "chase" for task in g)
    assert max(depth.values()) < 0.45 * chases
    assert sweeps(400, 4) == 398 and sweeps(400, 1) == sweeps(2, 2) == 0 and chased_together(8192, 64) == 8


def test_plans():
    assert [band_width(*args) for args in ((4096, 512, 64), (4096, 509, 64), (5, 5, 64), (0, 1, 1))] == [64, 1, 4, 1]
    for n in (0, 1, 10, 300, 1000, 5000):
        for vectors in (True, False):
            nb, b = eigen_plan(n, 2, vectors)
            assert 1 <= b <= nb and (n <= 256 or nb % 32 == 0)


def test_what_no_graph_has():
    with pytest.raises(ValueError, match="b=3 does not divide nb=8"):
        band_graph(2, 8, 3)
    with pytest.raises(ValueError, match="nt"):
        band_graph(-1, 8, 4)
