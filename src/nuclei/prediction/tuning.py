"""Tuning: the score on images with labels, and the thresholds that suit a network."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from nuclei.prediction.metric import average_precision
from nuclei.prediction.progress import progress
from nuclei.prediction.segmenter import Segmenter
from nuclei.prediction.watershed import Thresholds, find_instances
from nuclei.settings.config import log
from nuclei.training_data.images import ImageSet
from nuclei.training_data.kinds import nucleus_diameter

# What `tune_thresholds` tries, field by field, in this order.
THRESHOLD_CHOICES = {
    "seed": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    "interior": (0.4, 0.5, 0.54, 0.58, 0.62, 0.66, 0.7, 0.74),
    "area": (16.0, 32.0, 64.0, 96.0, 128.0),
    "seed_area": (4.0, 8.0, 16.0, 32.0, 48.0),
    "confidence": (0.0, 0.7, 0.8, 0.85, 0.88, 0.9, 0.92),
}


def score_set(images: ImageSet, segmenter: Segmenter) -> float:
    """The mean average precision over images with labels, quick: one view, at the zoom that the labels tell."""
    scores = []
    for image, truth in progress(list(zip(images.images, images.labels, strict=True)), "check"):
        zoom = segmenter.zoom_for(nucleus_diameter(truth))
        labels = find_instances(segmenter.predict(image, zoom, views=1), segmenter.thresholds, zoom)
        scores.append(average_precision(truth, labels))
    return float(np.mean(scores))


def tune_thresholds(images: ImageSet, segmenter: Segmenter) -> Thresholds:
    """The Thresholds that score best on images with labels, from two views: one field at a time."""
    cases = []
    for image, truth in progress(list(zip(images.images, images.labels, strict=True)), "tune"):
        zoom = segmenter.zoom_for(nucleus_diameter(truth))
        cases.append((truth, segmenter.predict(image, zoom, views=2), zoom))

    def score(thresholds):
        def score_one(case):
            truth, probs, zoom = case
            return average_precision(truth, find_instances(probs, thresholds, zoom))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.mean(list(pool.map(score_one, cases)))

    # A network that is never sure finds nothing by the default confidence, whatever else is tried: begin without.
    best = max(replace(Thresholds(), confidence=0.0), Thresholds(), key=score)
    best_score = score(best)
    for name, choices in THRESHOLD_CHOICES.items():
        for choice in choices:
            candidate = replace(best, **{name: choice})
            candidate_score = best_score if candidate == best else score(candidate)
            if candidate_score > best_score:
                best, best_score = candidate, candidate_score
    log.info("thresholds %s score %.4f on the tuning images", best, best_score)
    return best
