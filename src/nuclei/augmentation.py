"""Augmentation: random crops of an image and its labels, bent alike, some of them crowded with the nuclei of another
crop; then colour, blur and noise on the image.

Targets are drawn from the labels after all of this, so they are as crisp as if the crop had been photographed so.
"""

import cv2
import numpy as np
from skimage.measure import label as connected_components

from nuclei.metric import overlap_matrix

ANISOTROPY = 0.25  # octaves between the two axes, both ways
CROWDED = 0.35  # share of the crops that get the nuclei of another one
MAX_SHARED = 0.2  # of a nucleus, that lies on another one there


def augment(image, labels, rng, crop, zoom):
    """One random crop: uint8 (H, W, 3), int32 (H, W) -> uint8 (crop, crop, 3), int32 (crop, crop).

    Args:
        rng: numpy Generator; the same state gives the same crop.
        crop: px, side of the result.
        zoom: px of the result for one px of the image, along and across.
    """
    seen, bent = warp(image, labels, rng, crop, zoom)
    if rng.random() < CROWDED:
        seen, bent = crowd(seen, bent, *warp(image, labels, rng, crop, zoom))
    return recolour(seen, bent, rng)


def warp(image, labels, rng, crop, zoom):
    """Geometry alone: position, rotation, flip, anisotropy and elastic bending in one resampling of each array.

    Beyond its frame the image is mirrored. Ids are dealt anew, 1..n: what the crop's frame cuts in two, or the mirror
    shows twice, are two nuclei.
    """
    columns, rows = _source_grid(image.shape[:2], rng, crop, zoom)
    top, left, bottom, right = _source_box(rows, columns, image.shape[:2])
    rows, columns = rows - top, columns - left
    image, labels = image[top:bottom, left:right], labels[top:bottom, left:right]
    if zoom < 0.75:  # else every second pixel would be skipped: aliasing
        image = cv2.GaussianBlur(image, (0, 0), 0.4 / zoom)
    # float32 carries ids exactly, up to 2^24; OpenCV does not resample int32
    ids = cv2.remap(labels.astype(np.float32), columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)
    seen = cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return seen, _number_parts(ids)


def _source_grid(shape, rng, crop, zoom):
    """Where each pixel of the crop comes from: float32 columns and rows (crop, crop), in px of the image."""
    angle = rng.uniform(0, 2 * np.pi)
    stretch = 2.0 ** rng.uniform(-ANISOTROPY, ANISOTROPY)
    scale = np.array([stretch**0.5, stretch**-0.5]) / zoom
    flip = rng.choice([-1, 1])
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin * flip], [sin, cos * flip]]) * scale
    centre = [rng.uniform(min(crop / zoom, n) / 2, n - min(crop / zoom, n) / 2) - 0.5 for n in shape[::-1]]
    grid = np.arange(crop, dtype=np.float32) - (crop - 1) / 2
    columns = centre[0] + turn[0, 0] * grid[None, :] + turn[0, 1] * grid[:, None]
    rows = centre[1] + turn[1, 0] * grid[None, :] + turn[1, 1] * grid[:, None]
    if rng.random() < 0.4:  # elastic: a coarse random field, smooth by its enlargement
        field = rng.normal(0, rng.uniform(2, 6) / zoom, (2, 5, 5)).astype(np.float32)
        columns = columns + cv2.resize(field[0], (crop, crop), interpolation=cv2.INTER_CUBIC)
        rows = rows + cv2.resize(field[1], (crop, crop), interpolation=cv2.INTER_CUBIC)
    return columns.astype(np.float32), rows.astype(np.float32)


def _source_box(rows, columns, shape):
    """The part of the image that the grid looks at, with a margin for blur: filtering more would cost time."""
    margin = 8
    box = []
    for side, length in zip((rows, columns), shape, strict=True):
        # One pixel at least, even where bending has pushed a small crop off the image.
        box.append((min(max(int(side.min()) - margin, 0), length - 1), max(min(int(side.max()) + margin, length), 1)))
    (top, bottom), (left, right) = box
    return top, left, bottom, right


def crowd(image, labels, other, other_labels):
    """The nuclei of another crop, laid among those of this one, so that more of them touch.

    A nucleus that would share over MAX_SHARED of itself, or of one that is there, stays out. Shared pixels go to the
    brighter one, which lies in front: standardised nuclei are bright on black, whatever the stain.

    Args:
        image, other: uint8 (S, S, 3), standardised.
        labels, other_labels: int32 (S, S), ids 1..n.
    """
    overlap = overlap_matrix(labels, other_labels)
    areas, other_areas = overlap.sum(axis=1)[1:], overlap.sum(axis=0)[1:]
    shared = overlap[1:, 1:] / np.minimum(areas[:, None], other_areas)
    stays_out = np.concatenate([[True], (shared > MAX_SHARED).any(axis=0)])
    pasted = np.where(stays_out[other_labels], 0, other_labels)
    near = cv2.dilate((pasted > 0).astype(np.float32), np.ones((5, 5), np.uint8))
    laid = (other * cv2.GaussianBlur(near, (0, 0), 1.5)[..., None]).astype(np.uint8)  # no seam around it
    in_front = (pasted > 0) & ((labels == 0) | (laid.max(axis=2) > image.max(axis=2)))
    merged = np.where(in_front, pasted + labels.max(initial=0), labels)
    return np.maximum(image, laid), _number_parts(merged)


def _number_parts(ids):
    """int32 (S, S) of ids 1..n, dealt anew: each connected part of an id is a nucleus."""
    return connected_components(ids.astype(np.int32), connectivity=2).astype(np.int32)


def recolour(image, labels, rng):
    """Light and colour alone: image uint8 (H, W, 3) -> uint8 (H, W, 3); labels pass through."""
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
    table = np.stack(
        [
            (levels + rng.integers(-15, 16)) % 180,  # OpenCV's hue has 180 steps
            np.clip(levels * rng.uniform(0.6, 1.4), 0, 255),
            levels,
        ],
        axis=-1,
    )
    return cv2.cvtColor(cv2.LUT(hsv, table.astype(np.uint8)[None]), cv2.COLOR_HSV2RGB)


def _tone_curve(rng):
    """Gamma, contrast and brightness in one table, uint8 (1, 256)."""
    levels = np.arange(256) / 255
    curve = levels ** (2.0 ** rng.uniform(-0.8, 0.8)) * rng.uniform(0.7, 1.3) + rng.uniform(-0.08, 0.12)
    return np.clip(curve * 255, 0, 255).round().astype(np.uint8)[None]


def _add_noise(image, rng):
    """Sensor noise, one field for all channels, as a grey image has it."""
    field = rng.standard_normal(image.shape[:2], np.float32) * rng.uniform(2, 14)
    return np.clip(image + field[..., None], 0, 255).astype(np.uint8)
