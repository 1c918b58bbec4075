"""Exceptions that name the task, the tile, the global index and the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tilewright.graph import Handle

__all__ = [
    "AccuracyError",
    "AccuracyWarning",
    "MissingDataError",
    "NotPositiveDefiniteError",
    "RankDied",
    "SchedulerError",
    "SingularMatrixError",
    "WorkerDied",
]


class MissingDataError(KeyError):
    """A graph reads a handle for which the run was given no data.

    Examples
    --------
    >>> import tilewright as tw
    >>> g = tw.TaskGraph()
    >>> task = g.insert(print, tw.R(g.handle("x")))
    >>> try:
    ...     tw.run(g, {}, backend="serial")
    ... except tw.MissingDataError as error:
    ...     print(type(error).__name__)
    MissingDataError
    """

    def __str__(self) -> str:
        return str(self.args[0])


class SchedulerError(RuntimeError):
    """A policy broke its contract: it keeps tasks back, or hands one out twice. Or one object is in two runs.

    Examples
    --------
    >>> import tilewright as tw
    >>> class Keeper(tw.schedulers.Eager):
    ...     def pop(self, worker):
    ...         return None
    >>> try:
    ...     tw.simulate(tw.cholesky_graph(2), tw.Machine(), scheduler=Keeper())
    ... except tw.SchedulerError as error:
    ...     print(type(error).__name__)
    SchedulerError
    """


class AccuracyError(np.linalg.LinAlgError):
    """A solution does not have the backward error that was promised.

    Attributes
    ----------
    info
        The `SolveInfo` of what was tried.
    x
        The best solution that was found, or None.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> hilbert = 1 / (np.arange(12)[:, None] + np.arange(12) + 1.0)
    >>> try:
    ...     tw.solve(hilbert, np.ones(12), precision="fp32", fallback=False)
    ... except tw.AccuracyError as error:
    ...     print(len(error.info.path), error.info.precision)
    1 fp32
    """

    def __init__(self, message: str, info: Any = None, x: Any = None) -> None:
        super().__init__(message)
        self.info = info
        self.x = x

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.info, self.x)


class AccuracyWarning(RuntimeWarning):
    """A result may have few correct digits, or none: the message has growth and reciprocal condition.

    Examples
    --------
    >>> import warnings, numpy as np, tilewright as tw
    >>> hilbert = 1 / (np.arange(16)[:, None] + np.arange(16) + 1.0)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", tw.AccuracyWarning)
    ...     try:
    ...         tw.solve(hilbert, np.ones(16), assume_a="gen")
    ...     except tw.AccuracyWarning as warning:
    ...         print(str(warning).split(":")[0])
    the matrix is singular to working precision
    """


class SingularMatrixError(np.linalg.LinAlgError):
    """U of a factorisation A = P L U, or R of A = Q R, has an exact zero on its diagonal: no solution is the only one.

    Attributes
    ----------
    index
        Row and column of the first zero, from 0; LAPACK's info is one more.
    task
        Label of the panel's task, such as ``"getrf(6)"``.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> try:
    ...     tw.inv(np.ones((2, 2)))
    ... except tw.SingularMatrixError as error:
    ...     print(error.index)
    1
    """

    def __init__(self, index: int, task: str, tile_size: int, size: int, factor: str = "U") -> None:
        self.index = index
        self.task = task
        self._details = (tile_size, size, factor)
        offset = index // tile_size * tile_size
        super().__init__(
            f"{task}: {factor}[{index},{index}] is exactly zero, the matrix is singular (row {index - offset} of a "
            f"{size}-row tile at offset {offset})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.index, self.task, *self._details), self.__dict__


class RankDied(RuntimeError):  # noqa: N818 - it says what happened
    """A process of a pool ended while it was needed.

    Attributes
    ----------
    rank
        Its rank.
    details
        What is known of its end.

    Examples
    --------
    >>> import tilewright as tw
    >>> error = tw.RankDied(1, "killed by signal 9")
    >>> print(error, error.rank)
    rank 1 died: killed by signal 9 1
    """

    def __init__(self, rank: int, details: str) -> None:
        self.rank = rank
        self.details = details
        super().__init__(f"rank {rank} died: {details}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.rank, self.details), {**self.__dict__}


class WorkerDied(RuntimeError):  # noqa: N818 - as above
    """A Dask worker ended while it was needed, or the tiles it held were lost with it.

    Attributes
    ----------
    address
        Where the worker listened.
    details
        What is known of its end.

    Examples
    --------
    >>> import tilewright as tw
    >>> error = tw.WorkerDied("tcp://127.0.0.1:4001", "its tiles are lost")
    >>> error.address
    'tcp://127.0.0.1:4001'
    """

    def __init__(self, address: str, details: str) -> None:
        self.address = address
        self.details = details
        super().__init__(f"Dask worker {address} died: {details}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.address, self.details), {**self.__dict__}


class NotPositiveDefiniteError(np.linalg.LinAlgError):
    """The matrix has no Cholesky factor.

    Attributes
    ----------
    order
        Order of the first leading minor of the whole matrix that is not positive definite; LAPACK's ``info``.
    task
        Label of the task that found it, such as ``"potrf(8)"``.
    tile
        Handle of the diagonal tile, such as ``A[8,8]``.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> try:
    ...     tw.tiled_cholesky(np.array([[1.0, 2.0], [2.0, 1.0]]))
    ... except tw.NotPositiveDefiniteError as error:
    ...     print(error.order, error.task)
    2 potrf(0)
    """

    def __init__(self, order: int, task: str, tile: Handle, offset: int, size: int, note: str = "") -> None:
        self.order = order
        self.task = task
        self.tile = tile
        self._details = (offset, size, note)
        super().__init__(
            f"{task} on {tile}: leading minor of order {order} is not positive definite "
            f"(row {order - offset} of a {size}-row tile at offset {offset}{note and '; ' + note})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Constructor arguments, then the attributes: notes are among these.
        return type(self), (self.order, self.task, self.tile, *self._details), self.__dict__
