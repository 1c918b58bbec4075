"""What vectors and triangles have on tensors is what they have on arrays."""

import numpy as np
import pytest
from matrices import DTYPES, random_matrix, roundoff, spd_matrix
from optional import torch

from tilewright.kernels import move, reference, table, tensor_vectors, vectors
from tilewright.kernels.hemm import blocks

pytestmark = pytest.mark.needs("torch")

N, M = 9, 3


def numbers(count, rows=N, columns=M, dtype="float64", seed=0):
    return [random_matrix(rows, columns, dtype, seed + k) for k in range(count)]


def small(rows, seed=50):
    return np.abs(random_matrix(rows, M, seed=seed)) + 0.5


def d():
    return np.abs(random_matrix(N, 1, seed=90)) + 0.5


def stacked():
    """Room for three vectors of a basis, below each other."""
    return np.concatenate(numbers(3))


#                   arguments, those of a group in a list; the written ones from which place on
CASES = {
    "narrow": lambda: ([d(), *numbers(1), small(3), *numbers(1, dtype="float32")], 3),
    "widen": lambda: ([d(), *numbers(1, dtype="float32"), small(3), *numbers(1)], 3),
    "dot": lambda: ([*numbers(2), small(1)], 2),
    "gather": lambda: ([[small(3, 1), small(3, 2), small(3, 3)], small(3)], 1),
    "turn": lambda: ([[small(1, 1), small(1, 2)], small(1, 3), small(1)], 1),
    "sweep": lambda: ([small(1), *numbers(2)], 2),
    "step": lambda: ([[small(1, 1), small(1, 2)], small(1, 3), small(1, 4), small(1)], 2),
    "advance": lambda: ([small(1), d(), *numbers(4), small(3)], 4),
    "descend": lambda: ([small(1), d(), *numbers(4), small(3)], 4),
    "residual": lambda: ([d(), *numbers(4), small(3)], 4),
    "measure": lambda: ([d(), *numbers(1), small(3)], 2),
    "append": lambda: ([*numbers(1), np.ones((1, 1)), stacked()], 2),
    "project": lambda: ([stacked(), np.ones((1, 1)), *numbers(1), small(3)], 3),
    "total": lambda: ([[small(1, 1), small(1, 2)], small(1)], 1),
    "orthogonalize": lambda: ([stacked(), np.ones((1, 1)), small(3), *numbers(1, seed=7)], 3),
    "root": lambda: ([[small(1, 1), small(1, 2)], small(1)], 1),
    "normalize": lambda: ([*numbers(1), small(1), *numbers(1)], 2),
    "combine": lambda: ([stacked(), np.ones((1, 1)), small(3), *numbers(1, seed=7)], 3),
    "add": lambda: (numbers(2), 1),
    "norms": lambda: ([random_matrix(N, N), *numbers(2, columns=1)], 1),
    "normsd": lambda: ([random_matrix(N, N), *numbers(1, columns=1)], 1),
    "asymmetry": lambda: ([random_matrix(N, N), random_matrix(N, N, seed=1), np.zeros((2, 1))], 2),
    "logdiag": lambda: ([spd_matrix(N), np.zeros((1, 1))], 1),
}


def test_every_op_on_vectors_is_here():
    assert set(CASES) == set(vectors.KERNELS) <= set(tensor_vectors.KERNELS)


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_arrays(name):
    arguments, first = CASES[name]()
    there = [buffers_of(argument, lambda a: torch.from_numpy(a.copy())) for argument in arguments]
    before = [buffers_of(argument, np.copy) for argument in arguments]
    vectors.KERNELS[name](*arguments)
    assert tensor_vectors.KERNELS[name](*there) is None
    for place, argument in enumerate(zip(arguments, there, before, strict=True)):
        for array, tensor, old in zip(*map(flat, argument), strict=True):
            u = roundoff(str(array.dtype))
            assert np.allclose(tensor.numpy(), array, rtol=100 * u, atol=100 * u)
            assert place >= first or np.array_equal(tensor.numpy(), old)


def flat(argument):
    return argument if isinstance(argument, list) else [argument]


def buffers_of(argument, made):
    return list(map(made, argument)) if isinstance(argument, list) else made(argument)


def test_right_hand_sides_that_are_done_get_zeros():
    beta, rho = torch.ones((1, 3)), torch.tensor([[0.0, torch.inf, 2.0]])
    tensor_vectors.turn([torch.ones((1, 3))], rho, beta)
    assert beta.tolist() == [[0.0, 0.0, 0.5]] and rho.tolist() == [[1.0, 1.0, 1.0]]
    v = torch.ones((2, 2))
    tensor_vectors.normalize(torch.ones((2, 2)), torch.tensor([[0.0, 2.0]]), v)
    assert v.tolist() == [[0.0, 0.5], [0.0, 0.5]]


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_triangles_agree_with_the_reference(dtype, lower, unit):
    u = 1e3 * roundoff(dtype)
    L = np.linalg.cholesky(spd_matrix(N, dtype)) / 3
    t = L if lower else np.ascontiguousarray(L.T)
    right, left = random_matrix(4, N, dtype), random_matrix(N, 4, dtype)

    def both(name, *arguments, flags=()):
        row = table.lookup(name, "torch", dtype, dtype)
        given, wanted = torch.from_numpy(arguments[-1].copy()), arguments[-1].copy()
        row.function(*map(torch.from_numpy, arguments[:-1]), given, *flags)
        getattr(reference, name)(*arguments[:-1], wanted, *flags)
        return given.numpy(), wanted

    for name, arguments, flags in (
        ("trsmr", (t, right), (lower, unit)),
        ("trsml", (t, left), (False, lower, unit, -1.0)),
        ("trsml", (t, left), (True, lower, unit)),
        ("gemml", (right, left, random_matrix(4, 4, dtype)), ()),
        ("gemml", (left, left, random_matrix(4, 4, dtype)), (True,)),
    ):
        given, wanted = both(name, *arguments, flags=flags)
        assert np.allclose(given, wanted, rtol=u, atol=u), name
    given, wanted = both("trtri", L, flags=(unit,))
    assert np.allclose(np.tril(given), np.tril(wanted), rtol=u, atol=u)


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_with_a_symmetric_matrix_agree_with_the_reference(dtype):
    a, u = random_matrix(N, N, dtype), 1e3 * roundoff(dtype)
    x, y = numbers(2, dtype=dtype)
    whole = np.empty((N, 256), dtype)
    blocks(a, whole)
    f = torch.empty((N, N), dtype=torch.from_numpy(a).dtype)
    tensor_vectors.blocks(torch.from_numpy(a), f)
    assert np.array_equal(f.numpy(), whole[:, :N])
    wanted = y.copy()
    reference.hemmd(a, whole, x, wanted)
    given = torch.from_numpy(y.copy())
    tensor_vectors.hemmd(torch.from_numpy(a), f, torch.from_numpy(x), given)
    assert np.allclose(given.numpy(), wanted, rtol=u, atol=u)
    wanted = x.copy(), y.copy()
    reference.hemm(a, x, y, *wanted)
    given = [torch.from_numpy(v.copy()) for v in (x, y)]
    tensor_vectors.hemm(*map(torch.from_numpy, (a, x, y)), *given)
    assert all(np.allclose(g.numpy(), w, rtol=u, atol=u) for g, w in zip(given, wanted, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_moves_agree_with_those_of_arrays(dtype):
    a = random_matrix(N, N, dtype)
    for same in (True, False):
        array, tensor = a.copy(), torch.from_numpy(a.copy())
        target, there = (array, tensor) if same else (np.zeros_like(a), torch.zeros_like(tensor))
        move.mirror(array, target)
        tensor_vectors.mirror(tensor, there)
        assert np.array_equal(there.resolve_conj().numpy(), target)
    for name in ("identity", "zero"):
        array, tensor = a.copy(), torch.from_numpy(a.copy())
        getattr(move, name)(array)
        tensor_vectors.KERNELS[name](tensor)
        assert np.array_equal(tensor.numpy(), array)
