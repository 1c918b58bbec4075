"""The comparison with ScaLAPACK says what is missing; nothing here needs it installed."""

import os
import shutil

import pytest

from tilewright.benchmarks import mpi, scalapack
from tilewright.benchmarks.scalapack import ScaLAPACK, UnavailableError
from tilewright.kernels.blas import Library

RANK = """#!/bin/sh
# what mpirun's ranks print, without any: one answer for each line of rank 0's pipe, the ratio at its end
for folder; do :; done
while read line; do echo "[vm] a warning of mpirun"; echo "seconds 0.5 info ${INFO:-0}"; done < "$folder/0"
echo "ratio 0.25"
"""


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """A compiler that always succeeds and a mpirun that plays the ranks."""
    executable(tmp_path / "cc", "#!/bin/sh\nexit 0\n")
    executable(tmp_path / "mpirun", RANK)
    for name in ("sh", "env"):
        os.symlink(shutil.which(name), tmp_path / name)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_seconds_and_ratio_are_what_the_ranks_print_among_other_things(fakes):
    with ScaLAPACK(100, 32, (1, 2), 32) as theirs:
        assert [theirs.factor(), theirs.factor()] == [0.5, 0.5]
    assert theirs.ratio == 0.25


def test_a_factorisation_that_fails_is_said(fakes, monkeypatch):
    monkeypatch.setenv("INFO", "7")
    for routine in ("pdpotrf", "pdgetrf"):
        said = f"{routine} ended with info 7"
        with ScaLAPACK(100, 32, (1, 1), 32, routine) as theirs, pytest.raises(UnavailableError, match=said):
            theirs.factor()


def test_ranks_that_end_are_quoted(fakes):
    executable(fakes / "mpirun", "#!/bin/sh\necho no slots >&2\n")
    with ScaLAPACK(100, 32, (1, 2), 32) as theirs, pytest.raises(UnavailableError, match="they said: no slots"):
        theirs.factor()


def test_what_is_missing_is_named_with_the_packages_that_bring_it(fakes):
    (fakes / "mpirun").unlink()
    with pytest.raises(UnavailableError, match="no mpirun of Open MPI; .* libscalapack-openmpi-dev openmpi-bin"):
        ScaLAPACK(100, 32, (1, 2), 32).__enter__()
    executable(fakes / "cc", "#!/bin/sh\necho cannot find -lscalapack-openmpi >&2\nexit 1\n")
    with pytest.raises(UnavailableError, match=r"cannot be built \(cannot find -lscalapack-openmpi\); on Debian"):
        ScaLAPACK(100, 32, (1, 2), 32).__enter__()
    (fakes / "cc").unlink()
    with pytest.raises(UnavailableError, match="no C compiler"):
        ScaLAPACK(100, 32, (1, 2), 32).__enter__()


def test_ranks_load_our_blas_and_mpirun_does_not(fakes):
    line = scalapack.command(("pdpotrf", 100, 32), (1, 2), "/lib/blas.so")
    assert line == [str(fakes / "mpirun"), "-n", "2", "env", "LD_PRELOAD=/lib/blas.so", "pdpotrf", "100", "32"]
    assert "env" not in scalapack.command(("pdpotrf",), (1, 2), None)


@pytest.mark.parametrize(("name", "path"), [("mkl", "/mkl.so"), ("torch", "/mkl.so"), ("openblas", None)])
def test_only_a_blas_with_plain_names_can_be_preloaded(name, path):
    assert scalapack.preload(Library(name, "", "/mkl.so", lambda symbol: None, None)) == path


def test_the_fastest_blocks_are_taken(fakes, monkeypatch):
    monkeypatch.setattr(mpi, "BLOCKS", ((64, 32), (128, 64), (4096, 64)))
    monkeypatch.setattr(ScaLAPACK, "factor", lambda self: 1 / self.nb)
    best = mpi.tuned(256, rounds=1)
    assert (best.n, best.nb, best.logical, best.grid) == (256, 128, 64, (1, 2))
