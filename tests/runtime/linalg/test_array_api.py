"""tw.linalg: what the array API standard says of its linear algebra, claim by claim; and stacks in the calls of LU."""

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matrices import DTYPES, random_matrix, roundoff, spd_matrix
from optional import da, torch

import tilewright as tw
from tilewright import linalg

STACKS = [(), (3,), (2, 3), (0,), (2, 0)]
LARGE = 70  # rows; beyond what NumPy works on in slices


def stack(batch, m, n, dtype="float64", seed=0):
    count = int(np.prod(batch, dtype=int))
    found = [random_matrix(m, n, dtype, 10 * seed + k) for k in range(count)]
    return np.array(found, dtype).reshape(*batch, m, n)


def regular(batch, n, dtype="float64", seed=0):
    return (stack(batch, n, n, dtype, seed) / 4 + 2 * np.eye(n)).astype(dtype)


def near(found, wanted, dtype):
    found, wanted = np.asarray(found), np.asarray(wanted)
    scale = max(np.abs(wanted).max(initial=0), 1)
    return (
        found.shape == wanted.shape
        and found.dtype == wanted.dtype
        and np.abs(found - wanted).max(initial=0) <= 1e3 * roundoff(dtype) * scale
    )


def test_the_namespace_has_the_names_and_hides_modules_of_the_same_name():
    assert set(linalg.__all__) <= set(dir(linalg)) and tw.linalg is linalg
    assert inspect.isfunction(linalg.solve) and inspect.isfunction(linalg.cholesky)
    from tilewright.linalg.solve import solve

    assert solve is tw.solve and inspect.isfunction(linalg.solve)
    for name in linalg.__all__:
        assert getattr(linalg, name).__name__ == name


@pytest.mark.parametrize("name", linalg.__all__)
def test_arrays_are_positional_and_options_are_keywords(name):
    parameters = inspect.signature(getattr(linalg, name)).parameters.values()
    kinds = [p.kind for p in parameters]
    assert kinds[0] is inspect.Parameter.POSITIONAL_ONLY
    assert inspect.Parameter.POSITIONAL_OR_KEYWORD not in kinds


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 3, LARGE])
@pytest.mark.parametrize("batch", STACKS)
def test_stacks_of_matrices(batch, n, dtype):
    a, b = regular(batch, n, dtype), stack(batch, n, 2, dtype, 1)
    assert near(linalg.matmul(a, b, workers=2), np.matmul(a, b), dtype)
    assert near(linalg.solve(a, b, workers=2), np.linalg.solve(a, b), dtype)
    assert near(linalg.inv(a, workers=2), np.linalg.inv(a), dtype)
    sign, size = found = linalg.slogdet(a)
    assert found.sign is sign and found.logabsdet is size and type(found).__name__ == "SlogdetResult"
    wanted = np.linalg.slogdet(a)
    assert near(sign, wanted.sign, dtype) and near(size, wanted.logabsdet, dtype)
    if n < LARGE:
        assert near(linalg.det(a), np.linalg.det(a), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 4, LARGE])
def test_cholesky_of_stacks_from_either_triangle(n, dtype):
    a = np.array([spd_matrix(n, dtype, seed) for seed in range(3)])
    for upper in (False, True):
        given = np.triu(a) if upper else np.tril(a)
        for value in (given, given[0]):
            found = linalg.cholesky(value, upper=upper)
            part = np.triu(found) if upper else np.tril(found)
            back = found.conj().swapaxes(-1, -2) @ found if upper else found @ found.conj().swapaxes(-1, -2)
            assert np.array_equal(found, part) and near(back, a if value.ndim == 3 else a[0], dtype)
    with pytest.raises(np.linalg.LinAlgError):
        linalg.cholesky(-a)


def test_shapes_are_broadcast():
    for x, y in (
        ((2, 1, 3, 4), (5, 4, 2)),
        ((4,), (3, 4, 2)),
        ((3, 2, 4), (4,)),
        ((4,), (4,)),
        ((1, 70, 4), (3, 4, 70)),
    ):
        a, b = (np.random.default_rng(k).standard_normal(s) for k, s in enumerate((x, y)))
        assert near(linalg.matmul(a, b), np.matmul(a, b), "float64")
    a, b = regular((3, 1), 4), stack((2,), 4, 3)
    assert near(linalg.solve(a, b), np.linalg.solve(a, b[None]), "float64")
    vector = random_matrix(4, 1)[:, 0]
    assert near(
        linalg.solve(a, vector), np.linalg.solve(a, np.broadcast_to(vector[:, None], (3, 1, 4, 1)))[..., 0], "float64"
    )


def test_dtypes_are_the_wider_ones_and_integers_are_multiplied_exactly():
    for one in DTYPES:
        for two in DTYPES:
            a, b = regular((2,), 3, one), regular((2,), 3, two)
            assert linalg.matmul(a, b).dtype == linalg.solve(a, b).dtype == np.result_type(one, two)
    big = np.array([[2**53 + 1]])
    assert linalg.matmul(big, np.array([[1]])).item() == 2**53 + 1 and linalg.matmul(big, big).dtype == np.int64
    for call in (linalg.inv, linalg.det, linalg.slogdet, linalg.cholesky, linalg.matrix_norm, linalg.vector_norm):
        with pytest.raises(TypeError, match="x must be float32, float64, complex64 or complex128, not int64"):
            call(np.eye(3, dtype=int))


@given(st.lists(st.integers(1, 3), min_size=2, max_size=4), st.sampled_from(DTYPES))
def test_transposes_diagonals_and_traces(shape, dtype):
    a = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    assert np.array_equal(linalg.matrix_transpose(a), a.swapaxes(-1, -2))
    for offset in (-1, 0, 1):
        assert np.array_equal(linalg.diagonal(a, offset=offset), a.diagonal(offset, -2, -1))
        found = linalg.trace(a, offset=offset)
        assert near(found, np.trace(a, offset, -2, -1), dtype)
    assert linalg.trace(np.ones((2, 2), "int8")).dtype == np.int64


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms(dtype):
    real = np.dtype(dtype).type(0).real.dtype
    a = stack((2,), 5, 4, dtype)
    for ord in ("fro", 1, -1, np.inf, -np.inf, 2, -2, "nuc"):
        for value in (a, a[0]):
            wanted = np.linalg.norm(value, ord=ord, axis=(-2, -1)).astype(real)
            assert near(linalg.matrix_norm(value, ord=ord), wanted, dtype)
            assert linalg.matrix_norm(value, ord=ord, keepdims=True).shape == (*value.shape[:-2], 1, 1)
    for ord in (2, 1, 0, np.inf, -np.inf, 3, -1):
        for axis in (None, 0, -1, (0, 2)):
            flat = (
                a.reshape(-1)
                if axis is None
                else np.moveaxis(a, axis, -1)
                if np.ndim(axis) == 0
                else a.transpose(1, 0, 2).reshape(5, -1)
            )
            wanted = np.linalg.norm(flat, ord=ord, axis=-1).astype(real)
            assert near(linalg.vector_norm(a, axis=axis, ord=ord), wanted, dtype)
    assert linalg.vector_norm(a, axis=(0, 2), keepdims=True).shape == (1, 5, 1)
    huge = np.array([0.375, 0.5], dtype) * np.finfo(dtype).max
    assert np.isclose(linalg.vector_norm(huge) / np.finfo(dtype).max, 0.625, rtol=1e-5)
    assert linalg.vector_norm(np.zeros(0, dtype)) == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_other_products(dtype):
    a, b = stack((2,), 3, 4, dtype), stack((2,), 3, 4, dtype, 1)
    assert near(linalg.outer(a[0, 0], b[0, 1]), np.outer(a[0, 0], b[0, 1]), dtype)
    for axis in (-1, -2):
        assert near(linalg.vecdot(a, b, axis=axis), (a.conj() * b).sum(axis=axis), dtype)
    for axes in (0, 1, ((1,), (1,)), ((0, 2), (0, 2)), ((2, 0), (2, 0))):
        x, y = (a, b.transpose(2, 1, 0)) if axes == 1 else (a, b)
        assert near(linalg.tensordot(x, y, axes=axes), np.tensordot(x, y, axes=axes), dtype)
    assert near(linalg.cross(a[..., :3], b[..., :3]), np.cross(a[..., :3], b[..., :3]), dtype)
    square = regular((2,), 3, dtype)
    for n in (-3, -1, 0, 1, 2, 7):
        assert near(linalg.matrix_power(square, n), np.linalg.matrix_power(square, n), dtype)


def test_tensors_tiles_and_dask_arrays_stay_what_they_are():
    a, b = regular((), 9), random_matrix(9, 2)
    A = tw.TiledMatrix.from_numpy(a, 4)
    for name, arguments, numpys in (
        ("matmul", (A, b), np.matmul),
        ("solve", (A, b), np.linalg.solve),
        ("inv", (A,), np.linalg.inv),
        ("cholesky", ((A @ A.T).compute(),), np.linalg.cholesky),
        ("matrix_transpose", (A,), np.transpose),
    ):
        found = getattr(linalg, name)(*arguments)
        assert isinstance(found, tw.TiledMatrix)
        assert near(found, numpys(*[np.asarray(x) for x in arguments]), "float64")
    assert near(linalg.det(A), np.linalg.det(a), "float64") and near(linalg.trace(A), np.trace(a), "float64")
    assert near(linalg.matrix_norm(A, ord=1), np.linalg.norm(a, 1), "float64")
    if torch is not None:
        t = torch.from_numpy(a)
        for name in ("inv", "det", "trace", "matrix_norm", "vector_norm", "cholesky", "diagonal", "matrix_transpose"):
            of = t @ t.T if name == "cholesky" else t
            assert torch.is_tensor(getattr(linalg, name)(of)), name
        assert torch.is_tensor(linalg.matmul(t, t)) and torch.is_tensor(linalg.solve(t, t))


@pytest.mark.needs("distributed")
def test_dask_arrays_stay_on_the_workers():
    a = regular((), 9)
    chunked = da.from_array(a, chunks=(4, 3))
    for found, wanted in (
        (linalg.matmul(chunked, chunked, workers=2), a @ a),
        (linalg.inv(chunked, workers=2), np.linalg.inv(a)),
        (linalg.solve(chunked, a, workers=2), np.eye(9)),
    ):
        assert isinstance(found, da.Array) and near(found.compute(), wanted, "float64")


@pytest.mark.parametrize("n", [3, LARGE])
def test_singular_matrices_of_a_stack_are_refused(n):
    a = regular((2, 2), n)
    a[1, 0, 1] = 0
    for call in (linalg.inv, lambda a: linalg.solve(a, a)):
        with pytest.raises(
            np.linalg.LinAlgError, match=r"matrix \(1, 0\) of the stack is singular" if n == 3 else "zero"
        ):
            call(a)
    assert linalg.det(a)[1, 0] == 0 and linalg.det(a)[0, 0] != 0
    sign, size = linalg.slogdet(a)
    assert sign[1, 0] == 0 and size[1, 0] == -np.inf


def test_refusals():
    for call, words in (
        (lambda: linalg.matmul(np.ones((2, 3)), np.ones((2, 3))), r"matmul of shapes \(2, 3\) and \(2, 3\)"),
        (lambda: linalg.matmul(np.float64(1), np.ones(3)), "at least one dimension"),
        (lambda: linalg.matmul(np.ones((2, 3, 3)), np.ones((3, 3, 3))), "cannot be broadcast"),
        (lambda: linalg.inv(np.ones((3, 2, 3))), r"must be square, \(..., n, n\), not of shape \(3, 2, 3\)"),
        (lambda: linalg.solve(np.eye(3), np.ones(4)), "b has 4 rows, but the matrix has 3"),
        (lambda: linalg.solve(np.ones(3), np.ones(3)), "must be square"),
        (lambda: linalg.outer(np.ones((2, 2)), np.ones(2)), "outer takes two vectors"),
        (lambda: linalg.vecdot(np.ones(3), np.ones(4)), "vectors of 3 and 4 numbers"),
        (lambda: linalg.vecdot(np.ones(3), np.ones(3), axis=0), "axis"),
        (lambda: linalg.tensordot(np.ones((2, 3)), np.ones((2, 3)), axes=1), "other extents"),
        (
            lambda: linalg.tensordot(np.ones((2, 3)), np.ones(2), axes=3),
            "axes=3, but the arrays have 2 and 1 dimensions",
        ),
        (lambda: linalg.diagonal(np.ones(3)), "at least two dimensions"),
        (lambda: linalg.matrix_transpose(np.ones(3)), "at least two dimensions"),
        (lambda: linalg.matrix_norm(np.ones((2, 2)), ord="x"), "ord must be one of"),
        (lambda: linalg.matrix_power(np.ones((2, 3)), 2), "must be square"),
        (lambda: linalg.cross(np.ones(2), np.ones(2)), "an axis of three"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


ENGINES = [
    "serial",
    "threads",
    pytest.param("mpi", marks=pytest.mark.needs("mpi4py")),
    pytest.param("dask", marks=pytest.mark.needs("distributed")),
]


BITS = {
    "matmul": lambda a, b, **how: linalg.matmul(a, b, **how),
    "solve": lambda a, b, **how: linalg.solve(a, b, **how),
    "inv": lambda a, b, **how: linalg.inv(a, **how),
    "slogdet": lambda a, b, **how: linalg.slogdet(a, **how).logabsdet,
    "cholesky": lambda a, b, **how: linalg.cholesky(a @ a.conj().swapaxes(-1, -2), **how),
}


@pytest.mark.parametrize("backend", ENGINES)
@pytest.mark.parametrize("name", BITS)
def test_stacks_have_the_same_bits_on_every_engine(name, backend):
    for n in (5, LARGE):
        a, b = regular((3,), n, "complex64"), stack((3,), n, 2, "complex64")
        wanted = BITS[name](a, b, backend="serial", tile_size=32)
        assert np.array_equal(BITS[name](a, b, backend=backend, workers=2, tile_size=32), wanted)


@pytest.mark.parametrize("n", [4, LARGE])
def test_calls_of_lu_take_stacks(n):
    a, b = regular((2, 3), n), stack((2, 3), n, 2)
    assert near(tw.inv(a, workers=2), np.linalg.inv(a), "float64")
    assert near(tw.slogdet(a).logabsdet, np.linalg.slogdet(a).logabsdet, "float64")
    assert near(tw.solve(a, b, assume_a="gen"), np.linalg.solve(a, b), "float64")
    assert near(tw.solve(a, b, assume_a="gen", transposed=True), np.linalg.solve(a.swapaxes(-1, -2), b), "float64")
    small = regular((2,), 4, "float32")
    assert tw.det(small).dtype == np.float64 and np.allclose(
        tw.det(small), np.linalg.det(small.astype(float)), rtol=1e-5
    )


def test_solve_transposed_is_the_solution_with_the_transpose():
    for dtype in ("float64", "complex128"):
        a, x = regular((), 12, dtype), random_matrix(12, 3, dtype)
        found = tw.solve(a, a.T @ x, assume_a="gen", transposed=True)
        assert near(found, x, dtype)
        spd = spd_matrix(12, dtype)
        for lower in (True, False):
            given = np.tril(spd) if lower else np.triu(spd)
            assert near(tw.solve(given, spd.T @ x, lower=lower, transposed=True), x, dtype)
    tiles = tw.TiledMatrix.from_numpy(a, 5)
    assert near(tw.solve(tiles, a.T @ x, assume_a="gen", transposed=True), x, "complex128")


def test_stacks_of_positive_definite_matrices_are_solved_with_in_fp64():
    for n in (4, LARGE):
        spd = np.array([spd_matrix(n, "float32", seed) for seed in range(2)])
        x = stack((2,), n, 2)
        for lower in (True, False):
            given = np.tril(spd) if lower else np.triu(spd)
            found = tw.solve(given, spd.astype(float) @ x, lower=lower)
            assert near(found, x, "float64")
        with pytest.raises(np.linalg.LinAlgError):
            tw.solve(-spd, x)
    spd[1, 0, 2] = np.nan
    with pytest.raises(ValueError, match=r"the matrix a has a NaN or infinity at \(1, 0, 2\)"):
        tw.solve(spd, x)
    with pytest.raises(ValueError, match="return_info=True is not for a stack of matrices, which takes False"):
        tw.solve(spd, x, return_info=True)
    with pytest.raises(ValueError, match="pivoting of a stack is 'partial'"):
        tw.inv(spd, pivoting="none")


@pytest.mark.needs("torch")
def test_a_product_of_two_vectors_of_integers_is_exact_in_every_kind():
    assert linalg.matmul(torch.arange(4), torch.arange(4)) == torch.tensor(14)
    assert linalg.matmul(np.arange(4), np.arange(4)) == 14 == linalg.matmul([0, 1, 2, 3], np.arange(4))


def test_the_power_zero_is_an_identity_of_the_kind_of_the_matrix():
    found = linalg.matrix_power(tw.TiledMatrix.from_numpy(np.ones((3, 3)), 2), 0)
    assert isinstance(found, tw.TiledMatrix) and found.tile_size == 2
    np.testing.assert_array_equal(found.to_numpy(), np.eye(3))


@pytest.mark.needs("dask")
def test_the_power_zero_of_a_dask_array_has_its_chunks():
    from dask.local import get_sync  # by its name an older Dask warns of the cluster that other tests keep

    found = linalg.matrix_power(da.ones((3, 3), chunks=2), 0)
    assert found.chunks == ((2, 1), (2, 1))
    np.testing.assert_array_equal(found.compute(scheduler=get_sync), np.eye(3))


@pytest.mark.parametrize("p", [1, -1, np.inf, "fro"])
def test_a_condition_takes_the_keywords_of_an_inverse_and_the_norm_is_that_before_it_is_overwritten(p):
    A = np.random.default_rng(3).standard_normal((6, 6))
    wanted = np.linalg.cond(A, p)
    assert np.isclose(tw.cond(A, p, pivoting="partial", threshold=None, workers=1), wanted)
    assert np.isclose(tw.cond(np.asfortranarray(A), p, overwrite_a=True, check_finite=False, backend="serial"), wanted)
