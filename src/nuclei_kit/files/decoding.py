"""Decoding: the bytes of an image or a mask -> pixels, once the size in their header is known to be within bounds."""

import math
import mmap
import struct
from pathlib import Path

import cv2
import numpy as np

from nuclei.settings.config import BadInput
from nuclei_kit.files.limits import MAX_PIXELS

MAX_SORTED = 2**24  # numbers that are sorted for percentiles: of a larger image every n-th row and column

_PNG_START = b"\x89PNG\r\n\x1a\n"
_TIFF_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # a TIFF's codes for the types of number that hold a size


def decode_image(data: bytes | mmap.mmap, name: object, most: int = MAX_PIXELS, path: Path | None = None) -> np.ndarray:
    """Decode the bytes of a PNG or TIFF -> uint8 (H, W, 3) RGB.

    Grey, palette, RGB and RGBA are accepted (alpha is dropped). uint8 passes as it is; other depths are stretched so
    that the 0.1st and the 99.9th percentile become 0 and 255: microscopes store 10, 12 or 14 bits in 16, and floats on
    any scale, so the type's own range says nothing. NaN becomes black; infinities become black and white.

    Args:
        most: the most pixels that are accepted.
        path: a file that holds the same bytes. OpenCV then reads it itself, and `data`, a memory map of it, serves for
            the header alone: decoding takes a third less memory.

    Raises:
        BadInput: OpenCV cannot decode the bytes as a PNG or TIFF, or they state more than `most` pixels.
    """
    pixels = _decode_bytes(data, cv2.IMREAD_UNCHANGED, name, most, path)
    if pixels is None:
        raise BadInput(f"{name} cannot be decoded as an image: replace the file by a whole PNG or TIFF")
    if pixels.ndim == 3:
        pixels = pixels[..., 2::-1]  # BGR(A) -> RGB
    if pixels.dtype != np.uint8:
        pixels = _stretch_depth(pixels)
    return np.ascontiguousarray(pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2))


def _stretch_depth(pixels):
    """Stretch pixels of any type -> uint8 of the same shape, see `decode_image`."""
    step = math.ceil(math.sqrt(pixels.size / MAX_SORTED))
    sparse = pixels[::step, ::step]
    finite = sparse[np.isfinite(sparse)]
    low, high = np.percentile(finite, (0.1, 99.9), method="nearest").tolist() if finite.size else (0.0, 0.0)
    stretched = np.empty(pixels.shape, np.uint8)
    for top in range(0, len(pixels), 64):  # in strips: as float64, a whole image would be eight times what comes out
        strip = np.nan_to_num(pixels[top : top + 64].astype(np.float64), nan=low, posinf=high, neginf=low)
        stretched[top : top + 64] = np.clip((strip - low) * (255.0 / ((high - low) or 1.0)), 0, 255).round()
    return stretched


def _decode_bytes(data, flags, name, most, path=None):
    """Decode the bytes of a PNG or TIFF as OpenCV does -> pixels, or None where they are broken or something else.

    Raises:
        BadInput: the header states more than `most` pixels. OpenCV alone would allocate memory for up to 2^30.
    """
    try:
        height, width = _stated_shape(data)
        if height * width > most:
            raise BadInput(f"{name} states {height} x {width} pixels, over the limit of {most:,}: cut it into parts")
        return cv2.imread(str(path), flags) if path else cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (cv2.error, struct.error, KeyError):
        return None


def _stated_shape(data):
    """Read the height and the width that the header of a PNG, or of a TIFF's first picture, states.

    Raises:
        KeyError, struct.error: the header is missing or broken.
    """
    if data[: len(_PNG_START)] == _PNG_START:
        width, height = struct.unpack_from(">II", data, len(_PNG_START) + 8)
        return height, width
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    big = {42: False, 43: True}[struct.unpack_from(f"{order}H", data, 2)[0]]
    start, number, entry, value = (8, "Q", 20, 12) if big else (4, "I", 12, 8)
    (directory,) = struct.unpack_from(order + number, data, start)
    count_format = order + ("Q" if big else "H")
    (count,) = struct.unpack_from(count_format, data, directory)
    first = directory + struct.calcsize(count_format)
    sizes: dict[int, int] = {}
    for place in range(first, min(first + count * entry, len(data)), entry):
        tag, kind = struct.unpack_from(f"{order}HH", data, place)
        if tag in (256, 257):  # width, height; of a repeated tag the larger counts
            (size,) = struct.unpack_from(order + _TIFF_NUMBERS[kind], data, place + value)
            sizes[tag] = max(size, sizes.get(tag, 0))
    return sizes[257], sizes[256]


def decode_mask(data: bytes, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Decode the bytes of one mask -> int (n,), the flat indices of its pixels, about a thousandth of the image.

    Raises:
        BadInput: the bytes cannot be decoded, have another shape than the image, or hold no pixel of a nucleus.
    """
    # Any depth: brought down to 8 bits, a 16-bit mask of zeros and ones would be empty.
    grey = _decode_bytes(data, cv2.IMREAD_ANYDEPTH, name, MAX_PIXELS)
    if grey is None:
        raise BadInput(f"{name} cannot be decoded as a mask: replace the file by a whole PNG")
    if grey.shape != shape:
        raise BadInput(f"{name} is {grey.shape[0]}x{grey.shape[1]} but its image is {shape[0]}x{shape[1]}: redraw it")
    pixels = np.flatnonzero(grey > grey.max() // 2)
    if not pixels.size:
        raise BadInput(f"{name} is an empty mask: delete the file, or draw its nucleus")
    return pixels
