"""Called by all ranks of a pool: which form their local blocks take."""

from tilewright.comm import executor
from tilewright.kernels import diagonals


def prefer(comm, least):
    """From now on, products by diagonals for so many entries or more."""
    before, diagonals.LEAST = diagonals.LEAST, least
    return before


def lines(comm):
    """By dtype, how many diagonals this rank keeps of its newest operator; 0 where it multiplies by rows."""
    newest = executor._operators[max(executor._operators)]
    return {str(dtype): 0 if form is None else len(form.table) for dtype, form in newest._forms.items()}
