"""Inference: a network that says where it looks comes back exact, whatever the image's size, tiles and views."""

import numpy as np
import pytest
from drawn import disc_network, draw_disc
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from nuclei.prediction.inference import predict_probs, predict_tiled
from nuclei.prediction.tta import VIEWS
from nuclei.training_data.kinds import standardise


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


@settings(max_examples=30)
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


@settings(max_examples=15)
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


# ---- zooms -------------------------------------------------------------------------------------


@pytest.mark.parametrize("zoom", [1.0, 0.2, 5.0])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 50), (70, 41)])
def test_probs_have_the_image_s_size_at_every_zoom(height, width, zoom):
    for classes in (1, 2, 3):
        probs = predict_probs(
            standardise(places(height, width)), lambda x, n=classes: x[..., :n], 32, 8, 1, (0, 5), zoom
        )
        assert probs.shape == (height, width, classes)
        assert probs.dtype == np.float32
        assert probs.min() >= 0
        assert probs.max() <= 1 + 1e-6


@pytest.mark.parametrize("zoom", [0.5, 0.8, 1.0, 2.0])
def test_a_nucleus_comes_back_in_its_place_from_every_zoom(zoom):
    disc = draw_disc(40)[..., 0] > 100
    found = predict_probs(draw_disc(40), disc_network, 64, 16, 1, (0,), zoom)[..., 0] > 0.5
    outline = ndi.binary_dilation(disc, iterations=2) & ~ndi.binary_erosion(disc, iterations=2)
    np.testing.assert_array_equal(found[~outline], disc[~outline])
    assert (found != disc).sum() < 150  # about a px along the outline


def test_the_network_sees_the_image_enlarged_by_the_zoom():
    widths = []

    def network(x):
        ((side, _),) = ndi.find_objects((x[0, ..., 0] > 0.5).astype(int))
        widths.append(side.stop - side.start)
        return x

    for tile, zoom in ((32, 0.5), (64, 1.0), (128, 2.0)):
        predict_probs(draw_disc(20, size=64), network, tile, 16, 1, (0,), zoom)
    assert widths == pytest.approx([10, 20, 40], abs=1)
