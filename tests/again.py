"""Tests that measure what the whole machine does: marked `measures_the_machine`, they have three goes."""

import pytest

__all__ = ["measures_the_machine"]

measures_the_machine = pytest.mark.flaky(reruns=2, rerun_except=[])
"""Also after a failed assertion, which is final in all other tests: `make test` says ``--rerun-except AssertionError``."""
