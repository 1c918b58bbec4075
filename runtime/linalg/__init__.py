"""Linear algebra on tiles: textbook loops that build graphs, and the calls users make.

For users this is `tw.linalg`, the linear algebra of the array API standard [1]_ as far as the library goes, under its
names: `tilewright.linalg.array_api`. A function goes before a module of the same name: ``tw.linalg.solve`` is
the function, ``from tilewright.linalg.solve import ...`` reads the module.

.. [1] Python array API standard 2024.12, linear algebra extension.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilewright.linalg.array_api import (
        cholesky,
        cross,
        det,
        diagonal,
        inv,
        matmul,
        matrix_norm,
        matrix_power,
        matrix_transpose,
        outer,
        slogdet,
        solve,
        tensordot,
        trace,
        vecdot,
        vector_norm,
    )

__all__ = [
    "cholesky",
    "cross",
    "det",
    "diagonal",
    "inv",
    "matmul",
    "matrix_norm",
    "matrix_power",
    "matrix_transpose",
    "outer",
    "slogdet",
    "solve",
    "tensordot",
    "trace",
    "vecdot",
    "vector_norm",
]

_PUBLIC = dict.fromkeys(__all__, "tilewright.linalg.array_api")
"""By public name the module that has it: a function of another module of this room is a line here."""


class _Namespace(ModuleType):
    def __getattribute__(self, name: str) -> Any:
        if name in _PUBLIC:
            return getattr(importlib.import_module(_PUBLIC[name]), name)
        return super().__getattribute__(name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_PUBLIC})


sys.modules[__name__].__class__ = _Namespace
