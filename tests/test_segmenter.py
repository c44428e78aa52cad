"""Segmenter: what it finds in drawn images, the zoom that it fits, and a run loaded as it was saved."""

from dataclasses import replace

import numpy as np
import pytest
from drawn import disc_network, draw_disc, draw_disc_set, draw_kind
from drawn_runs import TINY
from scipy import ndimage as ndi

from nuclei.prediction.inference import Tiling, predict_probs
from nuclei.prediction.metric import average_precision
from nuclei.prediction.run_folder import save_run
from nuclei.prediction.segmenter import Segmenter
from nuclei.prediction.tta import VIEWS
from nuclei.prediction.watershed import HANDS, Thresholds, find_confidences, find_instances
from nuclei.settings.config import BadInput, Config
from nuclei.training.train import new_model
from nuclei.training_data.kinds import KINDS, LOOKS, ZOOM_RANGE, nucleus_diameter, standard_lut, standardise

# All the way to 24 px.
CONFIG = Config(model_diameter=24.0, model_zoom=1.0, tta_views=1)


def make_segmenter(network=disc_network, **changes):
    return Segmenter(network, HANDS["stage1_train"], replace(CONFIG, **changes))


# ---- segmenting --------------------------------------------------------------------------------


def test_drawn_discs_are_found_with_a_confidence_each():
    images = draw_disc_set(3)
    for image, truth in zip(images.images, images.labels, strict=True):
        labels, confidences = make_segmenter(tta_views=4).segment(image)
        assert labels.dtype == np.int32
        assert ((labels > 0) == (truth > 0)).mean() > 0.95
        assert confidences.shape == (labels.max(),)
        assert confidences.min() > 0.7 and confidences.max() <= 1


def test_to_segment_is_to_fit_the_zoom_to_predict_and_to_flood():
    image, _ = draw_kind("fluorescence-large")
    segmenter = make_segmenter()
    zoom = segmenter.fit_zoom(image)
    assert zoom < 0.8
    probs = segmenter.predict(image, zoom)
    labels, confidences = segmenter.segment(image)
    np.testing.assert_array_equal(labels, find_instances(probs, segmenter.thresholds["large"], zoom))
    np.testing.assert_array_equal(confidences, find_confidences(probs, labels))


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_flooded_by_the_thresholds_of_its_look(kind):
    """Thresholds that nothing can reach, but for the look of this kind."""
    image, _ = draw_kind(kind)
    blind = dict.fromkeys(LOOKS.values(), Thresholds(confidence=2.0))
    seeing = blind | {LOOKS[kind]: Thresholds()}
    segmenter = replace(make_segmenter(), thresholds=seeing)
    assert segmenter.thresholds_for(image) == Thresholds()
    assert segmenter.segment(image)[0].max() > 0
    unseeing = dict.fromkeys(LOOKS.values(), Thresholds()) | {LOOKS[kind]: Thresholds(confidence=2.0)}
    assert replace(segmenter, thresholds=unseeing).segment(image)[0].max() == 0


def test_a_network_of_one_output_segments():
    images = draw_disc_set(3)
    segmenter = make_segmenter(lambda x: disc_network(x)[..., :1], tta_views=2)
    for image, truth in zip(images.images, images.labels, strict=True):
        labels, confidences = segmenter.segment(image)
        assert ((labels > 0) == (truth > 0)).mean() > 0.95
        assert confidences.shape == (labels.max(),) and confidences.min() > 0.7


@pytest.mark.parametrize("views, seen", [(None, 4), (1, 1), (2, 2), (8, 8)])
def test_views_take_the_place_of_those_of_the_config(views, seen):
    inputs = []

    def network(x):
        inputs.extend(x)
        return x

    image, _ = draw_kind("purple", side=64)
    segmenter = make_segmenter(network, tta_views=4)
    probs = segmenter.predict(image, 1.0, views)
    assert len(inputs) == seen
    tiling = Tiling(CONFIG.divisor, CONFIG.tile_pixels, CONFIG.tile_overlap)
    np.testing.assert_array_equal(probs, predict_probs(standardise(image), network, tiling, VIEWS[:seen]))


def test_what_is_too_fine_for_the_zoom_is_averaged_on_the_way_there_and_back():
    """A chequerboard of single pixels, of the image where the zoom is small, of the probabilities where it is large."""
    seen = []

    def chequer(x):
        seen.append(x)
        board = (np.indices(x.shape[1:3]).sum(axis=0) % 2).astype(np.float32)
        return np.broadcast_to(board[None, ..., None], (*x.shape[:3], 3))

    board = np.repeat((np.indices((90, 90)).sum(axis=0) % 2 * np.uint8(255))[..., None], 3, axis=2).astype(np.uint8)
    make_segmenter(chequer).predict(board, 0.3, views=1)
    assert np.std(seen[0]) < 0.1
    assert np.std(make_segmenter(chequer).predict(board[:20, :20], 3.0, views=1)) < 0.1


def test_a_part_is_predicted_in_the_light_of_the_whole():
    image, _ = draw_kind("brown", side=128)
    segmenter = make_segmenter(lambda x: x)
    whole, lut = segmenter.predict(image, 1.0), standard_lut(image)
    np.testing.assert_allclose(segmenter.predict(image[:64], 1.0, lut=lut), whole[:64], atol=1e-5)


# ---- the zoom ----------------------------------------------------------------------------------


def choosy_network(narrowest, widest):
    """A network that finds discs of `narrowest` to `widest` px alone."""

    def network(x):
        parts, _ = ndi.label(x[0, ..., 0] > 0.5)
        return disc_network(x) * (narrowest <= nucleus_diameter(parts) <= widest)

    return network


@pytest.mark.parametrize("diameter", [12, 24, 60, 90])
def test_fit_zoom_finds_the_zoom_of_a_disc(diameter):
    assert make_segmenter().fit_zoom(draw_disc(diameter)) == pytest.approx(24 / diameter, rel=0.08)


def test_fit_zoom_stays_in_its_range():
    fitted = [make_segmenter(model_diameter=wanted).fit_zoom(draw_disc(60)) for wanted in (1.0, 2000.0)]
    assert fitted == list(ZOOM_RANGE)


def test_fit_zoom_of_nothing_is_1():
    tried = []

    def network(x):
        tried.append(x)
        return np.zeros((*x.shape[:3], 3), np.float32)

    assert make_segmenter(network).fit_zoom(draw_disc(30)) == 1.0
    assert [x.shape[1] for x in tried] == [160, 96, 320]  # as it is, at half and at double size, in units of 32 px


def test_fit_zoom_tries_other_scales_where_it_sees_nothing_at_first():
    """A network that only knows nuclei under 40 px: a disc of 60 px shows up at half size."""
    zoom = make_segmenter(choosy_network(0, 40)).fit_zoom(draw_disc(60))
    assert zoom == pytest.approx(24 / 60, rel=0.08)


def test_fit_zoom_believes_the_surer_look_not_the_one_that_covers_more():
    """At half size a network takes a clump of nuclei for one, and is not quite sure of it."""
    clump = np.zeros((160, 160, 3), np.uint8)
    for y in range(40, 120, 16):
        for x in range(40, 120, 16):
            clump |= np.roll(draw_disc(14), (y - 80, x - 80), (0, 1)) // 200 * 200

    def network(x):
        bright = x[0, ..., 0] > 0.5
        if nucleus_diameter(ndi.label(bright)[0]) > 10:
            return disc_network(x)
        blob = ndi.binary_closing(bright, iterations=3)[None, ..., None]
        return np.concatenate([0.8 * blob, 0 * blob, 0.8 * blob], axis=-1).astype(np.float32)

    assert make_segmenter(network).fit_zoom(clump) == pytest.approx(24 / 14, rel=0.12)


def test_fit_zoom_keeps_its_first_guess_where_the_second_look_finds_nothing():
    zoom = make_segmenter(choosy_network(40, 90)).fit_zoom(draw_disc(60))
    assert zoom == pytest.approx(24 / 60, rel=0.08)


def test_the_zoom_does_not_depend_on_the_thresholds():
    """The sizes that it goes by are those of the masks that the network learned from, whoever drew the test's."""
    image = draw_disc(60)
    blind = dict.fromkeys(LOOKS.values(), Thresholds(interior=1.0, confidence=2.0, grow=9.0))
    assert replace(make_segmenter(), thresholds=blind).fit_zoom(image) == make_segmenter().fit_zoom(image)


@pytest.mark.parametrize("diameter", [15, 45])
def test_a_fitted_zoom_makes_nuclei_alike(diameter):
    """The law that the zoom serves: enlarged by it, every disc is as wide."""
    image = draw_disc(diameter)
    labels = (image[..., 0] > 100).astype(np.int32)
    assert make_segmenter().fit_zoom(image) * nucleus_diameter(labels) == pytest.approx(24, rel=0.08)


# ---- a run's folder ----------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """The folder of a run of TINY that learnt nothing."""
    save_run(tmp_path, new_model(TINY), HANDS["stage1_test"], "a drawn set", TINY)
    return tmp_path


def test_a_run_comes_back_as_it_was_saved(tmp_path, eagerly):
    model = new_model(TINY)
    save_run(tmp_path, model, HANDS["stage1_test"], "a drawn set", TINY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.weights.h5"]
    for name in (tmp_path, str(tmp_path), tmp_path / "model.weights.h5"):
        segmenter = Segmenter.load(name)
        assert (segmenter.thresholds, segmenter.config) == (HANDS["stage1_test"], TINY)
        x = np.random.default_rng(0).random((4, 64, 64, 3), np.float32)
        probs = segmenter.network(x)
        assert probs.shape == (4, 64, 64, 3) and probs.dtype == np.float32
        np.testing.assert_allclose(probs, model(x, training=False), atol=0.03)  # bfloat16 rounds, where it is used


@pytest.mark.parametrize("name", ["config.json", "model.weights.h5"])
def test_a_missing_file_is_named(run, name):
    (run / name).unlink()
    for run_or_weights in (run, run / "model.weights.h5"):
        with pytest.raises(BadInput, match=rf"{name}.* is missing"):
            Segmenter.load(run_or_weights)


def test_the_network_that_ships_finds_nuclei_that_it_has_never_seen():
    image, truth = draw_kind("fluorescence-small", side=128)
    labels, _ = Segmenter.load().segment(image, views=1)
    assert average_precision(truth, labels) > 0.5
