"""
An algorithm of your own
========================

The longest common subsequence of two texts, by blocks of its table. A block needs its left and upper neighbours, so
tasks run as a wave from one corner to the other.
"""

import numpy as np

import tilewright as tw

rng = np.random.default_rng(0)
first, second = rng.integers(0, 4, (2, 600))
blocks, size = 6, 100


def fill(left, above, table, rows, columns):
    """Fill a block of the table of lengths; it has one row and one column of its neighbours' beside its own."""
    table[1:, 0], table[0, 1:], table[0, 0] = left[1:, -1], above[-1, 1:], left[0, -1]
    for i, letter in enumerate(rows, 1):
        diagonal = table[i - 1, :-1] + (columns == letter)
        table[i, 1:] = np.maximum.accumulate(np.maximum(np.maximum(diagonal, table[i - 1, 1:]), table[i, 0]))


graph = tw.TaskGraph("subsequence")
T = graph.handles("T")
for i in range(blocks):
    for j in range(blocks):
        rows, columns = first[i * size : (i + 1) * size], second[j * size : (j + 1) * size]
        graph.insert(fill, tw.R(T[i, j - 1]), tw.R(T[i - 1, j]), tw.RW(T[i, j]), rows, columns)
graph.to_svg("wave.svg", by=lambda task: f"diagonal {sum(task.writes[0].index)}")

# %%
# Engine, workers and policy are said when it runs. The corner of the last block is the length.

empty = {
    tw.Handle("T", (i, j)): np.zeros((size + 1, size + 1), int) for i in range(-1, blocks) for j in range(-1, blocks)
}
run = tw.run(graph, empty, workers=2)
print(run[T[blocks - 1, blocks - 1]][-1, -1], "letters in common")

# %%
# What would more workers bring? The wave is six blocks wide at most.

for workers in (1, 2, 4, 8):
    print(workers, tw.simulate(graph, tw.Machine(workers=workers)).makespan)
