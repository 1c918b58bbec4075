"""The ``tilewright`` command: what it prints, writes and exits with."""

import dataclasses
import gzip
import json
import os
import re
import subprocess
import sys
import types
import xml.etree.ElementTree as ET
from importlib.metadata import version

import click
import numpy as np
import pytest
import scipy.io
import scipy.sparse
from click.testing import CliRunner

from tilewright import BACKENDS, SCHEDULERS, cholesky_graph, cli, tiled_cholesky
from tilewright.extras import brings
from tilewright.linalg.gallery import random_spd
from tilewright.precision import FORMATS


def call(*args):
    """Run the command in this process; exceptions that are not exits come out."""
    return CliRunner().invoke(cli.main, [str(arg) for arg in args], catch_exceptions=False)


def job(*args):
    """The JSON object of a successful ``tilewright cholesky``."""
    result = call("cholesky", *args, "--json")
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    return json.loads(line)


def process(*args, **options):
    return subprocess.run(
        [sys.executable, "-m", "tilewright.cli", *map(str, args)], capture_output=True, text=True, timeout=60, **options
    )


# ------------------------------------------------------------------ cholesky


def test_json_says_what_ran_and_how_well():
    result = job("--n", 100, "--tile-size", 30, "--scheduler", "lws", "--workers", 2, "--repeat", 3)
    assert {key: result[key] for key in ("n", "nb", "nt", "dtype", "triangle", "scheduler", "workers", "passed")} == {
        "n": 100,
        "nb": 30,
        "nt": 4,
        "dtype": "float64",
        "triangle": "lower",
        "scheduler": "lws",
        "workers": 2,
        "passed": True,
    }
    assert {op: entry["tasks"] for op, entry in result["ops"].items()} == {
        "copy": 10,
        "potrf": 4,
        "trsm": 6,
        "syrk": 6,
        "gemm": 4,
        "tril": 4,
    }
    assert result["tasks"] == 34
    assert 0 < result["ratio"] < 30
    assert sorted(result["times"])[1] == result["seconds"] > 0
    assert result["gflops"] == pytest.approx(100**3 / 3 / result["seconds"] / 1e9, rel=0.02)
    assert max(result["bounds"].values()) <= result["makespan"]


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_dtype_and_upper_reach_the_factorisation(dtype):
    result = job("--n", 50, "--dtype", dtype, "--upper", "--tile-size", 20)
    assert (result["dtype"], result["triangle"], result["passed"]) == (dtype, "upper", True)


@pytest.mark.parametrize("n", [0, 1])
def test_the_smallest_matrices_work(n):
    result = job("--n", n)
    assert (result["n"], result["passed"]) == (n, True)
    assert call("cholesky", "--n", n).exit_code == 0


def test_the_table_is_for_people():
    result = call("cholesky", "--n", 60, "--tile-size", 20, "--compare", "--repeat", 3)
    assert result.exit_code == 0
    for text in (
        "60 x 60 matrix, float64",
        "3 x 3 of 20 rows",
        "(median of 3)",
        "GFLOP/s",
        "PASS",
        "gemm",
        "numpy",
        "scipy",
    ):
        assert text in result.stdout


def test_compare_gives_each_rivals_time_over_ours():
    result = job("--n", 60, "--compare")
    assert {"numpy", "scipy"} <= set(result["compare"])
    for entry in result["compare"].values():
        assert entry["speedup"] == pytest.approx(entry["seconds"] / result["seconds"])


def test_trace_and_pictures_are_written(tmp_path):
    files = {"trace": tmp_path / "t.json", "dag": tmp_path / "g.svg", "gantt": tmp_path / "g.png"}
    options = [text for name, path in files.items() for text in (f"--{name}", path)]
    result = job("--n", 60, "--tile-size", 20, *options)
    assert result["files"] == {name: str(path) for name, path in files.items()}
    events = json.loads(files["trace"].read_text())["traceEvents"]
    assert sum(event["ph"] == "X" for event in events) == result["tasks"]
    groups = [g.get("class", "") for g in ET.parse(files["dag"]).getroot().iter("{http://www.w3.org/2000/svg}g")]
    assert sum(name.startswith("task") for name in groups) == len(cholesky_graph(3))
    assert files["gantt"].read_bytes().startswith(b"\x89PNG")


def write_npy(path, a):
    np.save(path, a)


def write_npz(path, a):
    np.savez(path, a)


def write_sparse(path, a):
    scipy.sparse.save_npz(path, scipy.sparse.csr_matrix(a))


def write_mtx(path, a):
    scipy.io.mmwrite(path, scipy.sparse.coo_matrix(a), symmetry="symmetric")


def write_mtx_gz(path, a):
    write_mtx(path.with_suffix(""), a)
    path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.npy", write_npy),
        ("a.npz", write_npz),
        ("s.npz", write_sparse),
        ("a.mtx", write_mtx),
        ("a.mtx.gz", write_mtx_gz),
    ],
)
def test_a_matrix_is_read_from_a_file(tmp_path, name, write):
    write(tmp_path / name, random_spd(30))
    result = job("--matrix", tmp_path / name)
    assert (result["n"], result["dtype"], result["passed"]) == (30, "float64", True)
    assert result["ratio"] == job("--n", 30)["ratio"]


def test_a_matrix_of_integers_becomes_float64_or_what_is_asked(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[4, 2], [2, 5]]))
    assert job("--matrix", tmp_path / "a.npy")["dtype"] == "float64"
    assert job("--matrix", tmp_path / "a.npy", "--dtype", "float32")["dtype"] == "float32"


def test_a_matrix_that_is_not_positive_definite_exits_1_and_names_task_tile_and_order(tmp_path):
    a = np.eye(20)
    a[13, 13] = -1
    np.save(tmp_path / "a.npy", a)
    result = call("cholesky", "--matrix", tmp_path / "a.npy", "--tile-size", 8, "--json")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "potrf(1) on A[1,1]: leading minor of order 14 is not positive definite" in result.stderr


def test_a_ratio_that_does_not_pass_exits_1(monkeypatch):
    monkeypatch.setattr("tilewright.benchmarks.job.cholesky_ratio", lambda *args, **options: 31.0)
    result = call("cholesky", "--n", 10)
    assert result.exit_code == 1
    assert "FAIL" in result.stdout


# ------------------------------------------------------------------ cholesky, in a precision


@pytest.mark.parametrize("precision", FORMATS)
def test_precision_is_that_of_the_call_and_its_ratio_has_the_u_of_the_format(precision):
    result = job("--n", 96, "--tile-size", 32, "--precision", precision)
    a, form = random_spd(96), FORMATS[precision]
    factor, run = tiled_cholesky(a, tile_size=32, precision=precision, return_run=True)
    norm = np.abs(a).sum(axis=0).max()
    error = np.abs(a - factor.astype(np.float64) @ factor.T).sum(axis=0).max() / (96 * norm * form.u)
    assert result["ratio"] == pytest.approx(error, rel=0.1 if form.u > 2**-24 else 0.9)
    assert (result["dtype"], result["passed"]) == (form.accumulate, True)
    found = result["precision"]
    assert (found["name"], found["u"]) == (precision, form.u)
    assert {route.split("/")[0] for route in found["routes"]} == {form.storage} - {"float64", "float32"}
    expected = None if run.conversions is None else dataclasses.asdict(run.conversions)
    assert found["conversions"] == expected
    assert (expected is None) == (precision in ("fp64", "fp32"))


def test_the_table_says_operands_conversions_and_whose_roundoff():
    result = call("cholesky", "--n", 60, "--tile-size", 20, "--precision", "bf16", "--route", "reference")
    assert result.exit_code == 0, result.output
    for text in (
        "60 x 60 matrix, float32",
        "bf16 operands, by bfloat16/reference; sums and tiles in float32",
        "3 tiles, 0.0024 MB, each read 1.7 times; 0.004 MB less to read",
        "u = 2^-8 of bf16",
        "GFLOP/s",
    ):
        assert text in result.stdout


def test_a_number_that_does_not_fit_the_precision_exits_2(tmp_path):
    np.save(tmp_path / "a.npy", np.diag([1.0, 1e300]))
    result = call("cholesky", "--matrix", tmp_path / "a.npy", "--precision", "fp32")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "unscaled(0,0): A[0,0] has a number too large for FP32" in " ".join(result.stderr.split())
    assert "at row 1, column 1" in " ".join(result.stderr.split())


BAD = {
    "precision": (["--n", "4", "--precision", "int8"], "'bf16x3', 'bf16', 'fp16'"),
    "route-alone": (["--n", "4", "--route", "cblas"], "--route is for products in a --precision"),
    "route-fp32": (["--n", "4", "--precision", "fp32", "--route", "widen"], "is for products with 16-bit operands"),
    "complex-mixed": (["--n", "4", "--dtype", "complex64", "--precision", "fp32"], "is for real matrices"),
    "route-form": (["--n", "4", "--precision", "fp16", "--route", "mkldnn"], "torch has no such switch for FP16"),
    "negative-n": (["--n", "-1"], "-1 is not in the range"),
    "scheduler": (["--n", "4", "--scheduler", "magic"], "unknown scheduler 'magic'; known: eager, lifo"),
    "backend": (["--n", "4", "--backend", "magic"], "'serial', 'threads'"),
    "tile-size": (["--n", "4", "--tile-size", "0"], "0 is not in the range"),
    "both": (["--n", "4", "--matrix", "{}/square.npy"], "cannot be given with --matrix"),
    "no-file": (["--matrix", "{}/none.npy"], "does not exist"),
    "suffix": (["--matrix", "{}/notes.txt"], "a matrix file ends in .npy, .npz, .mtx"),
    "damaged": (["--matrix", "{}/damaged.npy"], "cannot read 'damaged.npy'"),
    "objects": (["--matrix", "{}/objects.npy"], "cannot read 'objects.npy'"),
    "damaged-mtx": (["--matrix", "{}/damaged.mtx"], "cannot read 'damaged.mtx'"),
    "two-arrays": (["--matrix", "{}/two.npz"], "holds 2 arrays (a, b)"),
    "not-square": (["--matrix", "{}/flat.npy"], "must be square, not 2 x 3"),
    "nan": (["--matrix", "{}/nan.npy"], "NaN or infinity at (1, 1)"),
    "complex-to-real": (["--matrix", "{}/complex.npy", "--dtype", "float32"], "would lose its imaginary part"),
    "too-large": (["--n", "10000000"], "Unable to allocate"),
    "trace-folder": (["--n", "4", "--trace", "{}/none/t.json"], "there is no folder"),
    "gantt-suffix": (["--n", "4", "--gantt", "{}/g.bmp"], "must end in .png or .svg or .pdf"),
    "dag-suffix": (["--n", "4", "--dag", "{}/g.png"], "must end in .svg or .dot or .gv"),
}


@pytest.mark.parametrize(("args", "message"), BAD.values(), ids=list(BAD))
def test_bad_input_exits_2_with_one_sentence(tmp_path, args, message):
    np.save(tmp_path / "square.npy", np.eye(2))
    np.save(tmp_path / "flat.npy", np.ones((2, 3)))
    np.save(tmp_path / "nan.npy", np.diag([1.0, np.nan]))
    np.save(tmp_path / "complex.npy", np.eye(2) + 0j)
    np.save(tmp_path / "objects.npy", np.array([[None]]), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=np.eye(2), b=np.eye(2))
    (tmp_path / "notes.txt").write_text("a matrix")
    (tmp_path / "damaged.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "damaged.mtx").write_text("%%MatrixMarket matrix coordinate real symmetric\n2 2")
    before = sorted(tmp_path.iterdir())
    result = call("cholesky", *(arg.format(tmp_path) for arg in args))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "args",
    [
        ["cholesky", "--gantt"],
        ["compare", "cholesky", "--plot"],
        ["scaling", "--plot"],
        ["train", "--plot"],
        ["precision", "--map"],
    ],
    ids=" ".join,
)
def test_without_matplotlib_a_picture_is_refused_before_the_work(tmp_path, monkeypatch, args):
    for name in list(sys.modules):
        if name.startswith("matplotlib"):
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = call(*args, tmp_path / "g.png")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert f"{args[-1]} needs matplotlib; {brings('plot')}" in result.stderr


def test_progress_is_drawn_on_standard_error_and_only_if_asked_or_on_a_terminal():
    quiet, loud = (process("cholesky", "--n", 40, "--tile-size", 10, "--json", *more) for more in ([], ["--progress"]))
    assert quiet.returncode == loud.returncode == 0
    assert quiet.stderr == ""
    assert "34/34" in loud.stderr and "cholesky nt=4" in loud.stderr
    assert json.loads(loud.stdout)["nt"] == 4


def test_live_says_where_the_page_is_and_is_no_bar():
    result = call("cholesky", "--n", 40, "--tile-size", 10, "--json", "--live")
    assert result.exit_code == 0 and json.loads(result.stdout)["nt"] == 4
    assert re.fullmatch(r"follow the run at http://127\.0\.0\.1:\d+/[\w-]{22}/\n", result.stderr)


# ------------------------------------------------------------------ dag


def test_dag_prints_dot_and_its_size_apart():
    result = call("dag", "cholesky", "--nt", 8)
    assert result.exit_code == 0
    assert result.stdout == cholesky_graph(8).to_dot()
    assert result.stderr.startswith("120 tasks, 252 edges, critical path 16 tasks of length 62, work 512 ")


def test_dag_of_a_precision_has_its_conversions():
    result = call("dag", "cholesky", "--nt", 3, "--precision", "bf16")
    assert result.exit_code == 0
    labels = [f'label="convert({i},{k})"' for i, k in ((1, 0), (2, 0), (2, 1))]
    assert all(result.stdout.count(label) == 1 for label in labels)
    assert result.stderr.startswith("13 tasks")


def test_dag_writes_files(tmp_path):
    result = call("dag", "cholesky", "--nt", 3, "--svg", tmp_path / "g.svg", "--dot", tmp_path / "g.dot")
    assert (result.exit_code, result.stdout) == (0, "")
    assert (tmp_path / "g.dot").read_text() == cholesky_graph(3).to_dot()
    assert ET.parse(tmp_path / "g.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_dag_of_many_tiles_is_drawn_in_groups_and_its_dot_has_all(tmp_path):
    result = call(
        "dag", "cholesky", "--nt", 12, "--limit", 100, "--svg", tmp_path / "g.svg", "--dot", tmp_path / "g.dot"
    )
    assert (result.exit_code, result.stdout) == (0, "")
    assert "a box: all tasks of one colour in 2 layers" in (tmp_path / "g.svg").read_text()
    assert (tmp_path / "g.dot").read_text() == cholesky_graph(12).to_dot()
    assert "364 tasks" in result.stderr


# ------------------------------------------------------------------ info


def test_info_lists_engines_policies_libraries_and_kernels():
    result = call("info", "--json")
    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    assert found["backends"] == list(BACKENDS) and found["schedulers"] == list(SCHEDULERS)
    assert found["tilewright"] == version("tilewright")
    assert "version" in found["libraries"]["openblas"] and "version" in found["libraries"][found["blas"]]
    assert found["optional"]["matplotlib"] == version("matplotlib")
    gemm = {"op": "gemm", "device": "cpu", "storage": "float64", "accumulate": "float64", "source": "reference"}
    assert gemm in found["kernels"]


def loaded(statement, *modules):
    """(those of the modules that a new process has loaded after the statement, what it printed)."""
    code = f"{statement}; import sys; print(*({set(modules)} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stderr.split(), done.stdout


@pytest.fixture(scope="module")
def info_alone():
    """`loaded` of ``info --json`` in a new process: tests load kernels of more libraries and devices than users have."""
    info = "from tilewright.cli import main; main(['info', '--json'], standalone_mode=False)"
    return loaded(info, "torch", "dask", "distributed", "mpi4py", "matplotlib", "sklearn")


def test_info_imports_no_optional_package(info_alone):
    assert info_alone[0] == []


def test_info_is_a_table_for_people_of_80_columns(info_alone):
    command = [sys.executable, "-m", "tilewright.cli", "info"]
    environment = {**os.environ, "COLUMNS": "80"}
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
    for text in ("critical-path", "openblas", "potrf", "float32, products in"):
        assert text in printed
    table = printed[printed.index("Kernels") :].splitlines()
    assert len(table) < 80 and {len(line.rstrip()) for line in table[1:]} == {80}
    words = {word.strip(",") for line in table for word in line.replace("│", " ").split()}
    kernels = json.loads(info_alone[1])["kernels"]
    names = {row["op"] for row in kernels} | {row["source"].rpartition("/")[2] for row in kernels}
    assert names <= words, "no name is broken"


# ------------------------------------------------------------------ bench


def test_bench_forwards_to_the_command_of_its_module(monkeypatch):
    @click.command()
    @click.option("--n", type=int)
    def command(n):
        click.echo(f"measured {n}")

    module = types.ModuleType("tilewright.benchmarks.overhead")
    module.command = command
    monkeypatch.setitem(sys.modules, module.__name__, module)
    result = call("bench", "overhead", "--n", 7)
    assert (result.exit_code, result.stdout) == (0, "measured 7\n")


def test_bench_lists_its_table_without_importing(monkeypatch):
    for name in cli.BENCHMARKS:
        monkeypatch.setitem(sys.modules, f"tilewright.benchmarks.{name}", None)  # an import would fail
    result = call("bench", "--help")
    assert result.exit_code == 0
    words = " ".join(result.stdout.split())  # click wraps long lines
    for name, (_, summary) in cli.BENCHMARKS.items():
        assert name in words and summary in words


def test_every_command_of_the_table_has_its_name_and_its_summary_in_the_help():
    listed = call("--help").stdout
    for name, (_, summary) in cli.COMMANDS.items():
        command = cli.main.get_command(click.Context(cli.main), name)
        assert command.name == name
        assert name in listed and " ".join(summary.split()) in " ".join(listed.split())


def test_a_benchmark_that_cannot_be_imported_exits_2(monkeypatch):
    monkeypatch.setitem(sys.modules, "tilewright.benchmarks.overhead", None)
    result = call("bench", "overhead")
    assert result.exit_code == 2
    assert "tilewright.benchmarks.overhead" in result.stderr


def test_an_unknown_benchmark_exits_2():
    result = call("bench", "nonsense")
    assert result.exit_code == 2
    assert "No such command 'nonsense'" in result.stderr


# ------------------------------------------------------------------ the command itself


def test_the_installed_command_says_its_version():
    done = process("--version")
    assert (done.returncode, done.stdout) == (0, f"tilewright {version('tilewright')}\n")


def test_help_loads_no_heavy_library():
    show = "from tilewright.cli import main; main(['--help'], standalone_mode=False)"
    heavy, printed = loaded(show, "scipy.linalg", "torch", "rich", "matplotlib", "networkx", "dask")
    assert heavy == []
    assert "Usage:" in printed


def test_importing_the_package_loads_neither_click_nor_rich_nor_a_plotting_library():
    heavy = "click", "rich", "matplotlib", "networkx", "torch", "dask", "mpi4py"
    assert loaded("import tilewright", *heavy)[0] == []


def test_a_full_disk_is_one_sentence_and_a_closed_pipe_is_none():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tilewright.cli", "dag", "cholesky", "--nt", "3"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode != 0 and "Traceback" not in done.stderr and "No space left on device" in done.stderr
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "tilewright.cli", "dag", "cholesky", "--nt", "3"],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1 and done.stderr == ""


def test_numbers_of_workers_that_are_none_say_what_they_look_like():
    result = call("compare", "cholesky", "--nt", 3, "--workers", "2,x")
    assert result.exit_code == 2 and "'--workers': '2,x' is not like 2,16" in result.stderr
