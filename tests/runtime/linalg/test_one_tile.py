"""Small matrices, which are factored without a graph: as if they were factored with one."""

import numpy as np
import pytest

import tilewright as tw
from tests.matrices import spd_matrix as spd
from tilewright.kernels import blas, choice, table, threads
from tilewright.linalg import one_tile
from tilewright.linalg.tuning import ONE_TILE

DTYPES = ("float32", "float64", "complex64", "complex128")
SIZES = (1, 2, 63, 64, 65, 200)


def by_a_graph(a, **how):
    """The factor by way of the graph."""
    return tw.tiled_cholesky(a, return_run=True, **how)[0]


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_factor_has_the_bits_and_the_layout_of_the_graph(dtype, n, order, lower):
    a = np.array(spd(n, dtype), order=order)
    wanted = by_a_graph(a, lower=lower)
    for how in ({}, {"backend": "serial"}, {"workers": 3}, {"check_finite": False}, {"scheduler": "lifo"}):
        found = tw.tiled_cholesky(a, lower=lower, **how)
        assert np.array_equal(found, wanted) and found.dtype == wanted.dtype and found.strides == wanted.strides
    work = a.copy(order="K")
    assert tw.tiled_cholesky(work, lower=lower, overwrite_a=True) is work
    assert np.array_equal(work, wanted)


def test_no_graph_is_run_for_a_plain_small_array(monkeypatch):
    a = spd(ONE_TILE, "float64")

    def refuse(*args, **kwargs):
        raise AssertionError("a graph was run")

    monkeypatch.setattr("tilewright.linalg.call.run", refuse)
    L = tw.tiled_cholesky(a)
    assert np.allclose(L @ L.T, a) and np.array_equal(L, np.tril(L))
    for rest in ({"return_run": True}, {"tile_size": 100}, {"progress": True}):
        with pytest.raises(AssertionError, match="a graph was run"):
            tw.tiled_cholesky(a, **rest)


def failure(call):
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    error = caught.value
    return type(error), str(error), getattr(error, "order", None), getattr(error, "__notes__", [])


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("place", [(0, 0), (40, 40), (69, 69), (50, 3), (69, 0)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1e30])
def test_errors_are_those_of_the_graph(value, place, lower, in_place):
    a = np.array(spd(70, "float64"))
    i, j = place if lower else place[::-1]
    a[i, j] = value
    how = {"lower": lower, "overwrite_a": in_place}
    found = failure(lambda: tw.tiled_cholesky(a.copy(), **how))
    assert found == failure(lambda: tw.tiled_cholesky(a.copy(), return_run=True, **how))
    assert found[0] is (ValueError if not np.isfinite(value) else tw.NotPositiveDefiniteError)


def test_what_stands_in_the_other_triangle_does_not_matter():
    a = np.array(spd(100, "float64"))
    wanted = tw.tiled_cholesky(a)
    a[np.triu_indices(100, 1)] = np.nan
    assert np.array_equal(tw.tiled_cholesky(a), wanted)


@pytest.mark.parametrize("wrong", [{"scheduler": "no"}, {"workers": 0}, {"backend": "no"}, {"workers": 1.5}, {"no": 1}])
def test_wrong_arguments_are_refused_as_for_large_matrices(wrong):
    small, large = spd(20, "float64"), spd(ONE_TILE + 1, "float64")
    assert failure(lambda: tw.tiled_cholesky(small, **wrong)) == failure(lambda: tw.tiled_cholesky(large, **wrong))


@pytest.mark.parametrize("n", [1, 64, 65, 130])
def test_only_the_lower_triangle_is_copied(n):
    source, target = np.ones((n, n)), np.zeros((n, n))
    one_tile._copy_lower(source, target)
    assert np.array_equal(target, np.tri(n))


def test_settings_of_threads_are_as_they_were_afterwards(library):
    settings = [setting for one in blas.loaded() for setting in one.threads]
    before = [setting.get() for setting in settings]

    def held():
        return [setting.get() for setting in library.threads]

    with threads.one_call(library.name):
        assert held() == [1] * len(library.threads)
        with pytest.raises(ZeroDivisionError), threads.one_call(library.name):
            raise ZeroDivisionError
        assert held() == [1] * len(library.threads)  # the inner one leaves it to the outer one
        with threads.limits(functions=False), threads.one_thread():
            assert held() == [1] * len(library.threads)
        assert held() == [1] * len(library.threads)
    assert [setting.get() for setting in settings] == before


def test_rows_that_are_remembered_follow_the_choice_of_library_and_new_rows(restore_blas):
    names = [name for name, found in blas.available().items() if isinstance(found, blas.Library)]
    for name in names * 2:
        choice.use(name)
        assert table.plain("potrf", "float64") == table.lookup("potrf", "cpu", "float64", "float64")
        assert table.plain("potrf", "float64").source == name
