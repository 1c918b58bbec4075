"""
The graph of a factorisation
============================

A graph is made by a loop that inserts tasks; nothing is computed. Here Cholesky of 4 x 4 tiles: the critical path,
which no run can beat, is bold.
"""

import tilewright as tw

graph = tw.cholesky_graph(nt=4)
graph.to_svg("cholesky.svg")
print(graph.critical_path())

# %%
# Each task waits for those that write what it reads. The work is nt^3 units of nb^3/3 flops, the path 9 nt - 10, and
# more workers than the ratio of the two cannot help.

for nt in (4, 8, 16, 32):
    graph = tw.cholesky_graph(nt)
    work, path = graph.work(), graph.critical_path().length
    print(f"{nt:3} x {nt:<3} {len(graph):6} tasks  work {work:6g}  path {path:4g}  useful workers {work / path:.1f}")
