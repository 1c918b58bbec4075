"""tri_inverse: LAPACK's test ratio, kinds of input, engines, bad input."""

import numpy as np
import pytest
from matrices import DTYPES, norm1, random_matrix, roundoff
from optional import da, torch

import tilewright as tw
from tilewright.arguments import is_tensor
from tilewright.linalg.residual import THRESHOLD
from tilewright.linalg.triangle import triangle_graph
from tilewright.linalg.triangular import invert

N, NB = 101, 24


def matrix(dtype="float64", n=N, seed=0):
    """Both triangles of it are well conditioned."""
    return (random_matrix(n, n, dtype, seed) / 10 + 2 * np.eye(n)).astype(dtype)


def meant(a, lower, unit):
    """The triangle that is inverted."""
    t = np.tril(a) if lower else np.triu(a)
    if unit:
        np.fill_diagonal(t, 1)
    return t


def ratio(t, inverse):
    """||I - T X||_1 / (n ||T||_1 ||X||_1 u): LAPACK, TESTING/LIN/dtrt01.f, divides by ||X|| as well."""
    n = len(t)
    return norm1(np.eye(n) - inverse @ t) / (n * norm1(t) * norm1(inverse) * roundoff(str(t.dtype)))


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_ratio_is_that_of_lapack_for_every_number_of_tiles(library, dtype, lower, unit):
    for n, nb in ((1, 1), (5, 2), (24, 24), (50, 7), (N, NB)):
        a = matrix(dtype, n, n)
        given = a.copy()
        if unit:
            np.fill_diagonal(given, np.nan)  # nobody reads it
        given[np.triu_indices(n, 1) if lower else np.tril_indices(n, -1)] = 9
        inverse = tw.tri_inverse(given, lower=lower, unit_diagonal=unit, tile_size=nb, check_finite=not unit)
        t = meant(a, lower, unit)
        assert inverse.dtype == dtype and ratio(t, inverse) < THRESHOLD
        assert np.array_equal(inverse, np.tril(inverse) if lower else np.triu(inverse))


@pytest.mark.parametrize("t", range(7))
def test_graph_has_as_many_tasks_as_cholesky_and_a_path_through_all_diagonal_tiles(t):
    g = tw.TaskGraph()
    invert(g, g.handles("A"), t)
    assert len(g) == t * (t + 1) * (t + 2) // 6
    assert g.work() == sum({"trtri": 1, "gemml": 6}.get(task.op.name, 3) for task in g)
    assert len({h for task in g for h in task.writes}) == t * (t + 1) // 2


@pytest.mark.parametrize(
    "backend",
    [
        "serial",
        "threads",
        pytest.param("mpi", marks=pytest.mark.needs("mpi4py")),
        pytest.param("dask", marks=pytest.mark.needs("distributed")),
    ],
)
def test_bits_are_those_of_every_engine(backend):
    a = matrix()
    wanted = tw.tri_inverse(a, tile_size=NB, backend="serial")
    got, run = tw.tri_inverse(a, tile_size=NB, backend=backend, workers=2, return_run=True)
    assert np.array_equal(got, wanted) and run.backend == backend
    assert run.graph.name == "invert nt=5"


@pytest.mark.parametrize("lower", [False, True])
def test_bits_do_not_depend_on_kind_and_layout_and_in_place_works(lower):
    a = matrix()
    wanted = tw.tri_inverse(a, lower=lower, tile_size=NB)
    for order in "CF":
        given = a.copy(order=order)
        assert tw.tri_inverse(given, lower=lower, tile_size=NB, overwrite_a=True) is given
        assert np.array_equal(given, wanted)
    tiles = tw.TiledMatrix.from_numpy(a, NB)
    found = tw.tri_inverse(tiles, lower=lower)
    assert isinstance(found, tw.TiledMatrix) and np.array_equal(found.to_numpy(), wanted)
    assert tw.tri_inverse(tiles, lower=lower, overwrite_a=True) is tiles
    assert np.array_equal(tiles.to_numpy(), wanted)
    assert np.array_equal(tw.tri_inverse(3 * np.eye(4, dtype=int), lower=lower), np.eye(4) / 3)
    assert tw.tri_inverse(np.zeros((0, 0)), lower=lower).shape == (0, 0)


@pytest.mark.needs("torch")
def test_tensors_give_tensors(monkeypatch):
    a = matrix()
    wanted = tw.tri_inverse(a, tile_size=NB)
    found = tw.tri_inverse(torch.from_numpy(a), tile_size=NB)
    assert torch.is_tensor(found) and np.array_equal(found.numpy(), wanted)
    monkeypatch.setattr("tilewright.linalg.call.is_device_tensor", is_tensor)  # as one on a GPU
    for lower in (True, False):
        for unit in (True, False):
            t = meant(a, lower, unit)
            for nb in (None, NB):
                given = torch.from_numpy(a.copy())
                there, run = tw.tri_inverse(given, lower=lower, unit_diagonal=unit, tile_size=nb, return_run=True)
                assert ratio(t, there.numpy()) < THRESHOLD
                assert len(run.graph) == (3 if nb is None else 5 * 6 * 7 // 6 + 15 + 5)
                assert set(run.kernels.values()) == {"tensor"}
            assert tw.tri_inverse(given, lower=lower, unit_diagonal=unit, overwrite_a=True) is given
            assert ratio(t, given.numpy()) < THRESHOLD
    a[7, 3] = np.inf
    with pytest.raises(ValueError, match=r"the matrix a has a NaN or infinity at \(7, 3\)"):
        tw.tri_inverse(torch.from_numpy(a))


@pytest.mark.needs("distributed")
@pytest.mark.parametrize("lower", [False, True])
def test_dask_arrays_give_dask_arrays(lower):
    a = matrix()
    wanted = tw.tri_inverse(a, lower=lower, tile_size=NB)
    found = tw.tri_inverse(da.from_array(a, chunks=(40, 30)), lower=lower, tile_size=NB, workers=2)
    assert found.chunks == da.from_array(a, chunks=(40, 30)).chunks
    assert np.array_equal(found.compute(), wanted)
    assert np.array_equal(tw.tri_inverse(da.from_array(a), lower=lower, tile_size=NB, backend="serial"), wanted)


@pytest.mark.parametrize("lower", [False, True])
def test_singular_matrices_and_numbers_that_are_none_are_named_by_place(lower):
    a = matrix()
    a[[60, 30], [60, 30]] = 0
    for overwrite in (False, True):
        given = a.copy()
        with pytest.raises(
            np.linalg.LinAlgError, match=r"the matrix a is singular: its diagonal is zero at \(30, 30\)"
        ):
            tw.tri_inverse(given, lower=lower, tile_size=NB, overwrite_a=overwrite)
        assert np.array_equal(given, a)
    assert np.isfinite(tw.tri_inverse(a, lower=lower, unit_diagonal=True, tile_size=NB)).all()
    place = (70, 12) if lower else (12, 70)
    a[place] = np.nan
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=rf"NaN or infinity at \({place[0]}, {place[1]}\); check_finite=False"):
            tw.tri_inverse(a.copy(), lower=lower, tile_size=NB, overwrite_a=overwrite, unit_diagonal=True)
    a[place] = 0
    a[place[::-1]] = np.nan  # the other triangle is not read
    assert np.isfinite(tw.tri_inverse(a, lower=lower, unit_diagonal=True, tile_size=NB)).all()


def test_a_zero_that_only_a_task_sees_is_named_with_its_global_place():
    a = matrix()
    a[30, 30] = 0
    graph = triangle_graph(invert, 5, True, "", False, (False,))
    with pytest.raises(np.linalg.LinAlgError, match=r"trtri\(1\): the matrix is singular: .* zero at \(30, 30\)"):
        tw.run(graph, {"A": tw.TiledMatrix.view(a, NB)}, backend="serial")
