"""What `TaskGraph.insert` is given, taken apart: accesses, groups of them, and parameters."""

from __future__ import annotations

from typing import Any

from tilewright.graph.access import Use
from tilewright.graph.handle import Handle
from tilewright.graph.op import Op

__all__ = ["MISPLACED", "check_parameter", "grouped"]

MISPLACED = frozenset((Use, Handle, list, tuple))
"""Types of parameters that may be accesses in the wrong place, or have some in them."""


def check_parameter(op: Op, param: Any) -> None:
    """TypeError for an access or a bare handle among the parameters, also in a list."""
    if type(param) is Use or type(param) is Handle:
        raise TypeError(
            f"{op.name}: {param} is misplaced; wrap handles in R, W or RW and put them before the parameters"
        )
    if any(type(member) is Use or (type(member) is Handle and type(param) is list) for member in param):
        members = ", ".join(map(str, param))
        raise TypeError(
            f"{op.name}: a group is a list of accesses and stands before the parameters, such as "
            f"[R(a), RW(b)], not {type(param).__name__} of {members}"
        )


def grouped(op: Op, args: tuple[Any, ...]) -> tuple[tuple[Use, ...], tuple[Any, ...], tuple[int, ...]]:
    """Uses, parameters and sizes of groups. An empty list is a group where an access follows.

    Else a function gets it as the object that it is, and others as a group: the flops of an op may want to see it.
    """
    count = 0
    kernel = op.function is None or op.flops is not None
    for position, arg in enumerate(args):
        if type(arg) is Use or (type(arg) is list and ((arg and type(arg[0]) is Use) or (kernel and not arg))):
            count = position + 1
        elif not (type(arg) is list and not arg):
            break
    uses: list[Use] = []
    sizes = []
    for arg in args[:count]:
        if type(arg) is list:
            if not all(type(member) is Use for member in arg):
                check_parameter(op, arg)
            uses += arg
            sizes.append(len(arg))
        else:
            uses.append(arg)
            sizes.append(-1)
    return tuple(uses), args[count:], tuple(sizes) if max(sizes, default=-1) >= 0 else ()
