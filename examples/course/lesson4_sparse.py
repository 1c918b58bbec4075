"""
4. Sparse products: halo and communication avoiding
===================================================

A sparse matrix from a grid of points couples neighbours only, so a rank needs few words of others: its *halo*, or ghost
region. We see how many, by slabs and by patches; how a rank computes while they travel; and how several products may
share one exchange, at the price of work that is done twice: what the lecture calls communication avoiding.

The lecture is V. Eijkhout's *Parallel scalability*.
"""

import numpy as np
import scipy.sparse as sp
from matplotlib.figure import Figure

import tilewright as tw

n, ranks = 32, 16
line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
one = sp.eye_array(n)
A = (sp.kron(line, one) + sp.kron(one, line)).tocsr()  # five-point stencil on n x n points
slabs = tw.comm.partition.slabs((n, n), ranks)
patches = tw.comm.partition.patches((n, n), (4, 4))
for name, partition in (("slabs", slabs), ("patches", patches)):
    op = tw.SparseOperator(A, ranks=ranks, partition=partition, backend="serial")
    print(f"{name:8} {op.exchange.words:4} words in {op.exchange.messages} messages")

# %%
# A slab has one line of n words from each of two neighbours, a patch n/sqrt(p) words from each of four: more messages,
# fewer words. So with n^2/p points on each rank, a slab's message grows like sqrt(p), and a patch's stays. It is the
# argument of rows against a grid once more.

machine = tw.Machine(alpha=1e-6, beta=1e-9, gamma=1e-9)
print("    p    slabs  patches")
for p in (4, 64, 1024, 16384, 262144):
    cells = [tw.comm.weak_efficiency("stencil", cut, p, 10**4, machine) for cut in ("slab", "patch")]
    print(f"{p:6} {cells[0]:8.3f} {cells[1]:8.3f}")
assert cells[0] < 0.5 < 0.95 < cells[1]

# %%
# Local first
# -----------
#
# y_i is a sum over local and remote j. The local part needs no message, so a rank sends, multiplies by what it has, and
# only then waits. What is hidden is what the lecture calls overlap.

op = tw.SparseOperator(A, ranks=ranks, partition=patches, backend="serial")
waiting, hidden = (op.simulate(machine, overlap=overlap).makespan for overlap in (False, True))
print(f"waiting first {waiting * 1e6:.2f} us, local part first {hidden * 1e6:.2f} us")
assert hidden < waiting

# %%
# Several products, one exchange
# ------------------------------
#
# For x, A x, A^2 x, ..., A^s x a rank may fetch all it needs within s hops at once (*halo closure*), and compute the
# points of others that it needs on the way itself. In *two stages* the neighbour sends what it could compute alone
# already, and half of that work is saved. For a 3-point stencil, one side of one rank:

chain = sp.diags_array([1.0, 2.0, 1.0], offsets=[-1, 0, 1], shape=(60, 60))
op = tw.SparseOperator(chain, ranks=2, backend="serial")
print("  s   messages          words             points computed twice")
print("      apart    once     halo  two-stage   halo  two-stage")
for s in range(1, 9):
    halo, stages = (op.closures(s, method)[0] for method in ("halo", "two-stage"))
    print(f"{s:3} {s:7} {halo.messages:7} {halo.words:8} {stages.words:10} {halo.redundant:6} {stages.redundant:10}")
    assert (halo.redundant, stages.redundant) == (s * (s - 1) // 2, s * s // 4)
    assert halo.messages == stages.messages == 1 and halo.words == stages.words == s

# %%
# None of it changes a bit of the result:

x = np.random.default_rng(0).standard_normal(60)
levels = [op.powers(x, 6, method) for method in ("separate", "halo", "two-stage")]
assert all((level == levels[0]).all() for level in levels)

# %%
# It pays where messages are dear: four exchanges become one, and so the gain tends to four. Where they are cheap,
# points that are computed twice cost more. Four products on 8 slabs of 4 lines, while alpha grows:

op = tw.SparseOperator(A, ranks=8, partition=tw.comm.partition.slabs((n, n), 8), backend="serial")
alphas = [10.0**k for k in np.arange(-7, -2.5, 0.5)]
figure = Figure(figsize=(7, 4))
axes = figure.subplots()
gains = {}
for method in ("halo", "two-stage"):
    for alpha in alphas:
        model = machine.replace(alpha=alpha)
        gains[method, alpha] = op.simulate(model, 4).makespan / op.simulate(model, 4, method).makespan
    axes.semilogx(alphas, [gains[method, alpha] for alpha in alphas], "o-", label=method)
axes.axhline(1, color="grey", lw=0.8)
axes.set(xlabel="alpha, seconds a message", ylabel="times as fast as separate", title="Four products, 8 slabs")
axes.legend()
figure.savefig("avoiding.png")
print("   alpha     halo  two-stage")
for alpha in alphas:
    print(f"{alpha:8.1e} {gains['halo', alpha]:8.2f} {gains['two-stage', alpha]:10.2f}")
assert gains["two-stage", alphas[0]] < 1 and 3.5 < gains["two-stage", alphas[-1]] <= 4

# %%
# Exercises
# ---------
#
# 1. Cut 32 x 32 points into 1 x 16, 2 x 8 and 4 x 4 boxes. Count the words of one product by hand, then ask
#    ``op.exchange``.
# 2. With a block of s products each rank computes about s^2 points more and saves alpha (s - 1)/s a product. Which s is
#    the best for a machine with alpha = 100 gamma, for a 3-point stencil? Compare sqrt(alpha/gamma).
# 3. In patches, a block of four products has one exchange instead of four. Why is the gain no more than 2 on a periodic
#    grid, however dear a message is? Count the neighbours of a patch within four hops.

# %%
# Answers
# -------
#
# 1. Each inner border of b words costs 2 b: 15 borders of 32 words; 1 of 32 and 7 of 32 words (in all); 3 and 3.

for grid, words in (((1, 16), 2 * 15 * 32), ((2, 8), 2 * (1 + 7) * 32), ((4, 4), 2 * (3 + 3) * 32)):
    partition = tw.comm.partition.patches((n, n), grid)
    found = tw.SparseOperator(A, ranks=ranks, partition=partition, backend="serial").exchange
    print(grid, found.words, "words in", found.messages, "messages")
    assert found.words == words

# %%
# 2. The time of b products a block, (steps/b) alpha + steps (points/p + b) gamma, is least at b = sqrt(alpha/gamma).

model = tw.Machine(alpha=1e-7, beta=1e-9, gamma=1e-9)
times = {b: tw.comm.domains.block_time(b, 1000, 1000, 4, model) for b in range(1, 31)}
best = min(times, key=times.get)
print("best block", best, "by the formula", round(tw.comm.domains.block_size(model), 6))
assert best == round(tw.comm.domains.block_size(model)) == 10

# %%
# 3. Within four hops lie the four neighbours and the four at the corners: one exchange with 8 messages a rank instead
#    of four with 4 each, 8 against 16. On a torus of 32 x 32 points in 4 x 4 patches:

side = 32
ring = sp.diags_array([1.0, 1.0, 2.0, 1.0, 1.0], offsets=[1 - side, -1, 0, 1, side - 1], shape=(side, side))
torus = (sp.kron(ring, sp.eye_array(side)) + sp.kron(sp.eye_array(side), ring)).tocsr()
cut = tw.comm.partition.patches((side, side), (4, 4))
op = tw.SparseOperator(torus, ranks=16, partition=cut, backend="serial")
dear = machine.replace(alpha=1e-2)
gain = op.simulate(dear, 4).makespan / op.simulate(dear, 4, "two-stage").makespan
print(f"{op.closures(1)[5].messages} messages an exchange, {op.closures(4)[5].messages} for four; gain {gain:.2f}")
assert op.closures(1)[5].messages == 4 and op.closures(4)[5].messages == 8 and 1.9 < gain <= 2.0
