"""Random and loaded matrices."""

import numpy as np
import pytest

from tilewright.matrices import load_matrix, random_spd

DTYPES = ["float32", "float64", "complex64", "complex128"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 2, 13, 14, 60, 700])
def test_random_spd_is_hermitian_and_well_conditioned(n, dtype):
    a = random_spd(n, dtype)
    assert a.shape == (n, n) and a.dtype == dtype
    assert np.array_equal(a, a.conj().T)
    if n:
        eigenvalues = np.linalg.eigvalsh(a)
        assert eigenvalues[0] > 0 and eigenvalues[-1] / eigenvalues[0] < 10
    if n > 1:
        off = a[~np.eye(n, dtype=bool)]
        assert np.count_nonzero(off) == off.size and np.abs(off).max() < 1


def test_the_smallest_random_matrices_are_positive_definite_for_every_seed():
    for seed in range(200):
        for n in (1, 2, 3):
            assert np.linalg.eigvalsh(random_spd(n, seed=seed))[0] > 0


def test_the_seed_decides_the_matrix():
    assert np.array_equal(random_spd(20, seed=3), random_spd(20, seed=3))
    assert not np.array_equal(random_spd(20, seed=3), random_spd(20, seed=4))


@pytest.mark.parametrize(
    ("args", "error"), [((-1,), ValueError), ((3, "float64", -1), ValueError), ((3, "int64"), TypeError)]
)
def test_bad_arguments_of_random_spd_are_refused(args, error):
    with pytest.raises(error, match="not"):
        random_spd(*args)


def test_a_loaded_symmetric_file_is_the_full_matrix(tmp_path):
    (tmp_path / "a.mtx").write_text(
        "%%MatrixMarket matrix coordinate real symmetric\n2 2 3\n1 1 4.0\n2 1 2.0\n2 2 5.0\n"
    )
    assert load_matrix(tmp_path / "a.mtx").tolist() == [[4.0, 2.0], [2.0, 5.0]]
