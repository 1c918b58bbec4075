"""What a notebook shows of small things: well formed, by value, and no markup of what they are called."""

import html
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import tilewright as tw
from tilewright.comm.schedule import schedule
from tilewright.plot.palette import text_on
from tilewright.plot.precision import COLOURS

EVIL = "<img src=x onerror=alert(1)>"


def solved():
    return tw.solve(np.eye(8) * 2, np.ones(8), return_info=True)[1]


def traced():
    g = tw.TaskGraph(EVIL)
    for _ in range(3):
        g.insert(tw.Op(EVIL), tw.RW(g.handle("x")))
    return tw.simulate(g, tw.Machine(workers=2)).trace


SHOWN = {
    "machine": (lambda: tw.Machine(ranks=4, workers=2, alpha=1e-6), ["ranks", "4", "workers", "2", "alpha", "1 us"]),
    "matrix": (
        lambda: tw.TiledMatrix.from_numpy(np.eye(10), 4),
        ["10 x 10", "float64", "3 x 3 of 4 rows", "1.125 KiB"],
    ),
    "map": (lambda: tw.PrecisionMap.uniform(3, "bf16"), ["bf16", "(2,1) bf16"]),
    "trace": (traced, ["3 of 3 tasks", "1 x 2", "3 tasks, 3"]),
    "solve": (solved, ["solve     n = 8, 1 right-hand sides", "backward error"]),
    "schedule": (
        lambda: schedule("broadcast", "tree", 4, 4),
        ["broadcast by tree of 4 words on 4 ranks", "0:4 -> p_2"],
    ),
}


@pytest.mark.parametrize("kind", SHOWN)
def test_small_things_show_what_they_are(kind):
    make, said = SHOWN[kind]
    shown = make()._repr_html_()
    text = "\n".join(ElementTree.fromstring(shown).itertext())
    for words in said:
        assert words in text or words in html.unescape(shown)
    assert EVIL not in shown and len(shown) < 20_000


def test_a_precision_map_has_a_square_a_tile_in_the_colour_of_its_format():
    found = tw.PrecisionMap.uniform(4, "fp16")
    root = ElementTree.fromstring(found._repr_html_())
    squares = list(root.iter("i"))
    assert [tile.get("title") for tile in squares] == [
        f"({i},{j}) {found[i, j].name}" for i in range(4) for j in range(i + 1)
    ]
    for tile in squares:
        name = tile.get("title").split()[1]
        assert f"background:{COLOURS[name]}" in tile.get("style")
    assert f"color:{text_on(COLOURS['fp16'])}" in root.find("p").find("span").get("style")


def test_a_schedule_of_many_ranks_is_named_and_not_drawn():
    shown = schedule("allreduce", "ring", 1024, 2048)._repr_html_()
    assert "allreduce by ring of 2,048 words on 1,024 ranks" in shown and "p_1023" not in shown
