"""ScaLAPACK's pdpotrf and pdgetrf beside ours: `factor.c`, built where it is used, run by the launcher of its own MPI.

Nothing of it is needed by tilewright. Debian and Ubuntu: ``apt install gcc libscalapack-openmpi-dev openmpi-bin``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

from tilewright.kernels import blas, choice

__all__ = ["ScaLAPACK", "UnavailableError", "build", "command", "preload"]

SOURCE = Path(__file__).with_name("factor.c")
INSTALL = "on Debian and Ubuntu, apt install gcc libscalapack-openmpi-dev openmpi-bin"
LIBRARIES = ("-lscalapack-openmpi", "-l:libblas.so.3", "-lm")
LAUNCHERS = ("mpirun.openmpi", "mpirun")

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}

END = 60.0  # seconds for the residual and for mpirun to end


class UnavailableError(RuntimeError):
    """There is no ScaLAPACK to compare with; the message says what is missing."""


def build(folder: Path) -> Path:
    """Compile the driver into ``folder``. UnavailableError without a compiler, or quoting it where it fails."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise UnavailableError(f"no C compiler to build its driver with; {INSTALL}")
    program = folder / "factor"
    # -rdynamic: ScaLAPACK has to find the driver's pilaenv_ and dsyrk_ before its own
    arguments = [compiler, "-O2", "-rdynamic", "-o", str(program), str(SOURCE), *LIBRARIES]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise UnavailableError(f"its driver cannot be built ({said[0]}); {INSTALL}")
    return program


def preload(library: blas.Library) -> str | None:
    """What LD_PRELOAD gives ScaLAPACK our BLAS; None if its names differ from BLAS's, as in SciPy's OpenBLAS."""
    return library.path if library.name in ("mkl", "torch") else None


def command(arguments: Iterable[object], grid: tuple[int, int], library: str | None) -> list[str]:
    """The command line that runs the driver on P x Q ranks. UnavailableError without Open MPI's launcher."""
    launcher = next((path for name in LAUNCHERS if (path := shutil.which(name))), None)
    if launcher is None:
        raise UnavailableError(f"no mpirun of Open MPI; {INSTALL}")
    #   by env, so that mpirun itself does not load it
    loads = ["env", f"LD_PRELOAD={library}"] if library else []
    return [launcher, "-n", str(grid[0] * grid[1]), *loads, *map(str, arguments)]


class ScaLAPACK:
    """Ranks that factor an n x n matrix on request and sleep between two requests; a context manager.

    Parameters
    ----------
    n, nb, grid
        The matrix, its blocks, and the P x Q ranks it is dealt to.
    logical
        Block size of the PBLAS inside. ScaLAPACK's own is 32, whatever nb is.
    routine
        ``"pdpotrf"`` or ``"pdgetrf"``.

    Raises
    ------
    UnavailableError
        Something is not installed, or the ranks end.
    """

    def __init__(self, n: int, nb: int, grid: tuple[int, int], logical: int, routine: str = "pdpotrf") -> None:
        self.n, self.nb, self.grid, self.logical, self.routine = n, nb, grid, logical, routine
        self.ratio = float("nan")
        """||A x - L (L^T x)||_1 or ||A x - b||_1 over n ||A||_1 ||x||_1 u of the last factor; known at the end."""
        self._pipes: list[int] = []
        self._answered = False

    def __enter__(self) -> ScaLAPACK:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tilewright-")))
            program = build(folder)
            pipes = [folder / str(rank) for rank in range(self.grid[0] * self.grid[1])]
            for pipe in pipes:
                os.mkfifo(pipe)
            arguments = program, self.routine, self.n, self.nb, *self.grid, self.logical, folder
            self._errors = stack.enter_context(tempfile.TemporaryFile("w+"))
            self._process = stack.enter_context(
                subprocess.Popen(
                    command(arguments, self.grid, preload(choice.current())),
                    env={**os.environ, **ENVIRONMENT},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    text=True,
                    start_new_session=True,
                )
            )
            stack.callback(self._end)
            # Open at both ends here, so that nobody waits for a rank that never comes.
            self._pipes = [os.open(pipe, os.O_RDWR) for pipe in pipes]
            self._rest = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._rest.close()

    def factor(self) -> float:
        """Factor once; seconds on the slowest rank."""
        for pipe in self._pipes:
            os.write(pipe, b"factor\n")
        said = self._line("seconds")
        self._answered = True
        if said[2:] != ["info", "0"]:
            raise UnavailableError(f"its {self.routine} ended with {' '.join(said[2:])}")
        return float(said[1])

    def _line(self, first: str) -> list[str]:
        """The words of the next line that begins with ``first``."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(first):
                return line.split()
        self._errors.seek(0)
        raise UnavailableError(f"its ranks ended; they said: {self._errors.read().strip() or 'nothing'}")

    def _end(self) -> None:
        """Close the pipes: ranks that have them open tell the residual and end. Kill those that do not."""
        for pipe in self._pipes:
            os.close(pipe)
        timer = threading.Timer(END if self._answered else 0, self._kill)
        timer.start()
        try:
            with contextlib.suppress(UnavailableError):
                self.ratio = float(self._line("ratio")[1])
            self._process.wait()
        finally:
            timer.cancel()
            timer.join()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
