"""
3. Strong, weak and optimistic scaling
======================================

A dense matrix-vector product y = A x, n x n on p ranks. Split by block rows, each rank needs all of x: an allgather,
then 2 n^2/p flops. The lecture asks three questions about its efficiency E = T1 / (p Tp):

The lecture is V. Eijkhout's *Parallel scalability*.

- *optimistic scaling*: p stays, n grows. Does E tend to 1?
- *strong scaling*: n stays, p grows. How long does more hardware help?
- *weak scaling*: the memory of a rank, M = n^2/p, stays. Does E stay?

Rows fail the third, and a grid of ranks mends it.
"""

import tilewright as tw

machine = tw.Machine(alpha=1e-6, beta=1e-9, gamma=1e-9)


def table(title, header, cases, efficiency):
    """E of rows and of a grid in each case."""
    print(f"{title}\n{header:>9}     rows     grid")
    for case in cases:
        print(f"{case:9} {efficiency('rows', case):8.4f} {efficiency('grid', case):8.4f}")


def optimistic(layout, n):
    return tw.comm.efficiency("dense", layout, 64, n, machine)


table("Optimistic scaling, p = 64", "n", [1000 * 2**k for k in range(6)], optimistic)
assert 1.9 < (1 - optimistic("rows", 10**6)) / (1 - optimistic("rows", 2 * 10**6)) < 2.1

# %%
# Twice the n, half of what is lost: E = 1 - O(1/n). It is optimistic, as the memory of each rank has to grow
# too.
#
# With n fixed, every layout fails in the end:


def strong(layout, p):
    return tw.comm.efficiency("dense", layout, p, 4096, machine)


table("Strong scaling, n = 4096", "p", [4**k for k in range(9)], strong)
assert strong("rows", 4**8) < 0.05 and strong("grid", 4**8) < 0.05

# %%
# Weak scaling
# ------------
#
# Each rank keeps M = n^2/p words. In E of the rows there is a term sqrt(p) / (2 sqrt(M)) beta/gamma: each rank gets
# nearly all n = sqrt(p M) words of x, and that grows. On a grid of sqrt(p) x sqrt(p) ranks a rank gets n / sqrt(p)
# words of x from its column and adds up as many of y in its row. That does not grow; only the alpha term does, like
# log2 p.


def weak(layout, p):
    return tw.comm.weak_efficiency("dense", layout, p, 10**6, machine)


table("Weak scaling, M = 10^6", "p", [4**k for k in range(11)], weak)
loss = [1 / weak("rows", 4**k) - 1 for k in (9, 10)]
assert 1.9 < loss[1] / loss[0] < 2.1  # four times the ranks, twice the loss: sqrt(p)
assert weak("rows", 4**10) < 0.7 and weak("grid", 4**10) > 0.98

# %%
# The formulas leave nothing to chance: the same products as graphs, message by message on simulated ranks, are the
# circles in the picture.

study = tw.comm.scaling_study(layouts=("rows", "grid"), n=1024, memory=1 << 14, p=16, most=64)
study.plot("scaling.png")

# %%
# Exercises
# ---------
#
# 1. *Iso-efficiency*: how fast must n grow with p so that E stays 0.9? Compare rows and grid from p = 2^20 to 2^22.
#    What does it mean for the memory of a rank?
# 2. By the exact costs a grid wins where sqrt(p) > 1 + gamma/beta. Simulate both at p = 4 and p = 16 for
#    beta = gamma, and at p = 4 also where a flop costs half a word, gamma = beta/2.
# 3. Up to how many ranks does a product with n = 4096 keep half its efficiency, by rows and on a grid?

# %%
# Answers
# -------
#
# 1. By rows n grows like p, so the memory of a rank, n^2/p, grows like p as well: sooner or later there is none. On a
#    grid n grows like sqrt(p log2 p), and the memory like log2 p.

for layout, least, most in (("rows", 3.9, 4.0), ("grid", 2.05, 2.15)):
    n1, n2 = (tw.comm.isoefficiency("dense", layout, p, 0.9, machine) for p in (2**20, 2**22))
    print(f"{layout}: n {n1:10.0f} -> {n2:10.0f}, words a rank {n1**2 / 2**20:10.0f} -> {n2**2 / 2**22:10.0f}")
    assert least < n2 / n1 <= most

# %%
# 2. On four ranks both take the same time if a word costs as much as a flop; with cheaper flops the grid wins there,
#    and on sixteen it wins anyway.


def simulated(grid, machine):
    return tw.simulate(tw.comm.matvec_graph((256, 256, *grid)), machine).makespan


quick = machine.replace(gamma=machine.beta / 2)
for p, side, model in ((4, 2, machine), (16, 4, machine), (4, 2, quick)):
    rows, square = simulated((p, 1), model), simulated((side, side), model)
    print(f"p = {p:2}, gamma/beta = {model.gamma / model.beta}: rows {rows * 1e6:8.3f} us, grid {square * 1e6:8.3f} us")
    assert abs(rows - square) < 1e-12 if (p, model) == (4, machine) else square < rows

# %%
# 3. By halving: E falls as p grows.

for layout in ("rows", "grid"):
    low, high = 1, 1 << 24
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if strong(layout, middle) >= 0.5 else (low, middle)
    print(f"{layout}: {low} ranks")
    assert strong(layout, low) >= 0.5 > strong(layout, low + 1)
