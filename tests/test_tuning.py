"""Tuning: thresholds that never make things worse, and a score that a computable network reaches."""

import numpy as np
import pytest
from drawn import draw_disc_set

from nuclei.prediction.inference import segment_probs
from nuclei.prediction.metric import average_precision
from nuclei.prediction.tuning import score_set, tune_thresholds
from nuclei.prediction.watershed import Thresholds, find_instances
from nuclei.settings.config import Config

TINY = Config(
    model_width=4, model_depth=2, model_stem=1, model_diameter=16.0, tile_size=64, tile_overlap=16, tta_views=1
)


def mean_precision(images, network, thresholds):
    scores = []
    for image, truth in zip(images.images, images.labels, strict=True):
        probs, zoom = segment_probs(image, network, Thresholds(), TINY)
        scores.append(average_precision(truth, find_instances(probs, thresholds, zoom)))
    return np.mean(scores)


def dim_network(x):
    """Sees the discs, but never surer than 0.45, with specks of noise that are surer."""
    bright = np.clip(x[..., 0], 0, 1) * 0.45
    bright[:, ::9, ::9] = 0.9
    return np.stack([bright, np.zeros_like(bright), bright], axis=-1)


def random_network(x):
    return np.random.default_rng(int(x.sum())).random(x.shape, np.float32)


@pytest.mark.parametrize("network", [dim_network, random_network])
def test_chosen_thresholds_are_no_worse_than_the_default(network):
    images = draw_disc_set(3)
    chosen = tune_thresholds(images, network, TINY)
    assert mean_precision(images, network, chosen) >= mean_precision(images, network, Thresholds())


def test_thresholds_are_chosen_where_the_default_sees_nothing():
    images = draw_disc_set(3)
    chosen = tune_thresholds(images, dim_network, TINY)
    assert chosen.seed < 0.45
    assert mean_precision(images, dim_network, chosen) > mean_precision(images, dim_network, Thresholds()) + 0.1


def test_a_blind_network_scores_nothing_in_one_look_an_image():
    images, calls = draw_disc_set(2), []

    def blind(x):
        calls.append(x)
        return np.zeros((*x.shape[:3], 3), np.float32)

    assert score_set(images, blind, Thresholds(), TINY) == 0
    assert len(calls) == len(images.ids)  # one view, one tile each, and no search for the zoom
