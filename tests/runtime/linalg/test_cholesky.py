"""tiled_cholesky as users call it: kinds of input, what is read and written, and errors before any task runs."""

import sys

import numpy as np
import pytest
from matrices import DTYPES, spd_matrix
from optional import torch

import tilewright as tw
from tilewright import TiledMatrix
from tilewright.host.cores import cores

N, NB = 23, 6
RIGHT = np.linalg.cholesky(spd_matrix(N))


def close(factor, wanted=RIGHT):
    return np.allclose(factor, wanted, rtol=1e-12, atol=1e-12)


def layouts(a):
    """The same matrix in every memory layout NumPy has."""
    n = len(a)
    large = np.zeros((2 * n, 3 * n), a.dtype)
    large[::2, ::3] = a
    tile = np.zeros((n + 4, n + 6), a.dtype)
    tile[2:-2, 3:-3] = a
    read_only = a.copy()
    read_only.flags.writeable = False
    return {
        "C": np.ascontiguousarray(a),
        "F": np.asfortranarray(a),
        "part of a larger C array": tile[2:-2, 3:-3],
        "part of a larger F array": np.asfortranarray(tile)[2:-2, 3:-3],
        "strided both ways": large[::2, ::3],
        "reversed": a[::-1, ::-1].copy()[::-1, ::-1],
        "read-only": read_only,
        "other byte order": a.astype(a.dtype.newbyteorder()),
        "unaligned": np.frombuffer(b"x" + a.tobytes(), dtype=a.dtype, offset=1).reshape(n, n),
    }


LAYOUTS = layouts(spd_matrix(N))


class TestInput:
    @pytest.mark.parametrize("name", LAYOUTS)
    @pytest.mark.parametrize("lower", [True, False])
    def test_every_memory_layout_and_the_input_is_unchanged(self, name, lower):
        a = LAYOUTS[name]
        before = a.copy()
        factor = tw.tiled_cholesky(a, tile_size=NB, lower=lower)
        assert close(factor, RIGHT if lower else RIGHT.T)
        assert factor.dtype == np.float64
        assert factor.dtype.isnative
        assert np.array_equal(a, before)
        assert not np.shares_memory(factor, a)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("lower", [True, False])
    def test_dtype_of_the_result_is_that_of_the_input(self, dtype, lower):
        a = spd_matrix(N, dtype)
        factor = tw.tiled_cholesky(a, tile_size=NB, lower=lower)
        wanted = np.linalg.cholesky(a)
        assert factor.dtype == dtype
        assert np.allclose(factor, wanted if lower else wanted.conj().T, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("dtype", ["int8", "int64", "uint16", "bool"])
    def test_integers_become_float64_as_in_numpy(self, dtype):
        a = np.eye(7, dtype=dtype)
        for overwrite_a in (False, True):
            factor = tw.tiled_cholesky(a, tile_size=3, overwrite_a=overwrite_a)
            assert factor.dtype == np.float64
            assert np.array_equal(factor, np.eye(7))
            assert np.array_equal(a, np.eye(7, dtype=dtype))

    @pytest.mark.parametrize("overwrite_a", [False, True])
    def test_nested_lists_give_an_array(self, overwrite_a):
        a = [[4.0, 2.0], [2.0, 5.0]]
        factor = tw.tiled_cholesky(a, overwrite_a=overwrite_a)
        assert isinstance(factor, np.ndarray)
        assert np.array_equal(factor, [[2, 0], [1, 2]])
        assert a == [[4.0, 2.0], [2.0, 5.0]]

    def test_object_with_an_array_protocol_gives_an_array(self):
        class Lazy:
            def __array__(self, dtype=None, copy=None):
                return spd_matrix(N)

        for overwrite_a in (False, True):
            assert close(tw.tiled_cholesky(Lazy(), tile_size=NB, overwrite_a=overwrite_a))

    @pytest.mark.parametrize("n", [0, 1, 2])
    @pytest.mark.parametrize("nb", [None, 1, 5])
    def test_tiny_matrices(self, n, nb):
        factor = tw.tiled_cholesky(4 * np.eye(n), tile_size=nb)
        assert np.array_equal(factor, 2 * np.eye(n))
        assert factor.shape == (n, n)

    def test_tile_size_and_workers_have_defaults(self):
        factor, run = tw.tiled_cholesky(spd_matrix(1100), return_run=True)
        nt = run["A"].nt
        assert run.workers == min(cores(), max(1, nt * (nt - 1) // 2))  # no more than updates of one step
        assert len(run.graph) > 10
        assert np.allclose(factor, np.linalg.cholesky(spd_matrix(1100)))

    @pytest.mark.parametrize("packed", [True, False])
    @pytest.mark.parametrize("lower", [True, False])
    @pytest.mark.parametrize("overwrite_a", [True, False])
    def test_tiled_matrix_in_and_out(self, packed, lower, overwrite_a):
        a = spd_matrix(N)
        tiles = (TiledMatrix.from_numpy if packed else TiledMatrix.view)(a.copy(), NB)
        factor = tw.tiled_cholesky(tiles, lower=lower, overwrite_a=overwrite_a)
        assert isinstance(factor, TiledMatrix)
        assert factor.tile_size == NB
        assert close(factor.to_numpy(), RIGHT if lower else RIGHT.T)
        assert (factor is tiles) == overwrite_a
        assert np.array_equal(tiles.to_numpy(), a) != overwrite_a

    def test_tiled_matrix_keeps_its_tile_size(self):
        tiles = TiledMatrix.from_numpy(spd_matrix(N), NB)
        assert close(tw.tiled_cholesky(tiles, tile_size=NB).to_numpy())
        with pytest.raises(ValueError, match="tile_size=7, but the TiledMatrix has tiles of 6"):
            tw.tiled_cholesky(tiles, tile_size=7)

    def test_strided_view_as_a_tiled_matrix(self):
        tiles = TiledMatrix.view(LAYOUTS["strided both ways"].copy(order="K"), NB)
        assert close(tw.tiled_cholesky(tiles).to_numpy())
        large = np.zeros((2 * N, 2 * N))
        large[::2, ::2] = spd_matrix(N)
        assert close(tw.tiled_cholesky(TiledMatrix.view(large[::2, ::2], NB), overwrite_a=True).to_numpy())

    def test_return_run_gives_the_run_too(self):
        factor, run = tw.tiled_cholesky(spd_matrix(N), tile_size=NB, return_run=True)
        assert isinstance(run, tw.Run)
        assert close(factor)
        run.trace.check()


class TestTorch:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("lower", [True, False])
    def test_tensor_in_and_out(self, dtype, lower):
        a = torch.from_numpy(spd_matrix(N, dtype))
        before = a.clone()
        factor = tw.tiled_cholesky(a, tile_size=NB, lower=lower)
        wanted = torch.linalg.cholesky(a, upper=not lower)
        assert isinstance(factor, torch.Tensor)
        assert factor.dtype == a.dtype
        assert torch.allclose(factor, wanted, rtol=1e-4, atol=1e-5)
        assert torch.equal(a, before)

    def test_tensor_that_is_not_contiguous(self):
        large = torch.zeros(2 * N, 2 * N, dtype=torch.float64)
        large[::2, ::2] = torch.from_numpy(spd_matrix(N))
        assert close(tw.tiled_cholesky(large[::2, ::2], tile_size=NB).numpy())
        assert close(tw.tiled_cholesky(large[::2, ::2].T, tile_size=NB).numpy())

    def test_overwritten_tensor_is_the_result(self):
        a = torch.from_numpy(spd_matrix(N))
        assert tw.tiled_cholesky(a, tile_size=NB, overwrite_a=True) is a
        assert close(a.numpy())

    @pytest.mark.parametrize("overwrite_a", [False, True])
    def test_lazily_conjugated_tensor(self, overwrite_a):
        a = torch.from_numpy(spd_matrix(N, "complex128"))
        factor = tw.tiled_cholesky(a.conj(), tile_size=NB, overwrite_a=overwrite_a)
        assert close(factor.resolve_conj().numpy(), np.linalg.cholesky(spd_matrix(N, "complex128").conj()))

    def test_tensor_of_integers(self):
        factor = tw.tiled_cholesky(4 * torch.eye(5, dtype=torch.int32), tile_size=2)
        assert torch.equal(factor, 2 * torch.eye(5, dtype=torch.float64))

    def test_tensor_that_requires_grad_is_an_error_that_says_what_to_do(self):
        with pytest.raises(TypeError, match=r"not differentiable; pass tensor\.detach\(\)"):
            tw.tiled_cholesky(torch.eye(3, requires_grad=True))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_an_error_that_lists_the_dtypes(self, dtype):
        with pytest.raises(TypeError, match=f"dtype {dtype}; convert the matrix to one of float32, float64, complex64"):
            tw.tiled_cholesky(torch.eye(3, dtype=dtype))

    def test_tensor_on_another_device_is_an_error_that_names_it(self):
        with pytest.raises(TypeError, match=r"a tensor on meta needs kernels for that device; pass tensor\.cpu\(\)"):
            tw.tiled_cholesky(torch.eye(3, device="meta"))


class TestWhatIsReadAndWritten:
    @pytest.mark.parametrize("lower", [True, False])
    @pytest.mark.parametrize("overwrite_a", [True, False])
    @pytest.mark.parametrize("order", ["C", "F"])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_only_the_named_triangle_is_read_and_the_other_is_zero(self, library, lower, overwrite_a, order, dtype):
        """NaN in the other triangle, also inside diagonal tiles, while check_finite looks."""
        a = spd_matrix(N, dtype)
        wanted = tw.tiled_cholesky(a.copy(order=order), tile_size=NB, lower=lower)
        other = np.triu_indices(N, 1) if lower else np.tril_indices(N, -1)
        poisoned = np.array(a, order=order)
        poisoned[other] = np.nan
        factor = tw.tiled_cholesky(poisoned, tile_size=NB, lower=lower, overwrite_a=overwrite_a)
        assert np.array_equal(factor, wanted)
        assert not factor[other].any()
        assert np.isnan(poisoned[other]).all() != overwrite_a

    @pytest.mark.parametrize("packed", [True, False])
    @pytest.mark.parametrize("lower", [True, False])
    def test_only_the_named_triangle_of_a_tiled_matrix_is_read(self, packed, lower):
        a = spd_matrix(N)
        a[np.triu_indices(N, 1) if lower else np.tril_indices(N, -1)] = np.inf
        tiles = (TiledMatrix.from_numpy if packed else TiledMatrix.view)(a, NB)
        assert close(tw.tiled_cholesky(tiles, lower=lower).to_numpy(), RIGHT if lower else RIGHT.T)

    @pytest.mark.parametrize("name", ["C", "F", "part of a larger C array", "part of a larger F array"])
    @pytest.mark.parametrize("lower", [True, False])
    def test_overwrite_takes_the_memory_of_the_input(self, name, lower):
        a = layouts(spd_matrix(N))[name]
        assert tw.tiled_cholesky(a, tile_size=NB, lower=lower, overwrite_a=True) is a
        assert close(a, RIGHT if lower else RIGHT.T)

    def test_overwrite_changes_nothing_around_the_input(self):
        around = np.full((N + 4, N + 6), 77.0)
        inside = around[2:-2, 3:-3]
        inside[...] = spd_matrix(N)
        tw.tiled_cholesky(inside, tile_size=NB, overwrite_a=True)
        assert (around[:2] == 77).all()
        assert (around[-2:] == 77).all()
        assert (around[:, :3] == 77).all()
        assert (around[:, -3:] == 77).all()

    @pytest.mark.parametrize("name", ["strided both ways", "other byte order"])
    def test_overwrite_is_a_permission_not_a_duty(self, name):
        assert close(tw.tiled_cholesky(layouts(spd_matrix(N))[name], tile_size=NB, overwrite_a=True))

    def test_input_is_unchanged_when_the_factorisation_fails(self):
        a = -spd_matrix(N)
        before = a.copy()
        with pytest.raises(tw.NotPositiveDefiniteError):
            tw.tiled_cholesky(a, tile_size=NB)
        assert np.array_equal(a, before)

    def test_imaginary_part_of_the_diagonal_does_not_matter(self):
        a = spd_matrix(N, "complex128")
        wanted = tw.tiled_cholesky(a, tile_size=N)
        a[np.diag_indices(N)] += 3j
        factor = tw.tiled_cholesky(a, tile_size=N)
        assert np.allclose(factor, wanted)


class TestErrors:
    """Each before any task runs, with its own words."""

    @pytest.mark.parametrize("shape", [(), (4,), (2, 2, 2)])
    def test_matrix_must_be_2d(self, shape):
        with pytest.raises(ValueError, match="the matrix a must be 2-D, not of shape ") as caught:
            tw.tiled_cholesky(np.ones(shape))
        assert str(shape) in str(caught.value)

    @pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, lambda a: TiledMatrix.view(a, 2)])
    def test_matrix_must_be_square(self, kind):
        with pytest.raises(ValueError, match="the matrix a must be square, not 3 x 4"):
            tw.tiled_cholesky(kind(np.ones((3, 4))))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("place", [(0, 0), (5, 2), (17, 17), (22, 3)])
    def test_nan_and_infinity_are_found_with_their_place(self, value, dtype, place):
        a = spd_matrix(N, dtype)
        a[place] = value
        with pytest.raises(ValueError, match=rf"NaN or infinity at \({place[0]}, {place[1]}\); check_finite=False"):
            tw.tiled_cholesky(a, tile_size=NB, overwrite_a=True)
        a[place] = 1
        assert np.isfinite(a).all()

    @pytest.mark.parametrize("place", [(2, 5), (3, 22), (17, 17)])
    def test_place_in_the_upper_triangle_is_in_the_users_coordinates(self, place):
        a = spd_matrix(N)
        a[place] = np.nan
        with pytest.raises(ValueError, match=rf"NaN or infinity at \({place[0]}, {place[1]}\)"):
            tw.tiled_cholesky(a, tile_size=NB, lower=False)
        tw.tiled_cholesky(a[:2, :2], tile_size=NB, lower=False)

    def test_check_finite_may_be_skipped(self):
        a = spd_matrix(N)
        a[20, 3] = np.nan
        try:
            factor = tw.tiled_cholesky(a, tile_size=NB, check_finite=False)
            assert np.isnan(factor).any()
        except tw.NotPositiveDefiniteError as error:
            assert error.order > 20

    def test_huge_finite_entries_are_finite(self):
        a = np.diag(np.full(N, sys.float_info.max))
        assert np.array_equal(tw.tiled_cholesky(a, tile_size=NB), np.sqrt(a))

    @pytest.mark.parametrize("dtype", ["float16", "longdouble", object, "U3", "datetime64[s]"])
    def test_other_dtypes_are_an_error_that_names_it_and_lists_the_four(self, dtype):
        a = np.zeros((3, 3), dtype)
        with pytest.raises(TypeError) as caught:
            tw.tiled_cholesky(a)
        assert str(caught.value) == (
            f"no kernel for dtype {a.dtype}; convert the matrix to one of float32, float64, complex64, complex128"
        )

    @pytest.mark.parametrize("tile_size", [0, -3])
    def test_tile_size_must_be_positive(self, tile_size):
        with pytest.raises(ValueError, match=f"tile_size must be at least 1, not {tile_size}"):
            tw.tiled_cholesky(np.eye(3), tile_size=tile_size)

    @pytest.mark.parametrize("tile_size", [2.0, "2", True])
    def test_tile_size_must_be_an_integer(self, tile_size):
        with pytest.raises(TypeError, match=f"tile_size must be an integer, not {tile_size!r}"):
            tw.tiled_cholesky(np.eye(3), tile_size=tile_size)

    def test_numpy_integer_is_a_tile_size(self):
        assert np.array_equal(tw.tiled_cholesky(np.eye(3), tile_size=np.int32(2)), np.eye(3))

    @pytest.mark.parametrize("check_finite", [True, False])
    @pytest.mark.parametrize("workers", [0, -1])
    def test_workers_must_be_positive(self, workers, check_finite):
        with pytest.raises(ValueError, match=f"workers must be at least 1, not {workers}"):
            tw.tiled_cholesky(np.eye(3), workers=workers, check_finite=check_finite)

    def test_unknown_backend_lists_the_known(self):
        with pytest.raises(ValueError, match="unknown backend 'gpu'; known: serial, threads"):
            tw.tiled_cholesky(np.eye(3), backend="gpu")

    def test_unknown_scheduler_lists_the_known(self):
        with pytest.raises(
            ValueError, match="unknown scheduler 'best'; known: eager, lifo, random, critical-path, lws"
        ):
            tw.tiled_cholesky(np.eye(3), scheduler="best")

    @pytest.mark.parametrize("kind", [np.asarray, lambda a: TiledMatrix.view(a, 2)])
    def test_read_only_matrix_cannot_be_overwritten(self, kind):
        a = np.eye(3)
        a.flags.writeable = False
        with pytest.raises(
            ValueError, match="overwrite_a=True, but the matrix a is read-only; pass a copy or overwrite_a"
        ):
            tw.tiled_cholesky(kind(a), overwrite_a=True)

    def test_errors_before_any_task_change_nothing(self):
        a = spd_matrix(N)
        before = a.copy()
        for options in ({"tile_size": 0}, {"workers": 0}, {"backend": "gpu"}, {"scheduler": "best"}):
            with pytest.raises(ValueError, match="must be|unknown"):
                tw.tiled_cholesky(a, overwrite_a=True, **options)
        assert np.array_equal(a, before)


@pytest.mark.parametrize("backend", ["threads", "serial"])
def test_run_says_if_there_are_fewer_tiles_than_workers(backend):
    a = np.eye(60)
    _, few = tw.tiled_cholesky(a, workers=4, backend=backend, return_run=True)
    assert few.notes == ("1 of the 4 workers asked for: one tile has no work for more; a smaller tile_size has",)
    assert few.notes[0] in str(few)
    _, enough = tw.tiled_cholesky(a, workers=4, backend=backend, tile_size=10, return_run=True)
    assert enough.notes == ()
