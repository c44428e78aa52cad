"""Inference: a network that says where it looks comes back exact, whatever the image's size, tiles and views."""

import numpy as np
import pytest
from drawn import disc_network, draw_disc
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from nuclei.prediction.inference import Tiling, predict_probs, predict_tiled
from nuclei.prediction.tta import VIEWS
from nuclei.training_data.kinds import standardise


class Network:
    """Repeats its input's first two channels; refuses shapes that the tiling forbids."""

    def __init__(self, tiling):
        self.tiling = tiling
        self.shapes = []

    def __call__(self, x):
        count, height, width, channels = x.shape
        assert channels == 3
        assert height % self.tiling.unit == width % self.tiling.unit == 0
        assert count * height * width <= self.tiling.pixels
        assert x.dtype == np.float32
        assert x.min() >= 0
        assert x.max() <= 1
        self.shapes.append(x.shape)
        return x[..., :2]


def places(height, width):
    """uint8 (H, W, 3) whose pixels tell where they are: no wrong turn, shift or seam goes unseen."""
    y, x = np.mgrid[:height, :width]
    return np.stack([(3 * y + 7 * x) % 256, (5 * x + 2 * y) % 251, (y * x) % 256], axis=-1).astype(np.uint8)


def assert_exact(height, width, tiling, views):
    image, network = places(height, width), Network(tiling)
    probs = predict_tiled(image, network, tiling, views)
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs, image[..., :2] / np.float32(255), atol=1e-5)
    if tiling.fixed:
        batch = tiling.pixels // tiling.unit**2
        assert set(network.shapes) == {(batch, tiling.unit, tiling.unit, 3)}
    return network.shapes


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (1, 300), (63, 2), (64, 64), (65, 64), (100, 127), (128, 64), (256, 320), (700, 700)],
)
def test_an_image_of_any_size_comes_back_exact(height, width, fixed):
    assert_exact(height, width, Tiling(64, 2 * 64**2, 16, fixed), (0,))


@settings(max_examples=30)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    unit=st.sampled_from([16, 32, 48]),
    shared=st.floats(0, 0.6),
    most=st.floats(1, 9),
    fixed=st.booleans(),
    views=st.sets(st.sampled_from(VIEWS), min_size=1).map(sorted),
)
def test_tiles_overlaps_and_views_change_nothing(height, width, unit, shared, most, fixed, views):
    assert_exact(height, width, Tiling(unit, int(most * unit**2), int(shared * unit), fixed), views)


@settings(max_examples=15)
@given(
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    fixed=st.booleans(),
    views=st.sets(st.sampled_from(VIEWS), min_size=1).map(sorted),
)
def test_any_size_comes_back_exact_from_any_views(height, width, fixed, views):
    assert_exact(height, width, Tiling(128, 4 * 128**2, 32, fixed), views)


@pytest.mark.parametrize("view", VIEWS)
def test_each_view_is_turned_back(view):
    assert_exact(70, 45, Tiling(32, 3 * 32**2, 8), (view,))


def test_the_network_sees_the_views():
    """Turning back is not all: the eight inputs of one tile differ, and each is a view of it."""
    seen = []

    def network(x):
        seen.extend(x)
        return x[..., :1]

    predict_tiled(places(32, 32), network, Tiling(32, 4 * 32**2, 0), VIEWS)
    assert len({one.tobytes() for one in seen}) == 8
    np.testing.assert_array_equal(seen[4], seen[0].swapaxes(0, 1))


@pytest.mark.parametrize("overlap", [0, 16, 32, 60])
@pytest.mark.parametrize(("height", "width"), [(10, 10), (64, 65), (130, 200)])
def test_the_calls_are_bounded_by_the_image(overlap, height, width):
    calls = len(assert_exact(height, width, Tiling(64, 64**2, overlap, True), (0,)))
    per_axis = [max(1, -(-(n - overlap) // (64 - overlap))) for n in (height, width)]
    assert calls == per_axis[0] * per_axis[1]
    # The views of a tile fill batches together: no call goes half empty but the last.
    assert len(assert_exact(height, width, Tiling(64, 3 * 64**2, overlap, True), VIEWS[:2])) == -(-2 * calls // 3)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (60, 64), (65, 70), (32, 256)])
def test_what_a_call_holds_is_seen_whole(height, width):
    """Mirrored out to the unit and no further; as many views in a call as it holds."""
    padded = [-(-length // 32) * 32 for length in (height, width)]
    views = 2 * 96 * 96 // (padded[0] * padded[1])
    assert assert_exact(height, width, Tiling(32, 2 * 96 * 96, 16), VIEWS[:2]) == [
        (count, *padded, 3) for count in ([2] if views >= 2 else [1, 1])
    ]


def test_transposed_views_have_calls_of_their_own():
    assert assert_exact(60, 90, Tiling(32, 2**16, 16), VIEWS) == [(4, 64, 96, 3), (4, 96, 64, 3)]


def test_no_tile_reaches_far_beyond_the_image():
    """An image is never padded beyond the unit; one of a multiple of it, as most are, not at all."""
    image = np.full((128, 192, 3), 200, np.uint8)

    def network(x):
        assert (x == np.float32(200) / np.float32(255)).all()
        return x

    predict_tiled(image, network, Tiling(64, 64**2, 16), VIEWS)


def test_a_small_image_is_mirrored_out_to_the_unit():
    image = places(20, 12)

    def network(x):
        np.testing.assert_array_equal(x[0, :20, 12:24], x[0, :20, 11::-1])
        np.testing.assert_array_equal(x[0, 20:32], x[0, 8:20][::-1])
        return x

    predict_tiled(image, network, Tiling(32, 32**2, 8), (0,))


def test_seams_are_soft():
    """What a network gets wrong near its tile's edge hardly shows where tiles overlap, and leaves no step."""
    tile, overlap = 64, 32
    depth = np.minimum(np.arange(tile), np.arange(tile)[::-1])
    edge = np.minimum(depth[:, None], depth)
    error = np.where(edge < 4, 1, 0).astype(np.float32)[..., None]

    def network(x):
        return np.broadcast_to(error, (len(x), tile, tile, 1))

    def blended(overlap):
        probs = predict_tiled(np.zeros((192, 192, 3), np.uint8), network, Tiling(tile, tile**2, overlap), (0,))
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
        seen, tiling = standardise(places(height, width)), Tiling(32, 32**2, 8)
        probs = predict_probs(seen, lambda x, n=classes: x[..., :n], tiling, (0, 5), zoom)
        assert probs.shape == (height, width, classes)
        assert probs.dtype == np.float32
        assert probs.min() >= 0
        assert probs.max() <= 1 + 1e-6


@pytest.mark.parametrize("zoom", [0.5, 0.8, 1.0, 2.0])
def test_a_nucleus_comes_back_in_its_place_from_every_zoom(zoom):
    disc = draw_disc(40)[..., 0] > 100
    found = predict_probs(draw_disc(40), disc_network, Tiling(64, 64**2, 16), (0,), zoom)[..., 0] > 0.5
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
        predict_probs(draw_disc(20, size=64), network, Tiling(tile, tile**2, 16), (0,), zoom)
    assert widths == pytest.approx([10, 20, 40], abs=1)
