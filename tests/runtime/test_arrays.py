"""An array is an array: every public call that takes one, and everything that is one."""

import re

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from matrices import spd_matrix

import tilewright as tw
from tilewright.arguments import dense, like, numbers, overlaps
from tilewright.scalars import flag

N = 5
A, b = spd_matrix(N), np.arange(1.0, N + 1)
L = np.linalg.cholesky(A)
SPARSE = sp.csr_array(A)


def operator(kind, matrix):
    return kind(matrix, ranks=2, backend="serial")


def product(kind):
    """x as a vector of a product of an operator: A x, A^T x, A^H x."""

    def call(x):
        op = operator(kind, A)
        x = np.asarray(x) if isinstance(x, memoryview) else x  # a scalar to SciPy's own operator @
        return np.stack([np.asarray(y) for y in (op @ x, op.T @ x, op.H @ x, op.matvec(x))])

    return call


MATRIX = {
    "tiled_cholesky": ("the matrix", lambda a: tw.tiled_cholesky(a, tile_size=2)),
    "tiled_cholesky, upper": ("the matrix", lambda a: tw.tiled_cholesky(a, tile_size=2, lower=False)),
    "tiled_cholesky in bf16": (
        "the matrix",
        lambda a: tw.tiled_cholesky(a, tile_size=2, precision="bf16", emulate=True),
    ),
    "tiled_cholesky in fp32": ("the matrix", lambda a: tw.tiled_cholesky(a, tile_size=2, precision="fp32")),
    "solve": ("the matrix", lambda a: tw.solve(a, b)),
    "cho_solve": ("L", lambda a: tw.cho_solve(a, b)),
    "logdet": ("L", lambda a: tw.logdet(a)),
    "cho_inverse": ("L", lambda a: tw.cho_inverse(a)),
    "tri_inverse": ("the matrix", lambda a: tw.tri_inverse(a, tile_size=2)),
    "gemm": ("the matrix a", lambda a: tw.gemm(a, A, tile_size=2)),
    "PrecisionMap.norm": ("the matrix", lambda a: tw.PrecisionMap.norm(a, tile_size=2, tolerance=1e-3).names),
    "TiledMatrix.from_numpy": ("the array", lambda a: tw.TiledMatrix.from_numpy(a, 2).to_numpy()),
    "matvec": ("A", lambda a: tw.matvec(a, b)),
    "DenseOperator": ("A", lambda a: operator(tw.DenseOperator, a) @ b),
    "SparseOperator": ("A", lambda a: operator(tw.SparseOperator, a) @ b),
    "cg": ("A", lambda a: tw.cg(a, b, rtol=1e-12)[0]),
}
FACTOR = tw.lu_factor(A)
MORE = {  # all kinds of arrays in one test each: the way in is the same for most
    "lu_factor": ("the matrix a", lambda a: tw.lu_factor(a, tile_size=2).lu),
    "lu": ("the matrix a", lambda a: np.stack(tw.lu(a, tile_size=2))),
    "qr": ("the matrix a", lambda a: np.stack(tw.qr(a, tile_size=2))),
    "lstsq": ("the matrix a", lambda a: tw.lstsq(a, b, tile_size=2)[0]),
    "inv": ("the matrix a", lambda a: tw.inv(a, tile_size=2)),
    "det": ("the matrix a", lambda a: tw.det(a, tile_size=2)),
    "slogdet": ("the matrix a", lambda a: np.array(tw.slogdet(a, tile_size=2))),
    "eigvalsh": ("the matrix a", lambda a: tw.eigvalsh(a, tile_size=2)),
    "svdvals": ("the matrix a", lambda a: tw.svdvals(a, tile_size=2)),
    "svd_lowrank": ("the matrix a", lambda a: tw.svd_lowrank(a, 2, tile_size=2)[1]),
    "polar": ("the matrix a", lambda a: np.stack(tw.polar(a, tile_size=2))),
    "norm": ("the matrix a", lambda a: tw.norm(a, tile_size=2)),
    "cond": ("the matrix a", lambda a: tw.cond(a, 1)),
    "gemm b": ("the matrix b", lambda a: tw.gemm(A, a, tile_size=2)),
    "syrk": ("the matrix a", lambda a: tw.syrk(a, tile_size=2)),
    "trsm": ("the matrix a", lambda a: tw.trsm(a, A, tile_size=2)),
    "trsm b": ("the matrix b", lambda a: tw.trsm(L, a, tile_size=2)),
    "potri": ("the matrix a", lambda a: tw.potri(a, tile_size=2)),
    "solve, gen": ("the matrix a", lambda a: tw.solve(a, b, assume_a="gen")),
    "solve, sym": ("the matrix a", lambda a: tw.solve(a, b, assume_a="sym")),
    "lazy": ("the matrix a", lambda a: tw.compute(tw.lazy(a) @ tw.lazy(A))),
    "linalg.solve": ("x1", lambda a: tw.linalg.solve(a, b)),
    "linalg.inv": ("x", lambda a: tw.linalg.inv(a)),
    "linalg.matrix_norm": ("x", lambda a: tw.linalg.matrix_norm(a)),
}
MORE_VECTORS = {
    "lu_solve b": ("b", lambda x: tw.lu_solve(FACTOR, x)),
    "lstsq b": ("b", lambda x: tw.lstsq(A, x, tile_size=2)[0]),
    "solve b, gen": ("b", lambda x: tw.solve(A, x, assume_a="gen")),
    "trsm b, 1-D": ("the matrix b", lambda x: tw.trsm(L, x, tile_size=2)),
}
STANDARD = ("linalg.solve", "linalg.inv", "linalg.matrix_norm")
"""Calls of the array API, which leaves out integers."""

VECTOR = {
    "solve b": ("b", lambda x: tw.solve(A, x)),
    "cho_solve b": ("b", lambda x: tw.cho_solve(L, x)),
    "matvec x": ("x", lambda x: tw.matvec(A, x)),
    "DenseOperator @": ("x", product(tw.DenseOperator)),
    "SparseOperator @": ("x", product(tw.SparseOperator)),
    "power_iteration": ("x", lambda x: operator(tw.DenseOperator, A).power_iteration(3, x)[1]),
    "powers": ("x", lambda x: operator(tw.SparseOperator, A).powers(x, 2)),
    "repeat": ("x", lambda x: operator(tw.SparseOperator, A).repeat(x, 2)),
    "cg b": ("b", lambda x: tw.cg(SPARSE, x, rtol=1e-12)[0]),
    "cg x0": ("x0", lambda x: tw.cg(SPARSE, b, x0=x, rtol=1e-12)[0]),
}


ON_WORKERS = ("tiled_cholesky", "tri_inverse", "solve", "gemm")
"""Calls that take dask.arrays."""


class Interface:
    """Nothing but the old protocol."""

    def __init__(self, array):
        self.kept = array
        self.__array_interface__ = array.__array_interface__


class Capsule:
    """Nothing but DLPack."""

    def __init__(self, array):
        self.kept = array

    def __dlpack__(self, **options):
        return self.kept.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.kept.__dlpack_device__()


class Protocol:
    """Nothing but ``__array__``, as in data frames."""

    def __init__(self, array):
        self.kept = array

    def __array__(self, dtype=None, copy=None):
        return np.array(self.kept, dtype)


class Units(np.ndarray):
    """A subclass that would change what products mean."""

    def __matmul__(self, other):
        raise AssertionError("a subclass's product was called")

    __mul__ = __rmatmul__ = __matmul__


class Shaped:
    """Looks like an array, and is none."""

    shape, ndim, dtype = (N, N), 2, "float64"


def in_record(array):
    """A field of packed records: misaligned, strides that are no multiple of the item."""
    records = np.zeros(array.shape, [("flag", "i1"), ("value", array.dtype)])
    records["value"] = array
    return records["value"]


def as_matrix(array):
    return array.view(np.matrix)


def reversed_view(array):
    return array[::-1].copy()[::-1] if array.ndim == 1 else array[::-1, ::-1].copy()[::-1, ::-1]


def strided(array):
    wide = np.zeros(tuple(3 * extent for extent in array.shape), array.dtype)
    part = wide[(slice(None, None, 3),) * array.ndim]
    part[...] = array
    return part


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def mapped(array, folder):
    file = np.memmap(folder / "matrix", array.dtype, "w+", shape=array.shape)
    file[...] = array
    return file


def conjugate_view(array):
    return torch.from_numpy(array.astype(complex)).conj().real


GOOD = {
    "array": lambda a: a,
    "by columns": np.asfortranarray,
    "big-endian": lambda a: a.astype(">f8"),
    "little-endian": lambda a: a.astype("<f8"),
    "big-endian by columns": lambda a: np.asfortranarray(a.astype(">f8")),
    "reversed": reversed_view,
    "strided": strided,
    "in a record": in_record,
    "read-only": read_only,
    "subclass": lambda a: a.view(Units),
    "nothing masked": np.ma.masked_array,
    "tensor": torch.from_numpy,
    "tensor, strided": lambda a: torch.from_numpy(strided(a)),
    "tensor, conjugate": conjugate_view,
    "list": lambda a: a.tolist(),
    "tuple of tuples": lambda a: tuple(map(tuple, a.tolist())) if a.ndim == 2 else tuple(a.tolist()),
    "list of arrays": list,
    "__array__": Protocol,
    "__array_interface__": Interface,
    "DLPack": Capsule,
    "memoryview": memoryview,
    "integers": lambda a: np.rint(a).astype(np.int64),
    "big-endian integers": lambda a: np.rint(a).astype(">i4"),
    "unsigned": lambda a: np.rint(np.abs(a)).astype(np.uint8),
}
BAD = {
    "masked": (lambda a: np.ma.masked_less(a, np.median(a)), "masked"),
    "object": (lambda a: a.astype(object), "object"),
    "strings": (lambda a: a.astype("U9"), "U9"),
    "dates": (lambda a: a.astype("M8[s]"), "datetime64"),
    "records": (lambda a: np.zeros(a.shape, [("x", "f8"), ("y", "f8")]), "record"),
    "ragged": (lambda a: [[1.0, 2.0], [3.0]], "inhomogeneous"),
    "None": (lambda a: None, "None"),
    "dictionary": (lambda a: {"a": a}, "shape|object|dict"),
    "a class that has a shape": (lambda a: np.float64, "dtype|numbers"),
    "a shape and no numbers": (lambda a: Shaped(), "dtype|numbers"),
    "dask": (lambda a: da.from_array(a, chunks=2), "dask"),
    "tensor with gradients": (lambda a: torch.from_numpy(a.copy()).requires_grad_(), "differentiable"),
    "tensor in bfloat16": (lambda a: torch.from_numpy(a).to(torch.bfloat16), "bfloat16"),
    "sparse tensor": (lambda a: torch.from_numpy(a).to_sparse(), "sparse"),
    "tensor elsewhere": (lambda a: torch.from_numpy(a).to("meta"), "meta"),
}


def plain(name, array):
    return np.rint(np.abs(array) if name == "unsigned" else array) if "integer" in name or name == "unsigned" else array


def close(got, wanted):
    if isinstance(wanted, tuple):
        return got == wanted
    return np.allclose(np.asarray(got), np.asarray(wanted), rtol=1e-11, atol=1e-12)


def whole(call):
    """The matrix that a call wants: a factor, or a symmetric positive definite one; of whole numbers too."""
    return np.tril(np.rint(4 * L) + N * np.eye(N)) if call in ("cho_solve", "logdet", "cho_inverse") else A


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("call", MATRIX)
def test_every_call_takes_every_kind_of_matrix(call, kind):
    matrix = whole(call)
    if plain(kind, matrix) is not matrix:  # rounding leaves it positive definite
        matrix = np.rint(np.abs(matrix)) + (N * 10 * np.eye(N) if matrix is A else 0)
    before = matrix.copy()
    got = MATRIX[call][1](GOOD[kind](matrix))
    assert close(got, MATRIX[call][1](matrix)) and np.array_equal(matrix, before)


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("call", VECTOR)
def test_every_call_takes_every_kind_of_vector(call, kind):
    wanted = VECTOR[call][1](plain(kind, b))
    assert close(VECTOR[call][1](GOOD[kind](b)), wanted)


@pytest.mark.parametrize("call", MATRIX)
def test_every_call_takes_a_tiled_matrix_a_matrix_of_numpy_and_a_memory_map(call, tmp_path):
    matrix = whole(call)
    wanted = MATRIX[call][1](matrix)
    tiled = tw.TiledMatrix.from_numpy(matrix, 2)
    for given in (tiled, tw.TiledMatrix.view(matrix, 2), tiled.T.T, mapped(matrix, tmp_path), as_matrix(matrix)):
        assert close(MATRIX[call][1](given), wanted)


@pytest.mark.parametrize("name", [*MORE, *MORE_VECTORS])
def test_calls_added_later_take_every_kind_of_array_and_refuse_the_others_by_name(name):
    what, call = (MORE | MORE_VECTORS)[name]
    vector = name in MORE_VECTORS
    for kind, make in GOOD.items():
        if name in STANDARD and ("integer" in kind or kind == "unsigned"):
            continue
        given = b if vector else A
        if plain(kind, given) is not given:
            given = np.rint(np.abs(given)) + (0 if vector else N * 10 * np.eye(N))
        before = given.copy()
        assert close(call(make(given)), call(given)), kind
        assert np.array_equal(given, before), kind
    for kind, (make, why) in BAD.items():
        if kind == "dask":  # it is worked with where it lies, or gathered: as each says
            continue
        with pytest.raises((TypeError, ValueError)) as caught:
            call(make(b if vector else A))
        message = str(caught.value)
        assert "\n" not in message and re.search(rf"{why}|shape|dtype|must be|None|numbers", message), (kind, message)
        assert what in message or "the matrix" in message or "right-hand side" in message, (kind, message)


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize(("name", "call"), [*MATRIX.values(), *VECTOR.values()], ids=[*MATRIX, *VECTOR])
def test_what_is_no_array_of_numbers_is_refused_by_name(name, call, kind):
    if (kind == "None" and call in (VECTOR["power_iteration"][1], VECTOR["cg x0"][1])) or (
        kind == "dask"
        and call in [call for what, (_, call) in (MATRIX | VECTOR).items() if what.startswith(ON_WORKERS)]
    ):
        return  # there it stands for the start that is chosen; that works on the workers
    make, why = BAD[kind]
    value = make(A if call in [call for _, call in MATRIX.values()] else b)
    with pytest.raises((TypeError, ValueError)) as caught:
        call(value)
    message = str(caught.value)
    assert "\n" not in message
    assert re.search(why, message) or re.search(r"shape|dtype|must be|None|numbers", message)
    named = (
        re.search(rf"\b{re.escape(name)}\b", message) or "right-hand side" in message or "convert the matrix" in message
    )
    assert named or "SparseOperator needs" in message


@pytest.mark.parametrize("dtype", ["float16", "longdouble", "clongdouble"])
def test_other_floats_are_refused_with_the_dtypes_to_take_but_where_scipy_has_products(dtype):
    for name, call in MATRIX.items():
        if name in ("SparseOperator", "cg", "TiledMatrix.from_numpy", "PrecisionMap.norm"):
            continue
        with pytest.raises(TypeError, match=r"float32, float64, complex64,? (or )?complex128"):
            call[1](A.astype(dtype))
    with pytest.raises(TypeError, match="no sparse product for float16"):
        operator(tw.SparseOperator, A.astype("float16"))
    assert (operator(tw.SparseOperator, A.astype("longdouble")) @ b).dtype == np.longdouble


DTYPES = ["bool", "int8", "int64", "uint16", "float32", "float64", "complex64", "complex128"]


@pytest.mark.parametrize("x", DTYPES)
@pytest.mark.parametrize("a", DTYPES)
def test_products_have_the_dtype_of_numpy(a, x):
    matrix, vector = np.arange(6).reshape(2, 3).astype(a), np.arange(3).astype(x)
    wanted = matrix @ vector
    floating = wanted.dtype if wanted.dtype.kind in "fc" else np.dtype(float)
    got = tw.matvec(matrix, vector, ranks=2)
    assert got.dtype == floating and np.array_equal(got, matrix.astype(floating) @ vector)
    sparse = operator(tw.SparseOperator, matrix)
    assert (sparse @ vector).dtype == wanted.dtype
    op = operator(tw.DenseOperator, matrix)
    assert op.dtype == (matrix.dtype if matrix.dtype.kind in "fc" else float)
    for turned, v in ((op, vector), (op.T, np.arange(2).astype(x)), (op.H, np.arange(2).astype(x))):
        B = op @ np.eye(3, dtype=op.dtype)
        B = B if turned is op else B.T if turned is op.T else B.T.conj()
        y = turned @ v
        assert y.dtype == (np.result_type(op.dtype, v.dtype))
        assert np.array_equal(y, B.astype(y.dtype) @ v)
        assert (turned @ np.stack([v, v], axis=1)).dtype == y.dtype


def test_a_float32_matrix_multiplies_float64_vectors_in_float64():
    rng = np.random.default_rng(0)
    matrix, x = rng.standard_normal((700, 300)).astype("f"), rng.standard_normal(300)
    for grid in ((1, 1), (2, 2), (3, 1)):
        for overlap in (False, True):
            op = tw.DenseOperator(matrix, "grid", grid=grid, backend="serial", overlap=overlap)
            assert np.allclose(op @ x, matrix.astype(float) @ x, rtol=0, atol=1e-12)
            z = rng.standard_normal(700)
            assert np.allclose(op.T @ z, matrix.T.astype(float) @ z, rtol=0, atol=1e-12)


def test_tensors_come_out_where_tensors_went_in():
    a, x = torch.from_numpy(A), torch.from_numpy(b)
    given = [
        tw.tiled_cholesky(a), tw.solve(a, b), tw.solve(A, x), tw.cho_solve(torch.from_numpy(L), b), tw.cho_solve(L, x),
        tw.cho_inverse(torch.from_numpy(L)), tw.matvec(a, b), tw.matvec(A, x), tw.cg(SPARSE, x)[0],
    ]  # fmt: skip
    for kind in (tw.DenseOperator, tw.SparseOperator):
        op = operator(kind, A)
        given += [op @ x, op.T @ x, op.H @ x, op.matvec(x), op.rmatvec(x), op @ torch.stack([x, x], dim=1)]
    op = operator(tw.SparseOperator, A)
    given += [op.powers(x, 2), op.repeat(x, 2), op.multiply(x), operator(tw.DenseOperator, A).power_iteration(2, x)[1]]
    assert all(isinstance(result, torch.Tensor) for result in given)
    assert np.allclose(operator(tw.DenseOperator, A) @ x, A @ b)


def test_a_dask_array_is_factored_where_it_lies_and_refused_elsewhere_with_what_to_call():
    lazy = da.from_array(A, chunks=2)
    for call in (
        lambda: tw.cho_solve(lazy, b),
        lambda: tw.matvec(lazy, b),
        lambda: tw.matvec(A, da.from_array(b)),
        lambda: tw.DenseOperator(lazy),
        lambda: operator(tw.SparseOperator, A) @ da.from_array(b),
        lambda: tw.logdet(lazy),
    ):
        with pytest.raises(
            TypeError, match=r"is a dask Array, whose values are computed elsewhere; pass its \.compute"
        ):
            call()
    with pytest.raises(ValueError, match="the matrix a has masked chunks"):
        tw.tiled_cholesky(da.ma.masked_less(lazy, 0))


class TestTiledMatrix:
    """To NumPy it is the matrix."""

    @pytest.mark.parametrize("make", [tw.TiledMatrix.from_numpy, tw.TiledMatrix.view])
    def test_numpy_reads_the_matrix_and_not_the_indices_of_its_tiles(self, make):
        tiled = make(A, 2)
        assert np.array_equal(np.asarray(tiled), A) and np.array_equal(np.asarray(tiled.T), A.T)
        assert np.isclose(np.linalg.norm(tiled), np.linalg.norm(A))
        assert np.array_equal(np.add(tiled, 1), A + 1)
        assert np.asarray(tiled, "f").dtype == np.float32 and np.array(tiled, complex).dtype == complex

    def test_copies_are_made_as_numpy_asks(self):
        view, packed = tw.TiledMatrix.view(A, 2), tw.TiledMatrix.from_numpy(A, 2)
        assert np.shares_memory(np.asarray(view), A) and np.shares_memory(np.array(view, copy=False), A)
        assert not np.shares_memory(np.array(view), A)
        with pytest.raises(ValueError, match="no array without a copy: its tiles are packed"):
            packed.__array__(copy=False)
        with pytest.raises(ValueError, match="it has dtype float64, not float32"):
            view.__array__("f", copy=False)

    def test_tiles_of_a_matrix_of_numpy_multiply_as_arrays(self):
        tiled = tw.TiledMatrix.view(as_matrix(A), 2)
        assert type(tiled[0, 0]) is np.ndarray

    def test_masked_entries_are_refused(self):
        for make in (tw.TiledMatrix.from_numpy, tw.TiledMatrix.view):
            with pytest.raises(ValueError, match="masked entries"):
                make(np.ma.masked_greater(A, 1), 2)


class TestOverwriting:
    def test_memory_that_entries_share_is_not_overwritten(self):
        windows = np.lib.stride_tricks.sliding_window_view(np.arange(9.0), 5)
        windows.flags.writeable = False
        raw = np.arange(9.0)
        shared = np.lib.stride_tricks.as_strided(raw, (5, 5), (8, 8))
        row = np.lib.stride_tricks.as_strided(raw, (5, 5), (0, 8))
        for given in (shared, row, tw.TiledMatrix.view(shared, 2), torch.from_numpy(raw).as_strided((5, 5), (1, 1))):
            with pytest.raises(ValueError, match="entries of the matrix a share memory"):
                tw.tiled_cholesky(given, overwrite_a=True)
        with pytest.raises(ValueError, match="read-only"):
            tw.tiled_cholesky(windows, overwrite_a=True)

    @pytest.mark.parametrize("kind", ["reversed", "strided", "in a record", "big-endian", "list", "tensor, conjugate"])
    def test_what_cannot_be_overwritten_in_place_gives_the_factor_all_the_same(self, kind):
        given = GOOD[kind](A)
        assert np.allclose(tw.tiled_cholesky(given, overwrite_a=True), L)

    def test_overlap_is_found_exactly(self):
        raw = np.zeros(100)
        for shape in ((2, 3), (3, 2), (4, 4), (1, 4), (2, 2)):
            for steps in ((s, t) for s in range(5) for t in range(5)):
                view = np.lib.stride_tricks.as_strided(raw, shape, tuple(8 * s for s in steps))
                places = [i * steps[0] + j * steps[1] for i in range(shape[0]) for j in range(shape[1])]
                assert overlaps(view) == (len(set(places)) < len(places)), (shape, steps)


class TestFlags:
    def test_true_and_false_are_flags_and_strings_are_not(self):
        assert flag(True, "x") and not flag(np.False_, "x") and flag(1, "x")
        for value in ("L", None, 2, [True], np.array([True, False])):
            with pytest.raises(TypeError, match=r"lower must be True or False, not "):
                flag(value, "lower")

    @pytest.mark.parametrize(
        "call",
        [
            lambda: tw.tiled_cholesky(A, lower="L"),
            lambda: tw.solve(A, b, lower="L"),
            lambda: tw.cho_solve(L, b, lower="L"),
            lambda: tw.cho_inverse(L, lower="L"),
        ],
    )
    def test_lower_is_a_flag(self, call):
        with pytest.raises(TypeError, match="lower must be True or False, not 'L'"):
            call()

    @pytest.mark.parametrize("precision", [None, "fp64", "fp32", "tf32"])
    def test_a_route_without_narrow_products_is_refused(self, precision):
        with pytest.raises(ValueError, match="route='cblas' is for products with 16-bit operands"):
            tw.tiled_cholesky(A, precision=precision, route="cblas")


def test_order_and_memory_are_kept_where_kernels_can_read_them():
    for array in (A, np.asfortranarray(A), np.zeros((8, 8))[::2, :4], read_only(A)):
        assert dense(array, "a") is array
    assert dense(np.asfortranarray(A).astype(">f8"), "a").flags.f_contiguous
    assert dense(reversed_view(A), "a").flags.c_contiguous and dense(in_record(A), "a").flags.aligned
    assert numbers(np.ones(2, bool), "x").dtype == float
    assert isinstance(like(b, torch.ones(1)), torch.Tensor) and like(b, b) is b
