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
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import IO, Literal

from tilewright.backends.mpi.leftovers import needs_memory, orphans, topologies
from tilewright.extras import command as install

__all__ = [
    "Family",
    "Launch",
    "LaunchError",
    "attached",
    "brings_mpi",
    "chosen",
    "command",
    "environment",
    "family",
    "family_of",
    "libmpi",
    "mpiexec",
    "quiet",
    "remove",
    "require_mpi4py",
    "shm_files",
    "under_launcher",
]

VARIABLE = "TILEWRIGHT_MPIEXEC"
"""Environment variable that names the launcher to use."""

Family = Literal["mpich", "openmpi", "intel", "unknown"]

_LAUNCHERS_OWN = ("PMI_", "PMIX_", "OMPI_", "PRTE_", "HYDI_", "HYDRA_", "MPI_LOCAL")
"""Prefixes of what a launcher tells its ranks. A second launcher must not see the words of the first."""

_RANK_COUNTS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
_RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
_STEP = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
"""What SLURM says of the ranks it started itself; the same words stand in an interactive shell, without a rank."""
_MARKS = (*_RANK_COUNTS, *_RANKS, "HYDI_CONTROL_FD")

_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"

#   more ranks than cores must neither be refused nor spin, and no rank be tied to one core; one host needs no network,
#   and nobody elsewhere shall reach its ranks
_SETTINGS: dict[Family, dict[str, str]] = {
    "mpich": {
        "MPIR_CVAR_CH4_PROGRESS_THROTTLE": "true",
        "MPIR_CVAR_CH4_PROGRESS_THROTTLE_NO_PROGRESS_COUNT": "1",
        "HYDRA_LAUNCHER": "fork",
        "UCX_TLS": "tcp,sm,self",
        "FI_PROVIDER": "tcp",
        "UCX_NET_DEVICES": _LOOPBACK,
        "FI_TCP_IFACE": _LOOPBACK,
    },
    "openmpi": {  # 4 reads OMPI_MCA_ for the launcher too, 5 PRTE_MCA_
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        "OMPI_MCA_hwloc_base_binding_policy": "none",
        "OMPI_MCA_mpi_yield_when_idle": "true",
        "OMPI_MCA_plm_ssh_agent": "false",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "PRTE_MCA_hwloc_default_binding_policy": "none",
    },
    "intel": {"I_MPI_PIN": "0", "I_MPI_FABRICS": "shm", "I_MPI_THREAD_YIELD": "3", "I_MPI_HYDRA_BOOTSTRAP": "fork"},
    "unknown": {},
}

_THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

_MEMORY = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Huge pages for large arrays, where the system gives them to who asks: the fresh memory of a training costs a twelfth
of the page faults. Other C libraries do not look at it."""

_SONAME = {"mpich": "libmpi.so.12", "intel": "libmpi.so.12", "openmpi": "libmpi.so.40"}


class LaunchError(RuntimeError):
    """The ranks could not be started; the message says what is missing or what the launcher said.

    Examples
    --------
    >>> from unittest import mock
    >>> import tilewright as tw
    >>> with mock.patch.dict("os.environ", TILEWRIGHT_MPIEXEC="no-such-launcher"):
    ...     try:
    ...         tw.mpi.Pool(2)
    ...     except tw.mpi.LaunchError as error:
    ...         print(error)
    TILEWRIGHT_MPIEXEC=no-such-launcher is no program that can be run
    """


def under_launcher(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is one of several ranks that a launcher started.

    A world of one is none: an interactive shell of a batch system has the words of a launcher too, and there, as under
    ``mpiexec -n 1``, a call starts its own ranks. Nor is a rank 0 of nobody knows how many, unless a server is near.
    """
    sizes = [count for name in _RANK_COUNTS if (count := _number(environ, name)) is not None]
    ranks = [rank for name in _RANKS if (rank := _number(environ, name)) is not None]
    if not sizes and ranks:
        sizes = [count for name in _STEP if (count := _number(environ, name)) is not None][:1]
    if sizes:
        return max(sizes) > 1
    alive = "HYDI_CONTROL_FD" in environ or (ranks and any(name.startswith("PMIX_SERVER_URI") for name in environ))
    return any(ranks) or bool(alive)


def _number(environ: Mapping[str, str], name: str) -> int | None:
    """None where it is not there, or is no number."""
    text = environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None


def brings_mpi() -> str:
    """What ends a message about a missing MPI."""
    return f"{install('mpi')} brings mpi4py and an MPI"


def require_mpi4py() -> None:
    """ImportError in one sentence if mpi4py is missing. Does not import it."""
    if importlib.util.find_spec("mpi4py") is None:
        raise ImportError(f"backend 'mpi' needs mpi4py, which is not installed; {brings_mpi()}")


def mpiexec() -> str:
    """Absolute path of the launcher: ``TILEWRIGHT_MPIEXEC``, else the one beside this Python, else that on PATH.

    The one beside this Python belongs to the MPI that mpi4py loads first.
    """
    if wanted := os.environ.get(VARIABLE):
        path = shutil.which(wanted)
        if path is None:
            raise LaunchError(f"{VARIABLE}={wanted} is no program that can be run")
        return os.path.abspath(path)
    beside = _beside()
    path = str(beside) if os.access(beside, os.X_OK) else shutil.which("mpiexec")
    if path is None:
        raise LaunchError(f"backend 'mpi' found no mpiexec, neither in {beside.parent} nor on PATH; {brings_mpi()}")
    return os.path.abspath(path)


def quiet(launcher: str, family: Family) -> str:
    """The launcher that opens no port, where there is one beside this one: MPICH's that forks.

    Hydra, which MPICH calls ``mpiexec``, listens on all interfaces for as long as its ranks live, and cannot be told
    not to. Who talks to it first is taken for one of its own. Open MPI's and Intel's listen as well.

    Raises
    ------
    LaunchError
        There is none, and the user did not name the launcher in ``TILEWRIGHT_MPIEXEC``.
    """
    forking = f"{launcher}.gforker"
    if family == "mpich" and os.access(forking, os.X_OK):
        return forking
    if not os.environ.get(VARIABLE):
        raise LaunchError(
            f"{launcher} listens on all network interfaces while its ranks live, and would take a stranger's word; "
            f"install the wheel mpich, whose mpiexec.gforker opens no port, or set {VARIABLE}={launcher} where nobody "
            f"else reaches this computer"
        )
    return launcher


def chosen(ranks: int) -> tuple[str, Family, str]:
    """The launcher, whose it is, and the one of `quiet` that shall start so many ranks.

    LaunchError, before any work, where that cannot be: no launcher, only one that strangers could reach, or too little
    shared memory where it is known how much they take.
    """
    launcher = mpiexec()
    kind = family(launcher)
    starter = quiet(launcher, kind)
    if kind == "mpich" and (short := needs_memory(ranks)):
        raise LaunchError(f"there is too little shared memory for {ranks} ranks: {short}")
    return launcher, kind, starter


def _beside() -> Path:
    return Path(sysconfig.get_path("scripts"), "mpiexec")


@cache
def family(launcher: str) -> Family:
    """Whose launcher it is, as it says itself."""
    try:
        said = subprocess.run([launcher, "--version"], capture_output=True, text=True, timeout=20, env=environment())
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return family_of(said.stdout + said.stderr)


def family_of(version: str) -> Family:
    """The MPI whose ``mpiexec --version`` prints that."""
    if "Intel(R) MPI" in version:  # built on Hydra as MPICH's is
        return "intel"
    if any(mark in version for mark in ("Open MPI", "OpenRTE", "PRRTE", "prterun")):
        return "openmpi"
    return "mpich" if "HYDRA" in version else "unknown"


def environment(
    family: Family = "unknown",
    library: str = "",
    extra: Mapping[str, str] = MappingProxyType({}),
    environ: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """The ranks' environment: ours without another launcher's words, with settings for few cores where there are none.

    ``library`` is what `libmpi` says.
    """
    outer = _LAUNCHERS_OWN if any(mark in environ for mark in _MARKS) else ()  # a world of one has them too
    kept = {key: value for key, value in environ.items() if not key.startswith(outer)} if outer else dict(environ)
    chosen = {"MPI4PY_LIBMPI": library} if library else {}
    return {**_SETTINGS[family], **_THREADS, **_MEMORY, **chosen, **kept, **extra}


def libmpi(launcher: str, family: Family) -> str:
    """What mpi4py has to load so that its MPI is that of the launcher: paths to try, as in ``MPI4PY_LIBMPI``.

    Empty for the launcher beside this Python, where mpi4py looks first.
    """
    soname = _SONAME.get(family)
    if soname is None or Path(launcher) == _beside():
        return ""
    prefix = Path(launcher).parent.parent
    found = [str(prefix / folder / soname) for folder in ("lib", "lib64") if (prefix / folder / soname).exists()]
    return os.pathsep.join([*found, soname])


def command(launcher: str, family: Family, ranks: int, module: str) -> list[str]:
    """The command line for so many ranks of ``python -P -m module``, which import nothing from the current folder.

    A launcher ends all ranks when one dies. That is the pool's work, which wants to know which it was: so MPICH's is
    told not to, and Open MPI's to go on.
    """
    alone = {"mpich": ["-disable-auto-cleanup"], "openmpi": ["--enable-recovery"]}.get(family, [])
    if launcher.endswith(".gforker"):  # ends none
        alone = []
    return [launcher, *alone, "-n", str(ranks), sys.executable, "-P", "-m", module]


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


class Launch:
    """``ranks`` processes ``python -P -m module`` under mpiexec, in a session of their own.

    They read nothing; what they and mpiexec print goes to a nameless file, for error messages. LaunchError as `chosen`.
    """

    def __init__(self, ranks: int, module: str, extra: Mapping[str, str]) -> None:
        launcher, kind, starter = chosen(ranks)
        arguments = command(starter, kind, ranks, module)
        self._forks = starter != launcher
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by kill
        self.files: set[str] = set()
        """Shared memory of the ranks' MPI, removed by `kill`."""
        self.began = time.time()
        self.up = 0.0
        """When all ranks had initialised their MPI; 0 before."""
        try:
            self.process = subprocess.Popen(
                arguments,
                env=environment(kind, libmpi(launcher, kind), extra),
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            self._output.close()
            raise LaunchError(f"{launcher} cannot be started: {error}") from None

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
        if self._forks or not self.wait(0.5):  # Hydra ends by itself when its ranks are gone, and cleans up
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        until = self.up or time.time()
        remove(self.files | topologies(self.began, until) | (set() if self.up else orphans(self.began, until)))
        self._output.close()
