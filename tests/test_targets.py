"""Targets and pixel weights: drawn discs, and a brute-force twin of the U-Net paper's formula."""

import numpy as np
import pytest
from drawn import draw_discs
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage as ndi

from nuclei.training_data.targets import BORDER, CORE, INTERIOR, inner_distance, make_targets, pixel_weights

TOUCHING = draw_discs((50, 80), (25, 25, 14), (25, 53, 14))
label_images = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: arrays(np.int32, shape, elements=st.sampled_from([0, 0, 0, 1, 2, 7]))
)


@given(label_images)
@settings(max_examples=60)
def test_laws_of_targets_and_weights_on_any_labels(labels):
    targets = make_targets(labels, 0.45)
    assert targets.dtype == np.float32 and targets.shape == (*labels.shape, 3)
    assert set(np.unique(targets)) <= {0.0, 1.0}
    assert np.array_equal(targets[..., INTERIOR] > 0, labels > 0)
    assert not np.any((targets[..., CORE] > 0) & (labels == 0))
    for index in np.unique(labels[labels > 0]):
        assert targets[..., CORE][labels == index].any(), "every nucleus has a core"
    if len(np.unique(labels[labels > 0])) < 2:
        assert not targets[..., BORDER].any()
    weights = pixel_weights(labels, border=5, sigma=4, rare=3)
    assert weights.dtype == np.float32 and weights.shape == labels.shape
    assert weights.min() >= 1 and weights.max() <= 3 + 5 + 1e-5


def test_touching_discs_have_a_border_between_them_and_a_core_each():
    targets = make_targets(TOUCHING, 0.45)
    border = targets[..., BORDER] > 0
    assert border[25, 39] and border[25, 38] and border[25, 40]
    assert np.abs(np.nonzero(border)[1] - 39).max() <= 6
    assert not border[25, 25] and not border[25, 53]
    assert ndi.label(targets[..., INTERIOR])[1] == 1, "the discs touch"
    cores, count = ndi.label(targets[..., CORE])
    assert count == 2
    assert cores[25, 25] != cores[25, 53]


@pytest.mark.parametrize("radius", [2, 5, 10, 20])
def test_a_core_is_the_disc_shrunk_to_the_depth_that_was_asked(radius):
    labels = draw_discs((64, 64), (32, 32, radius))
    for core in (0.3, 0.6):
        area = make_targets(labels, core)[..., CORE].sum()
        assert np.sqrt(area / np.pi) == pytest.approx((1 - core) * radius, abs=1.0)


def test_more_core_depth_is_less_core():
    areas = [make_targets(TOUCHING, core)[..., CORE].sum() for core in (0.0, 0.3, 0.6, 0.9)]
    assert areas == sorted(areas, reverse=True) and areas[0] > areas[-1] > 0
    assert areas[0] == (TOUCHING > 0).sum()


def test_a_single_or_a_distant_disc_has_no_border():
    assert not make_targets(draw_discs((40, 40), (20, 20, 9)), 0.45)[..., BORDER].any()
    assert not make_targets(draw_discs((40, 90), (20, 20, 9), (20, 60, 9)), 0.45)[..., BORDER].any()


def test_the_border_is_thicker_between_larger_nuclei():
    def thickness(radius):
        side = 4 * radius + 20
        labels = draw_discs((side, side), (side // 2, 10 + radius, radius), (side // 2, 11 + 3 * radius, radius))
        return make_targets(labels, 0.45)[side // 2, :, BORDER].sum()

    assert thickness(4) < thickness(12) < thickness(22)


def test_the_frame_is_not_an_edge():
    whole = draw_discs((61, 61), (30, 30, 20))
    cut = whole[:, 30:]
    np.testing.assert_allclose(inner_distance(cut), inner_distance(whole)[:, 30:], atol=1e-4)
    assert make_targets(cut, 0.45)[30, 0, CORE] == 1


def test_depth_is_that_of_each_nucleus_alone():
    together = inner_distance(TOUCHING)
    alone = np.maximum(inner_distance(TOUCHING * (TOUCHING == 1)), inner_distance(TOUCHING * (TOUCHING == 2)))
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert together[25, 25] == pytest.approx(14, abs=1)
    assert together[25, 39] == together[25, 11] == 0.5


def test_a_nucleus_that_fills_the_crop_is_all_core():
    for shape in ((1, 1), (5, 9)):
        labels = np.full(shape, 3, np.int32)
        targets = make_targets(labels, 0.45)
        assert targets[..., INTERIOR].all() and targets[..., CORE].all() and not targets[..., BORDER].any()
        assert (pixel_weights(labels, 5, 4, 3) == 1).all()


def test_blank_labels_give_blank_targets_and_weights_of_one():
    labels = np.zeros((4, 6), np.int32)
    assert not make_targets(labels, 0.45).any()
    assert (pixel_weights(labels, 5, 4, 3) == 1).all()


def unet_weights(labels, border, sigma):
    """The formula with a whole distance map for each nucleus and no cut-off."""
    share = (labels > 0).mean()
    ratio = min(np.sqrt(max(share, 1 - share) / min(share, 1 - share)), 3)
    class_weight = np.where((labels > 0) == (share < 0.5), ratio, 1.0)
    distances = np.sort([ndi.distance_transform_edt(labels != i) for i in np.unique(labels[labels > 0])], axis=0)
    return class_weight + border * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * sigma**2))


@pytest.mark.parametrize("border, sigma", [(5.0, 4.0), (10.0, 5.0), (2.0, 1.0)])
def test_weights_follow_the_formula_of_the_unet_paper(border, sigma):
    rng = np.random.default_rng(0)
    for _ in range(5):
        discs = np.column_stack([rng.uniform(0, 70, (9, 2)), rng.uniform(4, 12, 9)])
        labels = draw_discs((70, 70), *discs)
        labels[labels == 3] = 0  # ids may have gaps
        found, expected = pixel_weights(labels, border, sigma, 3), unet_weights(labels, border, sigma)
        # exp(-4.5) is what lies beyond 3 sigma; the rest is OpenCV's approximate distance.
        np.testing.assert_allclose(found, expected, atol=border * (np.exp(-4.5) + 0.005))


def test_the_rarer_class_weighs_more():
    few = draw_discs((40, 40), (20, 20, 6))
    weights = pixel_weights(few, 5, 4, 3)
    share = (few > 0).mean()
    assert weights[20, 20] == pytest.approx(min(np.sqrt((1 - share) / share), 3)) and weights[0, 0] == 1
    many = draw_discs((40, 40), (20, 20, 19))
    weights = pixel_weights(many, 5, 4, 3)
    assert weights[0, 0] == pytest.approx(np.sqrt((many > 0).sum() / (many == 0).sum())) and weights[20, 20] == 1
    assert pixel_weights(few, 5, 4, rare=1.2)[20, 20] == pytest.approx(1.2)
    assert (pixel_weights(many, 5, 4, rare=1.0) == 1).all()


def test_the_gap_between_neighbours_weighs_most():
    labels = draw_discs((40, 60), (20, 18, 10), (20, 41, 10))
    weights = pixel_weights(labels, border=10, sigma=5, rare=3)
    assert weights[20, 29] > weights[20, 24] > weights[20, 18]
    assert weights[20, 29] > weights[5, 29] and weights[20, 29] > 5
