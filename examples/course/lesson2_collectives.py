"""
2. Collectives and their cost
=============================

Everything that ranks do together is made of a few patterns: broadcast, reduce, allgather, reduce-scatter. The lecture
gives each a cost in three numbers: alpha seconds a message, beta a word, gamma a flop. Here the formulas stand beside
simulated runs of the algorithms, message by message, and agree to the last digit. We see why short vectors want a tree
and long ones do not.

The lecture is V. Eijkhout's *Parallel scalability*.
"""

import numpy as np
from matplotlib.figure import Figure

import tilewright as tw

machine = tw.Machine(alpha=1e-6, beta=1e-9, gamma=1e-9)
print(tw.comm.schedule("broadcast", "tree", 4, 4).table())

# %%
# Who sends what in each round of a broadcast to four ranks. Those that have the vector double in each round, so there
# are ceil(log2 p) rounds, and each costs alpha + n beta: a rank sends one message at a time, and receives one.

print("ranks   rounds   formula      simulated")
for p in (2, 4, 8, 16, 64):
    run = tw.simulate(tw.comm.broadcast(ranks=p, n=1000, algorithm="tree"), machine)
    formula = tw.comm.cost("broadcast", "tree", p=p, n=1000, machine=machine)
    assert run.makespan == formula
    rounds = tw.comm.terms("broadcast", "tree", p, 1000).alpha
    print(f"{p:5} {rounds:8} {formula * 1e6:9.1f} us {run.makespan * 1e6:9.1f} us")

# %%
# Short and long vectors
# ----------------------
#
# The tree sends all n words in each of its log2 p rounds, while the lower bound has n beta once. A scatter followed by
# an allgather in a ring sends only pieces: 2 n (p-1)/p words, but p - 1 + log2 p messages. So there is a length from
# which it is cheaper. Lines are formulas, circles simulated runs.

lengths = [16 * 4**k for k in range(8)]
figure = Figure(figsize=(7, 4))
axes = figure.subplots()
for algorithm in ("tree", "scatter-allgather"):
    costs = [tw.comm.cost("broadcast", algorithm, p=16, n=n, machine=machine) for n in lengths]
    axes.loglog(lengths, costs, label=algorithm)
    graphs = [tw.comm.broadcast(ranks=16, n=n, algorithm=algorithm) for n in lengths]
    times = [tw.simulate(graph, machine).makespan for graph in graphs]
    axes.loglog(lengths, times, "o", color="black", mfc="none")
    assert times == costs
bounds = [tw.comm.lower_bound("broadcast", p=16, n=n).seconds(machine) for n in lengths]
axes.loglog(lengths, bounds, "--", label="lower bound")
axes.set(xlabel="words", ylabel="seconds", title="Broadcast to 16 ranks")
axes.legend()
figure.savefig("broadcast.png")
print([tw.comm.best("broadcast", p=16, n=n, machine=machine) for n in lengths])

# %%
# Sums
# ----
#
# An allreduce is a reduce-scatter followed by an allgather: each rank adds up one piece, then all get all pieces. The
# graph that is simulated also runs, on any engine; here in this process, and then with a virtual clock.

x = [np.arange(8.0) * rank for rank in range(4)]
total = sum(x)
graph = tw.comm.allreduce(ranks=4, n=8, algorithm="exchange")
run = tw.run(graph, {"x": x}, backend="serial")
assert all((run["x"][rank] == total).all() for rank in range(4))

tw.simulate(tw.comm.allreduce(ranks=4, n=10_000, algorithm="exchange"), machine).gantt("allreduce.png")

# %%
# Exercises
# ---------
#
# 1. From which length on is scatter-allgather cheaper than the tree on 16 ranks? Solve the two formulas for n, then
#    find it by trying.
# 2. The lecture says that an allgather takes as long as a gather, and half as long as a gather and a broadcast. In
#    which of the three numbers, and for which length?
# 3. A sum of n words on 64 ranks, n = 1 and n = 10^6. Which allreduce is the best for each, by how much over the tree?

# %%
# Answers
# -------
#
# 1. With L = log2 p = 4: L alpha + L n beta = (L + p - 1) alpha + 2 n (p-1)/p beta, so
#    n = (p-1) alpha / (beta (L - 2 (p-1)/p)) = 15000 / 2.125 = 7059 words (if p divides n).

p, L = 16, 4
n = (p - 1) * machine.alpha / (machine.beta * (L - 2 * (p - 1) / p))
first = next(n for n in range(16, 10**6, 16) if tw.comm.best("broadcast", p=16, n=n, machine=machine) != "tree")
print(f"by hand {n:.0f}, by trying {first} words, of multiples of 16")
assert n <= first < n + 16

# %%
# 2. Messages and words of an allgather are those of a gather. Of a gather and a broadcast it has half the messages; of
#    the words it has less than half, as the broadcast along a tree sends all n words log2 p times. "Half" holds for
#    short vectors.

gather, both = tw.comm.terms("gather", "tree", 16, 1600), tw.comm.terms("allgather", "gather-broadcast", 16, 1600)
allgather = tw.comm.terms("allgather", "exchange", 16, 1600)
print(f"gather {gather}\nallgather {allgather}\ngather and broadcast {both}")
assert (allgather.alpha, allgather.beta) == (gather.alpha, gather.beta)
assert both.alpha == 2 * allgather.alpha and both.beta > 2 * allgather.beta

# %%
# 3. One word is all latency, where nothing beats log2 p rounds; a million are all bandwidth.

for n in (1, 10**6):
    costs = {
        algorithm: tw.comm.cost("allreduce", algorithm, p=64, n=n, machine=machine)
        for algorithm in ("tree", "exchange", "ring")
    }
    best = tw.comm.best("allreduce", p=64, n=n, machine=machine)
    print(n, "words:", best, {algorithm: f"{time * 1e6:.1f} us" for algorithm, time in costs.items()})
    assert costs[best] == min(costs.values())
assert costs["exchange"] < costs["tree"] / 4
