"""Targets: what the network learns from a label image, and how much each pixel weighs."""

import cv2
import numpy as np
from scipy import ndimage as ndi

# The channels of targets and probs, in this order.
INTERIOR, BORDER, CORE = range(3)


def make_targets(labels: np.ndarray, core: float) -> np.ndarray:
    """Turn labels int32 (H, W) into targets float32 (H, W, 3) of zeros and ones: interior, border, core.

    - interior: every pixel of a nucleus.
    - border: pixels that two nuclei come close to, and so only where nuclei touch; its thickness goes with the size
      of the nuclei (the 2018 winners' target: github.com/selimsef/dsb2018_topcoders).
    - core: pixels deeper in their nucleus than `core` (0..1) of its greatest depth: a level of the relative distance,
      which separates touching nuclei of every size alike.
    """
    targets = np.zeros((*labels.shape, 3), np.float32)
    interior = labels > 0
    ids, depths = labels[interior], inner_distance(labels)[interior]
    deepest = np.zeros(ids.max(initial=0) + 1, np.float32)
    np.maximum.at(deepest, ids, depths)
    targets[..., INTERIOR] = interior
    targets[..., BORDER] = _border_mask(labels)
    targets[interior, CORE] = depths > core * deepest[ids]
    return targets


def inner_distance(labels: np.ndarray) -> np.ndarray:
    """Measure how deep each pixel is in its own nucleus: labels (H, W) -> float32 (H, W), px from its edge, 0 outside.

    The frame is not an edge: a nucleus that it cuts continues beyond it.
    """
    ids = labels.astype(np.float32)  # OpenCV's filters refuse int32
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    # At the frame OpenCV's default border never wins, neither in dilation nor in erosion.
    edge = cv2.dilate(ids, cross) != cv2.erode(ids, cross)
    inside = ((labels > 0) & ~edge).astype(np.uint8)
    if inside.all():
        return np.full(labels.shape, max(labels.shape), np.float32)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    return depth + np.float32(0.5) * (labels > 0)


def _border_mask(labels):
    """Mark the pixels, bool (H, W), that see two nuclei in a window as wide as a fifth of the typical one."""
    areas = np.bincount(labels.ravel())[1:]
    if np.count_nonzero(areas) < 2:
        return np.zeros(labels.shape, bool)
    diameter = np.sqrt(4 / np.pi * np.median(areas[areas > 0]))
    size = int(np.clip(2 * round(diameter / 10) + 1, 3, 9))
    window = np.ones((size, size), np.uint8)
    ids = labels.astype(np.float32)
    highest = cv2.dilate(ids, window)
    lowest = cv2.erode(np.where(labels > 0, ids, np.float32(2**24)), window)
    return (highest > 0) & (highest != lowest)


def pixel_weights(labels: np.ndarray, border: float, sigma: float, rare: float) -> np.ndarray:
    """Compute the U-Net paper's weight map -> float32 (H, W), 1 or more everywhere.

    w = w_class + border * exp(-(d1 + d2)^2 / (2 sigma^2)), with d1 and d2 the distances to the nearest and the second
    nearest nucleus (Ronneberger et al. 2015, section 3, equation 2; there border = 10 and sigma = 5 px). The class
    that fills less of the image weighs more, by the square root of the ratio of the two classes, `rare` at the most:
    the whole ratio would let a single small nucleus outweigh its image.

    Distances from 3 sigma on add 1 % of `border` at the most and are left out: each nucleus is measured in its own box.
    """
    interior = labels > 0
    share = interior.mean()
    weights = np.ones(labels.shape, np.float32)
    if 0 < share < 1:
        rarer = interior if share < 0.5 else ~interior
        weights[rarer] = min(np.sqrt(max(share, 1 - share) / min(share, 1 - share)), rare)
    nearest, second = _two_nearest(labels, reach=int(np.ceil(3 * sigma)))
    near = np.isfinite(second)
    weights[near] += border * np.exp(-((nearest[near] + second[near]) ** 2) / (2 * sigma**2))
    return weights


def _two_nearest(labels, reach):
    """Measure px to the nearest and the second nearest nucleus -> two float32 (H, W), inf from `reach` on."""
    nearest = np.full(labels.shape, np.inf, np.float32)
    second = nearest.copy()
    for index, box in enumerate(ndi.find_objects(labels), start=1):
        if box is None:
            continue
        box = tuple(np.s_[max(side.start - reach, 0) : side.stop + reach] for side in box)
        outside = (labels[box] != index).astype(np.uint8)
        distance = cv2.distanceTransform(outside, cv2.DIST_L2, 5)
        distance[distance >= reach] = np.inf
        second[box] = np.minimum(second[box], np.maximum(nearest[box], distance))
        nearest[box] = np.minimum(nearest[box], distance)
    return nearest, second
