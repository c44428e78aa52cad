"""Inference: an image of any size through the network, at once or tile by tile.

The network is any callable: float32 (N, H, W, 3) in 0..1 -> float32 (N, H, W, C). The pixels of a call bound its
memory, whatever the size of the image.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, product

import cv2
import numpy as np

from nuclei.prediction.tta import unview_probs, view_image

Network = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Tiling:
    """How images are laid before a network."""

    unit: int  # px, what the heights and widths of its inputs are multiples of
    pixels: int  # px in one call, at most
    overlap: int  # px that neighbouring tiles share at least, under the side of a square of `pixels`
    fixed: bool = False  # every call is as many tiles of unit * unit as the pixels allow, where each shape is compiled


def predict_probs(
    seen: np.ndarray, network: Network, tiling: Tiling, views: Sequence[int], zoom: float = 1.0
) -> np.ndarray:
    """Predict an image at a zoom, uint8 (H, W, 3), standardised -> probs float32 (H, W, C), the mean over the views.

    Args:
        network: see the module.
        views: some of tta.VIEWS.
        zoom: factor by which the image is enlarged for the network; probs come back at the image's own size.
    """
    height, width = seen.shape[:2]
    size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
    if size == (width, height):
        return predict_tiled(seen, network, tiling, views)
    zoomed = cv2.resize(seen, size, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR)
    probs = predict_tiled(zoomed, network, tiling, views)
    smooth = cv2.INTER_AREA if zoom > 1 else cv2.INTER_LINEAR
    return cv2.resize(probs, (width, height), interpolation=smooth).reshape(height, width, -1)


def predict_tiled(seen: np.ndarray, network: Network, tiling: Tiling, views: Sequence[int]) -> np.ndarray:
    """Predict uint8 (H, W, 3), standardised -> probs float32 (H, W, C).

    An image that one call holds is one tile, mirrored out to the unit; another is cut into as few as can be, all alike.
    Every view of every tile is one input; what comes back is turned upright, weighted by a window that fades towards
    the tile's edge, and summed.
    """
    shape, unit, overlap = seen.shape[:2], tiling.unit, tiling.overlap
    most = unit**2 if tiling.fixed else tiling.pixels
    longest = [-(-length // unit) * unit for length in shape]
    if math.prod(longest) > most:
        longest = [math.isqrt(most) // unit * unit] * 2
    (height, rows), (width, columns) = (_cut(*along, unit, overlap) for along in zip(shape, longest, strict=True))
    window, batch = _blend_window(height, width, overlap), tiling.pixels // (height * width)
    padding = [(0, max(side - length, 0)) for side, length in zip((height, width), shape, strict=True)]
    padded = np.pad(seen, [*padding, (0, 0)], mode="symmetric")
    total, weight = np.zeros((*padded.shape[:2], 1), np.float32), np.zeros((*padded.shape[:2], 1), np.float32)
    for turned, alike in groupby(views, lambda view: view & 4 and height != width):
        inputs = list(product(rows, columns, alike))
        for start in range(0, len(inputs), batch):
            chunk = inputs[start : start + batch]
            sides = (width, height) if turned else (height, width)
            x = np.zeros((batch if tiling.fixed else len(chunk), *sides, 3), np.float32)
            for slot, (top, left, view) in zip(x, chunk, strict=False):
                slot[:] = view_image(padded[top : top + height, left : left + width], view)
            probs = np.asarray(network(x / 255), np.float32)
            if total.shape[-1] != probs.shape[-1]:
                total = np.zeros((*padded.shape[:2], probs.shape[-1]), np.float32)
            for (top, left, view), one in zip(chunk, probs, strict=False):
                total[top : top + height, left : left + width] += unview_probs(one, view) * window
                weight[top : top + height, left : left + width] += window
    return (total / weight)[: shape[0], : shape[1]]


def _cut(length, longest, unit, overlap):
    """Cut a length into as few equal tiles of at most `longest` px as can be -> (a tile's length, their starts)."""
    count = max(1, math.ceil((length - overlap) / (longest - overlap))) if length > longest else 1
    tile = -(-math.ceil((length + (count - 1) * overlap) / count) // unit) * unit
    return tile, np.linspace(0, max(length - tile, 0), count).round().astype(int).tolist()


def _blend_window(height, width, overlap):
    """Make float32 (height, width, 1): 1 in the middle, nearly 0 at each edge, in between over the overlap."""
    rows, columns = (np.arange(side) + 0.5 for side in (height, width))
    rows, columns = (np.minimum(np.minimum(one, one[::-1]) / max(overlap, 1), 1) for one in (rows, columns))
    return (rows[:, None] * columns).astype(np.float32)[..., None]
