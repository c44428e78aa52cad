"""Watershed: from probabilities to instances, by flooding from seeds."""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage as ndi
from skimage.feature import peak_local_max
from skimage.segmentation import expand_labels, watershed

from nuclei.training_data.targets import BORDER, CORE, INTERIOR


@dataclass(frozen=True)
class Thresholds:
    """What `find_instances` goes by. Sizes count in pixels of the scale at which the network worked, so that they hold
    for every magnification. The defaults are about right for masks that are drawn as stage1_train's are."""

    seed: float = 0.4  # 0..1, of core * (1 - border)
    interior: float = 0.58  # 0..1
    seed_area: float = 16.0  # px of the network's scale
    area: float = 32.0  # px of the network's scale
    confidence: float = 0.7  # 0..1, of the mean interior probability
    grow: float = 0.0  # px of the network's scale by which each nucleus grows in the end


# What to go by where no image with truth is at hand, by whose hand drew the masks and by look: stage1_test's are fuller
# than stage1_train's. The former were chosen on the 33 images of it whose truth is open (docs/results.md).
HANDS = {
    "stage1_test": {
        "small": Thresholds(seed=0.2, interior=0.3, confidence=0.75),
        "large": Thresholds(seed=0.2, interior=0.55, confidence=0.75),
        "stained": Thresholds(seed=0.2, interior=0.25, confidence=0.6, grow=1.5),
    },
    "stage1_train": dict.fromkeys(("small", "large", "stained"), Thresholds()),
}


def find_instances(probs: np.ndarray, thresholds: Thresholds, zoom: float = 1.0) -> np.ndarray:
    """Flood probs float32 (H, W, 3 or 1) -> labels int32 (H, W), ids 1..n; nuclei never overlap and are connected.

    Seeds are the connected parts of core * (1 - border); they flood the interior by altitude, from the surest pixel
    outwards (scikit-image's watershed; OpenCV's goes by the difference of neighbours and loses pixels to lines). An
    interior part that holds no seed is its own seed: a nucleus so small or so dim that its core was not found. Where
    there is the interior alone, its distance transform stands in for the core.

    Args:
        zoom: network px for one px of `probs`.
    """
    inside = probs[..., INTERIOR]
    interior = inside > thresholds.interior
    if probs.shape[-1] == 1:
        seeds, altitude = _find_peaks(interior, thresholds.seed_area**0.5 / zoom)
    else:
        core = probs[..., CORE] * (1 - probs[..., BORDER])
        seeds, altitude = _large_parts(core > thresholds.seed, thresholds.seed_area / zoom**2), -(inside + core)
    interior |= seeds > 0
    parts, count = ndi.label(interior)
    seedless = np.setdiff1d(np.arange(1, count + 1), parts[seeds > 0])
    seeds = np.where(np.isin(parts, seedless), parts + seeds.max(initial=0), seeds)
    labels = _keep_nuclei(watershed(altitude, seeds, mask=interior), inside, thresholds, zoom)
    return expand_labels(labels, thresholds.grow / zoom) if thresholds.grow else labels


def _find_peaks(interior, apart):
    """Find the peaks of the distance transform, at least `apart` px from each other -> (seeds, altitude)."""
    depth = cv2.distanceTransform(np.pad(interior, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    smooth = cv2.GaussianBlur(depth, (0, 0), 1) * interior
    peaks = peak_local_max(smooth, min_distance=max(1, round(apart)), exclude_border=False)
    seeds = np.zeros(interior.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return seeds, -depth


def find_confidences(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Tell how sure the network is of each nucleus: the mean interior probability of its pixels, 0..1.

    probs float32 (H, W, 3), labels int32 (H, W) with ids 1..n -> float64 (n,).
    """
    areas = np.bincount(labels.ravel())
    sums = np.bincount(labels.ravel(), weights=probs[..., INTERIOR].ravel())
    return sums[1:] / areas[1:]


def _large_parts(mask, area):
    """Number the connected parts of a mask that have at least `area` px -> int32 (H, W)."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    keep = stats[:, cv2.CC_STAT_AREA] >= area
    keep[0] = False
    return np.where(keep, np.arange(count), 0).astype(np.int32)[parts]


def _keep_nuclei(labels, interior, thresholds, zoom):
    """Drop what is too small or too unsure, and number the rest 1..n."""
    areas = np.bincount(labels.ravel())
    sums = np.bincount(labels.ravel(), weights=interior.ravel())
    keep = (areas >= thresholds.area / zoom**2) & (sums >= thresholds.confidence * areas)
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0).astype(np.int32)[labels]
