"""What several tests draw: labels whose areas, diameters and neighbours can be computed."""

import cv2
import numpy as np

# kind: colour of the ground, colour of the nuclei, radius of the nuclei in px
LOOKS = {
    "fluorescence-small": ((12, 12, 12), (140, 140, 140), 9),
    "fluorescence-large": ((12, 12, 12), (140, 140, 140), 25),
    "purple": ((200, 185, 230), (110, 70, 150), 12),
    "pink-purple": ((235, 215, 232), (120, 70, 140), 12),
    "brown": ((215, 200, 165), (120, 90, 110), 12),
    "grey-tissue": ((205, 205, 205), (110, 110, 110), 9),
}


def draw_discs(shape, *discs):
    """Labels of discs (row, column, radius), numbered in order; a later one takes no pixel of an earlier one."""
    return draw_ellipses(shape, *((row, column, radius, radius) for row, column, radius in discs))


def draw_ellipses(shape, *ellipses):
    """Labels of upright ellipses (row, column, half height, half width), numbered as `draw_discs` does."""
    rows, columns = np.indices(shape)
    labels = np.zeros(shape, np.int32)
    for index, (row, column, height, width) in enumerate(ellipses, start=1):
        inside = ((rows - row) / height) ** 2 + ((columns - column) / width) ** 2 <= 1
        labels[inside & (labels == 0)] = index
    return labels


def draw_field(rng, shape, radius, count):
    """Labels of up to `count` discs of `radius` px at random places, at least 3 px apart, none cut by the frame."""
    centres = []
    for centre in rng.uniform(radius + 1, np.array(shape) - radius - 2, (50 * count, 2)):
        if len(centres) < count and all(np.hypot(*(centre - other)) >= 2 * radius + 3 for other in centres):
            centres.append(centre)
    return draw_discs(shape, *((*centre, radius) for centre in centres))


def draw_kind(kind, seed=0, side=256):
    """An image (side, side, 3) with the look of a kind, and its labels."""
    ground, colour, radius = LOOKS[kind]
    rng = np.random.default_rng(seed)
    labels = draw_field(rng, (side, side), radius, 12)
    image = np.where(labels[..., None] > 0, colour, ground) + rng.normal(0, 3, (side, side, 1))
    return np.clip(cv2.GaussianBlur(image, (0, 0), 1), 0, 255).astype(np.uint8), labels
