"""TIFF: whatever microscopes write -> the plane that is meant, its pixels as ImageJ and tifffile show them."""

import contextlib
import logging
import math
import re
from dataclasses import replace
from io import BufferedIOBase
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from tifffile import PHOTOMETRIC, TiffFile

from nuclei.settings.config import BadInput
from nuclei_kit.files.formats import broken_by_name
from nuclei_kit.files.limits import MAX_PIXEL_BYTES, MAX_PLANES, check_pixels
from nuclei_kit.files.planes import COLOURS, Choice, Picture, Plane, Planes, choose_plane
from nuclei_kit.files.tiff_guards import JPEG, check_chain, check_readable, check_segments
from nuclei_kit.files.tiff_metadata import channel_names, check_ome, describe_size, pixel_size

# Images that stand beside the one that is meant, in files of slide scanners.
_BESIDE = {"thumbnail", "label", "macro", "map", "overview", "probability"}
_WORDS = {"T": "time point", "A": "angle", "P": "position", "R": "tile", "M": "tile", "E": "wavelength"}
_YCBCR_JPEG2000 = 33003  # Aperio's: tifffile turns JPEG's YCbCr to RGB, and not this


def read_tiff(file: BufferedIOBase, name: object, most: int, choice: Choice | None) -> Picture:
    """Read the one plane of a TIFF that is meant; args and errors as of `read_picture`.

    The tag of the orientation is not applied, as tifffile and ImageJ do not.
    """
    if str(name).lower().endswith(".vsi"):
        raise BadInput(f"{name} is Olympus's VSI, whose pixels lie in a folder beside it: save it as OME-TIFF in Fiji")
    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # else its remarks would go to stderr
    with contextlib.ExitStack() as opened:
        with broken_by_name(name, "TIFF"):
            whole = str(name).lower().endswith(".ndpi") or check_chain(file, name)
            tif, stacks = _open(file, name, most, opened)
        stack, plane = _choose(tif, [one for one in stacks if not one.is_beside] or stacks[:1], choice, name)
        page = stack.keyframe
        check_pixels(page.imagelength, page.imagewidth, most, name)
        with broken_by_name(name, "TIFF"):
            pixels = _as_shown(stack.read(plane, name, most), page, name)
        if stack.is_colour and plane.channel != "all":
            pixels = pixels[..., plane.channel]
        size = pixel_size(tif, page)
        facts = ("TIFF", stack.describe(), describe_size(size), "" if whole else "cut off after its last page")
        said, channels = ", ".join(filter(None, facts)), stack.planes(tif).channels
        white_is_zero = page.photometric == PHOTOMETRIC.MINISWHITE and page.bitspersample == 1
        return Picture(pixels, said, plane.said, size, channels, white_is_zero)


def _open(file, name, most, opened):
    """Open a TIFF -> (TiffFile, a _Stack for each series in it); where its metadata are broken, of its bare pages."""
    try:
        return _open_as(file, name, most, opened, {})
    except BadInput:
        raise
    except Exception:
        bare = dict.fromkeys(("is_ome", "is_imagej", "is_shaped", "is_mmstack"), False)
        return _open_as(file, name, most, opened, bare)


def _open_as(file, name, most, opened, kinds):
    file.seek(0)  # tifffile would begin where it is
    base = re.split(r"[/\\]", str(name))[-1]  # its ending tells .ndpi, and OME-XML names the files of a set
    tif = opened.enter_context(TiffFile(_as_stream(file), name=base, _multifile=False, **kinds))
    check_pixels(tif.pages.first.imagelength, tif.pages.first.imagewidth, most, name)
    check_ome(tif, name)
    return tif, [_Stack(one) for one in tif.series if 0 not in one.shape]


def _as_stream(file: BufferedIOBase) -> Any:
    """Make a file one without a number: tifffile takes it for a stream, and looks for no other files of its set."""
    return SimpleNamespace(seek=file.seek, tell=file.tell, read=file.read, readinto=file.readinto)


def _choose(tif, stacks, choice, name):
    """Choose among the images of a file, and in that image -> (_Stack, Plane)."""
    if not stacks:
        raise BadInput(f"{name} is a TIFF without pixels: replace it by a whole file")
    if len(stacks) == 1:
        check_readable(stacks[0].keyframe, name)
        return stacks[0], choose_plane(stacks[0].planes(tif), choice, name)
    counts = [one.pages for one in stacks]  # the pages of all are counted through
    pages = [one.describe() for one in stacks] if sum(counts) == len(stacks) else sum(counts)
    image = choose_plane(Planes(pages=pages, word="image"), choice and Choice(page=choice.page), name)
    before = [0, *np.cumsum(counts).tolist()]
    which = int(np.searchsorted(before, image.page, side="right")) - 1
    check_readable(stacks[which].keyframe, name)
    planes = replace(stacks[which].planes(tif), pages=1)
    plane = choose_plane(planes, choice and replace(choice, page=None), name)
    said = f"{image.said}, {plane.said}" if plane.said else image.said
    return stacks[which], replace(plane, page=image.page - before[which], said=said)


class _Stack:
    """A series of tifffile's: images of one size along further axes, of which a page holds the last few.

    roles: what each axis is: "y", "x", "s" samples of a colour, "c" channel, "z", "p" page.
    first: the first axis that lies inside a page.
    """

    def __init__(self, series):
        self.series, self.keyframe = series, series.keyframe
        self.axes, self.shape = series.get_axes(True), series.get_shape(True)
        sizes = [math.prod(self.shape[first:]) for first in range(len(self.shape))]
        self.first = sizes.index(self.keyframe.size) if self.keyframe.size in sizes else 0
        self.roles = [{"Y": "y", "X": "x", "C": "c", "Z": "z"}.get(axis, "p") for axis in self.axes]
        if "S" in self.keyframe.axes and len(self.shape) - self.first == len(self.keyframe.shape):
            place = self.first + self.keyframe.axes.index("S")  # it may have another letter in the series
            if _is_colour(self.keyframe) or _has_alpha(self.keyframe):
                self.roles[place] = "s"
            elif self.axes[place] == "S":
                self.roles[place] = "c"
        for role in "yxcz":  # of several axes of one kind the last counts
            for place in self._along(role)[:-1]:
                self.roles[place] = "p"
        if not {"y", "x"} <= set(self.roles):
            raise ValueError(f"it has no rows and columns, its axes are {self.axes}")
        if not {"y", "x"} <= set(self.roles[self.first :]):
            self.first = 0  # no page holds a plane: the whole is read

    @property
    def is_beside(self):
        """Whether it is a smaller copy, a mask, or stands beside the image that is meant."""
        return bool(self.keyframe.subfiletype & 0b101) or self.series.name.lower() in _BESIDE

    @property
    def is_colour(self):
        """Whether its planes are shown in colour."""
        return "c" not in self.roles and (_is_colour(self.keyframe) or self.keyframe.photometric == PHOTOMETRIC.PALETTE)

    @property
    def pages(self):
        """How many planes there are for each channel and z."""
        return self._length("p")

    def _along(self, role):
        return [place for place, one in enumerate(self.roles) if one == role]

    def _length(self, role):
        return math.prod(self.shape[place] for place in self._along(role))

    def describe(self):
        """Describe it: 2 x 512 x 512 (CYX), uint16."""
        return f"{' x '.join(map(str, self.shape))} ({self.axes}), {self.series.dtype}"

    def planes(self, tif):
        """Say what there is to choose from -> Planes."""
        count, pages = self._length("c"), self._along("p")
        if max(count, self._length("z"), self.pages) > MAX_PLANES:
            raise BadInput(f"{tif.filename} states over {MAX_PLANES:,} planes: write it again")
        names = channel_names(tif, self.series)
        channels = COLOURS if self.is_colour else names if len(names) == count else [""] * count
        axis = self.axes[pages[0]] if len(pages) == 1 else ""
        return Planes(channels, self._length("z"), self.pages, _WORDS.get(axis, "page"), unnamed=axis in ("I", "Q"))

    def read(self, plane: Plane, name: object, most: int) -> np.ndarray:
        """Read a plane -> (H, W) or (H, W, samples), of the file's type; the largest values where it says "max"."""
        pages = range(self.pages) if plane.page == "max" else [plane.page]
        levels = range(self._length("z")) if plane.z == "max" else [plane.z]
        largest: Any = None
        number = -1
        for index in (self._index({"c": plane.channel, "z": z, "p": page}) for page in pages for z in levels):
            before, number = number, self._page_number(index)
            if number != before:
                page_pixels = self._read_page(number, name, most)
            pixels = page_pixels[tuple(index[self.first :])]
            largest = pixels if largest is None else np.fmax(largest, pixels)
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

    def _page_number(self, index):
        return int(np.ravel_multi_index(index[: self.first], self.shape[: self.first])) if self.first else 0

    def _read_page(self, number, name, most):
        """Read the axes from `first` on."""
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
        check_segments(one, page, name)
        return one.asarray().reshape(shape)


# ---- colours -----------------------------------------------------------------------------------


def _is_colour(page):
    """Whether a page's samples are one colour: RGB, YCbCr or CMYK, perhaps with alpha."""
    return page.samplesperpixel in {2: (3, 4), 5: (4, 5), 6: (3,)}.get(page.photometric, ())


def _has_alpha(page):
    """Whether a page is of one grey value and its alpha."""
    return page.samplesperpixel == 2 and tuple(page.extrasamples) in ((1,), (2,))


def _as_shown(pixels, page, name):
    """Turn what is stored into what is shown: grey (H, W) or RGB (H, W, 3), of 8 bits and more."""
    if page.photometric == PHOTOMETRIC.PALETTE:
        colours = page.colormap >> 8 if page.colormap.max() > 255 else page.colormap  # some writers use 8 bits
        grey = pixels if pixels.ndim == 2 else pixels[..., 0]
        return colours.astype(np.uint8).T[np.minimum(grey, colours.shape[1] - 1)]
    if pixels.dtype == bool or (isinstance(page.bitspersample, int) and page.bitspersample < 8):
        levels = np.arange(256) * (255 / (2**page.bitspersample - 1))
        pixels = levels.clip(0, 255).astype(np.uint8)[pixels.astype(np.uint8)]
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        pixels = -pixels if pixels.dtype.kind == "f" else ~pixels
    if pixels.ndim == 2:
        return pixels
    if not _is_colour(page):  # grey and alpha
        return pixels[..., 0]
    if page.photometric == PHOTOMETRIC.SEPARATED:
        return _from_cmyk(pixels)
    if page.compression == _YCBCR_JPEG2000 or (page.photometric == PHOTOMETRIC.YCBCR and page.compression not in JPEG):
        if pixels.dtype != np.uint8:
            raise BadInput(f"{name} holds its colours as YCbCr of {pixels.dtype}: save it as RGB")
        return cv2.cvtColor(np.ascontiguousarray(pixels[..., [0, 2, 1]]), cv2.COLOR_YCrCb2RGB)
    return pixels[..., :3]


def _from_cmyk(pixels):
    """Cyan, magenta, yellow, black, unsigned (H, W, 4) -> RGB (H, W, 3) of the same type."""
    top = np.iinfo(pixels.dtype).max
    light = (top - pixels[..., :4]).astype(np.float32)
    return (light[..., :3] * light[..., 3:] / top).round().astype(pixels.dtype)
