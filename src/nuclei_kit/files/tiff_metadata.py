"""TIFF metadata: what OME-XML, ImageJ and the makers of microscopes say of channels and of the pixels' size."""

import contextlib
import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from tifffile import TiffFile, TiffPage, TiffPageSeries

from nuclei.settings.config import BadInput
from nuclei_kit.files.limits import MAX_PLANES
from nuclei_kit.files.planes import PixelSize

_MICROMETRES = {
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "nm": 1e-3,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
}
_TIFF_MICROMETRES = {2: 25400.0, 3: 1e4}  # inch and centimetre, by their codes
_COARSEST = 10.0  # micrometres; a larger pixel is a printer's resolution, not a microscope's


def check_ome(tif: TiffFile, name: object) -> None:
    """Refuse OME-XML that promises more planes than any file holds, for which tifffile would take memory."""
    for element in _parse_ome(tif).iter():
        tag, number = _tag(element), lambda key, element=element: float(element.get(key, 1))
        if tag == "Pixels":
            planes = number("SizeC") * number("SizeZ") * number("SizeT")
        elif tag == "TiffData":
            planes = max((float(one) for key, one in element.attrib.items() if key != "UUID"), default=0.0)
        elif tag.startswith("ModuloAlong"):
            planes = (float(element.get("End", 0)) - float(element.get("Start", 0))) / (number("Step") or 1.0)
        else:
            continue
        if not planes <= MAX_PLANES:
            raise BadInput(f"{name} promises over {MAX_PLANES:,} planes in its OME-XML: write it again")


def _parse_ome(tif):
    """Parse the OME-XML of a file -> its root; an empty element where it has none, or a broken one."""
    if tif.is_ome:
        with contextlib.suppress(ElementTree.ParseError):
            return ElementTree.fromstring(tif.ome_metadata)
    return ElementTree.Element("none")


def _tag(element):
    return element.tag.split("}")[-1]


def _find_pixels(tif, series):
    """Find the Pixels of OME-XML that describe a series, or None."""
    found = [one for one in _parse_ome(tif).iter() if _tag(one) == "Pixels"]
    place = tif.series.index(series)
    return found[place] if series.kind == "ome" and len(found) == len(tif.series) else None


def channel_names(tif: TiffFile, series: TiffPageSeries) -> Sequence[str]:
    """List the names of a series' channels, as far as the file says them."""
    with contextlib.suppress(Exception):  # they are a courtesy: what is wrong with them must not cost the image
        return [str(one) for one in _NAMES[series.kind](tif, series)]
    return []


def _ome_names(tif, series):
    pixels = _find_pixels(tif, series)
    return [_join(one.get("Name", ""), one.get("Fluor", "")) for one in pixels if _tag(one) == "Channel"]


def _join(name, stain):
    return f"{name} ({stain})" if name and stain and stain.casefold() not in name.casefold() else name or stain


def _imagej_names(tif, series):
    """Take the labels of the first planes where channels come first, as they do unless ImageJ is told otherwise."""
    axes, shape = series.get_axes(True), series.get_shape(True)
    first = axes.replace("S", "").endswith("CYX")
    return tif.imagej_metadata["Labels"][: shape[axes.index("C")]] if first else []


_NAMES: dict[str, Any] = {
    "ome": _ome_names,
    "imagej": _imagej_names,
    "mmstack": lambda tif, series: tif.micromanager_metadata["Summary"]["ChNames"],
    "lsm": lambda tif, series: tif.lsm_metadata["ChannelColors"]["ColorNames"],
    "qpi": lambda tif, series: [re.findall(r"<Name>([^<]*)</Name>", page.description)[0] for page in series],
    "shaped": lambda tif, series: tif.shaped_metadata[tif.series.index(series)]["Channel"]["Name"],
}


def pixel_size(tif: TiffFile, page: TiffPage) -> PixelSize | None:
    """Find the size of a pixel, where the file states it."""
    with contextlib.suppress(Exception):  # see `channel_names`
        x, y = _pixel_sizes(tif, page)
        if 0 < x < _COARSEST and 0 < y < _COARSEST:
            return float(x), float(y)
    return None


def describe_size(size: PixelSize | None) -> str:
    """Say the size of a pixel: "0.65 um a pixel"; "" where it is not known."""
    return " x ".join(dict.fromkeys(f"{one:.3g}" for one in size)) + " um a pixel" if size else ""


def _pixel_sizes(tif, page):
    """-> (along x, along y) in micrometres."""
    pixels = next((one for one in _parse_ome(tif).iter() if _tag(one) == "Pixels" and one.get("PhysicalSizeX")), None)
    if pixels is not None:
        return [
            float(pixels.get(f"PhysicalSize{axis}")) * _MICROMETRES[pixels.get(f"PhysicalSize{axis}Unit", "µm")]
            for axis in "XY"
        ]
    if tif.is_lsm:
        return [tif.lsm_metadata[f"VoxelSize{axis}"] * 1e6 for axis in "XY"]
    if match := re.search(r"MPP = ([\d.]+)", page.description):  # Aperio
        return [float(match[1])] * 2
    unit = (tif.imagej_metadata or {}).get("unit", "") if tif.is_imagej else ""
    scale = _MICROMETRES.get(unit.replace("\\u00B5", "µ")) or _TIFF_MICROMETRES[page.resolutionunit]
    return [scale / one for one in page.resolution]
