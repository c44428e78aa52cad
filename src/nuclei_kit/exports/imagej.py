"""ImageJ: labels as a TIFF, and as a zip of ROIs that its ROI manager opens."""

import io
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import tifffile
from roifile import ROI_TYPE, ImagejRoi

from nuclei_kit.exports.outlines import Ring, outline_nuclei
from nuclei_kit.files.planes import PixelSize

MICROMETRES_IN_CM = 1e4
_MOVE, _LINE, _CLOSE = 0, 1, 4  # steps of a path, as Java counts them
_FIRST_DATE = (1980, 1, 1, 0, 0, 0)  # the same ROIs give the same bytes


def encode_tiff(labels: np.ndarray, pixel_size: PixelSize | None = None) -> bytes:
    """Encode labels int32 (H, W) -> the bytes of a TIFF, uint16, or int32 where there are more labels than that.

    It is packed by zlib, which tifffile unpacks without imagecodecs. The size of a pixel, in um, is in its resolution.
    """
    file = io.BytesIO()
    pixels = labels if labels.max(initial=0) > np.iinfo(np.uint16).max else labels.astype(np.uint16)
    settings: dict[str, Any] = {"photometric": "minisblack", "compression": "zlib"}
    if pixel_size:
        resolution = tuple(MICROMETRES_IN_CM / one for one in pixel_size)
        settings |= {"resolution": resolution, "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(file, pixels, **settings)
    return file.getvalue()


def encode_rois(labels: np.ndarray) -> bytes:
    """Encode labels int32 (H, W) -> the bytes of a zip with a ROI for each nucleus, which bears its number."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for label, polygons in outline_nuclei(labels):
            name = zipfile.ZipInfo(f"{label}.roi", _FIRST_DATE)
            archive.writestr(name, _make_roi(str(label), polygons).tobytes(), zipfile.ZIP_DEFLATED)
    return file.getvalue()


def _make_roi(name: str, polygons: Sequence[Sequence[Ring]]) -> ImagejRoi:
    """Make a traced ROI of one ring; of several, holes and parts, the composite that ImageJ fills by even and odd."""
    rings = [ring for polygon in polygons for ring in polygon]
    if len(rings) == 1:
        roi = ImagejRoi.frompoints(rings[0][:-1], name=name)
        roi.roitype = ROI_TYPE.TRACED
        return roi
    path: list[float] = []
    for first, *rest, _ in rings:
        path += [_MOVE, *first]
        for corner in rest:
            path += [_LINE, *corner]
        path.append(_CLOSE)
    coordinates, corners = np.array(path, np.float32), np.concatenate(rings)
    roi = ImagejRoi(name=name, roitype=ROI_TYPE.RECT, shape_roi_size=len(path), multi_coordinates=coordinates)
    roi.left, roi.top = corners.min(axis=0).tolist()
    roi.right, roi.bottom = corners.max(axis=0).tolist()
    return roi
