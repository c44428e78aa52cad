"""Tuning: the score on images with labels, and the thresholds that suit a network."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product

import numpy as np

from nuclei.prediction.metric import average_precision
from nuclei.prediction.progress import progress
from nuclei.prediction.segmenter import Segmenter
from nuclei.prediction.watershed import Thresholds, find_instances
from nuclei.training_data.images import ImageSet
from nuclei.training_data.kinds import LOOKS

# What a Tuner tries: all combinations of these three, which trade off against each other, then of the rest.
FULLNESS_CHOICES = {
    "interior": (0.2, 0.25, 0.3, 0.4, 0.5, 0.55, 0.6, 0.7),
    "confidence": (0.0, 0.6, 0.7, 0.75, 0.8, 0.88),
    "grow": (0.0, 0.75, 1.5),
}
SEED_CHOICES = {"seed": (0.2, 0.4, 0.6), "seed_area": (16.0, 32.0), "area": (32.0, 64.0)}
THRESHOLD_SHRINKAGE = 2.0  # images: the weight of all images' mean beside a look's own, which may be few


class Tuner:
    """Score thresholds on images with labels, as a network sees them in two views, and choose the best."""

    def __init__(self, images: ImageSet, segmenter: Segmenter):
        self.looks = np.array([LOOKS[kind] for kind in images.kinds])
        self.cases = []
        for image, truth in progress(list(zip(images.images, images.labels, strict=True)), "tune"):
            zoom = segmenter.fit_zoom(image)
            self.cases.append((truth, segmenter.predict(image, zoom, views=2), zoom))
        self.scores: dict[Thresholds, np.ndarray] = {}

    def score(self, thresholds: Thresholds) -> np.ndarray:
        """Score each image by the same thresholds, float64 (N,)."""

        def score_case(truth, probs, zoom):
            return average_precision(truth, find_instances(probs, thresholds, zoom))

        if thresholds not in self.scores:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                self.scores[thresholds] = np.array(list(pool.map(score_case, *zip(*self.cases, strict=True))))
        return self.scores[thresholds]

    def choose(self, those: np.ndarray) -> dict[str, Thresholds]:
        """Choose what scores best on `those` images, bool (N,): for each look, shrunk towards all of them."""
        return {look: self._choose_one(those, those & (self.looks == look)) for look in sorted(set(LOOKS.values()))}

    def _choose_one(self, those, own):
        def worth(thresholds):
            scores = self.score(thresholds)
            return scores[own].sum() + THRESHOLD_SHRINKAGE * scores[those].mean()

        best = Thresholds()
        for choices in (FULLNESS_CHOICES, SEED_CHOICES):
            tried = [replace(best, **dict(zip(choices, values, strict=True))) for values in product(*choices.values())]
            best = max([best, *tried], key=worth)
        return best
