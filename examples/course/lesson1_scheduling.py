"""
1. Scheduling the graph of Cholesky
===================================

The lecture ends with block algorithms: write Cholesky by blocks, and "you can graph this". Here the loop makes its own
graph, and then we ask how fast any schedule of it can be, how fast some are, and why a loop with a barrier after each
step is slower.

The lecture is V. Eijkhout's *Parallel scalability*.
"""

import tilewright as tw

nt = 4
potrf, trsm, syrk, gemm = (tw.Op(name, weight=w) for name, w in (("potrf", 1), ("trsm", 3), ("syrk", 3), ("gemm", 6)))
graph = tw.TaskGraph("cholesky")
A = graph.handles("A")
for k in range(nt):
    graph.insert(potrf, tw.RW(A[k, k]))  # A_kk := chol(A_kk)
    for i in range(k + 1, nt):
        graph.insert(trsm, tw.R(A[k, k]), tw.RW(A[i, k]))  # A_ik := A_ik L_kk^-T
    for i in range(k + 1, nt):
        graph.insert(syrk, tw.R(A[i, k]), tw.RW(A[i, i]))  # A_ii := A_ii - A_ik A_ik^T
        for j in range(k + 1, i):
            graph.insert(gemm, tw.R(A[i, k]), tw.R(A[j, k]), tw.RW(A[i, j]))  # A_ij := A_ij - A_ik A_jk^T
graph.to_svg("cholesky.svg")
print(len(graph), "tasks;", graph.critical_path())

# %%
# Nobody said which task waits for which. Each says what it reads and what it writes, and so a task waits for the last
# one that wrote what it reads. The bold tasks are the *critical path*: each waits for the one before, so no computer
# runs the graph faster than these in a row.
#
# Two bounds
# ----------
#
# Time is counted in the flops of one ``potrf``, nb^3/3 for tiles of nb rows; a ``gemm`` takes six of these. Then all
# work is W = nt^3, and the critical path is C = 9 nt - 10. A run on p workers takes at least max(C, W/p), and so p
# beyond W/C cannot help. The library has this graph, so from here we take it ready made.

for nt in (4, 8, 16, 32):
    graph = tw.cholesky_graph(nt)
    work, path = graph.work(), graph.critical_path().length
    assert (work, path) == (nt**3, 9 * nt - 10)
    print(f"{nt:3} x {nt:<3} {len(graph):6} tasks   W {work:6g}   C {path:4g}   W/C {work / path:5.1f}")

# %%
# Workers
# -------
#
# A simulated machine runs the graph with a virtual clock. With few workers a good schedule takes nearly W/p, with many
# exactly C. Where the two bounds meet, here at 17.6 workers, it reaches neither.

graph = tw.cholesky_graph(12)
work, path = graph.work(), graph.critical_path().length
makespan = {p: tw.simulate(graph, tw.Machine(workers=p)).makespan for p in (1, 2, 4, 8, 16, 32, 64)}
print("workers   bound   makespan   efficiency")
for p, time in makespan.items():
    print(f"{p:7} {max(path, work / p):7.1f} {time:10.1f} {work / (p * time):12.2f}")
assert makespan[1] == work and makespan[64] == path

# %%
# Policies
# --------
#
# Whenever a worker is free and several tasks are ready, a *policy* chooses. First come, first served (``eager``) does
# not know which task the end waits for; ``critical-path`` takes the one with the longest way still to go.

table = tw.compare_schedulers(graph, [8], schedulers=["critical-path", "eager", "lifo"])
print(table)
tw.simulate(graph, tw.Machine(workers=8), scheduler="critical-path").gantt("critical_path.png")
tw.simulate(graph, tw.Machine(workers=8), scheduler="lifo").gantt("lifo.png")

# %%
# The order changes the time, and not one bit of the result. Here for real, on two threads of this computer:

matrix = tw.random_spd(240)
first = tw.tiled_cholesky(matrix, tile_size=60, backend="serial")
for scheduler in ("critical-path", "eager", "lifo"):
    assert (tw.tiled_cholesky(matrix, tile_size=60, workers=2, scheduler=scheduler) == first).all()

# %%
# Exercises
# ---------
#
# 1. With 24 x 24 tiles, how many workers can be of use? Simulate as many, and twice as many: what does the second half
#    bring?
# 2. Fork and join: an ordinary parallel loop waits after each of its three steps (``potrf``; all ``trsm``; all
#    ``syrk`` and ``gemm``) until all workers are done. How long does that take on 8 workers with 12 x 12 tiles? And
#    with the graph?
# 3. Smaller tiles make more tasks, so more can run at once, but each task costs something by itself. A matrix of 3840
#    rows, 8 workers of 10 GFLOP/s, 20 us a task: which of 4, 8, 12, 16, 24, 32 tiles a side is best?

# %%
# Answers
# -------
#
# 1. W/C is 67. With twice as many the run takes as long as the critical path, and no number of workers makes it
#    faster. The second half makes it 1.3 times as fast as the first did.

graph = tw.cholesky_graph(24)
useful = int(graph.work() / graph.critical_path().length)
once, twice = (tw.simulate(graph, tw.Machine(workers=p)).makespan for p in (useful, 2 * useful))
print(
    f"{useful} workers: {once:g}; {2 * useful} workers: {twice:g}; the critical path: {graph.critical_path().length:g}"
)
assert useful == 67 and twice == graph.critical_path().length and once < 1.5 * twice

# %%
# 2. Each step is a graph of its own, without edges. Workers wait for the last of each step, and only one works while
#    the others wait for ``potrf``.


def step(*tasks):
    """Simulated time of independent tasks, pairs of an op and how many there are, on 8 workers."""
    alone = tw.TaskGraph("step")
    T = alone.handles("T")
    for op, count in tasks:
        for number in range(count):
            alone.insert(op, tw.RW(T[op.weight, number]))
    return tw.simulate(alone, tw.Machine(workers=8)).makespan


joined = sum(
    step((potrf, 1)) + step((trsm, below)) + step((gemm, below * (below - 1) // 2), (syrk, below))
    for below in range(12)
)
print(f"fork and join {joined:g}, as a graph {makespan[8]:g}, bound {12**3 / 8:g}")
assert joined > 1.15 * makespan[8]

# %%
# 3. The best is in the middle: few tiles leave workers idle, many pay for their tasks.

times = {}
for nt in (4, 8, 12, 16, 24, 32):
    machine = tw.Machine(workers=8, gamma=1e-10, tile_size=3840 // nt, overhead=20e-6)
    times[nt] = tw.simulate(tw.cholesky_graph(nt), machine).makespan
    print(f"{nt:3} x {nt:<3} tiles of {3840 // nt:4}: {times[nt] * 1e3:6.1f} ms")
assert 4 < min(times, key=times.get) < 32
