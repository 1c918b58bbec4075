"""What the library has to know of the kernels of one op, said once, in the op's own file.

From it come the rows of the kernel table for every BLAS library, the reference and torch; which library serves the op
(`tilewright.kernels.choice`); how its kernels are probed (`tilewright.kernels.steady`); and how libraries are compared
(`tilewright.kernels.contest`). `tilewright.kernels.catalogue` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

__all__ = ["ANY", "Operands", "TileOp"]

ANY = "any"
"""Stands in a row of the table for every dtype, and for what is no tile."""

Operands = Callable[[int, int, int], Iterator[tuple[bool, tuple[int, ...], str]]]
"""(written?, shape, kind of numbers) of each tile, from m, n, k; a kind is ``""``, ``"triangle"`` or ``"definite"``."""


class TileOp(NamedTuple):
    """The kernels of one op. Kernels change buffers in place and return None or an info."""

    name: str
    build: Callable[..., Callable[..., Any] | None] | None
    """The kernel of a library for BLAS type ``letter`` in "sdcz"; None where the library lacks it. None for all: there
    is the reference alone."""
    reference: Callable[..., Any]
    """In NumPy and SciPy, for every dtype: the specification of the others."""
    flops: Callable[..., float]
    """From the shapes of the arguments; of a group a list of shapes."""
    routine: tuple[str, str] = ("gemm", "gemm")
    """The BLAS or LAPACK routine it stands for, real and complex, after the letter: a library without is not asked."""
    substitute: str = ""
    """The routine that serves it too where its own is missing."""
    named: tuple[bool, ...] = ()
    """Which arguments have the dtype of the row; the others pass as they are, such as pivots. Empty for all."""
    operands: Operands | None = None
    """What its kernels are probed and compared with; without, they are taken as they are."""
    adjoint: tuple[tuple[Operands, tuple[Any, ...]], ...] = ()
    """The same for calls with these flags."""
    written: int = 1
    """How many of the operands it writes; they come last."""
    by_columns: bool = False
    """Whether its tiles lie by columns: see `tilewright.kernels.columns`."""
    arguments: Callable[..., tuple[Any, ...]] | None = None
    """The arguments of a call from ``operands``, or from their shapes, where a kernel takes groups and vectors."""
    beside: str = ""
    """Another op: its kernel, of whatever library serves that one, is a third argument of ``build``."""
    columns: int | None = None
    """n with which libraries are compared; by default the tile size."""
    tensor: Callable[..., Any] | None = None
    """On torch's tensors, FP32 and FP64; it only launches work."""

    def called(self, *operands: Any) -> tuple[Any, ...]:
        """The arguments of a call on these, or the shapes of the arguments from theirs."""
        return operands if self.arguments is None else self.arguments(*operands)

    def names(self, dtype: str) -> tuple[str, str]:
        """``storage`` and ``accumulate`` of its row for this dtype: `tilewright.kernels.table.register`."""
        if not self.named:
            return dtype, dtype
        *operands, last = [dtype if named else ANY for named in self.named]
        return ",".join(operands) or last, last
