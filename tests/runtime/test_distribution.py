"""Who owns which tile, and ScaLAPACK's index maps."""

from __future__ import annotations

from collections import Counter

import pytest

import tilewright as tw
from tilewright.distribution import (
    BlockCyclic,
    Distribution,
    RowBlocks,
    SymmetricBlockCyclic,
    near_square,
    numroc,
    owners,
    picture,
    to_global,
    to_local,
)
from tilewright.graph import Handle

#  n, nb, P: counts by process, computed by hand as ScaLAPACK's TOOLS/numroc.f does
NUMROC = [
    ((10, 3, 2), [6, 4]),  # blocks 3 3 3 1 go to 0 1 0 1
    ((12, 3, 2), [6, 6]),
    ((13, 3, 3), [6, 4, 3]),  # 3 3 3 3 1
    ((5, 8, 4), [5, 0, 0, 0]),
    ((0, 4, 3), [0, 0, 0]),
    ((16, 4, 3), [8, 4, 4]),
]


@pytest.mark.parametrize(("case", "counts"), NUMROC)
def test_numroc_counts_the_rows_of_each_process(case: tuple[int, int, int], counts: list[int]) -> None:
    n, nb, P = case
    assert [numroc(n, nb, p, P) for p in range(P)] == counts


@pytest.mark.parametrize("n", [0, 1, 7, 32, 33, 100])
@pytest.mark.parametrize("nb", [1, 4, 8, 50])
@pytest.mark.parametrize("P", [1, 2, 3, 5])
def test_local_indices_count_up_to_numroc_and_map_back(n: int, nb: int, P: int) -> None:
    places = [to_local(g, nb, P) for g in range(n)]
    assert [to_global(p, local, nb, P) for p, local in places] == list(range(n))
    for p in range(P):
        assert sorted(local for q, local in places if q == p) == list(range(numroc(n, nb, p, P)))


def test_block_cyclic_agrees_with_the_index_maps() -> None:
    owner, nb = BlockCyclic(2, 3), 4
    for i in range(9):
        for j in range(9):
            p, q = to_local(i * nb, nb, 2)[0], to_local(j * nb, nb, 3)[0]
            assert owner(i, j) == p * 3 + q


@pytest.mark.parametrize("r", [2, 3, 4, 5, 6, 7])
def test_symmetric_block_cyclic_uses_all_its_ranks_and_is_symmetric(r: int) -> None:
    owner = SymmetricBlockCyclic(r)
    cells = [(i, j) for i in range(6 * r) for j in range(6 * r)]
    assert {owner(i, j) for i, j in cells} == set(range(r * (r - 1) // 2))
    assert all(owner(i, j) == owner(j, i) for i, j in cells)


@pytest.mark.parametrize("r", [3, 4, 6])
def test_row_and_column_i_of_a_symmetric_distribution_stand_on_r_minus_1_ranks(r: int) -> None:
    owner = SymmetricBlockCyclic(r)
    for i in range(2 * r):
        assert len({owner(i, j) for j in range(6 * r)} | {owner(j, i) for j in range(6 * r)}) == r - 1


def test_row_blocks_are_contiguous_and_differ_by_one_row_at_most() -> None:
    rows = [RowBlocks(3, mt=8)(i, 5) for i in range(8)]
    assert rows == sorted(rows)
    assert sorted(Counter(rows).values()) == [2, 3, 3]


@pytest.mark.parametrize(
    ("ranks", "grid"), [(1, (1, 1)), (2, (1, 2)), (6, (2, 3)), (7, (1, 7)), (16, (4, 4)), (12, (3, 4))]
)
def test_near_square_grid_has_exactly_the_ranks(ranks: int, grid: tuple[int, int]) -> None:
    assert near_square(ranks) == BlockCyclic(*grid)


def test_picture_draws_the_lower_triangle() -> None:
    assert picture(BlockCyclic(2, 2), 3, 3) == "0\n2 3\n0 1 0"


@pytest.mark.parametrize("distribution", [BlockCyclic(2, 2), SymmetricBlockCyclic(3), RowBlocks(2, 4)])
def test_every_distribution_is_one(distribution: Distribution) -> None:
    assert isinstance(distribution, Distribution)
    assert all(0 <= distribution(i, j) < distribution.ranks for i in range(4) for j in range(4))


@pytest.mark.parametrize(
    "make",
    [
        lambda: BlockCyclic(0, 2),
        lambda: SymmetricBlockCyclic(1),
        lambda: RowBlocks(0, 3),
        lambda: RowBlocks(2, 0),
        lambda: near_square(0),
    ],
)
def test_distributions_without_ranks_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match="at least one|r >= 2"):
        make()  # type: ignore[operator]


def test_a_rule_may_be_a_function_of_the_indices_a_rank_or_a_dict_by_name() -> None:
    rank_of = owners({"x": lambda i: i % 2, "y": 1, "A": BlockCyclic(1, 2), Handle("z", (7,)): 0}, ranks=2)
    handles = Handle("x", (3,)), Handle("y"), Handle("A", (5, 1)), Handle("z", (7,)), Handle("z", (8,))
    assert [rank_of(handle) for handle in handles] == [1, 1, 1, 0, 0]


def test_a_function_of_one_argument_is_asked_for_the_index_or_where_there_is_not_one_for_the_handle() -> None:
    rank_of = owners(lambda handle: len(handle.name), ranks=9)
    assert [rank_of(handle) for handle in (Handle("A", (1, 2)), Handle("xyz"), Handle("ab", (1, 2, 3)))] == [1, 3, 2]
    assert owners(lambda i: 2 * i, ranks=9)(Handle("x", (3,))) == 6
    assert owners(lambda *index: sum(index), ranks=9)(Handle("A", (1, 2))) == 3
    assert owners(lambda i, j=4: i + j, ranks=9)(Handle("A", (1, 2))) == 3
    assert owners({"A": lambda handle: handle.index[1]}, ranks=9)(Handle("A", (1, 2))) == 2
    assert owners({(1, 2): 5}.__getitem__, ranks=9)
    graph, rule = tw.cholesky_graph(4), (lambda handle: handle.index[0] % 2)
    plan = tw.MessagePlan(graph, 2, rule)
    assert [str(m) for m in plan.messages] == [str(m) for m in tw.MessagePlan(graph, 2, lambda i, j: i % 2).messages]
    run = tw.simulate(graph, tw.Machine(ranks=2), owner=rule)
    assert len(run.trace.messages) == len(plan.messages) > 0
    with pytest.raises(ValueError, match=r"owner of A\[0,0\] is 2, not one of the ranks 0 to 1"):
        tw.MessagePlan(graph, 2, lambda handle: 2)


def test_without_a_rule_tiles_are_block_cyclic_and_plain_handles_on_rank_0() -> None:
    rank_of = owners(None, ranks=4)
    assert [rank_of(Handle("A", (i, j))) for i, j in [(0, 0), (0, 1), (1, 0), (3, 3)]] == [0, 1, 2, 3]
    assert rank_of(Handle("x")) == 0


@pytest.mark.parametrize("wrong", [lambda i, j: 4, lambda i, j: -1, lambda i, j: 0.5, "A", True])
def test_an_owner_that_is_no_rank_is_named(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"owner of A\[1,2\] is .*not one of the ranks 0 to 3"):
        owners(wrong, ranks=4)(Handle("A", (1, 2)))


def test_a_distribution_over_more_ranks_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="needs 6 ranks, but there are 4"):
        owners(BlockCyclic(2, 3), ranks=4)
