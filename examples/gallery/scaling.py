"""
Strong and weak scaling of a matrix-vector product
==================================================

The formulas of V. Eijkhout's lecture *Parallel scalability* as lines,
the graphs on the simulator as circles: rows, columns and a grid of ranks.
"""

import tilewright as tw

study = tw.comm.scaling_study(n=1024, memory=1 << 14, p=16, most=64)
study.plot("scaling.png")
print(study)
