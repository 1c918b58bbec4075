"""The kernels of a recursive panel: one after the other they are the factorisation of the panel."""

import numpy as np
import pytest
from matrices import DTYPES, random_matrix, roundoff

from tilewright.kernels import blas, panel, reference, table
from tilewright.kernels.getrf import flops

LIBRARIES = [name for name, found in blas.available().items() if isinstance(found, blas.Library)]


def stages(of, first=0, last=None):
    last = of if last is None else last
    if last - first == 1:
        return [(first,)]
    middle = (first + last) // 2
    return [*stages(of, first, middle), (first, middle, last), *stages(of, middle, last)]


def factored(run, a, nb, of, threshold=1.0):
    tiles = [a[i : i + nb] for i in range(0, len(a), nb)]
    piv = np.full(min(a.shape), -1, np.int32)
    total = 0.0
    shapes = [tile.shape for tile in tiles]
    for stage in stages(of):
        if len(stage) == 1:
            run["getrf2"](tiles, piv, *stage, of, threshold)
            total += panel.flops_getrf2(*stage, of, shapes)
            continue
        run["trsm2"](tiles[0], *stage, of)
        total += panel.flops_trsm2(*stage, of, shapes[0])
        for tile in tiles[1:]:
            run["gemm2"](tiles[0], tile, *stage, of)
            total += panel.flops_gemm2(*stage, of, shapes[0], tile.shape)
    return piv, total


@pytest.mark.parametrize("library", [*LIBRARIES, "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("m", "n", "nb", "of"), [(40, 16, 16, 4), (37, 9, 9, 4), (9, 9, 9, 8), (5, 9, 9, 4), (30, 3, 7, 4), (6, 1, 4, 2)]
)
def test_leaves_and_updates_factor_the_panel(m, n, nb, of, dtype, library):
    letter = table.DTYPES[dtype]
    ops = {"getrf2": panel.GETRF2, "trsm2": panel.TRSM2, "gemm2": panel.GEMM2}
    run = {
        name: op.reference if library == "reference" else op.build(blas.load(library), letter)
        for name, op in ops.items()
    }
    a = random_matrix(m, n, dtype)
    wanted, other = a.copy(), np.zeros(min(m, n), np.int32)
    reference.getrf([wanted], other)
    bits = set()
    for order in "FC":
        found = a.copy(order=order)
        piv, total = factored(run, found, nb, of)
        assert np.array_equal(piv, other) and np.allclose(found, wanted, atol=1e4 * roundoff(dtype))
        bits.add(found.tobytes("A" if order == "F" else "F"))
        assert total == pytest.approx(flops([a.shape])) or m < n  # a wide panel's last leaf takes what is left
    assert len(bits) == 1 or library == "reference"


@pytest.mark.parametrize("dtype", DTYPES)
def test_leaves_prefer_the_first_tile_as_a_single_panel_does(dtype):
    names = ("getrf2", "trsm2", "gemm2")
    ops = {"getrf2": panel.GETRF2, "trsm2": panel.TRSM2, "gemm2": panel.GEMM2}
    for seed in range(3):
        a = random_matrix(30, 8, dtype, seed)
        wanted, other = a.copy(), np.zeros(8, np.int32)
        tiles = [wanted[:8], wanted[8:]]
        reference.getrf(tiles, other, 0.3)
        found = np.asfortranarray(a)
        run = {name: ops[name].build(blas.load("openblas"), table.DTYPES[dtype]) for name in names}
        piv, _ = factored(run, found, 8, 4, 0.3)
        assert np.array_equal(piv, other) and np.allclose(found, wanted, atol=1e4 * roundoff(dtype))
