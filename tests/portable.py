"""The numerical part of the suite on computers that we do not have: ``make test-portable``.

    python tests/portable.py                      # all of them
    python tests/portable.py --slice              # a few tests on some, as .ci/run does: under two minutes
    python tests/portable.py "Zen 4" "no torch"   # these
    python tests/portable.py --whole              # every test on every one of them: hours
    python tests/portable.py --jobs 1             # one at a time, not one on each core
    python tests/portable.py --list

A pretended computer is made of what libraries can be told to believe (environment variables), of which packages are
installed, and of how many CPUs the process may use. Each has a *proof*: code that prints what the process takes itself
for. If that is not what was meant, the computer counts as failed, and no test runs on it. One that this machine cannot
pretend, as its CPU lacks the instructions or a package is missing, is named with the reason and is no failure.
"""

import argparse
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tilewright.host.cores import cores
from tilewright.kernels import available, cpu

ROOT = Path(__file__).parent.parent
LOGS = ROOT / "out" / "portable"

NUMERICAL = (
    "tests/kernels",
    "tests/runtime/linalg",
    "tests/runtime/test_precision.py",
    "tests/runtime/cli/test_rounding.py",
    "tests/runtime/passes/test_conversions.py",
)
SAME_EVERYWHERE = (
    "dask",
    "graph",
    "trees",
    "outofcore",
    "streamed",
    "checkpoint",
    "plan",
    "matrix",
    "chunked",
    "pivoting",
    "array_api",
)
"""Tests with one of these in their names are left out where only the CPU is pretended: they are about tasks and files, or
start clusters whose workers compute with the kernels that threads and ranks have shown to be right there."""
SHARES = 3
"""Where only the CPU is pretended, a computer runs one test of three, its neighbours in the table the others: any three
of a kind run all. ``--whole`` gives each of them everything."""
SLICE = (
    "tests/kernels/test_potrf.py",
    "tests/kernels/test_products.py::TestProducts::test_sum_of_a_thousand_ones_is_exact",
    "tests/kernels/test_products.py::TestProducts::test_potrf_and_trsm_have_the_error_of_the_format",
    "tests/kernels/test_steady.py::test_bits_do_not_depend_on_alignment_or_leading_dimension",
    "tests/runtime/linalg/test_cholesky_conformance.py::test_strided_and_packed_tiles_give_the_same_bits",
    "tests/runtime/linalg/test_mixed.py::TestEveryPrecision::test_error_is_a_few_roundoffs_of_the_format",
    "tests/runtime/linalg/test_mixed.py::TestEveryPrecision::test_bits_do_not_depend_on_engine_policy_and_workers",
    "tests/runtime/linalg/test_cho_solve.py::test_every_engine_gives_the_bits_of_the_serial_run[mpi-float32]",
    "tests/runtime/linalg/test_cho_solve.py::test_every_engine_gives_the_bits_of_the_serial_run[threads-float64]",
)
SWITCHES = ("OPENBLAS_", "MKL_", "OMP_", "ATEN_", "ONEDNN_", "DNNL_", "TILEWRIGHT_")
"""Beginnings of variables that would make a computer something else than it says."""

# ------------------------------------------------------------------ proofs

OPENBLAS = """
import numpy, scipy.linalg
from threadpoolctl import threadpool_info
print("OpenBLAS for", *{pool["architecture"] for pool in threadpool_info() if pool["internal_api"] == "openblas"})
"""
# The number MKL has for the instructions it uses (0 SSE2, 3 SSE4.2, 5 AVX2, 7 and above AVX-512), after a product.
MKL = """
import ctypes, pathlib, torch
torch.ones(3, 3, dtype=torch.float64) @ torch.ones(3, 3, dtype=torch.float64)
mkl = ctypes.CDLL(str(pathlib.Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
print("MKL with instructions", mkl.mkl_serv_get_cpu_type(0), "branch", mkl.mkl_serv_cbwr_get(1) & 0xFFFF)
"""
ATEN = "import torch; print('torch with', torch.backends.cpu.get_cpu_capability())"
ONEDNN = """
import os
os.environ["ONEDNN_VERBOSE"] = "1"
import torch
torch.ones(8, 8).to_mkldnn().relu()
"""
BLAS = "from tilewright import kernels; print('kernels from', kernels.current().name)"
CORES = "from tilewright.host.cores import cores; print('cores:', cores())"
VERSIONS = "import numpy, scipy; print('NumPy', numpy.__version__, 'SciPy', scipy.__version__)"
PACKAGES = """
import importlib.util
names = ("torch", "mkl", "dask", "distributed", "mpi4py", "mpich", "matplotlib", "pandas", "sklearn", "pymetis", "pydot")
print("there are", *[name for name in names if importlib.util.find_spec(name)] or ["none"])
"""
FEATURES = """
from tilewright.kernels import cpu
print("16-bit instructions:", *{"amx_bf16", "avx512_bf16", "avx512_fp16"} & cpu.features() or ["none"])
"""
NOT_INTEL = "int mkl_serv_intel_cpu_true(void) { return 0; } int mkl_serv_intel_cpu(void) { return 0; }"
ZEN = NOT_INTEL + " int mkl_serv_cpuiszen(void) { return 1; }"
"""MKL asks these functions for the CPU's vendor, through a table in which a library loaded before it may stand."""

LAPTOP = {
    "OPENBLAS_CORETYPE": "Haswell",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "TILEWRIGHT_CPU_FEATURES": "avx,avx2,fma,f16c",
}


@dataclass(frozen=True)
class Computer:
    """A computer to pretend."""

    name: str
    environment: dict[str, str]
    proof: str
    """Code whose output says what the process takes itself for."""
    says: str
    """A pattern that the output must have in it."""
    needs: str = "sse2"
    """An instruction set that the real CPU must have; MKL is for x86 only."""
    vendor: str = ""
    """The maker that the real CPU must be of."""
    blas: str = ""
    """A BLAS library that must be installed."""
    without: tuple[str, ...] | None = ()
    """Packages that are not installed; None: all that the core does not need."""
    cpus: int | None = None
    preload: str = ""
    """C source of functions that stand before those of the same name in any library; needs a C compiler."""
    in_slice: bool = False
    by_name: bool = False
    """Whether it is examined only where it is asked for by name."""


AMD = {"TILEWRIGHT_CPU_VENDOR": "amd"}
INTEL = "intel"
AVX2 = 5 if cpu.vendor() == INTEL else 0
"""What MKL says of AVX2: on CPUs of other makers it lets nobody choose, and calls all of theirs 0."""

COMPUTERS = (
    *(
        Computer(
            f"OpenBLAS {kind}", {"OPENBLAS_CORETYPE": kind}, OPENBLAS, f"for {reported}$", needs,
            in_slice=kind == "Prescott",
        )
        for kind, reported, needs in (
            ("Haswell", "Haswell", "avx2"), ("Zen", "(Zen|Haswell)", "avx2"), ("SkylakeX", "SkylakeX", "avx512f"),
            ("Prescott", "(Prescott|Katmai)", "pni"),  # builds have the kernels of one family under any of its names
        )
    ),
    Computer("MKL AVX2", {"MKL_ENABLE_INSTRUCTIONS": "AVX2"}, MKL, "instructions 5", "avx2", INTEL, "torch"),
    Computer("MKL SSE4.2", {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}, MKL, "instructions 3", "sse4_2", INTEL, "torch"),
    Computer("MKL_CBWR COMPATIBLE", {"MKL_CBWR": "COMPATIBLE"}, MKL, "instructions 0 branch 3", blas="torch"),
    Computer("MKL_CBWR AVX2", {"MKL_CBWR": "AVX2"}, MKL, "instructions 5 branch 10", "avx2", INTEL, "torch"),
    Computer("MKL_CBWR AVX512", {"MKL_CBWR": "AVX512"}, MKL, "instructions 7 branch 12", "avx512f", INTEL, "torch"),
    Computer("torch without AVX", {"ATEN_CPU_CAPABILITY": "default"}, ATEN, "with (DEFAULT|NO AVX)"),
    Computer("oneDNN AVX2", {"ONEDNN_MAX_CPU_ISA": "AVX2"}, ONEDNN, "isa:Intel AVX2$", "avx2"),
    *(
        Computer(
            f"BLAS {name}", {"TILEWRIGHT_BLAS": name}, BLAS, f"from {name}$", blas=name
        )
        for name in ("torch", "openblas", "mkl")
    ),
    Computer("one CPU", {}, CORES, "cores: 1$", cpus=1),
    Computer("no 16-bit instructions", {"TILEWRIGHT_CPU_FEATURES": ""}, FEATURES, "none$"),
    Computer(
        "laptop with AVX2", LAPTOP, OPENBLAS + ATEN + MKL, rf"for Haswell\n.*AVX2\n.*instructions {AVX2}", "avx2",
        blas="torch", in_slice=True,
    ),
    Computer("Zen 2", LAPTOP | AMD, MKL + BLAS, r"instructions 0.*\n.*openblas", "avx2", blas="torch", preload=ZEN),
    Computer(
        "Zen 4",
        AMD | {"TILEWRIGHT_CPU_FEATURES": "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512_bf16,avx512_vnni"},
        MKL + BLAS, r"instructions 0.*\n.*openblas", "avx512f", blas="torch", preload=ZEN, in_slice=True,
    ),
    Computer(
        "neither Intel nor AMD", {"TILEWRIGHT_CPU_VENDOR": "other"}, MKL + BLAS, r"instructions 0.*\n.*openblas",
        blas="torch", preload=NOT_INTEL,
    ),
    Computer("no torch", {}, PACKAGES, "there are (?!.*torch).*dask", without=("torch",), in_slice=True),
    Computer("core only", {}, PACKAGES, "there are none$", without=None, in_slice=True),
    Computer("this one", {}, VERSIONS, "NumPy", by_name=True),
)  # fmt: skip


# ------------------------------------------------------------------ how a process comes to believe it


def absent(computer: Computer) -> str:
    """Why this machine cannot pretend that computer; empty if it can."""
    if computer.needs != "sse2" and computer.needs not in cpu.features():
        return f"this CPU has no {computer.needs}"
    if computer.vendor and computer.vendor != cpu.vendor():
        return "MKL lets its instructions be chosen on CPUs of Intel only"
    if computer.blas and isinstance(reason := available()[computer.blas], str):
        return reason
    if computer.preload and not shutil.which("cc"):
        return "it takes a C compiler to tell MKL another vendor, and there is no cc"
    return "" if platform.system() == "Linux" else "only Linux can pretend"


def closure(names: Iterable[str]) -> set[str]:
    """These distributions and all that they require, canonical names."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found:
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append(needed)
    return found


def environment_without(folder: Path, without: tuple[str, ...] | None) -> Path:
    """An interpreter that has the packages of this one but for those: links to their files, so it takes no time."""
    venv.create(folder, symlinks=True, with_pip=False)
    [site] = folder.glob("lib/python*/site-packages")
    own = closure(("tilewright", "pytest", "pytest-timeout", "hypothesis", "packaging", "pyamg"))
    for distribution in importlib.metadata.distributions():
        name = canonicalize_name(distribution.metadata["Name"])
        if name in (without or ()) or (without is None and name not in own):
            continue
        for path in distribution.files or ():
            if ".." in path.parts:  # programs and libraries, one by one
                place = Path(os.path.normpath(site / path))
            else:
                path, place = Path(path.parts[0]), site / path.parts[0]
            source = Path(os.path.normpath(distribution.locate_file(path)))
            if path.name != "__pycache__" and source.exists() and not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(source)
    return folder / "bin" / "python"


@dataclass
class Process:
    """How to start Python on a pretended computer."""

    computer: Computer
    folder: Path
    python: Path = field(init=False)
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(SWITCHES)}
        self.environment = clean | self.computer.environment
        self.python = Path(sys.executable)
        if self.computer.without != ():
            self.python = environment_without(self.folder / "environment", self.computer.without)
        if self.computer.preload:
            (self.folder / "vendor.c").write_text(self.computer.preload)
            library = self.folder / "vendor.so"
            subprocess.run(["cc", "-shared", "-fPIC", "-o", library, self.folder / "vendor.c"], check=True)
            self.environment["LD_PRELOAD"] = str(library)

    def run(self, arguments: list[str], log: Path) -> int:
        """Python with these arguments, all it says in ``log``; its return code."""
        few = ["taskset", "-c", ",".join(map(str, sorted(os.sched_getaffinity(0))[: self.computer.cpus]))]
        with log.open("w") as file:
            return subprocess.run(
                [*few * bool(self.computer.cpus), self.python, *arguments],
                cwd=ROOT,
                env=self.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            ).returncode


# ------------------------------------------------------------------ the tests on it


def examine(computer: Computer, tests: Iterable[str], logs: Path, whole: bool) -> bool:
    """Prove one computer and run the tests on it, all or its share; print one line and what failed. Whether all is well."""
    if reason := absent(computer):
        print(f"{computer.name:<24} not here: {reason.partition(';')[0][:120]}", flush=True)
        return True
    log = logs / f"{re.sub('[^A-Za-z0-9]+', '-', computer.name)}.txt"
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        process = Process(computer, Path(folder))
        code = process.run(["-c", computer.proof], log)
        said = log.read_text().strip()
        if code or not re.search(computer.says, said, re.M):
            print(
                f"{computer.name:<24} FAILED: it is not what it pretends; it should say {computer.says!r} and said:\n{said}"
            )
            return False
        results = Path(folder, "results.xml")
        options = ["-q", "-p", "no:cacheprovider", f"--junitxml={results}", "--durations=15"]
        if computer.without == () and not computer.by_name:
            options += ["-k", f"not ({' or '.join(SAME_EVERYWHERE)})"]
            if not whole:
                process.environment["TILEWRIGHT_SHARE"] = f"{COMPUTERS.index(computer) % SHARES} of {SHARES}"
        code = process.run(["-m", "pytest", *options, *tests], log)
        counts = dict(ElementTree.parse(results).getroot()[0].attrib) if results.exists() else {}
    seconds = time.monotonic() - start
    bad, skipped = (sum(int(counts.get(key, 0)) for key in keys) for keys in (("failures", "errors"), ("skipped",)))
    passed = int(counts.get("tests", 0)) - bad - skipped
    well = code == 0 and passed > 0
    print(
        f"{computer.name:<24} {passed:>5} passed {bad:>4} failed {skipped:>4} skipped {seconds:>6.0f} s"
        f"  {said.splitlines()[-1][:50] if computer.proof != ONEDNN else 'oneDNN with AVX2'}",
        flush=True,
    )
    if not well:
        lines = log.read_text().splitlines()
        named = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        print(*(named or lines[-20:]), f"pytest ended with {code}; all of it: {log}", sep="\n", flush=True)
    return well


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="COMPUTER", help="some of the computers; all if none is named")
    parser.add_argument("--slice", action="store_true", help="few tests on some of them")
    parser.add_argument(
        "--whole", action="store_true", help="all tests on each, not one of three where only a CPU is pretended"
    )
    parser.add_argument("--list", action="store_true", help="name the computers and what makes them")
    parser.add_argument(
        "--jobs", type=int, default=cores(), metavar="N", help="at a time; one on each core if not said"
    )
    parser.add_argument("--logs", type=Path, default=LOGS, metavar="FOLDER", help="where pytest's output goes")
    parser.add_argument("--tests", nargs="+", help="these instead, as pytest takes them")
    options = parser.parse_args()
    if unknown := set(options.names) - {computer.name for computer in COMPUTERS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; --list shows the names")
    chosen = [
        computer
        for computer in COMPUTERS
        if computer.name in options.names
        or not (options.names or computer.by_name or (options.slice and not computer.in_slice))
    ]
    if options.list:
        for computer in chosen:
            settings = [f"{name}={value}" for name, value in computer.environment.items()]
            print(f"{computer.name:<24} {absent(computer) or ' '.join(settings)}")
        return 0
    options.logs.mkdir(parents=True, exist_ok=True)
    tests = options.tests or (SLICE if options.slice else NUMERICAL)
    whole = options.whole or options.slice or bool(options.tests)
    with ThreadPoolExecutor(options.jobs) as examiners:
        results = list(examiners.map(lambda computer: examine(computer, tests, options.logs, whole), chosen))
    print(f"{results.count(False)} of {len(results)} pretended computers failed")
    return 1 if False in results else 0


if __name__ == "__main__":
    sys.exit(main())
