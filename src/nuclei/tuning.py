"""Tuning: how good a network is on images with labels, and the thresholds that suit it."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from nuclei.config import log
from nuclei.inference import predict_probs
from nuclei.kinds import nucleus_diameter
from nuclei.metric import average_precision
from nuclei.progress import progress
from nuclei.tta import VIEWS
from nuclei.watershed import Thresholds, find_instances

# What `tune_thresholds` tries, field by field, in this order.
THRESHOLD_CHOICES = {
    "seed": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    "interior": (0.4, 0.5, 0.54, 0.58, 0.62, 0.66, 0.7, 0.74),
    "area": (16.0, 32.0, 64.0, 96.0, 128.0),
    "seed_area": (4.0, 8.0, 16.0, 32.0, 48.0),
    "confidence": (0.0, 0.7, 0.8, 0.85, 0.88, 0.9, 0.92),
}


def score_set(images, network, thresholds, config):
    """The mean average precision over an ImageSet with labels, from a single view at the zoom that the labels tell:
    quick, for choosing weights."""
    scores = []
    for image, truth in progress(list(zip(images.images, images.labels, strict=True)), "check"):
        probs, zoom = _probs_at_true_zoom(image, truth, network, config, views=1)
        scores.append(average_precision(truth, find_instances(probs, thresholds, zoom)))
    return float(np.mean(scores))


def _probs_at_true_zoom(image, truth, network, config, views):
    """As `segment_probs`, at the zoom that fits the true nuclei, which takes no look at the image."""
    diameter = nucleus_diameter(truth)
    zoom = config.zoom(diameter) if diameter else 1.0
    tiles = (config.tile_size, config.tile_overlap, config.tile_batch)
    return predict_probs(image, network, *tiles, VIEWS[:views], (zoom,)), zoom


def tune_thresholds(images, network, config):
    """The Thresholds that score best on an ImageSet with labels: one field at a time."""
    cases = [
        (truth, _probs_at_true_zoom(image, truth, network, config, views=2))
        for image, truth in progress(list(zip(images.images, images.labels, strict=True)), "tune")
    ]

    def score(thresholds):
        def score_one(case):
            truth, (probs, zoom) = case
            return average_precision(truth, find_instances(probs, thresholds, zoom))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.mean(list(pool.map(score_one, cases)))

    # A network that is never sure finds nothing by the default confidence, whatever else is tried: begin without.
    best = max(replace(Thresholds(), confidence=0.0), Thresholds(), key=score)
    best_score = score(best)
    for name, choices in THRESHOLD_CHOICES.items():
        for choice in choices:
            if choice == getattr(best, name):
                continue
            candidate = replace(best, **{name: choice})
            candidate_score = score(candidate)
            if candidate_score > best_score:
                best, best_score = candidate, candidate_score
    log.info("thresholds %s score %.4f on the tuning images", best, best_score)
    return best
