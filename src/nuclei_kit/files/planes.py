"""Planes: which channel, z plane and page of a file with many is meant: the one chosen, or the only one it can be."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nuclei.settings.config import BadInput

# What names a stain of nuclei, in channels' names.
NUCLEAR = re.compile(
    r"\bdapi|hoechst|\bh33(?:342|258)|draq[57]|sytox|nucblue|nucspot|\bnucle(?:i|us|ar)\b|\bdna\b", re.IGNORECASE
)
COLOURS = ("red", "green", "blue")  # the channels of a colour picture: all three, unless one is chosen
LISTED = 12  # choices that an error lists, at most

PixelSize = tuple[float, float]  # along x and y, in um


@dataclass(frozen=True)
class Picture:
    """One plane as it was read.

    pixels: (H, W), grey, or (H, W, 3), RGB, of the file's own type; of 1, 2 and 4 bits uint8 over the whole range.
    facts: what the file holds: format, shape, axes, type, pixel size where it is stated.
    chosen: which plane of several this is, or "".
    pixel_size: None where the file does not state it.
    channels: the names of all that the plane has, as in Planes.
    white_is_zero: whether it is of one bit, white stored as 0. tifffile writes bool arrays so, and reads True where
        ImageJ shows black.
    """

    pixels: np.ndarray
    facts: str
    chosen: str = ""
    pixel_size: PixelSize | None = None
    channels: Sequence[str] = ("",)
    white_is_zero: bool = False


@dataclass(frozen=True)
class Choice:
    """What is chosen of a file that holds many planes; None where nothing is. All count from 1.

    channel: a name, or a number.
    z: a number, or "max" for the maximum over all.
    page: the number of a time point, a position, or a page whose meaning the file does not state.
    """

    channel: str | None = None
    z: int | str | None = None
    page: int | None = None


@dataclass(frozen=True)
class Planes:
    """What a file holds.

    channels: the name of each, "" where it has none; COLOURS of a colour picture.
    depth: how many z planes.
    pages: what each of the rest is, as an error lists it; a number of them where they are all alike.
    word: what those are called: "page", "time point", "image".
    unnamed: whether the file does not say what the pages are, so that they may be z planes or channels, too.
    """

    channels: Sequence[str] = ("",)
    depth: int = 1
    pages: Sequence[str] | int = 1
    word: str = "page"
    unnamed: bool = False


@dataclass(frozen=True)
class Plane:
    """The plane that is meant, counted from 0, and what to say of it.

    channel: "all" where it is a colour picture.
    z, page: "max" is the maximum over all there are.
    """

    channel: int | str = 0
    z: int | str = 0
    page: int | str = 0
    said: str = ""


def choose_plane(planes: Planes, choice: Choice | None, name: object) -> Plane:
    """Find the one plane that is meant.

    Args:
        planes: what the file holds.
        choice: None where there is no way to choose.

    Raises:
        BadInput: several can be meant: the sentence lists them, and how to choose; or there is none such.
    """
    wanted, count = choice or Choice(), _count(planes.pages)
    if planes.unnamed and count > 1 and wanted.page is None:  # the user may know what the file does not say
        if wanted.z is not None and planes.depth == 1:
            plane = choose_plane(replace(planes, depth=count, pages=1), choice, name)
            return replace(plane, z=0, page=plane.z)
        if wanted.channel is not None and len(planes.channels) == 1:
            plane = choose_plane(replace(planes, channels=[""] * count, pages=1), choice, name)
            return replace(plane, channel=0, page=int(plane.channel))
    try:
        page, place = _choose_page(count, planes.word, wanted.page)
        channel, stain = _choose_channel(planes.channels, wanted.channel)
        z, level = _choose_z(planes.depth, wanted.z)
    except LookupError as error:
        held = [_list_channels(planes.channels), f"{planes.depth} z planes", _list_pages(planes)]
        held = [
            one for one, many in zip(held, (len(planes.channels) > 1, planes.depth > 1, count > 1), strict=True) if many
        ]
        raise BadInput(f"{name} has no {error.args[0]}: it holds {', '.join(held) or 'one plane'}") from None
    held, how = [], []
    if page is None:
        held.append(_list_pages(planes))
        how.append("--page N" + (" (or say what they are with --z N|max or --channel N)" if planes.unnamed else ""))
    if channel is None:
        held.append(_list_channels(planes.channels))
        how.append("--channel NAME|N" if any(planes.channels) else "--channel N")
    if z is None:
        held.append(f"{planes.depth} z planes")
        how.append("--z N|max")
    if page is None or channel is None or z is None:
        mend = f"choose with {' and '.join(how)}" if choice else "save the plane with the nuclei as a file of its own"
        raise BadInput(f"{name} holds {' and '.join(held)}: {mend}")
    return Plane(channel, z, page, ", ".join(filter(None, (place, stain, level))))


# Each of these returns what is meant, None where it could be several, and what to say of it; LookupError says what of
# the wanted there is not.


def _choose_page(count, word, wanted):
    if wanted is None:
        return (0, "") if count == 1 else (None, "")
    if wanted > count:
        raise LookupError(f"{word} {wanted}")
    return wanted - 1, f"{word} {wanted} of {count}" if count > 1 else ""


def _choose_channel(names, wanted):
    if wanted is not None:
        index = find_channel(names, wanted)
        if index is None:
            raise LookupError(f"channel {wanted!r}")
    elif len(names) == 1:
        index = 0
    elif names is COLOURS:
        return "all", ""
    else:
        nuclear = [index for index, one in enumerate(names) if NUCLEAR.search(one)]
        if len(nuclear) != 1:
            return None, ""
        index = nuclear[0]
    said = f"channel {index + 1} of {len(names)}" + (f", {names[index]}" if names[index] else "")
    return index, said if len(names) > 1 else ""


def _choose_z(depth, wanted):
    if wanted is None:
        return (0, "") if depth == 1 else (None, "")
    if wanted == "max":
        return wanted, f"the maximum of {depth} z planes" if depth > 1 else ""
    if wanted > depth:
        raise LookupError(f"z plane {wanted}")
    return wanted - 1, f"z plane {wanted} of {depth}" if depth > 1 else ""


def find_channel(names: Sequence[str], wanted: str) -> int | None:
    """Find a channel by its number, its name, or a part of the name that no other has -> its index, or None."""
    if wanted.isdecimal() and 1 <= int(wanted) <= len(names):
        return int(wanted) - 1
    for fits in (str.__eq__, str.__contains__):
        found = [index for index, one in enumerate(names) if fits(one.casefold(), wanted.casefold())]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _count(pages):
    return pages if isinstance(pages, int) else len(pages)


def _list_pages(planes):
    listed = "" if isinstance(planes.pages, int) else f" ({_list_some(planes.pages)})"
    return f"{_count(planes.pages)} {planes.word}s{listed}"


def _list_channels(names):
    return f"{len(names)} channels" + (f" ({_list_some(names)})" if any(names) else "")


def _list_some(names):
    listed = ", ".join(f"{number} {one}".rstrip() for number, one in enumerate(names[:LISTED], start=1))
    return f"{listed}, ..." if len(names) > LISTED else listed
