"""An m x n matrix as the argument of a routine: the same tiles and places, and a result of the kind that was given."""

import numpy as np
import pytest
from matrices import DTYPES, random_matrix
from optional import torch

import tilewright as tw
from tilewright import RW, R, TaskGraph, TiledMatrix, W
from tilewright.linalg.by_columns import ByColumns
from tilewright.linalg.call import Call
from tilewright.linalg.matrix import Matrix

M, N, NB = 7, 5, 3
KINDS = {
    "by rows": lambda a: np.array(a, order="C"),
    "by columns": lambda a: np.array(a, order="F"),
    "every other": lambda a: np.repeat(np.repeat(a, 2, 0), 2, 1)[::2, ::2],
    "backwards": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "packed tiles": lambda a: TiledMatrix.from_numpy(a, NB),
    "tiles of a view": lambda a: TiledMatrix.view(a.copy(), NB),
    "tensor": lambda a: torch.from_numpy(a.copy()),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def values(a):
    return a.numpy() if tw.arguments.is_tensor(a) else np.asarray(a)


def doubled(matrix, tile_size=NB):
    """The result of a routine that doubles a matrix, tile by tile."""
    source = matrix.source(tile_size)
    target = matrix.target()
    for place in source:
        target[place][...] = 2 * source[place]
    return matrix.result(target)


@kinds
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [Matrix, ByColumns])
def test_tiles_to_read_are_those_of_the_matrix_and_the_result_is_of_its_kind(make, dtype, kind):
    a = random_matrix(M, N, dtype)
    given = KINDS[kind](a)
    matrix = make(given)
    source = matrix.source(NB)
    assert (matrix.shape, matrix.dtype, source.tile_size) == ((M, N), np.dtype(dtype), NB)
    assert np.array_equal(source.to_numpy(), a)
    result = doubled(matrix)
    assert type(result) is (np.ndarray if isinstance(given, np.ndarray) else type(given))
    assert np.array_equal(values(result), 2 * a) and values(result).dtype == dtype
    assert np.array_equal(values(given), a), "what was given is as it was"


@kinds
@pytest.mark.parametrize("make", [Matrix, ByColumns])
def test_what_may_be_overwritten_has_the_result_where_the_routine_works_in_place(make, kind):
    a = random_matrix(M, N)
    given = KINDS[kind](a)
    matrix = make(given, overwrite=True)
    result = doubled(matrix)
    assert np.array_equal(values(result), 2 * a)
    # Matrix works by rows, and what lies otherwise gets its result back; ByColumns leaves it, as SciPy does. Neither
    # works on a matrix with negative strides, but on a copy.
    assert (result is given) == (kind != "backwards" if make is Matrix else kind == "by columns")
    assert np.array_equal(values(given), 2 * a if result is given else a)


@pytest.mark.parametrize("make", [Matrix, ByColumns])
@pytest.mark.parametrize("dtype", ["int32", "bool", ">f8"])
def test_other_numbers_become_native_floats_and_are_never_overwritten(make, dtype):
    a = np.arange(M * N).reshape(M, N).astype(dtype)
    matrix = make(a, overwrite=True)
    result = doubled(matrix)
    assert result is not a and result.dtype == np.float64 and result.dtype.isnative
    assert np.array_equal(result, 2.0 * a) and np.array_equal(a, np.arange(M * N).reshape(M, N).astype(dtype))


@kinds
@pytest.mark.parametrize("place", [(0, 4), (6, 0), (3, 3), (6, 4)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_number_that_is_not_finite_is_named_wherever_it_is(kind, place, bad):
    a = random_matrix(M, N)
    a[place] = bad
    matrix = Matrix(KINDS[kind](a), what="the matrix q")
    matrix.source(NB)
    with pytest.raises(ValueError, match=rf"matrix q has a NaN or infinity at \({place[0]}, {place[1]}\)"):
        matrix.check_finite()


def test_what_is_no_matrix_is_refused_in_its_name():
    for wrong, error, sentence in (
        (np.zeros(3), ValueError, r"the matrix q must be 2-D, not of shape \(3,\)"),
        (np.zeros((2, 2, 2)), ValueError, r"the matrix q must be 2-D, not of shape \(2, 2, 2\)"),
        (np.zeros((2, 2), "f2"), TypeError, "float16"),
    ):
        with pytest.raises(error, match=sentence):
            Matrix(wrong, what="the matrix q")
    with pytest.raises(ValueError, match="the matrix q must be square, not 2 x 3"):
        ByColumns(np.zeros((2, 3)), square=True, what="the matrix q")
    with pytest.raises(ValueError, match="tile_size=2, but the TiledMatrix has tiles of 3"):
        Matrix(TiledMatrix.from_numpy(np.zeros((5, 5)), 3)).source(2)
    frozen = np.zeros((2, 2))
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="overwrite_a=True, but the matrix a is read-only"):
        Matrix(frozen, overwrite=True)


def double(source, target):
    np.multiply(source, 2, out=target)


def clear(tile):
    tile[...] = 0


@pytest.mark.needs("distributed")
class TestChunks:
    """All of a rectangular dask.array, not a triangle of a square one."""

    @staticmethod
    def chunks(a, chunks, by_columns=False, **options):
        import dask.array as da

        x = da.from_array(a, chunks=chunks)
        call = Call(tw.norm, x, options, workers=2, chunks=True)
        return call, call.by_columns() if by_columns else call.matrix(), x

    @pytest.mark.parametrize("by_columns", [False, True])
    @pytest.mark.parametrize(("shape", "cut"), [((M, N), (2, 4)), ((N, M), ((1, 4), (7,))), ((M, N), (3, 3))])
    def test_every_tile_is_read_and_the_result_has_the_chunks_that_were_given(self, shape, cut, by_columns):
        a = random_matrix(*shape)
        call, matrix, x = self.chunks(a, cut, by_columns)
        source = matrix.source(NB)
        assert matrix.shape == shape and set(source.pieces) == set(source)
        for place, piece in source.pieces.items():
            assert np.array_equal(piece.future.result(), TiledMatrix.view(a, NB)[place]), place
        target = matrix.target()
        g = TaskGraph("double")
        S, T = g.handles("S"), g.handles("A")
        for place in source:
            g.insert(double, R(S[place]), W(T[place]))
        g.insert(clear, RW(T[0, 1]))  # above the diagonal
        call.run(g, {"S": source, "A": target})
        result = matrix.result(target)
        wanted = 2 * a
        wanted[:NB, NB : 2 * NB] = 0
        assert result.chunks == x.chunks and result.dtype == a.dtype and np.array_equal(result.compute(), wanted)

    def test_integers_become_float64(self):
        a = np.arange(M * N).reshape(M, N)
        _, matrix, _ = self.chunks(a, (4, 4))
        assert matrix.dtype == np.float64 and matrix.source(NB).pieces[1, 1].future.result().dtype == np.float64

    @pytest.mark.parametrize("place", [(0, 4), (6, 0), (3, 3)])
    def test_the_first_number_that_is_not_finite_is_named_wherever_it_is(self, place):
        a = random_matrix(M, N)
        a[place] = np.nan
        _, matrix, _ = self.chunks(a, (4, 2))
        matrix.source(NB)
        with pytest.raises(ValueError, match=rf"matrix a has a NaN or infinity at \({place[0]}, {place[1]}\); check_f"):
            matrix.check_finite()

    def test_they_cannot_be_overwritten(self):
        import dask.array as da

        call = Call(tw.norm, da.zeros((M, N), chunks=2), {}, workers=2, chunks=True)
        with pytest.raises(ValueError, match="a dask.array cannot be overwritten; pass overwrite_a=False"):
            call.matrix(overwrite=True)
        with pytest.raises(ValueError, match=f"the matrix a must be square, not {M} x {N}"):
            call.by_columns(square=True)
