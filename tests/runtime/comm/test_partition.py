"""Partitions of rows, and what they cost."""

import builtins

import numpy as np
import pyamg
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from tilewright.comm.partition import by_rows, exchange, metis, nested_bisection, partition, patches, slabs


def grid_matrix(*shape):
    return pyamg.gallery.poisson(shape, format="csr")


@pytest.mark.parametrize(
    ("part", "words", "messages"),
    [
        (slabs((64, 64), 4), 384, 6),
        (patches((64, 64), (2, 2)), 256, 8),
        (slabs((64, 64), 16), 1920, 30),
        (patches((64, 64), (4, 4)), 768, 48),
        (by_rows(64 * 64, 4), 384, 6),
    ],
    ids=["4 slabs", "2 x 2 patches", "16 slabs", "4 x 4 patches", "rows are slabs"],
)
def test_slabs_and_patches_exchange_the_words_of_the_lecture(part, words, messages):
    cost = exchange(grid_matrix(64, 64), part)
    assert (cost.words, cost.messages) == (words, messages)


def test_patches_have_four_neighbours_and_slabs_two():
    A = grid_matrix(60, 60)
    assert exchange(A, slabs((60, 60), 9)).most_messages == 2
    assert exchange(A, patches((60, 60), (3, 3))).most_messages == 4


@pytest.mark.parametrize("name", ["airfoil", "unit_cube", "unit_square"])
@pytest.mark.parametrize("cut", [nested_bisection, metis])
def test_bisection_and_metis_need_fewer_ghosts_than_rows_in_the_order_of_the_file(name, cut):
    A = sp.csr_array(pyamg.gallery.load_example(name)["A"])
    before, after = exchange(A, by_rows(A.shape[0], 8)), exchange(A, cut(A, 8))
    assert after.words < 0.9 * before.words
    assert after.imbalance < 1.5


def test_bisection_by_coordinates_cuts_a_square_into_quarters():
    A = grid_matrix(16, 16)
    points = np.stack(np.meshgrid(range(16), range(16), indexing="ij"), -1).reshape(-1, 2)
    part = nested_bisection(A, 4, points)
    assert (exchange(A, part).words, exchange(A, part).messages) == (64, 8)
    assert np.array_equal(part.sizes, [64] * 4)


@given(n=st.integers(0, 60), ranks=st.integers(1, 70))
def test_every_partition_gives_each_variable_one_owner_and_balances(n, ranks):
    A = sp.diags_array([1.0, 2.0, 1.0], offsets=[-1, 0, 1], shape=(n, n), format="csr") if n else sp.csr_array((0, 0))
    for part in (by_rows(n, ranks), nested_bisection(A, ranks)):
        rows = [part.rows(rank) for rank in range(ranks)]
        assert sorted(np.concatenate(rows).tolist()) == list(range(n))
        assert max(map(len, rows)) - min(map(len, rows)) <= 1
        assert all((part.position[mine] == np.arange(len(mine))).all() for mine in rows)
        assert all((part.owner[mine] == rank).all() for rank, mine in enumerate(rows))


def test_metis_with_more_ranks_than_rows_leaves_ranks_empty():
    part = metis(grid_matrix(3, 3), 20)
    assert part.ranks == 20 and part.sizes.sum() == 9 and part.sizes.max() == 1


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("colour", "unknown partition 'colour'; known: rows, bisection, metis"),
        (np.zeros(5, int), "9 integers, the owner of each row"),
        (np.zeros(9), "9 integers, the owner of each row, not float64"),
        (np.full(9, 3), "ranks from 0 to 1, not 3 to 3"),
        (by_rows(9, 3), "for 3 ranks, but there are 2"),
        (by_rows(8, 2), "of 8 rows, but the matrix has 9"),
    ],
)
def test_wrong_partitions_are_one_sentence(rule, words):
    with pytest.raises(ValueError, match=words):
        partition(grid_matrix(3, 3), 2, rule)


def test_a_box_that_does_not_fit_the_grid_is_refused():
    with pytest.raises(ValueError, match="a grid of 2 dimensions cannot be cut into 2 boxes"):
        patches((4, 4), (2,))
    with pytest.raises(ValueError, match="extents must be positive"):
        patches((4, 4), (2, 0))


def test_coordinates_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"coordinates must be 9 points, of shape \(9, d\), not \(3, 2\)"):
        nested_bisection(grid_matrix(3, 3), 2, np.zeros((3, 2)))


def test_only_square_matrices_have_a_graph_to_cut():
    with pytest.raises(ValueError, match="3 x 5, use 'rows'"):
        nested_bisection(sp.csr_array((3, 5)), 2)


def test_without_pymetis_one_sentence_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def no_metis(name, *args, **options):
        if name == "pymetis":
            raise ImportError
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", no_metis)
    with pytest.raises(ImportError, match=r"needs pymetis; .* -m pip install .*\[metis\]'"):
        metis(grid_matrix(3, 3), 2)
