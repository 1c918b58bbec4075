"""Test matrices of LAPACK's and ScaLAPACK's testers, and the ratios that judge a factor.

The nine types of PO matrices are those of LAPACK's ``TESTING/LIN/dlatb4.f`` with ``dlatms``, MODE 3: eigenvalues
cond^(-i/(n-1)) for i = 0..n-1 times the norm, random eigenvectors. All ratios are in units of the roundoff
u = eps/2, as ``dlamch('Epsilon')`` is.
"""

from functools import lru_cache

import numpy as np
import scipy.linalg
import scipy.sparse

DTYPES = ("float32", "float64", "complex64", "complex128")
POSITIVE_DEFINITE = (1, 2, 6, 7, 8, 9)
ZEROED = (3, 4, 5)


def roundoff(dtype):
    """u, the unit roundoff."""
    return float(np.finfo(dtype).eps) / 2


def zeroed_index(kind, n):
    """Index of the row and column that types 3, 4 and 5 set to zero: the first, last and middle one."""
    return {3: 0, 4: n - 1, 5: n // 2}[kind]


@lru_cache(maxsize=128)
def po_matrix(kind, n, dtype="float64"):
    """PO type 1 to 9, as a read-only C-ordered array.

    1 diagonal, 2 random with condition 2, 3-5 with a zero row and column, 6 condition sqrt(0.1/eps),
    7 condition 0.1/eps, 8 scaled near underflow, 9 scaled near overflow.
    """
    dtype = np.dtype(dtype)
    eps, tiny = float(np.finfo(dtype).eps), float(np.finfo(dtype).tiny)
    condition = {6: (0.1 / eps) ** 0.5, 7: 0.1 / eps}.get(kind, 2.0)
    small = 0.25 * tiny / eps
    norm = {8: small, 9: 1 / small}.get(kind, 1.0)
    eigenvalues = condition ** -(np.arange(n) / max(n - 1, 1))
    a = np.diag(eigenvalues).astype(complex if dtype.kind == "c" else float)
    if kind != 1:
        q = _eigenvectors(n, dtype.kind)
        a = (q * eigenvalues) @ q.conj().T
        a = (a + a.conj().T) / 2
    if kind in ZEROED:
        a[zeroed_index(kind, n), :] = 0
        a[:, zeroed_index(kind, n)] = 0
    a = (a * norm).astype(dtype)
    a.flags.writeable = False
    return a


@lru_cache(maxsize=32)
def _eigenvectors(n, kind):
    return np.linalg.qr(random_matrix(n, n, "complex128" if kind == "c" else "float64"))[0]


def random_matrix(m, n, dtype="float64", seed=0):
    """Entries uniform in [-1, 1), also in the imaginary part."""
    generator = np.random.default_rng([seed, m, n])
    a = generator.uniform(-1, 1, (m, n))
    if np.dtype(dtype).kind == "c":
        a = a + 1j * generator.uniform(-1, 1, (m, n))
    return a.astype(dtype)


def spd_matrix(n, dtype="float64", seed=0):
    """Random, Hermitian and diagonally dominant, as ScaLAPACK's ``pdmatgen`` makes them for ``pdlltdriver``."""
    a = random_matrix(n, n, dtype, seed)
    a = a + a.conj().T
    a[np.diag_indices(n)] = a[np.diag_indices(n)].real + 2 * n
    return a


def indefinite_matrix(n, order, dtype="float64", seed=0):
    """A matrix whose leading minors are positive up to ``order - 1`` and negative at ``order``."""
    a = spd_matrix(n, dtype, seed)
    a[order - 1, order - 1] *= -1
    return a


def lapack_info(a, lower=True):
    """What LAPACK's ?potrf reports for this matrix: 0, or the order of the first bad leading minor."""
    (potrf,) = scipy.linalg.get_lapack_funcs(["potrf"], [a])
    return int(potrf(a, lower=lower, clean=False)[1])


def norm1(a):
    """Largest column sum; 0 for an empty matrix."""
    return float(np.abs(a).sum(axis=0).max(initial=0))


def factor_ratio(a, factor, lower=True):
    """||A - L L^H||_1 / (n ||A||_1 u)  [LAPACK ``dpot01``; ScaLAPACK ``pdlafchk``]."""
    n, u = len(a), roundoff(a.dtype)
    scale = 2.0 ** -round(np.log2(norm1(a) or 1) / 2)  # a power of two: exact, and no product overflows
    wide = complex if a.dtype.kind == "c" else float
    a = a.astype(wide) * scale * scale
    factor = factor.astype(wide) * scale
    product = factor @ factor.conj().T if lower else factor.conj().T @ factor
    residual = norm1(a - product)
    return residual / (n * norm1(a) * u) if residual else 0.0


def solve_ratio(a, x, b):
    """||A X - B||_1 / (||X||_1 ||A||_1 u n)  [ScaLAPACK ``pdlaschk``]."""
    return norm1(a @ x - b) / (norm1(x) * norm1(a) * roundoff(a.dtype) * len(a))


def random_sparse(shape, density, rng):
    """A random CSR matrix, the same with every SciPy: `scipy.sparse.random_array` changed its parameters in 1.15."""
    entries = round(density * shape[0] * shape[1])
    places = rng.choice(shape[0] * shape[1], entries, replace=False)
    rows, columns = np.unravel_index(places, shape)
    return scipy.sparse.csr_array((rng.uniform(size=entries), (rows, columns)), shape=shape)
