"""Exceptions: their attributes, their words, and that they travel between processes."""

import pickle

import numpy as np
import pytest

import tilewright as tw
from tilewright import Handle, MissingDataError, NotPositiveDefiniteError, SchedulerError


@pytest.fixture
def error():
    return NotPositiveDefiniteError(4113, "potrf(8)", Handle("A", (8, 8)), 4096, 512)


def test_message_names_task_tile_order_row_and_offset(error):
    assert str(error) == (
        "potrf(8) on A[8,8]: leading minor of order 4113 is not positive definite (row 17 of a 512-row tile at offset 4096)"
    )


def test_not_positive_definite_is_a_linalg_error(error):
    assert isinstance(error, np.linalg.LinAlgError)


def test_not_positive_definite_survives_pickling_with_its_notes(error):
    error.add_note("in task potrf(8)")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is NotPositiveDefiniteError
    assert (copy.order, copy.task, copy.tile, str(copy)) == (error.order, error.task, error.tile, str(error))
    assert copy.__notes__ == ["in task potrf(8)"]


def test_raised_error_survives_pickling():
    with pytest.raises(NotPositiveDefiniteError) as caught:
        tw.tiled_cholesky(-np.eye(5), tile_size=2)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.order, copy.task, copy.tile) == (1, "potrf(0)", Handle("A", (0, 0)))
    assert copy.__notes__ == caught.value.__notes__


@pytest.mark.parametrize("kind", [MissingDataError, SchedulerError])
def test_other_errors_survive_pickling(kind):
    copy = pickle.loads(pickle.dumps(kind("some words")))
    assert (type(copy), str(copy)) == (kind, "some words")
