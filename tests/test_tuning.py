"""Tuning: thresholds that a computable network makes right, look by look, and that never make things worse."""

from dataclasses import replace

import numpy as np
import pytest
from drawn import disc_network, draw_disc_set, draw_discs
from skimage.segmentation import expand_labels

from nuclei.prediction.segmenter import Segmenter
from nuclei.prediction.tuning import Tuner
from nuclei.prediction.watershed import HANDS, Thresholds
from nuclei.settings.config import Config
from nuclei.training_data.images import ImageSet
from nuclei_kit.experiments.tune import score_by_look

CONFIG = Config(model_diameter=16.0, tile_size=64, tile_overlap=16, tta_views=1)
KIND_OF = {"small": "fluorescence-small", "large": "fluorescence-large", "stained": "purple"}


def dim_network(x):
    """Sees the discs, but never surer than 0.45, with specks of noise that are surer."""
    bright = np.clip(x[..., 0], 0, 1) * 0.45
    bright[:, ::9, ::9] = 0.9
    return np.stack([bright, np.zeros_like(bright), bright], axis=-1)


def random_network(x):
    return np.random.default_rng(int(x.sum())).random(x.shape, np.float32)


def tune(network, images, **changes):
    """A Tuner of a network on images, and what it chooses on all of them."""
    tuner = Tuner(images, Segmenter(network, HANDS["stage1_train"], replace(CONFIG, **changes)))
    return tuner, tuner.choose(np.ones(len(images.ids), bool))


# ---- probabilities that are drawn --------------------------------------------------------------


class Told:
    """Stands in for a Segmenter: its probabilities of each image are told beforehand, at the image's own scale."""

    def __init__(self, images, probs):
        self.probs = {id(image): one for image, one in zip(images, probs, strict=True)}

    def fit_zoom(self, image):
        return 1.0

    def predict(self, image, zoom, views):
        assert (zoom, views) == (1.0, 2)
        return self.probs[id(image)]


def draw_rings(count, rim, halo, false=0.0):
    """Truths, and interior probabilities: sure inside, `rim` at the edge of each nucleus and `halo` around it; one disc
    beside them, of probability `false`, is none."""
    truths, probs = [], []
    for seed in range(count):
        places = [(20 + 34 * (n // 3), 20 + 34 * (n % 3), 11 + seed % 2) for n in range(5)]
        truth = draw_discs((76, 110), *places)
        inner = draw_discs(truth.shape, *((row, column, radius - 2) for row, column, radius in places))
        one = np.where(inner > 0, 0.98, np.where(truth > 0, rim, np.where(expand_labels(truth, 4) > 0, halo, 0.0)))
        one = np.where(draw_discs(truth.shape, (54, 90, 9)) > 0, false, one)
        truths.append(truth)
        probs.append(np.stack([one, 0 * one, inner > 0], axis=-1).astype(np.float32))
    return truths, probs


def tell(**drawn):
    """A Tuner of images of several looks: {look: (truths, probs)}."""
    truths = [truth for one, _ in drawn.values() for truth in one]
    probs = [prob for _, one in drawn.values() for prob in one]
    kinds = [KIND_OF[look] for look, (one, _) in drawn.items() for _ in one]
    images = [np.zeros((*truth.shape, 3), np.uint8) for truth in truths]
    return Tuner(ImageSet([str(n) for n in range(len(kinds))], images, truths, kinds), Told(images, probs))


@pytest.mark.slow
def test_each_look_gets_the_threshold_that_makes_its_masks_right():
    """Small nuclei end at 0.35 and begin to glow at 0.27, large ones end at 0.58 and glow at 0.52."""
    tuner = tell(small=draw_rings(4, rim=0.35, halo=0.27), large=draw_rings(4, rim=0.58, halo=0.52))
    chosen = tuner.choose(np.ones(8, bool))
    assert chosen.keys() == {"small", "large", "stained"}
    assert chosen["small"].interior == 0.3 and chosen["large"].interior == 0.55
    np.testing.assert_array_equal(score_by_look(tuner, chosen), 1.0)
    swapped = {"small": chosen["large"], "large": chosen["small"]}
    assert score_by_look(tuner, swapped).max() < 0.9


def test_what_is_no_nucleus_is_dropped_by_the_confidence_that_parts_it_from_the_others():
    tuner = tell(stained=draw_rings(3, rim=0.65, halo=0.0, false=0.75))
    chosen = tuner.choose(np.ones(3, bool))["stained"]
    assert chosen.interior < 0.65 and chosen.confidence == 0.8
    np.testing.assert_array_equal(tuner.score(chosen), 1.0)


def test_masks_that_are_fuller_than_any_probability_are_grown():
    truths, probs = draw_rings(3, rim=0.98, halo=0.0)
    tuner = tell(stained=([expand_labels(truth, 1.5) for truth in truths], probs))
    chosen = tuner.choose(np.ones(3, bool))["stained"]
    assert chosen.grow == 1.5
    np.testing.assert_array_equal(tuner.score(chosen), 1.0)


def test_a_lower_seed_is_chosen_where_cores_are_faint():
    truths, probs = draw_rings(2, rim=0.98, halo=0.0)
    for one in probs:  # a bridge of sure interior joins the first two nuclei
        one[19:22, 20:54, 0] = 0.98
        one[..., 2] *= 0.3
    tuner = tell(small=(truths, probs))
    chosen = tuner.choose(np.ones(2, bool))["small"]
    assert chosen.seed == 0.2
    assert tuner.score(chosen).min() > tuner.score(replace(chosen, seed=0.4)).max()


# ---- scores that are told ----------------------------------------------------------------------


def judge(looks, score):
    """A Tuner of images of these looks, whose score of an image is told: `score(thresholds, look, index)`."""
    tuner = Tuner(ImageSet([], [], [], []), None)
    tuner.looks = np.array(looks)
    tuner.score = lambda one: np.array([float(score(one, look, i)) for i, look in enumerate(looks)])
    return tuner


@pytest.mark.parametrize("few", [1, 2, 4, 20])
@pytest.mark.parametrize("more", [0.9, 1.1])
def test_a_look_of_few_images_gives_way_to_the_others(few, more):
    """n images gain d by an interior of 0.7 where nine others lose 1 by it. It is chosen where
    n d + 2 n d / (n + 9) > 2 * 9 / (n + 9): not by one image (d would be 1.5), by two from 0.69, by many at once."""
    least = 18 / (few + 9) / (few + 2 * few / (few + 9))
    gain = more * least

    def score(thresholds, look, index):
        if look == "small":
            return thresholds.interior == 0.4
        return gain * (thresholds.interior == 0.7)

    chosen = judge(["small"] * 9 + ["stained"] * few, score).choose(np.ones(9 + few, bool))
    assert chosen["small"].interior == 0.4
    assert chosen["stained"].interior == (0.7 if more > 1 else 0.4)


def test_a_look_without_images_gets_what_all_choose_together():
    def score(thresholds, look, index):
        return thresholds.interior == (0.3 if look == "small" else 0.6)

    chosen = judge(["small"] * 2 + ["stained"] * 3, score).choose(np.ones(5, bool))
    assert chosen["large"].interior == 0.6


def test_images_that_are_left_out_have_no_say():
    def score(thresholds, look, index):
        return thresholds.interior == (0.3 if index < 2 else 0.6)

    tuner = judge(["small"] * 9, score)
    assert tuner.choose(np.arange(9) < 2)["small"].interior == 0.3
    assert tuner.choose(np.arange(9) >= 2)["small"].interior == 0.6


def test_the_first_three_thresholds_are_searched_together():
    """Each alone would lose: a lower interior pays only with a lower confidence and some growth."""

    def score(thresholds, look, index):
        moved = (thresholds.interior == 0.25, thresholds.confidence == 0.6, thresholds.grow == 1.5)
        return {0: 0.5, 3: 0.6}.get(sum(moved), 0.4)

    chosen = judge(["stained"], score).choose(np.ones(1, bool))["stained"]
    assert (chosen.interior, chosen.confidence, chosen.grow) == (0.25, 0.6, 1.5)


def test_where_nothing_scores_the_default_stays():
    chosen = judge(["small", "large"], lambda *_: 0.0).choose(np.ones(2, bool))
    assert set(chosen.values()) == {Thresholds()}


def test_each_image_is_scored_by_the_thresholds_of_its_look():
    tuner, _ = tune(disc_network, replace(draw_disc_set(3), kinds=[KIND_OF[look] for look in KIND_OF]))
    by_look = {look: Thresholds(interior=0.3 + 0.1 * n) for n, look in enumerate(KIND_OF)}
    scores = score_by_look(tuner, by_look)
    assert tuner.looks.tolist() == list(KIND_OF)
    assert scores.tolist() == [tuner.score(by_look[look])[i] for i, look in enumerate(KIND_OF)]


# ---- networks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [dim_network, random_network, lambda x: disc_network(x)[..., :1]])
def test_chosen_thresholds_are_no_worse_than_the_default(network):
    tuner, chosen = tune(network, draw_disc_set(3))
    assert score_by_look(tuner, chosen).mean() >= tuner.score(Thresholds()).mean()


def test_thresholds_are_chosen_where_the_default_sees_nothing():
    tuner, chosen = tune(dim_network, draw_disc_set(3))
    assert chosen["small"].seed < 0.45
    assert score_by_look(tuner, chosen).mean() > tuner.score(Thresholds()).mean() + 0.1


def test_the_thresholds_to_begin_with_do_not_matter():
    images, chosen = draw_disc_set(2), []
    for seed in (0.1, 0.9):
        segmenter = Segmenter(dim_network, dict.fromkeys(KIND_OF, Thresholds(seed=seed)), CONFIG)
        chosen.append(Tuner(images, segmenter).choose(np.ones(2, bool)))
    assert chosen[0] == chosen[1]
