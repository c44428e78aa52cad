"""QuPath: nuclei as GeoJSON, with their class and confidence."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nuclei_kit.exports.outlines import outline_nuclei

CLASS = {"name": "Nucleus", "color": [255, 200, 0]}  # RGB, as QuPath draws it


def make_geojson(labels: np.ndarray, confidences: Sequence[float] | None = None) -> dict[str, Any]:
    """Make labels int32 (H, W) a FeatureCollection with a detection, as QuPath calls it, for each nucleus.

    Corners are in px from the image's upper left one. An outline runs along the edges of pixels, so that holes, parts
    and the area are those of the mask.

    Args:
        confidences: of the nuclei 1..n, 0..1; None where they are not known.
    """
    features = []
    for label, polygons in outline_nuclei(labels):
        kind, coordinates = ("Polygon", polygons[0]) if len(polygons) == 1 else ("MultiPolygon", polygons)
        properties: dict[str, Any] = {"objectType": "detection", "name": str(label), "classification": CLASS}
        if confidences is not None:
            properties["measurements"] = {"Confidence": confidences[label - 1]}
        geometry = {"type": kind, "coordinates": coordinates}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    return {"type": "FeatureCollection", "features": features}
