"""Inference: an image of any size through a network of one tile size.

The network is any callable: float32 (batch, tile, tile, 3) in 0..1 -> float32 (batch, tile, tile, C). It always sees
the same shape, so that TensorFlow and JAX compile once, and its memory is bounded by the tile, not by the image.
"""

from collections.abc import Callable, Sequence
from itertools import product

import cv2
import numpy as np

from nuclei.prediction.tta import unview_probs, view_image

Network = Callable[[np.ndarray], np.ndarray]


def predict_probs(
    seen: np.ndarray, network: Network, tile: int, overlap: int, batch: int, views: Sequence[int], zoom: float
) -> np.ndarray:
    """Predict an image at a zoom, uint8 (H, W, 3), standardised -> probs float32 (H, W, C), the mean over the views.

    Args:
        network: see the module.
        tile: px, side of the network's input.
        overlap: px that neighbouring tiles share at least, less than `tile`.
        batch: tiles in one call.
        views: some of tta.VIEWS.
        zoom: factor by which the image is enlarged for the network; probs come back at the image's own size.
    """
    height, width = seen.shape[:2]
    size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
    if size == (width, height):
        return predict_tiled(seen, network, tile, overlap, batch, views)
    zoomed = cv2.resize(seen, size, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR)
    probs = predict_tiled(zoomed, network, tile, overlap, batch, views)
    smooth = cv2.INTER_AREA if zoom > 1 else cv2.INTER_LINEAR
    return cv2.resize(probs, (width, height), interpolation=smooth).reshape(height, width, -1)


def predict_tiled(
    seen: np.ndarray, network: Network, tile: int, overlap: int, batch: int, views: Sequence[int] = (0,)
) -> np.ndarray:
    """Predict tile by tile, uint8 (H, W, 3), standardised -> probs float32 (H, W, C), blended with soft seams.

    Every view of every tile is one input of the network; what comes back is turned upright, weighted by a window that
    fades towards the tile's edge, and summed. An image smaller than the tile is mirrored out to it.
    """
    height, width = seen.shape[:2]
    padding = [(0, max(tile - n, 0)) for n in (height, width)]
    padded = np.pad(seen, [*padding, (0, 0)], mode="symmetric")
    rows, columns = (_tile_starts(length, tile, overlap) for length in padded.shape[:2])
    inputs = list(product(rows, columns, views))
    window = _blend_window(tile, overlap)
    total, weight = np.zeros((*padded.shape[:2], 1), np.float32), np.zeros((*padded.shape[:2], 1), np.float32)
    for start in range(0, len(inputs), batch):
        chunk = inputs[start : start + batch]
        tiles = np.zeros((batch, tile, tile, 3), np.float32)
        for slot, (y, x, view) in zip(tiles, chunk, strict=False):
            slot[:] = view_image(padded[y : y + tile, x : x + tile], view)
        probs = np.asarray(network(tiles / 255), np.float32)
        if start == 0:
            total = np.zeros((*padded.shape[:2], probs.shape[-1]), np.float32)
        for (y, x, view), one in zip(chunk, probs, strict=False):
            total[y : y + tile, x : x + tile] += unview_probs(one, view) * window
            weight[y : y + tile, x : x + tile] += window
    return (total / weight)[:height, :width]


def _tile_starts(length, tile, overlap):
    """Spread the starts of tiles evenly along one axis, so that the last tile ends at `length`."""
    if length <= tile:
        return [0]
    count = int(np.ceil((length - overlap) / (tile - overlap)))
    return np.linspace(0, length - tile, count).round().astype(int).tolist()


def _blend_window(tile, overlap):
    """Make float32 (tile, tile, 1): 1 in the middle, falling to nearly 0 over the overlap at each edge, never 0."""
    ramp = (np.minimum(np.arange(tile), np.arange(tile)[::-1]) + 0.5) / max(overlap, 1)
    edge = np.minimum(ramp, 1).astype(np.float32)
    return (edge[:, None] * edge)[..., None]
