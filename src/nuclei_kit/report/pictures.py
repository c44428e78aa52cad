"""Pictures: outlines of the nuclei on their image, and truth and prediction side by side.

The colours are Okabe and Ito's, which people with any colour vision tell apart (https://jfly.uni-koeln.de/color/).
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from nuclei.prediction.metric import IOU_THRESHOLDS, average_precision, iou_matrix
from nuclei.settings.files import write_whole

OKABE_ITO = {
    "orange": (230, 159, 0),
    "sky blue": (86, 180, 233),
    "bluish green": (0, 158, 115),
    "yellow": (240, 228, 66),
    "blue": (0, 114, 178),
    "vermillion": (213, 94, 0),
    "reddish purple": (204, 121, 167),
}
# Of outlines; the first is used unless nuclei touch.
OUTLINES = tuple(
    OKABE_ITO[name] for name in ("yellow", "sky blue", "orange", "bluish green", "reddish purple", "vermillion")
)
TP_COLOUR = OKABE_ITO["blue"]
TP_EDGE_COLOUR = OKABE_ITO["sky blue"]
FN_COLOUR = OKABE_ITO["vermillion"]
FP_COLOUR = OKABE_ITO["yellow"]
LEGEND = (
    (TP_COLOUR, "matched"),
    (TP_EDGE_COLOUR, "matched, but pixels apart"),
    (FN_COLOUR, "missed"),
    (FP_COLOUR, "invented"),
)

PANEL = 256  # px: smaller images are enlarged up to this, by a whole factor
CAPTION = 24  # px, height of the line above a panel
GAP = 8  # px between panels
INK, PAPER = (40, 40, 40), (255, 255, 255)


def brighten(image: np.ndarray) -> np.ndarray:
    """Brighten uint8 RGB for the eye: a dark image is stretched, its hues kept; a light one stays as it is.

    Unlike `standardise` it never inverts. The factor is at most 12, which keeps the noise of an empty field dim.
    """
    if np.median(image) > 127:
        return image
    black, white = np.percentile(image, (1, 99.8))
    ramp = (np.arange(256) - black) * (255 / max(white - black, 255 / 12))
    return cv2.LUT(image, np.clip(ramp, 0, 255).round().astype(np.uint8))


def overlay(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Draw the outline of every nucleus, one pixel thick and inside it, on the brightened image.

    Nuclei that touch get different colours.

    Args:
        image: uint8 (H, W, 3) RGB.
        labels: int32 (H, W).

    Returns:
        uint8 (H, W, 3) RGB.
    """
    drawn = brighten(image).copy()
    edge = inner_edge(labels)
    drawn[edge] = _outline_colours(labels)[labels[edge]]
    return drawn


def inner_edge(labels: np.ndarray) -> np.ndarray:
    """Mark the pixels of a nucleus with a neighbour, diagonals too, outside it: bool (H, W). The frame is no edge."""
    padded = np.pad(labels, 1, mode="edge")
    height, width = labels.shape
    shifted = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return (labels > 0) & np.any([labels != other for other in shifted], axis=0)


def _outline_colours(labels):
    """Choose a colour for each label, uint8 (n + 1, 3): the first of OUTLINES that no neighbour has yet."""
    neighbours: dict[int, set[int]] = {label: set() for label in range(labels.max(initial=0) + 1)}
    for a, b in _touching_pairs(labels):
        neighbours[a].add(b)
        neighbours[b].add(a)
    chosen: dict[int, int] = {}
    for label, others in neighbours.items():
        taken = {chosen.get(other) for other in others}
        free = [index for index in range(len(OUTLINES)) if index not in taken]
        chosen[label] = free[0] if free else label % len(OUTLINES)
    return np.array([OUTLINES[index] for index in chosen.values()], np.uint8)


def _touching_pairs(labels):
    """List the pairs of labels that are neighbours, or one pixel apart: [[a, b], ...]."""
    pairs = []
    for apart in (1, 2):
        for a, b in ((labels[apart:], labels[:-apart]), (labels[:, apart:], labels[:, :-apart])):
            touching = (a != b) & (a > 0) & (b > 0)
            pairs.append(np.stack([a[touching], b[touching]], axis=1))
    return np.unique(np.concatenate(pairs), axis=0).tolist()


def differences(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Draw where two label images differ -> uint8 (H, W, 3) RGB, in the colours of LEGEND on black.

    A true nucleus and a predicted one match where their IoU is above 0.5. Where a false negative lies under a false
    positive (two nuclei taken for one, say), it shows, with the outline of the false positive across it.
    """
    hits = iou_matrix(truth, predicted) > IOU_THRESHOLDS[0]
    partner = np.zeros(truth.max(initial=0) + 1, np.int64)  # of each true nucleus, 0 for a false negative
    true_ids, predicted_ids = (np.unique(labels[labels > 0]) for labels in (truth, predicted))
    rows, columns = np.nonzero(hits)
    partner[true_ids[rows]] = predicted_ids[columns]
    fn = (truth > 0) & (partner[truth] == 0)
    fp = (predicted > 0) & ~np.isin(predicted, partner[partner > 0])
    picture = np.zeros((*truth.shape, 3), np.uint8)
    picture[(truth > 0) | (predicted > 0)] = TP_EDGE_COLOUR
    picture[(truth > 0) & (partner[truth] == predicted)] = TP_COLOUR
    picture[fp] = FP_COLOUR
    picture[fn] = FN_COLOUR
    picture[fp & inner_edge(predicted)] = FP_COLOUR
    return picture


def comparison_strip(image: np.ndarray, truth: np.ndarray, predicted: np.ndarray, name: str = "image") -> np.ndarray:
    """Draw four panels with captions in a row: image, truth, prediction, and where the two differ.

    Args:
        image: uint8 (H, W, 3) RGB.
        truth, predicted: int32 (H, W).
        name: the caption of the image.

    Returns:
        uint8 RGB, as high as the image and a line of text; small images are enlarged.
    """
    factor = max(1, PANEL // max(truth.shape))
    image, truth, predicted = (_enlarge(one, factor) for one in (image, truth, predicted))
    panels = (
        (name, brighten(image)),
        (f"truth: {_count_nuclei(truth)} nuclei", overlay(image, truth)),
        (f"prediction: {_count_nuclei(predicted)} nuclei", overlay(image, predicted)),
        (f"differences, score {average_precision(truth, predicted):.2f}", differences(truth, predicted)),
    )
    return _beside([_caption(panel, text) for text, panel in panels])


def contact_sheet(strips: Sequence[np.ndarray]) -> np.ndarray:
    """Put comparison strips one below the other, and the legend of their last panels -> uint8 RGB."""
    rows = [*strips, _draw_legend()]
    width = max(row.shape[1] for row in rows)
    rows = [_extend(row, row.shape[0] + GAP, width) for row in rows]
    return cv2.copyMakeBorder(np.concatenate(rows), GAP, 0, GAP, GAP, cv2.BORDER_CONSTANT, value=PAPER)


def crop_middle(array: np.ndarray, side: int) -> np.ndarray:
    """Crop the middle of an image or of labels, at most `side` px high and wide."""
    top, left = (max(0, (n - side) // 2) for n in array.shape[:2])
    return np.ascontiguousarray(array[top : top + side, left : left + side])


def write_png(path: Path, image: np.ndarray) -> None:
    """Write uint8 (H, W, 3) RGB or a grey uint8 or uint16 (H, W) as PNG, whole or not at all."""
    pixels = image[..., ::-1] if image.ndim == 3 else image
    write_whole(path, cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes())


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write uint8 (H, W, 3) RGB as WebP where `path` ends in .webp, else as PNG; whole or not at all."""
    if path.suffix == ".webp":
        write_whole(path, cv2.imencode(".webp", image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 80])[1].tobytes())
    else:
        write_png(path, image)


def _enlarge(array, factor):
    """Repeat every pixel, so that labels stay labels and one sees what the network saw."""
    return np.repeat(np.repeat(array, factor, axis=0), factor, axis=1)


def _count_nuclei(labels):
    return np.unique(labels[labels > 0]).size


def _caption(panel, text):
    """Put a line of text above a panel; at least PANEL wide, so that strips align, and as wide as the text."""
    line = _draw_text(text)
    width = max(PANEL, panel.shape[1], line.shape[1])
    return np.concatenate([_extend(line, CAPTION, width), _extend(panel, panel.shape[0], width)])


def _draw_text(text):
    """Draw dark text on white -> uint8 (CAPTION, W, 3)."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.45
    (width, _), _ = cv2.getTextSize(text, font, scale, 1)
    line = np.full((CAPTION, width + 2, 3), PAPER, np.uint8)
    return cv2.putText(line, text, (0, CAPTION - 8), font, scale, INK, 1, cv2.LINE_AA)


def _draw_legend():
    entries = []
    for colour, text in LEGEND:
        square = np.full((CAPTION, CAPTION, 3), PAPER, np.uint8)
        cv2.rectangle(square, (4, 5), (17, 18), colour, cv2.FILLED)
        entries.append(np.concatenate([square, _draw_text(text)], axis=1))
    return _beside(entries)


def _beside(panels):
    """Put panels of one height in a row, GAP apart."""
    spaced = [_extend(panel, panel.shape[0], panel.shape[1] + GAP) for panel in panels]
    return np.concatenate(spaced, axis=1)[:, :-GAP]


def _extend(panel, height, width):
    """Add white below and to the right, up to a height and a width."""
    bottom, right = height - panel.shape[0], width - panel.shape[1]
    return cv2.copyMakeBorder(panel, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=PAPER)
