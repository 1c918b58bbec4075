"""
Schedulers beside each other
============================

The same graph, simulated on 4 and 16 workers, by every policy: how far each is from the lower bound. The plot's right
half has what each makespan is above the bound.
"""

import tilewright as tw

table = tw.compare_schedulers(tw.cholesky_graph(nt=12), workers=[4, 16])
print(table)
table.plot("schedulers.png")

# %%
# Two of them, task by task.

machine = tw.Machine(workers=16)
for scheduler in ("critical-path", "lifo"):
    tw.simulate(tw.cholesky_graph(nt=12), machine, scheduler=scheduler).gantt(f"{scheduler}.png")
