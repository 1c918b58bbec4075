"""Tile sizes: the same on every computer for the same facts, and sane for each."""

from itertools import pairwise

import numpy as np
import pytest

import tilewright as tw
from tests.matrices import spd_matrix as spd
from tilewright import rates
from tilewright.kernels import caches, cpu
from tilewright.linalg.tuning import ONE_TILE, STEP, cholesky_tile_size, mixed_tile_size
from tilewright.rates import by_rule

CPUS = {
    "Xeon with AMX": {"avx2", "avx512f", "amx_tile"}, "EPYC Zen 4": {"avx512f"}, "AVX2": {"avx2"}, "Arm": {"asimd"},
    "unknown": set(),
}  # fmt: skip
CACHES = {"512 KiB": 512 << 10, "1 MiB": 1 << 20, "2 MiB": 2 << 20, "huge": 64 << 20}
SIZES = (ONE_TILE + 1, 640, 1000, 1024, 1500, 2048, 3072, 4096, 6144, 8192, 12288, 20000)
WORKERS = (1, 2, 16, 64, 1000)

every_computer = pytest.mark.parametrize(
    ("features", "cache"),
    [pytest.param(frozenset(f), size, id=f"{name}, {c}") for name, f in CPUS.items() for c, size in CACHES.items()],
)


def sizes(features, cache, workers, ns=SIZES):
    return [cholesky_tile_size(n, workers, rates=by_rule(features), cache=cache) for n in ns]


@every_computer
def test_tiles_are_multiples_of_a_step_within_limits_and_cut_n_evenly(features, cache):
    for workers in WORKERS:
        for n, nb in zip(SIZES, sizes(features, cache, workers), strict=True):
            assert nb == n or nb % STEP == 0
            assert 96 <= nb <= 1024
            assert nb - n / -(-n // nb) < 2 * STEP


@every_computer
def test_larger_matrices_do_not_have_smaller_tiles_and_more_workers_not_larger_ones(features, cache):
    by_workers = [np.array(sizes(features, cache, workers, (2048, 4096, 8192, 16384))) for workers in WORKERS]
    assert all((np.diff(found) >= 0).all() for found in by_workers[1:])
    assert all((more <= few).all() for few, more in pairwise(by_workers[1:]))


@every_computer
def test_from_1000_rows_on_tiles_are_at_least_as_many_as_workers_as_far_as_they_can_be_384_rows(features, cache):
    for workers in (2, 16, 64):
        for n, nb in zip(SIZES[2:], sizes(features, cache, workers, SIZES[2:]), strict=True):
            assert (-(-n // nb)) ** 2 >= min(workers, (n / 384) ** 2)


@pytest.mark.parametrize("size", [cholesky_tile_size, mixed_tile_size])
def test_up_to_one_tile_lapack_has_the_matrix_whatever_the_computer(size, monkeypatch):
    monkeypatch.setattr(rates, "stored", pytest.fail)
    assert [size(n, workers) for n in (0, 1, 100, ONE_TILE) for workers in (1, 64)] == [1, 1, 1, 1, 100, 100, 576, 576]


def test_slower_kernels_and_cheaper_tasks_make_smaller_tiles():
    rule = by_rule(frozenset({"avx512f"}))
    found = [
        cholesky_tile_size(4096, 16, rates=rates.Rates({"fp64": flops}, rule.bandwidth, task), cache=1 << 20)
        for flops, task in ((4e9, 4e-6), (4e9, 4e-5), (45e9, 4e-5), (45e9, 1e-3))
    ]
    assert found == sorted(found) and found[0] < found[-1]


@pytest.fixture
def pretended(tmp_path, monkeypatch):
    """A function that lets this computer be another one."""
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path))

    def pretend(features, found):
        monkeypatch.setattr(cpu, "features", lambda: frozenset(features))
        monkeypatch.setenv(caches.VARIABLE, found)

    return pretend


@pytest.mark.parametrize("found", ["L2=512K", "L2=1M", "L1d=48K,L2=2M,L3=300M", "none"])
def test_what_is_chosen_follows_from_the_instructions_and_caches_of_the_computer(found, pretended):
    for features in CPUS.values():
        pretended(features, found)
        level2 = {"L2=512K": 512 << 10, "L1d=48K,L2=2M,L3=300M": 2 << 20}.get(found, 1 << 20)
        wanted = sizes(frozenset(features), level2, 2)
        assert [cholesky_tile_size(n, 2) for n in SIZES] == wanted
    a = spd(ONE_TILE + 24, "float64")
    run = tw.tiled_cholesky(a, workers=2, return_run=True)[1]
    assert run["A"].tile_size == cholesky_tile_size(len(a), 2)
