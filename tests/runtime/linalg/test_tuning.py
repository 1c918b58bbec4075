"""Tile sizes: the same on every computer for the same facts, and sane for each."""

import numpy as np
import pytest

import tilewright as tw
from tests.matrices import spd_matrix as spd
from tilewright.kernels import caches, cpu
from tilewright.linalg import tuning
from tilewright.linalg.tuning import ONE_TILE, STEP, cholesky_tile_size, mixed_tile_size
from tilewright.rates import by_rule

CPUS = {
    "Xeon with AMX": {"avx2", "avx512f", "amx_tile"}, "EPYC Zen 4": {"avx512f"}, "AVX2": {"avx2"}, "Arm": {"asimd"},
    "unknown": set(),
}  # fmt: skip
CACHES = {"512 KiB": 512 << 10, "1 MiB": 1 << 20, "2 MiB": 2 << 20, "huge": 64 << 20}
SIZES = (ONE_TILE + 1, 640, 1000, 1024, 1500, 2048, 3072, 4096, 6144, 8192, 12288, 20000, 50000)
WORKERS = (1, 2, 4, 16, 64, 1000)

every_computer = pytest.mark.parametrize(("features", "cache"), [
    pytest.param(frozenset(features), size, id=f"{name}, {cache}")
    for name, features in CPUS.items() for cache, size in CACHES.items()
])  # fmt: skip


def sizes(features, cache, workers, ns=SIZES):
    return [cholesky_tile_size(n, workers, rates=by_rule(features), cache=cache) for n in ns]


@every_computer
def test_tiles_are_multiples_of_a_step_within_limits_and_cut_n_evenly(features, cache):
    for workers in WORKERS:
        for n, nb in zip(SIZES, sizes(features, cache, workers), strict=True):
            assert nb == n or nb % STEP == 0
            assert 96 <= nb <= 1024 + STEP
            nt = -(-n // nb)
            assert nb - n / nt < 2 * STEP


@every_computer
def test_more_rows_do_not_mean_smaller_tiles_and_more_workers_not_larger_ones(features, cache):
    """But for steps: of two numbers of tiles that take as long, either may be taken."""
    by_workers = [np.array(sizes(features, cache, workers, (2048, 4096, 8192, 16384))) for workers in WORKERS]
    for found in by_workers[1:]:
        assert (np.diff(found) >= 0).all()
    for few, more in zip(by_workers[1:], by_workers[2:], strict=False):
        assert (more <= few).all()


@every_computer
def test_all_workers_have_tiles_where_there_are_enough(features, cache):
    for workers in (2, 16, 64):
        for n, nb in zip(SIZES, sizes(features, cache, workers), strict=True):
            nt = -(-n // nb)
            assert nt**3 / max(9 * nt - 10, 1) >= min(workers / 2, (n // 128) ** 2 / 36)
