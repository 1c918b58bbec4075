"""General systems in dask.arrays: factors, solutions, inverses and condition numbers stay in tiles on the workers."""

import numpy as np
import pytest
from matrices import inverse_ratio, random_matrix, solve_ratio, spd_matrix
from optional import da

import tilewright as tw

pytestmark = pytest.mark.needs("distributed")

N, NB = 23, 6


def regular(dtype="float64"):
    return (random_matrix(N, N, dtype, 1) / 4 + 2 * np.eye(N)).astype(dtype)


def chunked(a, *chunks):
    return da.from_array(a, chunks=chunks or (7, 10))


def test_solutions_and_inverses_from_a_factor_are_those_of_arrays_in_dask_arrays():
    for dtype in ("float64", "complex64"):
        a, x = regular(dtype), random_matrix(N, 3, dtype, 2)
        factor = tw.lu_factor(chunked(a), tile_size=NB, workers=2)
        wanted = tw.lu_factor(a, tile_size=NB)
        assert isinstance(factor.lu, da.Array)
        for trans, of in enumerate((a, a.T, a.conj().T)):
            b = of @ x
            found = factor.solve(b, trans)
            assert isinstance(found, da.Array) and np.array_equal(found.compute(), wanted.solve(b, trans))
        found = tw.lu_solve(tuple(factor), chunked(of @ x), 2, tile_size=NB, workers=2)
        assert isinstance(found, da.Array) and solve_ratio(of, found.compute(), of @ x) * N < 30
        inverse = factor.inv()
        assert isinstance(inverse, da.Array) and inverse_ratio(a, inverse.compute()) < 30
    vector = factor.solve(random_matrix(N, 1, "complex64")[:, 0])
    assert vector.shape == (N,)
    assert np.array_equal(tw.lu_solve(factor, b, 2, backend="serial", tile_size=NB), wanted.solve(b, 2))


def test_inverses_conditions_and_systems_of_dask_arrays():
    a, x = regular(), random_matrix(N, 3, seed=2)
    of = chunked(a)
    inverse = tw.inv(of, tile_size=NB, workers=2)
    assert isinstance(inverse, da.Array) and inverse_ratio(a, inverse.compute()) < 30
    assert np.isclose(tw.cond(of, 1, workers=2), np.linalg.cond(a, 1))
    for b in (a @ x, chunked(a @ x)):
        found = tw.solve(of, b, assume_a="gen", tile_size=NB, workers=2)
        assert isinstance(found, da.Array) and solve_ratio(a, found.compute(), a @ x) * N < 30
    found = tw.solve(of, a.T @ x, assume_a=None, transposed=True, tile_size=NB, workers=2)
    assert solve_ratio(a.T, found.compute(), a.T @ x) * N < 30
    spd = spd_matrix(N, "complex128")
    for lower, transposed in ((True, False), (False, False), (True, True), (False, True)):
        given = np.tril(spd) if lower else np.triu(spd)
        whole = spd.T if transposed else spd
        found = tw.solve(chunked(given), whole @ x, lower=lower, transposed=transposed, tile_size=NB, workers=2)
        assert solve_ratio(whole, found.compute(), whole @ x) * N < 30


def test_refusals():
    a = regular()
    bad = a.copy()
    bad[20, 3] = np.nan
    singular = a.copy()
    singular[:, 13] = 0
    for call, error, words in (
        (lambda: tw.inv(chunked(bad), tile_size=NB), ValueError, r"NaN or infinity at \(20, 3\); check_finite=False"),
        (lambda: tw.inv(chunked(a), True), ValueError, "a dask.array cannot be overwritten"),
        (lambda: tw.inv(chunked(singular), tile_size=NB), tw.SingularMatrixError, r"U\[13,13\] is exactly zero"),
        (
            lambda: tw.solve(chunked(a), a, assume_a="gen", return_info=True),
            ValueError,
            "return_info=True is not for a dask.array, which takes False",
        ),
        (lambda: tw.solve(chunked(a), np.ones(4), assume_a="gen"), ValueError, "b has 4 rows, but the matrix has 23"),
    ):
        with pytest.raises(error, match=words):
            call()
    with pytest.warns(RuntimeWarning, match="Diagonal number 14"):
        factor = tw.lu_factor(chunked(singular), tile_size=NB, workers=2)
    for call in (lambda: factor.solve(np.ones(N)), factor.inv):
        with pytest.raises(tw.SingularMatrixError, match=r"U\[13,13\]"):
            call()
