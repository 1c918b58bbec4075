"""Random numbers that depend on their key alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.training.data import Recipe
from tilewright.training.data.augment import crop_and_flip, normalise, order


def test_bits_are_splitmix64():
    """The first outputs for seed 0 of the published generator: mix(k * golden) for k = 1, 2, 3."""
    golden = 0x9E3779B97F4A7C15
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    from tilewright.training.data.augment import _mix

    states = np.array([k * golden % 2**64 for k in range(3)], dtype=np.uint64)
    assert [int(v) for v in _mix(states)] == expected


@given(st.integers(1, 300), st.integers(0, 2**63), st.integers(0, 1000))
def test_an_epoch_is_a_permutation_that_its_key_repeats(n, seed, epoch):
    assert sorted(order(n, seed, epoch)) == list(range(n))
    assert np.array_equal(order(n, seed, epoch), order.__wrapped__(n, seed, epoch))


def test_epochs_and_seeds_differ():
    assert not np.array_equal(order(100, 0, 0), order(100, 0, 1))
    assert not np.array_equal(order(100, 0, 0), order(100, 1, 0))


def test_a_crop_does_not_depend_on_the_batch_it_is_in():
    images = np.random.default_rng(0).integers(0, 255, (10, 3, 8, 8), dtype=np.uint8)
    recipe = Recipe(pad=2, flip=True)
    index = np.arange(10)
    whole = crop_and_flip(images, index, recipe, seed=3, epoch=1)
    parts = [crop_and_flip(images[k : k + 1], index[k : k + 1], recipe, 3, 1) for k in reversed(range(10))]
    assert np.array_equal(whole, np.concatenate(parts[::-1]))


def test_crops_are_shifts_of_the_image_and_mirrors_of_them():
    image = np.arange(1, 17, dtype=np.uint8).reshape(1, 1, 4, 4)
    padded = np.pad(image[0, 0], 1)
    windows = [padded[a : a + 4, b : b + 4] for a in range(3) for b in range(3)]
    possible = {w.tobytes() for w in windows} | {np.ascontiguousarray(w[:, ::-1]).tobytes() for w in windows}
    seen = {crop_and_flip(image, np.array([k]), Recipe(pad=1, flip=True), 0, 0)[0, 0].tobytes() for k in range(300)}
    assert seen == possible


def test_nothing_to_do_copies_nothing():
    images = np.zeros((2, 1, 4, 4), dtype=np.uint8)
    assert crop_and_flip(images, np.arange(2), Recipe(), 0, 0) is images


def test_normalised_images_are_those_of_the_notebook():
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 4), dtype=np.uint8)
    recipe = Recipe((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    expected = (images / 255 - np.reshape(recipe.mean, (3, 1, 1))) / np.reshape(recipe.std, (3, 1, 1))
    assert normalise(images, recipe) == pytest.approx(expected, abs=2e-6)
    assert normalise(images, recipe).dtype == np.float32
