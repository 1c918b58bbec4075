"""The numerical tests with the oldest versions that pyproject.toml allows: ``make oldest``.

    python tests/oldest.py                      # with the torch of constraints.txt, without torch, and the core alone
    python tests/oldest.py --jobs 1 "no torch"  # what follows goes to tests/portable.py, which runs them

The environment is out/oldest, made anew when oldest.txt, constraints.txt or pyproject.toml changed.
"""

import subprocess
import sys
import venv
from pathlib import Path

from portable import NUMERICAL

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "out" / "oldest"
TESTS = (*NUMERICAL, "tests/runtime/comm", "tests/runtime/passes/test_messages.py", "tests/runtime/runs/test_trace.py")
COMPUTERS = {"this one": TESTS, "no torch": TESTS, "core only": NUMERICAL}
SOURCES = ("oldest.txt", "constraints.txt", "pyproject.toml")


def make() -> Path:
    """The interpreter of an environment of old versions."""
    python, ready = FOLDER / "bin" / "python", FOLDER / ".ready"
    if not ready.exists() or ready.stat().st_mtime < max((ROOT / source).stat().st_mtime for source in SOURCES):
        venv.create(FOLDER, clear=True, symlinks=True, with_pip=True)
        [torch] = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch==")]
        what = (".[dask,mpi,plot,frames,metis]", torch, "pytest", "pytest-timeout", "hypothesis", "pyamg")
        options = ("--quiet", "--disable-pip-version-check", "-c", "oldest.txt", "-e")
        subprocess.run([python, "-m", "pip", "install", *options, *what], check=True, cwd=ROOT)
        ready.touch()
    return python


def main() -> int:
    arguments = [argument for argument in sys.argv[1:] if argument not in COMPUTERS]
    named = [name for name in COMPUTERS if name in sys.argv[1:]] or [*COMPUTERS]
    python, ended = make(), 0
    for tests in (TESTS, NUMERICAL):
        if names := [name for name in named if COMPUTERS[name] is tests]:
            command = [python, "tests/portable.py", *names, *arguments, "--logs", FOLDER / "logs", "--tests", *tests]
            ended |= subprocess.run(command, cwd=ROOT).returncode
    return ended


if __name__ == "__main__":
    sys.exit(main())
