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


GENERAL = tuple(range(1, 12))
SINGULAR = (5, 6, 7)


def first_zero_column(kind, n):
    """Index of the first column that types 5, 6 and 7 set to zero: the first, the last, the last half."""
    return {5: 0, 6: n - 1, 7: n // 2}[kind]


@lru_cache(maxsize=256)
def ge_matrix(kind, m, n, dtype="float64"):
    """GE type 1 to 11 of LAPACK's ``dlatb4``, (m, n), as a read-only C-ordered array.

    1 diagonal, 2 upper, 3 lower triangular, 4 random with condition 2, 5-7 with zero columns, 8 condition
    sqrt(0.1/eps), 9 condition 0.1/eps, 10 scaled near underflow, 11 near overflow.
    """
    dtype = np.dtype(dtype)
    eps, tiny = float(np.finfo(dtype).eps), float(np.finfo(dtype).tiny)
    k = min(m, n)
    condition = {8: (0.1 / eps) ** 0.5, 9: 0.1 / eps}.get(kind, 2.0)
    small = 0.25 * tiny / eps
    values = condition ** -(np.arange(k) / max(k - 1, 1)) * {10: small, 11: 1 / small}.get(kind, 1.0)
    a = np.zeros((m, n), complex if dtype.kind == "c" else float)
    if kind == 1:
        a[np.diag_indices(k)] = values
    elif kind in (2, 3):
        a += random_matrix(m, n, dtype)
        a[np.diag_indices(k)] += 2
        a = np.triu(a) if kind == 2 else np.tril(a)
    elif k:
        left, right = (_eigenvectors(size, dtype.kind)[:, :k] for size in (m, n))
        a = (left * values) @ right[::-1].conj().T
    if kind in SINGULAR and n:
        a[:, first_zero_column(kind, n) : 1 if kind == 5 else None] = 0
    a = a.astype(dtype)
    a.flags.writeable = False
    return a


def lu_ratio(a, lu, piv):
    """||L U - P A||_1 / (n ||A||_1 u)  [LAPACK ``dget01``]."""
    (m, n), k, u = a.shape, min(a.shape), roundoff(a.dtype)
    scale = 2.0 ** -round(np.log2(norm1(a) or 1))  # a power of two: exact, and no product overflows
    wide = complex if a.dtype.kind == "c" else float
    a, lu = a.astype(wide) * scale, lu.astype(wide)
    for t, row in enumerate(piv):
        a[[t, row]] = a[[row, t]]
    lower = np.tril(lu[:, :k], -1) + np.eye(m, k)
    residual = norm1(lower @ (np.triu(lu[:k]) * scale) - a)
    return residual / (n * norm1(a) * u) if residual else 0.0


def inverse_ratio(a, inverse):
    """||I - A A^-1||_1 / (n ||A||_1 ||A^-1||_1 u)  [LAPACK ``dget03``]."""
    u, wide = roundoff(a.dtype), complex if a.dtype.kind == "c" else float
    scale = 2.0 ** -round(np.log2(norm1(a) or 1))
    a, inverse, n = a.astype(wide) * scale, inverse.astype(wide) / scale, len(a)
    return norm1(np.eye(n) - a @ inverse) / (n * norm1(a) * norm1(inverse) * u) if n else 0.0


def qr_ratio(a, q, r):
    """The larger of ||R - Q^H A||_1 / (m ||A||_1 u) and ||I - Q^H Q||_1 / (m u)  [LAPACK ``dqrt01``]."""
    m, u, wide = max(a.shape), roundoff(a.dtype), complex if a.dtype.kind == "c" else float
    scale = 2.0 ** -round(np.log2(norm1(a) or 1))  # a power of two: exact, and no product overflows
    a, r, q = a.astype(wide) * scale, r.astype(wide) * scale, q.astype(wide)
    residual = norm1(q.conj().T @ a - r)
    orthogonal = norm1(np.eye(q.shape[1]) - q.conj().T @ q) / (max(m, 1) * u)
    return max(residual / (m * norm1(a) * u) if residual else 0.0, orthogonal)


def wilkinson(n, c=1.0):
    """1 on the diagonal and in the last column, -c below: partial pivoting exchanges nothing, growth (1 + c)^(n-1)."""
    a = np.eye(n) - c * np.tril(np.ones((n, n)), -1)
    a[:, -1] = 1
    return a


def foster(n, kh=2 / 3, c=1.0):
    """Of a quadrature method for a Volterra equation [L. Foster, SIMAX 15 (1994)]."""
    a = np.tril(np.full((n, n), -kh), -1) + (1 - kh / 2) * np.eye(n)
    a[1:, 0] = -kh / 2
    a[0, 0] = 1
    a[:-1, -1] = -1 / c
    a[-1, -1] = 1 - 1 / c - kh / 2
    return a


def wright(blocks, h=0.3):
    """Of multiple shooting for a boundary value problem [S. Wright, SISSC 14 (1993)], order 2 blocks."""
    step = scipy.linalg.expm(h * np.array([[-1 / 6, 1], [1, -1 / 6]]))
    a = np.eye(2 * blocks)
    for i in range(1, blocks):
        a[2 * i : 2 * i + 2, 2 * i - 2 : 2 * i] = -step
    a[:2, -2:] = np.eye(2)
    return a


HERMITIAN = tuple(range(1, 18))


@lru_cache(maxsize=512)
def he_matrix(kind, n, dtype="float64"):
    """Hermitian type 1 to 16 of LAPACK's ``ddrvst``, and 17 of condition 1e15 in random order of sign; read-only.

    1 zero, 2 identity, 3-5 diagonal with eigenvalues that are evenly spaced, geometric and clustered, 6-7 type 4 near
    overflow and underflow, 8-12 the same dense, 13-15 random entries, near overflow, near underflow, 16 a band.
    """
    dtype = np.dtype(dtype)
    eps, tiny = float(np.finfo(dtype).eps), float(np.finfo(dtype).tiny)
    like = {6: 4, 7: 4, 8: 3, 9: 4, 10: 5, 11: 3, 12: 3, 16: 3}.get(kind, kind)
    scale = {6: 1 / tiny**0.9, 11: 1 / tiny**0.9, 14: 1 / tiny**0.9, 7: tiny**0.9, 12: tiny**0.9, 15: tiny**0.9}
    steps = np.arange(n) / max(n - 1, 1)
    values = {
        1: np.zeros(n), 2: np.ones(n), 3: 1 - steps * (1 - eps), 4: eps**steps, 5: np.where(steps > 0, eps, 1.0),
        17: 10.0 ** (-15 * steps),
    }.get(like, np.ones(n)) * np.where(kind > 2, (-1.0) ** (np.arange(n) // 2 + np.arange(n)), 1)  # fmt: skip
    if kind in (13, 14, 15):
        a = random_matrix(n, n, "complex128" if dtype.kind == "c" else "float64")
        a = (a + a.conj().T) / 2
    elif kind in (8, 9, 10, 11, 12, 16, 17):
        q = _eigenvectors(n, dtype.kind)
        a = (q * values) @ q.conj().T
        a = (a + a.conj().T) / 2
        a = np.triu(np.tril(a, 2), -2) if kind == 16 else a
    else:
        a = np.diag(values).astype(complex if dtype.kind == "c" else float)
    a = (a * scale.get(kind, 1.0)).astype(dtype)
    a.flags.writeable = False
    return a


def _even(a):
    """In double precision, times a power of two that makes its largest entry about 1; and that power."""
    wide = a.astype(complex if a.dtype.kind == "c" else float)
    top = np.abs(wide).max(initial=0)
    half = int(np.frexp(top)[1]) // 2 if top else 0
    rest = int(np.frexp(top)[1]) - half if top else 0
    return wide * 2.0**-half * 2.0**-rest, (half, rest)


def eigen_ratios(a, w, v):
    """||A V - V W||_1 / (n ||A||_1 u) and ||V^H V - I||_1 / (n u)  [LAPACK ``dsyt21``, ``dsyt22``]."""
    n, u = len(a), roundoff(a.dtype)
    even, (half, rest) = _even(a)
    v = v.astype(complex if a.dtype.kind == "c" else float)
    values = w.astype(float) * 2.0**-half * 2.0**-rest
    residual = norm1(even @ v - v * values)
    apart = norm1(v.conj().T @ v - np.eye(v.shape[1]))
    return (residual / (n * norm1(even) * u) if residual else 0.0), apart / (max(n, 1) * u)


def values_ratio(a, found, wanted):
    """max |w - w'| / (max |w'| u)  [LAPACK ``ddrvst``]."""
    top = np.abs(wanted).max(initial=0)
    apart = np.abs(found.astype(float) - wanted.astype(float)).max(initial=0)
    return float(apart / (top * roundoff(a.dtype))) if apart else 0.0


def svd_ratios(a, u, s, vh):
    """||A - U S V^H||_1 / (n ||A||_1 u), ||U^H U - I||_1 / (m u), ||V^H V - I||_1 / (n u)  [LAPACK ``dbdt01``]."""
    (m, n), unit = a.shape, roundoff(a.dtype)
    even, (half, rest) = _even(a)
    u, vh = (x.astype(complex if a.dtype.kind == "c" else float) for x in (u, vh))
    k = len(s)
    residual = norm1(even - (u[:, :k] * (s.astype(float) * 2.0**-half * 2.0**-rest)) @ vh[:k])
    left, right = norm1(u.conj().T @ u - np.eye(u.shape[1])), norm1(vh @ vh.conj().T - np.eye(len(vh)))
    return (
        residual / (max(m, n) * norm1(even) * unit) if residual else 0.0,
        left / (max(m, 1) * unit),
        right / (max(n, 1) * unit),
    )
