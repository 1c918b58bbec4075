"""What goes wrong on the command line ends in one sentence and an exit code, never in a traceback."""

import os
import resource
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import tilewright as tw
from tilewright.backends.mpi.launcher import LaunchError
from tilewright.cli import common, main
from tilewright.extras import brings

COMMAND = str(Path(sysconfig.get_path("scripts"), "tilewright"))


def said(result):
    """The one sentence."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result.output.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LaunchError("backend 'mpi' found no mpiexec"), 1),
        (tw.RankDied(1, "process 7 ended"), 1),
        (tw.WorkerDied("tls://127.0.0.1:1", "it is gone"), 1),
        (tw.SchedulerError("policy eager keeps 3 tasks back"), 1),
        (OSError(28, "cannot write a.json: No space left on device"), 2),
        (MemoryError("80 GB are needed"), 2),
    ],
)
@pytest.mark.parametrize("where", ["cholesky", "compare"])
def test_a_failure_is_one_sentence(error, code, where, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("tilewright.benchmarks.job.cholesky_job", fail)
    monkeypatch.setattr("tilewright.studies.schedulers.Table.__str__", fail)  # after the work
    arguments = ["cholesky", "--n=8"] if where == "cholesky" else ["compare", "cholesky", "--nt=2", "--workers=1"]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, said(result)) == (code, f"Error: {error}")


def test_a_command_that_lacks_a_package_names_the_extra_that_brings_it():
    def fail():
        with common.one_sentence():
            import_module("torch.nn")

    def import_module(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    with pytest.raises(
        common._BadInput, match=r"needs torch\.nn, which is not installed; .* -m pip install .*\[torch\]'"
    ):
        fail()


def test_without_torch_training_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for command in (["train", "--epochs=1"], ["bench", "train"]):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 2
        assert "torch" in said(result)


def test_that_csv_needs_pandas_is_said_before_the_work(monkeypatch, tmp_path):
    find = common.importlib.util.find_spec
    monkeypatch.setattr(common.importlib.util, "find_spec", lambda name: None if name == "pandas" else find(name))
    monkeypatch.setattr("tilewright.studies.schedulers.compare_schedulers", None)  # never called
    result = CliRunner().invoke(main, ["compare", "cholesky", f"--csv={tmp_path / 'a.csv'}"])
    assert (result.exit_code, said(result)) == (2, f"Error: --csv needs pandas; {brings('frames')}")


def test_ctrl_c_ends_with_130(tmp_path):
    script = "from tilewright.cli import main\nprint('up', flush=True)\nmain(['simulate', 'cholesky', '--nt=60', '--no-progress'])"
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    assert process.stdout.readline() == "up\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors.strip()) == (130, "interrupted")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_lacks_letters_loses_no_result(encoding, tmp_path):
    folder = tmp_path / "Größe ∑"
    folder.mkdir()
    environ = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"}
    for arguments in (
        ["cholesky", "--n=8", f"--trace={folder / 'trace.json'}"],
        ["simulate", "cholesky", "--nt=2", f"--json={folder / 'run.json'}"],
        ["report", str(folder / "run.json"), "-o", str(folder / "report.html")],
    ):
        done = subprocess.run([COMMAND, *arguments], env=environ, capture_output=True, timeout=60)
        assert done.returncode == 0 and all(line.startswith(b"wrote ") for line in done.stderr.splitlines())
    assert sorted(file.name for file in folder.iterdir()) == ["report.html", "run.json", "trace.json"]
    assert (b"\\u2211" if encoding == "latin-1" else b"report.html") in done.stderr  # ASCII click takes for an accident


def short_of_room():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


@pytest.mark.parametrize("option", ["--html", "--json", "--perfetto"])
def test_a_full_disk_is_one_sentence_and_keeps_the_file_before(option, tmp_path):
    """A limit of 4 KiB for a file stands for the disk."""
    file = tmp_path / ("old.html" if option == "--html" else "old.json")
    file.write_text("old")
    done = subprocess.run(
        [COMMAND, "simulate", "cholesky", "--nt=12", f"{option}={file}"],
        preexec_fn=short_of_room,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"Error: [Errno 27] cannot write {file}: File too large"
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [(file.name, "old")]
