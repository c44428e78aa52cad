"""Reading: the careful reader of a competition, which bounds what it accepts, names what is wrong, and caches."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from nuclei.competition.data import COMPETITION, paint_labels
from nuclei.settings.config import BadInput, log
from nuclei.training_data.images import ImageSet
from nuclei.training_data.kinds import image_kind
from nuclei_kit.files.cache import content_key, load_cached, store_cached
from nuclei_kit.files.decoding import decode_image
from nuclei_kit.files.limits import MAX_SET_PIXELS
from nuclei_kit.files.masks import read_masks
from nuclei_kit.files.sources import ImageFiles, Source, ZipSource, group_source, open_set
from nuclei_kit.files.zips import BROKEN_ZIP

MAX_PARTED = 0.01  # share of a set's masks that may be in several parts without a word: Kaggle's own hold a few
MAX_OVERLAP = 0.01  # share of the masks' pixels that two masks claim: more is an error, less goes to the smaller mask


# ---- find a set --------------------------------------------------------------------------------


def locate_set(folder: Path, names: Sequence[str]) -> Path | None:
    """Find the first of `names` in `folder`, in whatever case: an unpacked folder, else a zip -> its path, or None."""
    there = {path.name.lower(): path for path in sorted(folder.iterdir())} if folder.is_dir() else {}
    for name in names:
        unpacked, packed = there.get(name), there.get(f"{name}.zip")
        if unpacked and unpacked.is_dir():
            return unpacked
        if packed and packed.is_file():
            return packed
    return None


def find_whole_set(folder: Path, names: Sequence[str]) -> Path:
    """Find a set as `locate_set` does; where a folder and a zip both stand, the folder must hold all the zip's images.

    Raises:
        BadInput: the folder is missing, or holds none of the names, or an unpacked set is incomplete.
    """
    folder = Path(folder)
    path = locate_set(folder, names)
    if not path:
        raise BadInput(_why_missing(folder, names[0]))
    packed = path.with_name(f"{path.name}.zip")
    if path.is_dir() and packed.is_file():
        missing = set(group_source(ZipSource(packed))) - set(list_ids(path))
        if missing:
            raise BadInput(
                f"{path} lacks {len(missing)} of the images in {packed.name}: finish unpacking it, or delete it"
            )
    return path


def _why_missing(folder, name):
    """Say why a set is not found, and what to do."""
    if not folder.is_dir():
        return f"{folder} is not a folder: name the folder that holds {name}.zip"
    inside = sorted(path.name for path in folder.iterdir())
    found = ", ".join(inside[:8]) or "nothing"
    lacks = f"{folder} holds no {name}.zip and no folder {name} (it holds {found})"
    if folder.resolve().name.lower() == name:
        return f"{folder} is {name} itself: name the folder that it lies in"
    if f"{COMPETITION}.zip" in inside:
        return f"{lacks}: unpack {COMPETITION}.zip there"
    deeper = next((path for path in sorted(folder.iterdir()) if locate_set(path, (name,))), None)
    if deeper:
        return f"{lacks}: name {deeper}"
    alike = next((other for other in inside if other.lower().startswith(name)), None)
    if alike:
        broken = f", a link that leads nowhere: mend {folder / alike}"
        return lacks + (f": rename {alike}" if (folder / alike).exists() else broken)
    return f"{lacks}: download the files of the competition {COMPETITION} into it"


def list_ids(path: Path) -> list[str]:
    """List the image ids of a set that `find_whole_set` returned, in order, without decoding anything."""
    return list(group_source(open_set(path)))


# ---- read it -----------------------------------------------------------------------------------


def list_names(path: Path) -> dict[str, str]:
    """List the image files of a set that `find_whole_set` returned -> {image id: <id>/images/<file>}."""
    groups = group_source(open_set(path))
    return {i: "/".join(files.images[0].split("/")[-3:]) for i, files in groups.items() if files.images}


def read_images(path: Path, cache: Path | None = None) -> ImageSet:
    """Read a zip or an unpacked folder of images, with masks or without.

    A set with masks is for training: an image that cannot be read raises, and one whose folder of masks is empty has no
    nuclei. In a set without masks an image that cannot be read is left out, and `unreadable` says why.

    Args:
        path: what `find_whole_set` returned.
        cache: folder for the decoded arrays, or None to decode each time.

    Raises:
        BadInput: see above; also where a set holds no image, or masks for some images only.
    """
    source = open_set(path)
    groups = group_source(source)
    if not groups:
        found = ", ".join([name for name in source.names if not name.endswith("/")][:3]) or "nothing"
        raise BadInput(
            f"{path} holds no <id>/images/<file>.png (it holds {found}): give each image a folder of its own, or "
            f"download the set from the competition {COMPETITION} again"
        )
    entry = Path(cache) / _content_key(source, groups) if cache else None
    cached = load_cached(entry) if entry else None
    if cached:
        return cached
    decoded = _decode_all(source, groups)
    if entry and not decoded.unreadable:
        store_cached(entry, decoded)
        return load_cached(entry) or decoded
    return decoded


def _decode_all(source: Source, groups: dict[str, ImageFiles]) -> ImageSet:
    """Decode all images of a set."""
    training = any(files.masks for files in groups.values())
    lacking = [image_id for image_id, files in groups.items() if not files.has_masks]
    if training and lacking:
        raise BadInput(
            f"{source.path}: {len(lacking)} images have no masks, {lacking[0]} first: add them, or an empty folder "
            f"{lacking[0]}/masks if it has no nuclei, or remove the images"
        )

    def read(item):
        try:
            return _read_one(source, item[0], item[1], training)
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
    read_well = [r for r in results if not isinstance(r, str)]
    images, labels, overlaps, parts = zip(*read_well, strict=True) if read_well else ([],) * 4
    parted = [name for names in parts for name in names]
    if len(parted) > MAX_PARTED * sum(len(files.masks) for files in groups.values()):
        log.warning(
            "%d masks are in several parts, taken for one nucleus each; the first is %s", len(parted), parted[0]
        )
    kinds = [image_kind(image) for image in images]
    return ImageSet(ids, list(images), list(labels) if training else [], kinds, unreadable, sum(overlaps))


def _read_one(source, image_id, files, training):
    """Read one id's files -> (image, labels or None, whether masks overlap, masks of several parts)."""
    if len(files.images) != 1:
        count = len(files.images)
        what = "has no image" if count == 0 else f"is a duplicate id, with {count} images"
        raise BadInput(
            f"{source.path}: {image_id} {what}: keep one file in {image_id}/images, in a folder for each image"
        )
    try:
        image = decode_image(source.read(files.images[0]), f"{source.path}: {files.images[0]}")
        if not training:
            return image, None, False, []
        contents = {f"{source.path}: {name}": source.read(name) for name in files.masks}
    except BROKEN_ZIP as error:
        raise BadInput(f"{source.path}: {image_id} cannot be read: get the file again ({error})") from None
    shape = image.shape[:2]
    masks, parted = read_masks(contents, shape)
    labels = paint_labels(masks, shape)
    masked = int(np.count_nonzero(labels))
    claimed = sum(mask.size for mask in masks)
    shared = (claimed - masked) / max(masked, 1)
    if shared > MAX_OVERLAP:
        first, second = _most_shared(masks, files.masks)
        raise BadInput(
            f"{source.path}: the masks of {image_id} overlap in {shared:.1%} of their pixels (the limit is "
            f"{MAX_OVERLAP:.0%}), {first} and {second} most: redraw {image_id}/masks"
        )
    return image, labels, shared > 0, parted


def _most_shared(masks, names):
    """Find the two masks that share most pixels -> their names."""
    owner = np.zeros(max(mask.max() for mask in masks) + 1, np.int32)
    most = (0, 0, 0)
    for number, mask in enumerate(masks, start=1):
        shared = np.bincount(owner[mask], minlength=2)[1:]
        most = max(most, (int(shared.max()), int(shared.argmax()), number - 1))
        owner[mask] = number
    return names[most[1]], names[most[2]]


def _content_key(source, groups):
    """Hash a set's files: the same for a zip and for its unpacked folder."""
    names = [name for files in groups.values() for name in files.images + files.masks]
    inner = ("/".join(name.split("/")[-3:]) for name in names)  # <id>/images/<file>
    empty = ((f"{image_id}/masks/", 0) for image_id, files in groups.items() if files.has_masks and not files.masks)
    return content_key([*zip(inner, source.checksums(names), strict=True), *empty])
