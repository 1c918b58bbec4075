"""The script that type checkers read (`typed.py`) is a program that runs."""

import numpy as np
import typed


def test_what_the_type_checkers_are_shown_runs():
    x, L, y = typed.main()
    assert np.allclose(L @ L.T @ x, np.ones(40), atol=1e-3)
    assert np.allclose(L @ L.T @ y, np.ones(40))
