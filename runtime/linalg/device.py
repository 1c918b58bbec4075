"""What users pass as a tensor on a GPU, seen as tiles there; and the result, which stays there.

One tile is the whole matrix unless a tile size is given: a GPU does not need it cut in pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tilewright.arguments import LAPACK

__all__ = ["DeviceColumns", "DeviceTriangle", "TensorTiles"]


class TensorTiles:
    """The tiles of a 2-D tensor, as views of it: `TiledMatrix.view` for tensors."""

    def __init__(self, tensor: Any, tile_size: int) -> None:
        self.tensor, self.tile_size, self.dtype = tensor, tile_size, tensor.dtype
        self.shape: tuple[int, int] = tuple(tensor.shape)
        self.mt, self.nt = (-(-extent // tile_size) for extent in self.shape)

    def rows(self, i: int) -> slice:
        """The rows of the matrix that tile row i covers."""
        return slice(i * self.tile_size, min((i + 1) * self.tile_size, self.shape[0]))

    def columns(self, j: int) -> slice:
        """The columns of the matrix that tile column j covers."""
        return slice(j * self.tile_size, min((j + 1) * self.tile_size, self.shape[1]))

    def __getitem__(self, index: tuple[int, int]) -> Any:
        return self.tensor[self.rows(index[0]), self.columns(index[1])]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((i, j) for i in range(self.mt) for j in range(self.nt))

    def __len__(self) -> int:
        return self.mt * self.nt


class DeviceTriangle:
    """A square tensor on a device, one triangle of which is read: `tilewright.linalg.matrix.Triangle` there."""

    turned = False

    def __init__(self, a: Any, *, lower: bool = True, overwrite: bool = False, what: str = "the matrix a") -> None:
        if a.ndim != 2 or a.shape[0] != a.shape[1]:
            raise ValueError(f"{what} must be square, not of shape {tuple(a.shape)}")
        if str(a.dtype).removeprefix("torch.") not in LAPACK:
            raise TypeError(f"no kernel on {a.device} for dtype {a.dtype}; convert {what} to {', '.join(LAPACK)}")
        if a.requires_grad:
            raise TypeError(f"{what} requires gradients, and this call is not differentiable; pass tensor.detach()")
        self.given, self.lower, self.what = a, lower, what
        self.in_place = self.clear = overwrite
        self.n, self.shape, self.dtype = len(a), tuple(a.shape), a.dtype
        self.tile_size = max(self.n, 1)

    def source(self, tile_size: int) -> TensorTiles:
        """The tiles to read, the lower triangle of them."""
        self.tiles = TensorTiles(self.given if self.lower else self.given.mT, tile_size)
        return self.tiles

    def factor(self, tile_size: int, dtype: Any, part: str) -> TensorTiles:
        """The tiles of a factor, in ``dtype``."""
        self.source(tile_size)
        return TensorTiles(self.tiles.tensor.to(dtype), tile_size)

    def target(self, used_again: bool = False) -> TensorTiles:
        """The tiles that become the result."""
        import torch

        if self.in_place:
            return self.tiles
        return TensorTiles(torch.zeros(self.shape, dtype=self.dtype, device=self.given.device), self.tiles.tile_size)

    def whole(self) -> TensorTiles:
        """Zeros of the shape of the matrix, to be filled on both sides of the diagonal."""
        import torch

        tile_size = self.tiles.tile_size
        return TensorTiles(torch.zeros(self.shape, dtype=self.dtype, device=self.given.device), tile_size)

    def array_of(self, tiles: TensorTiles) -> Any:
        """The tensor of `whole`."""
        return tiles.tensor

    def scalars(self, count: int) -> list[Any]:
        """So many (1, 1) buffers of FP64."""
        import torch

        return [torch.zeros((1, 1), dtype=torch.float64, device=self.given.device) for _ in range(count)]

    def result(self, target: TensorTiles) -> Any:
        """A tensor on the device: the lower triangle, or the upper one."""
        if self.in_place:
            return self.given
        return target.tensor if self.lower else target.tensor.mT

    def check_finite(self, part: str = "lower", *, optional: bool = True) -> None:
        """ValueError with the place of the first NaN or infinity of that triangle."""
        read = self.tiles.tensor
        bad = ~(read.tril() if part == "lower" else read.triu()).isfinite()
        if bool(bad.any()):
            row, column = bad.nonzero()[0].tolist()
            place = (row, column) if self.lower else (column, row)
            hint = "; check_finite=False skips this check" if optional else ""
            raise ValueError(f"{self.what} has a NaN or infinity at {place}{hint}")

    def check_diagonal(self) -> None:
        """LinAlgError with the place of the first zero on the diagonal."""
        zeros = (self.given.diagonal() == 0).nonzero()
        if len(zeros):
            k = int(zeros[0])
            raise np.linalg.LinAlgError(f"the factor is singular: its diagonal is zero at ({k}, {k})")


class DeviceColumns:
    """The b of A x = b where A is on a device, shape (n,) or (n, m): `tilewright.linalg.right_hand_side` there."""

    def __init__(self, b: Any, n: int, device: Any) -> None:
        import torch

        b = torch.as_tensor(b, device=device)
        if b.ndim not in (1, 2) or len(b) != n:
            raise ValueError(f"b must have {n} rows, not shape {tuple(b.shape)}")
        if b.requires_grad:
            raise TypeError("b requires gradients, and this call is not differentiable; pass tensor.detach()")
        self.shape = tuple(b.shape)
        self.columns = b if b.ndim == 2 else b[:, None]

    def dtype_with(self, dtype: Any) -> Any:
        """The dtype to solve in with a matrix of that one."""
        import torch

        return torch.promote_types(dtype, self.columns.dtype)

    def tiles(self, tile_size: int, dtype: Any) -> TensorTiles:
        """b in tiles."""
        return TensorTiles(self.columns.to(dtype), tile_size)

    def room(self, tile_size: int, dtype: Any) -> TensorTiles:
        """The tiles that become x."""
        return TensorTiles(self.columns.new_zeros(self.columns.shape, dtype=dtype), tile_size)

    def check_finite(self) -> None:
        """ValueError with the place of the first NaN or infinity."""
        bad = ~self.columns.isfinite()
        if bool(bad.any()):
            place = ", ".join(map(str, bad.nonzero()[0].tolist()[: len(self.shape)]))
            raise ValueError(f"b has a NaN or infinity at ({place}); check_finite=False skips this check")

    check_before = check_finite
    """Tasks on a device look at nothing."""

    def result(self, X: TensorTiles, matrix: Any = None) -> Any:
        """x in the shape of b."""
        return X.tensor.reshape(self.shape)
