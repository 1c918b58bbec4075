"""
A run, and what limited it
==========================

A factorisation on two threads. Print the run: it begins with a sentence that says what limited it. The Gantt chart has
the tasks of each worker, and lines at both lower bounds.
"""

import numpy as np

import tilewright as tw

A = tw.random_spd(768)
L, run = tw.tiled_cholesky(A, tile_size=128, workers=2, return_run=True)
print(run)
run.gantt("run.png")

# %%
# The bits depend on the matrix, the tile size and the kernels alone: another engine has the same.

assert np.array_equal(tw.tiled_cholesky(A, tile_size=128, backend="serial"), L)
