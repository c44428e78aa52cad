"""Reading: the careful reader of a competition, which bounds what it accepts, names what is wrong, and caches."""

import os
import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from nuclei.competition.data import COMPETITION, find_set, group_files, paint_labels
from nuclei.settings.config import BadInput
from nuclei.training_data.images import ImageSet
from nuclei.training_data.kinds import image_kind
from nuclei_kit.files.cache import content_key, load_cached, store_cached
from nuclei_kit.files.decoding import decode_image, decode_mask
from nuclei_kit.files.limits import MAX_PIXEL_BYTES, MAX_PIXELS, MAX_SET_PIXELS, check_bytes
from nuclei_kit.files.zips import BROKEN_ZIP, unpack

MAX_OVERLAP = 0.01  # share of the masks' pixels that two masks claim: more is an error, less goes to the smaller mask


class _FolderSource:
    """Files of an unpacked set, read by name, with their checksums."""

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
            return 0  # unreadable: decoding will raise the proper error

    def read(self, name):
        path = self.path / name
        check_bytes(path.stat().st_size, MAX_PIXEL_BYTES * MAX_PIXELS, path)
        return path.read_bytes()


class _ZipSource:
    """Files of a zip, read by name, with the checksums that its directory holds."""

    def __init__(self, path):
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except PermissionError:  # to download it again would not help
            raise
        except BROKEN_ZIP as error:
            raise BadInput(f"{path} is truncated or not a zip: download it again ({error})") from None
        self.names = sorted(self._zip.namelist())

    def checksums(self, names):
        return [self._zip.getinfo(name).CRC for name in names]

    def read(self, name):
        return unpack(self._zip, name, MAX_PIXEL_BYTES * MAX_PIXELS)


def _open_set(path):
    return _ZipSource(path) if Path(path).is_file() else _FolderSource(Path(path))


def _group(source):
    """Group a source's files as `group_files` does.

    Raises:
        BadInput: a name has line breaks, control characters or stray bytes, which no CSV and no terminal can show.
    """
    groups = group_files(source.names)
    for files in groups.values():
        for name in files["images"] + files["masks"]:
            if not name.isprintable():
                raise BadInput(f"{source.path} holds {name!a}, a name that cannot be printed: rename it")
    return groups


def find_whole_set(folder: Path, names: Sequence[str]) -> Path:
    """Find a set as `find_set` does; where a folder and a zip both stand, the folder must hold all of the zip's images.

    Raises:
        BadInput: the folder is missing, or holds none of the names, or an unpacked set is incomplete.
    """
    path = find_set(folder, names)
    packed = path.with_name(f"{path.name}.zip")
    if path.is_dir() and packed.is_file():
        missing = set(_group(_ZipSource(packed))) - set(_group(_FolderSource(path)))
        if missing:
            raise BadInput(
                f"{path} lacks {len(missing)} of the images in {packed.name}: finish unpacking it, or delete it"
            )
    return path


def list_ids(path: Path) -> list[str]:
    """List the image ids of a set that `find_whole_set` returned, in order, without decoding anything."""
    return list(_group(_open_set(path)))


def list_names(path: Path) -> dict[str, str]:
    """List the image files of a set that `find_whole_set` returned -> {image id: <id>/images/<file>}."""
    return {
        i: "/".join(files["images"][0].split("/")[-3:])
        for i, files in _group(_open_set(path)).items()
        if files["images"]
    }


def read_images(path: Path, cache: Path | None = None) -> ImageSet:
    """Read a zip or an unpacked folder of images, with masks or without.

    A set with masks is for training: an image that cannot be read raises. In a set without masks it is left out, and
    `unreadable` says why.

    Args:
        path: what `find_whole_set` returned.
        cache: folder for the decoded arrays, or None to decode each time.

    Raises:
        BadInput: see above; also where a set holds no image, or masks for some images only.
    """
    source = _open_set(path)
    groups = _group(source)
    if not groups:
        raise BadInput(f"{path} holds no <id>/images/<file>.png: download it again from the competition {COMPETITION}")
    entry = Path(cache) / _content_key(source, groups) if cache else None
    cached = load_cached(entry) if entry else None
    if cached:
        return cached
    decoded = _decode_all(source, groups)
    if entry and not decoded.unreadable:
        store_cached(entry, decoded)
        return load_cached(entry) or decoded
    return decoded


def _decode_all(source, groups):
    """Decode all images of a set -> ImageSet."""
    training = any(files["masks"] for files in groups.values())
    lacking = [image_id for image_id, files in groups.items() if not files["masks"]]
    if training and lacking:
        raise BadInput(
            f"{source.path}: {len(lacking)} images have no masks, {lacking[0]} first: add them, or remove the images"
        )

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
                raise BadInput(f"{source.path} holds over {MAX_SET_PIXELS:,} pixels, too many at once: split it in two")
    unreadable = {i: r for i, r in zip(groups, results, strict=True) if isinstance(r, str)}
    ids = [i for i in groups if i not in unreadable]
    images, labels, overlaps = zip(*(r for r in results if not isinstance(r, str)), strict=True) if ids else ([],) * 3
    kinds = [image_kind(image) for image in images]
    return ImageSet(ids, list(images), list(labels) if training else [], kinds, unreadable, sum(overlaps))


def _read_one(source, image_id, files):
    """Read one id's files -> (image, labels or None, whether masks overlap)."""
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
    labels = paint_labels(masks, shape)
    masked = int(np.count_nonzero(labels))
    shared = (sum(mask.size for mask in masks) - masked) / masked
    if shared > MAX_OVERLAP:
        raise BadInput(
            f"{source.path}: the masks of {image_id} overlap in {shared:.1%} of their pixels "
            f"(the limit is {MAX_OVERLAP:.0%}): redraw {image_id}/masks"
        )
    return image, labels, shared > 0


def _content_key(source, groups):
    """Hash a set's files: the same for a zip and for its unpacked folder."""
    names = [name for files in groups.values() for name in files["images"] + files["masks"]]
    inner = ("/".join(name.split("/")[-3:]) for name in names)  # <id>/images/<file>
    return content_key(zip(inner, source.checksums(names), strict=True))
