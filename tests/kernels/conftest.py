"""Tiles in every memory layout, with a guard around them."""

import numpy as np
import pytest

LAYOUTS = ("rows", "columns", "strided rows", "strided columns")


class Tile:
    """``array`` holds ``values`` in a layout; strided ones are cut out of a larger array, whose rest is watched."""

    def __init__(self, values, layout):
        m, n = values.shape
        order = "C" if layout.endswith("rows") else "F"
        edge = 3 if layout.startswith("strided") else 0
        self.around = np.full((m + 2 * edge, n + 2 * edge), 77, values.dtype, order=order)
        self.inside = slice(edge, edge + m), slice(edge, edge + n)
        self.array = self.around[self.inside]
        self.array[...] = values

    def rest_is_untouched(self):
        rest = np.ones(self.around.shape, bool)
        rest[self.inside] = False
        return bool((self.around[rest] == 77).all())


@pytest.fixture
def tile():
    return Tile


@pytest.fixture(params=LAYOUTS)
def layout(request):
    """Layout of the written tile."""
    return request.param


@pytest.fixture(params=LAYOUTS)
def operand_layout(request):
    """Layout of the tiles that are only read."""
    return request.param
