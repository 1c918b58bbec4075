"""How BLAS sees a tile."""

import numpy as np
import pytest

from tilewright.kernels.layout import aligned, row_ld

A = np.zeros((6, 8))


@pytest.mark.parametrize(
    ("tile", "by_rows", "by_columns"),
    [
        (A, 8, 0),
        (A.T, 0, 8),
        (A[1:3, 2:5], 8, 0),
        (A.T[1:3, 2:5], 0, 8),
        (A[::2, :], 16, 0),
        (A[:, ::2], 0, 0),
        (A[::-1], 0, 0),
        (A[:, ::-1], 0, 0),
        (A[:1, :4], 4, 1),
        (A[:4, :1], 8, 0),
        (A[:1, :1], 1, 1),
        (np.broadcast_to(np.zeros(4), (3, 4)), 0, 0),
    ],
    ids=["whole", "transposed", "tile", "tile of transposed", "every other row", "every other column",
         "rows reversed", "columns reversed", "one row", "one column", "one element", "broadcast"],
)  # fmt: skip
def test_leading_dimension(tile, by_rows, by_columns):
    assert (row_ld(tile), row_ld(tile.T)) == (by_rows, by_columns)


def test_a_leading_dimension_is_never_less_than_the_width():
    for tile in (A[:1, :5], A[:5, :1], A[2:3, 2:3]):
        assert row_ld(tile) >= tile.shape[1]


def test_target_sets_the_layout_and_an_operand_in_the_other_is_copied():
    rows, (operand,), (ld,), target_ld = aligned(A[:3, :3], A.T[:3, :4])
    assert (rows, ld, target_ld) == (True, 4, 8)
    assert not np.shares_memory(operand, A)


def test_operand_in_the_same_layout_is_not_copied():
    operand = A[3:6, :2]
    assert aligned(A[:3, :3], operand)[1][0] is operand


def test_target_without_a_contiguous_direction_is_an_error_with_its_strides():
    with pytest.raises(ValueError, match=r"shape \(6, 4\) and strides \(64, 16\) has no contiguous direction"):
        aligned(A[:, ::2])
