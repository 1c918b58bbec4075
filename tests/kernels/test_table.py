"""The kernel table: complete, without duplicates, and clear about what it lacks."""

import numpy as np
import pytest
from matrices import DTYPES

import tilewright as tw
from tilewright.kernels import choice, lookup, register, rows, table

OPS = ("potrf", "trsm", "syrk", "gemm")


@pytest.fixture
def restore_table():
    before = {key: dict(sources) for key, sources in table._rows.items()}
    yield
    table._rows.clear()
    table._rows.update(before)
    table._answers.clear()


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_library_has_every_kernel(library, op, dtype):
    row = lookup(op, "cpu", dtype, dtype)
    assert row[:5] == (op, "cpu", dtype, dtype, library.name)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_reference_set_is_complete(op, dtype):
    assert (op, "cpu", dtype, dtype, "reference") in {row[:5] for row in rows()}


@pytest.mark.parametrize("op", ["copy", "tril", "zero"])
def test_moves_take_any_dtype(op):
    assert lookup(op, "cpu", "int8", "float16").source == "reference"


def test_duplicate_row_is_an_error_that_lists_the_rows_of_the_op():
    with pytest.raises(ValueError) as caught:
        register("gemm", "cpu", "float64", "float64", "reference", print)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("the kernel table already has this row: gemm   cpu   float64")
    assert len(lines) - 1 == sum(row.op == "gemm" for row in rows())
    assert all(line.startswith("gemm ") for line in lines[1:])


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (("gemm", "cuda", "float64", "float64"), "gemm on cuda for float64 operands into float64"),
        (("gemm", "cpu", "float32", "float64"), "gemm on cpu for float32 operands into float64"),
    ],
)
def test_missing_row_is_an_error_that_lists_the_rows_of_the_op(key, words):
    with pytest.raises(KeyError) as caught:
        lookup(*key)
    lines = caught.value.args[0].splitlines()
    assert lines[0] == f"no kernel for {words}. The table has:"
    assert lines[1:] == [str(row) for row in rows() if row.op == "gemm"]


def test_unknown_op_is_an_error_that_says_so():
    with pytest.raises(KeyError, match="no row for geqp3"):
        lookup("geqp3", "cpu", "float64", "float64")


def test_row_of_a_user_goes_before_all_others(restore_table):
    calls = []

    def potrf(a):
        calls.append(a.shape)
        return lookup_before.function(a)

    lookup_before = lookup("potrf", "cpu", "float64", "float64")
    register("potrf", "cpu", "float64", "float64", "mine", potrf)
    assert np.array_equal(tw.tiled_cholesky(4 * np.eye(5), tile_size=2), 2 * np.eye(5))
    assert calls == [(2, 2), (2, 2), (1, 1)]


def test_row_prints_as_a_line_of_the_table():
    assert str(lookup("gemm", "cpu", "float64", "float64")).split() == [
        "gemm",
        "cpu",
        "float64",
        "float64",
        choice.current().name,
    ]
