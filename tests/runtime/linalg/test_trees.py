"""Trees of QR as data: what makers make, what the check refuses, how they print."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.linalg import trees
from tilewright.linalg.trees import Elimination, check, eliminations, normal, picture

HIERARCHICAL = [
    ("hierarchical", a, low, high, domains)
    for a in (1, 2, 4)
    for low, high in (("flat", "binary"), ("greedy", "fibonacci"), ("earliest", "flat"))
    for domains in ("rolling", "fixed")
]


@given(st.sampled_from([*trees.TREES, *HIERARCHICAL]), st.integers(0, 17), st.integers(0, 9), st.integers(1, 5))
def test_every_tree_makes_tiles_triangular(tree, mt, nt, ranks):
    steps = eliminations(normal(tree), mt, nt, ranks)
    check(steps, mt, nt)
    assert len(steps) == sum(max(mt - 1 - k, 0) for k in range(min(mt, nt)))
    assert eliminations(steps, mt, nt) == steps


@pytest.mark.parametrize(("ranks", "messages"), [(1, 0), (2, 1), (4, 3)])
def test_a_hierarchical_tree_crosses_ranks_once_each_in_a_column(ranks, messages):
    for step in ("flat", "greedy"):
        steps = eliminations(normal(("hierarchical", 3, step, "binary")), 23, 4, ranks)
        for k in range(4):
            assert sum((s.row - s.by) % ranks != 0 for s in steps if s.column == k) == messages


def test_domains_are_whole_tiles_under_their_first():
    steps = eliminations(normal(("hierarchical", 3, "binary", "flat")), 7, 2)
    assert [str(step) for step in steps if step.column == 1] == [
        "column 1: 2 by 1 (TS)",
        "column 1: 3 by 1 (TS)",
        "column 1: 5 by 4 (TS)",
        "column 1: 6 by 4 (TS)",
        "column 1: 4 by 1 (TT)",
    ]
    fixed = eliminations(normal(("hierarchical", 3, "binary", "flat", "fixed")), 7, 2)
    assert [str(step) for step in fixed if step.column == 1] == [
        "column 1: 2 by 1 (TS)",
        "column 1: 4 by 3 (TS)",
        "column 1: 5 by 3 (TS)",
        "column 1: 3 by 1 (TT)",
        "column 1: 6 by 1 (TT)",
    ]


def test_fibonacci_has_groups_of_1_2_3():
    steps = eliminations("fibonacci", 11, 1)
    assert [(s.row, s.by) for s in steps] == [
        (7, 3), (8, 4), (9, 5), (10, 6), (4, 1), (5, 2), (6, 3), (2, 0), (3, 1), (1, 0),
    ]  # fmt: skip


STEPS = [Elimination(0, 1, 0, "TS"), Elimination(0, 2, 0, "TT"), Elimination(1, 2, 1, "TT")]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (STEPS[:2], r"leaves tile \(2, 1\) as it is$"),
        (STEPS[:1], r"leaves tile \(2, 0\)"),
        ([], r"leaves tile \(1, 0\) as it is, and 1 more"),
        ([STEPS[2], *STEPS[:2]], "leaves tile"),
        ([*STEPS[:2], Elimination(0, 1, 0, "TT"), STEPS[2]], "eliminated already"),
        ([STEPS[0], Elimination(0, 2, 1, "TT"), STEPS[2]], "row 1 is eliminated there already"),
        ([Elimination(0, 2, 1, "TT"), Elimination(0, 1, 0, "TS"), STEPS[2]], "row 1 is a triangle"),
        ([Elimination(0, 1, 2, "TT"), Elimination(0, 2, 0, "TT"), STEPS[2]], "by one above it"),
        ([*STEPS, Elimination(2, 2, 2, "TT")], "by one above it"),
        ([*STEPS, Elimination(0, 3, 0, "TT")], "the tree has column 1 before it"),
    ],
)
def test_a_tree_that_does_not_make_tiles_triangular_is_refused_with_the_place(steps, message):
    check(STEPS, 3, 2)
    with pytest.raises(ValueError, match=message):
        check(steps, 3, 2)


@pytest.mark.parametrize(
    ("tree", "error", "message"),
    [
        ("bianry", ValueError, "unknown tree 'bianry'.*did you mean binary"),
        (3, TypeError, "tree is a name"),
        (("hierarchical", 4), ValueError, "a hierarchical tree is"),
        (("hierarchical", 0, "flat", "flat"), ValueError, "tiles of a domain"),
        (("hierarchical", 2, "flt", "flat"), ValueError, "unknown low tree"),
        (("hierarchical", 2, "flat", "up"), ValueError, "unknown high tree"),
        (("hierarchical", 2, "flat", "flat", "free"), ValueError, "unknown domains of a tree"),
        ([(0, 1)], TypeError, r"an elimination is \(column, row, by, kind\)"),
        ([(0, 1, 0, "TX")], ValueError, "unknown kind of an elimination"),
        ([(0, 1, -1, "TT")], ValueError, "a number of the elimination"),
    ],
)
def test_what_is_no_tree_is_refused_by_name(tree, error, message):
    with pytest.raises(error, match=message):
        normal(tree)


def test_a_picture_says_who_eliminates_each_tile():
    assert picture(eliminations("flat", 3, 2), 3, 2).splitlines() == [" .  .", "0*  .", "0* 1*"]
    assert picture(eliminations("greedy", 4, 1), 4, 1).splitlines() == [".", "0", "0", "1"]
    assert picture((), 0, 0) == ""
