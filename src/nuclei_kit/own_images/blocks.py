"""Blocks: an image of any size, segmented block by block, in memory that does not grow with it, and stitched.

The network sees each block with a halo around it. A nucleus belongs to the block that holds its centre, and is taken
from there whole: no seam cuts one. The zoom and the standard look are found once, for the whole image.
"""

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import cv2
import numpy as np
from scipy import ndimage as ndi
from tqdm import tqdm

from nuclei.competition.submission import encode_labels
from nuclei.prediction.progress import one_behind
from nuclei.prediction.segmenter import Segmenter
from nuclei.prediction.watershed import find_confidences, find_instances
from nuclei.settings.config import log
from nuclei.training_data.kinds import standard_lut
from nuclei_kit.files.run_lists import decode_rles
from nuclei_kit.own_images.journal import Journal

# In pixels of the scale at which the network works, where most nuclei are 20 to 40 wide:
BLOCK = 2560  # side of a block, at most: what a kill costs, and what memory a block takes
HALO = 96  # width of what is seen around a block: half of the widest nucleus that is seen whole
MARGIN = 8  # distance by which a centre may lie outside its block: two blocks segment one nucleus slightly differently

WINDOWS = 4  # windows down and across, from which the zoom is found
WINDOW = 512  # px, side of a window, at most

Block = tuple[slice, slice]  # rows and columns


def segment_blocks(
    image: np.ndarray, segmenter: Segmenter, journal: Journal, name: str
) -> tuple[np.ndarray, np.ndarray, float]:
    """Segment an image by blocks, uint8 (H, W, 3) -> (labels int32 (H, W), confidences float64 (n,), the seconds of all
    blocks).

    While the network sees a block, the nuclei of the one before are found beside it.

    Args:
        journal: of this image alone. What is in it is not done again.
        name: the image's, for the progress bar.
    """
    shape = image.shape[:2]
    windows = gather_windows(image)
    zoom, thresholds = journal.once("zoom", lambda: segmenter.fit_zoom(windows)), segmenter.thresholds_for(windows)
    lut, halo = standard_lut(image), round(HALO / zoom)
    side = BLOCK / max(1, zoom)  # px of the image; where the network sees it reduced, the probabilities fill memory
    blocks = split(shape, [int(np.ceil(length / side)) for length in shape])

    def find_nuclei(probs):
        labels = find_instances(probs, thresholds, zoom)
        return {"rles": encode_labels(labels), "confidences": find_confidences(probs, labels).tolist()}

    places = [f"{rows.start} {columns.start}" for rows, columns in blocks]
    pixels = [(rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in blocks]
    before = [count for place, count in zip(places, pixels, strict=True) if place in journal.done]
    if before:
        log.info("%s: resuming after %d of %d blocks", name, len(before), len(blocks))
    in_px = {"total": sum(pixels), "initial": sum(before), "unit": "px", "unit_scale": True}
    waiting = [one for one in zip(blocks, places, pixels, strict=True) if one[1] not in journal.done]
    start = time.monotonic()
    with tqdm(desc=name, **in_px, disable=None, leave=False) as bar, ThreadPoolExecutor(1) as pool:
        probs = (segmenter.predict(image[widen(block, halo, shape)], zoom, lut=lut) for block, _, _ in waiting)
        ahead = (pool.submit(find_nuclei, one) for one in probs)
        for (_, place, count), nuclei in zip(waiting, one_behind(ahead), strict=True):
            in_block = nuclei.result()
            journal.add(place, in_block | {"seconds": time.monotonic() - start})
            start = time.monotonic()
            bar.update(count)
    found = [journal.done[place] for place in places]
    labels, origins = stitch(shape, blocks, halo, round(MARGIN / zoom), (one["rles"] for one in found))
    confidences = np.array([found[block]["confidences"][index] for block, index in origins], np.float64)
    return labels, confidences, sum(one["seconds"] for one in found)


def split(shape: Sequence[int], counts: Sequence[int]) -> list[Block]:
    """Split an image of a shape (H, W) into counts[0] * counts[1] blocks, as alike as can be."""
    ends = [np.linspace(0, length, count + 1).round().astype(int) for length, count in zip(shape, counts, strict=True)]
    rows, columns = ([slice(*map(int, pair)) for pair in pairwise(along)] for along in ends)
    return [(down, across) for down in rows for across in columns]


def widen(block: Block, by: int, shape: Sequence[int]) -> Block:
    """Widen a block by `by` px on every side, where the image has as many."""
    rows, columns = (
        slice(max(side.start - by, 0), min(side.stop + by, length)) for side, length in zip(block, shape, strict=True)
    )
    return rows, columns


def gather_windows(image: np.ndarray) -> np.ndarray:
    """Make a small image that stands for a large one: WINDOWS * WINDOWS pieces of it, each from another part.

    From each part it takes the brightest piece in the standard look, since nuclei may be few and far between.
    """
    step = 8
    bright = cv2.LUT(np.ascontiguousarray(image[::step, ::step]), standard_lut(image)).max(axis=2)
    height, width = (min(WINDOW, length // WINDOWS) for length in image.shape[:2])
    pieces = []
    for rows, columns in split(image.shape[:2], (WINDOWS, WINDOWS)):
        corners = [
            (y, x)
            for y in range(rows.start, rows.stop - height + 1, height)
            for x in range(columns.start, columns.stop - width + 1, width)
        ]
        shares = [
            bright[y // step : -(-(y + height) // step), x // step : -(-(x + width) // step)].mean() for y, x in corners
        ]
        y, x = corners[int(np.argmax(shares))]
        pieces.append(image[y : y + height, x : x + width])
    lines = [np.concatenate(pieces[start : start + WINDOWS], axis=1) for start in range(0, len(pieces), WINDOWS)]
    return np.concatenate(lines)


def stitch(
    shape: tuple[int, int], blocks: Sequence[Block], halo: int, margin: int, found: Iterable[Sequence[str]]
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Stitch the nuclei of all blocks -> (labels int32 (H, W), ids 1..n; for each its block and its place among that
    block's run lists).

    A nucleus that an earlier block saw, too, counts once: where most of it is claimed already, it is dropped, else it
    keeps its free pixels. One that is wider than its block's view is joined to what an earlier block saw of it.

    Args:
        shape: (H, W) of the image.
        blocks: of `split`.
        halo: px around each block that it was segmented with.
        margin: px around each block in which a nucleus's centre counts as inside.
        found: for each block the run lists of the nuclei in it and its halo.
    """
    labels, origins = np.zeros(shape, np.int32), []
    for number, (block, rles) in enumerate(zip(blocks, found, strict=True)):
        region, own = widen(block, halo, shape), widen(block, margin, shape)
        ground = labels[region]  # a view: what is written to it is written to labels
        seen = decode_rles(rles, *ground.shape)
        for label, box in enumerate(ndi.find_objects(seen), start=1):
            where = [
                slice(b.start + r.start, b.stop + r.start) for b, r in zip(box, region, strict=True)
            ]  # in the image
            if not all(o.start <= (w.start + w.stop) / 2 <= o.stop for w, o in zip(where, own, strict=True)):
                continue
            nucleus, here = seen[box] == label, ground[box]
            free = nucleus & (here == 0)
            owners = here[nucleus & ~free]
            if owners.size and _is_cut(where, region, shape):
                here[free] = np.bincount(owners).argmax()
            elif 2 * owners.size <= np.count_nonzero(nucleus):
                origins.append((number, label - 1))
                here[_largest_part(free) if owners.size else free] = len(origins)
    return labels, origins


def _is_cut(where, region, shape):
    """Tell whether a box reaches an edge of the region that is not an edge of the image."""
    return any(
        w.start == r.start > 0 or w.stop == r.stop < length for w, r, length in zip(where, region, shape, strict=True)
    )


def _largest_part(mask):
    """Find the largest connected part of a mask that is not empty."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    return parts == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
