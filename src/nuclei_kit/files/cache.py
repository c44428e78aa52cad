"""Cache: decoded sets of images, each in a folder whose name is a hash of the files that they were decoded from."""

import functools
import hashlib
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from nuclei.settings.config import log
from nuclei.training_data.images import ImageSet

CACHE_FORMAT = 4  # raise it when decoding, kinds or the file's layout change


def default_cache() -> Path | None:
    """Choose the folder for decoded sets: $NUCLEI_CACHE, else ~/.cache/nuclei; none for a user without a home."""
    try:
        return Path(os.environ.get("NUCLEI_CACHE") or "~/.cache/nuclei").expanduser()
    except RuntimeError:  # such as a container's user who is a number alone
        _warn_once("this user has no home, and so no cache: set NUCLEI_CACHE to a folder that can be written")
        return None


@functools.cache
def _warn_once(message):
    log.warning("%s", message)


def content_key(checksums: Iterable[tuple[str, int]]) -> str:
    """Hash every file's name and checksum, the pairs of `checksums` -> hexadecimal digits."""
    digest = hashlib.blake2b(f"nuclei cache {CACHE_FORMAT}".encode(), digest_size=16)
    for name, crc in checksums:
        digest.update(f"{name}:{crc:08x}\n".encode())
    return digest.hexdigest()


def store_cached(entry: Path, decoded: ImageSet) -> None:
    """Write an ImageSet into a folder that appears whole or not at all; a failure to write costs a warning."""
    index = {
        "ids": decoded.ids,
        "kinds": decoded.kinds,
        "shapes": [image.shape[:2] for image in decoded.images],
        "overlapping": int(decoded.overlapping),
    }
    temporary = None
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        for left in entry.parent.glob("*.tmp"):  # of a run that was killed while it wrote
            if time.time() - left.stat().st_mtime > 86400:
                shutil.rmtree(left, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(dir=entry.parent, suffix=".tmp"))
        _save_flat(temporary / "images.npy", decoded.images, np.uint8)
        _save_flat(temporary / "labels.npy", decoded.labels, np.int32)
        text = json.dumps(index | {"checksums": _checksum_pixels(decoded.images, decoded.labels)})
        (temporary / "index.json").write_text(f"{zlib.crc32(text.encode()):08x}\n{text}")
        if entry.exists():  # torn: it could not be loaded
            shutil.rmtree(entry)
        os.rename(temporary, entry)
    except OSError as error:
        if not os.path.exists(entry):  # else another run has just stored the same
            log.warning("the cache %s cannot be written (%s): this run does without it", entry.parent, error)
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def _save_flat(path, arrays, kind):
    """Write arrays of one type end to end as one NPY; np.save would take their concatenation, a second copy of all."""
    header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": (sum(array.size for array in arrays),)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for array in arrays:
            file.write(np.ascontiguousarray(array, kind).data)


def load_cached(entry: Path) -> ImageSet | None:
    """Read an ImageSet from a cache folder; None where the folder is missing, torn or damaged.

    The arrays are memory maps: the system may drop pages that are not in use. Writing to them does not change a file.
    On a file system that has no maps they are read.
    """
    try:
        checksum, text = (entry / "index.json").read_text().split("\n", 1)
        if int(checksum, 16) != zlib.crc32(text.encode()):
            return None
        index = json.loads(text)
        pixels, flat = (_open_flat(entry / name) for name in ("images.npy", "labels.npy"))
        shapes = [tuple(shape) for shape in index["shapes"]]
        ends = np.cumsum([h * w for h, w in shapes])
        if len(pixels) != 3 * ends[-1] or len(flat) not in (0, ends[-1]):
            return None
    except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError):
        return None
    parts = [np.s_[end - h * w : end] for (h, w), end in zip(shapes, ends, strict=True)]
    images = [pixels[3 * p.start : 3 * p.stop].reshape(*shape, 3) for p, shape in zip(parts, shapes, strict=True)]
    labels = [flat[p].reshape(shape) for p, shape in zip(parts, shapes, strict=True)] if len(flat) else []
    if _checksum_pixels(images, labels) != index["checksums"]:
        return None
    return ImageSet(index["ids"], images, labels, index["kinds"], overlapping=index["overlapping"])


def _open_flat(path):
    try:
        return np.load(path, mmap_mode="c")
    except OSError:
        return np.load(path)


def _checksum_pixels(images, labels):
    """Compute a checksum of each image and of each image's labels -> list of int."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(zlib.crc32, [*images, *labels]))
