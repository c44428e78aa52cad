"""Inference: a network that says where it looks comes back exact, whatever the image's size, tiles and views."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from nuclei.prediction.inference import fit_zoom, predict_probs, predict_tiled
from nuclei.prediction.tta import VIEWS
from nuclei.prediction.watershed import Thresholds
from nuclei.settings.config import Config
from nuclei.training_data.kinds import ZOOM_RANGE, nucleus_diameter

ALL_THE_WAY = Config(model_diameter=24.0, model_zoom=1.0).zoom


class Network:
    """Repeats its input's first two channels; refuses another shape than the one that it was made for."""

    def __init__(self, batch, tile):
        self.shape = (batch, tile, tile, 3)
        self.calls = 0

    def __call__(self, x):
        assert x.shape == self.shape
        assert x.dtype == np.float32
        assert x.min() >= 0
        assert x.max() <= 1
        self.calls += 1
        return x[..., :2]


def places(height, width):
    """uint8 (H, W, 3) whose pixels tell where they are: no wrong turn, shift or seam goes unseen."""
    y, x = np.mgrid[:height, :width]
    return np.stack([(3 * y + 7 * x) % 256, (5 * x + 2 * y) % 251, (y * x) % 256], axis=-1).astype(np.uint8)


def assert_exact(height, width, tile, overlap, batch, views):
    image, network = places(height, width), Network(batch, tile)
    probs = predict_tiled(image, network, tile, overlap, batch, views)
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs, image[..., :2] / np.float32(255), atol=1e-5)
    return network.calls


@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (1, 300), (63, 2), (64, 64), (65, 64), (100, 127), (128, 64), (256, 320), (700, 700)],
)
def test_an_image_of_any_size_comes_back_exact(height, width):
    assert_exact(height, width, 64, 16, 2, (0,))


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    tile=st.sampled_from([16, 32, 48]),
    shared=st.floats(0, 0.6),
    batch=st.integers(1, 5),
    views=st.sets(st.sampled_from(VIEWS), min_size=1).map(sorted),
)
def test_tiles_overlaps_and_views_change_nothing(height, width, tile, shared, batch, views):
    overlap = int(shared * tile)
    assert_exact(height, width, tile, overlap, batch, views)


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 700), width=st.integers(1, 700), views=st.sets(st.sampled_from(VIEWS), min_size=1).map(sorted)
)
def test_any_size_comes_back_exact_from_any_views(height, width, views):
    assert_exact(height, width, 128, 32, 4, views)


@pytest.mark.parametrize("view", VIEWS)
def test_each_view_is_turned_back(view):
    assert_exact(70, 45, 32, 8, 3, (view,))


def test_the_network_sees_the_views():
    """Turning back is not all: the eight inputs of one tile differ, and each is a view of it."""
    seen = []

    def network(x):
        seen.extend(x)
        return x[..., :1]

    predict_tiled(places(32, 32), network, 32, 0, 4, VIEWS)
    assert len({one.tobytes() for one in seen}) == 8
    np.testing.assert_array_equal(seen[4], seen[0].swapaxes(0, 1))


@pytest.mark.parametrize(("tile", "overlap"), [(64, 0), (64, 16), (64, 32), (64, 60)])
@pytest.mark.parametrize(("height", "width"), [(10, 10), (64, 65), (130, 200)])
def test_the_calls_are_bounded_by_the_image(tile, overlap, height, width):
    calls = assert_exact(height, width, tile, overlap, 1, (0,))
    per_axis = [max(1, -(-(n - overlap) // (tile - overlap))) for n in (height, width)]
    assert calls == per_axis[0] * per_axis[1]
    # The views of a tile fill batches together: no call goes half empty but the last.
    assert assert_exact(height, width, tile, overlap, 3, VIEWS[:2]) == -(-2 * calls // 3)


def test_no_tile_reaches_beyond_the_image():
    """An image at least a tile large is never padded: the network sees only what is there."""
    image = np.full((100, 90, 3), 200, np.uint8)

    def network(x):
        assert (x == np.float32(200) / np.float32(255)).all()
        return x

    predict_tiled(image, network, 64, 16, 1, VIEWS)


def test_a_small_image_is_mirrored_out_to_the_tile():
    image = places(20, 12)

    def network(x):
        np.testing.assert_array_equal(x[0, :20, 12:24], x[0, :20, 11::-1])
        np.testing.assert_array_equal(x[0, 20:32], x[0, 8:20][::-1])
        return x

    predict_tiled(image, network, 32, 8, 1)


def test_seams_are_soft():
    """What a network gets wrong near its tile's edge hardly shows where tiles overlap, and leaves no step."""
    tile, overlap = 64, 32
    depth = np.minimum(np.arange(tile), np.arange(tile)[::-1])
    edge = np.minimum(depth[:, None], depth)
    error = np.where(edge < 4, 1, 0).astype(np.float32)[..., None]

    def network(x):
        return np.broadcast_to(error, (len(x), tile, tile, 1))

    def blended(overlap):
        probs = predict_tiled(np.zeros((192, 192, 3), np.uint8), network, tile, overlap, 1)
        return probs[32:-32, 32:-32, 0]  # the image's own edge is every tile's edge

    assert blended(0).max() == 1
    assert blended(overlap).max() < 0.3
    assert np.abs(np.diff(blended(overlap), axis=1)).max() < 0.3
    assert blended(overlap).mean() < blended(0).mean()


@pytest.mark.parametrize("zooms", [(1.0,), (0.2,), (5.0,), (0.8, 1.0, 1.25)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 50), (70, 41)])
def test_probs_have_the_image_s_size_at_every_zoom(height, width, zooms):
    for channels in (1, 2, 3, 7):

        def network(x, channels=channels):
            return np.tile(x, 3)[..., :channels]

        probs = predict_probs(places(height, width), network, 32, 8, 1, (0, 5), zooms)
        assert probs.shape == (height, width, channels)
        assert probs.dtype == np.float32
        assert probs.min() >= 0
        assert probs.max() <= 1 + 1e-6
        for one in range(3, channels):  # the network's classes come again after three
            assert np.allclose(probs[..., one], probs[..., one % 3], rtol=0, atol=1e-6)


def disc_image(diameter, size=160):
    """A bright disc on black in a uint8 image."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return np.repeat(np.where(np.hypot(y, x) <= diameter / 2, 200, 5).astype(np.uint8)[..., None], 3, axis=-1)


def disc_network(x):
    """Knows the discs by their light: interior, no border, and a core as wide as the interior."""
    bright = (x[..., 0] > 0.5).astype(np.float32)
    return np.stack([bright, np.zeros_like(bright), bright], axis=-1)


def choosy_network(narrowest, widest):
    """A network that finds discs of `narrowest` to `widest` px alone."""

    def network(x):
        parts, _ = ndi.label(x[0, ..., 0] > 0.5)
        return disc_network(x) * (narrowest <= nucleus_diameter(parts) <= widest)

    return network


def test_zooms_agree_on_where_a_nucleus_lies():
    probs = predict_probs(disc_image(40), disc_network, 64, 16, 1, zooms=(0.5, 2.0))
    np.testing.assert_allclose(probs[..., 0] > 0.5, disc_image(40)[..., 0] > 100, atol=1)
    assert ((probs[..., 0] > 0.5) != (disc_image(40)[..., 0] > 100)).sum() < 150  # under a px along the outline


@pytest.mark.parametrize("diameter", [12, 24, 60, 90])
def test_fit_zoom_finds_the_zoom_of_a_disc(diameter):
    zoom = fit_zoom(disc_image(diameter), disc_network, Thresholds(), ALL_THE_WAY, 64, 16, 1)
    assert zoom == pytest.approx(24 / diameter, rel=0.08)


def test_fit_zoom_stays_in_its_range():
    laws = [Config(model_diameter=wanted, model_zoom=1.0).zoom for wanted in (1.0, 2000.0)]
    fit = [fit_zoom(disc_image(60), disc_network, Thresholds(), law, 64, 16, 1) for law in laws]
    assert fit == list(ZOOM_RANGE)


def test_fit_zoom_of_nothing_is_1():
    tried = []

    def network(x):
        tried.append(x)
        return np.zeros((*x.shape[:3], 3), np.float32)

    assert fit_zoom(disc_image(30), network, Thresholds(), ALL_THE_WAY, 256, 16, 1) == 1.0
    assert len(tried) == 1 + 1 + 4  # as it is, at half and, in two tiles each way, at double size


def test_fit_zoom_looks_at_other_scales_where_it_sees_nothing_at_first():
    """A network that only knows nuclei under 40 px: a disc of 60 px shows up at half size."""
    zoom = fit_zoom(disc_image(60), choosy_network(0, 40), Thresholds(), ALL_THE_WAY, 256, 16, 1)
    assert zoom == pytest.approx(24 / 60, rel=0.08)


def test_fit_zoom_believes_the_surer_look_not_the_one_that_covers_more():
    """At half size a network takes a clump of nuclei for one, and is not quite sure of it."""
    clump = np.zeros((160, 160, 3), np.uint8)
    for y in range(40, 120, 16):
        for x in range(40, 120, 16):
            clump |= np.roll(disc_image(14), (y - 80, x - 80), (0, 1)) // 200 * 200

    def network(x):
        bright = x[0, ..., 0] > 0.5
        if nucleus_diameter(ndi.label(bright)[0]) > 10:
            return disc_network(x)
        blob = ndi.binary_closing(bright, iterations=3)[None, ..., None]
        return np.concatenate([0.8 * blob, 0 * blob, 0.8 * blob], axis=-1).astype(np.float32)

    zoom = fit_zoom(clump, network, Thresholds(), ALL_THE_WAY, 256, 16, 1)
    assert zoom == pytest.approx(24 / 14, rel=0.12)


def test_fit_zoom_keeps_its_first_guess_where_the_second_look_finds_nothing():
    zoom = fit_zoom(disc_image(60), choosy_network(40, 90), Thresholds(), ALL_THE_WAY, 256, 16, 1)
    assert zoom == pytest.approx(24 / 60, rel=0.08)


def test_a_fitted_zoom_makes_nuclei_alike():
    """The law that the zoom serves: enlarged by it, every disc is as wide."""
    for diameter in (15, 45):
        image = disc_image(diameter)
        zoom = fit_zoom(image, disc_network, Thresholds(), ALL_THE_WAY, 64, 16, 1)
        labels = (image[..., 0] > 100).astype(np.int32)
        assert zoom * nucleus_diameter(labels) == pytest.approx(24, rel=0.08)
