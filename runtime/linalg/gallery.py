"""Matrices to factor: random ones by seed, real ones from files."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.arguments import check_structure
from tilewright.keywords import strict
from tilewright.scalars import shown, whole

__all__ = [
    "FORMATS",
    "SPECTRA",
    "conditioned_general",
    "conditioned_spd",
    "hpl_mxp",
    "load_matrix",
    "load_sparse",
    "random_spd",
    "spectrum",
]

FORMATS = (".npy", ".npz", ".mtx")
"""Suffixes that `load_matrix` reads; ``.mtx`` may be compressed as ``.mtx.gz``."""

_MOST = 2**24  # rows: 2 PiB in float64

_BLOCK = 512  # rows; two blocks fit in cache


@strict
def random_spd(n: int, dtype: Any = np.float64, seed: int = 0) -> np.ndarray:
    """A random symmetric or Hermitian positive definite matrix, shape (n, n), C order.

    Noise plus a diagonal: the entries off the diagonal are uniform noise of size below 1, whose eigenvalues spread
    over about +-0.82 sqrt(n) (Wigner's semicircle), and the diagonal is raised by min(n, sqrt(n) + 10). The result
    is positive definite, for small n by Gershgorin's theorem; its condition is below 10.
    O(n^2): a fraction of a second for n = 4096.

    Parameters
    ----------
    n
        Order.
    dtype
        float32, float64, complex64 or complex128.
    seed
        At least 0; the same one gives the same matrix.

    Returns
    -------
    A : (n, n) numpy.ndarray

    Raises
    ------
    ValueError
        ``n`` or ``seed`` is negative or too large.
    TypeError
        ``dtype`` is none of float32, float64, complex64, complex128, or ``n`` or ``seed`` is no integer.

    Examples
    --------
    >>> import tilewright as tw
    >>> A = tw.random_spd(300)
    >>> A.shape, bool((A == A.T).all())
    ((300, 300), True)
    """
    n, seed = whole(n, "n", 0, _MOST), whole(seed, "seed", 0, 2**64 - 1)
    try:
        kind = np.dtype(dtype)
    except (TypeError, ValueError):
        raise TypeError(f"dtype must be float32, float64, complex64 or complex128, not {shown(dtype)}") from None
    if dtype is None or kind not in (np.float32, np.float64, np.complex64, np.complex128):
        raise TypeError(f"dtype must be float32, float64, complex64 or complex128, not {shown(dtype)}")
    rng = np.random.Generator(np.random.Philox(key=seed))  # counter-based: fast, and the same on every machine
    real = np.dtype(kind.char.lower())
    noise: np.ndarray
    if kind.kind == "c":
        noise = rng.random((n, 2 * n), dtype=real.type)
        noise -= 0.5
        noise *= np.sqrt(2)  # |re + im i| < 1
        noise = noise.view(kind)
    else:
        noise = rng.random((n, n), dtype=real.type)
        noise -= 0.5
        noise *= 2
    for i in range(0, n, _BLOCK):
        for j in range(0, i + 1, _BLOCK):
            rows, columns = slice(i, i + _BLOCK), slice(j, j + _BLOCK)
            half = (noise[rows, columns] + noise[columns, rows].conj().T) / 2
            noise[rows, columns] = half
            noise[columns, rows] = half.conj().T
    noise[np.diag_indices(n)] += min(n, np.sqrt(n) + 10)
    return noise


SPECTRA = ("geometric", "arithmetic", "clustered", "small")
"""Spectra of `conditioned_spd`; modes 3, 4, 1 and 2 of LAPACK's dlatms."""


def spectrum(n: int, condition: float, kind: str = "geometric") -> np.ndarray:
    """n eigenvalues from 1 down to 1/condition, (n,).

    ``geometric``: equal ratios; ``arithmetic``: equal steps; ``clustered``: one is 1, the rest 1/condition;
    ``small``: one is 1/condition, the rest 1.

    Raises
    ------
    ValueError
        The condition is below 1 or not finite, or the kind unknown.
    """
    if not 1 <= condition < np.inf:
        raise ValueError(f"the condition must be a number of at least 1, not {condition!r}")
    if kind not in SPECTRA:
        raise ValueError(f"unknown spectrum {kind!r}; known: {', '.join(SPECTRA)}")
    s = np.arange(n) / max(n - 1, 1)
    if kind == "geometric":
        return condition**-s
    if kind == "arithmetic":
        return 1 - s * (1 - 1 / condition)
    values = np.full(n, 1 / condition if kind == "clustered" else 1.0)
    values[:1] = 1.0
    values[-1:] = 1 / condition
    return values


def conditioned_spd(n: int, condition: float, kind: str = "geometric", seed: int = 0) -> np.ndarray:
    """A full matrix with given eigenvalues, shape (n, n), FP64, C order: S C diag(lambda) C^T S.

    C holds the cosines of the discrete cosine transform, S random signs, and the eigenvalues come in random order. So A
    is a Toeplitz plus a Hankel matrix but for the signs, and takes O(n^2); yet its pivots fall, its factors break down
    and its iterations converge as with random eigenvectors, and scaling its diagonal does not make it easier.
    (Householder reflections, as cheap, leave a diagonal matrix plus one of low rank: scaling undoes the condition.)

    Entries are exact to about u, so a condition near 1/u is not met. 0.6 s for n = 8192.

    Raises
    ------
    ValueError
        See `spectrum`; or ``n`` or ``seed`` is negative.

    Examples
    --------
    >>> import numpy as np
    >>> from tilewright.linalg.gallery import conditioned_spd
    >>> round(float(np.linalg.cond(conditioned_spd(50, 1e4))), 3)
    10000.0
    """
    if n < 0 or seed < 0:
        raise ValueError(f"n and seed must not be negative, got n={n} and seed={seed}")
    rng = np.random.Generator(np.random.Philox(key=seed))
    values = rng.permutation(spectrum(n, condition, kind))
    signs = rng.choice([-1.0, 1.0], n)
    if n == 0:
        return np.zeros((0, 0))
    padded = np.zeros(2 * n)
    padded[:n] = values * np.where(np.arange(n) == 0, 1, 2) / (2 * n)
    t = np.fft.fft(padded).real  # t_k = sum_l w_l lambda_l cos(pi k l / n) / 2; a_ij = t_|i-j| + t_{i+j+1}
    toeplitz = np.lib.stride_tricks.sliding_window_view(np.concatenate([t[n - 1 : 0 : -1], t[:n]]), n)[::-1]
    hankel = np.lib.stride_tricks.sliding_window_view(t[1:], n)
    a = np.empty((n, n))
    for i in range(0, n, _BLOCK):
        rows = slice(i, i + _BLOCK)
        np.add(toeplitz[rows], hankel[rows], out=a[rows])
        a[rows] *= signs
        a[rows] *= signs[rows, None]
    return a


def conditioned_general(n: int, condition: float, kind: str = "geometric", seed: int = 0) -> np.ndarray:
    """A matrix with given singular values, shape (n, n), FP64, C order: U diag(sigma) V^T.

    U and V are two discrete cosine transforms each, with random signs between: as good as random orthogonal matrices
    for pivots and iterations, in O(n^2 log n).

    Raises
    ------
    ValueError
        See `spectrum`; or ``n`` or ``seed`` is negative.

    Examples
    --------
    >>> import numpy as np
    >>> from tilewright.linalg.gallery import conditioned_general
    >>> round(float(np.linalg.cond(conditioned_general(50, 1e4))), 3)
    10000.0
    """
    from scipy.fft import dct

    if n < 0 or seed < 0:
        raise ValueError(f"n and seed must not be negative, got n={n} and seed={seed}")
    rng = np.random.Generator(np.random.Philox(key=seed))
    a = np.diag(rng.permutation(spectrum(n, condition, kind)))
    for axis in (0, 1, 0, 1) if n else ():
        signs = rng.choice([-1.0, 1.0], n)
        a = dct(a, axis=axis, norm="ortho", overwrite_x=True)
        a *= signs[:, None] if axis == 0 else signs
    return np.ascontiguousarray(a)


_MULTIPLIER, _INCREMENT, _MODULUS = 6364136223846793005, 1, 1 << 64  # Knuth's MMIX


def hpl_mxp(n: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The system of the HPL-MxP benchmark, A (n, n), by columns, and b (n,) [1]_.

    Numbers are uniform in [-1/2, 1/2), from a linear congruential generator of 64 bits, column by column; on the
    diagonal stand the sums of the magnitudes of the others in the row. So A is diagonally dominant and has an LU
    factorisation without pivoting.

    .. [1] J. Dongarra et al., HPL-MxP mixed-precision benchmark, https://hpl-mxp.org.

    Examples
    --------
    >>> import numpy as np
    >>> from tilewright.linalg.gallery import hpl_mxp
    >>> A, b = hpl_mxp(20)
    >>> bool(np.allclose(2 * A.diagonal(), np.abs(A).sum(axis=1)))
    True
    """
    if n < 0 or seed < 0:
        raise ValueError(f"n and seed must not be negative, got n={n} and seed={seed}")
    a = _congruential(n * n, seed).reshape(n, n).T
    np.fill_diagonal(a, 0)
    np.fill_diagonal(a, np.abs(a).sum(axis=1))
    return a, _congruential(n, seed + 1)


def _congruential(count: int, seed: int) -> np.ndarray:
    """So many numbers of the generator behind ``seed``, each s 2^-64 - 1/2 of a state s."""
    states = np.array([(seed * _MULTIPLIER + _INCREMENT) % _MODULUS], np.uint64)
    factor, offset = _MULTIPLIER, _INCREMENT  # from each state to the one as many further on as there are
    while len(states) < count:
        states = np.concatenate([states, states * np.uint64(factor) + np.uint64(offset)])
        factor, offset = factor * factor % _MODULUS, offset * (factor + 1) % _MODULUS
    return states[:count] * 2.0**-64 - 0.5


def load_matrix(path: str | Path) -> np.ndarray:
    """A square matrix from a file, dense.

    ``.npy`` holds one array; ``.npz`` one array or a sparse matrix of `scipy.sparse.save_npz`; ``.mtx`` and
    ``.mtx.gz`` are Matrix Market, where a symmetric file becomes the full matrix.

    Raises
    ------
    ValueError
        Another suffix, an archive with several arrays, or a file that is damaged or holds Python objects.
    OSError
        The file cannot be read.
    """
    path = Path(path)
    suffix = path.suffixes[-2] if path.suffix == ".gz" and len(path.suffixes) > 1 else path.suffix
    if suffix not in FORMATS:
        raise ValueError(f"cannot read {path.name!r}; a matrix file ends in {', '.join(FORMATS)}")
    with _one_sentence(path):
        return _numbers(_read(path, suffix))


def load_sparse(path: str | Path) -> Any:
    """A sparse matrix from a file, by rows: of `scipy.sparse.save_npz`, or Matrix Market. Raises as `load_matrix`."""
    from scipy import sparse

    path = Path(path)
    if path.suffix not in (".npz", ".mtx", ".gz"):
        raise ValueError(f"{path.name!r} must be a Matrix Market file (.mtx) or one of scipy.sparse.save_npz (.npz)")
    with _one_sentence(path):
        if path.suffix == ".npz":
            matrix = sparse.load_npz(path)
            check_structure(matrix)
        else:
            matrix = _market(path)
        return _numbers(sparse.csr_array(matrix))


@contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    """Turn what readers raise for damaged files into a ValueError that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"cannot read {path.name!r}: {error}") from error
    except MemoryError as error:
        raise MemoryError(f"{path.name!r} holds, or claims to hold, more than fits into memory: {error}") from error
    except Exception as error:  # NumPy, SciPy, zipfile and zlib raise many kinds
        raise ValueError(f"cannot read {path.name!r}: {str(error) or type(error).__name__}") from error


def _market(path: Path) -> Any:
    """A Matrix Market file. SciPy's reader runs over the end of one with a zero byte or without an end of line."""
    from scipy.io import mmread

    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        content = file.read()
    if b"\0" in content:
        raise ValueError("it has a zero byte, and is no text")
    return mmread(io.BytesIO(content + b"\n"))


def _numbers(matrix: Any) -> Any:
    if matrix.dtype.kind not in "biufc":
        raise ValueError(f"it holds {matrix.dtype}, not numbers")
    return matrix


def _read(path: Path, suffix: str) -> np.ndarray:
    if suffix == ".mtx":
        matrix = _market(path)
        return np.ascontiguousarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix)
    with open(path, "rb") as file:
        content = np.load(file, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            return _from_archive(path, content)


def _from_archive(path: Path, archive: Any) -> np.ndarray:
    if "format" in archive.files:
        from scipy.sparse import load_npz

        matrix = load_npz(path)
        check_structure(matrix)
        dense: np.ndarray = matrix.toarray()
        return dense
    if len(archive.files) != 1:
        raise ValueError(f"it holds {len(archive.files)} arrays ({', '.join(archive.files)}); save the matrix alone")
    return np.asarray(archive[archive.files[0]])
