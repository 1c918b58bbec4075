"""torch, or what stands for it where it is not installed: on the pretended computers of portable.py, and on a user's.

There a test that uses torch is skipped at the first call of it; all that needs only its names, such as parameters of
tests, works. CI asks for torch before it runs the suite, so nothing is skipped unseen.
"""

import importlib.util

import pytest

__all__ = ["torch"]


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


if importlib.util.find_spec("torch"):
    import torch
else:
    torch = Absent("torch")
