"""Inference: an image of any size through a network of one tile size, at the zoom that fits its nuclei.

The network is any callable: float32 (batch, tile, tile, 3) in 0..1 -> float32 (batch, tile, tile, C). It always sees
the same shape, so that TensorFlow and JAX compile once, and its memory is bounded by the tile, not by the image.
"""

from dataclasses import replace

import cv2
import numpy as np

from nuclei.kinds import nucleus_diameter, standard_table
from nuclei.targets import INTERIOR
from nuclei.tta import VIEWS, unview_probs, view_image
from nuclei.watershed import find_confidences, find_instances


def segment(image, network, thresholds, config, views=None):
    """uint8 (H, W, 3) -> (labels int32 (H, W), confidences float64 (n,)): scale, probabilities, instances."""
    probs, zoom = segment_probs(image, network, thresholds, config, views)
    labels = find_instances(probs, thresholds, zoom)
    return labels, find_confidences(probs, labels)


def segment_probs(image, network, thresholds, config, views=None):
    """uint8 (H, W, 3) -> (probs float32 (H, W, 3), the zoom that fits its nuclei). `views` stands in for config's."""
    tiles = (config.tile_size, config.tile_overlap, config.tile_batch)
    zoom = fit_zoom(image, network, thresholds, config.zoom, *tiles)
    zooms = tuple(zoom * factor for factor in config.tta_zooms)
    return predict_probs(image, network, *tiles, VIEWS[: views or config.tta_views], zooms), zoom


def predict_probs(image, network, tile, overlap, batch, views=(0,), zooms=(1.0,), table=None):
    """uint8 (H, W, 3) -> probs float32 (H, W, C), the mean over the dihedral views and zooms.

    Args:
        network: see the module.
        tile: px, side of the network's input.
        overlap: px that neighbouring tiles share at least, less than `tile`.
        batch: tiles in one call.
        views: some of tta.VIEWS.
        zooms: factors by which the image is enlarged for the network; probs come back at the image's own size.
        table: `standard_table` of the image that this one is a part of; None takes its own.
    """
    seen = cv2.LUT(image, standard_table(image) if table is None else table)
    height, width = image.shape[:2]
    total = 0.0
    for zoom in zooms:
        size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
        smooth = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
        zoomed = seen if size == (width, height) else cv2.resize(seen, size, interpolation=smooth)
        probs = predict_tiled(zoomed, network, tile, overlap, batch, views)
        if size != (width, height):
            probs = _resize_probs(probs, (width, height), cv2.INTER_AREA if zoom > 1 else cv2.INTER_LINEAR)
        total = total + probs / len(zooms)
    return total


def _resize_probs(probs, size, interpolation):
    """probs float32 (H, W, C) at the size (width, height), class by class: OpenCV's INTER_AREA takes four at most."""
    return np.dstack([cv2.resize(one, size, interpolation=interpolation) for one in np.moveaxis(probs, -1, 0)])


def predict_tiled(image, network, tile, overlap, batch, views=(0,)):
    """uint8 (H, W, 3), as the network sees it -> probs float32 (H, W, C): overlapping tiles, blended with soft seams.

    Every view of every tile is one input of the network; what comes back is turned upright, weighted by a window that
    fades towards the tile's edge, and summed. An image smaller than the tile is mirrored out to it.
    """
    height, width = image.shape[:2]
    padding = [(0, max(tile - n, 0)) for n in (height, width)]
    padded = np.pad(image, [*padding, (0, 0)], mode="symmetric")
    corners = [
        (y, x)
        for y in _tile_starts(padded.shape[0], tile, overlap)
        for x in _tile_starts(padded.shape[1], tile, overlap)
    ]
    inputs = [(corner, view) for corner in corners for view in views]
    window = _blend_window(tile, overlap)
    total, weight = None, np.zeros((*padded.shape[:2], 1), np.float32)
    for start in range(0, len(inputs), batch):
        chunk = inputs[start : start + batch]
        tiles = np.zeros((batch, tile, tile, 3), np.float32)
        for slot, ((y, x), view) in zip(tiles, chunk, strict=False):
            slot[:] = view_image(padded[y : y + tile, x : x + tile], view)
        probs = np.asarray(network(tiles / 255), np.float32)
        if total is None:
            total = np.zeros((*padded.shape[:2], probs.shape[-1]), np.float32)
        for ((y, x), view), one in zip(chunk, probs, strict=False):
            total[y : y + tile, x : x + tile] += unview_probs(one, view) * window
            weight[y : y + tile, x : x + tile] += window
    return (total / weight)[:height, :width]


def _tile_starts(length, tile, overlap):
    """Where tiles begin along one axis: evenly spread, the last one ending at `length`."""
    if length <= tile:
        return [0]
    count = int(np.ceil((length - overlap) / (tile - overlap)))
    return np.linspace(0, length - tile, count).round().astype(int).tolist()


def _blend_window(tile, overlap):
    """float32 (tile, tile, 1): 1 in the middle, falling to nearly 0 over the overlap at each edge, never 0."""
    ramp = (np.minimum(np.arange(tile), np.arange(tile)[::-1]) + 0.5) / max(overlap, 1)
    edge = np.minimum(ramp, 1).astype(np.float32)
    return (edge[:, None] * edge)[..., None]


def fit_zoom(image, network, thresholds, zoom_for, tile, overlap, batch):
    """The zoom that fits the image's typical nucleus, found by looking: zoom_for(its diameter in px), a float.

    The image is looked at as it is and at half its size. At the wrong scale the network sees the grains in a large
    nucleus, a clump of small ones as one, or it is unsure of what it sees. So the surer look is believed, and the size
    of its nuclei says how far it is from the scale that the network knows best. Where that is more than a quarter of an
    octave, one more look corrects it. Where nothing is found, twice the size is tried; after that, 1.
    """
    unsure = replace(thresholds, confidence=0.0)  # at the wrong scale no nucleus is sure, and its size still tells

    def look(zoom):
        """How sure a look is (the pixels of its nuclei, less those that could be either), and the zoom that fits."""
        probs = predict_probs(image, network, tile, overlap, batch, zooms=(zoom,))
        labels = find_instances(probs, unsure, zoom)
        found = nucleus_diameter(labels)
        fitting = zoom_for(found) if found else None
        interior = probs[..., INTERIOR]
        doubt = 2 * np.minimum(interior, 1 - interior).sum()  # a pixel of p = 0.5 counts as one
        return float(interior[labels > 0].sum() - doubt), fitting, zoom

    _, first, start = max(look(1.0), look(0.5), key=lambda seen: seen[0])
    if first is None:
        _, first, start = look(2.0)
    if first is None:
        return 1.0
    far = abs(np.log2(first / start)) > 0.25
    return (look(first)[1] if far else None) or first
