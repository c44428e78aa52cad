"""Kinds: the look of each, the standard look, how wide nuclei are, and the zoom that fits them."""

import math

import cv2
import numpy as np
import pytest
from drawn import DRAWN_LOOKS, draw_discs, draw_field, draw_kind
from hypothesis import given
from hypothesis import strategies as st

from nuclei.training_data.kinds import (
    KINDS,
    LARGE_NUCLEUS,
    ZOOM_RANGE,
    image_kind,
    network_zoom,
    nucleus_diameter,
    nucleus_width,
    standard_lut,
    standardise,
)

FLUORESCENCE = ("fluorescence-small", "fluorescence-large")


def test_every_kind_has_its_look():
    assert tuple(DRAWN_LOOKS) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_are_told_from_the_picture(kind):
    for seed in range(3):
        assert image_kind(draw_kind(kind, seed)[0]) == kind
        assert image_kind(draw_kind(kind, seed, side=400)[0]) == kind


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (3, 2), (64, 64)])
@pytest.mark.parametrize("level", [0, 100, 255])
def test_blank_and_tiny_images_have_a_kind_and_a_standard_look(shape, level):
    image = np.full((*shape, 3), level, np.uint8)
    assert image_kind(image) in KINDS
    assert nucleus_width(image) == 0
    standard = standardise(image)
    assert standard.shape == image.shape and standard.dtype == np.uint8 and not standard.any()


@pytest.mark.parametrize("kind", KINDS)
def test_standardised_images_are_bright_on_black(kind):
    image, labels = draw_kind(kind)
    before = image.copy()
    standard = standardise(image)
    assert np.array_equal(image, before)
    assert standard.shape == image.shape and standard.dtype == np.uint8
    assert np.median(standard[labels == 0]) < 40 < 150 < np.median(standard[labels > 0].max(axis=1))
    assert standard.max() == 255
    again = standardise(standard)
    assert np.abs(again.astype(int) - standard).mean() < 3


def test_light_and_level_do_not_matter_to_a_standardised_image():
    image, _ = draw_kind("fluorescence-small")
    standard = standardise(image).astype(int)
    assert np.array_equal(standardise(255 - image), standard)
    assert np.abs(standardise(image + 40) - standard).max() <= 1
    assert np.abs(standardise(image // 2) - standard).mean() < 3


def test_the_table_of_an_image_standardises_its_parts():
    image, _ = draw_kind("purple")
    parts = [cv2.LUT(part, standard_lut(image)) for part in (image[:100], image[100:])]
    assert np.array_equal(np.concatenate(parts), standardise(image))


def test_few_bright_pixels_keep_their_shading_and_a_speck_dims_nothing():
    """A hundredth of the image is shaded from 60 to 160: that is white at the most. A speck of light is white, too."""
    image = np.full((260, 260, 3), 10, np.uint8)
    image[100:126, 100:126] = np.linspace(60, 160, 26).astype(np.uint8)[:, None]
    standard = standardise(image)
    assert np.unique(standard[100:126, 100:126, 0]).size > 20
    assert standard.max() == 255
    image[10:16, 10:16] = 255  # 0.05 % of the pixels
    assert np.abs(standardise(image)[100:126].astype(int) - standard[100:126]).max() <= 25


def test_noise_alone_stays_dim():
    noise = np.random.default_rng(0).integers(10, 14, (128, 128, 3), dtype=np.uint8)
    assert standardise(noise).max() <= 12 * 3


@pytest.mark.parametrize("radius", [5, 12, 25, 40])
def test_nucleus_width_is_the_diameter_of_drawn_discs(radius):
    labels = draw_field(np.random.default_rng(radius), (400, 400), radius, 12)
    image = np.repeat(np.where(labels > 0, 150, 10).astype(np.uint8)[..., None], 3, axis=2)
    assert nucleus_width(image) == pytest.approx(2 * radius, rel=0.12, abs=1.5)
    assert (nucleus_width(image) > LARGE_NUCLEUS) == (2 * radius > LARGE_NUCLEUS)


def test_a_clump_keeps_the_width_of_its_parts():
    labels = draw_discs((100, 200), *((50, 20 + 18 * i, 10) for i in range(9)))
    image = np.repeat(np.where(labels > 0, 150, 10).astype(np.uint8)[..., None], 3, axis=2)
    assert nucleus_width(image) == pytest.approx(20, abs=3)


@pytest.mark.parametrize("radius", [3, 10, 30])
def test_nucleus_diameter_of_drawn_discs(radius):
    labels = draw_field(np.random.default_rng(0), (300, 300), radius, 10)
    assert nucleus_diameter(labels) == pytest.approx(2 * radius, rel=0.03, abs=0.3)


def test_nucleus_diameter_goes_by_area_and_takes_gaps_in_the_ids():
    labels = draw_discs((100, 300), (50, 50, 30), (50, 150, 30))
    labels[::10, 200::10] = np.arange(1000, 1100).reshape(10, 10)  # a hundred specks weigh less than a disc
    assert nucleus_diameter(labels) == pytest.approx(60, rel=0.02)
    assert nucleus_diameter(np.zeros((4, 4), np.int32)) == 0
    assert nucleus_diameter(np.ones((1, 1), np.int32)) == pytest.approx(2 / np.sqrt(np.pi))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20))
def test_nucleus_diameter_is_that_of_the_nucleus_of_the_median_pixel(areas):
    labels = np.repeat(np.arange(1, len(areas) + 1), areas)[None].astype(np.int32)
    of_each_pixel = np.sort(np.repeat(areas, areas))
    middle = of_each_pixel[(len(of_each_pixel) - 1) // 2]
    assert nucleus_diameter(labels) == pytest.approx(np.sqrt(4 * middle / np.pi))


# ---- the zoom ----------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("diameter", [12.0, 32.0, 64.0])
def test_nuclei_are_zoomed_a_share_of_the_way_in_octaves(share, diameter):
    zoomed = diameter * network_zoom(diameter, 32.0, share)
    assert math.log2(zoomed / diameter) == pytest.approx(share * math.log2(32 / diameter))


@pytest.mark.parametrize("diameter, zoom", [(1e-3, ZOOM_RANGE[1]), (1e6, ZOOM_RANGE[0]), (0.0, 1.0)])
def test_the_zoom_stays_in_its_range_and_is_1_without_nuclei(diameter, zoom):
    assert network_zoom(diameter, 32.0, 0.5) == zoom
