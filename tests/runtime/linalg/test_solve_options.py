"""What `solve` refuses for which kind of matrix: one table, and nothing that is ignored without a word."""

import importlib
import re

import numpy as np
import pytest

import tilewright as tw
from tilewright.linalg.solve_options import TAKES

OTHER = {  # a value that not every kind takes
    "assume_a": "her",
    "pivoting": "none",
    "precision": "bf16",
    "refine": "cg",
    "fallback": False,
    "check_symmetric": True,
    "transposed": True,
    "return_info": True,
    "memory": "1GB",
    "backend": "mpi",
    "progress": True,
}
A = np.array([[4.0, 1.0], [1.0, 3.0]])
KINDS = {
    "a positive definite matrix": {"assume_a": "pos"},
    "a general matrix": {"assume_a": "gen"},
    "a general matrix with another pivoting than partial": {"assume_a": "gen", "pivoting": "threshold"},
    "a symmetric or Hermitian indefinite matrix": {"assume_a": "sym"},
    "a matrix of which nobody says what it is": {"assume_a": None},
    "a matrix on a disk": {},
    "a stack of matrices": {},
    "a dask.array": {},
    "a tensor on a GPU": {},
}


def matrix(kind, tmp_path, monkeypatch):
    if kind == "a matrix on a disk":
        np.save(tmp_path / "a.npy", A)
        return tmp_path / "a.npy"
    if kind == "a stack of matrices":
        return np.stack([A, A])
    if kind == "a dask.array":
        return pytest.importorskip("dask.array").from_array(A)
    if kind == "a tensor on a GPU":
        monkeypatch.setattr(importlib.import_module("tilewright.linalg.solve"), "is_device_tensor", lambda a: a is A)
    return A


@pytest.mark.parametrize("kind", TAKES)
def test_each_kind_refuses_what_it_does_not_take_in_one_sentence(kind, tmp_path, monkeypatch):
    assert set(KINDS) == set(TAKES)
    a = matrix(kind, tmp_path, monkeypatch)
    for name, values in TAKES[kind].items():
        if name == "options":
            with pytest.raises((ValueError, TypeError), match="root"):
                tw.solve(a, np.ones(2), **KINDS[kind], root=0)
            continue
        value = OTHER[name]
        if value in values:
            value = {"precision": tw.PrecisionMap.uniform(1, "bf16"), "refine": "nested"}[name]
        *first, last = map(repr, values)
        words = f"is not for {kind}, which takes {', '.join(first)}{' or ' * bool(first)}{last}"
        with pytest.raises(ValueError, match=rf"^{name}=.* {re.escape(words)}"):
            tw.solve(a, np.ones(2), **{**KINDS[kind], name: value})


@pytest.mark.parametrize("kind", [kind for kind in TAKES if kind not in ("a tensor on a GPU", "a dask.array")])
def test_each_kind_takes_the_rest(kind, tmp_path, monkeypatch):
    a = matrix(kind, tmp_path, monkeypatch)
    b = np.ones((2, 1)) if kind == "a stack of matrices" else np.ones(2)
    x = tw.solve(a, b, **{"assume_a": None, **KINDS[kind]}, backend="serial")
    assert np.allclose(A @ np.asarray(x).reshape(-1, 2)[0], 1)
