"""What the calls on dense matrices say to things that are no dense matrix."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
from matrices import spd_matrix

import tilewright as tw

A, b = spd_matrix(6), np.ones(6)
CALLS = {
    "tiled_cholesky": lambda x: tw.tiled_cholesky(x),
    "tiled_cholesky in bf16": lambda x: tw.tiled_cholesky(x, precision="bf16"),
    "solve": lambda x: tw.solve(x, b),
    "solve auto": lambda x: tw.solve(x, b, precision="auto"),
    "cho_solve": lambda x: tw.cho_solve(x, b),
    "logdet": tw.logdet,
    "cho_inverse": tw.cho_inverse,
    "norm": lambda x: tw.PrecisionMap.norm(x, tile_size=3, tolerance=1e-3),
    "right-hand side": lambda x: tw.solve(A, x),
    "matvec": lambda x: tw.matvec(x, b),
    "x": lambda x: tw.matvec(A, x),
    "DenseOperator": tw.DenseOperator,
}
calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@calls
@pytest.mark.parametrize("kind", [sp.csr_array, sp.coo_matrix])
def test_sparse_input_is_refused_with_the_way_on(call, kind):
    with pytest.raises(TypeError, match=rf" is sparse, a {kind.__name__}; pass its \.toarray\(\), or use tw\.Sparse"):
        call(kind(A))


@calls
def test_masked_entries_are_refused_and_counted(call):
    with pytest.raises(ValueError, match=r" has 2 masked entries; say what they are with \.filled\(value\)"):
        call(np.ma.masked_array(A, mask=np.arange(36).reshape(6, 6) < 2))


def test_a_masked_array_without_masked_entries_is_an_array():
    assert np.array_equal(tw.tiled_cholesky(np.ma.masked_array(A)), tw.tiled_cholesky(A))


@pytest.mark.parametrize("call", ["cho_solve", "logdet", "cho_inverse"])
def test_the_pair_of_scipy_is_refused_with_what_to_pass(call):
    with pytest.raises(TypeError, match=r"is a pair \(c, lower\), as of scipy\.linalg\.cho_factor; pass c itself"):
        CALLS[call](scipy.linalg.cho_factor(A, lower=True))
