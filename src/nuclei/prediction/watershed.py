"""Watershed: from probabilities to instances, by flooding from seeds."""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage as ndi
from skimage.segmentation import watershed

from nuclei.training_data.targets import BORDER, CORE, INTERIOR


@dataclass(frozen=True)
class Thresholds:
    """What `find_instances` goes by; chosen on the tuning images and saved with the weights. Sizes count in pixels of
    the scale at which the network worked, so that they hold for every magnification."""

    seed: float = 0.4  # 0..1, of core * (1 - border)
    interior: float = 0.58  # 0..1
    seed_area: float = 16.0  # px of the network's scale
    area: float = 32.0  # px of the network's scale
    confidence: float = 0.7  # 0..1, of the mean interior probability


def find_instances(probs: np.ndarray, thresholds: Thresholds, zoom: float = 1.0) -> np.ndarray:
    """Flood probs float32 (H, W, 3) -> labels int32 (H, W), ids 1..n; nuclei never overlap and are connected.

    Seeds are the connected parts of core * (1 - border); they flood the interior by altitude, from the surest pixel
    outwards (scikit-image's watershed; OpenCV's goes by the difference of neighbours and loses pixels to lines). An
    interior part that holds no seed is its own seed: a nucleus so small or so dim that its core was not found.

    Args:
        zoom: network px for one px of `probs`; the thresholds' areas are divided by its square.
    """
    core = probs[..., CORE] * (1 - probs[..., BORDER])
    interior = probs[..., INTERIOR] > thresholds.interior
    seeds = _large_parts(core > thresholds.seed, thresholds.seed_area / zoom**2)
    interior |= seeds > 0
    parts, count = ndi.label(interior)
    seedless = np.setdiff1d(np.arange(1, count + 1), parts[seeds > 0])
    seeds = np.where(np.isin(parts, seedless), parts + seeds.max(initial=0), seeds)
    altitude = -(probs[..., INTERIOR] + core)
    labels = watershed(altitude, seeds, mask=interior)
    return _keep_nuclei(labels, probs[..., INTERIOR], thresholds, zoom)


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
