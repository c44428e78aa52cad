"""Batches: what a batch holds, that its number and the seed alone decide it, and how often each kind is drawn."""

import threading
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from drawn import draw_field
from hypothesis import given, settings
from hypothesis import strategies as st

from nuclei.settings.config import BadInput, Config
from nuclei.training_data import batches
from nuclei.training_data.batches import Crops, draw_chances
from nuclei.training_data.kinds import KINDS, nucleus_diameter
from nuclei.training_data.targets import INTERIOR

CONFIG = replace(Config(), train_batch=3, train_crop=64, model_width=4)


def draw_set(count=4, radius=8):
    rng = np.random.default_rng(0)
    labels = [draw_field(rng, (90, 110), radius, 8) for _ in range(count)]
    images = [np.repeat(np.where(one > 0, 180, 30).astype(np.uint8)[..., None], 3, axis=2) for one in labels]
    return images, labels, [KINDS[i % 2] for i in range(count)]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_batch_holds_crops_targets_and_weights():
    x, y = Crops(*draw_set(), CONFIG).batch(0)
    assert x.shape == (3, 64, 64, 3) and y.shape == (3, 64, 64, 4)
    assert x.dtype == y.dtype == np.float32
    assert x.min() >= 0 and x.max() <= 1 and x.max() > 0.5
    assert set(np.unique(y[..., :3])) == {0.0, 1.0}
    assert y[..., 3].min() >= 1 and y[..., 3].max() > 1


def test_targets_belong_to_their_crop():
    x, y = Crops(*draw_set(), replace(CONFIG, train_batch=16)).batch(3)
    for crop, target in zip(x, y[..., INTERIOR] > 0, strict=True):
        if 0.05 < target.mean() < 0.95:
            contrast = crop[target].mean() - crop[~target].mean()
            assert abs(contrast) > 0.1  # colour may invert it


def test_a_batch_depends_on_its_number_and_the_seed_alone():
    one, other = Crops(*draw_set(), CONFIG), Crops(*draw_set(), CONFIG)
    forwards = [one.batch(i) for i in range(3)]
    backwards = [other.batch(i) for i in (2, 1, 0)][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert not same(forwards[0], forwards[1])
    assert not same(forwards[0], Crops(*draw_set(), replace(CONFIG, train_seed=1)).batch(0))


@pytest.mark.parametrize("start, ahead, workers", [(0, 4, 2), (5, 1, 1), (2, 7, 3)])
def test_the_stream_gives_the_batches_in_order(start, ahead, workers):
    crops = Crops(*draw_set(), CONFIG)
    streamed = list(islice(crops.stream(start, ahead, workers), 6))
    assert all(same(batch, crops.batch(start + i)) for i, batch in enumerate(streamed))


def test_a_closed_stream_leaves_no_thread():
    stream = Crops(*draw_set(), CONFIG).stream()
    next(stream)
    assert any(thread.name.startswith("crops") for thread in threading.enumerate())
    stream.close()
    assert not any(thread.name.startswith("crops") for thread in threading.enumerate())


# ---- images of which no crop can be made -------------------------------------------------------


@pytest.fixture
def failing(monkeypatch):
    """Makes the crops of images fail, by number."""
    augment = batches.augment

    def fail(crops, *numbers):
        bad = [id(crops.labels[n]) for n in numbers]

        def augment_most(image, labels, *rest):
            if id(labels) in bad:
                raise ValueError("a hole in it")
            return augment(image, labels, *rest)

        monkeypatch.setattr(batches, "augment", augment_most)

    return fail


def test_a_bad_image_is_named_once_and_another_takes_its_place(failing, caplog):
    crops = Crops(*draw_set(), CONFIG, ids="abcd")
    failing(crops, 2)
    streamed = list(islice(crops.stream(), 8))
    (warning,) = caplog.messages
    assert warning == "training image c is left out, since no crop can be made of it (ValueError: a hole in it)"
    assert all(np.isfinite(x).all() and y[..., 3].min() >= 1 for x, y in streamed)
    assert same(streamed[5], crops.batch(5))  # it still depends on its number and the seed alone


@pytest.mark.parametrize("count, bad", [(6, range(4)), (3, range(3)), (1, [0])])
def test_too_many_bad_images_end_the_training_with_the_reason(failing, count, bad):
    crops = Crops(*draw_set(count), CONFIG)
    failing(crops, *bad)
    with pytest.raises(BadInput, match=r"no crop can be made of the training images .*a hole in it"):
        list(islice(crops.stream(), 20))
    assert not any(thread.name.startswith("crops") for thread in threading.enumerate())


@pytest.mark.parametrize("shape", [(80, 70), (1, 1)])
def test_images_without_nuclei_give_blank_targets(shape):
    crops = Crops([np.full((*shape, 3), 40, np.uint8)], [np.zeros(shape, np.int32)], [KINDS[0]], CONFIG)
    x, y = crops.batch(0)
    assert np.isfinite(x).all() and not y[..., :3].any() and (y[..., 3] == 1).all()


def test_an_image_without_nuclei_takes_the_scale_of_the_others():
    images, labels, kinds = draw_set(3)
    crops = Crops([*images, images[0]], [*labels, np.zeros_like(labels[0])], [*kinds, kinds[0]], CONFIG)
    assert crops.zooms[3] == pytest.approx(np.median(crops.zooms[:3]))


@pytest.mark.parametrize("radius", [5, 15])
def test_nuclei_of_any_size_come_at_the_networks_scale(radius):
    images, labels, kinds = draw_set(3, radius)
    crops = Crops(images, labels, kinds, replace(CONFIG, train_zoom=0.0, train_crop=256, train_batch=1))
    assert crops.zooms == pytest.approx([CONFIG.zoom(2 * radius)] * len(crops.zooms), rel=0.05)
    images, labels, kinds = draw_set(1, radius)
    seen = Crops(images, labels, kinds, crops.config)
    share = np.mean([seen.batch(i)[1][..., INTERIOR].mean() for i in range(6)])
    assert share == pytest.approx((labels[0] > 0).mean(), rel=0.3), (
        "a crop of the whole image, mirrored, keeps its share"
    )
    assert seen.zooms[0] == pytest.approx(CONFIG.zoom(nucleus_diameter(labels[0])))


def test_standardised_images_reach_the_network():
    # Dark nuclei on a light ground and bright ones on a dark ground look alike to it.
    images, labels, kinds = draw_set()
    dark = Crops(images, labels, kinds, CONFIG)
    light = Crops([255 - image for image in images], labels, kinds, CONFIG)
    assert same(dark.batch(0), light.batch(0))


@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=40), st.floats(0, 1))
@settings(deadline=None)
def test_laws_of_the_chances(kinds, balance):
    chances = draw_chances(kinds, balance)
    assert chances.shape == (len(kinds),) and chances.min() > 0
    assert chances.sum() == pytest.approx(1)
    assert draw_chances(kinds, 0) == pytest.approx(np.full(len(kinds), 1 / len(kinds)))
    kinds = np.array(kinds)
    seen = sorted(set(kinds))
    even = draw_chances(kinds, 1)
    assert [even[kinds == kind].sum() for kind in seen] == pytest.approx([1 / len(seen)] * len(seen))
    for kind in seen:  # n^(1 - balance), up to one factor for all kinds
        n, first = np.count_nonzero(kinds == kind), np.count_nonzero(kinds == seen[0])
        ratio = chances[kinds == kind].sum() / chances[kinds == seen[0]].sum()
        assert ratio == pytest.approx((n / first) ** (1 - balance))


def test_batches_draw_by_these_chances():
    # One bright image of a rare kind among nineteen black ones: with kinds alike it is every second crop.
    images = [np.zeros((16, 16, 3), np.uint8) for _ in range(20)]
    labels = [np.zeros((16, 16), np.int32) for _ in range(20)]
    labels[0][4:12, 4:12] = 1
    kinds = ["brown"] + ["purple"] * 19
    config = replace(CONFIG, train_crop=32, train_batch=200)

    def share(balance):
        _, y = Crops(images, labels, kinds, replace(config, train_balance=balance)).batch(0)
        return y[..., INTERIOR].any(axis=(1, 2)).mean()

    assert share(1.0) == pytest.approx(0.5, abs=0.12)
    assert share(0.0) == pytest.approx(0.05, abs=0.05)
