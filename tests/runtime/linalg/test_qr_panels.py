"""Panels of Q R: the loop, on whole tile columns and on parts of them, from the diagonal, below a band, with gaps."""

import numpy as np
import pytest
from matrices import DTYPES, random_matrix, roundoff

import tilewright as tw
from tilewright.linalg.eigen_graph import panels as below_band
from tilewright.linalg.qr_panels import Panel, PartPanels, TilePanels, cuts, qr_panels


def heights(m, nb):
    return [min(nb, m - start) for start in range(0, m, nb)]


def by_columns(a, nb):
    """Tiles of a matrix as panels of parts take them: transposed, each in memory of its own."""
    blocks = {
        (i, j): a[i : i + nb, j : j + nb].T.copy() for i in range(0, len(a), nb) for j in range(0, a.shape[1], nb)
    }
    return {(i // nb, j // nb): tile for (i, j), tile in blocks.items()}


def run(g, tiles, **options):
    data = {tw.Handle("A", place): tile for place, tile in tiles.items()}
    tw.run(g, data, backend="serial", **options)
    return np.block([[tiles[i, j].T for j in range(1 + max(tiles)[1])] for i in range(1 + max(tiles)[0])])


@pytest.mark.parametrize(("n", "nb", "b"), [(12, 4, 2), (13, 5, 2), (7, 7, 7), (9, 4, 4), (3, 8, 2), (0, 4, 2)])
def test_cuts_cover_all_columns_within_tiles(n, nb, b):
    cut = cuts(n, nb, b)
    assert [column for panel in cut for column in range(panel.column, panel.column + panel.width)] == list(range(n))
    assert all(p.width <= b and p.column // nb == (p.column + p.width - 1) // nb and p.row == p.column for p in cut)
    assert [panel.k for panel in cut] == list(range(len(cut)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n", "nb", "b"), [(14, 9, 5, 2), (9, 9, 4, 4), (11, 5, 8, 3)])
def test_parts_of_tile_columns_make_the_r_of_lapack(dtype, m, n, nb, b):
    a = random_matrix(m, n, dtype)
    g = tw.TaskGraph("parts")
    panels = PartPanels(g, g.handles("A"), cuts(n, nb, b), nb, n, heights(m, nb), dtype)
    qr_panels(panels)
    found, wanted = run(g, by_columns(a, nb)), np.linalg.qr(a)[1]
    assert np.allclose(abs(found[:n]), abs(wanted), atol=100 * roundoff(dtype)) and not found[n:].any()
    names = [str(task) for task in g if task.op.name == "panel"]
    assert names == [f"panel({k})" for k in range(len(cuts(n, nb, b)))]


def test_panels_with_gaps_leave_other_rows_alone():
    """A tile row that no panel names is neither read nor written: its numbers are not even finite."""
    a = random_matrix(12, 4)
    a[4:8] = np.nan
    g = tw.TaskGraph("gaps")
    panels = PartPanels(g, g.handles("A"), cuts(4, 4, 2), 4, 4, heights(12, 4), "float64", below=lambda panel: [0, 2])
    qr_panels(panels)
    found = run(g, by_columns(a, 4))
    assert np.isnan(found[4:8]).all()
    assert np.allclose(abs(found[:4]), abs(np.linalg.qr(a[[0, 1, 2, 3, 8, 9, 10, 11]])[1])) and not found[8:].any()


def test_panels_below_a_band_leave_the_band_alone():
    n, nb, b = 11, 4, 2
    a = random_matrix(n, n)
    g = tw.TaskGraph("below")
    cut = list(below_band(n, nb, b))
    panels = PartPanels(g, g.handles("A"), cut, nb, n, heights(n, nb), "float64")
    panels.factor(0)
    assert [panels.shape(i, 0) for i in panels.below(0)] == [(2, 2), (2, 4), (2, 3)] and cut[0] == Panel(0, 0, 2, 2)
    found = run(g, by_columns(a, nb))
    assert np.array_equal(found[:b], a[:b]) and np.array_equal(found[:, b:], a[:, b:])
    assert np.allclose(abs(found[b : 2 * b, :b]), abs(np.linalg.qr(a[b:, :b])[1])) and not found[2 * b :, :b].any()


def test_one_loop_serves_both_kinds():
    """Panels of whole tiles and of parts as wide as tiles: the same tasks, but for names, in the same order."""
    whole, parts = tw.TaskGraph("whole"), tw.TaskGraph("parts")
    qr_panels(TilePanels(whole, whole.handles("A"), whole.handles("T"), 4, 3))
    qr_panels(PartPanels(parts, parts.handles("A"), cuts(12, 4, 4), 4, 12, [4] * 4, "float64"))
    names = {"geqrf": "panel", "larfb": "left"}
    assert [str(task).replace(task.op.name, names[task.op.name]) for task in whole] == [str(task) for task in parts]
    assert [task.predecessors for task in whole] == [task.predecessors for task in parts]
