"""Augmentation: random crops of an image and its labels.

Both are bent alike; then come colour, blur and noise on the image. Targets are drawn from the
labels after all of this, so they are as crisp as if the crop had been photographed so.
"""

import cv2
import numpy as np
from skimage.measure import label as connected_components

ANISOTROPY = 0.25  # octaves between the two axes, both ways


def augment(
    image: np.ndarray, labels: np.ndarray, rng: np.random.Generator, crop: int, zoom: float
) -> tuple[np.ndarray, np.ndarray]:
    """Take one random crop: uint8 (H, W, 3), int32 (H, W) -> uint8 (crop, crop, 3), int32 (crop, crop).

    Args:
        rng: numpy Generator; the same state gives the same crop.
        crop: px, side of the result.
        zoom: px of the result for one px of the image, along and across.
    """
    return recolour(*warp(image, labels, rng, crop, zoom), rng)


def warp(
    image: np.ndarray, labels: np.ndarray, rng: np.random.Generator, crop: int, zoom: float
) -> tuple[np.ndarray, np.ndarray]:
    """Change geometry alone: position, rotation, flip, anisotropy and elastic bending in one resampling of each array.

    Beyond its frame the image is mirrored. Ids are dealt anew, 1..n: what the crop's frame cuts in two, or the mirror
    shows twice, are two nuclei.
    """
    columns, rows = _source_grid(image.shape[:2], rng, crop, zoom)
    down, along = _source_span(rows, image.shape[0]), _source_span(columns, image.shape[1])
    image, labels = image[down, along], labels[down, along]
    rows, columns = rows - down.start, columns - along.start
    if zoom < 0.75:  # else every second pixel would be skipped: aliasing
        image = cv2.GaussianBlur(image, (0, 0), 0.4 / zoom)
    # float32 carries ids exactly, up to 2^24; OpenCV does not resample int32
    ids = cv2.remap(labels.astype(np.float32), columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)
    seen = cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return seen, connected_components(ids.astype(np.int32), connectivity=2).astype(np.int32)


def _source_grid(shape, rng, crop, zoom):
    """Say where each pixel of the crop comes from: float32 columns and rows (crop, crop), in px of the image."""
    angle = rng.uniform(0, 2 * np.pi)
    stretch = 2.0 ** rng.uniform(-ANISOTROPY, ANISOTROPY)
    scale = np.array([stretch**0.5, stretch**-0.5]) / zoom
    flip = rng.choice([-1, 1])
    cos, sin = np.cos(angle), np.sin(angle)
    turn = (np.array([[cos, -sin * flip], [sin, cos * flip]]) * scale).astype(np.float32)
    centre = [float(rng.uniform(min(crop / zoom, n) / 2, n - min(crop / zoom, n) / 2)) - 0.5 for n in shape[::-1]]
    grid = np.arange(crop, dtype=np.float32) - (crop - 1) / 2
    columns = centre[0] + turn[0, 0] * grid[None, :] + turn[0, 1] * grid[:, None]
    rows = centre[1] + turn[1, 0] * grid[None, :] + turn[1, 1] * grid[:, None]
    if rng.random() < 0.4:  # elastic: a coarse random field, smooth by its enlargement
        field = rng.normal(0, rng.uniform(2, 6) / zoom, (2, 5, 5)).astype(np.float32)
        columns = columns + cv2.resize(field[0], (crop, crop), interpolation=cv2.INTER_CUBIC)
        rows = rows + cv2.resize(field[1], (crop, crop), interpolation=cv2.INTER_CUBIC)
    return columns, rows


def _source_span(places, length):
    """Find what the grid reads along one axis, a slice, with a margin for blur: filtering more would cost time."""
    first, last = int(places.min()) - 8, int(places.max()) + 8
    # One pixel at least, even where bending has pushed a small crop off the image.
    return slice(min(max(first, 0), length - 1), max(min(last, length), 1))


def recolour(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Change light and colour alone: image uint8 (H, W, 3) -> uint8 (H, W, 3); labels pass through."""
    if rng.random() < 0.15:  # grey: stained tissue seen without its hue
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    if rng.random() < 0.15:
        image = image[..., rng.permutation(3)]
    if rng.random() < 0.3:
        image = _shift_hsv(image, rng)
    if rng.random() < 0.7:
        image = cv2.LUT(np.ascontiguousarray(image), _tone_curve(rng))
    if rng.random() < 0.04:
        image = 255 - image
    if rng.random() < 0.25:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.6))
    if rng.random() < 0.25:
        image = _add_noise(image, rng)
    return np.ascontiguousarray(image), labels


def _shift_hsv(image, rng):
    hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV)
    levels = np.arange(256)
    hue = (levels + rng.integers(-15, 16)) % 180  # OpenCV's hue has 180 steps
    saturation = np.clip(levels * rng.uniform(0.6, 1.4), 0, 255)
    table = np.stack([hue, saturation, levels], axis=-1).astype(np.uint8)
    return cv2.cvtColor(cv2.LUT(hsv, table[None]), cv2.COLOR_HSV2RGB)


def _tone_curve(rng):
    """Make one table of gamma, contrast and brightness, uint8 (1, 256)."""
    levels = np.arange(256) / 255
    curve = levels ** (2.0 ** rng.uniform(-0.8, 0.8)) * rng.uniform(0.7, 1.3) + rng.uniform(-0.08, 0.12)
    return np.clip(curve * 255, 0, 255).round().astype(np.uint8)[None]


def _add_noise(image, rng):
    """Add sensor noise, one field for all channels, as a grey image has it."""
    field = rng.standard_normal(image.shape[:2], np.float32) * rng.uniform(2, 14)
    return np.clip(image + field[..., None], 0, 255).astype(np.uint8)
