"""Which launcher, with which words and in which environment: decided by pure functions, for each MPI."""

import os
import subprocess
import sys

import pytest

from tilewright.backends.mpi import launcher, leftovers

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("no_kept_cluster")]

VERSIONS = {
    "mpich": "HYDRA build details:\n    Version:                                 5.0.2\n",
    "intel": "Intel(R) MPI Library for Linux* OS, Version 2021.19 Build 20260101 (id: 1)\nHYDRA build details:\n",
    "openmpi": "mpirun.openmpi (OpenRTE) 4.1.4\n\nReport bugs to http://www.open-mpi.org/community/help/\n",
    "unknown": "srun 23.11\n",
}


@pytest.mark.parametrize(
    ("family", "version"),
    [*VERSIONS.items(), ("openmpi", "mpirun (Open MPI) 5.0.11\n"), ("openmpi", "prterun (PRRTE) 3.0.13\n")],
)
def test_a_launcher_is_known_by_what_it_says_of_itself(family, version):
    assert launcher.family_of(version) == family


def program(path, text="#!/bin/sh\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_a_launcher_is_asked_once_and_one_that_fails_is_unknown(tmp_path):
    path = program(tmp_path / "mpiexec", "#!/bin/sh\necho asked >> $0.log\necho HYDRA build details\n")
    assert [launcher.family(path), launcher.family(path)] == ["mpich", "mpich"]
    assert (tmp_path / "mpiexec.log").read_text() == "asked\n"
    assert launcher.family(str(tmp_path / "none")) == "unknown"


@pytest.mark.parametrize(
    ("family", "words"),
    [("mpich", ["-disable-auto-cleanup"]), ("openmpi", ["--enable-recovery"]), ("intel", []), ("unknown", [])],
)
def test_the_command_starts_so_many_ranks_and_leaves_the_dead_to_the_pool(family, words):
    line = launcher.command("/opt/bin/mpiexec", family, 3, "some.module")
    assert line == ["/opt/bin/mpiexec", *words, "-n", "3", sys.executable, "-P", "-m", "some.module"]


def test_of_two_launchers_of_mpich_the_one_that_opens_no_port_is_taken(tmp_path):
    launch = program(tmp_path / "mpiexec")
    program(tmp_path / "mpiexec.gforker")
    assert launcher.quiet(launch, "mpich") == launch + ".gforker"
    line = launcher.command(launch + ".gforker", "mpich", 2, "some.module")
    assert line[1:] == ["-n", "2", sys.executable, "-P", "-m", "some.module"]


@pytest.mark.parametrize("family", VERSIONS)
def test_a_launcher_that_listens_to_all_is_taken_only_if_the_user_named_it(family, tmp_path, monkeypatch):
    launch = program(tmp_path / "mpiexec")
    monkeypatch.delenv(launcher.VARIABLE, raising=False)
    with pytest.raises(
        launcher.LaunchError,
        match=r"listens on all network interfaces .*install the wheel mpich.*or set TILEWRIGHT_MPIEXEC=/",
    ):
        launcher.quiet(launch, family)
    monkeypatch.setenv(launcher.VARIABLE, launch)
    assert launcher.quiet(launch, family) == launch


def test_too_little_shared_memory_is_said_before_the_launch_with_both_numbers(monkeypatch):
    started = []
    monkeypatch.setattr(leftovers.shutil, "disk_usage", lambda folder: (64e6, 60e6, 4e6))
    launcher.family(launcher.mpiexec())  # asked once, by a process of its own
    monkeypatch.setattr(launcher.subprocess, "Popen", lambda *arguments, **_: started.append(arguments))
    with pytest.raises(
        launcher.LaunchError, match=r"16 ranks: .*5\.2 MB of /dev/shm .* 83 MB for 16, and 4 of its 64 MB are free"
    ):
        launcher.Launch(16, "some.module", {})
    assert started == []
    monkeypatch.setattr(leftovers.shutil, "disk_usage", lambda folder: (64e6, 60e6, 100e6))
    assert launcher.chosen(16)[1] == "mpich"


NEEDED = {
    "mpich": {"MPIR_CVAR_CH4_PROGRESS_THROTTLE": "true", "HYDRA_LAUNCHER": "fork", "UCX_TLS": "tcp,sm,self"},
    "openmpi": {
        "OMPI_MCA_rmaps_base_oversubscribe": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_MCA_mpi_yield_when_idle": "true", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_hwloc_base_binding_policy": "none",
    },
    "intel": {"I_MPI_PIN": "0", "I_MPI_FABRICS": "shm"},
    "unknown": {},
}  # fmt: skip


@pytest.mark.parametrize("family", NEEDED)
def test_ranks_may_be_more_than_cores_run_as_root_and_use_one_blas_thread(family):
    environment = launcher.environment(family, environ={"HOME": "/home/me"})
    assert NEEDED[family].items() <= environment.items()
    assert (environment["OMP_NUM_THREADS"], environment["HOME"]) == ("1", "/home/me")
    assert environment["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    others = {name for other in NEEDED for name in NEEDED[other]} - NEEDED[family].keys()
    assert not others & environment.keys()


def test_what_the_user_set_stays():
    environ = {"FI_PROVIDER": "verbs", "OMP_NUM_THREADS": "2", "OMPI_MCA_btl": "tcp,self", "MPI4PY_LIBMPI": "/mine.so"}
    environment = launcher.environment("mpich", "/other.so", {"EXTRA": "1"}, environ)
    assert environ.items() <= environment.items()
    assert environment["EXTRA"] == "1"


@pytest.mark.parametrize("mark", ["PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_SIZE", "HYDI_CONTROL_FD"])
def test_ranks_do_not_see_the_words_of_an_outer_launcher(mark):
    environ = {mark: "7", "PMI_FD": "3", "OMPI_MCA_ess": "env", "HYDI_CONTROL_FD": "9", "FI_PROVIDER": "mine"}
    assert launcher.under_launcher(environ)
    environment = launcher.environment("mpich", environ=environ)
    assert not launcher.under_launcher(environment)
    assert not {"PMI_FD", "OMPI_MCA_ess"} & environment.keys()
    assert environment["FI_PROVIDER"] == "mine"


SHELLS = {
    "srun --pty bash, pmi2": {"PMI_RANK": "0", "PMI_SIZE": "1", "PMI_FD": "13", "SLURM_STEP_NUM_TASKS": "1"},
    "srun --pty bash, pmix": {"PMIX_RANK": "0", "PMIX_SERVER_URI41": "tcp4://x", "SLURM_STEP_NUM_TASKS": "1",
                              "SLURM_NTASKS": "1"},
    "salloc -n 8": {"SLURM_NTASKS": "8", "SLURM_JOB_ID": "3"},
    "mpirun -n 1": {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0", "PMIX_RANK": "0"},
    "mpiexec -n 1": {"PMI_RANK": "0", "PMI_SIZE": "1", "HYDI_CONTROL_FD": "9"},
    "left over": {"PMI_RANK": "0"}, "left over, PMIx": {"PMIX_RANK": "0"}, "no number": {"PMI_SIZE": "", "PMI_RANK": "x"},
    "nothing": {},
}  # fmt: skip

RANKS = {
    "mpiexec -n 4": {"PMI_RANK": "0", "PMI_SIZE": "4"},
    "mpirun -n 4": {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0", "PMIX_RANK": "0"},
    "srun -n 4, pmix": {"PMIX_RANK": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "8"},
    "srun -n 4, pmi2, first": {"PMI_RANK": "0", "SLURM_NTASKS": "4"},
    "mpirun -n 4 in such a shell": {"PMI_RANK": "0", "PMI_SIZE": "1", "OMPI_COMM_WORLD_SIZE": "4"},
    "PMIx without a size": {"PMIX_RANK": "0", "PMIX_SERVER_URI41": "tcp4://x"},
    "PMIx without a size, second": {"PMIX_RANK": "1"},
}  # fmt: skip


@pytest.mark.parametrize("shell", SHELLS)
def test_a_world_of_one_is_no_rank(shell):
    environ = SHELLS[shell]
    assert not launcher.under_launcher(environ)
    assert not {name for name in launcher.environment("mpich", environ=environ) if name.startswith(("PM", "OMPI_"))}


@pytest.mark.parametrize("started", RANKS)
def test_a_world_of_several_is_one_of_ranks(started):
    assert launcher.under_launcher(RANKS[started])


@pytest.mark.parametrize("shell", ["srun --pty bash, pmi2", "mpirun -n 1", "left over, PMIx"])
def test_in_a_world_of_one_a_call_starts_its_own_ranks(shell):
    script = (
        "import numpy as np, tilewright as tw\n"
        "L, run = tw.tiled_cholesky(4 * np.eye(8), tile_size=2, backend='mpi', workers=2, return_run=True)\n"
        "assert (L == 2 * np.eye(8)).all() and run.trace.ranks == 2, run\n"
    )
    if shell == "mpirun -n 1":
        script += "with tw.mpi.Pool(2) as pool:\n    assert pool.ranks == 2\n"
    environ = {name: value for name, value in SHELLS[shell].items() if name != "PMI_FD"}  # no launcher listens here
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **environ}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_mpi4py_loads_the_library_of_the_launcher(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher.sysconfig, "get_path", lambda name: str(tmp_path / "venv" / "bin"))
    beside = str(tmp_path / "venv" / "bin" / "mpiexec")
    assert launcher.libmpi(beside, "mpich") == ""  # where mpi4py looks first
    assert launcher.libmpi("/usr/bin/mpirun", "openmpi").split(os.pathsep)[-1] == "libmpi.so.40"
    assert launcher.libmpi("/usr/bin/srun", "unknown") == ""
    elsewhere = program(tmp_path / "opt" / "bin" / "mpiexec")
    library = program(tmp_path / "opt" / "lib" / "libmpi.so.12")
    assert launcher.libmpi(elsewhere, "intel") == f"{library}{os.pathsep}libmpi.so.12"


def test_the_launcher_is_the_one_the_user_names_else_beside_python_else_on_the_path(tmp_path, monkeypatch):
    monkeypatch.delenv(launcher.VARIABLE, raising=False)
    monkeypatch.setattr(launcher.sysconfig, "get_path", lambda name: str(tmp_path / "beside"))
    on_path = program(tmp_path / "path" / "mpiexec")
    named = program(tmp_path / "path" / "mpirun.other")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert launcher.mpiexec() == on_path
    beside = program(tmp_path / "beside" / "mpiexec")
    assert launcher.mpiexec() == beside
    for name in ("mpirun.other", named):
        monkeypatch.setenv(launcher.VARIABLE, name)
        assert launcher.mpiexec() == named
    monkeypatch.setenv(launcher.VARIABLE, "mpirun.none")
    with pytest.raises(launcher.LaunchError, match="TILEWRIGHT_MPIEXEC=mpirun.none is no program that can be run"):
        launcher.mpiexec()
