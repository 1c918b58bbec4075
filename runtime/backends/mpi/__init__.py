"""Ranks: processes that run parts of one graph and exchange messages over MPI.

``with tw.mpi.Pool(4) as pool`` starts four and keeps them warm; a call with ``backend="mpi"`` and no pool starts one by
itself. Nothing here imports mpi4py in the process of the user, unless that is a rank under ``mpiexec`` itself.
"""

from tilewright.backends.mpi.launcher import LaunchError
from tilewright.backends.mpi.pool import Pool

__all__ = ["LaunchError", "Pool"]
