"""Faults: nuclei drawn so that their fates are known."""

import numpy as np
import pytest
from drawn import draw_discs

from nuclei.prediction.metric import iou_matrix
from nuclei_kit.report.outcomes import FATES, INVENTED, MATCHED, MERGED, MISSED, SPLIT, find_fates


def bars(*columns):
    """Labels (10, 60) of bars, each (first column, one past its last)."""
    labels = np.zeros((10, 60), np.int32)
    for label, (start, stop) in enumerate(columns, start=1):
        labels[2:8, start:stop] = label
    return labels


@pytest.mark.parametrize(
    ("truth", "found", "true_fates", "found_fates"),
    [
        ([(0, 10)], [(0, 10)], [MATCHED], [MATCHED]),
        ([(0, 10)], [(30, 40)], [MISSED], [INVENTED]),
        ([(0, 10)], [(0, 5)], [MISSED], [INVENTED]),  # IoU of exactly a half is no match
        ([(0, 10), (10, 20)], [(0, 20)], [MERGED, MERGED], [MERGED]),
        ([(0, 20), (20, 25)], [(0, 25)], [MATCHED, MERGED], [MATCHED]),  # the small one was swallowed
        ([(0, 20)], [(0, 9), (10, 19)], [SPLIT], [SPLIT, SPLIT]),
        ([(0, 20)], [(0, 15), (16, 20)], [MATCHED], [MATCHED, SPLIT]),
        ([], [(0, 9)], [], [INVENTED]),
        ([(0, 9)], [], [MISSED], []),
        ([], [], [], []),
    ],
)
def test_fates(truth, found, true_fates, found_fates):
    true, predicted = find_fates(bars(*truth), bars(*found))
    assert (true.names, predicted.names) == (true_fates, found_fates)


def test_every_nucleus_has_a_fate_and_its_best_iou():
    truth = draw_discs((90, 90), (20, 20, 12), (40, 44, 12), (60, 20, 9))
    found = np.roll(truth, 5, axis=1)
    found[found == 2] = 7  # labels may have gaps
    sides = find_fates(truth, found)
    iou = iou_matrix(truth, found)
    for fates, axis in zip(sides, (1, 0), strict=True):
        np.testing.assert_allclose(fates.ious, iou.max(axis=axis))
        assert set(fates.names) <= set(FATES)
