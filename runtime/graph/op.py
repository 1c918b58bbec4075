"""Named operations: a Python function, or the kernel of that name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Literal

from tilewright.graph.access import Access, Use
from tilewright.scalars import flag, function, real, text

if TYPE_CHECKING:
    from tilewright.graph.task import Task

__all__ = ["Op"]


def _check_function(function: object, name: str) -> None:
    """TypeError for what is not called for its result: a task would have a coroutine or a generator as its value."""
    while isinstance(function, partial):
        function = function.func
    called = function if isinstance(function, FunctionType | MethodType) else vars(type(function)).get("__call__")
    if iscoroutinefunction(called) or isasyncgenfunction(called):
        raise TypeError(f"{name} is a coroutine function, which a task cannot await; insert a plain function")
    if isgeneratorfunction(called):
        raise TypeError(f"{name} is a generator function, whose values nobody would fetch; insert a plain function")


def _written_indices(uses: tuple[Use, ...]) -> tuple[object, ...]:
    """Default label: the index of the first written handle, or the names of all that are written."""
    written = [use.handle for use in uses if use.access is not Access.READ]
    if written and written[0].index:
        return written[0].index
    return tuple(dict.fromkeys(str(handle) for handle in written))


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """A named operation on data.

    With a ``function`` the op is that Python function; without, the kernel table has its implementations.
    Either is called with one buffer per access, a list of buffers for a group, in their order, then the parameters. A
    function changes what it writes in place and returns None, or returns the new value (a tuple for several handles)
    of what it writes. A kernel changes in place and returns None or an info code; 0 is success. So does a function
    with ``explain``, which hence returns no values.

    Raises
    ------
    TypeError, ValueError
        A field is of another kind, or the function is a coroutine or generator function.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> def axpy(x, y, alpha):
    ...     y += alpha * x
    >>> op = tw.Op("axpy", axpy, flops=lambda x, y: 2 * x[0], in_place=True)
    >>> g = tw.TaskGraph()
    >>> g.insert(op, tw.R(g.handle("x")), tw.RW(g.handle("y")), 3.0)
    axpy(y)
    >>> tw.run(g, {"x": np.ones(5), "y": np.zeros(5)}, backend="serial").flops
    10
    """

    name: str
    """What labels, traces and the kernel table call it."""
    function: Callable[..., Any] | None = None
    """What is called; None is the kernel of that name."""
    weight: float = 1.0
    """Cost where no data is known. Tile kernels count units of nb^3/3 flops, so potrf is 1 and gemm is 6."""
    flops: Callable[..., float] | None = None
    """Real-arithmetic flops from the shapes of the accessed buffers, lists of them for groups."""
    indices: Callable[[tuple[Use, ...]], tuple[object, ...]] = _written_indices
    """What stands between the parentheses of a task's label."""
    explain: Callable[[Task, Any, int], Exception] | None = None
    """Turns (task, store, info) of a kernel or function that returned info != 0 into the exception to raise."""
    external: bool = False
    """An engine carries it out itself, no worker does: a message."""
    in_place: bool = False
    """The function changes the arrays that it writes, returns None, and keeps none of its arguments: a rank then knows
    what it will get. Where there is no array yet it may return one, as any function."""
    fresh: bool = False
    """What the function returns is made anew, or was given to it for the handle that it writes, and nobody keeps any of
    it: it is taken as it is, not compared with all that the task reads."""
    source: str = ""
    """Which row of the kernel table, where not the usual one: `tilewright.kernels.table`."""
    again: str = ""
    """Where a reader on another rank has it from, if the op makes a `TaskGraph.temporary` copy of one handle.
    ``""``: it is sent. ``"shared"``: it is made again there if what it is made of goes there anyway, or if two such
    copies would. ``"always"``: it is the larger of the two, so what it is made of is sent."""
    operands: Literal["", "storage", "accumulate"] = ""
    """The form in which it wants the tiles that it only reads; `tilewright.passes.conversions.with_conversions` sees to
    it. ``"storage"``: that of the products' operands in the format of the tile it writes, such as BF16, for a product.
    ``"accumulate"``: the dtype of that tile, for a substitution. ``""``: as they are."""

    def __post_init__(self) -> None:
        text(self.name, "name of an Op")
        for what in ("function", "flops", "explain"):
            if getattr(self, what) is not None:
                function(getattr(self, what), f"{what} of Op {self.name}")
        if self.function is not None:
            _check_function(self.function, self.name)
        function(self.indices, f"indices of Op {self.name}")
        real(self.weight, f"weight of Op {self.name}", 0)
        flag(self.external, f"external of Op {self.name}")
        flag(self.in_place, f"in_place of Op {self.name}")
        flag(self.fresh, f"fresh of Op {self.name}")
        text(self.source, f"source of Op {self.name}")
        for what, known in (("again", ("", "shared", "always")), ("operands", ("", "storage", "accumulate"))):
            value = getattr(self, what)
            if not isinstance(value, str) or value not in known:
                raise ValueError(f"{what} of {self.name} are {', '.join(map(repr, known[1:]))} or '', not {value!r}")

    def __repr__(self) -> str:
        return f"Op({self.name})"
