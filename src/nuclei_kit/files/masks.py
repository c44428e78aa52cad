"""Masks: the files of one image's folder of masks -> its nuclei, one a file, or what lies there instead.

Kaggle keeps a nucleus a file, white on black. People keep other things under that name: label images, overlays,
probability maps, one mask of all nuclei, negatives. Each of them would train a wrong network without a word, so a file
is taken only where it can mean one nucleus.
"""

from collections.abc import Mapping

import cv2
import numpy as np

from nuclei.settings.config import BadInput
from nuclei_kit.files.decoding import read_picture

OUTLINE = 2  # px, how far from a mask's outline grey pixels may lie: smoothed and JPEG masks have them there
SHADE = 0.2  # share of the range from black to white, from either end, within which a pixel counts as black or white
STRAY = 1e-4  # share of an image's pixels that may be grey elsewhere, and FEW more, as in strongly compressed JPEGs
FEW = 4
SIDE_PART = 0.25  # share of the largest part's pixels from which on another part counts
HOLLOW = 1.5  # how many times its pixels a mask would have without its holes, from which on it is an outline
MEND = "write each nucleus to a file of its own, white on black"


def read_masks(contents: Mapping[str, bytes], shape: tuple[int, ...]) -> tuple[list[np.ndarray], list[str]]:
    """Read the masks of one image -> the flat indices of each nucleus's pixels, int (n,), and the names of those that
    are in several parts.

    A single file without a pixel says that the image has no nuclei.

    Args:
        contents: {name: bytes} of the files.
        shape: (H, W) of the image.

    Raises:
        BadInput: a file is no mask of one nucleus of such an image; says what it is instead.
    """
    nuclei, parts, hollow = [], {}, []
    for name, data in contents.items():  # one at a time: all at once would take the image's size for each
        mask = decode_mask(data, name, shape)
        if not mask.any():
            if len(contents) == 1:
                return [], []
            raise BadInput(f"{name} is an empty mask: delete the file, or draw its nucleus")
        nuclei.append(np.flatnonzero(mask))
        parts[name] = count_parts(mask)
        hollow += [name] if is_hollow(mask) else []
    parted = [name for name, count in parts.items() if count > 1]
    if len(parted) > len(nuclei) / 2:
        raise BadInput(f"{parted[0]} holds {parts[parted[0]]} separate parts, as one mask of many nuclei does: {MEND}")
    if len(hollow) > len(nuclei) / 2:
        raise BadInput(f"{hollow[0]} is hollow, as a nucleus's outline is: fill it")
    return nuclei, parted


def decode_mask(data: bytes, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Decode the bytes of a mask of one nucleus -> bool (H, W), all false where the file is black.

    The nucleus is what is bright, of whatever depth and colour. Programs differ in what is bright where one bit stores
    white as 0: there a negative is taken, too, and white all over is empty.

    Raises:
        BadInput: the bytes cannot be read, have another size than the image, or are no such mask.
    """
    try:
        picture = read_picture(data, name)
    except BadInput as error:
        raise BadInput(f"{error}; or delete it, since each file of a folder of masks is taken for a nucleus") from None
    pixels = picture.pixels
    if pixels.dtype == bool:
        pixels = pixels.view(np.uint8)
    if pixels.shape[:2] != shape:
        stated = "x".join(map(str, pixels.shape[:2]))
        raise BadInput(f"{name} is {stated} but its image is {shape[0]}x{shape[1]}: redraw it")
    grey = pixels if pixels.ndim == 2 else pixels.max(axis=2)
    if grey.dtype.kind == "f":
        grey = np.where(np.isnan(grey), 0, grey)
    low, high = float(grey.min()), float(grey.max())
    if low == high and (low == 0 or picture.white_is_zero):
        return np.zeros(shape, bool)
    mask = grey > (low + high) / 2
    if picture.white_is_zero and _is_negative(mask):
        return ~mask
    fault = _find_fault(pixels, grey, mask)
    if fault:
        raise BadInput(f"{name} {fault}")
    return mask


def count_parts(mask: np.ndarray) -> int:
    """Count the separate parts of a mask, bool (H, W), but for those that are much smaller than the largest."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(_cut_out(mask))
    areas = stats[1:, cv2.CC_STAT_AREA]
    return int(np.count_nonzero(areas >= SIDE_PART * areas.max(initial=0)))


def is_hollow(mask: np.ndarray) -> bool:
    """Tell whether a mask, bool (H, W), has holes that are much of what it would be without them."""
    box = _cut_out(mask)
    pixels = np.count_nonzero(box)
    if pixels > box.size / 2:  # most nuclei fill as much of their box, and no outline does
        return False
    contours, _ = cv2.findContours(box, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros_like(box), contours, -1, 1, cv2.FILLED)
    return bool(np.count_nonzero(filled) > HOLLOW * pixels)


def _cut_out(mask):
    """Cut a mask to its bounding box -> uint8."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    return np.ascontiguousarray(mask[top : top + height, left : left + width]).view(np.uint8)


def _find_fault(pixels, grey, mask):
    """Say why the bright part of an image is not one nucleus, and what to do; "" where it may be."""
    low, high = float(grey.min()), float(grey.max())
    if not np.isfinite(high - low):
        return f"holds infinite numbers: {MEND}"
    if low == high:
        return "is bright all over: draw its nucleus, white on black, not by transparency"
    several = pixels.ndim == 3 or np.count_nonzero(grey == low) + np.count_nonzero(grey == high) < grey.size
    fault = several and _find_values(pixels, grey, mask, low, high)
    if fault:
        return f"{fault}: {MEND}"
    return "is bright around its nucleus, as a negative is: invert it" if _is_negative(mask) else ""


def _is_negative(mask):
    """Tell whether a mask, bool (H, W), is true around what it shows."""
    frame = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return frame.mean() > 0.5 and mask.mean() > 0.5


def _find_values(pixels, grey, mask, low, high):
    """Say what an image of several colours or shades is; "" where they are those of a mask that was smoothed or packed
    with losses: they lie on its outline, and its inside has one colour."""
    shade, window = SHADE * (high - low), np.ones((2 * OUTLINE + 1, 2 * OUTLINE + 1), np.uint8)
    inside = cv2.erode(mask.view(np.uint8), window).view(bool)
    outside = ~cv2.dilate(mask.view(np.uint8), window).view(bool)
    between = (grey > low + shade) & (grey < high - shade)
    many = np.count_nonzero(between & (inside | outside)) > STRAY * grey.size + FEW
    if pixels.ndim == 3 and np.ptp(pixels, axis=2).max() > shade:
        many |= inside.any() and (np.ptp(pixels[inside], axis=0) > 2 * shade).any()
        return "is in several colours, as an overlay or a coloured map of nuclei is" if many else ""
    clean = not between.any() and not np.ptp(grey[~mask])  # then several values in front are as many labels
    if not many and not (clean and np.ptp(grey[mask])):
        return ""
    patches = (grey > low) & (grey < high)
    pairs = patches[:, 1:] & patches[:, :-1]
    even = (grey[:, 1:] == grey[:, :-1])[pairs]  # labels lie in even patches, shades do not
    if even.size and even.mean() > 0.5 and np.array_equal(grey, np.round(grey)):
        return f"holds {len(np.unique(grey)) - 1} labels, as a label image does"
    return "has many shades of grey, as a picture or a map of probabilities does"
