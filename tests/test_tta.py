"""Views: inverses, the laws of the symmetries of a square, and averages computed by hand."""

import numpy as np
import pytest

from nuclei.prediction.tta import VIEWS, unview_probs, view_image

# No two pixels alike, not square: nothing about it survives a wrong turn.
IMAGE = np.arange(3 * 5 * 2, dtype=np.uint8).reshape(3, 5, 2)
SQUARE = np.arange(4 * 4, dtype=np.uint8).reshape(4, 4, 1)


def find_view(image):
    """Which view of SQUARE `image` is."""
    (view,) = (v for v in VIEWS if np.array_equal(view_image(SQUARE, v), image))
    return view


def positions(image):
    """A prediction that looks at places, not pixels: how far down, and how far right, in 0..1."""
    height, width, _ = image.shape
    down, right = np.mgrid[:height, :width]
    return np.stack([down / (height - 1), right / (width - 1)], axis=-1)


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


def average_views(image, predict, views):
    """What averaging over views means, in one line; inference does it tile by tile."""
    return np.mean([unview_probs(predict(view_image(image, view)), view) for view in views], axis=0)


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_an_equivariant_prediction_is_its_own_average(n):
    average = average_views(IMAGE, lambda image: image / np.float64(32), VIEWS[:n])
    np.testing.assert_array_equal(average, IMAGE / 32)  # sums of n / 32 are exact


@pytest.mark.parametrize(
    ("views", "down", "right"),
    [
        ([0], [0, 0.5, 1], [0, 0.25, 0.5, 0.75, 1]),
        ([1], [0, 0.5, 1], [1, 0.75, 0.5, 0.25, 0]),
        ([2], [1, 0.5, 0], [0, 0.25, 0.5, 0.75, 1]),
        ([0, 1], [0, 0.5, 1], [0.5] * 5),
        ([0, 2], [0.5] * 3, [0, 0.25, 0.5, 0.75, 1]),
        (VIEWS[:4], [0.5] * 3, [0.5] * 5),
    ],
)
def test_an_average_of_positions_by_hand(views, down, right):
    average = average_views(IMAGE, positions, views)
    np.testing.assert_array_equal(average[..., 0], np.repeat(np.array(down)[:, None], 5, axis=1))
    np.testing.assert_array_equal(average[..., 1], np.repeat(np.array(right)[None], 3, axis=0))


@pytest.mark.parametrize(
    ("view", "by_hand"),
    [
        # `down` in the view's rows, seen on a 2 x 3 image (the view is 3 x 2).
        (4, [[0, 0.5, 1], [0, 0.5, 1]]),
        (5, [[1, 0.5, 0], [1, 0.5, 0]]),
        (6, [[0, 0.5, 1], [0, 0.5, 1]]),
        (7, [[1, 0.5, 0], [1, 0.5, 0]]),
    ],
)
def test_positions_in_a_transposed_view_by_hand(view, by_hand):
    average = average_views(np.zeros((2, 3, 3), np.uint8), positions, [view])
    np.testing.assert_array_equal(average[..., 0], by_hand)


def test_averaged_over_all_views_any_prediction_turns_with_the_image():
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 8, (4, 4, 1)) / 8  # as unlike a symmetric network as can be

    def predict(image):
        return image * weights

    average = average_views(SQUARE, predict, VIEWS)
    for view in VIEWS:
        turned = average_views(view_image(SQUARE, view), predict, VIEWS)
        np.testing.assert_array_equal(turned, view_image(average, view))
