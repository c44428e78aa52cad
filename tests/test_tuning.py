"""Tuning: thresholds that never make things worse, and a score that a computable network reaches."""

from dataclasses import replace

import numpy as np
import pytest
from drawn import disc_network, draw_disc_set, draw_kind

from nuclei.prediction.metric import average_precision
from nuclei.prediction.segmenter import Segmenter
from nuclei.prediction.tuning import score_set, tune_thresholds
from nuclei.prediction.watershed import Thresholds
from nuclei.settings.config import Config
from nuclei.training_data.images import ImageSet

TINY = Config(model_diameter=16.0, tile_size=64, tile_overlap=16, tta_views=1)


def mean_precision(images, segmenter):
    pairs = zip(images.images, images.labels, strict=True)
    return np.mean([average_precision(truth, segmenter.segment(image)[0]) for image, truth in pairs])


def dim_network(x):
    """Sees the discs, but never surer than 0.45, with specks of noise that are surer."""
    bright = np.clip(x[..., 0], 0, 1) * 0.45
    bright[:, ::9, ::9] = 0.9
    return np.stack([bright, np.zeros_like(bright), bright], axis=-1)


def random_network(x):
    return np.random.default_rng(int(x.sum())).random(x.shape, np.float32)


@pytest.mark.parametrize("network", [dim_network, random_network])
def test_chosen_thresholds_are_no_worse_than_the_default(network):
    images, default = draw_disc_set(3), Segmenter(network, Thresholds(), TINY)
    chosen = replace(default, thresholds=tune_thresholds(images, default))
    assert mean_precision(images, chosen) >= mean_precision(images, default)


def test_thresholds_are_chosen_where_the_default_sees_nothing():
    images, default = draw_disc_set(3), Segmenter(dim_network, Thresholds(), TINY)
    chosen = replace(default, thresholds=tune_thresholds(images, default))
    assert chosen.thresholds.seed < 0.45
    assert mean_precision(images, chosen) > mean_precision(images, default) + 0.1
    assert score_set(images, chosen) > score_set(images, default) + 0.1


def test_the_thresholds_to_begin_with_do_not_matter():
    images = draw_disc_set(2)
    chosen = {tune_thresholds(images, Segmenter(dim_network, Thresholds(seed=seed), TINY)) for seed in (0.1, 0.9)}
    assert len(chosen) == 1


def test_a_network_that_is_right_scores_high_and_one_that_joins_what_touches_lower():
    images, labels = zip(*(draw_kind("fluorescence-small", seed, side=128) for seed in range(3)), strict=True)
    apart = ImageSet(list("abc"), list(images), list(labels), ["fluorescence-small"] * 3)
    segmenter = Segmenter(disc_network, Thresholds(), TINY)
    assert score_set(apart, segmenter) > 0.85
    assert 0 < score_set(draw_disc_set(3), segmenter) < 0.6


def test_a_blind_network_scores_nothing_in_one_look_an_image():
    images, calls = draw_disc_set(2), []

    def blind(x):
        calls.append(x)
        return np.zeros((*x.shape[:3], 3), np.float32)

    assert score_set(images, Segmenter(blind, Thresholds(), TINY)) == 0
    assert len(calls) == len(images.ids)  # one view, one tile each, and no search for the zoom
