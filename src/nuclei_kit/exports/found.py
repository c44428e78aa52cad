"""Found: what was found in an image, and the formats in which it can be written."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from nuclei_kit.exports.imagej import encode_rois, encode_tiff
from nuclei_kit.exports.measurements import encode_table, measure
from nuclei_kit.exports.qupath import make_geojson
from nuclei_kit.files.planes import PixelSize


@dataclass(frozen=True)
class Found:
    """What was found in an image.

    labels: int32 (H, W); channels: (H, W) each, as the file has them, read when they are asked for;
    confidences: 0..1, of the nuclei 1..n, or None; pixel_size: as in a Picture.
    """

    labels: np.ndarray
    channels: Iterable[np.ndarray]
    confidences: Sequence[float] | None = None
    pixel_size: PixelSize | None = None


# Format: what a file in it holds. COCO's, which is one file for many images, is in coco.py.
ENCODERS: dict[str, Callable[[Found], str | bytes]] = {
    "tiff": lambda found: encode_tiff(found.labels, found.pixel_size),
    "roi": lambda found: encode_rois(found.labels),
    "geojson": lambda found: json.dumps(make_geojson(found.labels, found.confidences)),
    "csv": lambda found: encode_table(measure(found.labels, found.channels, found.confidences, found.pixel_size)),
}
