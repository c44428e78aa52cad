"""Predictions: the rows of every test image, which get better as the network does."""

import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path

import numpy as np

from nuclei.competition.submission import make_rows, write_submission
from nuclei.prediction.progress import one_behind, progress
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

        While the network sees an image, the nuclei of the one before are found beside it. An image that cannot be
        predicted keeps what was found in it, and costs a warning.

        Args:
            views: see `Segmenter.segment`.
            keep: called with the id of each image that was predicted.
        """
        deadline = time.monotonic() + 60 * minutes
        done, failed = 0, 0
        with ThreadPoolExecutor(1) as pool:
            reached = takewhile(lambda _: time.monotonic() < deadline, progress(self.order, "predict"))
            ahead = ((image_id, self._start(segmenter, image_id, views, pool)) for image_id in reached)
            for image_id, job in one_behind(ahead):
                try:
                    self.found[image_id] = job.result()
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

    def _start(self, segmenter, image_id, views, pool):
        """Run the network on an image -> a Future of what is found in it; an error comes out of the Future, too."""
        try:
            return pool.submit(self._find, segmenter, image_id, *segmenter.look(self.images[image_id], views))
        except Exception as error:
            failed: Future = Future()
            failed.set_exception(error)
            return failed

    def _find(self, segmenter, image_id, probs, zoom):
        labels, confidences = segmenter.find(self.images[image_id], probs, zoom)
        return make_rows(image_id, labels), [round(one, 3) for one in confidences.tolist()]

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
