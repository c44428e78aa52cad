"""The metric: against a brute-force twin, against hand numbers, and the laws it obeys."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nuclei.prediction.metric import (
    IOU_THRESHOLDS,
    average_precision,
    iou_matrix,
    matches_at_thresholds,
    overlap_matrix,
    precision_at_thresholds,
)


@st.composite
def label_pairs(draw):
    """A truth and a prediction of one shape, with enough in common for hits, ids with gaps."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    ids = st.sampled_from([0, 1, 2, 5, 300])
    truth = draw(arrays(np.int32, shape, elements=ids))
    changed = draw(arrays(np.int32, shape, elements=ids))
    keep = draw(arrays(bool, shape, elements=st.sampled_from([True, True, True, False])))
    return truth, np.where(keep, truth, changed)


def brute_force_ious(truth, predicted):
    """Exact IoU of every pair, from explicit masks: a list of rows of fractions."""
    return [
        [
            Fraction(
                int(((truth == t) & (predicted == p)).sum()),
                int(((truth == t) | (predicted == p)).sum()),
            )
            for p in np.unique(predicted[predicted > 0])
        ]
        for t in np.unique(truth[truth > 0])
    ]


def brute_force_matches(truth, predicted):
    """Give each true nucleus the first free prediction that hits it; count what is left."""
    ious = brute_force_ious(truth, predicted)
    n_predicted = len(np.unique(predicted[predicted > 0]))
    counts = []
    for percent in range(50, 100, 5):
        free, tp = set(range(n_predicted)), 0
        for row in ious:
            hits = [p for p in sorted(free) if row[p] > Fraction(percent, 100)]
            if hits:
                free.remove(hits[0])
                tp += 1
        counts.append((tp, n_predicted - tp, len(ious) - tp))
    return np.transpose(counts)


def test_thresholds():
    assert IOU_THRESHOLDS.tolist() == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]


def test_hand_computed_score():
    truth = np.array([[1, 1, 1, 1, 0, 2, 2, 2, 0, 3]], np.int32)
    predicted = np.array([[1, 1, 1, 0, 0, 2, 2, 2, 4, 0]], np.int32)
    np.testing.assert_array_equal(
        overlap_matrix(truth, predicted),
        [[1, 0, 0, 1], [1, 3, 0, 0], [0, 0, 3, 0], [1, 0, 0, 0]],
    )
    np.testing.assert_array_equal(iou_matrix(truth, predicted), [[3 / 4, 0, 0], [0, 1, 0], [0, 0, 0]])
    tp, fp, fn = matches_at_thresholds(truth, predicted)
    # IoU 3/4 counts at 0.50 ... 0.70 and not at 0.75; IoU 1 counts everywhere.
    assert tp.tolist() == [2] * 5 + [1] * 5
    assert fp.tolist() == fn.tolist() == [1] * 5 + [2] * 5
    assert precision_at_thresholds(truth, predicted).tolist() == [2 / 4] * 5 + [1 / 5] * 5
    assert average_precision(truth, predicted) == pytest.approx(0.35)


@pytest.mark.parametrize("percent", range(50, 100, 5))
@pytest.mark.parametrize("scale", [1, 7, 30])
def test_an_iou_exactly_on_a_threshold_is_not_a_hit_there(percent, scale):
    truth = np.ones((100, scale), np.int32)
    predicted = truth.copy()
    predicted[percent:] = 0  # IoU = percent / 100
    tp, _, _ = matches_at_thresholds(truth, predicted)
    below = np.arange(50, 100, 5) < percent
    np.testing.assert_array_equal(tp, below)


@given(label_pairs())
def test_agrees_with_brute_force(pair):
    truth, predicted = pair
    ious = np.array(brute_force_ious(truth, predicted), float)
    np.testing.assert_allclose(iou_matrix(truth, predicted).ravel(), ious.ravel(), rtol=1e-12)
    expected = brute_force_matches(truth, predicted)
    np.testing.assert_array_equal(matches_at_thresholds(truth, predicted), expected)
    tp, fp, fn = expected
    if (tp + fp + fn)[0]:
        assert average_precision(truth, predicted) == pytest.approx(np.mean(tp / (tp + fp + fn)))


@given(label_pairs())
def test_rows_and_columns_of_the_overlap_matrix_sum_to_areas(pair):
    truth, predicted = pair
    overlap = overlap_matrix(truth, predicted)
    assert overlap.dtype == np.int64
    for areas, labels in [(overlap.sum(axis=1), truth), (overlap.sum(axis=0), predicted)]:
        nuclei, counts = np.unique(labels[labels > 0], return_counts=True)
        assert len(areas) == 1 + len(nuclei)
        np.testing.assert_array_equal(areas, [np.sum(labels == 0), *counts])


@given(label_pairs())
def test_swapping_truth_and_prediction_swaps_false_positives_and_negatives(pair):
    truth, predicted = pair
    tp, fp, fn = matches_at_thresholds(truth, predicted)
    np.testing.assert_array_equal(matches_at_thresholds(predicted, truth), [tp, fn, fp])
    assert average_precision(predicted, truth) == average_precision(truth, predicted)


@given(label_pairs(), st.permutations(range(1, 301)))
def test_the_names_of_the_nuclei_do_not_matter(pair, names):
    truth, predicted = pair
    renamed = np.array([0, *names])[predicted]
    np.testing.assert_array_equal(matches_at_thresholds(truth, renamed), matches_at_thresholds(truth, predicted))


@given(label_pairs())
def test_a_perfect_prediction_scores_one(pair):
    truth, _ = pair
    assert average_precision(truth, truth) == 1.0


def test_empty_images():
    empty, full = np.zeros((2, 3), np.int32), np.ones((2, 3), np.int32)
    assert average_precision(empty, empty) == 1.0
    assert average_precision(empty, full) == average_precision(full, empty) == 0.0
    assert iou_matrix(empty, full).shape == (0, 1)
    assert precision_at_thresholds(full, empty).tolist() == [0.0] * 10


def test_different_shapes_are_refused_with_both():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        average_precision(np.zeros((2, 3), np.int32), np.zeros((3, 2), np.int32))


def test_a_crowded_image():
    # 400 squares of 40 x 40 on 1000 x 1000; k = 0..399 of them predicted short by k % 40 rows.
    truth = np.zeros((1000, 1000), np.int32)
    predicted = truth.copy()
    for k in range(400):
        top, left = 50 * (k // 20), 50 * (k % 20)
        truth[top : top + 40, left : left + 40] = k + 1
        predicted[top : top + 40 - k % 40, left : left + 40] = 400 - k
    ious = iou_matrix(truth, predicted)
    assert ious.shape == (400, 400)
    assert np.count_nonzero(ious) == 400
    np.testing.assert_allclose(ious[:, ::-1].diagonal(), 1 - np.arange(400) % 40 / 40)
    # Ten squares for each missing number of rows m; a hit wants (40 - m) / 40 > percent / 100.
    tp, fp, fn = matches_at_thresholds(truth, predicted)
    expected = [10 * sum(100 * (40 - m) > p * 40 for m in range(40)) for p in range(50, 100, 5)]
    assert tp.tolist() == expected
    assert fp.tolist() == fn.tolist() == [400 - hits for hits in expected]
