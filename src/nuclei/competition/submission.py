"""Submission: label images to the rows of Kaggle's CSV.

A nucleus is written as a run list "start length start length ...", which goes down the columns and counts pixels from
1: pixel 1 is the top left one, pixel 2 the one below it, pixel H + 1 the top of the second column
(https://www.kaggle.com/competitions/data-science-bowl-2018/overview/evaluation).
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nuclei.settings.files import write_csv

SUBMISSION_HEADER = ["ImageId", "EncodedPixels"]


def encode_labels(labels: np.ndarray) -> list[str]:
    """Encode each nucleus of `labels` (H, W) as a run list, by ascending label.

    Labels may have gaps; an image without nuclei gives []. Every pixel carries one label, so the run lists cannot
    overlap, which Kaggle would refuse. A boolean mask counts as one nucleus.
    """
    flat = labels.ravel(order="F")
    # All nuclei in one pass: cut where the label changes, drop the background, sort by label.
    is_start = np.ones(flat.size, bool)
    is_start[1:] = flat[1:] != flat[:-1]
    starts = np.flatnonzero(is_start)
    lengths = np.diff(starts, append=flat.size)
    nuclei = flat[starts]
    order = np.argsort(nuclei, kind="stable")  # stable: one nucleus's runs stay ascending
    order = order[nuclei[order] != 0]
    runs = np.stack([starts + 1, lengths], axis=1)[order]  # (runs, 2)
    _, first_run = np.unique(nuclei[order], return_index=True)
    return [" ".join(map(str, run.ravel().tolist())) for run in np.split(runs, first_run)[1:]]


def make_rows(image_id: str, labels: np.ndarray) -> list[tuple[str, str]]:
    """Make an image's rows: labels int32 (H, W) -> [(ImageId, EncodedPixels)], one a nucleus, or one without runs."""
    return [(image_id, rle) for rle in encode_labels(labels) or [""]]


def write_submission(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Write the rows under Kaggle's header, whole or not at all."""
    write_csv(path, SUBMISSION_HEADER, rows)
