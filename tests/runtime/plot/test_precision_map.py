import pytest

import tilewright as tw
from tilewright.plot.precision import COLOURS

MAP = tw.PrecisionMap.band(4, {0: "fp64", 1: "fp32", 2: "bf16"})


def squares(figure):
    return {(int(p.get_y()), int(p.get_x())): p.get_facecolor() for p in figure.axes[0].patches if p.get_width() == 1}


def test_every_tile_of_the_triangle_is_a_square_in_the_colour_of_its_format():
    from matplotlib.colors import to_rgba

    found = squares(tw.plot.precision_map(MAP))
    assert found == {(i, j): to_rgba(COLOURS[MAP[i, j].name]) for i, j in MAP}


def test_legend_gives_counts_shares_and_roundoffs():
    legend = tw.plot.precision_map(MAP).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [
        "fp64  4 tiles, 40%; u = 2^-53",
        "fp32  3 tiles, 30%; u = 2^-24",
        "bf16  3 tiles, 30%; u = 2^-8",
    ]


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_file_has_the_format_of_its_suffix(tmp_path, suffix, start):
    path = tmp_path / f"map{suffix}"
    tw.plot.precision_map(MAP, path, title="a title")
    assert path.read_bytes().startswith(start)


def test_large_maps_have_no_names_in_the_squares():
    assert len(tw.plot.precision_map(MAP).axes[0].texts) == 10
    assert len(tw.plot.precision_map(tw.PrecisionMap.uniform(20, "bf16")).axes[0].texts) == 0
