"""Limits: what is taken from outside, at most: more is a mistake or an attack, and would cost memory."""

from typing import Any

from nuclei.settings.config import BadInput

MAX_PIXELS = 2**26  # of a competition's image, 8192 x 8192
MAX_PIXEL_BYTES = 8  # of a file, unpacked, for each pixel that an image may have: 16 bits of red, green, blue, alpha
MAX_SET_PIXELS = 2**31  # of all images of a set
MAX_TABLE_BYTES = 2**28  # of a CSV, unpacked
MAX_TABLE_ROWS = 2_000_000
# A run's config.json comes from outside, too, and says how large a network is built.
MAX_SETTINGS = {
    "model_width": 512,
    "model_depth": 8,
    "train_crop": 4096,
    "train_batch": 4096,
    "tile_size": 4096,
    "tile_batch": 4096,
}


def check_bytes(size: int, most: int, name: object) -> None:
    """Raise BadInput where a file has more bytes than are taken."""
    if size > most:
        raise BadInput(f"{name} holds {size:,} bytes, over the {most:,} that are taken: cut it into parts")


def check_settings(settings: dict[str, Any]) -> None:
    """Raise BadInput where a setting, by its name in Config, asks for more than any network here needs."""
    for name, most in MAX_SETTINGS.items():
        if settings.get(name, 0) > most:
            raise BadInput(f"settings: {name} can be {most} at most")
