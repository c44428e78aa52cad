"""Augmentation: image and labels stay in step, whatever happens to them, and the scale is the one asked for."""

import numpy as np
import pytest
from drawn import draw_discs, draw_field
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from nuclei.training_data.augmentation import augment, recolour, warp


def photograph(labels):
    """An image whose brightness is a function of the label: 20 outside, 80 and more inside."""
    grey = np.where(labels > 0, 80 + 40 * (labels % 4), 20).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def separation(grey, mask):
    """The share of pixels on their side of the best threshold, whichever side is bright."""
    shares = [((grey > level) == mask).mean() for level in np.unique(grey)]
    return max(max(shares), 1 - min(shares))


def assert_numbered_and_connected(labels):
    assert np.array_equal(np.unique(labels[labels > 0]), np.arange(1, labels.max(initial=0) + 1))
    for index in range(1, labels.max(initial=0) + 1):
        assert ndi.label(labels == index, np.ones((3, 3)))[1] == 1


@pytest.mark.parametrize("zoom", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(6))
def test_labels_stay_aligned_with_the_image(seed, zoom):
    rng = np.random.default_rng(seed)
    labels = draw_field(rng, (220, 260), 14, 30)
    image, bent = warp(photograph(labels), labels, rng, 160, zoom)
    bright = image[..., 0] > 50
    # Linear resampling blurs the image's edge, nearest keeps the labels' crisp: compare away from it.
    clear = ndi.grey_dilation(bent, 3) == ndi.grey_erosion(bent, 3)
    assert bright.any() and clear.mean() > 0.6
    assert (bright == (bent > 0))[clear].mean() > 0.995
    assert (bright == (bent > 0)).mean() > 0.97
    assert_numbered_and_connected(bent)
    for index in range(1, bent.max() + 1):  # each instance is one of the old ones: one brightness
        inside = ndi.binary_erosion(bent == index, iterations=4)
        if inside.any():
            seen = image[inside, 0].astype(int)
            assert (np.abs(seen - np.median(seen)) > 2).mean() < 0.03


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1, 5, 16, 48]),
    st.floats(0.05, 20),
    st.integers(0, 2**32),
)
@settings(max_examples=120)
def test_any_size_and_any_zoom_give_a_whole_crop(height, width, crop, zoom, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (height, width)).astype(np.int32)
    image = np.full((height, width, 3), 77, np.uint8)
    seen, bent = warp(image, labels, rng, crop, zoom)
    assert seen.shape == (crop, crop, 3) and seen.dtype == np.uint8
    assert bent.shape == (crop, crop) and bent.dtype == np.int32
    assert (seen == 77).all(), "beyond the frame is mirror, never black"
    changed, same = augment(image, labels, rng, crop, zoom)
    assert changed.shape == (crop, crop, 3) and changed.dtype == np.uint8
    assert same.shape == (crop, crop) and same.dtype == np.int32


@pytest.mark.parametrize("shape", [(1, 1), (7, 3)])
def test_a_nucleus_that_fills_a_tiny_image_fills_the_crop(shape):
    for seed in range(10):
        seen, bent = warp(
            np.full((*shape, 3), 200, np.uint8), np.full(shape, 9, np.int32), np.random.default_rng(seed), 32, 1.0
        )
        assert (bent == 1).all() and (seen == 200).all()


def test_far_out_the_mirror_fills_the_crop():
    labels = draw_discs((60, 60), (30, 30, 12))
    share = (labels > 0).mean()
    for seed in range(6):
        image, bent = warp(photograph(labels), labels, np.random.default_rng(seed), 128, 0.25)
        assert (bent > 0).mean() == pytest.approx(share, rel=0.35)
        assert bent.max() > 20, "a mirrored nucleus is another nucleus"
        for quarter in (bent[:64, :64], bent[:64, 64:], bent[64:, :64], bent[64:, 64:]):
            assert (quarter > 0).mean() == pytest.approx(share, rel=0.5)
        assert image.max() > 50


def test_zoom_is_pixels_of_the_crop_for_one_of_the_image():
    labels = draw_field(np.random.default_rng(0), (400, 400), 10, 80)
    image = photograph(labels)

    def median_area(zoom):
        areas = []
        for seed in range(8):
            _, bent = warp(image, labels, np.random.default_rng(seed), 192, zoom)
            frame = np.concatenate([bent[0], bent[-1], bent[:, 0], bent[:, -1]])
            areas += [np.count_nonzero(bent == i) for i in range(1, bent.max() + 1) if i not in frame]
        return np.median(areas)

    whole = np.pi * 10**2
    assert np.sqrt(median_area(1.0) / whole) == pytest.approx(1, rel=0.06)
    assert np.sqrt(median_area(2.0) / whole) == pytest.approx(2, rel=0.06)
    assert np.sqrt(median_area(0.5) / whole) == pytest.approx(0.5, rel=0.06)


def test_crops_come_from_the_whole_image_and_both_hands():
    # A ramp tells where a crop was taken; an L tells a mirror image from a turned one.
    rows, columns = np.indices((128, 128))
    ramp = np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    centres, hands = [], set()
    for seed in range(40):
        seen, _ = warp(ramp, np.zeros((128, 128), np.int32), np.random.default_rng(seed), 32, 1.0)
        seen = seen.astype(float)
        centres.append(seen[16, 16, :2])
        along, across = seen[16, 24, :2] - seen[16, 8, :2], seen[24, 16, :2] - seen[8, 16, :2]
        hands.add(np.sign(along[0] * across[1] - along[1] * across[0]))
    assert np.min(centres, axis=0).max() < 35 and np.max(centres, axis=0).min() > 92
    assert hands == {-1, 1}


def test_the_same_rng_state_gives_the_same_crop():
    labels = draw_field(np.random.default_rng(3), (100, 100), 8, 9)
    crops = [augment(photograph(labels), labels, np.random.default_rng(seed), 64, 1.3) for seed in (5, 5, 6)]
    assert all(np.array_equal(a, b) for a, b in zip(crops[0], crops[1], strict=True))
    assert not np.array_equal(crops[0][0], crops[2][0])


def test_touching_nuclei_stay_two():
    labels = draw_discs((64, 64), (32, 22, 10), (32, 43, 10))
    for seed in range(10):
        _, bent = warp(photograph(labels), labels, np.random.default_rng(seed), 64, 0.9)
        sizes = np.bincount(bent.ravel())[1:]
        assert np.count_nonzero(sizes > 60) >= 2


def test_more_than_255_nuclei_keep_their_ids():
    labels = np.zeros((90, 90), np.int32)
    labels[1::4, 1::4] = np.arange(1, 23 * 23 + 1).reshape(23, 23)
    labels = ndi.grey_dilation(labels, 2)
    _, bent = warp(photograph(labels), labels, np.random.default_rng(0), 256, 2.8)
    assert bent.max() > 255
    assert_numbered_and_connected(bent)
    filled = np.full((9, 9), 256, np.int32)  # 0, if it were kept in eight bits
    assert warp(photograph(filled), filled, np.random.default_rng(0), 16, 1.0)[1].all()


def test_recolour_keeps_labels_shape_and_dtype_and_changes_colour_alone():
    labels = draw_field(np.random.default_rng(4), (48, 56), 6, 6)
    image = photograph(labels)
    kept, before = image.copy(), labels.copy()
    results = []
    for seed in range(60):
        seen, same = recolour(image, labels, np.random.default_rng(seed))
        assert seen.shape == image.shape and seen.dtype == np.uint8
        assert np.array_equal(same, before)
        results.append(seen)
        # Colour may invert a nucleus, not hide it: a threshold on one channel still separates nearly all pixels.
        assert max(separation(seen[..., channel], labels > 0) for channel in range(3)) > 0.9
    assert np.array_equal(image, kept), "the image that was given is left alone"
    assert len({result.tobytes() for result in results}) > 30
    inverted = [r for r in results if r[labels > 0].mean() < r[labels == 0].mean()]
    assert 0 < len(inverted) < 15


@pytest.mark.parametrize("level", [0, 127, 255])
def test_a_blank_image_stays_valid(level):
    labels = np.zeros((20, 20), np.int32)
    for seed in range(20):
        seen, bent = augment(np.full((20, 20, 3), level, np.uint8), labels, np.random.default_rng(seed), 32, 1.0)
        assert seen.dtype == np.uint8 and not bent.any()
