"""Store: from handles to buffers."""

import numpy as np
import pytest

from tilewright import Handle, Store, TiledMatrix

A = np.arange(25.0).reshape(5, 5)


def test_plain_handle_finds_the_data_of_its_name():
    x = [1, 2]
    assert Store({"x": x})[Handle("x")] is x


@pytest.mark.parametrize(
    ("family", "index"),
    [({3: "tile"}, (3,)), (["a", "b", "c", "tile"], (3,)), ({(3, 1): "tile"}, (3, 1)), ([[], ["a", "tile"]], (1, 1))],
    ids=["dict", "list", "dict of pairs", "list of lists"],
)
def test_indexed_handle_finds_the_member_of_its_family(family, index):
    assert Store({"A": family})[Handle("A", index)] == "tile"


def test_tiled_matrix_gives_its_tiles():
    tiles = TiledMatrix.view(A, 2)
    assert Store({"A": tiles})[Handle("A", (2, 1))] is tiles[2, 1]


def test_handle_as_key_gives_that_handle_alone():
    store = Store({Handle("A", (1, 1)): "tile"})
    assert store[Handle("A", (1, 1))] == "tile"
    assert store[Handle("A", (0, 0))] is None


@pytest.mark.parametrize("data", [{}, {"A": {}}, {"A": []}, {"A": TiledMatrix.view(A, 5)}])
def test_missing_buffer_is_none(data):
    assert Store(data)[Handle("A", (2, 1) if isinstance(data.get("A"), TiledMatrix | dict) else (2,))] is None


def test_other_keys_are_an_error():
    with pytest.raises(TypeError, match="keyed by handle or by name, not by 3"):
        Store({3: "x"})


def test_offset_is_the_first_row_of_a_tile():
    packed, view = TiledMatrix.from_numpy(A, 2), TiledMatrix.view(A, 2)
    loose = {(i, j): view[i, j] for i, j in view}
    for family in (packed, view, loose):
        assert [Store({"A": family}).offset(Handle("A", (i, i))) for i in range(3)] == [0, 2, 4]


def test_data_that_is_no_mapping_is_an_error():
    with pytest.raises(TypeError, match=r"data is a dict of buffers by name, such as \{'x': array\}, not a list"):
        Store([1, 2])
