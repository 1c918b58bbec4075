"""Which library serves which op on this computer.

Bits depend on the choice, so it is a rule and no measurement: the first row of `RULES` that fits the CPU's maker, the
op and the dtype gives an order of preference, of which the first library that is here and has the routine is taken.
Three things go before the rules:

1. `use`, or the environment variable ``TILEWRIGHT_BLAS``, names one library for all ops.
2. `adopt` takes over the choice of another process: ranks and workers compute with what their caller has.
3. A preference that the user had measured and stored: see `tilewright.kernels.preference`.
"""

from __future__ import annotations

import os
from functools import cache, lru_cache
from typing import NamedTuple

from tilewright.extras import command
from tilewright.kernels import blas, cpu, getrf, preference, symv
from tilewright.kernels.blas import Library
from tilewright.kernels.catalogue import TILE_OPS

__all__ = [
    "RULES",
    "VARIABLE",
    "Choice",
    "Rule",
    "adopt",
    "changes",
    "choice",
    "current",
    "library",
    "rule",
    "table",
    "use",
]

VARIABLE = "TILEWRIGHT_BLAS"
"""Environment variable that names the library to use."""

LETTERS = "sdcz"

#           routine that it stands for, after the letter of the dtype (real, complex); of gemv there is no row
ROUTINES = {**{name: tile_op.routine for name, tile_op in TILE_OPS.items()}, "gemv": ("gemv", "gemv")}
_SUBSTITUTE = {**{name: tile_op.substitute for name, tile_op in TILE_OPS.items()}, "gemv": "gemm"}


INSIDE = tuple(f"{letter}getrf2" for letter in LETTERS) + (*blas.BULGES.values(), *blas.CHASES.values())
"""What `Choice.inside` may name."""


class Rule(NamedTuple):
    """An order of preference, and why."""

    vendor: str
    """A maker of `tilewright.kernels.cpu.vendor`; empty for any."""
    ops: tuple[str, ...]
    """Empty for all."""
    letters: str
    """BLAS letters of the dtypes."""
    order: tuple[str, ...]
    reason: str


RULES = (
    Rule("intel", ("geqrt", "unmqr", "tsqrt", "tsmqr", "ttqrt", "ttmqr"), LETTERS, ("openblas", "mkl", "torch"),
         "the kernels of tile QR are SciPy's: MKL as torch has it exports none, and works with those"),
    Rule("intel", ("getrf", "getrf2", "elect", "electl", "match", "matchl"), LETTERS, ("openblas", "mkl", "torch"),
         "a panel of 4096 x 256, FP64, Xeon with AMX: 40 GFLOP/s a core in OpenBLAS, 23 in MKL whose bits repeat"),
    Rule("intel", ("swpgemm",), "d", ("openblas", "mkl", "torch"),
         "products of 3072 x 768 with 384 columns, FP64, Xeon with AMX: 76 GFLOP/s a core in OpenBLAS, which packs "
         "few rows at a time, 72 in MKL where rows are cut for the memory that it packs to"),
    Rule("intel", (), LETTERS, ("mkl", "torch", "openblas"),
         "GFLOP/s a core of MKL and OpenBLAS, FP64, tiles of 256 and 512, Xeon with AMX: gemm 59, 59 and 74, 67; trsm "
         "60, 16 and 66, 24; potrf 31, 17 and 40, 23"),
    Rule("amd", (), LETTERS, ("openblas", "mkl", "torch"),
         "gemm of tiles of 512, FP64, EPYC Zen 4: 45 GFLOP/s a core in OpenBLAS, 38 in MKL; a factorisation of order "
         "4608 73 and 66"),
    Rule("arm", (), LETTERS, ("openblas",), "there is no MKL for Arm"),
    Rule("", (), LETTERS, ("openblas", "mkl", "torch"), "MKL keeps its fast kernels for CPUs of Intel"),
)  # fmt: skip
"""The first that fits counts."""


class Choice(NamedTuple):
    """What decides about bits beside the matrix: plain data, so that it can travel and be compared."""

    libraries: tuple[tuple[str, str], ...]
    """(op, the library's name for each of the dtypes s, d, c, z)."""
    modes: tuple[tuple[str, str, int], ...]
    """(library, version, mode of reproducibility) of those that occur."""
    inside: tuple[str, ...] = ()
    """Routines that kernels take from inside SciPy's library where it has them: builds of one version differ."""

    def __str__(self) -> str:
        names = {name for _, row in self.libraries for name in row.split()}
        rows = self.libraries if len(names) > 1 else [("all", *names)]
        libraries = ", ".join(f"{op} {'/'.join(dict.fromkeys(row.split()))}" for op, row in rows)
        modes = ", ".join(f"{name} {version}, mode {mode}" for name, version, mode in self.modes)
        absent = [name for name in INSIDE if name not in self.inside]
        return f"{libraries} ({modes})" + f" without {', '.join(absent)}" * bool(absent)


_forced: Library | None = None
_adopted: Choice | None = None
_asked = False
_changes = 0


def changes() -> int:
    """How often `use` and `adopt` were called: answers that go by the choice hold as long as this number."""
    return _changes


def rule(op: str, letter: str, vendor: str) -> Rule:
    """The rule for an op in a dtype on a CPU of this maker."""
    for row in RULES:
        if row.vendor in ("", vendor) and (not row.ops or op in row.ops) and letter in row.letters:
            return row
    raise AssertionError("the last rule fits everything")


def library(op: str, letter: str) -> Library:
    """The library that serves an op of `ROUTINES` for BLAS type ``letter`` in "sdcz".

    Raises
    ------
    ValueError, OSError
        The environment variable names a library that is not known, or not here.
    """
    forced = _one_for_all()
    if forced is not None:
        return forced
    return _chosen(op, letter)


@cache
def _chosen(op: str, letter: str) -> Library:
    if _adopted is not None:
        return blas.load(dict(_adopted.libraries)[op].split()[LETTERS.index(letter)])
    stored = preference.stored().get(f"{letter}{op}")
    order = rule(op, letter, cpu.vendor()).order
    found = [one for name in dict.fromkeys([*[stored] * bool(stored), *order, *blas.NAMES]) if (one := _try(name))]
    routine = _SUBSTITUTE.get(op) or ROUTINES[op][letter in "cz"]
    has = [one for one in found if one.symbol(letter + routine)]
    if not has:
        raise OSError(
            f"no BLAS library with {letter}{routine} is here: this SciPy exports none, and neither torch nor MKL is "
            f"installed; install SciPy from a wheel, or torch: {command('torch')}"
        )
    return has[0]


def current() -> Library:
    """The library of the products, FP64 gemm: the one for all ops where one was named."""
    return library("gemm", "d")


def choice() -> Choice:
    """The choice for every op and dtype, to be compared or adopted."""
    rows, used, inside = _served(_changes, _one_for_all())
    modes = tuple((one.name, one.version, one.mode()) for one in used)
    return Choice(rows, modes, inside)


@lru_cache(maxsize=4)
def _served(
    changed: int, forced: Library | None
) -> tuple[tuple[tuple[str, str], ...], tuple[Library, ...], tuple[str, ...]]:
    """Ops with the names of their libraries, those that occur, and `_inside`: what holds until the next `use`."""
    rows, used = [], {}
    for op in ROUTINES:
        libraries = [library(op, letter) for letter in LETTERS]
        used.update({one.name: one for one in libraries})
        rows.append((op, " ".join(one.name for one in libraries)))
    return tuple(rows), tuple(used[name] for name in sorted(used)), _inside()


def _inside() -> tuple[str, ...]:
    """Those of `INSIDE` that kernels of this process take."""
    panels = [f"{letter}getrf2" for letter in LETTERS if getrf.dividing(library("getrf", letter), letter)]
    scipys = _try("openblas")
    names = [*blas.BULGES.items(), *blas.CHASES.items()]
    bulges = [name for kind, name in names if scipys and scipys.inner(name) and symv.sound(kind)]
    return (*panels, *bulges)


def adopt(wanted: Choice) -> None:
    """Compute as the process does that sent its `choice`: same libraries, same modes, so same bits.

    Raises
    ------
    OSError
        A library is not here, or has another version, or works in another mode that cannot be changed any more, or
        SciPy's is another build. One sentence says which and what to do.
    """
    global _forced, _adopted, _asked, _changes
    if _adopted == wanted:
        return
    for name, version, mode in wanted.modes:
        try:
            here = blas.load(name)
        except OSError as error:
            raise OSError(
                f"the caller's kernels are those of {name}, which this process cannot load ({error}); set "
                f"{VARIABLE}=openblas where the caller runs"
            ) from None
        if here.version != version:
            raise OSError(
                f"the caller's kernels are those of {name} {version}, but here that is {here.version}, with other "
                f"bits; install the same version, or set {VARIABLE} where the caller runs"
            )
        if here.mode() != mode and not here.set_mode(mode):
            raise OSError(
                f"the caller's {name} works in mode {mode}, but here MKL was used before in mode {here.mode()}, with "
                f"other bits; set {blas.MODE}=AUTO in the environment of all processes, or {VARIABLE}=openblas"
            )
    before = _forced, _adopted, _asked
    _forced, _adopted, _asked = None, wanted, True
    _chosen.cache_clear()
    _changes += 1
    inside = _inside()
    if inside != wanted.inside:
        _forced, _adopted, _asked = before
        _chosen.cache_clear()
        odd = ", ".join(name for name in INSIDE if (name in inside) != (name in wanted.inside))
        raise OSError(
            f"the caller's kernels and those here differ in what they take from inside SciPy's library ({odd}), with "
            f"other bits; install the same build of SciPy for all processes"
        )


def use(name: str | None) -> None:
    """Take the tile kernels of all later runs from this library; None returns to the automatic choice."""
    global _forced, _adopted, _asked, _changes
    if not (name is None or isinstance(name, str)):
        raise TypeError(f"the name of a BLAS is one of {', '.join(blas.NAMES)}, or None, not {name!r}")
    _forced = None if name is None else blas.load(name)
    _adopted, _asked = None, name is not None
    _chosen.cache_clear()
    _changes += 1


def table() -> list[tuple[str, str, str, str]]:
    """(op, dtype letters, library, why) of every choice, letters with the same answer together."""
    rows: dict[tuple[str, str, str], str] = {}
    for op in ROUTINES:
        for letter in LETTERS:
            key = op, library(op, letter).name, _why(op, letter)
            rows[key] = rows.get(key, "") + letter
    return [(op, letters, name, why) for (op, name, why), letters in rows.items()]


def _why(op: str, letter: str) -> str:
    if _one_for_all() is not None:
        return f"named by {VARIABLE}" if os.environ.get(VARIABLE) else "named by use()"
    if _adopted is not None:
        return "as the caller has it"
    if preference.stored().get(f"{letter}{op}"):
        return "measured on this computer"
    row = rule(op, letter, cpu.vendor())
    return f"{row.vendor or 'other'}: {row.reason}"


def _one_for_all() -> Library | None:
    """The library that `use` or the environment named; the environment is read once."""
    global _forced, _asked
    if not _asked:
        wanted = os.environ.get(VARIABLE)
        if wanted:
            try:
                _forced = blas.load(wanted)
            except (OSError, ValueError) as error:
                raise type(error)(f"{VARIABLE}={wanted}: {error}") from None
        _asked = True
    return _forced


@cache
def _try(name: str) -> Library | None:
    try:
        return blas.load(name)
    except OSError:
        return None
