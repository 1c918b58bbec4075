"""What public calls take and return, and their keywords, as type checkers see them. Nothing imports this when it runs.

A call is overloaded by the kind of its matrix and by `return_run`; its keywords stand in a `TypedDict`, as the
overloads would else repeat them. `tests/test_typed.py` compares those with the signatures, and the kinds that are
promised here with what comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypedDict, TypeVar

import numpy as np

if TYPE_CHECKING:
    from tilewright.backends.mpi.pool import Pool
    from tilewright.backends.simulate import Noise
    from tilewright.distribution import Distribution
    from tilewright.machine import Machine
    from tilewright.precision import PrecisionMap
    from tilewright.runs.progress import ProgressOption
    from tilewright.schedulers import Policy
    from tilewright.storage.function import TileFunction
    from tilewright.tiles import TiledMatrix

__all__ = ["ArrayLike", "C", "Chunked", "K", "Matrix", "OnDisk", "Out", "Sparse", "Stored", "T", "Tensor"]

# ------------------------------------------------------------------ arrays, by what they can do: torch may be missing


class Tensor(Protocol):
    """A tensor of torch."""

    def data_ptr(self) -> int: ...
    def detach(self) -> Any: ...


class Chunked(Protocol):
    """A dask.array."""

    def __dask_graph__(self) -> Any: ...
    def compute(self) -> Any: ...


class SupportsArray(Protocol):
    """What NumPy reads."""

    def __array__(self) -> np.ndarray: ...


class SupportsDLPack(Protocol):
    """An array of another library."""

    def __dlpack__(self) -> Any: ...
    def __dlpack_device__(self) -> Any: ...


class Sparse(Protocol):
    """A sparse matrix or array of SciPy."""

    def tocsr(self) -> Any: ...


class OnDisk(Protocol):
    """A memory map, or an array of zarr or h5py: a slice of it is an array."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...
    def __getitem__(self, key: Any, /) -> Any: ...


_Entry: TypeAlias = "complex | SupportsArray | SupportsDLPack"
ArrayLike: TypeAlias = "_Entry | Sequence[_Entry] | Sequence[Sequence[_Entry]] | Sequence[Sequence[Sequence[_Entry]]]"
"""What becomes a NumPy array, and comes back as one: arrays, data frames, lists. No text, which is a path."""

Matrix: TypeAlias = "ArrayLike | TiledMatrix | Tensor | Chunked"
"""Whatever calls take as a matrix or vector in memory."""

Stored: TypeAlias = "str | Path | TileFunction"
"""A matrix outside of memory; or an array of zarr or h5py, which is `ArrayLike` as well."""

Out: TypeAlias = "str | Path | OnDisk"
"""Where a matrix outside of memory goes."""

K = TypeVar("K", bound="TiledMatrix | Tensor | Chunked")
"""A kind that comes back as it is."""

C = TypeVar("C", bound="Tensor | Chunked")
"""As `K`, of vectors."""

T = TypeVar("T", bound="Tensor")
"""As `K`, of calls that make arrays of all else."""

# ------------------------------------------------------------------ keywords


class Engines(TypedDict, total=False):
    """Options of all engines together, but for those below: which has which is said when a call is made."""

    devices: str | Sequence[Any] | None
    pin: str | None
    owner: Distribution | Callable[..., int] | Mapping[Any, Any] | None
    broadcast: str | None
    noise: Noise
    seed: int
    grid: Sequence[int] | None
    pool: Pool | None
    comm: Any  # of mpi4py, which need not be installed
    root: int | None
    gather: str | None
    window: int | None
    synchronous: bool | None
    client: Any  # of Dask, as above
    timeout: float | None
    overheads: Sequence[float] | None


class EngineOptions(Engines, total=False):
    """Those of `run`, which has a ``machine`` of its own."""

    mode: str | None


class _Graphs(TypedDict, total=False):
    """Options of calls that make their graph and run it."""

    machine: Machine | None  # of engine simulate
    tile_size: int | None
    scheduler: str | Policy
    workers: int | None


class _Kept(TypedDict, total=False):
    """Options of those that can be killed and go on."""

    memory: int | str | None
    checkpoint: str | Path | None
    resume: bool
    every: float
    restart: int


class Plain(EngineOptions, _Graphs, total=False):
    """Options of those that show no progress."""

    backend: str | None


class Options(Plain, total=False):
    """Options of most calls."""

    progress: ProgressOption


class Checkpoints(Options, _Kept, total=False):
    """Options of factorisations."""


class CholeskyOptions(Checkpoints, total=False):
    lower: bool
    overwrite_a: bool
    check_finite: bool
    precision: str | PrecisionMap | None
    route: str | None
    emulate: bool
    overwrite_out: bool


class FactorOptions(Options, total=False):
    lower: bool
    check_finite: bool


class SolveOptions(Options, total=False):
    assume_a: str | None
    pivoting: str | None
    lower: bool
    precision: Any  # a name, a PrecisionMap or a format of one's own
    refine: str
    fallback: bool
    check_finite: bool
    check_symmetric: bool
    transposed: bool
    memory: int | str | None


class EigenOptions(Options, total=False):
    lower: bool
    subset_by_index: Sequence[int] | None
    check_finite: bool
    band: int | None


class CheckedOptions(Options, total=False):
    check_finite: bool


class ValuesOptions(CheckedOptions, total=False):
    band: int | None


class LowRankOptions(CheckedOptions, total=False):
    power_iters: int
    oversample: int


class PolarOptions(Plain, total=False):
    check_finite: bool
    progress: ProgressOption


class LstsqOptions(CheckedOptions, total=False):
    lapack_driver: str
    tree: Any  # a name, a tuple or a list of eliminations


class _QR(TypedDict, total=False):
    tree: Any  # a name, a tuple or a list of eliminations
    positive: bool
    overwrite_a: bool
    check_finite: bool


class QRFactorOptions(Checkpoints, _QR, total=False):
    pass


class QROptions(Engines, _Graphs, _Kept, _QR, total=False):
    """Without the ``mode`` of Dask, which is another thing here."""

    backend: str | None
    progress: ProgressOption
    overwrite_out: bool


class GemmOptions(Options, total=False):
    alpha: complex
    beta: complex
    trans_a: str
    trans_b: str
    overwrite_c: bool


class SyrkOptions(Options, total=False):
    uplo: str
    trans: str
    alpha: complex
    beta: complex
    overwrite_c: bool


class HerkOptions(Options, total=False):
    uplo: str
    trans: str
    alpha: float
    beta: float
    overwrite_c: bool


class TriangularOptions(Options, total=False):
    side: str
    uplo: str
    trans: str
    diag: str
    alpha: complex
    overwrite_b: bool


class TriangleOptions(Options, total=False):
    uplo: str
    overwrite_a: bool
    check_finite: bool


class TriInverseOptions(Options, total=False):
    lower: bool
    unit_diagonal: bool
    overwrite_a: bool
    check_finite: bool


class LUOptions(Checkpoints, total=False):
    pivoting: str | None
    update: str | None
    panel: str | None
    threshold: float | None
    overwrite_out: bool


class DetOptions(Options, total=False):
    """What `det` and `slogdet` hand on to it."""

    pivoting: str | None
    update: str | None
    panel: str | None
    threshold: float | None


class LUWayOptions(LUOptions, total=False):
    """What `lu` hands on to it."""

    out: Out | None


class InvOptions(Plain, total=False):
    pivoting: str | None
    threshold: float | None


class CondOptions(InvOptions, total=False):
    overwrite_a: bool
    check_finite: bool


class MatvecOptions(TypedDict, total=False):
    backend: str | None
    layout: str
    ranks: int | None
    grid: Sequence[int] | None
    overlap: bool
    check_finite: bool
    synchronous: bool
    pool: Pool | None
    comm: Any


class CgOptions(TypedDict, total=False):
    x0: Matrix | None
    rtol: float
    atol: float
    maxiter: int | None
    basis: str
    method: str
