"""Watershed: from perfect probabilities the drawn nuclei come back; from any others, valid instances do."""

from dataclasses import replace

import numpy as np
import pytest
from drawn import draw_discs, draw_ellipses, draw_field
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from nuclei.prediction.metric import average_precision
from nuclei.prediction.watershed import HANDS, Thresholds, find_confidences, find_instances
from nuclei.settings.config import HAND_NAMES
from nuclei.training_data.kinds import LOOKS
from nuclei.training_data.targets import BORDER, CORE, INTERIOR, make_targets

PLAIN = Thresholds(seed=0.5, interior=0.5, seed_area=8, area=24, confidence=0)
ANY_SIZE = replace(PLAIN, seed_area=1, area=1)

CROWDS = {
    "two discs": draw_discs((50, 80), (25, 25, 14), (25, 53, 14)),
    "three discs": draw_discs((70, 80), (25, 25, 14), (25, 52, 14), (48, 39, 14)),
    "small and large": draw_discs((60, 70), (30, 25, 20), (30, 51, 7)),
    "ellipses": draw_ellipses((60, 90), (30, 20, 22, 12), (30, 46, 15, 14), (30, 72, 9, 12)),
    "cut by the frame": draw_discs((40, 60), (5, 10, 14), (5, 39, 15)),
    "apart": draw_field(np.random.default_rng(0), (120, 120), 9, 12),
}


def interior_alone(mask):
    """Probabilities that say where nuclei are and nothing of cores or borders."""
    probs = np.zeros((*mask.shape, 3), np.float32)
    probs[..., INTERIOR] = mask
    return probs


def assert_instances(labels, shape):
    assert labels.shape == shape and labels.dtype == np.int32
    assert np.array_equal(np.unique(labels[labels > 0]), np.arange(1, labels.max(initial=0) + 1))
    for index in range(1, labels.max(initial=0) + 1):
        assert ndi.label(labels == index)[1] == 1, "in one piece"


@pytest.mark.parametrize("name", CROWDS)
def test_perfect_probabilities_give_the_truth_back(name):
    truth = CROWDS[name]
    labels = find_instances(make_targets(truth, 0.45), PLAIN)
    assert_instances(labels, truth.shape)
    assert np.array_equal(labels > 0, truth > 0)
    assert labels.max() == truth.max()
    assert average_precision(truth, labels) > 0.75


def test_perfect_probabilities_score_high_on_average():
    scores = [average_precision(truth, find_instances(make_targets(truth, 0.45), PLAIN)) for truth in CROWDS.values()]
    assert np.mean(scores) >= 0.9


@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 2**32), st.sampled_from([0.0, 0.8, 2.0]))
@settings(max_examples=80)
def test_laws_on_any_probabilities(height, width, seed, blur):
    probs = np.random.default_rng(seed).random((height, width, 3)).astype(np.float32)
    probs = ndi.gaussian_filter(probs, (blur, blur, 0))
    low, high = probs.min(), probs.max()
    probs = (probs - low) / max(high - low, 1e-6)
    thresholds = replace(ANY_SIZE, seed=0.3)
    labels = find_instances(probs, thresholds)
    assert_instances(labels, (height, width))
    claimed = (probs[..., INTERIOR] > 0.5) | (probs[..., CORE] * (1 - probs[..., BORDER]) > 0.3)
    assert np.array_equal(labels > 0, claimed), "with no least area every claimed pixel has its nucleus, and no other"


def test_holes_stay_holes():
    truth = draw_discs((50, 50), (25, 25, 18))
    pierced = (truth > 0) & (draw_discs((50, 50), (25, 25, 5)) == 0)
    assert np.array_equal(find_instances(interior_alone(pierced), PLAIN) > 0, pierced)


def test_a_gap_that_two_nuclei_enclose_stays():
    truth = np.zeros((40, 40), np.int32)
    truth[5:35, 5:20], truth[5:35, 20:35] = 1, 2
    truth[18:22, 18:22] = 0
    probs = interior_alone(truth > 0)
    probs[10:14, 8:12, CORE] = probs[10:14, 28:32, CORE] = 1
    labels = find_instances(probs, PLAIN)
    assert labels.max() == 2
    assert not labels[18:22, 18:22].any()


def test_probabilities_of_zero_give_no_nuclei():
    for shape in ((1, 1), (1, 7), (30, 40)):
        assert not find_instances(np.zeros((*shape, 3), np.float32), ANY_SIZE).any()


def test_a_nucleus_may_fill_the_image():
    for shape in ((1, 1), (9, 4)):
        assert (find_instances(interior_alone(np.ones(shape)), ANY_SIZE) == 1).all()


def test_nan_is_background():
    probs = np.full((8, 8, 3), np.nan, np.float32)
    assert not find_instances(probs, ANY_SIZE).any()


def test_an_interior_part_without_a_seed_is_its_own_nucleus():
    truth = draw_discs((40, 80), (20, 20, 10), (20, 60, 10))
    probs = make_targets(truth, 0.45)
    probs[:, 40:, CORE] = 0
    assert np.array_equal(find_instances(probs, PLAIN) > 0, truth > 0)
    assert find_instances(probs, PLAIN).max() == 2


def test_a_seed_too_small_starts_nothing():
    truth = draw_discs((50, 50), (25, 25, 18))
    probs = interior_alone(truth > 0)
    probs[20:25, 12:17, CORE] = 1  # 25 px
    probs[20:23, 36:39, CORE] = 1  # 9 px
    assert find_instances(probs, replace(PLAIN, seed_area=5)).max() == 2
    assert find_instances(probs, replace(PLAIN, seed_area=10)).max() == 1
    # The same picture at half the network's scale: areas count four times as much there.
    assert find_instances(probs, replace(PLAIN, seed_area=30), zoom=2.0).max() == 2
    assert find_instances(probs, replace(PLAIN, seed_area=40), zoom=2.0).max() == 1


def test_a_border_splits_what_a_core_joins():
    mask = np.zeros((30, 60), bool)
    mask[5:25, 5:55] = True
    probs = interior_alone(mask)
    probs[10:20, 10:50, CORE] = 1
    assert find_instances(probs, PLAIN).max() == 1
    probs[:, 29:31, BORDER] = 1
    labels = find_instances(probs, PLAIN)
    assert labels.max() == 2
    assert np.array_equal(labels > 0, mask), "the pixels of the border are dealt out, not lost"
    assert sorted(np.bincount(labels.ravel())[1:]) == pytest.approx([500, 500], abs=40)


def test_small_nuclei_are_dropped_by_area_at_the_networks_scale():
    truth = draw_discs((40, 80), (20, 20, 10), (20, 60, 4))
    probs, small = make_targets(truth, 0.45), np.count_nonzero(truth == 2)
    for zoom in (0.5, 1.0, 3.0):
        just = small * zoom**2
        assert find_instances(probs, Thresholds(seed_area=0, area=just), zoom).max() == 2
        labels = find_instances(probs, Thresholds(seed_area=0, area=just * 1.01), zoom)
        assert np.array_equal(labels, truth == 1)


def test_unsure_nuclei_are_dropped_by_confidence():
    truth = draw_discs((40, 80), (20, 20, 10), (20, 60, 10))
    probs = make_targets(truth, 0.45)
    probs[..., INTERIOR] *= np.where(truth == 2, np.float32(0.6), np.float32(0.9))
    assert find_instances(probs, Thresholds(confidence=0.5)).max() == 2
    assert np.array_equal(find_instances(probs, Thresholds(confidence=0.7)) > 0, truth == 1)
    assert not find_instances(probs, Thresholds(confidence=0.95)).any()


@pytest.mark.parametrize("grow, zoom", [(1.5, 1.0), (4.0, 1.0), (4.0, 2.0), (1.5, 0.5), (0.75, 1.0)])
@pytest.mark.parametrize("name", CROWDS)
def test_nuclei_grow_by_so_many_pixels_of_the_networks_scale_and_meet_halfway(name, grow, zoom):
    probs = make_targets(CROWDS[name], 0.45)
    before = find_instances(probs, PLAIN, zoom)
    after = find_instances(probs, replace(PLAIN, grow=grow), zoom)
    assert_instances(after, before.shape)
    assert after.max() == before.max() and np.array_equal(after[before > 0], before[before > 0])
    distances = np.stack([ndi.distance_transform_edt(before != label) for label in range(1, before.max() + 1)])
    nearest = distances.min(axis=0)
    assert np.array_equal(after > 0, nearest <= grow / zoom)
    rows, columns = np.nonzero(after)
    assert np.array_equal(distances[after[rows, columns] - 1, rows, columns], nearest[rows, columns])


def test_nuclei_are_weighed_before_they_grow():
    truth = draw_discs((40, 80), (20, 20, 10), (20, 60, 4))
    probs, small = make_targets(truth, 0.45), np.count_nonzero(truth == 2)
    probs[..., INTERIOR] *= 0.8
    sure = Thresholds(seed_area=0, area=small, confidence=0.8 - 1e-6)
    for grow in (0.0, 3.0):
        assert find_instances(probs, replace(sure, grow=grow)).max() == 2
        assert find_instances(probs, replace(sure, grow=grow, area=small + 1)).max() == 1
        assert find_instances(probs, replace(sure, grow=grow, confidence=0.81)).max() == 0


def test_flooding_goes_by_altitude():
    # Two peaks and a valley off the middle: the line between the instances follows the valley, not the distance.
    mask = np.ones((9, 61), bool)
    probs = interior_alone(mask)
    columns = np.arange(61)
    height = np.where(columns < 40, np.abs(columns - 40) / 40, np.abs(columns - 40) / 20)
    probs[..., INTERIOR] = 0.55 + 0.4 * height
    probs[2:7, 2:6, CORE] = probs[2:7, 55:59, CORE] = 1
    labels = find_instances(probs, PLAIN)
    assert labels.max() == 2
    assert abs(np.count_nonzero(labels[4] == labels[4, 0]) - 40) <= 1


def test_flooding_goes_by_the_core_where_the_interior_is_level():
    probs = interior_alone(np.ones((9, 61), bool))
    columns = np.arange(61)
    probs[..., CORE] = np.where(columns < 40, np.abs(columns - 40) / 40, np.abs(columns - 40) / 20) * 0.4
    probs[2:7, 2:6, CORE] = probs[2:7, 55:59, CORE] = 1
    labels = find_instances(probs, PLAIN)
    assert labels.max() == 2
    assert abs(np.count_nonzero(labels[4] == labels[4, 0]) - 40) <= 1


# ---- the interior alone ------------------------------------------------------------------------


@pytest.mark.parametrize("name", CROWDS)
def test_one_output_parts_what_touches_by_its_depth(name):
    truth = CROWDS[name]
    labels = find_instances(make_targets(truth, 0.45)[..., :1], PLAIN)
    assert_instances(labels, truth.shape)
    assert np.array_equal(labels > 0, truth > 0)
    assert labels.max() == truth.max()
    assert average_precision(truth, labels) > 0.75


def test_two_touching_discs_are_parted_in_the_middle():
    truth = draw_discs((40, 70), (20, 20, 12), (20, 43, 12))
    labels = find_instances((truth > 0)[..., None].astype(np.float32), PLAIN)
    assert labels.max() == 2
    assert labels[20, 8:31].tolist() == [labels[20, 20]] * 23
    assert labels[20, 33:55].tolist() == [labels[20, 43]] * 22


@pytest.mark.parametrize("shift", [0.0, 0.3])
@pytest.mark.parametrize("height, width", [(12, 24), (20, 10), (16, 30)])
def test_an_ellipse_twice_as_long_as_wide_is_one_nucleus(height, width, shift):
    """Its axis is a ridge of many peaks, by what the pixels make of its outline."""
    truth = draw_ellipses((80, 80), (40 + shift, 40 + shift / 2, height, width))
    assert find_instances((truth > 0)[..., None].astype(np.float32), PLAIN).max() == 1


def test_peaks_nearer_than_a_seed_is_wide_are_one_nucleus():
    """At twice the network's scale a seed is half as wide."""
    probs = (draw_discs((30, 40), (15, 14, 8), (15, 26, 8)) > 0)[..., None].astype(np.float32)
    for width, zoom, count in ((6, 1.0, 2), (20, 1.0, 1), (20, 4.0, 2), (6, 0.3, 1)):
        assert find_instances(probs, replace(PLAIN, seed_area=width**2), zoom).max() == count


@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 2**32), st.sampled_from([0.0, 0.8, 2.0]))
@settings(deadline=None, max_examples=80)
def test_laws_on_any_probability_of_the_interior(height, width, seed, blur):
    probs = np.random.default_rng(seed).random((height, width, 1)).astype(np.float32)
    probs = ndi.gaussian_filter(probs, (blur, blur, 0))
    labels = find_instances(probs, ANY_SIZE)
    assert_instances(labels, (height, width))
    assert np.array_equal(labels > 0, probs[..., INTERIOR] > 0.5)


# ---- thresholds --------------------------------------------------------------------------------


def test_each_hand_has_thresholds_for_each_look():
    assert tuple(HANDS) == HAND_NAMES
    for thresholds in HANDS.values():
        assert thresholds.keys() == set(LOOKS.values())
    assert set(HANDS["stage1_train"].values()) == {Thresholds()}


# ---- confidence --------------------------------------------------------------------------------


def test_the_confidence_of_a_nucleus_is_its_mean_interior_probability():
    labels = draw_discs((60, 80), (20, 20, 12), (40, 60, 9))
    probs = interior_alone(np.choose(labels, [0.1, 0.75, 0.5]))
    probs[20, 20, INTERIOR] = 0.25
    area = np.count_nonzero(labels == 1)
    np.testing.assert_allclose(find_confidences(probs, labels), [0.75 - 0.5 / area, 0.5])
    assert find_confidences(probs, np.zeros_like(labels)).shape == (0,)


def test_no_nucleus_is_less_sure_than_the_threshold():
    probs = np.random.default_rng(0).random((80, 80, 3), np.float32)
    thresholds = replace(ANY_SIZE, confidence=0.8)
    confidences = find_confidences(probs, find_instances(probs, thresholds))
    assert confidences.size and confidences.min() >= 0.8 and confidences.max() <= 1
