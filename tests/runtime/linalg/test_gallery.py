"""Random and loaded matrices."""

import gzip
import random

import numpy as np
import pytest
from scipy import sparse
from scipy.io import mmwrite

from tilewright.linalg.gallery import load_matrix, load_sparse, random_spd

DTYPES = ["float32", "float64", "complex64", "complex128"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 2, 13, 14, 60, 250])
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


# ------------------------------------------------------------------ files that are damaged or mean harm


def raw_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


BAD_SPARSE = {
    "indices beyond": {"indices": [0, 7]}, "indices below": {"indices": [0, -1]}, "indptr decreases": {"indptr": [0, 2, 1]},
    "indptr beyond": {"indptr": [0, 1, 9]}, "indptr short": {"indptr": [0, 2]}, "indptr from 1": {"indptr": [1, 1, 2]},
    "unknown format": {"format": b"xyz"}, "no data": {"data": None},
    "huge": {"shape": [2**40, 2**40]},
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SPARSE)
@pytest.mark.parametrize("read", [load_matrix, load_sparse])
def test_a_sparse_file_with_bad_indices_is_refused(case, read, tmp_path):
    good = {"format": np.array(b"csr"), "shape": [2, 2], "data": [1.0, 2.0], "indices": [0, 1], "indptr": [0, 1, 2]}
    assert abs(read(raw_npz(tmp_path / "good.npz", **good)) - np.diag([1.0, 2.0])).max() == 0
    bad = {name: value for name, value in (good | BAD_SPARSE[case]).items() if value is not None}
    with pytest.raises((ValueError, MemoryError), match=r"bad\.npz"):
        read(raw_npz(tmp_path / "bad.npz", **bad))


def test_a_mutated_matrix_file_is_one_sentence_or_a_matrix(tmp_path):
    rng = random.Random(1)
    np.save(tmp_path / "a.npy", np.eye(3))
    np.savez_compressed(tmp_path / "b.npz", np.eye(3))
    sparse.save_npz(tmp_path / "c.npz", sparse.eye_array(3, format="csr"))
    mmwrite(tmp_path / "d.mtx", sparse.eye_array(3))
    (tmp_path / "e.mtx.gz").write_bytes(gzip.compress((tmp_path / "d.mtx").read_bytes()))
    refused = 0
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for _ in range(60):
            content = bytearray(whole)
            for _ in range(rng.choice([1, 3])):
                content[rng.randrange(len(content))] = rng.randrange(256)
            path.write_bytes(content[: rng.choice([len(content), rng.randrange(len(content))])])
            try:
                assert load_matrix(path).dtype.kind in "biufc"
            except (ValueError, MemoryError) as error:
                refused += 1
                assert path.name in str(error) and "\n" not in str(error)
    assert refused > 100


@pytest.mark.parametrize("content", [np.array([None]), np.array(["a"]), np.zeros(2, "f8,i4")])
def test_what_is_no_numbers_is_refused(content, tmp_path):
    np.save(tmp_path / "a.npy", content, allow_pickle=True)
    with pytest.raises(ValueError, match=r"cannot read 'a\.npy'"):
        load_matrix(tmp_path / "a.npy")
