"""Keywords of public calls: what the easily confused ones mean, and the sentence for one that a call does not take."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import wraps
from inspect import Parameter, signature
from typing import Any, TypeVar, cast

from tilewright.scalars import nearby, plain

__all__ = ["MEANINGS", "hint", "strict"]

C = TypeVar("C", bound=Callable[..., Any])

MEANINGS = {
    "workers": "how many tasks run at a time, on all ranks together",
    "ranks": "how many processes hold the data, each a part of it",
    "p": "the number of ranks in a formula",
    "machine": "a Machine, which has workers and ranks",
    "layout": "how a dense matrix is cut among ranks",
    "partition": "how a sparse matrix is cut among ranks",
    "owner": "which rank a handle lives on",
    "grid": "the P x Q ranks among which tiles are dealt out",
    "method": "which iteration to use",
    "algorithm": "which rounds a collective takes",
}
"""What these words mean in every public call; `docs/calls.md` has the table."""

_CONFUSED: tuple[tuple[str, ...], ...] = (
    ("workers", "ranks", "p", "machine"),
    ("layout", "partition", "owner", "grid"),
    ("algorithm", "method"),
)


def hint(unknown: Iterable[str], known: Collection[str]) -> str:
    """What may be meant by keywords that a call does not take; empty if nothing it knows is near.

    >>> hint(["wrokers"], ["workers", "tile_size"])
    'did you mean workers?'
    >>> hint(["workers"], ["ranks", "grid"])[:63]
    'it takes ranks=, how many processes hold the data, each a part '
    """
    said, rest = [], []
    for name in unknown:
        group = next((words for words in _CONFUSED if name in words), ())
        other = next((word for word in group if word in known), None)
        if other is None:
            rest.append(name)
        else:
            said.append(f"it takes {other}=, {MEANINGS[other]}; {name}= is {MEANINGS[name]}, in other calls")
    near = nearby(rest, known)
    return "; ".join([*said, *[near] * bool(near)])


def strict(call: C) -> C:
    """The function or class, which refuses keywords that it does not take in its own name, with what may be meant.

    Numbers of NumPy reach it as Python's.

    Raises
    ------
    TypeError
        It names the keyword, and one that is near or stands for a similar thing.

    Examples
    --------
    >>> @strict
    ... def matvec(A, x, *, ranks=1):
    ...     return ranks
    >>> matvec(0, 0, ranks=3)
    3
    >>> matvec(0, 0, rank=3)
    Traceback (most recent call last):
        ...
    TypeError: matvec: unknown option rank; did you mean ranks?
    """
    name = call.__name__
    function = cast(Any, call).__init__ if isinstance(call, type) else call
    parameters = signature(call).parameters.values()
    known = [p.name for p in parameters if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)]
    takes = frozenset(known)

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if not takes.issuperset(kwargs):
            unknown = [word for word in kwargs if word not in takes]
            said = hint(unknown, known) or f"it takes {', '.join(known) or 'none'}"
            raise TypeError(f"{name}: unknown option {', '.join(unknown)}; {said}")
        args, kwargs = tuple(map(plain, args)), {word: plain(value) for word, value in kwargs.items()}
        return function(*args, **kwargs)

    if isinstance(call, type):
        cast(Any, call).__init__ = checked
        return call
    return cast(C, checked)
