"""Products by diagonals have the bits of products by rows, or say that they have not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from matrices import random_sparse

from tilewright.kernels import csr, diagonals


def band(rows: int, columns: int, offsets: Any, dtype: Any, part: float, seed: int) -> Any:
    """Random entries on some diagonals, each slot filled with a probability; some of them are negative zeros."""
    rng = np.random.default_rng(seed)
    there = [np.arange(max(0, -k), min(rows, columns - k)) for k in offsets]
    j = np.concatenate([line + k for k, line in zip(offsets, there, strict=True)])
    i = np.concatenate(there)
    chosen = rng.random(len(i)) < part
    values = rng.choice([-0.0, 1.0, -2.5, 0.1], len(i)) * rng.random(len(i))
    return sp.csr_array((values[chosen].astype(dtype), (i[chosen], j[chosen])), shape=(rows, columns))


def found(A: Any, least: int = 0) -> diagonals.Diagonals | None:
    return diagonals.find(A.indptr, A.indices, A.data, A.shape[1], least)


def by_rows(A: Any, x: np.ndarray, transposed: bool = False) -> np.ndarray:
    y = np.zeros(A.shape[1 if transposed else 0], A.dtype)
    (csr.transposed_multiply_add if transposed else csr.multiply_add)(A.indptr, A.indices, A.data, x, y)
    return y


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.sets(st.integers(-59, 59), min_size=1, max_size=7),
    st.sampled_from(["float32", "float64"]),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_products_have_the_bits_of_those_by_rows(
    rows: int, columns: int, offsets: set[int], dtype: str, symmetric: bool, seed: int
) -> None:
    inside = sorted(k for k in offsets if -rows < k < columns)
    A = band(rows, columns, inside or [0], dtype, 0.95, seed)
    if symmetric and rows == columns:
        A = sp.csr_array(A + A.T)
    rng = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagonals, "BLOCK", 16 * A.dtype.itemsize)  # several blocks
        form = found(A)
        if form is None:
            return
        x, z = rng.standard_normal(columns).astype(dtype), rng.standard_normal(rows).astype(dtype)
        y, w = np.full(rows, 7, dtype), np.full(columns, 7, dtype)
        assert form.multiply(x, y) and form.multiply_transposed(z, w)
        assert same_bits(y, by_rows(A, x)) and same_bits(w, by_rows(A, z, transposed=True))
        first = int(rng.integers(rows))
        some = np.full(int(rng.integers(1, rows - first + 1)), 7, dtype)
        assert form.multiply(x, some, first) and same_bits(some, y[first : first + len(some)])


def test_a_symmetric_matrix_keeps_one_of_two_diagonals() -> None:
    A = band(300, 300, [-20, -1, 0, 1, 20], float, 1.0, 0)
    symmetric, other = found(sp.csr_array(A + A.T)), found(A)
    assert symmetric is not None and other is not None
    assert symmetric.table.shape == (3, 300) and symmetric.mirrored.tolist() == [True, True, False, False, False]
    assert other.table.shape == (5, 300) and not other.mirrored.any()


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_slot_without_an_entry_that_meets_infinity_is_noticed(bad: float) -> None:
    A = band(50, 50, [-1, 0, 1], float, 1.0, 0)
    A[20, 21] = 0
    A.eliminate_zeros()
    form = found(A)
    assert form is not None and not form.full
    x, y = np.ones(50), np.empty(50)
    assert form.multiply(x, y)
    x[21] = bad
    assert not form.multiply(x, y)
    assert np.isnan(y[20]) and by_rows(A, x)[20] == by_rows(A, np.ones(50))[20]  # why it is to be done again
    assert not form.multiply_transposed(x, y)


def test_slots_outside_of_the_matrix_are_never_read() -> None:
    A = band(40, 40, [-7, 0, 7], float, 1.0, 0)
    form = found(A)
    assert form is not None and form.full
    x = np.full(40, np.inf)
    y = np.empty(40)
    assert form.multiply(x, y)
    with np.errstate(invalid="ignore"):
        assert same_bits(np.isnan(y), np.isnan(by_rows(A, x))) and np.isinf(y[:7]).any()


def test_other_matrices_stay_as_rows() -> None:
    rng = np.random.default_rng(0)
    scattered = sp.csr_array(random_sparse((2000, 2000), 0.005, rng))
    corner = sp.csr_array(sp.block_diag([np.ones((40, 40)), sp.eye_array(2000)]))  # many diagonals, short of entries
    assert found(scattered) is None and found(corner) is None
    thin = band(3000, 3000, [-5, 0, 5], float, 0.6, 0)
    assert found(thin) is None and found(band(3000, 3000, [-5, 0, 5], float, 0.9, 0)) is not None
    A = band(3000, 3000, [-1, 0, 1], float, 1.0, 0)
    assert found(A.astype(complex)) is None and found(A.astype(np.int64)) is None
    assert diagonals.find(A.indptr, A.indices, A.data, 3000) is None  # fewer than LEAST entries
    assert found(sp.csr_array((5, 0))) is None and found(sp.csr_array((0, 5))) is None
