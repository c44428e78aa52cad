"""Outcomes: nuclei drawn so that what becomes of them is known."""

import numpy as np
import pytest
from drawn import draw_discs

from nuclei.prediction.metric import iou_matrix
from nuclei_kit.report.outcomes import FN, FP, MERGE, OUTCOMES, SPLIT, TP, find_outcomes


def bars(*columns):
    """Labels (10, 60) of bars, each (first column, one past its last)."""
    labels = np.zeros((10, 60), np.int32)
    for label, (start, stop) in enumerate(columns, start=1):
        labels[2:8, start:stop] = label
    return labels


@pytest.mark.parametrize(
    ("truth", "found", "true_names", "found_names"),
    [
        ([(0, 10)], [(0, 10)], [TP], [TP]),
        ([(0, 10)], [(30, 40)], [FN], [FP]),
        ([(0, 10)], [(0, 5)], [FN], [FP]),  # IoU of exactly a half is no match
        ([(0, 10), (10, 20)], [(0, 20)], [MERGE, MERGE], [MERGE]),
        ([(0, 20), (20, 25)], [(0, 25)], [TP, MERGE], [TP]),  # the small one was swallowed
        ([(0, 20)], [(0, 9), (10, 19)], [SPLIT], [SPLIT, SPLIT]),
        ([(0, 20)], [(0, 15), (16, 20)], [TP], [TP, SPLIT]),
        ([], [(0, 9)], [], [FP]),
        ([(0, 9)], [], [FN], []),
        ([], [], [], []),
    ],
)
def test_outcomes(truth, found, true_names, found_names):
    true, predicted = find_outcomes(bars(*truth), bars(*found))
    assert (true.names, predicted.names) == (true_names, found_names)


def test_every_nucleus_has_an_outcome_and_its_best_iou():
    truth = draw_discs((90, 90), (20, 20, 12), (40, 44, 12), (60, 20, 9))
    found = np.roll(truth, 5, axis=1)
    found[found == 2] = 7  # labels may have gaps
    sides = find_outcomes(truth, found)
    iou = iou_matrix(truth, found)
    for outcomes, axis in zip(sides, (1, 0), strict=True):
        np.testing.assert_allclose(outcomes.ious, iou.max(axis=axis))
        assert set(outcomes.names) <= set(OUTCOMES)
