"""TTA: inverses, the laws of the symmetries of a square, and averages as inference takes them, by hand."""

import numpy as np
import pytest

from nuclei.prediction.inference import Tiling, predict_tiled
from nuclei.prediction.tta import VIEWS, unview_probs, view_image

# No two pixels alike, not square: nothing about it survives a wrong turn.
IMAGE = np.arange(3 * 5 * 2, dtype=np.uint8).reshape(3, 5, 2)
SQUARE = np.arange(4 * 4, dtype=np.uint8).reshape(4, 4, 1)


def find_view(image):
    """Which view of SQUARE `image` is."""
    (view,) = (v for v in VIEWS if np.array_equal(view_image(SQUARE, v), image))
    return view


@pytest.mark.parametrize("view", VIEWS)
def test_unview_undoes_view(view):
    viewed = view_image(IMAGE, view)
    assert viewed.shape == ((5, 3, 2) if view >= 4 else (3, 5, 2))
    assert viewed.flags.c_contiguous
    assert viewed.dtype == IMAGE.dtype
    np.testing.assert_array_equal(unview_probs(viewed, view), IMAGE)
    np.testing.assert_array_equal(view_image(unview_probs(IMAGE, view), view), IMAGE)


@pytest.mark.parametrize("view", VIEWS)
def test_a_batch_is_viewed_image_by_image(view):
    batch = np.stack([IMAGE, IMAGE + 100])
    viewed = view_image(batch, view)
    np.testing.assert_array_equal(viewed, [view_image(image, view) for image in batch])
    np.testing.assert_array_equal(unview_probs(viewed, view), batch)


def test_the_views_by_hand():
    image = np.array([[1, 2, 3], [4, 5, 6]])[..., None]
    by_hand = [
        [[1, 2, 3], [4, 5, 6]],
        [[3, 2, 1], [6, 5, 4]],
        [[4, 5, 6], [1, 2, 3]],
        [[6, 5, 4], [3, 2, 1]],
        [[1, 4], [2, 5], [3, 6]],
        [[3, 6], [2, 5], [1, 4]],
        [[4, 1], [5, 2], [6, 3]],
        [[6, 3], [5, 2], [4, 1]],
    ]
    for view in VIEWS:
        assert view_image(image, view)[..., 0].tolist() == by_hand[view]


def test_the_eight_views_are_the_symmetries_of_a_square():
    assert len({view_image(SQUARE, view).tobytes() for view in VIEWS}) == 8
    turns = {find_view(np.rot90(SQUARE, k)) for k in range(4)}
    mirrored_turns = {find_view(np.rot90(SQUARE[::-1], k)) for k in range(4)}
    assert turns | mirrored_turns == set(VIEWS)


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_the_first_views_are_closed(n):
    seconds = [view_image(view_image(SQUARE, a), b) for a in VIEWS[:n] for b in VIEWS[:n]]
    assert {find_view(image) for image in seconds} == set(VIEWS[:n])


# ---- averages ----------------------------------------------------------------------------------


def average_views(image, network, views):
    """What inference makes of these views of an image of one tile."""
    return predict_tiled(image, network, Tiling(len(image), 3 * len(image) ** 2, 0), views)


def positions(x):
    """A network that goes by places, not pixels: how far down, and how far right, in 0..1."""
    down, right = np.indices(x.shape[1:3]) / (x.shape[1] - 1)
    return np.broadcast_to(np.stack([down, right], axis=-1), (len(x), *x.shape[1:3], 2))


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_an_equivariant_network_is_its_own_average(n):
    image = np.repeat(SQUARE, 3, axis=-1)
    average = average_views(image, lambda x: x, VIEWS[:n])
    np.testing.assert_allclose(average, image / 255, atol=1e-6)


RISING, FALLING, FLAT = [0, 0.25, 0.5, 0.75, 1], [1, 0.75, 0.5, 0.25, 0], [0.5] * 5


@pytest.mark.parametrize(
    ("views", "down", "right"),
    [
        ([0], RISING, RISING),
        ([1], RISING, FALLING),
        ([2], FALLING, RISING),
        ([3], FALLING, FALLING),
        ([0, 1], RISING, FLAT),
        ([0, 2], FLAT, RISING),
        ([0, 3], FLAT, FLAT),
        (VIEWS[:4], FLAT, FLAT),
        (VIEWS, FLAT, FLAT),
    ],
)
def test_an_average_of_positions_by_hand(views, down, right):
    average = average_views(np.zeros((5, 5, 3), np.uint8), positions, views)
    np.testing.assert_allclose(average[..., 0], np.repeat(np.array(down)[:, None], 5, axis=1), atol=1e-6)
    np.testing.assert_allclose(average[..., 1], np.repeat(np.array(right)[None], 5, axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("view", "down", "right"),
    # What lies to the right in the image lies below in such a view, and the other way round.
    [(4, RISING, RISING), (5, FALLING, RISING), (6, RISING, FALLING), (7, FALLING, FALLING)],
)
def test_positions_in_a_transposed_view_by_hand(view, down, right):
    average = average_views(np.zeros((5, 5, 3), np.uint8), positions, [view])
    np.testing.assert_allclose(average[..., 0], np.repeat(np.array(down)[None], 5, axis=0), atol=1e-6)
    np.testing.assert_allclose(average[..., 1], np.repeat(np.array(right)[:, None], 5, axis=1), atol=1e-6)


def test_averaged_over_all_views_any_prediction_turns_with_the_image():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (6, 6, 3), np.uint8)
    weights = rng.random((6, 6, 3), np.float32)  # as unlike a symmetric network as can be

    def network(x):
        return x * weights

    average = average_views(image, network, VIEWS)
    assert np.abs(average - average_views(image, network, [0])).max() > 0.1
    for view in VIEWS:
        turned = average_views(view_image(image, view), network, VIEWS)
        np.testing.assert_allclose(turned, view_image(average, view), atol=1e-6)
