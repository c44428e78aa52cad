"""Limits: the most that is accepted from outside. More is a mistake or an attack, and would cost memory."""

from typing import Any

from nuclei.settings.config import BadInput

MAX_PIXELS = 2**26  # pixels of a competition's image, 8192 x 8192
MAX_PIXEL_BYTES = 8  # bytes of an unpacked file for each pixel that an image may have: RGBA of 16 bits
MAX_PLANES = 2**20  # planes of a file, as its metadata state them
MAX_SET_PIXELS = 2**31  # pixels of all images of a set
MAX_SET_FILES = 2_000_000  # images, masks and all else below a set's folder
MAX_TABLE_BYTES = 2**28  # bytes of an unpacked CSV
MAX_DOWNLOAD_BYTES = 2**31  # bytes of one of the competition's files, whose largest has a quarter of a GB
MAX_TABLE_ROWS = 2_000_000
MAX_WEIGHTS = 2**28  # numbers in a weights file: 1 GB
# Settings come from a run's config.json and from the command line, and say how large a network is built.
MAX_SETTINGS = {
    "model_width": 512,
    "model_depth": 8,
    "train_crop": 4096,
    "train_batch": 4096,
    "tile_size": 4096,
    "tile_pixels": 4096**2,
}


def check_bytes(size: int, most: int, name: object) -> None:
    """Raise BadInput where a file has more than `most` bytes."""
    if size > most:
        raise BadInput(f"{name} holds {size:,} bytes, over the limit of {most:,}: cut it into parts")


def check_pixels(height: int, width: int, most: int, name: object) -> None:
    """Raise BadInput where an image states more than `most` pixels."""
    if height * width > most:
        raise BadInput(f"{name} states {height} x {width} pixels, over the limit of {most:,}: cut it into parts")


def check_settings(settings: dict[str, Any]) -> None:
    """Raise BadInput where a setting, by its name in Config, asks for more than any network here needs.

    To be called before a Config is made of settings from outside: already its own rules compute with them.
    """
    for name, most in MAX_SETTINGS.items():
        if settings.get(name, 0) > most:
            raise BadInput(f"settings: {name} can be {most} at most")
