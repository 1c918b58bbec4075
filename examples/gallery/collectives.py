"""
Collectives and their cost
==========================

V. Eijkhout's lecture *Parallel scalability* begins with broadcasts: alpha seconds a message, beta a word. Each
algorithm is a graph, and its time on the simulator is that of the formula to the last digit.
"""

import tilewright as tw

machine = tw.Machine(alpha=1e-6, beta=1e-9, gamma=1e-9)
for algorithm in ("tree", "scatter-allgather"):
    for n in (80, 80_000):
        graph = tw.comm.broadcast(ranks=8, n=n, algorithm=algorithm)
        run = tw.simulate(graph, machine)
        assert run.makespan == tw.comm.cost("broadcast", algorithm, p=8, n=n, machine=machine)
        print(f"{algorithm:18} {n:7} words {run.makespan * 1e6:8.2f} us")

# %%
# Who sends what in each round of an allgather by exchange, on four ranks:

print(tw.comm.schedule("allgather", "exchange", 4, 4).table())

# %%
# A sum on all ranks by two phases of exchange, with its messages:

tw.simulate(tw.comm.allreduce(ranks=8, n=10_000, algorithm="exchange"), machine).gantt("allreduce.png")
