"""TiledMatrix: tiles as views of an array or packed in one arena."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matrices import DTYPES, random_matrix
from strategies import orders, tile_sizes

from tilewright import TiledMatrix

MAKERS = [TiledMatrix.view, TiledMatrix.from_numpy]
makers = pytest.mark.parametrize("make", MAKERS, ids=["view", "packed"])


@given(st.sampled_from(MAKERS), orders, orders, tile_sizes, st.sampled_from(["C", "F"]))
def test_tiles_are_the_blocks_of_the_matrix(make, m, n, nb, order):
    a = np.asarray(random_matrix(m, n), order=order)
    tiles = make(a, nb)
    assert (tiles.mt, tiles.nt, len(tiles)) == (-(-m // nb), -(-n // nb), tiles.mt * tiles.nt)
    for i, j in tiles:
        assert np.array_equal(tiles[i, j], a[i * nb : (i + 1) * nb, j * nb : (j + 1) * nb])
        assert tiles[i, j].shape == (len(range(m)[tiles.rows(i)]), len(range(n)[tiles.columns(j)]))


@given(st.sampled_from(MAKERS), orders, orders, tile_sizes, st.sampled_from(DTYPES))
def test_to_numpy_undoes_from_numpy(make, m, n, nb, dtype):
    a = random_matrix(m, n, dtype)
    back = make(a, nb).to_numpy()
    assert back.dtype == a.dtype
    assert np.array_equal(back, a)


@given(st.sampled_from(MAKERS), orders, orders, tile_sizes)
def test_transposed_matrix_has_transposed_tiles(make, m, n, nb):
    a = random_matrix(m, n)
    tiles = make(a, nb)
    assert tiles.T.shape == (n, m)
    assert np.array_equal(tiles.T.to_numpy(), a.T)
    assert tiles.T.T is tiles
    for i, j in tiles:
        assert np.shares_memory(tiles.T[j, i], tiles[i, j])


def test_view_shares_memory_with_the_array_and_packed_does_not():
    a = np.zeros((5, 5))
    TiledMatrix.view(a, 2)[1, 1] = 7
    assert np.array_equal(a[2:4, 2:4], np.full((2, 2), 7.0))
    TiledMatrix.from_numpy(a, 2)[0, 0] = 9
    assert a[0, 0] == 0
    assert TiledMatrix.view(a, 2).to_numpy() is a


def test_a_tile_is_one_object():
    tiles = TiledMatrix.view(np.zeros((4, 4)), 2)
    assert tiles[1, 0] is tiles[1, 0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nb", [1, 3, 8, 17])
def test_packed_tiles_are_contiguous_zero_and_on_cache_lines(dtype, nb):
    tiles = TiledMatrix.empty((20, 20), nb, dtype)
    for i, j in tiles:
        tile = tiles[i, j]
        assert tile.flags.c_contiguous
        assert tile.ctypes.data % 64 == 0
        assert not tile.any()


def test_packed_tiles_do_not_overlap():
    tiles = TiledMatrix.empty((7, 5), 3)
    for number, (i, j) in enumerate(tiles):
        tiles[i, j] = number
    assert [set(tiles[i, j].ravel()) for i, j in tiles] == [{number} for number in range(len(tiles))]


@makers
def test_indices_run_row_by_row(make):
    assert list(make(np.zeros((3, 4)), 2)) == [(0, 0), (0, 1), (1, 0), (1, 1)]


@makers
@pytest.mark.parametrize("index", [(2, 0), (0, 3), (-1, 0), (0, -1)])
def test_tile_outside_is_an_error_that_gives_the_bounds(make, index):
    tiles = make(np.zeros((3, 5)), 2)
    with pytest.raises(IndexError, match=r"outside the 2 x 3 tiles of TiledMatrix\(3 x 5, tile_size=2"):
        tiles[index]


@makers
def test_only_two_dimensions(make):
    with pytest.raises(ValueError, match=r"2-D array, not one of shape \(3,\)"):
        make(np.zeros(3), 2)


@pytest.mark.parametrize("nb", [0, -1])
@pytest.mark.parametrize("make", [*MAKERS, lambda a, nb: TiledMatrix.empty(a.shape, nb)])
def test_tile_size_must_be_positive(make, nb):
    with pytest.raises(ValueError, match=f"tile_size must be at least 1, not {nb}"):
        make(np.zeros((3, 3)), nb)


def test_writeable_follows_the_array():
    a = np.zeros((2, 2))
    a.flags.writeable = False
    assert not TiledMatrix.view(a, 1).writeable
    assert TiledMatrix.from_numpy(a, 1).writeable


def test_repr_says_size_tile_dtype_and_kind():
    a = np.zeros((3, 5), np.float32)
    assert repr(TiledMatrix.view(a, 2)) == "TiledMatrix(3 x 5, tile_size=2, float32, view)"
    assert repr(TiledMatrix.from_numpy(a, 2)) == "TiledMatrix(3 x 5, tile_size=2, float32, packed)"
    assert TiledMatrix.view(a, 2).nbytes == a.nbytes


def test_what_is_no_array_is_copied_or_refused():
    assert TiledMatrix.from_numpy([[1.0, 2.0], [3.0, 4.0]], 1)[1, 0] == 3
    with pytest.raises(TypeError, match=r"views a NumPy array, not a list; TiledMatrix\.from_numpy"):
        TiledMatrix.view([[1.0]], 1)


@pytest.mark.parametrize("nb", [2.5, "2", True])
def test_tile_size_must_be_an_integer(nb):
    with pytest.raises(TypeError, match="tile_size must be an integer"):
        TiledMatrix.from_numpy(np.eye(3), nb)
