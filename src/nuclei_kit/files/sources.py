"""Sources: the files of a set, unpacked or zipped, and which image each belongs to."""

import os
import re
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from nuclei.settings.config import BadInput
from nuclei_kit.files.limits import MAX_PIXEL_BYTES, MAX_PIXELS, MAX_SET_FILES, check_bytes
from nuclei_kit.files.zips import is_junk, open_zip, unpack

DEEPEST = 32  # folders in folders
PLACE = re.compile(r"[^/]/(images|masks)/", re.IGNORECASE)  # a folder of an image's files
PICTURE = re.compile(r"\.(png|tiff?|jpe?g|jp2|bmp|webp|gif)$", re.IGNORECASE)


@dataclass
class ImageFiles:
    """What a set has of one image: the names of its pictures and of its masks, and whether it has a folder of masks."""

    images: list[str] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)
    has_masks: bool = False


class FolderSource:
    """Files of an unpacked set, read by name, with their checksums; links are followed."""

    def __init__(self, path: Path):
        self.path = path
        found = list(islice(_walk(path, "", frozenset()), MAX_SET_FILES + 1))
        if len(found) > MAX_SET_FILES:
            raise BadInput(f"{path} holds over {MAX_SET_FILES:,} files: name the folder of one set")
        self._found = {_plain_name(name): name for name in found}
        self.names = sorted(self._found)

    def checksums(self, names: Sequence[str]) -> list[int]:
        """Compute the checksum of each file."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(self._checksum, names))

    def _checksum(self, name):
        try:
            return zlib.crc32(self.read(name))
        except (OSError, BadInput):
            return 0  # unreadable: decoding will raise the proper error

    def read(self, name: str) -> bytes:
        """Read a file.

        Raises:
            BadInput: it is too large, a link that leads nowhere, a pipe or a device.
        """
        path = self.path / self._found[name]
        _check_link(path)
        if not path.is_file():
            raise BadInput(f"{path} is not a file: delete it")
        check_bytes(path.stat().st_size, MAX_PIXEL_BYTES * MAX_PIXELS, path)
        return path.read_bytes()


class ZipSource:
    """Files of a zip, read by name, with the checksums that its directory holds."""

    def __init__(self, path: Path):
        self.path = path
        self._zip = open_zip(path)
        self._entries = {_plain_name(entry.filename): entry for entry in self._zip.infolist()}
        self.names = sorted(self._entries)

    def checksums(self, names: Sequence[str]) -> list[int]:
        """Look up the checksum of each file."""
        return [self._entries[name].CRC for name in names]

    def read(self, name: str) -> bytes:
        """Unpack a file, see `unpack`."""
        return unpack(self._zip, self._entries[name], MAX_PIXEL_BYTES * MAX_PIXELS)


Source = FolderSource | ZipSource


def open_set(path: Path) -> Source:
    """Open an unpacked set or a zip."""
    return ZipSource(Path(path)) if Path(path).is_file() else FolderSource(Path(path))


def _walk(folder: Path, inside: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    """Walk a folder, through links, too -> the names of its files, and of its folders with "/" behind them.

    Raises:
        BadInput: a link that stands for a folder of images, perhaps, leads nowhere; or the folders lie too deep.
        OSError: a folder cannot be read; left out, its images would be missed without a word.
    """
    status = os.stat(folder)
    here = status.st_dev, status.st_ino
    if here in above:  # a link to a folder that it lies in
        return
    if len(above) > DEEPEST:
        raise BadInput(f"{folder} lies too deep: name the folder of one set")
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if is_junk(entry.name):
                continue
            if entry.is_dir():
                yield f"{inside}{entry.name}/"
                yield from _walk(folder / entry.name, f"{inside}{entry.name}/", above | {here})
            else:
                if not PLACE.search(inside):
                    _check_link(folder / entry.name)
                yield inside + entry.name


def _check_link(path):
    if path.is_symlink() and not path.exists():
        raise BadInput(f"{path} is a link to {os.readlink(path)}, which is not there: mend or delete it")


def _plain_name(name):
    """Zips from Windows may have backslashes, and so have the files that some programs unpack from them."""
    return name.replace("\\", "/")


def group_source(source: Source) -> dict[str, ImageFiles]:
    """Group a source's files by image, in order: <id>/images/<file> and <id>/masks/<file>, in whatever folder.

    Raises:
        BadInput: a name has line breaks, control characters or stray bytes, which no CSV and no terminal can show.
    """
    groups: dict[str, ImageFiles] = {}
    for name in source.names:
        parts = name.split("/")
        places = [k for k, part in enumerate(parts[:-1]) if k and part.lower() in ("images", "masks")]
        if not places or any(map(is_junk, parts)):
            continue
        if not name.isprintable():
            raise BadInput(f"{source.path} holds {name!a}, a name that cannot be printed: rename it")
        files = groups.setdefault(parts[places[-1] - 1], ImageFiles())
        is_mask = parts[places[-1]].lower() == "masks"
        files.has_masks |= is_mask
        if parts[-1]:
            (files.masks if is_mask else files.images).append(name)
    for files in groups.values():  # what else lies beside a picture is none
        files.images = [name for name in files.images if PICTURE.search(name)] or files.images
    return dict(sorted(groups.items()))
