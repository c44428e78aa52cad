"""Augmentation: image and labels stay in step, whatever happens to them, and the scale is the one asked for."""

import cv2
import numpy as np
import pytest
from drawn import draw_discs, draw_field
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from nuclei.training_data.augmentation import ANISOTROPY, augment, recolour, warp


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


def test_a_crop_is_stretched_by_up_to_the_anisotropy_and_sometimes_bent():
    """A ramp tells where each pixel of a crop was taken: a map that is linear but for the bent ones."""
    rows, columns = np.indices((256, 256))
    ramp = np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    y, x = np.indices((32, 32)) - 15.5
    design = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], axis=1)
    stretches, bent = [], 0
    for seed in range(60):
        seen, _ = warp(ramp, np.zeros((256, 256), np.int32), np.random.default_rng(seed), 64, 1.0)
        places = seen[16:48, 16:48, :2].reshape(-1, 2).astype(float)  # the middle, which no mirror reaches
        turn, errors, *_ = np.linalg.lstsq(design, places, rcond=None)
        if np.sqrt(errors.max() / len(places)) > 0.4:  # px; rounding to whole levels leaves 0.3
            bent += 1
            continue
        longer, shorter = np.linalg.svd(turn[:2], compute_uv=False)
        assert longer * shorter == pytest.approx(1, rel=0.02), "the area is kept"
        stretches.append(np.log2(longer / shorter))
    assert 0.25 < bent / 60 < 0.55
    assert ANISOTROPY * 0.8 < max(stretches) < ANISOTROPY + 0.02
    assert min(stretches) < ANISOTROPY * 0.2


@pytest.mark.parametrize("zoom, low, high", [(0.5, 0, 10), (0.7, 0, 10), (1.0, 32, 128)])
def test_a_pattern_too_fine_for_the_crop_turns_grey_and_leaves_no_other(zoom, low, high):
    board = np.repeat(((np.indices((200, 200)).sum(axis=0) % 2) * 255).astype(np.uint8)[..., None], 3, axis=2)
    for seed in range(5):
        seen, _ = warp(board, np.zeros((200, 200), np.int32), np.random.default_rng(seed), 64, zoom)
        assert low <= seen.std() < high


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


def test_light_goes_through_a_curve_that_keeps_its_order():
    """Columns of one level each, averaged: noise and blur leave them."""
    ramp = np.repeat(np.tile(np.arange(256, dtype=np.uint8), (128, 1))[..., None], 3, axis=2)
    middles, bends = [], []
    for seed in range(60):
        seen, _ = recolour(ramp, np.zeros((128, 256), np.int32), np.random.default_rng(seed))
        curve = seen.mean(axis=(0, 2))
        steps = np.diff(curve[::8])
        assert (steps > -2).all() or (steps < 2).all()
        middles.append(curve[128])
        bends.append(curve[64] + curve[192] - 2 * curve[128])
    assert 0.4 < np.mean(np.abs(np.array(middles) - 127.5) > 8) < 0.9, "brighter or darker"
    assert min(bends) < -30 and max(bends) > 30, "gamma, both ways"


def test_hues_are_shifted_now_and_then():
    """Of two levels, a colour stays at a primary hue or its complement, whatever the curve and the order of channels:
    in OpenCV's 180 steps, a multiple of 30."""
    red = np.full((16, 16, 3), (220, 60, 60), np.uint8)
    strays, saturations = [], []
    for seed in range(100):
        seen, _ = recolour(red, np.zeros((16, 16), np.int32), np.random.default_rng(seed))
        colour = seen.reshape(-1, 3).mean(axis=0).round().astype(np.uint8)
        hue, saturation, _ = cv2.cvtColor(colour[None, None], cv2.COLOR_RGB2HSV)[0, 0].astype(int)
        strays.append(min(hue % 30, -hue % 30))
        saturations.append(saturation)
    assert 0.1 < np.mean(np.array(strays) > 2) < 0.4
    assert max(strays) > 10
    assert 0.03 < np.mean(np.array(saturations) == 0) < 0.3, "grey, sometimes"


@pytest.mark.parametrize("level", [0, 127, 255])
def test_a_blank_image_stays_valid(level):
    labels = np.zeros((20, 20), np.int32)
    for seed in range(20):
        seen, bent = augment(np.full((20, 20, 3), level, np.uint8), labels, np.random.default_rng(seed), 32, 1.0)
        assert seen.dtype == np.uint8 and not bent.any()
