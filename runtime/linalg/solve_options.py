"""What `solve` takes for each kind of matrix: one table, one sentence."""

from __future__ import annotations

from typing import Any

from tilewright.linalg import ladder
from tilewright.linalg.refinement import FOR_GENERAL
from tilewright.scalars import shown

__all__ = ["TAKES", "check_options"]

_PRECISIONS = ("auto", *ladder.ROUNDOFF)
_ONCE: dict[str, tuple[Any, ...]] = {
    "assume_a": (None, "pos", "gen"),
    "pivoting": (None, "partial"),
    "precision": ("auto", "fp64"),
    "refine": ("auto",),
    "check_symmetric": (False,),
}
"""Options of what is factored once, in FP64."""
_IN_MEMORY: dict[str, tuple[Any, ...]] = {"memory": (None,)}

TAKES: dict[str, dict[str, tuple[Any, ...]]] = {
    "a positive definite matrix": {**_IN_MEMORY, "pivoting": (None,)},
    "a general matrix": {
        **_IN_MEMORY,
        "precision": _PRECISIONS,
        "refine": ("auto", *FOR_GENERAL),
        "check_symmetric": (False,),
    },
    "a general matrix with another pivoting than partial": {
        **_IN_MEMORY,
        "precision": ("auto",),
        "refine": ("auto",),
        "fallback": (True,),
        "check_symmetric": (False,),
    },
    "a symmetric or Hermitian indefinite matrix": {
        **_IN_MEMORY,
        "pivoting": (None,),
        "precision": _PRECISIONS,
        "refine": ("auto", *FOR_GENERAL),
        "check_symmetric": (False,),
    },
    "a matrix of which nobody says what it is": {**_IN_MEMORY, "pivoting": (None,)},
    "a matrix on a disk": {
        **_ONCE,
        "precision": ("auto", "fp32", "fp64"),
        "transposed": (False,),
        "backend": ("serial", "threads"),
        "options": ({},),
    },
    "a stack of matrices": {**_IN_MEMORY, **_ONCE, "return_info": (False,), "progress": (False,)},
    "a dask.array": {**_IN_MEMORY, **_ONCE, "return_info": (False,), "progress": (False,)},
    "a tensor on a GPU": {**_IN_MEMORY, "assume_a": (None, "pos"), "pivoting": (None,)},
}
"""By kind of matrix the options that it restricts, and the values it takes. Others are for all."""

_ELSEWHERE = {"a tensor on a GPU": "; a.cpu() is solved with on the CPU"}


def check_options(kind: str, given: dict[str, Any]) -> None:
    """ValueError for the first option that this kind of matrix does not take."""
    for name, values in TAKES[kind].items():
        found = given[name]
        if not any(found is value or (type(found) is type(value) and found == value) for value in values):
            *first, last = map(shown, values)
            taken = f"{', '.join(first)} or {last}" if first else last
            raise ValueError(f"{name}={shown(found)} is not for {kind}, which takes {taken}{_ELSEWHERE.get(kind, '')}")
