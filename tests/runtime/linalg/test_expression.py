"""Expressions of matrices: values of every operator, one graph without barriers, engines, kinds, changes in place."""

import copy
from itertools import product

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import DTYPES, inverse_ratio, random_matrix, roundoff, solve_ratio, spd_matrix
from optional import da, torch

import tilewright as tw

ENGINES = [
    "serial",
    "threads",
    pytest.param("mpi", marks=pytest.mark.needs("mpi4py")),
    pytest.param("dask", marks=pytest.mark.needs("distributed")),
]
M, N, NB = 23, 17, 6


def tiles(a, nb=NB):
    return tw.TiledMatrix.from_numpy(a, nb)


def near(found, wanted, dtype="float64"):
    found = np.asarray(found)
    scale = max(np.abs(wanted).max(initial=0), 1)
    return found.shape == np.shape(wanted) and np.abs(found - wanted).max(initial=0) <= 1e3 * roundoff(dtype) * scale


def regular(n, dtype="float64", seed=4):
    return (random_matrix(n, n, dtype, seed) / 4 + 2 * np.eye(n)).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_operators_mean_what_they_mean_in_numpy(dtype):
    a, b, c = random_matrix(M, N, dtype, 1), random_matrix(N, M, dtype, 2), random_matrix(M, M, dtype, 3)
    A, B, C = tiles(a), tiles(b), tiles(c)
    for found, wanted in (
        (A @ B, a @ b),
        (A @ B @ C, a @ b @ c),
        (A.T @ C, a.T @ c),
        (A.H @ C, a.conj().T @ c),
        ((A @ B).T, (a @ b).T),
        ((A @ B).H @ A, (a @ b).conj().T @ a),
        (A.H.T, a.conj()),
        (A + B.T, a + b.T),
        (A - 2 * A, -a),
        (-A + A.T.T, np.zeros_like(a)),
        (+A, a),
        (A / 4, a / 4),
        (3 * (A @ B) - C * 2 + C.T, 3 * (a @ b) - 2 * c + c.T),
        (A @ A.H, a @ a.conj().T),
        (A.H @ A, a.conj().T @ a),
        (A.T @ A, a.T @ a),
        (B @ (C - C.H), b @ (c - c.conj().T)),
        (tw.lazy(A).conj() @ B, a.conj() @ b),
        (A @ b, a @ b),
        (a @ B, a @ b),
        (a + A, 2 * a),
        (c - A @ B, c - a @ b),
    ):
        assert isinstance(found, tw.Expression) and found.shape == wanted.shape and found.dtype == dtype
        value = found.compute()
        assert isinstance(value, tw.TiledMatrix | np.ndarray) and value.dtype == dtype
        assert near(value, wanted, dtype), found
    assert near((1j * A).compute(), 1j * a, dtype) and (1j * A).dtype.kind == "c"


def test_vectors_stay_vectors():
    a, x = random_matrix(M, N, seed=1), random_matrix(N, 1, seed=2)[:, 0]
    y = (tiles(a) @ x).compute()
    assert isinstance(y, np.ndarray) and near(y, a @ x)
    assert near((y @ tiles(a)).compute(), y @ a)
    assert near((tiles(a).T @ (tiles(a) @ x) - x).compute(), a.T @ (a @ x) - x)
    s = regular(N)
    assert near((tiles(s).solve(x)).compute(), np.linalg.solve(s, x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_systems_and_inverses_pass_lapacks_tests(dtype):
    for n, nb in ((1, 1), (5, 2), (12, 4), (N, NB), (N, 30)):
        a, x = regular(n, dtype), random_matrix(n, 3, dtype, 2)
        A, spd = tiles(a, nb), spd_matrix(n, dtype)
        for matrix, of in ((A, a), (A.T, a.T), (A.H, a.conj().T), (tw.lazy(A).conj(), a.conj())):
            b = of @ x
            assert solve_ratio(of, np.asarray(matrix.solve(b)), b) * n < 30
        assert inverse_ratio(a, np.asarray(A.inv())) < 30
        assert inverse_ratio(np.ascontiguousarray(a.T), np.asarray(A.T.inv())) < 30
        b = spd @ x
        assert solve_ratio(spd, np.asarray(tiles(spd, nb).solve(b, "pos")), b) * n < 30
        inverse = np.asarray(tiles(spd, nb).inv("pos"))
        assert inverse_ratio(spd, inverse) < 30 and np.array_equal(inverse, inverse.conj().T)
        for name, t in (("lower triangular", np.tril(a)), ("upper triangular", np.triu(a))):
            b = t @ x
            assert solve_ratio(t, np.asarray(A.solve(b, name)), b) * n < 30
            b = t.conj().T @ x
            other = "upper triangular" if name[0] == "l" else "lower triangular"
            assert solve_ratio(t.conj().T, np.asarray(A.H.solve(b, other)), b) * n < 30


def chain(A, b):
    return (A.T @ A).solve(A.T @ b) + 0.5 * (A.T @ b)


@pytest.mark.parametrize("backend", ENGINES)
def test_a_chain_is_one_graph_with_the_same_bits_on_every_engine(backend):
    a, b = random_matrix(M, N, seed=1), random_matrix(M, 2, seed=2)
    A = tiles(a)
    wanted = chain(A, b).compute(backend="serial")
    found, run = chain(A, b).compute(backend=backend, workers=2, return_run=True)
    assert run.backend == backend and np.array_equal(found.to_numpy(), wanted.to_numpy())
    assert near(found, np.linalg.solve(a.T @ a, a.T @ b) + 0.5 * (a.T @ b))
    ops = {task.op.name for task in run.graph}
    assert {"rankk", "matmul", "getrf", "trsmn", "geadd"} <= ops
    complex_ = tiles(random_matrix(M, N, "complex64", 3))
    other = (complex_ @ complex_.H + 9 * tw.lazy(np.eye(M))).inv()
    assert np.array_equal(
        np.asarray(other.compute(backend=backend, workers=2)), np.asarray(other.compute(backend="serial"))
    )


def test_no_step_waits_for_the_whole_of_the_one_before():
    A = tiles(random_matrix(12, 12), 3)
    g = (A @ A @ A).graph()
    assert len(g) == 2 * 4 * 4 * 4
    second = next(task for task in g.tasks if task.index >= 64)
    above = nx.ancestors(g.to_networkx(), second.index)
    assert 0 < len(above) <= 16  # a row of the first product, of 64 tasks
    assert tw.simulate(g, tw.Machine(workers=64)).makespan == g.critical_path().length == 48


def test_what_occurs_twice_is_computed_once():
    A, b = tiles(regular(12), 4), random_matrix(12, 2)
    gram = A.T @ A
    once = len(gram.graph())
    assert len((gram + gram.T @ gram).graph()) == once + 9 + 27
    x, y = A.solve(b), A.T.solve(b)  # one factor for both
    (found, other), run = tw.compute(x, y, return_run=True)[:2], tw.compute(x, y, return_run=True)[2]
    assert sum(task.op.name == "getrf" for task in run.graph) == 3
    assert near(found, np.linalg.solve(np.asarray(A), b)) and near(other, np.linalg.solve(np.asarray(A).T, b))


def test_products_with_the_own_transpose_compute_half_and_are_symmetric():
    for dtype in DTYPES:
        a = random_matrix(M, N, dtype, 1)
        A = tiles(a)
        for node in (A @ A.H, A.H @ A, 2 * (A.H @ A)):
            value, run = node.compute(return_run=True)
            value = value.to_numpy()
            assert np.array_equal(value, value.conj().T)
            assert {"rankk", "mirror"} <= {task.op.name for task in run.graph}


def test_changes_in_place():
    a, b = random_matrix(M, M, seed=1), random_matrix(M, M, seed=2)
    for packed in (True, False):
        A, B = (tiles(x) if packed else tw.TiledMatrix.view(x.copy(), NB) for x in (a, b))
        given = A
        A += A @ B
        wanted = a + a @ b
        assert A is given and near(A, wanted)
        A -= A.T
        wanted = wanted - wanted.T
        assert near(A, wanted)
        A *= 3
        A /= 2
        A += b
        wanted = wanted * 1.5 + b
        assert A is given and near(A, wanted)
        A -= B.solve(A) - A
        wanted = wanted - (np.linalg.solve(b, wanted) - wanted)
        assert np.allclose(A.to_numpy(), wanted, rtol=1e-8, atol=1e-8)
        T = A.T
        T += B
        assert np.allclose(A.to_numpy(), wanted + b.T, rtol=1e-8, atol=1e-8)
    F = tiles(a.astype("float32"))
    F += b
    assert F.dtype == "float32" and near(F, a + b, "float32")


def test_changes_in_place_that_cannot_be_are_refused():
    A = tiles(random_matrix(4, 4))
    fixed = np.eye(4)
    fixed.flags.writeable = False
    for call, error, words in (
        (
            lambda: A.__iadd__(1j * A),
            TypeError,
            "a matrix of float64 cannot be changed in place to numbers of complex128",
        ),
        (lambda: A.__iadd__(np.ones((3, 3))), ValueError, r"a sum of matrices of shapes \(4, 4\) and \(3, 3\)"),
        (lambda: tiles(np.eye(4, dtype=int)).__imul__(2), TypeError, "a matrix of int64 cannot be changed"),
        (lambda: tw.TiledMatrix.view(fixed, 2).__imul__(2), ValueError, "is read-only"),
    ):
        with pytest.raises(error, match=words):
            call()


def test_results_are_of_the_kind_of_the_first_matrix():
    a = regular(N)
    wanted = (tiles(a) @ tiles(a)).compute().to_numpy()
    assert type((tw.lazy(a, NB) @ a).compute()) is np.ndarray
    assert np.array_equal((tw.lazy(a, NB) @ a).compute(), wanted)
    assert np.array_equal((tw.lazy(a) @ a).compute(tile_size=NB), wanted)
    assert np.array_equal(np.asarray(tiles(a) @ a), wanted) and np.array_equal(
        np.array(tiles(a) @ a, dtype=complex), wanted
    )
    assert near((tw.lazy([[2, 1], [0, 1]]) @ [[1, 0], [0, 1]]).compute(), np.array([[2.0, 1.0], [0.0, 1.0]]))
    if torch is not None:
        found = (tw.lazy(torch.from_numpy(a), NB) @ a).compute()
        assert torch.is_tensor(found) and np.array_equal(found.numpy(), wanted)


@pytest.mark.needs("distributed")
def test_dask_arrays_give_dask_arrays():
    a, b = regular(N), random_matrix(N, 3, seed=9)
    chunked = da.from_array(a, chunks=(5, 7))
    wanted = chain(tiles(a), b).compute().to_numpy()
    found = chain(tw.lazy(chunked, NB), b).compute(workers=2)
    assert isinstance(found, da.Array) and np.array_equal(found.compute(), wanted)
    assert np.array_equal(chain(tw.lazy(chunked, NB), b).compute(backend="serial"), wanted)
    assert float((tw.lazy(chunked, NB) @ a).norm(1, workers=2)) == float((tiles(a) @ a).norm(1))


def test_norms_are_found_in_the_same_graph():
    a = random_matrix(M, N, "complex64", 1)
    A = tiles(a)
    for ord in (None, "fro", 1, -1, np.inf, -np.inf, 2):
        assert np.isclose(A.norm(ord), np.linalg.norm(a, ord), rtol=1e-5)
        assert np.isclose((A.H @ A).norm(ord), np.linalg.norm(a.conj().T @ a, ord), rtol=1e-4)
        assert np.isclose(A.T.norm(ord), np.linalg.norm(a.T, ord), rtol=1e-5)
    _, run = (A @ A.H).norm(1, return_run=True)
    assert "gauge" in {task.op.name for task in run.graph} and "rankk" in {task.op.name for task in run.graph}


def test_singular_matrices_are_named():
    a = np.diag([1.0, 2.0, 0.0, 4.0, 0.0])
    for backend in ("serial", "threads"):
        with pytest.raises(tw.SingularMatrixError, match=r"getrf\(1\): U\[2,2\] is exactly zero") as error:
            tiles(a, 2).solve(np.ones(5)).compute(backend=backend)
        assert error.value.index == 2
        with pytest.raises(tw.SingularMatrixError, match=r"U\[2,2\]"):
            tiles(a, 2).inv().compute(backend=backend)
    with pytest.raises(np.linalg.LinAlgError, match=r"its diagonal is zero at \(2, 2\)"):
        tiles(a, 2).solve(np.ones(5), "lower triangular").compute()
    with pytest.raises(tw.NotPositiveDefiniteError):
        tiles(-np.eye(5), 2).solve(np.ones(5), "pos").compute()


def test_text_says_what_it_is():
    A, B = tiles(np.eye(4)), tiles(np.eye(4))
    text = repr((A.T @ A).solve(B) - 2 * A)
    assert text == "Expression(4 x 4, float64: solve(A.T @ A, B) + -2 A)"
    assert (A @ B).graph().name == "A @ B"


def test_refusals():
    A, B = tiles(np.ones((4, 3))), tiles(np.ones((4, 5)))
    for call, error, words in (
        (lambda: A @ B, ValueError, r"a product of matrices of shapes \(4, 3\) and \(4, 5\)"),
        (lambda: A + B, ValueError, r"a sum of matrices of shapes \(4, 3\) and \(4, 5\)"),
        (lambda: A + 1, TypeError, "a matrix plus the number 1: add it to what"),
        (lambda: A * A, TypeError, "the product of matrices is @"),
        (lambda: A @ 2, TypeError, "unsupported operand"),
        (lambda: A * "x", TypeError, "unsupported operand|can't multiply"),
        (lambda: A.solve(np.ones(4)), ValueError, r"the matrix a must be square, not of shape \(4, 3\)"),
        (lambda: (A.T @ A).solve(np.ones(4)), ValueError, "b has 4 rows, but the matrix has 3"),
        (lambda: (A.T @ A).solve(np.ones(3), "sym"), ValueError, "unknown assume_a 'sym'"),
        (lambda: (A.T @ A).inv("lower triangular"), ValueError, "assume_a"),
        (lambda: (A.T @ A).solve(None), TypeError, "b must be a matrix or a vector, not None"),
        (lambda: tw.compute(), TypeError, "compute takes expressions, and got none"),
        (lambda: tw.compute(A, workrs=2), TypeError, "compute: unknown option workrs; did you mean workers"),
        (lambda: tw.compute(A.T @ A, tile_size=0), ValueError, "tile_size"),
        (lambda: np.ones(4) @ A @ np.ones(3), ValueError, "the product of two vectors is a number"),
        (lambda: (A @ A.T).__array__(copy=False), ValueError, "is no array without a computation"),
    ):
        with pytest.raises(error, match=words):
            call()


@settings(max_examples=40)
@given(st.integers(0, 8), st.integers(0, 8), st.integers(1, 5), st.integers(1, 5))
def test_every_shape_and_any_two_tile_sizes(m, n, one, two):
    a, b = random_matrix(m, n, seed=1), random_matrix(n, m, seed=2)
    A, B = tiles(a, one), tiles(b, two)
    value = (A @ B - 2 * (B.T @ A.T) + 3 * tw.lazy(np.eye(m))).compute(backend="serial")
    assert value.tile_size == one and near(value, a @ b - 2 * (b.T @ a.T) + 3 * np.eye(m))


def test_a_matrix_changed_before_the_values_are_asked_for_counts_as_it_is_then():
    A = tiles(np.eye(4), 2)
    node = A @ A
    A *= 3
    assert np.array_equal(np.asarray(node), 9 * np.eye(4))


KINDS = {
    "as kernels read it": lambda a: a,
    "another byte order": lambda a: a.astype(">f8"),
    "integers": lambda a: a.astype("i8"),
    "negative strides": lambda a: a[::-1, ::-1],
    "a subclass": lambda a: a.view(np.matrix),
    "masked, with nothing masked": np.ma.array,
    "a list": lambda a: a.tolist(),
    "a tensor": lambda a: torch.from_numpy(a),
    "a tensor of integers": lambda a: torch.from_numpy(a.astype("i8")),
    "a column": lambda a: a.astype("i4")[:, 0],
    "a vector of another byte order": lambda a: a[:, 0].astype(">f8"),
}


def with_needs(table):
    """The names of a table; those of tensors and dask.arrays need what they need."""
    needs = {"tensor": "torch", "dask.array": "dask"}
    return [
        pytest.param(name, marks=[pytest.mark.needs(lib) for word, lib in needs.items() if word in name])
        for name in table
    ]


@pytest.mark.parametrize("kind", with_needs(KINDS))
def test_an_expression_is_no_snapshot_whatever_the_kind_of_the_array(kind):
    """Numbers that have to be converted are converted when values are asked for."""
    given = KINDS[kind](np.arange(1.0, 17.0).reshape(4, 4))
    node, snapshot = tw.lazy(given) + tw.lazy(given), tw.lazy(copy.deepcopy(given))
    wanted = np.array(np.asarray(given), float)
    assert np.array_equal(node.compute(), 2 * wanted)
    if isinstance(given, list):
        given[1][2] = 99
    else:
        given[1:2] = 99
    assert np.array_equal(node.compute(), 2 * np.asarray(given, float))
    assert np.array_equal(snapshot.compute(), wanted)


def test_a_list_that_becomes_another_matrix_is_refused():
    given = [[1, 2], [3, 4]]
    node = tw.lazy(given) @ np.ones(2)
    given.append([5, 6])
    with pytest.raises(ValueError, match="was 2 x 2 of float64 when the expression was written, and is 3 x 2"):
        node.compute()
    given[:] = [1j, 2]
    with pytest.raises(ValueError, match="was 2 x 2 of float64 when the expression was written, and is 2 x 1 of compl"):
        node.compute()


ODD = {
    "masked": (lambda a: np.ma.masked_less(a, 3), "masked entries"),
    "objects": (lambda a: a.astype(object), "dtype object"),
    "half precision": (lambda a: a.astype("f2"), "dtype float16"),
    "long double": (lambda a: a.astype(np.longdouble), "dtype (float|longdouble)"),
    "strings": (lambda a: a.astype("U3"), "dtype <U3"),
    "dates": (lambda a: a.astype("i8").astype("M8[s]"), "dtype datetime64"),
    "a record": (lambda a: a.view([("x", "f8")]), "record array with the fields x"),
    "no dimension": (lambda a: a[0, 0], r"not of shape \(\)"),
    "three dimensions": (lambda a: a.reshape(2, 2, 4), r"not of shape \(2, 2, 4\)"),
    "nothing": (lambda a: None, "is None"),
    "a dask.array of unknown chunks": (lambda a: (d := da.from_array(a, chunks=2))[d[:, 0] > 0], "chunk sizes"),
    "a tensor in bfloat16": (lambda a: torch.from_numpy(a).bfloat16(), "bfloat16"),
    "a tensor with gradients": (lambda a: torch.from_numpy(a).requires_grad_(), "requires gradients"),
}


@pytest.mark.parametrize("kind", with_needs(ODD))
def test_what_is_no_matrix_of_numbers_is_refused_before_an_expression_is_written(kind):
    make, message = ODD[kind]
    odd = make(np.arange(1.0, 17.0).reshape(4, 4))
    for call in (tw.lazy, tw.lazy(np.eye(4)).__matmul__, tw.lazy(np.eye(4)).__radd__, tw.lazy(np.eye(4)).solve):
        if kind == "no dimension" and call != tw.lazy:
            continue  # a number: Python says that there is no such operator
        if kind == "nothing" and call.__name__ in ("__matmul__", "__radd__"):
            assert call(odd) is NotImplemented
            continue
        with pytest.raises((TypeError, ValueError), match=message if kind != "nothing" else "None"):
            call(odd)


VALUES = {
    "NaN": np.where(np.eye(4) > 0, np.nan, 1.0),
    "infinities": np.where(np.eye(4) > 0, np.inf, 1.0),
    "huge": 1e300 * random_matrix(4, 4),
    "subnormal": 1e-310 * random_matrix(4, 4),
    "one number": np.full((1, 1), 3.0),
    "no rows": np.ones((0, 3)),
    "no columns": np.ones((3, 0)),
    "nothing": np.ones((0, 0)),
    "one row": random_matrix(1, 7),
    "read-only": np.broadcast_to(np.arange(1.0, 5.0), (4, 4)),
    "big-endian complex": random_matrix(5, 5, "complex128").astype(">c16"),
    "64-bit integers": np.eye(3, dtype="u8") * 2**63,
    "booleans": np.eye(5, dtype=bool),
}


@pytest.mark.parametrize("kind", VALUES)
@np.errstate(all="ignore")
def test_odd_values_go_through_expressions_as_through_numpy(kind):
    """Where NumPy has a number, it is that; where it has none, there is none: sums of infinities may be any of those."""
    given = VALUES[kind]
    a = np.array(given, "c16" if given.dtype.kind == "c" else "f8")
    A = tw.lazy(given, tile_size=3)
    for node, wanted in (
        (A, a), (A + A, a + a), (-0.5 * A, -0.5 * a), (A - A.conj(), a - a.conj()), (A.H, a.conj().T),
        (A @ A.T, a @ a.T), (A.H @ A, a.conj().T @ a), (A @ np.ones(a.shape[1]), a @ np.ones(a.shape[1])),
    ):  # fmt: skip
        found = node.compute()
        assert found.shape == wanted.shape and found.dtype == wanted.dtype
        there = np.isfinite(wanted)
        assert np.array_equal(np.isfinite(found), there), node
        assert np.allclose(found[there], wanted[there], rtol=1e-12, atol=0 if kind != "subnormal" else 1e-320), node


@pytest.mark.parametrize(("seed", "backend"), list(product(range(3), ["serial", "threads"])))
def test_random_expressions(seed, backend):
    rng = np.random.default_rng(seed)
    names = [random_matrix(9, 9, dtype, k) for k, dtype in enumerate(("float64", "complex64", "float32", "complex128"))]
    pool = [(tiles(a, 4), a.astype(complex)) for a in names]
    for _ in range(12):
        (x, p), (y, q) = (pool[k] for k in rng.integers(len(pool), size=2))
        made = [(x @ y / 3, p @ q / 3), (x + y, p + q), (x.T - 2 * y, p.T - 2 * q), (x.H @ y / 3, p.conj().T @ q / 3)]
        pool.append(made[rng.integers(len(made))])
    values = tw.compute(*[x for x, _ in pool[4:]], backend=backend, workers=2)
    for value, (_, wanted) in zip(values, pool[4:], strict=True):
        assert np.allclose(np.asarray(value), wanted, rtol=1e-3, atol=1e-3)
