"""torch and dask.array, or what stands for them where they are not installed: on the pretended computers of portable.py,
and on a user's.

There a test that uses one is skipped at the first call of it; all that needs only their names, such as parameters of
tests, works. CI asks for both before it runs the suite, so nothing is skipped unseen.
"""

import importlib
import importlib.util

import pytest

__all__ = ["da", "torch"]


class Absent:
    """A package that is not here, or something in it."""

    def __init__(self, name):
        self.name = name

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(f"{self.name}.{name}")

    def __call__(self, *args, **options):
        pytest.skip(f"{self.name.split('.')[0]} is not installed")


def optional(name):
    """This module, or what stands for it."""
    return importlib.import_module(name) if importlib.util.find_spec(name.split(".")[0]) else Absent(name)


torch = optional("torch")
da = optional("dask.array")
