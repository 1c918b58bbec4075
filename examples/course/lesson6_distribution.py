"""
6. LU needs a cyclic distribution
=================================

"LU factorizations: needs a cyclic distribution", says the lecture. Here is why. Step k of LU changes only tiles below
and right of k, so the active part shrinks, and ranks that own finished tiles have nothing left to do. We deal a matrix
out to 16 simulated ranks by blocks, by rows and cyclically, count what each has to do, and time it.

The lecture is V. Eijkhout's *Parallel scalability*.
"""

from dataclasses import dataclass

import tilewright as tw

nt, ranks = 32, 16


@dataclass(frozen=True)
class Blocks:
    """A 4 x 4 grid of ranks; each owns one square of adjacent tiles. Such a rule is all that a distribution is."""

    nt: int
    ranks: int = 16

    def __call__(self, i, j):
        return i * 4 // self.nt * 4 + j * 4 // self.nt


rules = {"block": Blocks, "rows": lambda nt: tw.RowBlocks(ranks, nt), "cyclic": lambda nt: tw.BlockCyclic(4, 4)}
for name, rule in rules.items():
    owner = rule(8)
    print(f"{name}, who owns which of 8 x 8 tiles")
    print("\n".join(" ".join(f"{owner(i, j):2}" for j in range(8)) for i in range(8)))

# %%
# Work left
# ---------
#
# After step k the tiles (i, j) with i, j > k are still to be changed. How many ranks own one of them, and how many has
# the fullest rank for each that it would have if all had the same?


def left(owner, k):
    """Tiles of each rank that the steps after k change."""
    count = [0] * ranks
    for i in range(k + 1, nt):
        for j in range(k + 1, nt):
            count[owner(i, j)] += 1
    return count


print("ranks with work, and the fullest over the average")
print("  k  " + "".join(f"{name:>14}" for name in rules))
for k in range(-1, nt - 1, 6):
    cells = []
    for rule in rules.values():
        tiles = left(rule(nt), k)
        cells.append(f"{sum(map(bool, tiles)):8} {max(tiles) * ranks / sum(tiles):5.1f}")
    print(f"{k:3}  " + "".join(cells))
assert sum(map(bool, left(Blocks(nt), 23))) == 1 and sum(map(bool, left(tw.BlockCyclic(4, 4), 23))) == 16

# %%
# When three quarters of the steps are done, one rank owns all that is left of the blocks. Cyclically, all sixteen still
# have their share.
#
# Time
# ----
#
# The graph is the same for all three, LU without pivoting, so that nothing but the distribution differs. Ranks have 40
# GFLOP/s each, and a network of 2 us and 12.5 GB/s.

machine = tw.Machine(ranks=ranks, alpha=2e-6, beta=6.4e-10, gamma=2.5e-11, tile_size=256)
graph = tw.lu_graph(nt, nt, "none")
runs = {name: tw.simulate(graph, machine, owner=rule(nt)) for name, rule in rules.items()}
print("distribution   makespan  efficiency  messages")
for name, run in runs.items():
    print(f"{name:12} {run.makespan * 1e3:7.1f} ms {run.efficiency:11.2f} {run.messages:9}")
assert 2 * runs["cyclic"].makespan < runs["block"].makespan and runs["cyclic"].makespan < 0.8 * runs["rows"].makespan
print(runs["block"].verdict)

# %%
# In the Gantt charts, of 16 x 16 tiles, each line is a rank. By blocks ranks end one after the other, as a staircase.

for name in ("block", "cyclic"):
    tw.simulate(tw.lu_graph(16, 16, "none"), machine, owner=rules[name](16)).gantt(f"{name}.png")

# %%
# Exercises
# ---------
#
# 1. The fullest rank has to do all its tasks, however fast the network is. Add up the weights of the graph's tasks by
#    rank: what is the fullest over the average, for 8 and for 16 tiles a side? Which limit do blocks have?
# 2. Rows can be dealt out cyclically too, tile row i to rank i mod 16. That balances the work. Is it as good as a
#    4 x 4 grid? Compare messages.
# 3. With partial pivoting ranks also exchange rows, and a panel is one task of a whole block column. What does it cost
#    on the grid and by cyclic rows, with 16 x 16 tiles?

# %%
# Answers
# -------
#
# 1. Tile (i, j) is changed min(i, j) times. The mean of min(x, y) is 1/3 over the whole unit square, and
#    3/4 + 1/12 = 5/6 over the last of sixteen: the rank of that block does 2.5 times the average.


def imbalance(owner, nt):
    """Work of the fullest rank over the average."""
    work = [0.0] * ranks
    for task in tw.lu_graph(nt, nt, "none").tasks:
        work[owner(*task.writes[0].index)] += task.op.weight
    return max(work) * ranks / sum(work)


for name, rule in rules.items():
    print(f"{name:8}", " ".join(f"{imbalance(rule(size), size):5.2f}" for size in (8, 16)))
assert abs(imbalance(Blocks(16), 16) - 2.5) < 0.01 and imbalance(tw.BlockCyclic(4, 4), 16) < 1.4

# %%
# 2. It is better than blocks of rows, and not as good as the grid: a tile of U goes to all 16 ranks, not to the four of
#    a column of the grid.

strips = tw.simulate(graph, machine, owner=tw.BlockCyclic(16, 1))
print(f"cyclic rows {strips.makespan * 1e3:.1f} ms, {strips.messages} messages; grid {runs['cyclic'].messages}")
assert strips.messages > 2 * runs["cyclic"].messages
assert runs["cyclic"].makespan < strips.makespan < runs["rows"].makespan

# %%
# 3. Panels are on the critical path now, and their columns travel. The grid stays ahead.

size, times = 16, {}
for P, Q in ((4, 4), (16, 1)):
    pivoted = tw.lu_graph(size, size, ranks=P, shape=(256 * size, 256 * size), tile_size=256)
    for pivoting, graph in (("none", tw.lu_graph(size, size, "none")), ("partial", pivoted)):
        times[P, pivoting] = tw.simulate(graph, machine, owner=tw.BlockCyclic(P, Q)).makespan
    print(f"{P:2} x {Q}: without {times[P, 'none'] * 1e3:.1f} ms, with pivoting {times[P, 'partial'] * 1e3:.1f} ms")
assert times[4, "none"] < times[4, "partial"] < times[16, "partial"]
