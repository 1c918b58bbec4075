"""The numerical tests with the oldest versions that pyproject.toml allows: ``make oldest``.

    python tests/oldest.py            # without torch, then with the torch of constraints.txt beside old NumPy and SciPy
    python tests/oldest.py --no-torch

The environment is out/oldest, made anew when oldest.txt or pyproject.toml changed.
"""

import argparse
import subprocess
import sys
import venv
from pathlib import Path

from portable import NUMERICAL

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "out" / "oldest"
TESTS = (*NUMERICAL, "tests/runtime/comm", "tests/runtime/passes/test_messages.py", "tests/runtime/runs/test_trace.py")


def install(*what: str) -> None:
    options = ["--quiet", "--disable-pip-version-check"]
    subprocess.run([FOLDER / "bin" / "python", "-m", "pip", "install", *options, *what], check=True, cwd=ROOT)


def passes() -> bool:
    """Run the tests; pytest says what failed."""
    command = [FOLDER / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    return subprocess.run(command, cwd=ROOT).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--no-torch", action="store_true", help="only without torch")
    options = parser.parse_args()
    ready = FOLDER / ".ready"
    sources = [ROOT / "oldest.txt", ROOT / "pyproject.toml"]
    if not ready.exists() or ready.stat().st_mtime < max(source.stat().st_mtime for source in sources):
        venv.create(FOLDER, clear=True, symlinks=True, with_pip=True)
        install(
            "-c", "oldest.txt", "-e", ".[dask,mpi,plot,frames,metis]", "pytest", "pytest-timeout", "hypothesis", "pyamg"
        )
        ready.touch()
    well = passes()
    if not options.no_torch:
        [torch] = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch==")]
        install("-c", "oldest.txt", torch)
        well = passes() and well
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
