"""What several tests draw: labels whose areas, diameters and neighbours can be computed, and who finds them."""

import cv2
import numpy as np

from nuclei.training_data.images import ImageSet

# kind: colour of the ground, colour of the nuclei, radius of the nuclei in px
DRAWN_LOOKS = {
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


def draw_odd_shapes():
    """Labels (60, 80) of five nuclei: with a hole, around another one, of one pixel, at the frame, of two parts."""
    labels = draw_discs((60, 80), (20, 20, 12), (40, 60, 9))
    labels[18:22, 18:22] = 0
    labels[5, 70] = 3
    labels[50:, :4] = 4
    labels[30:33, 50:53] = labels[34:36, 55:57] = 5
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
    ground, colour, radius = DRAWN_LOOKS[kind]
    rng = np.random.default_rng(seed)
    labels = draw_field(rng, (side, side), radius, 12)
    image = np.where(labels[..., None] > 0, colour, ground) + rng.normal(0, 3, (side, side, 1))
    return np.clip(cv2.GaussianBlur(image, (0, 0), 1), 0, 255).astype(np.uint8), labels


def draw_disc_set(count, seed=0, side=64):
    """An ImageSet of bright discs on black, 12 to 20 px wide; some of them touch."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    images, labels = [], []
    for _ in range(count):
        one = np.zeros((side, side), np.int32)
        for label in range(1, 6):
            centre = rng.uniform(8, side - 8, 2)
            disc = np.hypot(y - centre[0], x - centre[1]) < rng.uniform(6, 10)
            one[disc & (one == 0)] = label
        light = 30 + 120 * (one > 0) + rng.normal(0, 8, one.shape)
        images.append(np.repeat(light.clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1))
        labels.append(one)
    return ImageSet([f"{i:02d}" for i in range(count)], images, labels, ["fluorescence-small"] * count)


def draw_disc(diameter, size=160):
    """A bright disc on black, in the middle of a uint8 (size, size, 3)."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return np.repeat(np.where(np.hypot(y, x) <= diameter / 2, 200, 5).astype(np.uint8)[..., None], 3, axis=-1)


def disc_network(x):
    """A network that knows discs by their light: interior, no border, and a core as wide as the interior."""
    bright = (x[..., 0] > 0.5).astype(np.float32)
    return np.stack([bright, np.zeros_like(bright), bright], axis=-1)
