"""The figures of a GPU, on CPU tensors: that they are taken, not what they are."""

import json

import pytest
import torch
from click.testing import CliRunner

from tilewright.benchmarks.device import Device, covariance, measure_factors, measure_solve
from tilewright.cli import main


def test_covariance_is_made_without_an_index_matrix():
    a = covariance(5, "cpu", torch.float64)
    i = torch.arange(5, dtype=torch.float64)
    wanted = torch.exp(-16.0 * (i[:, None] - i).abs() / 5) + torch.eye(5, dtype=torch.float64)
    assert torch.allclose(a, wanted, rtol=1e-15)


def test_factor_records_have_shares_of_the_product_and_of_torch():
    records = {r["contender"]: r for r in measure_factors(300, 2, (64, 128), 80, "bf16", "cpu")}
    assert list(records) == [
        "torch.mm fp64 64",
        "torch.mm fp64 128",
        "torch.mm bf16 64",
        "torch.mm bf16 128",
        "tilewright factor bf16",
        "tilewright factor fp64",
        "torch.linalg.cholesky fp64",
    ]
    ours = records["tilewright factor bf16"]
    assert ours["gflops"] == pytest.approx(300**3 / 3 / ours["median"] / 1e9)
    assert ours["share"] > 0 and ours["tile_size"] == 80 and ours["switches"] and ours["where"]["torch"]
    theirs = records["torch.linalg.cholesky fp64"]
    assert (
        records["tilewright factor fp64"]["over_torch"]
        == theirs["median"] / records["tilewright factor fp64"]["median"]
    )
    assert theirs["over_torch"] == 1 and "over_torch" not in ours
    assert all("share" not in r or (r["share"] is None) == ("n" not in r) for r in records.values())


def test_solve_records_tell_the_path_and_the_ratio():
    ours, fp64, torchs = measure_solve(200, 1e2, "geometric", 1, "bf16", "cpu")
    assert [r["contender"] for r in (ours, fp64, torchs)] == [
        "tilewright bf16",
        "tilewright fp64",
        "torch cholesky + solve",
    ]
    assert ours["path"].startswith("bf16 ") and ours["hpl"] <= 1
    assert torchs["this_over_ours"] == torchs["median"] / ours["median"]


@pytest.mark.parametrize(
    "arguments", [["gemm", "--n", "90", "--tile", "32"], ["solve", "--n", "60", "--cond", "10"]], ids=str
)
def test_commands_take_a_device(arguments):
    result = CliRunner().invoke(main, ["bench", *arguments, "--device", "cpu", "--repeat", "1", "--json"])
    assert result.exit_code == 0, result.output
    assert all(json.loads(line)["where"]["device"] == "cpu" for line in result.output.splitlines())


def test_device_that_is_not_there_is_said_in_one_sentence():
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="--device cuda: torch .* sees no CUDA device here"):
            Device("cuda")


@pytest.mark.gpu
def test_small_figures_on_cuda():
    records = measure_factors(2048, 1, (1024,), 512, "bf16", "cuda")
    assert all(r["gflops"] > 0 for r in records) and records[0]["where"]["cuda"]
    assert measure_solve(1024, 1e2, "geometric", 1, "bf16", "cuda")[0]["hpl"] <= 1
