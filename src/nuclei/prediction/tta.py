"""TTA: test-time augmentation, the eight views of an image and their inverses.

Nuclei have no up: turn a slide over or around, and the right answer turns with it. A network only learns this
roughly, so it gives each view of an image a slightly different answer. Turn the answers back and average them: what
they agree on, the nuclei, stays; the errors that depend on how the image lies partly cancel.
"""

import numpy as np

# A view is three independent choices, one per bit: 1 flips left-right, 2 flips up-down, and then 4 transposes. Together
# they make the eight symmetries of a square. The first 1, 2, 4 and 8 views are each closed (a view of a view is in the
# set); the first four keep the image's shape.
VIEWS = tuple(range(8))


def view_image(image: np.ndarray, view: int) -> np.ndarray:
    """Return `image` (..., H, W, C) as `view` shows it: (..., W, H, C) for views 4 to 7."""
    if view & 1:
        image = np.flip(image, axis=-2)
    if view & 2:
        image = np.flip(image, axis=-3)
    if view & 4:
        image = np.swapaxes(image, -3, -2)
    return np.ascontiguousarray(image)  # OpenCV and Keras refuse or copy negative strides


def unview_probs(probs: np.ndarray, view: int) -> np.ndarray:
    """Undo `view_image`: return `probs` (..., h, w, C) of a view as they lie on the image."""
    if view & 4:  # the last step is undone first
        probs = np.swapaxes(probs, -3, -2)
    if view & 2:
        probs = np.flip(probs, axis=-3)
    if view & 1:
        probs = np.flip(probs, axis=-2)
    return np.ascontiguousarray(probs)
