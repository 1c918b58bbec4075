"""The sparse benchmark at a small size: what it counts is right, and its command reports all five questions."""

import json

import numpy as np
import pytest
import scipy.sparse as sp
from click.testing import CliRunner

from tilewright.benchmarks import spmv
from tilewright.benchmarks.petsc_matmult import rows


def test_the_stencil_of_petsc_is_ours():
    indptr, columns, values = rows(5, 0, 25)
    assert (sp.csr_array((values, columns, indptr), shape=(25, 25)) != spmv.stencil(5)).nnz == 0


def test_a_copy_moves_some_bytes():
    assert 1e8 < spmv.copy_rate(1 << 20, repeat=1) < 1e13


def test_simulated_gain_grows_with_alpha_up_to_one_latency_for_s():
    records = spmv.raised_alpha(48, 16, 4, [1e-7, 1e-5, 1e-3])
    gains = {method: [r["of_separate"] for r in records if r["method"] == method] for method in spmv.METHODS}
    assert gains["separate"] == [1, 1, 1]
    for method in ("halo", "two-stage"):
        assert gains[method] == sorted(gains[method]) and gains[method][-1] < 4
    assert gains["halo"][0] < 1.01


def test_simulated_efficiency_on_a_torus_is_the_formula():
    from tilewright.comm.domains import efficiency

    machine = spmv.tw.Machine(alpha=1e-6, beta=1e-8, gamma=1e-9)
    for cut in ("slab", "patch"):
        assert spmv.torus_efficiency(cut, 16, 64, machine) == pytest.approx(efficiency(cut, 16, 32, machine), rel=1e-12)


def test_where_there_is_no_petsc_there_are_no_times(monkeypatch):
    monkeypatch.setattr(spmv.shutil, "which", lambda name, path: None)
    assert spmv.petsc(4, 1) == []


def test_command_prints_products_overhead_powers_and_ghosts(tmp_path, monkeypatch):
    monkeypatch.setattr(spmv, "petsc", lambda n, repeat: [0.25] * repeat)
    monkeypatch.setattr(spmv, "raised_alpha", lambda n, p, s, alphas, real=spmv.raised_alpha: real(32, 16, s, [1e-5]))
    monkeypatch.setattr(spmv, "blocks", lambda sizes, s, repeat, real=spmv.blocks: real([20], s, repeat))
    monkeypatch.setattr(spmv, "copy_rate", lambda nbytes: 1e10)
    arguments = ["--n", "60", "--repeat", "1", "--json", "--output", str(tmp_path / "spmv.jsonl")]
    result = CliRunner().invoke(spmv.command, [*arguments, "--plot", str(tmp_path / "gain.svg")])
    assert result.exit_code == 0, result.output
    printed = [json.loads(line) for line in result.output.splitlines()]
    assert {r["benchmark"] for r in printed} == {
        "spmv",
        "spmv overhead",
        "spmv powers",
        "spmv simulated powers",
        "spmv ghosts",
    }
    products = {r["contender"]: r for r in printed if r["benchmark"] == "spmv"}
    bound = products["bound: its bytes by rows at the rate of a copy"]
    nnz = 5 * 60 * 60 - 4 * 60
    assert bound["milliseconds"] == pytest.approx((nnz * 12 + 3601 * 4 + 2 * 3600 * 8) / 1e7)
    fewest = products["bound: its bytes by diagonals at the rate of a copy"]
    assert fewest["milliseconds"] == pytest.approx((3 + 2) * 3600 * 8 / 1e7)  # 3 diagonals of a symmetric matrix, x, y
    assert products["PETSc MatMult, 2 ranks"]["milliseconds"] == 250
    assert np.isclose(products["SciPy, one core"]["of_scipy"], 1)
    assert [r["redundant"] for r in printed if r["benchmark"] == "spmv powers"] == [0, 2 * 6 * 20, 2 * 4 * 20]
    assert len((tmp_path / "spmv.jsonl").read_text().splitlines()) == len(printed)
    assert (tmp_path / "gain.svg").read_text().startswith("<?xml")
