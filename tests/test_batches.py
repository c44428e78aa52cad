"""Batches: what a batch holds, that its number and the seed alone decide it, and how often each kind is drawn."""

import threading
from functools import partial
from itertools import islice

import numpy as np
import pytest
from drawn import draw_field
from hypothesis import given
from hypothesis import strategies as st

from nuclei.settings.config import BadInput
from nuclei.training_data import batches
from nuclei.training_data.batches import Crops, draw_chances
from nuclei.training_data.images import ImageSet
from nuclei.training_data.kinds import KINDS, network_zoom, nucleus_diameter
from nuclei.training_data.targets import INTERIOR, make_targets, pixel_weights

zoom_for = partial(network_zoom, target=32.0, share=0.5)


def draw_set(count=4, radius=8):
    rng = np.random.default_rng(0)
    labels = [draw_field(rng, (90, 110), radius, 8) for _ in range(count)]
    images = [np.repeat(np.where(one > 0, 180, 30).astype(np.uint8)[..., None], 3, axis=2) for one in labels]
    return as_set(images, labels, [KINDS[i % 2] for i in range(count)])


def as_set(images, labels, kinds):
    return ImageSet([chr(ord("a") + i) for i in range(len(images))], images, labels, kinds)


def make_y(labels):
    return np.dstack([make_targets(labels, 0.45), pixel_weights(labels, 5.0, 4.0, 3.0)])


def make_crops(images, **changes):
    settings = {"size": 3, "crop": 64, "spread": 0.7, "balance": 0.6, "seed": 0}
    return Crops(images, make_y, zoom_for, **settings | changes)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_batch_holds_crops_targets_and_weights():
    x, y = make_crops(draw_set()).batch(0)
    assert x.shape == (3, 64, 64, 3) and y.shape == (3, 64, 64, 4)
    assert x.dtype == y.dtype == np.float32
    assert x.min() >= 0 and x.max() <= 1 and x.max() > 0.5
    assert set(np.unique(y[..., :3])) == {0.0, 1.0}
    assert y[..., 3].min() >= 1 and y[..., 3].max() > 1


def test_targets_belong_to_their_crop():
    x, y = make_crops(draw_set(), size=16).batch(3)
    for crop, target in zip(x, y[..., INTERIOR] > 0, strict=True):
        if 0.05 < target.mean() < 0.95:
            contrast = crop[target].mean() - crop[~target].mean()
            assert abs(contrast) > 0.1  # colour may invert it


def test_a_batch_depends_on_its_number_and_the_seed_alone():
    one, other = make_crops(draw_set()), make_crops(draw_set())
    forwards = [one.batch(i) for i in range(3)]
    backwards = [other.batch(i) for i in (2, 1, 0)][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert not same(forwards[0], forwards[1])
    assert not same(forwards[0], make_crops(draw_set(), seed=1).batch(0))


@pytest.mark.parametrize("start, workers", [(0, None), (5, 1), (2, 7)])
def test_the_stream_gives_the_batches_in_order(start, workers):
    crops = make_crops(draw_set())
    streamed = list(islice(crops.stream(start, workers), 6))
    assert all(same(batch, crops.batch(start + i)) for i, batch in enumerate(streamed))


def test_a_closed_stream_leaves_no_thread():
    stream = make_crops(draw_set()).stream()
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
        bad = [id(crops.images.labels[n]) for n in numbers]

        def augment_most(image, labels, *rest):
            if id(labels) in bad:
                raise ValueError("a hole in it")
            return augment(image, labels, *rest)

        monkeypatch.setattr(batches, "augment", augment_most)

    return fail


def test_a_bad_image_is_named_once_and_another_takes_its_place(failing, caplog):
    crops = make_crops(draw_set())
    failing(crops, 2)
    streamed = list(islice(crops.stream(), 8))
    (warning,) = caplog.messages
    assert all(part in warning for part in ("training image c", "left out", "a hole in it"))
    assert all(np.isfinite(x).all() and y[..., 3].min() >= 1 for x, y in streamed)
    assert same(streamed[5], crops.batch(5))  # it still depends on its number and the seed alone


@pytest.mark.parametrize("count, bad", [(6, range(4)), (3, range(3)), (1, [0])])
def test_too_many_bad_images_end_the_training_with_the_reason(failing, count, bad):
    crops = make_crops(draw_set(count))
    failing(crops, *bad)
    with pytest.raises(BadInput, match=r"no crop can be made of the training images .*a hole in it"):
        list(islice(crops.stream(), 20))
    assert not any(thread.name.startswith("crops") for thread in threading.enumerate())


@pytest.mark.parametrize("shape", [(80, 70), (1, 1)])
def test_images_without_nuclei_give_blank_targets(shape):
    blank = as_set([np.full((*shape, 3), 40, np.uint8)], [np.zeros(shape, np.int32)], [KINDS[0]])
    x, y = make_crops(blank).batch(0)
    assert np.isfinite(x).all() and not y[..., :3].any() and (y[..., 3] == 1).all()


def test_an_image_without_nuclei_takes_the_scale_of_the_others():
    some = draw_set(3)
    blank = np.zeros_like(some.labels[0])
    crops = make_crops(as_set([*some.images, some.images[0]], [*some.labels, blank], [*some.kinds, some.kinds[0]]))
    assert crops.zooms[3] == pytest.approx(np.median(crops.zooms[:3]))


@pytest.mark.parametrize("radius", [5, 15])
def test_nuclei_of_any_size_come_at_the_networks_scale(radius):
    settings = {"spread": 0.0, "crop": 256, "size": 1}
    crops = make_crops(draw_set(3, radius), **settings)
    assert crops.zooms == pytest.approx([zoom_for(2 * radius)] * 3, rel=0.05)
    (labels,) = draw_set(1, radius).labels
    seen = make_crops(draw_set(1, radius), **settings)
    share = np.mean([seen.batch(i)[1][..., INTERIOR].mean() for i in range(6)])
    assert share == pytest.approx((labels > 0).mean(), rel=0.3), "a crop of the whole image, mirrored, keeps its share"
    assert seen.zooms[0] == pytest.approx(zoom_for(nucleus_diameter(labels)))


def test_standardised_images_reach_the_network():
    # Dark nuclei on a light ground and bright ones on a dark ground look alike to it.
    dark = draw_set()
    light = as_set([255 - image for image in dark.images], dark.labels, dark.kinds)
    assert same(make_crops(dark).batch(0), make_crops(light).batch(0))


@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=40), st.floats(0, 1))
def test_laws_of_the_chances(kinds, balance):
    chances = draw_chances(kinds, balance)
    assert chances.shape == (len(kinds),) and chances.min() > 0
    assert chances.sum() == pytest.approx(1)
    assert draw_chances(kinds, 0) == pytest.approx(np.full(len(kinds), 1 / len(kinds)))
    even = draw_chances(kinds, 1)
    kinds = np.array(kinds)
    seen = sorted(set(kinds))
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

    def share(balance):
        _, y = make_crops(as_set(images, labels, kinds), crop=32, size=200, balance=balance).batch(0)
        return y[..., INTERIOR].any(axis=(1, 2)).mean()

    assert share(1.0) == pytest.approx(0.5, abs=0.12)
    assert share(0.0) == pytest.approx(0.05, abs=0.05)
