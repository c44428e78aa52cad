"""Watershed: from probabilities to instances, by flooding from seeds."""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage as ndi
from skimage.measure import label as connected_components
from skimage.segmentation import watershed

from nuclei.targets import INTERIOR, OFFSET_UNIT


@dataclass(frozen=True)
class Thresholds:
    """What `find_instances` goes by; chosen on the tuning images and saved with the weights. Sizes count in pixels of
    the scale at which the network worked, so that they hold for every magnification."""

    seed: float = 0.4  # 0..1, of core * (1 - border)
    interior: float = 0.58  # 0..1
    seed_area: float = 16.0  # px of the network's scale
    area: float = 32.0  # px of the network's scale
    confidence: float = 0.7  # 0..1, of the mean interior probability


def find_instances(probs, thresholds, zoom=1.0):
    """probs float32 (H, W, 3) -> labels int32 (H, W), ids 1..n; nuclei never overlap, have no holes and are connected.

    Seeds are the connected parts of core * (1 - border); they flood the interior by altitude, from the surest pixel
    outwards (scikit-image's watershed; OpenCV's goes by the difference of neighbours and loses pixels to lines). An
    interior part that holds no seed is its own seed: a nucleus so small or so dim that its core was not found.

    Args:
        zoom: network px for one px of `probs`; the thresholds' areas are divided by its square.
    """
    interior = probs[..., INTERIOR] > thresholds.interior
    labels = _gather_votes(interior, probs[..., 3:5] * (OFFSET_UNIT / zoom), 10 * thresholds.seed / zoom)
    parts = connected_components(labels, connectivity=1)  # what votes across a gap is another nucleus
    return _keep_nuclei(_fill_holes(parts), probs[..., INTERIOR], thresholds, zoom)


def _gather_votes(interior, offsets, sigma):
    """Each pixel of the interior votes for a middle; the votes, blurred by sigma px, have a basin for each nucleus."""
    height, width = interior.shape
    rows, columns = np.nonzero(interior)
    at_row = np.clip(np.round(rows + offsets[rows, columns, 0]), 0, height - 1).astype(int)
    at_column = np.clip(np.round(columns + offsets[rows, columns, 1]), 0, width - 1).astype(int)
    votes = np.zeros(interior.shape, np.float32)
    np.add.at(votes, (at_row, at_column), 1)
    density = cv2.GaussianBlur(votes, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
    basins = watershed(-density, mask=density > 1e-3)
    labels = np.zeros(interior.shape, np.int32)
    labels[rows, columns] = basins[at_row, at_column]
    return labels


def find_confidences(probs, labels):
    """How sure the network is of each nucleus: the mean interior probability of its pixels, 0..1.

    probs float32 (H, W, 3), labels int32 (H, W) with ids 1..n -> float64 (n,).
    """
    areas = np.bincount(labels.ravel())
    sums = np.bincount(labels.ravel(), weights=probs[..., INTERIOR].ravel())
    return sums[1:] / areas[1:]


def _large_parts(mask, area):
    """The connected parts of a mask that have at least `area` px -> int32 (H, W)."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    keep = stats[:, cv2.CC_STAT_AREA] >= area
    keep[0] = False
    return np.where(keep, np.arange(count), 0).astype(np.int32)[parts]


def _fill_holes(labels):
    """Background wholly inside one nucleus becomes that nucleus."""
    gaps, _ = ndi.label(np.pad(labels == 0, 1, constant_values=True))
    filled = np.pad(labels, 1)
    for gap, box in enumerate(ndi.find_objects(gaps), start=1):
        if gap == gaps[0, 0]:
            continue  # the background itself
        wider = tuple(slice(side.start - 1, side.stop + 1) for side in box)
        hole = gaps[wider] == gap
        around = np.unique(filled[wider][ndi.binary_dilation(hole) & ~hole])
        if around.size == 1:
            filled[wider][hole] = around[0]
    return filled[1:-1, 1:-1]


def _keep_nuclei(labels, interior, thresholds, zoom):
    """Drops what is too small or too unsure, and numbers the rest 1..n."""
    areas = np.bincount(labels.ravel())
    sums = np.bincount(labels.ravel(), weights=interior.ravel())
    keep = (areas >= thresholds.area / zoom**2) & (sums >= thresholds.confidence * areas)
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0).astype(np.int32)[labels]
