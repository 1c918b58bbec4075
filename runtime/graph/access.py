"""How a task uses a handle: `R`, `W` and `RW`."""

from __future__ import annotations

import enum
from typing import NamedTuple, NoReturn

from tilewright.graph.handle import Handle, Handles

__all__ = ["R", "RW", "W", "Access", "Use"]


class Access(enum.Enum):
    """How a task uses a handle.

    Examples
    --------
    >>> import tilewright as tw
    >>> tw.R(tw.Handle("x")).access is tw.Access.READ
    True
    """

    READ = "R"
    """The task sees the current value and leaves it alone."""
    WRITE = "W"
    """The task replaces the value and never looks at the old one."""
    RW = "RW"
    """The task sees the current value and changes it."""


_READ, _WRITE, _RW = Access.READ, Access.WRITE, Access.RW


class Use(NamedTuple):
    """One argument of a task: a handle and how the task uses it."""

    handle: Handle
    access: Access

    def __str__(self) -> str:
        return f"{self.access.value}({self.handle})"


def R(handle: Handle) -> Use:  # noqa: N802 - the letters of the literature; so below
    """Read ``handle``. TypeError if it is not a `Handle`; so for `W` and `RW`.

    Parameters
    ----------
    handle : Handle

    Returns
    -------
    use : Use

    Raises
    ------
    TypeError
        It is no handle, or a whole family of them.

    Examples
    --------
    >>> import tilewright as tw
    >>> x = tw.TaskGraph().handle("x")
    >>> str(tw.R(x))
    'R(x)'
    """
    return Use(handle, _READ) if type(handle) is Handle else _not_a_handle(handle)


def W(handle: Handle) -> Use:  # noqa: N802
    """Write ``handle`` without reading it.

    Parameters
    ----------
    handle : Handle

    Returns
    -------
    use : Use

    Raises
    ------
    TypeError
        It is no handle, or a whole family of them.

    Examples
    --------
    >>> import tilewright as tw
    >>> x = tw.TaskGraph().handle("x")
    >>> str(tw.W(x))
    'W(x)'
    """
    return Use(handle, _WRITE) if type(handle) is Handle else _not_a_handle(handle)


def RW(handle: Handle) -> Use:  # noqa: N802
    """Read and change ``handle``.

    Parameters
    ----------
    handle : Handle

    Returns
    -------
    use : Use

    Raises
    ------
    TypeError
        It is no handle, or a whole family of them.

    Examples
    --------
    >>> import tilewright as tw
    >>> x = tw.TaskGraph().handle("x")
    >>> str(tw.RW(x))
    'RW(x)'
    """
    return Use(handle, _RW) if type(handle) is Handle else _not_a_handle(handle)


def _not_a_handle(thing: object) -> NoReturn:
    if isinstance(thing, Handles):
        raise TypeError(f"R, W and RW take one handle of {thing}; give its index, such as {thing.name}[0, 0]")
    raise TypeError(f"R, W and RW take a handle, not {thing!r}; make one with graph.handle(name)")
