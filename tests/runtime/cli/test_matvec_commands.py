"""tilewright matvec, scaling, calibrate, bench matvec."""

import json

import pytest
from click.testing import CliRunner

from tilewright.cli import main
from tilewright.machine import Machine


def command(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


class TestMatvec:
    @pytest.mark.parametrize("backend", ["serial", "threads", "mpi"])
    def test_product_passes_on_every_engine(self, backend):
        done = command("matvec", "--n", 60, "--layout", "grid", "--grid", "2x2", "--backend", backend, "--json")
        result = json.loads(done.stdout)
        assert done.exit_code == 0 and result["passed"] and result["grid"] == [2, 2]
        assert result["messages"] == (8 if backend == "mpi" else 0)

    def test_table_for_people(self):
        done = command("matvec", "--n", 50, "--ranks", 3, "--backend", "serial", "--transposed", "--overlap")
        assert done.exit_code == 0
        assert done.stdout.startswith("A^T x, n = 50, float64, 3 x 1 ranks, serial")
        assert "PASS" in done.stdout

    def test_picture_of_the_lecture(self):
        done = command("matvec", "--n", 12, "--layout", "grid", "--grid", "3x4", "--picture")
        assert done.stdout.splitlines()[0].split() == ["x0", "x3", "x6", "x9"]

    @pytest.mark.parametrize(
        ("args", "sentence"),
        [
            (["--grid", "two"], "'two' is not like 2x3"),
            (["--layout", "grid", "--grid", "2x2", "--ranks", 3], "a grid of 2 x 2 has 4 ranks, not 3"),
            (["--grid", "2x2"], "goes with layout='grid'"),
            (["--n", 100, "--picture"], "fits no screen"),
        ],
    )
    def test_bad_input_is_one_sentence(self, args, sentence):
        done = command("matvec", *args)
        assert done.exit_code == 2 and sentence in done.stderr


class TestScaling:
    def test_table_figure_and_json(self, tmp_path):
        args = ["scaling", "--layout", "rows", "--most", 16, "--n", 64, "--memory", 256, "--p", 4]
        done = command(*args, "--plot", tmp_path / "s.png")
        assert done.exit_code == 0 and done.stdout.split()[:5] == ["layout", "p", "n", "formula", "simulated"]
        assert (tmp_path / "s.png").stat().st_size > 1000
        points = json.loads(command(*args, "--no-simulate", "--json").stdout)["points"]
        assert len(points) == 5 + 3 + 3 and points[0]["simulated"] is None

    def test_bad_input_is_one_sentence(self):
        done = command("scaling", "--p", 8)
        assert done.exit_code == 2 and "p=8 is no square" in done.stderr
        assert command("scaling", "--plot", "no/such/folder/s.png").exit_code == 2


class TestCalibrate:
    def test_machine_on_disk_is_a_machine(self, tmp_path):
        done = command("calibrate", "--seconds", 0.1, "--largest", 4096, "--n", 128, "--machine", tmp_path / "m.json")
        assert done.exit_code == 0 and "gamma of dgemv" in done.stdout
        assert Machine.from_json(tmp_path / "m.json").gamma > 0

    def test_json_has_one_line(self):
        done = command("calibrate", "--seconds", 0.1, "--largest", 64, "--n", 128, "--json")
        assert [size for size, _ in json.loads(done.stdout)["messages"]] == [8, 16, 32, 64]


def test_benchmark_reports_every_contender(tmp_path):
    done = command("bench", "matvec", "--n", 128, "--repeat", 1, "--output", tmp_path / "out.jsonl", "--json")
    assert done.exit_code == 0, done.output
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert {r["contender"] for r in records if "contender" in r} == {
        "rows, 2 ranks",
        "columns, 2 ranks",
        "rows transposed, 2 ranks",
        "numpy @",
        "bound: half a copy",
        "read only: the maximum of A",
    }
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == len(records)
