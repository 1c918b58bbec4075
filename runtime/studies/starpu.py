"""StarPU beside our engines: a Cholesky graph as tasks of StarPU, on the same tiles and the same BLAS.

It is compiled where pkg-config knows StarPU (Debian and Ubuntu: ``apt install gcc pkg-config libstarpu-dev``). Its
policy is StarPU's own default, ``lws``, or what the environment says in STARPU_SCHED. Those that plan with models of
tasks (``dm``, ``dmda``) get none, and so plan nothing.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar, Self

import numpy as np

from tilewright.studies.baselines import AbsentError
from tilewright.studies.compiled import Compiled, built

__all__ = ["StarPU"]

PACKAGES = ("starpu-1.4", "starpu-1.3")
"""What pkg-config may call it."""
INSTALL = "on Debian and Ubuntu, apt install gcc pkg-config libstarpu-dev"


class StarPU(Compiled):
    """StarPU's workers, which sleep between runs; a block ends them. AbsentError where there is none.

    AbsentError also for more workers than it has cores for.
    """

    name: ClassVar[str] = "starpu"

    def __init__(self) -> None:
        super().__init__()
        self.driver = _driver()
        self.begun = 0  # that have been started

    def call(self, tasks: np.ndarray, tiles: np.ndarray, workers: int, routines: Any) -> int:
        if self.begun != workers:
            self.close()
            self._begin(workers)
        many, counted = ctypes.c_long(len(tiles)), ctypes.c_long(len(tasks))
        pointers = [table.ctypes.data_as(ctypes.c_void_p) for table in (tasks, tiles)]
        failed = int(self.driver.tilewright_starpu(pointers[0], counted, pointers[1], many, routines))
        if failed < 0:
            raise AbsentError(f"StarPU refused a task ({failed})")
        return failed

    def _begin(self, workers: int) -> None:
        with _settings():
            found = self.driver.tilewright_starpu_begin(ctypes.c_int(workers))
        if found < 0:
            raise AbsentError(f"StarPU does not start ({found})")
        self.begun = found
        if found != workers:
            self.close()
            raise AbsentError(f"StarPU has {found} {'worker' if found == 1 else 'workers'} here, not {workers}")

    def close(self) -> None:
        """End the workers. Harmless if that was done."""
        if self.begun:
            self.driver.tilewright_starpu_end()
        self.begun = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@contextmanager
def _settings() -> Iterator[None]:
    """A block in which StarPU would write nothing: neither on standard error nor into the user's folder."""
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        wanted = {"STARPU_SILENT": "1", "STARPU_HOME": folder}
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update({name: value for name, value in wanted.items() if before[name] is None})
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]


@cache
def _driver() -> Any:
    """`starpu.c`, compiled and loaded once."""
    library = built("starpu", _flags())
    library.tilewright_starpu.restype = ctypes.c_long
    return library


def _flags() -> list[str]:
    """What the compiler has to be told. AbsentError where pkg-config does not know."""
    ask = shutil.which("pkg-config")
    if ask is None:
        raise AbsentError(f"no pkg-config to find StarPU with; {INSTALL}")
    for package in PACKAGES:
        done = subprocess.run([ask, "--cflags", "--libs", package], capture_output=True, text=True, timeout=60)
        if not done.returncode:
            flags = done.stdout.split()
            return [*flags, *(f"-Wl,-rpath,{flag[2:]}" for flag in flags if flag.startswith("-L"))]
    raise AbsentError(f"pkg-config knows no StarPU; {INSTALL}")
