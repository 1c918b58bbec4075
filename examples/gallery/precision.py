"""
A format for each tile
======================

The covariance of points on a line: tiles far from the diagonal are small, so fewer bits of them are enough for one
accuracy of the whole.
"""

import numpy as np

import tilewright as tw

points = np.linspace(0, 1, 512)
A = np.exp(-np.abs(points[:, None] - points[None, :]) / 0.02) + 0.1 * np.eye(512)
formats = tw.PrecisionMap.norm(A, tile_size=64, tolerance=1e-4)
tw.plot.precision_map(formats, "map.png")

# %%
# Conversions are tasks, made once a tile. The error is below what was asked for.

L, run = tw.tiled_cholesky(A, precision=formats, return_run=True)
print(run.conversions.count, "conversions")
print("relative error", np.linalg.norm(L @ L.T - A) / np.linalg.norm(A))
