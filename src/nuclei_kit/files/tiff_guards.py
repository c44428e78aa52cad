"""TIFF guards: what of a TIFF is refused before a decoder sees it."""

import math
import struct
from io import BufferedIOBase
from typing import Any

from tifffile import PHOTOMETRIC, TIFF, TiffPage

from nuclei.settings.config import BadInput
from nuclei_kit.files.limits import MAX_PLANES

JPEG = {6, 7, 33007, 34892}  # compressions that tifffile itself turns from YCbCr to RGB


def check_chain(file: BufferedIOBase, name: object) -> bool:
    """Follow the chain of a TIFF's pages -> whether its last one says that it is the last.

    Raises:
        BadInput: it has too many pages, or runs in a circle, in which tifffile would follow it.
        struct.error: it is cut off in the first page's list of tags.
    """
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:1] == b"I" else ">"
    big = struct.unpack_from(f"{order}H", head, 2)[0] == 43
    number, count, entry, start = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)
    (place,) = struct.unpack_from(order + number, head, start)
    seen: set[int] = set()
    while place:
        if place in seen or len(seen) > MAX_PLANES:
            raise BadInput(f"{name} is a TIFF that is broken, its pages run in a circle: replace it by a whole file")
        if place >= size:
            return False
        seen.add(place)
        try:
            file.seek(place)
            tags = struct.unpack(order + count, file.read(struct.calcsize(count)))[0]
            file.seek(place + struct.calcsize(count) + entry * tags)
            (place,) = struct.unpack(order + number, file.read(struct.calcsize(number)))
        except (struct.error, OverflowError):
            if len(seen) == 1:
                raise
            return False
    return True


def check_readable(page: TiffPage, name: object) -> None:
    """Refuse what tifffile does not decode, by its name."""
    packed, colours = _word(page.compression), _word(page.photometric)
    if page.compression != 1 and page.compression not in TIFF.DECOMPRESSORS:
        raise BadInput(f"{name} is packed by {packed}, which is not read here: save it with LZW, ZIP or no compression")
    if page.is_subsampled and page.compression not in JPEG:
        raise BadInput(f"{name} holds {colours} of a lower resolution, packed by {packed}: save it as RGB")
    read = (None, 0, 1, 2, 3, 4, 5, 6)
    if page.photometric not in read or (page.photometric == PHOTOMETRIC.PALETTE and page.colormap is None):
        raise BadInput(f"{name} holds its colours as {colours}, which is not read here: save it as grey or RGB")
    if page.dtype is None or page.dtype.kind not in "buif":
        what = page.dtype or f"{page.bitspersample} bits, format {_word(page.sampleformat)}"
        raise BadInput(f"{name} holds numbers of a kind that is not read here ({what}): save it as uint16 or float32")


def _word(code):
    return getattr(code, "name", f"code {code}")


def check_segments(one: Any, page: TiffPage, name: object) -> None:
    """Refuse a page whose strips or tiles lie past the file's end, were never written, or are larger than its image.

    Decoders of JPEG and the like fill in grey for what is cut off, tifffile black for what was never written; and
    JPEG and JPEG 2000 are unpacked whole, whatever size they state.

    Args:
        one: the page.
        page: one of the same size and packing.
    """
    file, room = page.parent.filehandle, 2 * max(math.prod(page.chunks), page.size)
    segments = list(zip(one.dataoffsets, one.databytecounts, strict=False))
    written = sum(count > 0 for _, count in segments)
    if not written or (written < len(segments) and not page.is_tiled):  # slides leave out tiles of bare glass
        raise BadInput(f"{name} lacks pixels of that plane: what wrote it was cut off, so write it again")
    if page.compression not in TIFF.IMAGE_COMPRESSIONS | JPEG:
        return
    for start, count in segments:
        if start + count > file.size:
            raise BadInput(f"{name} is a TIFF that is cut off: replace it by a whole file")
        height, width = _tile_size(file, start) if count else (0, 0)
        if height * width > room:
            raise BadInput(f"{name} states a tile of {height} x {width} pixels, larger than its image: save it anew")


def _tile_size(file, start):
    """Read the height and width that a JPEG or the code stream of a JPEG 2000 states; (0, 0) of anything else."""
    file.seek(start)
    mark = file.read(2)
    if mark == b"\xff\x4f":
        width, height = struct.unpack(">6x2I", file.read(14))
        return height, width
    while mark == b"\xff\xd8":
        marker, length = struct.unpack(">HH", file.read(4))
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):
            return struct.unpack(">x2H", file.read(5))
        if not 0xFFC0 <= marker <= 0xFFFE or length < 2:
            break
        file.seek(length - 2, 1)
    return 0, 0
