"""Starting ranks: which ``mpiexec``, in which environment, and how to end them all."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

__all__ = ["LaunchError", "Launch", "attached", "environment", "mpiexec", "remove", "require_mpi4py",
           "shm_files", "under_launcher"]  # fmt: skip

INSTALL = "pip install 'tilewright[mpi]' brings mpi4py and an MPI"

_LAUNCHERS_OWN = ("PMI_", "PMIX_", "OMPI_", "PRTE_", "HYDI_", "HYDRA_", "MPI_LOCAL")
"""Prefixes of what a launcher tells its ranks. A second launcher must not see the words of the first."""

_RANK_COUNTS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
_MARKS = (*_RANK_COUNTS, "PMI_RANK", "PMIX_RANK", "HYDI_CONTROL_FD")

#   more ranks than cores must neither be refused nor spin; one host needs no network
_DEFAULTS = {
    "MPIR_CVAR_CH4_PROGRESS_THROTTLE": "true",
    "MPIR_CVAR_CH4_PROGRESS_THROTTLE_NO_PROGRESS_COUNT": "1",
    "HYDRA_LAUNCHER": "fork",
    "UCX_TLS": "tcp,sm,self",
    "FI_PROVIDER": "tcp",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_mpi_yield_when_idle": "true",
    "OMPI_MCA_plm_ssh_agent": "false",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "I_MPI_PIN": "0",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


class LaunchError(RuntimeError):
    """The ranks could not be started; the message says what is missing or what the launcher said."""


def under_launcher(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is a rank that a launcher started."""
    return any(mark in environ for mark in _MARKS)


def require_mpi4py() -> None:
    """ImportError in one sentence if mpi4py is missing. Does not import it."""
    if importlib.util.find_spec("mpi4py") is None:
        raise ImportError(f"backend 'mpi' needs mpi4py, which is not installed; {INSTALL}")


def mpiexec() -> str:
    """Absolute path of the launcher: the one beside this Python, which belongs to the MPI that mpi4py loads first."""
    beside = Path(sysconfig.get_path("scripts"), "mpiexec")
    path = str(beside) if os.access(beside, os.X_OK) else shutil.which("mpiexec")
    if path is None:
        raise LaunchError(f"backend 'mpi' found no mpiexec, neither in {beside.parent} nor on PATH; {INSTALL}")
    return os.path.abspath(path)


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The ranks' environment: ours without a launcher's words, with settings for few cores where there are none."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_LAUNCHERS_OWN)}
    return {**_DEFAULTS, **kept, **extra}


_ATTACHED = ("mpich_shm_",)
"""Shared memory whose name nobody needs once all ranks have initialised MPI."""

_SHARED = (*_ATTACHED, "vader_segment.", "sm_segment.", "ucx_shm_posix_", "Intel_MPI_")
"""How the files of MPICH, Open MPI 4 and 5, UCX and Intel MPI in /dev/shm begin."""


def shm_files(pids: Iterable[int]) -> set[str]:
    """Shared memory of their MPI that these processes map: what is left behind if they are killed."""
    files = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                path = line.partition("/dev/shm/")[2]
                if path.startswith(_SHARED) and not path.endswith(" (deleted)"):
                    files.add(f"/dev/shm/{path}")
    return files


def remove(files: Iterable[str]) -> None:
    """Remove those that are still there."""
    for file in files:
        with contextlib.suppress(OSError):
            os.unlink(file)


def attached(files: Iterable[str]) -> set[str]:
    """Those whose name can go as soon as all ranks are up, so that whatever ends them leaves nothing."""
    return {file for file in files if os.path.basename(file).startswith(_ATTACHED)}


def _leave_survivors(launcher: str) -> list[str]:
    """Hydra's option not to kill the other ranks when one dies: that is the pool's work, which wants to know which."""
    hydra = Path(launcher).with_name("mpiexec.hydra").exists() or "hydra" in os.path.realpath(launcher)
    return ["-disable-auto-cleanup"] if hydra else []


class Launch:
    """``ranks`` processes ``python -m module`` under mpiexec, in a session of their own.

    They read nothing; what they and mpiexec print goes to a nameless file, for error messages.
    """

    def __init__(self, ranks: int, module: str, extra: Mapping[str, str]) -> None:
        launcher = mpiexec()
        command = [launcher, *_leave_survivors(launcher), "-n", str(ranks), sys.executable, "-m", module]
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by kill
        self.files: set[str] = set()
        """Shared memory of the ranks' MPI, removed by `kill`."""
        try:
            self.process = subprocess.Popen(
                command, env=environment(extra), start_new_session=True, stdin=subprocess.DEVNULL,
                stdout=self._output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        except OSError as error:
            self._output.close()
            raise LaunchError(f"{command[0]} cannot be started: {error}") from None

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def output(self) -> str:
        """The end of what was printed."""
        if self._output.closed:
            return ""
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - 4000))
        return self._output.read().decode(errors="replace").strip()

    def wait(self, seconds: float) -> bool:
        """Whether mpiexec ended by itself in that time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.ended

    def kill(self, pids: Iterable[int] = ()) -> None:
        """End the launcher and the ranks of those process ids, now, and everything else of their session."""
        self.files |= shm_files(pids)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not self.wait(0.5):  # mpiexec ends by itself when its ranks are gone
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        remove(self.files)
        self._output.close()
