"""Measurements: a row for each nucleus, its columns named as scikit-image's regionprops_table names them."""

import csv
import io
from collections.abc import Iterable, Sequence

import numpy as np
from skimage.measure import regionprops_table

from nuclei_kit.files.planes import PixelSize

GEOMETRY = ("centroid", "area", "axis_major_length", "axis_minor_length")


def measure(
    labels: np.ndarray,
    channels: Iterable[np.ndarray],
    confidences: Sequence[float] | None = None,
    pixel_size: PixelSize | None = None,
) -> dict[str, np.ndarray]:
    """Measure nuclei -> {column: a number for each}.

    label, centroid-0 and -1 (row and column), area, axis_major_length and axis_minor_length, in px; intensity_mean, of
    several channels intensity_mean-0, -1 and so on; confidence, where it is known. Where the size of a pixel is known,
    what is in px is there in um, too: centroid-0_um, area_um2 and so on.

    Args:
        labels: int32 (H, W).
        channels: (H, W) each, of any type.
        confidences: of the nuclei 1..n, 0..1.
        pixel_size: along x and y, in um.
    """
    table = dict(regionprops_table(labels, properties=("label", *GEOMETRY)))
    means = [regionprops_table(labels, one, ("intensity_mean",))["intensity_mean"] for one in channels]
    table |= {
        f"intensity_mean-{number}" if len(means) > 1 else "intensity_mean": one for number, one in enumerate(means)
    }
    if confidences is not None:
        table["confidence"] = np.asarray(confidences, np.float64)[table["label"] - 1]
    if pixel_size:
        scaled = regionprops_table(labels, properties=GEOMETRY, spacing=pixel_size[::-1])
        table |= {f"{name}_um2" if name == "area" else f"{name}_um": column for name, column in scaled.items()}
    return table


def encode_table(table: dict[str, np.ndarray]) -> str:
    """Encode {column: values} -> the text of a CSV."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(table)
    rows.writerows(zip(*(column.tolist() for column in table.values()), strict=True))
    return text.getvalue()
