"""Number formats, and which tile is computed in which: `FORMATS` and `PrecisionMap`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilewright.door import upstairs
from tilewright.keywords import strict
from tilewright.scalars import positive, text, whole

__all__ = ["FORMATS", "find_format", "Format", "PrecisionMap"]

_MOST_TILES = 1 << 20  # along a side: a map of more takes terabytes


@dataclass(frozen=True)
class Format:
    """A binary floating-point format.

    Attributes
    ----------
    name, bits
        ``bits`` are those of a stored number.
    digits
        Significant bits t, the hidden one included.
    emin, emax
        Exponents of the smallest normal and the largest number, as in 1.xxx * 2^e.
    storage
        The table's name for a tile that is only read by products: `tilewright.kernels.table.dtype_name`.
    accumulate
        dtype of the tiles that such products update; also of potrf and trsm.
    """

    name: str
    bits: int
    digits: int
    emin: int
    emax: int
    storage: str
    accumulate: str

    @property
    def u(self) -> float:
        """Unit roundoff 2^-t: the largest relative error of rounding to nearest. Not eps, which is 2 u."""
        return 2.0**-self.digits

    @property
    def eps(self) -> float:
        """Distance from 1 to the next number, 2 u."""
        return 2 * self.u

    @property
    def max(self) -> float:
        """The largest number."""
        if self.storage == "bfloat16x2":  # beyond, the high part rounds to infinity
            return (2 - 2.0**-8 - 2.0**-16) * 2.0**self.emax
        return (2 - 2.0 ** (1 - min(self.digits, 53))) * 2.0**self.emax

    @property
    def tiny(self) -> float:
        """The smallest normal number."""
        return 2.0**self.emin

    @property
    def smallest(self) -> float:
        """The smallest subnormal number."""
        return 2.0 ** (self.emin - self.digits + 1)

    @property
    def nbytes(self) -> int:
        """Bytes per number of a tile that travels."""
        return {"float64": 8, "float32": 4, "bfloat16x2": 4}.get(self.storage, 2)

    def round(self, x: Any) -> np.ndarray:
        """The nearest numbers of this format, as float64; ties to even, overflow to infinity, gradual underflow.

        For bf16x3 the sum of two BF16 numbers, each the nearest one to what is left of x.
        """
        with np.errstate(all="ignore"):
            x = np.asarray(x, np.float64)
            if self.storage == "bfloat16x2":
                high = FORMATS["bf16"].round(x)
                return np.where(np.isfinite(high), high + FORMATS["bf16"].round(x - high), high)
            _, exponent = np.frexp(x)  # |x| = f 2^e with f in [1/2, 1)
            quantum = np.maximum(exponent - self.digits, self.emin - self.digits + 1)
            rounded = np.ldexp(np.rint(np.ldexp(x, -quantum)), quantum)
            rounded = np.where(np.abs(rounded) > self.max, np.copysign(np.inf, x), rounded)
        return np.where(np.isfinite(x), rounded, x)

    def __str__(self) -> str:
        return self.name


#                name      bits  t  emin   emax  storage       accumulate
_TABLE = (
    Format("fp64",   64, 53, -1022, 1023, "float64", "float64"),
    Format("fp32",   32, 24,  -126,  127, "float32", "float32"),
    Format("tf32",   32, 11,  -126,  127, "float32", "float32"),
    Format("bf16x3", 32, 16,  -118,  127, "bfloat16x2", "float32"),
    Format("bf16",   16,  8,  -126,  127, "bfloat16", "float32"),
    Format("fp16",   16, 11,   -14,   15, "float16", "float32"),
)  # fmt: skip

FORMATS: dict[str, Format] = {entry.name: entry for entry in _TABLE}
"""By name, from the most exact to the least, fp16 last. ``bf16x3`` is no format of its own: operands are sums of two
BF16 numbers, products leave out the smallest of four terms. Below its ``tiny`` the low part underflows and digits are
lost; its ``smallest`` is that of bf16."""


def find_format(name: str | Format) -> Format:
    """The format of that name. ValueError if there is none."""
    if isinstance(name, Format):
        return name
    if not isinstance(name, str) or name not in FORMATS:
        raise ValueError(f"unknown precision {name!r}; known: {', '.join(FORMATS)}, or a PrecisionMap")
    return FORMATS[name]


@strict
class PrecisionMap:
    """The format of each tile of a lower triangle, nt x nt.

    Tile (i, j) in format f means: it is stored, and solved with, in ``f.accumulate``; the products that update it have
    operands in f. A diagonal tile in 16 bits is stored in FP32 like any other.

    Make one with `uniform`, `band`, `norm`, or from an array of names.

    Parameters
    ----------
    formats
        (nt, nt) array_like of format names; what stands above the diagonal does not matter.
    tile_size
        The tile size it was made for, if it was.
    note
        How it was made, for its text.

    Examples
    --------
    >>> from tilewright import PrecisionMap
    >>> pm = PrecisionMap.band(4, {0: "fp64", 1: "fp32", 2: "bf16"})
    >>> print(pm)
    fp64
    fp32 fp64
    bf16 fp32 fp64
    bf16 bf16 fp32 fp64
    >>> pm.counts()
    {'fp64': 4, 'fp32': 3, 'bf16': 3}
    """

    def __init__(self, formats: Any, *, tile_size: int | None = None, note: str = "") -> None:
        names = np.asarray(formats, dtype=object)
        if names.ndim != 2 or names.shape[0] != names.shape[1]:
            raise ValueError(
                f"formats: a PrecisionMap needs a square array of format names, not one of shape {names.shape}"
            )
        if tile_size is not None:
            tile_size = positive(tile_size, "tile_size")
        text(note, "note")
        self.nt: int = len(names)
        self.tile_size = tile_size
        self.note = note
        """How it was made."""
        self._names = tuple(tuple(find_format(names[i, j]).name for j in range(i + 1)) for i in range(self.nt))

    # ------------------------------------------------------------ making

    @classmethod
    def uniform(cls, nt: int, format: str) -> PrecisionMap:
        """One format for all tiles."""
        nt = whole(whole(nt, "nt", 0), "nt", most=_MOST_TILES)
        return cls(np.full((nt, nt), find_format(format).name, dtype=object), note=f"uniform {format}")

    @classmethod
    def band(cls, nt: int, widths: Mapping[int, str]) -> PrecisionMap:
        """By distance i - j from the diagonal: ``{0: "fp64", 2: "bf16"}`` is FP64 for i - j < 2 and BF16 from there.

        The older rule of ExaGeoStat: covariances decay away from the diagonal.
        """
        if 0 not in widths:
            raise ValueError("the band rule needs a format from distance 0 on, such as {0: 'fp64', 2: 'bf16'}")
        starts = sorted(widths)
        distance = np.subtract.outer(np.arange(nt), np.arange(nt))
        names = np.empty((nt, nt), dtype=object)
        for start in starts:
            names[distance >= start] = find_format(widths[start]).name
        names[distance < 0] = find_format(widths[0]).name
        return cls(names, note="band " + ", ".join(f"{s}: {widths[s]}" for s in starts))

    @classmethod
    def norm(
        cls,
        a: Any,
        *,
        tile_size: int,
        tolerance: float,
        formats: tuple[str, ...] = ("bf16", "fp32", "fp64"),
        workers: int | None = None,
    ) -> PrecisionMap:
        """Higham and Mary's rule: a tile may have unit roundoff u if ||A_ij||_F nt / ||A||_F < tolerance/u.

        Then ||A - A'||_F <= tolerance ||A||_F, where A' has every tile rounded to its format: the nt^2 tiles each add
        at most (tolerance ||A||_F / nt)^2 to the square. Of ``formats`` each tile gets the first that qualifies and
        whose range holds it, else the last. Diagonal tiles always get the last one: that is where a factorisation
        breaks down.

        ``a`` is symmetric, its lower triangle is read, once, by tile tasks on all workers.
        """
        if not tolerance > 0:
            raise ValueError(f"tolerance must be positive, not {tolerance}")
        shapes, largest = upstairs("linalg.norms:tile_norms")(a, tile_size, workers)
        nt = len(shapes)
        top = float(largest.max(initial=0)) or 1.0
        with np.errstate(under="ignore"):
            norms = shapes * (largest / top)  # in units of the largest number: no square overflows
            strictly = np.tril(norms, -1)
            total = float(np.sqrt(2 * (strictly**2).sum() + (np.diagonal(norms) ** 2).sum()))
        names = np.full((nt, nt), find_format(formats[-1]).name, dtype=object)
        for i in range(nt):
            for j in range(i):
                for candidate in map(find_format, formats):
                    if norms[i, j] * nt < tolerance / candidate.u * total and largest[i, j] <= candidate.max:
                        names[i, j] = candidate.name
                        break
        return cls(names, tile_size=tile_size, note=f"norm rule, tolerance {tolerance:g}")

    # ------------------------------------------------------------ looking

    def __getitem__(self, index: tuple[int, int]) -> Format:
        i, j = index
        if not 0 <= j <= i < self.nt:
            raise IndexError(f"tile ({i}, {j}) is not in the lower triangle of {self.nt} x {self.nt} tiles")
        return FORMATS[self._names[i][j]]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((i, j) for i in range(self.nt) for j in range(i + 1))

    @property
    def names(self) -> tuple[tuple[str, ...], ...]:
        """Row by row, up to the diagonal."""
        return self._names

    def counts(self) -> dict[str, int]:
        """Tiles of each format that occurs, the most exact first."""
        found = Counter(name for row in self._names for name in row)
        return {name: found[name] for name in FORMATS if name in found}

    @property
    def single(self) -> Format | None:
        """The format, if all tiles have the same."""
        counts = self.counts()
        return FORMATS[next(iter(counts))] if len(counts) == 1 else None

    @property
    def accumulate(self) -> str:
        """dtype that holds every tile exactly."""
        return "float64" if "fp64" in self.counts() else "float32"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PrecisionMap) and self._names == other._names

    def __hash__(self) -> int:
        return hash(self._names)

    def __str__(self) -> str:
        width = max((len(name) for row in self._names for name in row), default=0)
        return "\n".join(" ".join(name.ljust(width) for name in row).rstrip() for row in self._names)

    def _repr_html_(self) -> str:
        """What a notebook shows: the map in colours."""
        return str(upstairs("plot.cards:precision_map")(self))

    def __repr__(self) -> str:
        shares = ", ".join(f"{count} {name}" for name, count in self.counts().items())
        return f"PrecisionMap({self.nt} x {self.nt} tiles: {shares}{self.note and '; ' + self.note})"
