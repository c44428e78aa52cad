"""Predictions: the rows of every test image, which get better as the network does."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nuclei.competition.submission import make_rows, write_submission
from nuclei.prediction.progress import progress
from nuclei.prediction.segmenter import Segmenter
from nuclei.settings.config import log
from nuclei.settings.files import CONFIDENCE_FILE, SUBMISSION_FILE, write_csv
from nuclei.training_data.images import ImageSet


class Predictions:
    """What is found in every test image, nothing at first: {image id: (rows, the confidence of each nucleus)}.

    Args:
        test: an ImageSet; its unreadable images keep their empty rows.
    """

    def __init__(self, test: ImageSet):
        self.images = dict(zip(test.ids, test.images, strict=True))
        nothing = np.zeros((1, 1), np.int32)
        self.found: dict = {image_id: (make_rows(image_id, nothing), []) for image_id in [*test.ids, *test.unreadable]}
        self.order = list(test.ids)  # what was found the longest ago comes first

    def improve(
        self, segmenter: Segmenter, minutes: float = math.inf, views: int | None = None, keep: Callable | None = None
    ) -> int:
        """Predict the images that wait the longest, as many as the minutes allow -> how many.

        An image that cannot be predicted keeps what was found in it, and costs a warning.

        Args:
            views: see `Segmenter.segment`.
            keep: called with the id of each image that was predicted.
        """
        deadline = time.monotonic() + 60 * minutes
        done, failed = 0, 0
        for image_id in progress(self.order, "predict"):
            if time.monotonic() >= deadline:
                break
            try:
                labels, confidences = segmenter.segment(self.images[image_id], views)
                self.found[image_id] = (make_rows(image_id, labels), [round(one, 3) for one in confidences.tolist()])
            except Exception as error:
                failed += 1
                if failed == len(self.images):  # every image failed: the cause is elsewhere (network, memory)
                    raise
                log.warning("%s could not be predicted and keeps its earlier rows: %r", image_id, error)
            else:
                if keep:
                    keep(image_id)
            done += 1
        self.order = self.order[done:] + self.order[:done]
        return done

    def take(self, found: dict) -> None:
        """Take what an earlier run found; those images need no prediction any more."""
        self.found |= found
        self.order = [image_id for image_id in self.order if image_id not in found]

    def write(self, folder: Path) -> None:
        """Write submission.csv, and confidence.csv with a row for each nucleus in it, each whole or not at all."""
        ids = sorted(self.found)
        write_submission(folder / SUBMISSION_FILE, [row for image_id in ids for row in self.found[image_id][0]])
        rows = [(image_id, *pair) for image_id in ids for pair in enumerate(self.found[image_id][1], start=1)]
        write_csv(folder / CONFIDENCE_FILE, ("ImageId", "nucleus", "confidence"), rows)
