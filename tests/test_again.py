"""What `make test` repeats, by a run of pytest with its options."""

import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

TESTS = """
from pathlib import Path

from again import measures_the_machine


def go(name):
    goes = Path(__file__).with_name(name)
    with goes.open("a") as file:
        file.write("x")
    return len(goes.read_text())


@measures_the_machine
def test_value_of_the_machine():
    assert go("machine") == 3


def test_value():
    assert go("value") == 3


def test_error():
    if go("error") < 2:
        raise OSError("the port is taken")
"""


def test_a_wrong_value_is_final_unless_the_test_measures_the_machine(tmp_path):
    (tmp_path / "test_goes.py").write_text(TESTS)
    (command,) = re.findall(r"-m pytest .*(--reruns.*)", (ROOT / "Makefile").read_text())
    (chars,) = re.findall(r'"(-ra\w*)"', (ROOT / "pyproject.toml").read_text())
    here = [chars, "-p", "no:cacheprovider", "-o", f"pythonpath={ROOT / 'tests'}", "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *here, *shlex.split(command), str(tmp_path)], capture_output=True, text=True
    )
    assert "1 failed, 2 passed, 3 rerun" in done.stdout, done.stdout
    again = re.findall(r"RERUN .*::(\w+)", done.stdout)
    assert again == ["test_value_of_the_machine", "test_value_of_the_machine", "test_error"]
    assert {name: len((tmp_path / name).read_text()) for name in ("machine", "value", "error")} == {
        "machine": 3,
        "value": 1,
        "error": 2,
    }


def test_processes_of_one_run_ask_without_delay_how_often_a_test_was_tried(pytestconfig):
    """Two short messages before each test: held back for more they take 40 ms, a third of the time of the suite."""
    assert pytestconfig.failures_db.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
