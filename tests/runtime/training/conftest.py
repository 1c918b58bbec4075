"""Tests of trainings use one thread a task: sums of convolutions depend on how many threads share them."""

import pytest
import torch


@pytest.fixture(autouse=True)
def small_models_are_cut_too(monkeypatch):
    """Models of tests have a few hundred parameters; `fit` would not cut them."""
    monkeypatch.setattr("tilewright.training.requirements.LEAST", 0)


@pytest.fixture(autouse=True)
def same_first_parameters():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr("tilewright.training.trainer.cores", lambda: 1)
    yield
    torch.set_num_threads(before)
