"""Outcomes: what became of each nucleus, true or predicted, told from how they overlap.

True positives, false positives and false negatives are those of metric.py at its lowest threshold, but for merges and
splits, which are kinds of error of their own, as in Caicedo et al. 2019 (https://doi.org/10.1002/cyto.a.23863).
"""

from dataclasses import dataclass

import numpy as np

from nuclei.prediction.metric import IOU_THRESHOLDS, overlap_matrix

TP = "tp"  # true and predicted alike
FN = "fn"  # true
FP = "fp"  # predicted
MERGE = "merge"  # several true nuclei taken for one
SPLIT = "split"  # one true nucleus taken for several
OUTCOMES = (TP, FN, FP, MERGE, SPLIT)


@dataclass(frozen=True)
class Outcomes:
    """What became of the true or of the predicted nuclei, by ascending label.

    names: one of OUTCOMES for each; ious: its best IoU with any nucleus of the other side.
    """

    names: list[str]
    ious: list[float]


def find_outcomes(truth: np.ndarray, predicted: np.ndarray) -> tuple[Outcomes, Outcomes]:
    """Compare two label images int32 (H, W) -> (Outcomes of the true nuclei, Outcomes of the predicted ones).

    A nucleus with an IoU above the lowest threshold is a true positive. Of the others, a merge is every true nucleus
    that lies, by more than half, in one predicted nucleus together with at least one more, and that predicted nucleus;
    a split is a true nucleus that holds more than half of each of at least two predicted ones, and those. The rest are
    false negatives and false positives. A nucleus that would be both is a merge.
    """
    overlap = overlap_matrix(truth, predicted)
    true_areas, found_areas = overlap.sum(axis=1)[1:, None], overlap.sum(axis=0)[None, 1:]
    shared = overlap[1:, 1:]  # (true, predicted), as all that follow
    iou = shared / (true_areas + found_areas - shared)
    hit = iou > IOU_THRESHOLDS[0]
    inside, holding = 2 * shared > true_areas, 2 * shared > found_areas  # half of the true one, of the predicted one
    merging, splitting = inside.sum(axis=0) > 1, holding.sum(axis=1) > 1
    true_names = np.select([hit.any(axis=1), (inside & merging).any(axis=1), splitting], [TP, MERGE, SPLIT], FN)
    found_names = np.select(
        [hit.any(axis=0), merging, (holding & splitting[:, None]).any(axis=0)], [TP, MERGE, SPLIT], FP
    )
    return (
        Outcomes(true_names.tolist(), iou.max(axis=1, initial=0).tolist()),
        Outcomes(found_names.tolist(), iou.max(axis=0, initial=0).tolist()),
    )
