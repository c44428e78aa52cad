"""Decoding: one door for images and masks, of any format that is read -> pixels, within bounds."""

import contextlib
import io
import math
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from nuclei_kit.files.everyday import read_by_pillow, read_png
from nuclei_kit.files.formats import HEAD_BYTES, broken_by_name, identify
from nuclei_kit.files.limits import MAX_PIXELS
from nuclei_kit.files.planes import Choice, Picture
from nuclei_kit.files.tiff import read_tiff

MAX_SORTED = 2**24  # numbers that are sorted for percentiles: of a larger image every n-th row and column


def read_picture(source: Path | bytes, name: object, most: int = MAX_PIXELS, choice: Choice | None = None) -> Picture:
    """Read an image by what it is, whatever its name says: PNG, TIFF, JPEG, BMP, GIF or WebP.

    Args:
        source: a file, or the bytes of one.
        name: what errors call it.
        most: the most pixels that are accepted.
        choice: which plane of several is meant; None where nobody can be asked to choose. The one channel that is
            named after a stain of nuclei is taken by itself.

    Raises:
        BadInput: it is broken, too large, of a kind that is not read, or several planes can be meant.
    """
    with _open(source, name) as file:
        kind = identify(file.read(HEAD_BYTES), name)
        file.seek(0)
        if kind == "TIFF":
            picture = read_tiff(file, name, most, choice)
        elif kind == "PNG":
            picture = read_png(file, name, most, choice)
        else:
            picture = read_by_pillow(file, kind, name, most, choice)
    return picture


@contextlib.contextmanager
def _open(source: Path | bytes, name: object) -> Iterator[BufferedIOBase]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    with broken_by_name(name, "file"), open(source, "rb") as file:
        yield file


def decode_image(
    source: Path | bytes, name: object, most: int = MAX_PIXELS, choice: Choice | None = None
) -> np.ndarray:
    """Read an image as `read_picture` does -> uint8 (H, W, 3) RGB, see `to_rgb`."""
    return to_rgb(read_picture(source, name, most, choice).pixels)


def to_rgb(pixels: np.ndarray) -> np.ndarray:
    """Turn the pixels of a Picture into uint8 (H, W, 3) RGB.

    uint8 passes as it is; other types are stretched so that the 0.1st and the 99.9th percentile become 0 and 255:
    microscopes store 10, 12 or 14 bits in 16, and floats on any scale, so the type's own range says nothing. NaN
    becomes black; infinities become black and white.
    """
    if pixels.dtype != np.uint8:
        pixels = _stretch_depth(pixels)
    return np.ascontiguousarray(pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2))


def _stretch_depth(pixels):
    """Stretch pixels of any type -> uint8 of the same shape, see `to_rgb`."""
    step = math.ceil(math.sqrt(pixels.size / MAX_SORTED))
    sparse = pixels[::step, ::step]
    finite = sparse[np.isfinite(sparse)]
    low, high = np.percentile(finite, (0.1, 99.9), method="nearest").tolist() if finite.size else (0.0, 0.0)
    if low == high and finite.size:  # a few pixels differ from the rest
        low, high = float(finite.min()), float(finite.max())
    shrink = 0.25 if max(-low, high) > 1e300 else 1.0  # else the largest differences would be infinite
    factor = 255.0 / ((high * shrink - low * shrink) or 1.0)
    stretched = np.empty(pixels.shape, np.uint8)
    for top in range(0, len(pixels), 64):  # in strips: as float64, a whole image would be eight times what comes out
        strip = np.clip(np.nan_to_num(pixels[top : top + 64].astype(np.float64), nan=low), low, high)
        stretched[top : top + 64] = ((strip * shrink - low * shrink) * factor).round()
    return stretched
