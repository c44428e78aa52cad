"""Data: find and read a competition, in zips or folders.

Kaggle's files hold `<id>/images/<file>` and, for training, `<id>/masks/<file>`, one mask a nucleus.
"""

import os
import re
import struct
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nuclei.cache import content_key, load_cached, store_cached
from nuclei.config import MAX_PIXEL_BYTES, MAX_PIXELS, MAX_SET_PIXELS, BadInput
from nuclei.decoding import decode_image, decode_mask, paint_labels
from nuclei.kinds import image_kind

TRAIN = "stage1_train"
# What a stage's test set is called on Kaggle, unpacked or with ".zip" behind it.
COMPETITION = "data-science-bowl-2018"  # in Kaggle's addresses and mounts
TEST_NAMES = {1: ("stage1_test",), 2: ("stage2_test_final", "stage2_test")}

MAX_OVERLAP = 0.01  # of the masks' pixels: more is an error, less goes to the smaller mask

_ENTRY = re.compile(r"(?:^|/)([^/]+)/(images|masks)/([^/.][^/]*\.(?:png|tiff?))$", re.IGNORECASE)

# All that Python's zipfile raises on a zip that is broken, on purpose or not.
BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    OverflowError,
    UnicodeError,
)


@dataclass(frozen=True)
class ImageSet:
    """The decoded images of one folder or zip, in the order of their ids.

    images: uint8 (H, W, 3) RGB each; labels: int32 (H, W) each, or [] where the set has no masks;
    kinds: one of KINDS each; faults: id -> why that image could not be read (those ids are in no other field);
    overlapping: how many training images had masks that shared pixels.
    """

    ids: list[str]
    images: list[np.ndarray]
    labels: list[np.ndarray]
    kinds: list[str]
    faults: dict[str, str] = field(default_factory=dict)
    overlapping: int = 0

    def subset(self, indices):
        """The images at `indices` alone, faults left behind."""
        pick = [int(index) for index in indices]
        return ImageSet(
            [self.ids[i] for i in pick],
            [self.images[i] for i in pick],
            [self.labels[i] for i in pick] if self.labels else [],
            [self.kinds[i] for i in pick],
        )


# ---- finding the files -------------------------------------------------------------------------


class _FolderSource:
    """The files of an unpacked set, read by name, with their checksums."""

    def __init__(self, path):
        self.path = path
        self.names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())

    def checksums(self, names):
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(self._checksum, names))

    def _checksum(self, name):
        try:
            return zlib.crc32(self.read(name))
        except (OSError, BadInput):
            return 0  # its decoding says what is wrong

    def read(self, name):
        path = self.path / name
        check_bytes(path.stat().st_size, MAX_PIXEL_BYTES * MAX_PIXELS, path)
        return path.read_bytes()


class _ZipSource:
    """The files of a zip, read by name, with the checksums that its directory holds."""

    def __init__(self, path):
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except PermissionError:  # to download it again would not help
            raise
        except BROKEN_ZIP as error:
            raise BadInput(f"{path} is truncated or no zip: download it again ({error})") from None
        self.names = sorted(self._zip.namelist())

    def checksums(self, names):
        return [self._zip.getinfo(name).CRC for name in names]

    def read(self, name):
        return unpack(self._zip, name, MAX_PIXEL_BYTES * MAX_PIXELS)


def unpack(archive, name, most):
    """The bytes of one file in a ZipFile; what it unpacks to is bounded, whatever the zip claims.

    Raises:
        BadInput: it has over `most` bytes, or is packed by another method than zip's usual one.
        BROKEN_ZIP: it cannot be unpacked.
    """
    entry = archive.getinfo(name)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadInput(f"{archive.filename}: {name} is packed by an unusual method: zip it again with deflate")
    check_bytes(entry.file_size, most, f"{archive.filename}: {name}")
    with archive.open(name) as file:
        return file.read(entry.file_size + 1)  # the one byte more makes zipfile look at the checksum


def check_bytes(size, most, name):
    """Raises BadInput where a file has more bytes than are taken."""
    if size > most:
        raise BadInput(f"{name} holds {size:,} bytes, over the {most:,} that are taken: cut it into parts")


def holds_set(folder, name):
    """Whether a folder holds a set of images, zipped or unpacked."""
    return (Path(folder) / f"{name}.zip").is_file() or (Path(folder) / name).is_dir()


def last_stage(folder):
    """2 where the test images of stage 2 are in the competition's folder, else 1."""
    return 2 if any(holds_set(folder, name) for name in TEST_NAMES[2]) else 1


def find_set(folder, names):
    """The path of the first of `names` in `folder`, as an unpacked folder or as a zip.

    Where both stand, the unpacked folder is read (it may hold mended masks), unless it lacks images of the zip.

    Raises:
        BadInput: the folder is missing, or holds none of the names, or an unpacked set is incomplete.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder: name the folder that holds {names[0]}.zip")
    for name in names:
        unpacked, packed = folder / name, folder / f"{name}.zip"
        if unpacked.is_dir() and packed.is_file():
            missing = set(_group_files(_ZipSource(packed))) - set(_group_files(_FolderSource(unpacked)))
            if missing:
                raise BadInput(
                    f"{unpacked} lacks {len(missing)} of the images in {packed.name}: finish unpacking it, or delete it"
                )
        if unpacked.is_dir():
            return unpacked
        if packed.is_file():
            return packed
    found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
    raise BadInput(
        f"{folder} holds no {names[0]}.zip and no folder {names[0]} (it holds {found}): "
        f"download the files of the competition {COMPETITION} into it"
    )


def _group_files(source):
    """id -> {"images": [names], "masks": [names]}, ids in order.

    Raises:
        BadInput: a name that no CSV and no terminal can show: it has line breaks, control characters or stray bytes.
    """
    groups = {}
    for name in source.names:
        match = _ENTRY.search(name)
        if match and "__MACOSX" not in name:
            if not name.isprintable():
                raise BadInput(f"{source.path} holds {name!a}, a name that cannot be printed: rename it")
            entry = groups.setdefault(match[1], {"images": [], "masks": []})
            entry[match[2].lower()].append(name)
    return dict(sorted(groups.items()))


# ---- reading ---------------------------------------------------------------------------------


def _read_one(source, image_id, files):
    """One id's (image, labels or None, whether masks overlap)."""
    if len(files["images"]) != 1:
        count = len(files["images"])
        what = "has no image" if count == 0 else f"is a duplicate id, with {count} images"
        raise BadInput(f"{source.path}: {image_id} {what}: keep one file in {image_id}/images")
    try:
        image = decode_image(source.read(files["images"][0]), f"{source.path}: {files['images'][0]}")
        if not files["masks"]:
            return image, None, False
        shape = image.shape[:2]
        masks = [decode_mask(source.read(name), f"{source.path}: {name}", shape) for name in files["masks"]]
    except BROKEN_ZIP as error:
        raise BadInput(f"{source.path}: {image_id} cannot be read: get the file again ({error})") from None
    labels, shared = paint_labels(masks, shape)
    if shared > MAX_OVERLAP:
        raise BadInput(
            f"{source.path}: the masks of {image_id} overlap in {shared:.1%} of their pixels "
            f"(at most {MAX_OVERLAP:.0%} is taken): redraw {image_id}/masks"
        )
    return image, labels, shared > 0


def list_ids(path):
    """The image ids of a set that `find_set` returned, in order; decodes nothing."""
    return list(_group_files(_open_set(path)))


def _open_set(path):
    return _ZipSource(path) if Path(path).is_file() else _FolderSource(Path(path))


def read_set(path, cache=None):
    """Reads a zip or an unpacked folder of images, with masks or without -> ImageSet.

    A set with masks is for training: any fault in it is raised. In a set without masks a fault costs its image alone
    and is kept in `faults`.

    Args:
        path: what `find_set` returned.
        cache: folder for the decoded arrays, or None to decode each time.

    Raises:
        BadInput: see above; also a set that holds no image, or masks for some images alone.
    """
    source = _open_set(path)
    groups = _group_files(source)
    if not groups:
        raise BadInput(f"{path} holds no <id>/images/<file>.png: download it again")
    entry = Path(cache) / _content_key(source, groups) if cache else None
    cached = load_cached(entry) if entry else None
    if cached is not None:
        return ImageSet(**cached)
    training = any(files["masks"] for files in groups.values())

    def read(item):
        try:
            return _read_one(source, *item)
        except BadInput as error:
            if training:
                raise
            return str(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results, pixels = [], 0
        for result in pool.map(read, groups.items()):
            results.append(result)
            pixels += 0 if isinstance(result, str) else result[0].size // 3
            if pixels > MAX_SET_PIXELS:
                raise BadInput(f"{path} holds over {MAX_SET_PIXELS:,} pixels, too many at once: split it in two")
    faults = {i: r for i, r in zip(groups, results, strict=True) if isinstance(r, str)}
    ids = [i for i in groups if i not in faults]
    images, labels, overlaps = zip(*(r for r in results if not isinstance(r, str)), strict=True) if ids else ([],) * 3
    if training and any(one is None for one in labels):
        lacking = [i for i, one in zip(ids, labels, strict=True) if one is None]
        raise BadInput(
            f"{path}: {len(lacking)} images have no masks, {lacking[0]} first: add them, or remove the images"
        )
    kinds = [image_kind(image) for image in images]
    decoded = ImageSet(ids, list(images), list(labels) if training else [], kinds, faults, sum(overlaps))
    if entry and not faults:
        store_cached(entry, decoded)
        cached = load_cached(entry)
    return ImageSet(**cached) if cached else decoded


def _content_key(source, groups):
    """The same for a zip and for its unpacked folder."""
    names = [name for files in groups.values() for name in files["images"] + files["masks"]]
    plain = (_ENTRY.search(name)[0].lstrip("/") for name in names)
    return content_key(zip(plain, source.checksums(names), strict=True))
