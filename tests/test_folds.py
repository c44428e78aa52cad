"""Folds: near-duplicates stay together, kinds are spread, parts are disjoint and complete."""

import cv2
import numpy as np
import pytest
from drawn import draw_kind
from hypothesis import given
from hypothesis import strategies as st

from nuclei.settings.config import BadInput
from nuclei.training_data.images import ImageSet
from nuclei.training_data.kinds import KINDS
from nuclei_kit.experiments.folds import near_duplicates, split_data, split_folds


def test_near_duplicates_are_copies_up_to_noise_light_and_a_little_shift():
    image, _ = draw_kind("fluorescence-small", 1)
    other, _ = draw_kind("fluorescence-small", 2)
    rng = np.random.default_rng(0)
    noisy = np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
    brighter = np.clip(image * 1.5 + 10, 0, 255).astype(np.uint8)
    shifted = image[2:, 1:]
    blank = np.zeros_like(image)
    groups = near_duplicates([image, other, noisy, blank, brighter, shifted, 255 - image, blank])
    assert len({groups[i] for i in (0, 2, 4, 5, 6)}) == 1
    assert len({groups[i] for i in (0, 1, 3, 7)}) == 4


def test_copies_of_copies_are_one_group():
    # Each image is the last one with a little more changed: the ends differ, the chain holds.
    a = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    a = cv2.GaussianBlur(a, (0, 0), 1.5)
    b = np.random.default_rng(1).integers(0, 256, (32, 32), np.uint8)
    b = cv2.GaussianBlur(b, (0, 0), 1.5)
    chain = [np.repeat(cv2.addWeighted(a, 1 - t, b, t, 0)[..., None], 3, axis=2) for t in np.linspace(0, 1, 9)]
    groups = near_duplicates([*chain[::2], *chain[1::2]])  # neighbours meet through a later image
    assert len(set(groups)) == 1
    assert len(set(near_duplicates([chain[0], chain[-1]]))) == 2


@st.composite
def deals(draw):
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=40))
    groups = draw(st.lists(st.integers(0, 30), min_size=len(kinds), max_size=len(kinds)))
    return kinds, np.array(groups), draw(st.integers(2, 9)), draw(st.integers(0, 99))


@given(deals())
def test_laws_of_the_folds(deal):
    kinds, groups, folds, seed = deal
    fold = split_folds(kinds, groups, folds, seed)
    assert fold.shape == (len(kinds),) and fold.min() >= 0 and fold.max() < folds
    assert np.array_equal(fold, split_folds(kinds, groups, folds, seed))
    for group in set(groups):
        assert len({f for f, g in zip(fold, groups, strict=True) if g == group}) == 1
    alone = split_folds(kinds, np.arange(len(kinds)), folds, seed)
    for kind in set(kinds):
        counts = np.bincount(alone[np.array(kinds) == kind], minlength=folds)
        assert np.ptp(counts) <= 1, "each kind is spread evenly"


def test_another_seed_is_another_deal():
    kinds = ["purple"] * 40
    deals = {tuple(split_folds(kinds, np.arange(40), 4, seed)) for seed in range(5)}
    assert len(deals) == 5


def draw_many(count=30):
    kinds = [KINDS[i % 2] for i in range(count)]
    rng = np.random.default_rng(0)
    images = [cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (40, 40)) for _ in range(count)]
    images[7] = images[5].copy()
    labels = [np.zeros((40, 40), np.int32) for _ in range(count)]
    return ImageSet([f"{i:02}" for i in range(count)], images, labels, kinds, {"broken": "why"})


@pytest.mark.parametrize("folds, tuning", [(5, 0.1), (2, 0.25), (0, 0.1), (3, 0.0), (0, 0.0)])
def test_the_parts_are_disjoint_and_complete(folds, tuning):
    whole = draw_many()
    parts = split_data(whole, folds, 0, tuning)
    assert sorted(i for part in parts for i in part.ids) == whole.ids
    train, tune, held_out = (len(part.ids) for part in parts)
    assert train > 0
    assert (held_out > 0) == (folds > 0) and (tune > 0) == (tuning > 0)
    if folds:
        assert held_out == pytest.approx(len(whole.ids) / folds, abs=2)
    assert tune == pytest.approx((train + tune) * tuning, abs=2)
    assert len({n for n, part in enumerate(parts) for i in part.ids if i in ("05", "07")}) == 1, "copies stay together"


def test_every_image_is_held_out_by_one_fold():
    whole = draw_many()
    held_out = [split_data(whole, 4, fold, 0.1)[2].ids for fold in range(4)]
    assert sorted(i for ids in held_out for i in ids) == whole.ids


def test_a_few_images_are_not_tuned_on_and_one_is_not_held_out():
    few = draw_many(8)
    train, tune, held_out = split_data(few, 4, 0, 0.1)
    assert len(train.ids) + len(held_out.ids) == 8 and not tune.ids
    one = few.subset([0])
    assert split_data(one, 0, 0, 0.1)[0].ids == one.ids
    with pytest.raises(BadInput, match="1 training images are too few or too alike"):
        split_data(one, 8, 0, 0.1)
    copies = few.subset([0] * 12)
    with pytest.raises(BadInput, match="12 training images are too few or too alike"):
        split_data(copies, 8, 0, 0.1)
