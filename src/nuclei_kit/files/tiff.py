"""TIFF: whatever microscopes write -> the plane that is meant, its pixels as ImageJ and tifffile show them."""

import logging
import math
import re
from dataclasses import replace
from io import BufferedIOBase
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
from tifffile import PHOTOMETRIC, TIFF, TiffFile

from nuclei.settings.config import BadInput
from nuclei_kit.files.formats import broken_by_name
from nuclei_kit.files.limits import MAX_PIXEL_BYTES, MAX_PLANES
from nuclei_kit.files.planes import COLOURS, Choice, Picture, Planes, choose_plane

# Images that stand beside the one that is meant, in files of slide scanners.
_BESIDE = {"thumbnail", "label", "macro", "map", "overview", "probability"}
_WORDS = {"T": "time point", "A": "angle", "P": "position", "R": "tile", "M": "tile", "E": "wavelength"}
_JPEG = {6, 7, 33007, 34892}  # compressions that tifffile itself turns from YCbCr to RGB
_YCBCR_JPEG2000 = 33003  # Aperio's, which it does not


def read_tiff(file: BufferedIOBase, name: object, most: int, choice: Choice | None) -> Picture:
    """Read the one plane of a TIFF that is meant; args and errors as of `read_picture`.

    The tag of the orientation is not applied, as tifffile and ImageJ do not.
    """
    if str(name).lower().endswith(".vsi"):
        raise BadInput(
            f"{name} is Olympus's VSI, whose pixels lie in the folder beside it: save it as OME-TIFF in Fiji"
        )
    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # else its remarks would go to stderr
    base = re.split(r"[/\\]", str(name))[-1]  # its ending tells .ndpi, and OME-XML names the files of a set
    with broken_by_name(name, "TIFF"), TiffFile(_as_stream(file), name=base, _multifile=False) as tif:
        if not tif.pages:
            raise BadInput(f"{name} is a TIFF that is broken or cut off, without an image: replace it by a whole file")
        _check_size(tif.pages.first, name, most)
        images = _read_ome(tif, name)
        stacks = [_Stack(one, images.get(number)) for number, one in enumerate(tif.series) if 0 not in one.shape]
        stacks = [one for one in stacks if not one.is_beside()] or stacks[:1]
        if not stacks:
            raise BadInput(f"{name} is a TIFF without pixels: replace it by a whole file")
        stack, plane = _choose(tif, stacks, choice, name)
        _check_size(stack.keyframe, name, most)
        _check_readable(stack.keyframe, name)
        pixels = stack.read(plane, name, most)
        facts = ("TIFF", stack.describe(), _pixel_size(tif, stack))
        pixels = _as_shown(pixels, stack.keyframe, name)
        if stack.is_colour and plane.channel != "all":
            pixels = pixels[..., plane.channel]
        return Picture(pixels, ", ".join(filter(None, facts)), plane.said)


def _as_stream(file: BufferedIOBase) -> Any:
    """Make a file one without a number: tifffile takes it for a stream, and looks for no other files of its set."""
    return SimpleNamespace(seek=file.seek, tell=file.tell, read=file.read, readinto=file.readinto)


def _choose(tif, stacks, choice, name):
    """-> (the _Stack that is meant, the Plane of it)."""
    place, page = "", 0
    if len(stacks) > 1:  # their pages are counted through
        counts = [one.pages for one in stacks]
        pages = [one.describe() for one in stacks] if sum(counts) == len(stacks) else sum(counts)
        image = choose_plane(Planes(pages=pages, word="image"), choice and Choice(page=choice.page), name)
        ends = np.cumsum(counts)
        which = int(np.searchsorted(ends, image.page, side="right"))
        stack, place, page = stacks[which], image.said, int(image.page - ends[which] + counts[which])
        choice = choice and replace(choice, page=None)
    else:
        stack = stacks[0]
    planes = stack.planes(_channel_names(tif, stack))
    if place:
        planes = replace(planes, pages=1)
    plane = choose_plane(planes, choice, name)
    if place:
        plane = replace(plane, page=page, said=", ".join(filter(None, (place, plane.said))))
    return stack, plane


class _Stack:
    """A series of tifffile's: images of one size along further axes, of which a page holds the last few.

    roles: what each axis is: "y", "x", "s" samples of a colour, "c" channel, "z", "p" page.
    ome: the Pixels of OME-XML that describe it, or None.
    """

    def __init__(self, series, ome):
        self.series, self.keyframe, self.ome = series, series.keyframe, ome
        self.axes, self.shape = series.get_axes(True), series.get_shape(True)
        sizes = [math.prod(self.shape[first:]) for first in range(len(self.shape))]
        fits = [first for first, size in enumerate(sizes) if size == self.keyframe.size]
        self.first = fits[0] if fits else 0  # the first axis that lies inside a page
        self.roles = [{"Y": "y", "X": "x", "C": "c", "Z": "z"}.get(axis, "p") for axis in self.axes]
        self._find_samples()
        for role in "yxcz":  # of two axes of one name the last counts
            for place in [at for at, one in enumerate(self.roles) if one == role][:-1]:
                self.roles[place] = "p"
        if "y" not in self.roles[self.first :] or "x" not in self.roles[self.first :]:
            self.first = 0  # a page holds no plane: the whole is read

    def _find_samples(self):
        page = self.keyframe
        if "S" in page.axes and len(self.shape) - self.first == len(page.shape):
            place = self.first + page.axes.index("S")
            if self.axes[place] not in "YX":
                self.roles[place] = "s" if _is_colour(page) or _has_alpha(page) else "c"

    def is_beside(self):
        return bool(self.keyframe.subfiletype & 5) or self.series.name.lower() in _BESIDE  # reduced, or a mask

    def _along(self, role):
        return [place for place, one in enumerate(self.roles) if one == role]

    def _length(self, role):
        return math.prod(self.shape[place] for place in self._along(role))

    @property
    def is_colour(self):
        """Whether its planes are shown in colour."""
        return "c" not in self.roles and (_is_colour(self.keyframe) or self.keyframe.photometric == PHOTOMETRIC.PALETTE)

    @property
    def pages(self):
        """How many planes there are for each channel and z."""
        return self._length("p")

    def describe(self):
        """ "2 x 512 x 512 (CYX), uint16"."""
        return f"{' x '.join(map(str, self.shape))} ({self.axes}), {self.series.dtype}"

    def planes(self, names):
        places = self._along("p")
        axis = self.axes[places[0]] if len(places) == 1 else ""
        channels = names if len(names) == self._length("c") else [""] * self._length("c")
        channels = COLOURS if self.is_colour else channels
        word = _WORDS.get(axis, "page")
        return Planes(channels, self._length("z"), self.pages, word, unnamed=axis in ("I", "Q"))

    def read(self, plane, name, most):
        """Read a Plane -> (H, W) or (H, W, samples), of the file's type; the largest values where it says "max"."""
        pages = range(self.pages) if plane.page == "max" else [plane.page]
        levels = range(self._length("z")) if plane.z == "max" else [plane.z]
        largest: np.ndarray | None = None
        number = -1
        for index in (self._index({"c": plane.channel, "z": z, "p": page}) for page in pages for z in levels):
            before, number = number, self._frame_number(index)
            if number != before:
                frame = self._read_frame(number, name, most)
            pixels = frame[tuple(index[self.first :])]
            largest = pixels if largest is None else np.maximum(largest, pixels)
        assert largest is not None
        kept = [role for role in self.roles if role in "yxs"]
        return np.moveaxis(largest, kept.index("s"), -1) if "s" in kept else largest

    def _index(self, chosen):
        """{role: number} -> the index of a plane along all axes; rows, columns and samples whole."""
        index: list[Any] = [slice(None)] * len(self.shape)
        for role, number in chosen.items():
            places = self._along(role)
            if places:
                along = np.unravel_index(number, [self.shape[place] for place in places])
                for place, one in zip(places, along, strict=True):
                    index[place] = int(one)
        return index

    def _frame_number(self, index):
        """Count the pages up to the one that an index lies in."""
        return int(np.ravel_multi_index(index[: self.first], self.shape[: self.first])) if self.first else 0

    def _read_frame(self, number, name, most):
        """Read a page, the axes from `first` on."""
        series, page, shape = self.series, self.keyframe, self.shape[self.first :]
        nbytes = math.prod(shape) * series.dtype.itemsize
        held = max(nbytes, math.prod(page.chunks) * series.dtype.itemsize)  # a tile may be larger than its image
        if held > MAX_PIXEL_BYTES * most:
            raise BadInput(f"{name} states {held:,} bytes in a page, over the limit of {MAX_PIXEL_BYTES * most:,}")
        if not self.first and len(series) > 1:
            return series.asarray().reshape(shape)
        if series.is_truncated and series.dataoffset is not None:  # one page stands for all that follow it
            tif = page.parent
            tif.filehandle.seek(series.dataoffset + number * nbytes)
            return tif.filehandle.read_array(tif.byteorder + series.dtype.char, math.prod(shape)).reshape(shape)
        one = series[number]
        if one is None:
            raise BadInput(f"{name} lacks that plane, which its metadata promise: it lies in another file of its set")
        if not any(one.databytecounts):
            raise BadInput(f"{name} holds no pixels of that plane: whatever wrote it was cut off, so write it again")
        return one.asarray().reshape(shape)


# ---- what is refused ---------------------------------------------------------------------------


def _check_size(page, name, most):
    height, width = page.imagelength, page.imagewidth
    if height * width > most:
        raise BadInput(f"{name} states {height} x {width} pixels, over the limit of {most:,}: cut it into parts")


def _check_readable(page, name):
    """Refuse what tifffile does not decode, by its name."""
    packed, colours = _word(page.compression), _word(page.photometric)
    if page.compression != 1 and page.compression not in TIFF.DECOMPRESSORS:
        raise BadInput(f"{name} is packed by {packed}, which is not read here: save it with LZW, ZIP or no compression")
    if page.is_subsampled and page.compression not in _JPEG:
        raise BadInput(f"{name} holds {colours} of a lower resolution, packed by {packed}: save it as RGB")
    read = (None, 0, 1, 2, 3, 4, 5, 6)
    if page.photometric not in read or (page.photometric == PHOTOMETRIC.PALETTE and page.colormap is None):
        raise BadInput(f"{name} holds its colours as {colours}, which is not read here: save it as grey or RGB")
    if page.dtype is None or page.dtype.kind not in "buif":
        what = page.dtype or f"{page.bitspersample}-bit format {_word(page.sampleformat)}"
        raise BadInput(f"{name} holds numbers of a kind that is not read here ({what}): save it as uint16 or float32")


def _word(code):
    return getattr(code, "name", f"code {code}")


# ---- colours -----------------------------------------------------------------------------------


def _is_colour(page):
    """Whether a page's samples are one colour: RGB, YCbCr or CMYK, perhaps with alpha."""
    samples = {2: (3, 4), 6: (3,), 5: (4, 5)}
    return page.samplesperpixel in samples.get(page.photometric, ())


def _has_alpha(page):
    """Whether a page is of one grey value and its alpha."""
    return page.samplesperpixel == 2 and tuple(page.extrasamples) in ((1,), (2,))


def _as_shown(pixels, page, name):
    """Turn what is stored into what is shown: grey (H, W) or RGB (H, W, 3), of at least 8 bits."""
    bits = page.bitspersample
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    if page.photometric == PHOTOMETRIC.PALETTE:
        grey = pixels if pixels.ndim == 2 else pixels[..., 0]
        colours = page.colormap >> 8 if page.colormap.max() > 255 else page.colormap  # some writers use 8 bits
        return colours.astype(np.uint8).T[np.minimum(grey, colours.shape[1] - 1)]
    if isinstance(bits, int) and bits < 8:
        pixels = cv2.LUT(
            np.ascontiguousarray(pixels), (np.arange(256) * (255 / (2**bits - 1))).clip(0, 255).astype(np.uint8)
        )
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        pixels = -pixels if pixels.dtype.kind == "f" else ~pixels
    if pixels.ndim == 2:
        return pixels
    if not _is_colour(page):  # grey and alpha
        return pixels[..., 0]
    if page.photometric == PHOTOMETRIC.SEPARATED:
        return _from_cmyk(pixels)
    if page.compression == _YCBCR_JPEG2000 or (page.photometric == PHOTOMETRIC.YCBCR and page.compression not in _JPEG):
        if pixels.dtype != np.uint8:
            raise BadInput(f"{name} holds its colours as YCbCr of {pixels.dtype}: save it as RGB")
        return cv2.cvtColor(np.ascontiguousarray(pixels[..., [0, 2, 1]]), cv2.COLOR_YCrCb2RGB)
    return pixels[..., :3]


def _from_cmyk(pixels):
    """Cyan, magenta, yellow, black, unsigned (H, W, 4) -> RGB (H, W, 3) of the same type."""
    top = np.iinfo(pixels.dtype).max
    wide = (top - pixels[..., :4]).astype(np.float32)
    return (wide[..., :3] * wide[..., 3:] / top).round().astype(pixels.dtype)


# ---- what the metadata say ---------------------------------------------------------------------


def _read_ome(tif, name):
    """Parse OME-XML -> {number of a series: element of its Pixels}.

    Raises:
        BadInput: it promises more planes than any file holds, for which tifffile would take memory.
    """
    if not tif.is_ome:
        return {}
    try:
        root = ElementTree.fromstring(tif.ome_metadata)
    except ElementTree.ParseError:
        return {}  # tifffile ignores it, too
    for element in root.iter():
        numbers = [int(value) for value in element.attrib.values() if value.isdecimal() and len(value) < 20]
        tag = element.tag.split("}")[-1]
        planes = math.prod(int(element.get(f"Size{axis}", 1)) for axis in "CZT") if tag == "Pixels" else 0
        counted = max(numbers, default=0) if tag == "TiffData" else 0
        span = float(element.get("End", 0)) - float(element.get("Start", 0)) if tag.startswith("ModuloAlong") else 0.0
        if max(planes, counted, span / float(element.get("Step", 1) or 1)) > MAX_PLANES:
            raise BadInput(f"{name} promises over {MAX_PLANES:,} planes in its OME-XML: write it again")
    found = [one for one in root.iter() if one.tag.endswith("}Pixels") or one.tag == "Pixels"]
    return dict(enumerate(found))


def _channel_names(tif, stack):
    """List the names of the channels, as far as the file says them."""
    with_names = [""]
    if stack.series.kind == "ome" and stack.ome is not None:
        channels = [one for one in stack.ome if one.tag.endswith("Channel")]
        with_names = [_join(one.get("Name", ""), one.get("Fluor", "")) for one in channels]
    elif stack.series.kind == "imagej":
        labels = (tif.imagej_metadata or {}).get("Labels") or []
        count = stack._length("c")
        # The channels of the first z plane and time point come first, in ImageJ's own order.
        with_names = [str(one) for one in labels[:count]] if stack.axes.replace("S", "")[-3:-2] == "C" else []
    elif stack.series.kind == "mmstack":
        with_names = [str(one) for one in (tif.micromanager_metadata or {}).get("Summary", {}).get("ChNames") or []]
    elif stack.series.kind == "lsm":
        with_names = [str(one) for one in (tif.lsm_metadata or {}).get("ChannelColors", {}).get("ColorNames") or []]
    elif stack.series.kind == "qpi":
        found = [re.search(r"<Name>([^<]*)</Name>", page.description) for page in stack.series if page is not None]
        with_names = [match[1] if match else "" for match in found]
    return with_names


def _join(name, stain):
    return f"{name} ({stain})" if name and stain and stain.lower() not in name.lower() else name or stain


def _pixel_size(tif, stack):
    """Say the pixel size in micrometres, where the file states it, else ""."""
    pixels, page = stack.ome, stack.keyframe
    size: tuple[float, ...] = ()
    if pixels is not None and pixels.get("PhysicalSizeX"):
        scale = {"µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}.get(
            pixels.get("PhysicalSizeXUnit", "µm")
        )
        size = tuple(float(pixels.get(f"PhysicalSize{axis}", 0)) * (scale or 0) for axis in "XY")
    elif match := re.search(r"MPP = ([\d.]+)", page.description):
        size = (float(match[1]),) * 2
    else:
        unit = str((tif.imagej_metadata or {}).get("unit", "")) if tif.is_imagej else ""
        unit = unit.replace("\\u00B5", "µ")
        scale = {"micron": 1.0, "microns": 1.0, "µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3}.get(unit)
        scale = scale or {2: 25400.0, 3: 1e4}.get(page.resolutionunit, 0.0)
        size = tuple(scale / one if one else 0.0 for one in page.resolution)
    if not all(0 < one < 10 for one in size) or not size:  # a resolution of 10 um and more is a printer's
        return ""
    said = " x ".join(dict.fromkeys(f"{one:.3g}" for one in size))
    return f"{said} um a pixel"
