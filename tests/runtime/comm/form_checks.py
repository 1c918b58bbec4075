"""Called by all ranks of a pool: which form their local blocks take."""

from tilewright.backends.mpi.kept import scripts
from tilewright.graph import Handle
from tilewright.kernels import diagonals


def prefer(comm, least):
    """From now on, products by diagonals for so many entries or more."""
    before, diagonals.LEAST = diagonals.LEAST, least
    return before


def lines(comm):
    """By dtype, how many diagonals this rank keeps of its newest operator; 0 where it multiplies by rows."""
    forms = {}
    for script in scripts.values():  # newer ones last
        form = script.stays.get(Handle("A", (3, comm.rank)))
        if form is not None and form.looked:
            dtype = str(script.stays[Handle("A", (2, comm.rank))].dtype)
            forms[dtype] = 0 if form.found is None else len(form.found.table)
    return forms


def kept(comm):
    """How many scripts this rank keeps."""
    return len(scripts)
