"""
Trees of a tall QR factorisation
================================

Which row eliminates which is a tree, and it sets the critical path: for 16 x 4 tiles a flat tree's is more than twice
as long as that of a greedy one.
"""

import tilewright as tw

for tree in ("flat", "flat-tt", "fibonacci", "binary", "greedy", ("hierarchical", 4, "greedy", "binary")):
    path = tw.qr_graph(16, 4, tree=tree).critical_path().length
    print(f"{tree!s:42} {path:5g} units of nb^3/3 flops")

# %%
# The first two columns of the greedy one, drawn.

tw.qr_graph(6, 2, tree="greedy").to_svg("greedy.svg")
