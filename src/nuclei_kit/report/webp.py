"""WebP: the pictures of a report as text in the page, shrunk where all of them would make it too large."""

import base64
from collections.abc import Sequence
from math import sqrt

import cv2
import numpy as np

from nuclei_kit.report.pictures import brighten

MAX_SIDE = 1024  # px of the page's copy of an image; a larger one is shrunk
PAGE_QUALITY = 90  # of its WebP, 0..100
WEBP_PREFIX = "data:image/webp;base64,"


def encode_images(images: Sequence[np.ndarray], room: int) -> list[str]:
    """Encode images, uint8 (H, W, 3) RGB -> a data: address for each, with the brightened image as WebP.

    Args:
        room: characters that they take at most, all together. Where they would take more, the largest files are made
            smaller by showing fewer pixels, down to the one size in bytes at which all fit; the others stay as they
            are.
    """
    files = [encode_webp(image, MAX_SIDE) for image in images]
    most = _fair_share([_text_length(file) for file in files], room)
    for index, image in enumerate(images):
        longest = min(MAX_SIDE, max(image.shape))
        while _text_length(files[index]) > most and longest > 1:
            longest = max(1, int(longest * min(0.9, sqrt(most / _text_length(files[index])))))
            files[index] = encode_webp(image, longest)
    return [WEBP_PREFIX + base64.b64encode(file).decode() for file in files]


def encode_webp(image: np.ndarray, longest: int) -> bytes:
    """Encode uint8 (H, W, 3) RGB, brightened -> the bytes of a WebP, its longer side `longest` px at most."""
    shrink = longest / max(image.shape)
    bright = brighten(np.asarray(image))
    if shrink < 1:
        size = [max(1, round(side * shrink)) for side in image.shape[1::-1]]
        bright = cv2.resize(bright, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".webp", bright[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, PAGE_QUALITY])[1].tobytes()


def _text_length(file: bytes) -> int:
    """Count the characters of a file's data: address."""
    return len(WEBP_PREFIX) + 4 * -(-len(file) // 3)


def _fair_share(sizes: Sequence[int], room: int) -> int:
    """Find the size to which the larger of `sizes` are to be cut, so that all together are `room` at most."""
    for index, size in enumerate(sorted(sizes)):
        left = len(sizes) - index
        if size * left > room:
            return room // left
        room -= size
    return max(sizes, default=0)
