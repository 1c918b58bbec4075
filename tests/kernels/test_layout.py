"""How BLAS sees a tile."""

import numpy as np
import pytest

from tilewright.kernels.layout import by_rows, row_ld, rows_of

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
    ids=[
        "whole",
        "transposed",
        "tile",
        "tile of transposed",
        "every other row",
        "every other column",
        "rows reversed",
        "columns reversed",
        "one row",
        "one column",
        "one element",
        "broadcast",
    ],
)
def test_leading_dimension(tile, by_rows, by_columns):
    assert (row_ld(tile), row_ld(tile.T)) == (by_rows, by_columns)


def test_a_leading_dimension_is_never_less_than_the_width():
    for tile in (A[:1, :5], A[:5, :1], A[2:3, 2:3]):
        assert row_ld(tile) >= tile.shape[1]


def test_rows_that_are_contiguous_are_not_copied():
    assert rows_of(A[1:3, 2:5]).base is A
    assert not np.shares_memory(rows_of(A.T), A)


def test_a_kernel_sees_rows_and_what_it_wrote_comes_back():
    def kernel(a, b):
        assert row_ld(a) and row_ld(b)
        b += a
        return 5

    a, b = np.arange(12.0).reshape(3, 4), np.zeros((4, 3)).T
    assert by_rows(kernel, a, b) == 5
    assert np.array_equal(a, b)
