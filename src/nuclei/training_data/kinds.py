"""Kinds: what an image shows, told from its pixels: its stain and the size of its nuclei."""

import cv2
import numpy as np

# The kinds of image, told apart by `image_kind` from the picture alone.
KINDS = (
    "fluorescence-small",  # bright on dark, nuclei thinner than LARGE_NUCLEUS
    "fluorescence-large",  # bright on dark, nuclei wider than that
    "purple",  # purple nuclei on lilac glass
    "pink-purple",  # purple nuclei on white glass or pink tissue
    "brown",  # purple nuclei on yellow-brown glass
    "grey-tissue",  # dark on light grey
)
# Kinds that look alike share thresholds: all but the fluorescence ones are stained.
LOOKS = dict.fromkeys(KINDS, "stained") | {"fluorescence-small": "small", "fluorescence-large": "large"}
LARGE_NUCLEUS = 30.0  # px, the width that separates the two fluorescence kinds
ZOOM_RANGE = (0.25, 3.0)  # least and greatest zoom of an image before the network sees it


def standardise(image: np.ndarray) -> np.ndarray:
    """Turn uint8 RGB into uint8 RGB as the network sees it: bright nuclei on a black background.

    A light image (median over 127) is inverted; then each channel loses its background (2nd percentile) and all three
    are stretched by one factor, so that the 99.8th percentile of the whole is white and hues survive. The factor is
    at most 12, which keeps the noise of an empty field dim.
    """
    return cv2.LUT(image, standard_lut(image))


def standard_lut(image: np.ndarray) -> np.ndarray:
    """Compute uint8 RGB -> uint8 (1, 256, 3): what `standardise` makes of each level of each channel of this image."""
    sparse, levels = _sparse(image), np.arange(256)
    if np.median(sparse) > 127:
        sparse, levels = 255 - sparse, 255 - levels
    black = np.percentile(sparse, 2, axis=(0, 1))
    white = max(np.percentile((sparse - black).max(axis=2), 99.8), 255 / 12)
    ramp = (levels[:, None] - black) * (255.0 / white)
    return np.clip(ramp, 0, 255).round().astype(np.uint8)[None]


def _sparse(image):
    """Take every n-th row and column, about 128 of the shorter: enough for percentiles, and a hundred times faster."""
    step = max(1, min(image.shape[:2]) // 128)
    return image[::step, ::step]


def image_kind(image: np.ndarray) -> str:
    """Tell the kind of an image, uint8 RGB -> one of KINDS, from the picture alone.

    Colour (mean spread of the channels over 4 levels) separates the stains, and among them the glass does: the median
    colour of the lighter half, in CIE Lab, is lilac (b* under -12), yellow-brown (b* over 8) or neither. Among grey
    images the light ones are tissue; the dark ones go by `nucleus_width`.
    """
    sparse = np.ascontiguousarray(_sparse(image))
    if np.ptp(sparse, axis=2).mean() > 4:
        lab = cv2.cvtColor(sparse, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(np.int16)
        light = lab[lab[:, 0] >= np.median(lab[:, 0])]
        yellowness = np.median(light[:, 2]) - 128
        return "purple" if yellowness < -12 else "brown" if yellowness > 8 else "pink-purple"
    if np.median(sparse) > 127:
        return "grey-tissue"
    return "fluorescence-large" if nucleus_width(image) > LARGE_NUCLEUS else "fluorescence-small"


def nucleus_width(image: np.ndarray) -> float:
    """Measure the typical width of what is bright in a dark image, px: twice the inscribed radius of Otsu's components,
    the median weighted by area (specks are many and weigh nothing; clumps keep the width of their parts)."""
    grey = cv2.GaussianBlur(standardise(image)[..., 0], (0, 0), 1.5)
    _, bright = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    count, components = cv2.connectedComponents(bright)
    if count == 1:
        return 0.0
    # The frame counts as background: a nucleus cut by it shows its half width there.
    distance = cv2.distanceTransform(np.pad(bright, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    radius, numbers = np.zeros(count), components.ravel().astype(np.intp)
    np.maximum.at(radius, numbers, distance.ravel())
    areas = np.bincount(numbers)[1:]
    return 2 * float(np.quantile(radius[1:], 0.5, weights=areas, method="inverted_cdf"))


def nucleus_diameter(labels: np.ndarray) -> float:
    """Measure the typical diameter of nuclei in labels, px: that of a disc of equal area, the median weighted by area;
    0.0 where there are none."""
    areas = np.bincount(labels.ravel())[1:]
    areas = areas[areas > 0]
    diameters = np.sqrt(4 * areas / np.pi)
    return float(np.quantile(diameters, 0.5, weights=areas, method="inverted_cdf")) if areas.size else 0.0


def network_zoom(diameter: float, target: float, share: float) -> float:
    """Choose the zoom at which the network sees an image whose typical nucleus is `diameter` px wide, in ZOOM_RANGE.

    It goes `share` (0..1) of the way, in octaves, to where that nucleus would be `target` px wide. Zoomed all the way,
    large nuclei lose the detail of their outlines, and small ones cost time; not at all, the network would have to know
    every size. Halfway to 32 px, 12 become 20 and 50 become 40. Without nuclei, where the diameter is 0, it is 1.
    """
    if diameter == 0:
        return 1.0
    lowest, highest = ZOOM_RANGE
    return float(min(max((target / diameter) ** share, lowest), highest))
