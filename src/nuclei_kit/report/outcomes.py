"""Faults: what became of each nucleus, the true ones and the predicted ones, told from their overlap."""

from dataclasses import dataclass

import numpy as np

from nuclei.prediction.metric import IOU_THRESHOLDS, overlap_matrix

MATCHED, MISSED, INVENTED, MERGED, SPLIT = FATES = ("matched", "missed", "invented", "merged", "split")


@dataclass(frozen=True)
class Fates:
    """What became of the nuclei on one side, by ascending label: each one's fate of FATES, and its best IoU."""

    names: list[str]
    ious: list[float]


def find_fates(truth, predicted):
    """Two label images int32 (H, W) -> (Fates of the true nuclei, Fates of the predicted ones).

    Matched is an IoU above the lowest threshold. Of the others: merged are true nuclei that lie, by more than half of
    each, in one predicted nucleus with at least one more, and so is that predicted nucleus; split is a true nucleus
    that holds more than half of each of at least two predicted ones, and so are those. What is left is missed or
    invented. A nucleus that would be both is merged.
    """
    overlap = overlap_matrix(truth, predicted)
    true_areas, found_areas = overlap.sum(axis=1)[1:, None], overlap.sum(axis=0)[None, 1:]
    shared = overlap[1:, 1:]  # (true, predicted), as all that follow
    iou = shared / (true_areas + found_areas - shared)
    hit = iou > IOU_THRESHOLDS[0]
    inside, holding = 2 * shared > true_areas, 2 * shared > found_areas  # half of the true one, of the predicted one
    merging, splitting = inside.sum(axis=0) > 1, holding.sum(axis=1) > 1
    true_names = np.select(
        [hit.any(axis=1), (inside & merging).any(axis=1), splitting], [MATCHED, MERGED, SPLIT], MISSED
    )
    found_names = np.select(
        [hit.any(axis=0), merging, (holding & splitting[:, None]).any(axis=0)], [MATCHED, MERGED, SPLIT], INVENTED
    )
    return (
        Fates(true_names.tolist(), iou.max(axis=1, initial=0).tolist()),
        Fates(found_names.tolist(), iou.max(axis=0, initial=0).tolist()),
    )
