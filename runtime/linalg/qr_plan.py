"""How a matrix is factored by QR, by rule: the tree and the tiles. Bits depend on them."""

from __future__ import annotations

import math
from typing import Any

from tilewright.linalg.qr_graph import QRPlan, inner_block
from tilewright.linalg.trees import PANEL, Tree, normal
from tilewright.linalg.tuning import STEP

__all__ = ["AUTO", "qr_plan"]

AUTO = "auto"

_LEAF = 1 << 21
"""Bytes of a row block of a tall matrix: what the second level of a cache holds, so that memory is read once."""

_TALL = 16
"""Rows a column from which a matrix of few columns is cut into row blocks."""

_NARROW = 256
"""Columns of one tile at most."""

_WIDTH = 128
"""Columns of a panel: as an inner extent of products from which they are fast; the panels themselves are not."""

_LONG = 4096
"""Columns of a matrix from which panels have twice as many: products go through memory half as often, and panels, which
are slow, are a small part of the flops."""

_UPDATE = 512
"""Columns that one product of an update has at most."""


def qr_plan(
    m: int,
    n: int,
    dtype: Any,
    *,
    workers: int,
    here: bool,
    ranks: int = 1,
    tree: Any = AUTO,
    tile_size: int | None = None,
    cut: int | None = None,
    rows: int | None = None,
    square: bool = False,
    grid: tuple[int, int] | None = None,
) -> QRPlan:
    """The plan for an m x n matrix.

    Few columns of many rows: one column of row blocks and a binary tree (TSQR), which reads memory once. Otherwise in
    one process panels of 128 or 256 columns as long as they feed the workers, as all but 2 % of their time is in
    products of matrices; else domains of four tiles under a greedy tree, which feed more. With nt block columns and
    updates of g of them the work of panels, 4 nt^3, is 0.44 nt times the chain of panels and 0.67 nt/g times that of
    the last columns, 6 g nt^2.

    Parameters
    ----------
    here
        Whether all tiles are in this process.
    ranks
        Over which tile rows are dealt out.
    tree, tile_size
        As the caller said.
    cut
        Rows of the tiles that are there already.
    rows
        Those of row blocks that are there already.
    square
        Whether tiles have to be square.
    grid
        The P x Q ranks, where the graph deals tiles out: `QRPlan.grid`.

    Examples
    --------
    >>> plan = qr_plan(10**6, 64, "float64", workers=2, here=True)
    >>> plan.tree, plan.height, plan.width, plan.mt
    ('binary', 4096, 64, 245)
    >>> [qr_plan(n, n, "float64", workers=w, here=True)[2:6:3] for n, w in ((100, 2), (4096, 2), (4096, 64))]
    [(100, 'panel'), (256, 'panel'), (128, ('hierarchical', 4, 'greedy', 'binary', 'rolling'))]
    """
    import numpy as np

    item = np.dtype(dtype).itemsize
    given = tile_size if tile_size is not None else cut
    chosen = None if isinstance(tree, str) and tree == AUTO else normal(tree)
    if given is None and not square and chosen != PANEL and 0 < n <= _NARROW and m >= _TALL * n:
        height = max(_LEAF // (item * n) // STEP * STEP, 2 * n)
        height = min(height, max(-(-m // ranks), n))  # something for each rank
        height = rows if rows is not None and n <= rows <= 16 * height else height
        return QRPlan(m, n, min(height, m), n, inner_block(n), chosen or _tall_tree(ranks), ranks, str(dtype), grid)
    nb = given or _panel_width(min(m, n))
    if chosen is None:
        panels, columns = -(-min(m, n) // nb), -(-n // nb)
        few = workers <= max(1, min(0.44 * panels, 0.67 * columns / _across(nb, columns)))
        chosen = PANEL if here and (few or (panels <= 1 and m <= 4 * nb)) else _wide_tree(ranks)
    if chosen != PANEL:
        nb = given or _tile_size(min(m, n), workers)
    if cut is None:
        nb = min(nb, max(m, n, 1))  # of a tile that is larger there is no more to say
    across = _across(nb, -(-n // nb)) if chosen == PANEL else 1
    return QRPlan(m, n, nb, nb, inner_block(nb), chosen, ranks, str(dtype), grid, across)


def _tall_tree(ranks: int) -> Tree:
    return "binary" if ranks == 1 else normal(("hierarchical", 1, "binary", "binary"))


def _wide_tree(ranks: int) -> Tree:
    return normal(("hierarchical", 4, "greedy", "binary"))


def _panel_width(k: int) -> int:
    """Columns of a panel: few, as panels are slow and each one waits for the one before."""
    return max(k, 1) if k <= _NARROW else _WIDTH if k < _LONG else 2 * _WIDTH


def _across(nb: int, nt: int) -> int:
    """Block columns that one task updates: so wide that products are fast, and eight such tasks or more at first.

    Not by the number of workers, as bits depend on it.
    """
    return max(1, min(_UPDATE // nb, nt // 8))


def _tile_size(k: int, workers: int) -> int:
    if k <= _NARROW:
        return max(k, 1)
    wanted = min(max(k / max(10, math.ceil(math.sqrt(18 * workers))), 128), 256)
    return math.ceil(k / math.ceil(k / wanted) / STEP) * STEP
