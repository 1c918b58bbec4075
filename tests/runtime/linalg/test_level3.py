"""gemm, syrk, herk, trmm, trsm, lauum, potri: values against NumPy, bits over engines, kinds, refusals; their graphs."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matrices import DTYPES, norm1, random_matrix, roundoff, spd_matrix
from optional import da, torch

import tilewright as tw

ENGINES = [
    "serial",
    "threads",
    pytest.param("mpi", marks=pytest.mark.needs("mpi4py")),
    pytest.param("dask", marks=pytest.mark.needs("distributed")),
]
SIZES = [(0, 3, 2, 4), (1, 1, 1, 3), (7, 5, 9, 3), (8, 8, 8, 4), (5, 7, 0, 3), (9, 2, 4, 20)]  # m, n, k, nb


def op(a, flag):
    return {"N": a, "T": a.T, "C": a.conj().T}[flag]


def scalars(dtype):
    return (2.0, -0.5) if np.dtype(dtype).kind != "c" else (2 - 1j, 0.5j)


def close(found, wanted, k, dtype, *sizes):
    bound = 20 * (k + 1) * roundoff(dtype) * np.prod([norm1(np.abs(size)) + 1 for size in sizes])
    return np.shape(found) == np.shape(wanted) and norm1(np.asarray(found) - wanted) <= bound


def triangular(n, dtype, uplo="L", diag="N"):
    a = (random_matrix(n, n, dtype, 5) / 4 + 2 * np.eye(n)).astype(dtype)
    t = np.tril(a) if uplo == "L" else np.triu(a)
    if diag == "U":
        np.fill_diagonal(t, 1)
    return a, t


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("flags", ["NN", "TN", "NC", "CT", "TT"])
def test_gemm_of_every_shape_and_tile_size(dtype, flags):
    alpha, beta = scalars(dtype)
    for m, n, k, nb in SIZES:
        a = random_matrix(*((m, k) if flags[0] == "N" else (k, m)), dtype, 1)
        b = random_matrix(*((k, n) if flags[1] == "N" else (n, k)), dtype, 2)
        c = random_matrix(m, n, dtype, 3)
        how = {"trans_a": flags[0], "trans_b": flags[1].lower(), "tile_size": nb, "workers": 2}
        exact = op(a, flags[0]) @ op(b, flags[1])
        plain = tw.gemm(a, b, **how)
        assert plain.dtype == dtype and close(plain, exact, k, dtype, a, b)
        kept = c.copy()
        assert close(tw.gemm(a, b, c, alpha=alpha, beta=beta, **how), alpha * exact + beta * c, k, dtype, a, b)
        assert np.array_equal(c, kept)
        for order in "CF":
            into = c.copy(order=order)
            assert tw.gemm(a, b, into, alpha=alpha, beta=beta, overwrite_c=True, **how) is into or not into.size
            assert close(into, alpha * exact + beta * c, k, dtype, a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("uplo", "LU")
def test_syrk_and_herk_change_one_triangle(dtype, uplo):
    for (n, k, nb), plain in product(((0, 2, 2), (1, 1, 3), (7, 5, 3), (8, 4, 4), (5, 0, 2)), (True, False)):
        a = random_matrix(*((n, k) if plain else (k, n)), dtype, 1)
        c = random_matrix(n, n, dtype, 3)
        inside = np.tri(n, dtype=bool) if uplo == "L" else np.tri(n, dtype=bool).T
        for call, conj in ((tw.syrk, False), (tw.herk, True)):
            alpha, beta = (2.0, -0.5) if conj else scalars(dtype)
            trans = "N" if plain else "C" if conj else "T"
            of = op(a, trans)
            exact = of @ (of.conj().T if conj else of.T)
            start = np.array(c)
            if conj:
                np.fill_diagonal(start, start.diagonal().real)
            how = {"uplo": uplo, "trans": trans, "tile_size": nb, "workers": 2}
            found = call(a, **how)
            assert close(found, np.where(inside, exact, 0), k, dtype, a, a)
            wanted = np.where(inside, alpha * exact + beta * start, start)
            assert close(call(a, start, alpha=alpha, beta=beta, **how), wanted, k, dtype, a, a)
            into = start.copy()
            assert call(a, into, alpha=alpha, beta=beta, overwrite_c=True, **how) is into or not n
            assert close(into, wanted, k, dtype, a, a) and np.array_equal(into[~inside], start[~inside])
            into = start.copy()
            call(a, into, overwrite_c=True, **how)  # beta = 0: the other triangle stays
            assert close(into, np.where(inside, exact, start), k, dtype, a, a)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("side", "uplo", "diag"), list(product("LR", "LU", "NU")))
def test_trmm_and_trsm_from_both_sides(dtype, side, uplo, diag):
    alpha, _ = scalars(dtype)
    for (n, k, nb), trans in product(((0, 2, 2), (1, 1, 3), (7, 5, 3), (8, 4, 4)), "NTC"):
        a, t = triangular(n, dtype, uplo, diag)
        b = random_matrix(*((n, k) if side == "L" else (k, n)), dtype, 2)
        of = op(t, trans)
        how = {"side": side, "uplo": uplo, "trans": trans, "diag": diag, "alpha": alpha, "tile_size": nb, "workers": 2}
        exact = alpha * (of @ b if side == "L" else b @ of)
        assert close(tw.trmm(a, b, **how), exact, n, dtype, t, b)
        x = tw.trsm(a, b, **how)
        assert close(of @ x if side == "L" else x @ of, alpha * b, n, dtype, t, x)
        for call, wanted in ((tw.trmm, tw.trmm(a, b, **how)), (tw.trsm, x)):
            into = b.copy()
            assert (call(a, into, overwrite_b=True, **how) is into or not n) and np.array_equal(into, wanted)


def test_vectors_are_vectors():
    a, t = triangular(7, "float64")
    b = random_matrix(7, 1, seed=2)[:, 0]
    assert np.allclose(t @ tw.trsm(a, b, tile_size=3), b) and tw.trmm(a, b, tile_size=3).shape == (7,)
    with pytest.raises(ValueError, match="b must be a matrix for side 'R', not a vector"):
        tw.trsm(a, b, side="R")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("uplo", "LU")
def test_lauum_and_potri(dtype, uplo):
    for n, nb in ((0, 2), (1, 3), (7, 3), (8, 4), (20, 6)):
        a, t = triangular(n, dtype, uplo)
        part = np.tril if uplo == "L" else np.triu
        wanted = part(t.conj().T @ t if uplo == "L" else t @ t.conj().T)
        found = tw.lauum(a, uplo=uplo, tile_size=nb, workers=2)
        assert found.dtype == dtype and close(found, wanted, n, dtype, t, t)
        spd = spd_matrix(n, dtype)
        factor = np.linalg.cholesky(spd) if n else spd
        given = (factor if uplo == "L" else factor.conj().T).astype(dtype)
        inverse = tw.potri(given, uplo=uplo, tile_size=nb, workers=2)
        assert np.array_equal(inverse, part(inverse))
        whole = part(inverse, -1 if uplo == "L" else 1) if n else inverse
        whole = inverse + whole.conj().T
        assert norm1(np.eye(n) - whole @ spd) <= 30 * max(n, 1) * roundoff(dtype) * norm1(whole) * norm1(spd)
        assert tw.potri(given, uplo=uplo, tile_size=nb, overwrite_a=True) is given or not n
        assert np.array_equal(given, inverse)


def test_a_singular_factor_is_refused_with_its_place():
    factor = np.diag([1.0, 2.0, 0.0, 3.0])
    with pytest.raises(np.linalg.LinAlgError, match=r"the factor a is singular: its diagonal is zero at \(2, 2\)"):
        tw.potri(factor, tile_size=2)


CALLS = {
    "gemm": lambda **how: tw.gemm(A, B, C, alpha=2, beta=-1, trans_a="C", **how),
    "syrk": lambda **how: tw.syrk(A, **how),
    "herk": lambda **how: tw.herk(A, SQUARE, beta=0.5, uplo="U", trans="C", **how),
    "trmm": lambda **how: tw.trmm(SQUARE, B, trans="T", uplo="U", **how),
    "trsm": lambda **how: tw.trsm(SQUARE, C, side="R", diag="U", **how),
    "lauum": lambda **how: tw.lauum(SQUARE, **how),
    "potri": lambda **how: tw.potri(SQUARE, **how),
}
A, B, C = (random_matrix(22, 22, "complex64", seed) for seed in range(3))
SQUARE = (A / 8 + 2 * np.eye(22)).astype("complex64")


@pytest.mark.parametrize("backend", ENGINES)
@pytest.mark.parametrize("name", CALLS)
def test_bits_are_those_of_every_engine(name, backend):
    wanted = CALLS[name](tile_size=6, backend="serial")
    found, run = CALLS[name](tile_size=6, backend=backend, workers=2, return_run=True)
    assert np.array_equal(found, wanted) and run.backend == backend


@pytest.mark.needs("distributed")
@pytest.mark.parametrize("name", ["gemm", "trsm", "syrk"])
def test_dask_arrays_stay_on_the_workers(name):
    chunked = [da.from_array(x, chunks=(10, 7)) for x in (A.real.copy(), B.real.copy(), SQUARE.real.copy())]
    call = {
        "gemm": lambda a, b, t, **how: tw.gemm(a, b, trans_b="T", **how),
        "trsm": lambda a, b, t, **how: tw.trsm(t, b, **how),
        "syrk": lambda a, b, t, **how: tw.syrk(a, b, beta=2, **how),
    }[name]
    wanted = call(A.real.copy(), B.real.copy(), SQUARE.real.copy(), tile_size=6)
    found = call(*chunked, tile_size=6, workers=2)
    assert isinstance(found, da.Array) and np.array_equal(found.compute(), wanted)
    mixed = call(chunked[0], B.real.copy(), chunked[2], tile_size=6, workers=2)
    assert isinstance(mixed, da.Array) and np.array_equal(mixed.compute(), wanted)


def test_tiled_matrices_and_tensors_come_back_as_such():
    a, b = A.real.copy(), B.real.copy()
    wanted = tw.gemm(a, b, tile_size=6)
    tiles = tw.TiledMatrix.from_numpy(a, 6)
    found = tw.gemm(tiles, b)
    assert isinstance(found, tw.TiledMatrix) and found.tile_size == 6 and np.array_equal(found.to_numpy(), wanted)
    other = tw.gemm(tiles, tw.TiledMatrix.from_numpy(b, 4))  # cut anew
    assert np.array_equal(other.to_numpy(), wanted)
    into = tw.TiledMatrix.from_numpy(b, 6)
    assert tw.gemm(tiles, b, into, overwrite_c=True) is into and np.array_equal(into.to_numpy(), wanted)
    if torch is not None:
        assert np.array_equal(tw.gemm(torch.from_numpy(a), torch.from_numpy(b), tile_size=6).numpy(), wanted)


def test_what_is_overwritten_may_be_read_too():
    a = A.real.copy()
    wanted = tw.gemm(a, a, a, beta=1, trans_a="T", tile_size=6)
    given = a.copy()
    assert tw.gemm(given, given, given, beta=1, trans_a="T", overwrite_c=True, tile_size=6) is given
    assert np.array_equal(given, wanted)
    given = SQUARE.copy()
    wanted = tw.trsm(SQUARE, SQUARE, tile_size=6)
    assert np.array_equal(tw.trsm(given, given, overwrite_b=True, tile_size=6), wanted)


def test_refusals():
    a, b = np.ones((4, 3)), np.ones((4, 5))
    for call, error, words in (
        (lambda: tw.gemm(a, b), ValueError, r"op\(A\) of shape \(4, 3\) and op\(B\) of shape \(4, 5\) do not fit"),
        (lambda: tw.gemm(a, b, trans_a="X"), ValueError, "trans_a must be one of 'N', 'T', 'C', not 'X'"),
        (lambda: tw.gemm(a, b, trans_a="T", beta=1), ValueError, "beta is for a matrix c, and there is none"),
        (lambda: tw.gemm(a, b, np.ones((2, 2)), trans_a="T"), ValueError, r"the matrix c must be 3 x 5, not of shape"),
        (lambda: tw.gemm(a, b, trans_a="T", alpha="2"), TypeError, "alpha must be a number, not '2'"),
        (
            lambda: tw.gemm(a, a, np.ones((3, 3), "float32"), trans_a="T", alpha=1j, overwrite_c=True),
            TypeError,
            "overwrite_c=True, but the matrix c of float32 cannot hold numbers of complex128",
        ),
        (lambda: tw.herk(a, alpha=1j), TypeError, "alpha of a Hermitian matrix must be real, not 1j"),
        (lambda: tw.syrk(a, trans="C"), ValueError, "trans must be one of 'N', 'T', not 'C'"),
        (lambda: tw.trsm(a, b), ValueError, r"the matrix a must be square, not of shape \(4, 3\)"),
        (lambda: tw.trsm(np.eye(3), b), ValueError, "b has 4 rows, but the matrix a is of order 3"),
        (lambda: tw.trmm(np.eye(4), b, side="R"), ValueError, "b has 5 columns, but the matrix a is of order 4"),
        (lambda: tw.gemm(None, b), TypeError, "the matrix a is None"),
        (lambda: tw.gemm(a.astype("float16"), b, trans_a="T"), TypeError, "float16"),
    ):
        with pytest.raises(error, match=words):
            call()


@given(
    st.tuples(*[st.integers(0, 9)] * 3), st.integers(1, 5), st.integers(1, 5), st.sampled_from(["serial", "threads"])
)
def test_tiles_of_other_sizes_are_cut_anew(shape, one, two, backend):
    m, n, k = shape
    a, b = random_matrix(m, k, seed=1), random_matrix(k, n, seed=2)
    found = tw.gemm(tw.TiledMatrix.from_numpy(a, one), tw.TiledMatrix.from_numpy(b, two), backend=backend, workers=2)
    assert found.tile_size == one and np.allclose(found.to_numpy(), a @ b)


@pytest.mark.parametrize("t", range(6))
def test_graphs_have_the_tasks_the_work_and_the_paths_of_the_formulas(t):
    g = tw.gemm_graph(t, 3, 2)
    assert len(g) == 6 * t and g.work() == 36 * t and g.critical_path().length == (12 if t else 0)
    g = tw.syrk_graph(t, 2, "U", "T")
    assert len(g) == t * (t + 1) and g.work() == 6 * t * t
    for call, flag in product((tw.trsm_graph, tw.trmm_graph), "NTC"):
        g = call(t, 2, "R", "U", flag)
        assert len(g) == t * (t + 1) and g.work() == 6 * t * t
    assert tw.trsm_graph(t, 2).critical_path().length == (9 * t - 6 if t else 0)
    g = tw.lauum_graph(t)
    assert len(g) == t * (t + 1) * (t + 2) // 6 and g.work() == t**3
    g = tw.potri_graph(t)
    assert len(g) == t * (t + 1) * (t + 2) // 3 and g.work() == 2 * t**3


def test_potri_is_one_graph_without_a_barrier():
    apart = tw.lauum_graph(8).critical_path().length
    both = tw.potri_graph(8).critical_path().length
    g = tw.TaskGraph()
    from tilewright.linalg.triangular import invert

    invert(g, g.handles("A"), 8)
    assert both < g.critical_path().length + apart


def test_graphs_run_on_data_and_simulate():
    a, b = random_matrix(7, 5, seed=1), random_matrix(5, 4, seed=2)
    tiles = [tw.TiledMatrix.view(x, 3) for x in (a, b, np.zeros((7, 4)))]
    tw.run(tw.gemm_graph(3, 2, 2), dict(zip("ABC", tiles, strict=True)), workers=2)
    assert np.allclose(tiles[2].to_numpy(), a @ b)
    assert tw.simulate(tw.gemm_graph(4, 4, 4), tw.Machine(workers=4)).makespan == 96
    with pytest.raises(ValueError, match="mt must not be negative"):
        tw.gemm_graph(-1, 2, 2)
    with pytest.raises(ValueError, match="more than a graph can hold"):
        tw.gemm_graph(10**4, 10**4, 10**4)
