"""Tuning: the score on images with labels, and the thresholds that suit a network."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

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
    """Score images with labels by the mean average precision, quickly: one view, at the zoom that the labels tell."""
    cases = _predict_cases(images, segmenter, 1, "check")
    return float(np.mean([_score_case(case, segmenter.thresholds) for case in cases]))


def tune_thresholds(images: ImageSet, segmenter: Segmenter) -> Thresholds:
    """Choose the Thresholds that score best on images with labels, from two views: one field at a time."""
    cases = list(_predict_cases(images, segmenter, 2, "tune"))

    def score(thresholds):
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.mean(list(pool.map(partial(_score_case, thresholds=thresholds), cases)))

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


def _predict_cases(images, segmenter, views, name):
    """Yield each image's labels, its probs at the zoom that they tell, and that zoom."""
    for image, truth in progress(list(zip(images.images, images.labels, strict=True)), name):
        zoom = segmenter.zoom_for(nucleus_diameter(truth))
        yield truth, segmenter.predict(image, zoom, views), zoom


def _score_case(case, thresholds):
    truth, probs, zoom = case
    return average_precision(truth, find_instances(probs, thresholds, zoom))
