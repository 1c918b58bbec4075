"""The message plan: which messages, along which tree, and what one rank does."""

from __future__ import annotations

from collections import Counter
from math import ceil, log2
from typing import Any

import pytest

import tilewright as tw
from tilewright import RW, R, W
from tilewright.passes.messages import DROP, RECEIVE, SEND, MessagePlan

#  nt -> {grid: distinct tile messages of a right-looking Cholesky factorisation, lower triangle}
COUNTS = {
    4: {(1, 2): 6, (2, 1): 6, (2, 2): 12},
    8: {(1, 2): 28, (2, 1): 28, (2, 2): 56, (1, 4): 64, (4, 1): 64},
    16: {(2, 2): 240, (4, 1): 316, (4, 4): 632},
    32: {(2, 2): 992, (4, 4): 2792},
}
CASES = [(nt, grid, count) for nt, grids in COUNTS.items() for grid, count in grids.items()]


def cholesky_plan(nt: int, grid: tuple[int, int], **options: Any) -> MessagePlan:
    return MessagePlan(tw.cholesky_graph(nt), grid[0] * grid[1], tw.BlockCyclic(*grid), **options)


@pytest.mark.parametrize(("nt", "grid", "count"), CASES)
def test_cholesky_sends_as_many_messages_as_counted_by_hand(nt: int, grid: tuple[int, int], count: int) -> None:
    assert len(cholesky_plan(nt, grid).messages) == count


@pytest.mark.parametrize(
    ("nt", "options", "alone"),
    [(1, {}, True), (2, {}, False), (1, {"start": 1}, False), (1, {"collect": (0, 1)}, False), (0, {}, True)],
)
def test_one_rank_is_alone_where_it_runs_all_and_nothing_travels(nt: int, options: dict, alone: bool) -> None:
    assert cholesky_plan(nt, (1, 2), **options).on_one_rank == alone


def test_two_ranks_with_tasks_are_not_one_though_nothing_travels() -> None:
    graph = tw.TaskGraph()
    for i in range(2):
        graph.insert(print, W(graph.handles("A")[i]))
    plan = MessagePlan(graph, 2, lambda i: i)
    assert not plan.messages and not plan.on_one_rank


def test_no_rank_gets_a_version_twice() -> None:
    plan = cholesky_plan(16, (4, 4))
    assert max(Counter((m.handle, m.version, m.destination) for m in plan.messages).values()) == 1


def test_tags_number_the_messages_of_a_pair() -> None:
    tags: dict[tuple[int, int], list[int]] = {}
    for m in cholesky_plan(12, (2, 3)).messages:
        tags.setdefault((m.source, m.destination), []).append(m.tag)
    assert all(numbers == list(range(len(numbers))) for numbers in tags.values())


def test_every_message_has_the_version_when_it_leaves() -> None:
    """A rank sends what it wrote or what it received by a message before."""
    plan = cholesky_plan(16, (4, 4))
    holders = set()
    for m in plan.messages:
        made = m.writer >= 0 and plan.places[m.writer] == m.source
        assert made or (m.handle, m.version, m.source) in holders
        holders.add((m.handle, m.version, m.destination))


def write(x: Any) -> None: ...
def read(x: Any, y: Any) -> None: ...


def broadcast(readers: int) -> MessagePlan:
    g = tw.TaskGraph()
    x, y = g.handle("x"), g.handles("y")
    g.insert(write, tw.W(x))
    for r in range(1, readers + 1):
        g.insert(read, tw.R(x), tw.W(y[r]))
    return MessagePlan(g, readers + 1, {"x": 0, "y": lambda r: r})


@pytest.mark.parametrize("readers", [1, 2, 3])
def test_up_to_three_readers_get_it_from_the_source(readers: int) -> None:
    assert [(m.source, m.destination) for m in broadcast(readers).messages] == [(0, r) for r in range(1, readers + 1)]


@pytest.mark.parametrize("readers", [4, 5, 7, 8, 15, 31])
def test_four_readers_and_more_stand_in_a_binomial_tree(readers: int) -> None:
    messages = broadcast(readers).messages
    sends = Counter(m.source for m in messages)
    depth = {0: 0}
    for m in messages:
        depth[m.destination] = depth[m.source] + 1
    rounds = ceil(log2(readers + 1))
    assert len(messages) == readers
    assert sends[0] == rounds
    assert max(depth.values()) <= rounds
    assert all(m.source == m.destination - 2 ** (m.destination.bit_length() - 1) for m in messages)


def test_a_message_is_wanted_no_later_than_what_its_receiver_passes_on() -> None:
    plan = cholesky_plan(16, (4, 4))
    got = {(m.handle, m.version, m.destination): m.reader for m in plan.messages}
    for m in plan.messages:
        assert got.get((m.handle, m.version, m.source), -1) <= m.reader


def test_tasks_run_where_they_write_or_where_the_program_says() -> None:
    g = tw.TaskGraph()
    x, y = g.handle("x"), g.handle("y")
    g.insert(read, tw.R(x), tw.W(y))
    g.insert(read, tw.R(y), tw.RW(x), on=2)
    g.insert(read, tw.R(x), tw.R(y))
    plan = MessagePlan(g, 3, {"x": 0, "y": 1})
    assert plan.places == [1, 2, 0]
    assert list(map(str, plan.messages)) == [
        "x v0: 0 -> 1",
        "x v0: 0 -> 2",
        "y v1: 1 -> 2",
        "y v1: 1 -> 0",
        "x v1: 2 -> 0",
    ]


def test_a_place_that_is_no_rank_is_refused() -> None:
    g = tw.TaskGraph()
    g.insert(write, tw.W(g.handle("x")), on=5)
    with pytest.raises(ValueError, match=r"write\(x\) is to run on 5, which is not one of the ranks 0 to 1"):
        MessagePlan(g, 2, 0)


def test_a_part_is_the_rank_s_tasks_with_its_messages_between() -> None:
    """Rank 1 of a 1 x 2 grid, two tiles: it owns A[1,1] and needs A[1,0]."""
    plan = MessagePlan(tw.cholesky_graph(2), 2, tw.BlockCyclic(1, 2))
    assert [t.op.name for t in plan.part(0).graph] == ["potrf", "trsm", "send"]
    part = plan.part(1)
    assert [t.op.name for t in part.graph] == ["receive", "syrk", "drop", "potrf"]
    assert part.origin == [-1, 2, -1, 3]
    assert [t.predecessors for t in part.graph] == [(), (0,), (1,), (1,)]


@pytest.mark.parametrize("grid", [(1, 2), (2, 2), (3, 2)])
def test_parts_cover_the_graph_and_pair_sends_with_receives(grid: tuple[int, int]) -> None:
    plan = cholesky_plan(9, grid)
    parts = [plan.part(rank) for rank in range(plan.ranks)]
    assert sorted(i for part in parts for i in part.origin if i >= 0) == list(range(len(plan.graph)))
    by_op = {op: [t.params[0] for part in parts for t in part.graph if t.op is op] for op in (SEND, RECEIVE, DROP)}
    assert sorted(by_op[SEND]) == sorted(by_op[RECEIVE]) == sorted(plan.messages)
    assert sorted(by_op[DROP]) == sorted(plan.messages)  # nothing received is kept for ever


def test_the_levels_of_a_part_are_those_of_the_whole_graph() -> None:
    plan = cholesky_plan(6, (2, 2))
    levels = plan.graph.bottom_levels()
    part = plan.part(3)
    assert [lv for lv, i in zip(part.graph.bottom_levels(), part.origin, strict=True) if i >= 0] == [
        levels[i] for i in part.origin if i >= 0
    ]


def test_a_second_version_waits_until_the_copy_of_the_first_is_read() -> None:
    g = tw.TaskGraph()
    x, y, z = g.handle("x"), g.handle("y"), g.handle("z")
    g.insert(read, tw.R(x), tw.W(y))
    g.insert(write, tw.RW(x))
    g.insert(read, tw.R(x), tw.W(z))
    part = MessagePlan(g, 2, {"x": 0, "y": 1, "z": 1}).part(1)
    names = [t.op.name for t in part.graph]
    assert names == ["receive", "read", "drop", "receive", "read", "drop"]
    assert [t.predecessors for t in part.graph] == [(), (0,), (1,), (2,), (3,), (4,)]


def test_a_copy_that_is_changed_in_place_is_not_dropped() -> None:
    g = tw.TaskGraph()
    x = g.handle("x")
    g.insert(write, tw.W(x), on=0)
    g.insert(write, tw.RW(x), on=1)
    assert [t.op.name for t in MessagePlan(g, 2, 0).part(1).graph] == ["receive", "write"]


def test_a_send_is_a_reader_so_the_next_writer_waits_for_it() -> None:
    g = tw.TaskGraph()
    x, y = g.handle("x"), g.handle("y")
    g.insert(write, tw.W(x))
    g.insert(read, tw.R(x), tw.W(y))
    g.insert(write, tw.W(x))
    part = MessagePlan(g, 2, {"x": 0, "y": 1}).part(0)
    assert [(t.op.name, t.predecessors) for t in part.graph] == [("write", ()), ("send", (0,)), ("write", (1,))]


def test_data_on_one_rank_is_sent_to_where_it_is_read_and_results_are_collected() -> None:
    """nt = 2 on 1 x 2: A[1,1] goes out and back; its owner never sees A[0,0]."""
    plan = cholesky_plan(2, (1, 2), start=0, collect=(0,))
    assert list(map(str, plan.messages)) == ["A[1,1] v0: 0 -> 1", "A[1,0] v1: 0 -> 1", "A[1,1] v2: 1 -> 0"]
    assert [m.final for m in plan.messages] == [False, False, True]


def test_collecting_on_all_ranks_sends_each_result_to_every_other_rank_once() -> None:
    plan = cholesky_plan(5, (2, 2), collect=range(4))
    final = [m for m in plan.messages if m.final]
    assert len(final) == 15 * 3
    assert len({(m.handle, m.destination) for m in final}) == 15 * 3


def test_counts_by_rank_add_up() -> None:
    plan = cholesky_plan(8, (2, 2))
    assert sum(plan.sent()) == sum(plan.received()) == 56
    assert sum(plan.sent(lambda handle: 100)) == 5600


def test_peak_memory_counts_own_tiles_and_the_copies_held_at_once() -> None:
    """1 x 2, nt = 4. Rank 1 owns columns 1 and 3 (3 + 1 tiles) and holds A[1..3,0], the first panel, at one time."""
    plan = cholesky_plan(4, (1, 2))
    assert plan.peak_memory(lambda handle: 1)[1] == 4 + 3
    assert plan.peak_memory(lambda handle: 1, window=2)[1] == 4 + 2
    assert plan.peak_memory(lambda handle: 1, window=0)[1] == 4 + 1


def test_symmetric_distribution_sends_less_than_the_square_grid() -> None:
    symmetric = len(MessagePlan(tw.cholesky_graph(36), 15, tw.SymmetricBlockCyclic(6)).messages)
    square = len(cholesky_plan(36, (4, 4)).messages)
    assert symmetric < 0.8 * square


def overwritten() -> tuple[Any, ...]:
    """x: read where its data is (0), written on 1 without reading, on 2 from that; y: written on 1, then last on 0."""
    g = tw.TaskGraph()
    x, y, out = (g.handle(name) for name in ("x", "y", "out"))
    g.insert(print, R(x), W(out), on=0)
    g.insert(print, W(x), on=1)
    g.insert(print, RW(x), on=2)
    g.insert(print, W(y), on=1)
    g.insert(print, W(y), on=0)
    return tw.MessagePlan(g, 3, owner=0), x, y, out


def test_where_ranks_share_an_array_one_of_them_uses_it() -> None:
    plan, x, y, out = overwritten()
    assert plan.keepers == {x: 0, y: 0, out: 0}
    assert [plan.rooms(rank, "shared") for rank in range(3)] == [[], [x, y], []]


def test_ranks_with_arrays_of_their_own_need_no_rooms_and_those_with_none_need_all() -> None:
    plan, x, y, out = overwritten()
    assert [plan.rooms(rank, "own") for rank in range(3)] == [[], [], []]
    assert [plan.rooms(rank, "none") for rank in range(3)] == [[out, y], [x, y], []]


@pytest.mark.parametrize("owner", [None, tw.SymmetricBlockCyclic(3)])
def test_a_factorisation_that_its_owners_write_has_no_rooms(owner: Any) -> None:
    plan = tw.MessagePlan(tw.cholesky_graph(8), 3, owner)
    assert [plan.rooms(rank, "shared") for rank in range(3)] == [[], [], []]
