"""Cholesky-QR2: LAPACK's ratios, what makes it give up, engines."""

import numpy as np
import pytest
from matrices import DTYPES, qr_ratio, random_matrix, roundoff
from optional import torch

import tilewright as tw


def with_condition(m, n, condition, dtype="float64"):
    u, v = (np.linalg.qr(random_matrix(rows, n, dtype, seed=rows))[0] for rows in (m, n))
    return ((u * np.geomspace(1, 1 / condition, n)) @ v).astype(dtype)


def found_by(a, **how):
    q, r, run = tw.qr(a, mode="economic", tree="cholesky", return_run=True, **how)
    return q, r, run, [note for note in run.notes if "Cholesky-QR2 was given up" in note]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n"), [(1, 1), (5, 5), (9, 4), (40, 7), (700, 33), (9000, 12)])
def test_ratios_and_a_positive_diagonal(dtype, m, n):
    a = random_matrix(m, n, dtype)
    q, r, run, notes = found_by(a)
    assert q.shape == (m, n) and r.shape == (n, n) and q.dtype == r.dtype == a.dtype and not notes
    assert qr_ratio(a, q, r) < 30 and np.array_equal(r, np.triu(r))
    assert (r.diagonal().real > 0).all() and not r.diagonal().imag.any()
    assert np.allclose(r, tw.qr(a, mode="economic", positive=True)[1], atol=1e3 * roundoff(dtype) * m**0.5)
    assert {task.op.name for task in run.graph} == {"gram", "factor", "orthogonal", "again", "join"}
    (alone,) = tw.qr(a, mode="r", tree="cholesky")
    assert np.array_equal(alone[:n], r) and alone.shape == (m, n) and not alone[n:].any()


@pytest.mark.parametrize("condition", [1e3, 1e6, 1e9, 1e12, 1e15])
def test_q_is_orthonormal_for_every_condition_and_a_note_says_what_was_given_up(condition):
    for dtype in ("float64", "complex128"):
        a = with_condition(400, 20, condition, dtype)
        q, r, _, notes = found_by(a)
        assert qr_ratio(a, q, r) < 30 and (r.diagonal().real > 0).all()
        assert bool(notes) == (condition > 1e7) and all("tree='binary' taken" in note for note in notes)
    a = with_condition(400, 20, condition, "float32")
    q, r, _, notes = found_by(a)
    assert qr_ratio(a, q, r) < 30 and bool(notes) == (condition > 1e3)


@pytest.mark.parametrize(
    "a",
    [
        np.zeros((60, 3)),
        np.ones((60, 2)),
        random_matrix(60, 3) * 1e200,
        random_matrix(60, 3) * 1e-200,
        np.diag([1.0, 0, 2])[np.arange(60) % 3],
    ],
    ids=["zero", "rank", "overflow", "underflow", "zero column"],
)
def test_what_has_no_gram_matrix_that_would_do(a):
    q, r, _, notes = found_by(a)
    scale = np.abs(a).max() or 1.0
    assert qr_ratio(a / scale, q, r / scale) < 30 and len(notes) == 1


def test_refusals():
    a = random_matrix(50, 4)
    nan = a.copy()
    nan[41, 2] = np.nan
    for b, how, message in (
        (a, {"mode": "full"}, "no Q beyond the columns of A"),
        (a, {"mode": "raw"}, "only tree='panel' makes"),
        (a, {"mode": "r", "checkpoint": "nowhere"}, "keeps nothing on the way"),
        (a.T, {"mode": "r"}, "not 4 x 50"),
        (a, {"mode": "r", "tile_size": 3}, "tiles of 3 columns"),
        (nan, {"mode": "economic"}, r"NaN or infinity at \(41, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            tw.qr(b, tree="cholesky", **how)
    for call in (lambda: tw.qr_factor(a, tree="cholesky"), lambda: tw.lstsq(a, a, tree="cholesky")):
        with pytest.raises(ValueError, match="unknown tree 'cholesky'"):
            call()
    assert not np.isfinite(tw.qr(nan, mode="r", tree="cholesky", check_finite=False)[0]).all()


@pytest.mark.needs("torch")
def test_tensors_in_tensors_out():
    a = random_matrix(50, 4, "complex64")
    q, r = tw.qr(torch.from_numpy(a), mode="economic", tree="cholesky")
    assert torch.is_tensor(q) and torch.is_tensor(r) and qr_ratio(a, q.numpy(), r.numpy()) < 30


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_make_the_same_bits(workers):
    for condition in (10.0, 1e13):
        a = with_condition(700, 9, condition)
        q, r, _, notes = found_by(a, workers=workers)
        wanted = found_by(a, backend="serial")
        assert np.array_equal(q, wanted[0]) and np.array_equal(r, wanted[1]) and bool(notes) == (condition > 1e12)
