"""Data: read a competition (zips or folders), and decode it once.

Kaggle's files hold `<id>/images/<file>` and, for training, `<id>/masks/<file>`, one mask a nucleus.
"""

import hashlib
import json
import math
import os
import re
import shutil
import struct
import tempfile
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from nuclei.config import MAX_PIXEL_BYTES, MAX_PIXELS, MAX_SET_PIXELS, BadInput, log
from nuclei.kinds import image_kind

TRAIN = "stage1_train"
# What a stage's test set is called on Kaggle, unpacked or with ".zip" behind it.
COMPETITION = "data-science-bowl-2018"  # in Kaggle's addresses and mounts
TEST_NAMES = {1: ("stage1_test",), 2: ("stage2_test_final", "stage2_test")}

MAX_OVERLAP = 0.01  # of the masks' pixels: more is an error, less goes to the smaller mask
MAX_SORTED = 2**24  # numbers, to find percentiles: of a larger image every n-th row and column
CACHE_FORMAT = 3  # raise it when decoding, kinds or the file's layout change

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

_PNG_START = b"\x89PNG\r\n\x1a\n"
_TIFF_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # a TIFF's codes for the kinds of number that hold a size


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


# ---- decoding ----------------------------------------------------------------------------------


def decode_image(data, name, most=MAX_PIXELS, path=None):
    """The bytes of a PNG or TIFF -> uint8 (H, W, 3) RGB.

    Grey, palette, RGB and RGBA are taken (alpha is dropped). uint8 passes as it is; every other depth is stretched
    so that its 0.1st and 99.9th percentile become 0 and 255: microscopes store 10, 12 or 14 bits in 16, and floats
    on any scale, so the type's own range says nothing. NaN becomes black; infinities become black and white.

    Args:
        path: a file that holds the same bytes. OpenCV then reads it itself, and `data`, a memory map of it, serves to
            look at the header: decoding takes a third less memory.

    Raises:
        BadInput: the bytes are no PNG or TIFF that OpenCV can decode, or state more than `most` pixels.
    """
    pixels = _decode_bytes(data, cv2.IMREAD_UNCHANGED, name, most, path)
    if pixels is None:
        raise BadInput(f"{name} cannot be decoded as an image: replace the file by a whole PNG or TIFF")
    if pixels.ndim == 3:
        pixels = pixels[..., 2::-1]  # BGR(A) -> RGB
    if pixels.dtype != np.uint8:
        pixels = _stretch_depth(pixels)
    return np.ascontiguousarray(pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2))


def _stretch_depth(pixels):
    """Pixels of any type -> uint8 of the same shape, as `decode_image` says."""
    step = math.ceil(math.sqrt(pixels.size / MAX_SORTED))
    sparse = pixels[::step, ::step]
    finite = sparse[np.isfinite(sparse)]
    low, high = np.percentile(finite, (0.1, 99.9), method="nearest").tolist() if finite.size else (0.0, 0.0)
    stretched = np.empty(pixels.shape, np.uint8)
    for top in range(0, len(pixels), 64):  # in strips: as float64, a whole image would be eight times what comes out
        strip = np.nan_to_num(pixels[top : top + 64].astype(np.float64), nan=low, posinf=high, neginf=low)
        stretched[top : top + 64] = np.clip((strip - low) * (255.0 / ((high - low) or 1.0)), 0, 255).round()
    return stretched


def _decode_bytes(data, flags, name, most, path=None):
    """The bytes of a PNG or TIFF -> what OpenCV makes of them; None where it makes nothing, or they are something else.

    Raises:
        BadInput: the header states more than `most` pixels. OpenCV alone would take the memory for up to 2^30.
    """
    try:
        height, width = _stated_shape(data)
        if height * width > most:
            raise BadInput(
                f"{name} states {height} x {width} pixels, over the {most:,} that are taken: cut it into parts"
            )
        return cv2.imread(str(path), flags) if path else cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (cv2.error, struct.error, KeyError):
        return None


def _stated_shape(data):
    """The height and the width that the header of a PNG, or of a TIFF's first picture, states.

    Raises:
        KeyError, struct.error: there is no such header.
    """
    if data[: len(_PNG_START)] == _PNG_START:
        width, height = struct.unpack_from(">II", data, len(_PNG_START) + 8)
        return height, width
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    big = {42: False, 43: True}[struct.unpack_from(f"{order}H", data, 2)[0]]
    start, number, entry, value = (8, "Q", 20, 12) if big else (4, "I", 12, 8)
    (directory,) = struct.unpack_from(order + number, data, start)
    count_format = order + ("Q" if big else "H")
    (count,) = struct.unpack_from(count_format, data, directory)
    first, sizes = directory + struct.calcsize(count_format), {}
    for place in range(first, min(first + count * entry, len(data)), entry):
        tag, kind = struct.unpack_from(f"{order}HH", data, place)
        if tag in (256, 257):  # the width, the height; of a tag that comes twice the larger counts
            (size,) = struct.unpack_from(order + _TIFF_NUMBERS[kind], data, place + value)
            sizes[tag] = max(size, sizes.get(tag, 0))
    return sizes[257], sizes[256]


def _decode_mask(data, name, shape):
    """The bytes of one mask -> int (n,), the flat indices of its pixels: a nucleus fills a thousandth of its image."""
    # Any depth: brought down to 8 bits, a 16-bit mask of zeros and ones would be empty.
    grey = _decode_bytes(data, cv2.IMREAD_ANYDEPTH, name, MAX_PIXELS)
    if grey is None:
        raise BadInput(f"{name} cannot be decoded as a mask: replace the file by a whole PNG")
    if grey.shape != shape:
        raise BadInput(f"{name} is {grey.shape[0]}x{grey.shape[1]} but its image is {shape[0]}x{shape[1]}: redraw it")
    pixels = np.flatnonzero(grey > grey.max() // 2)
    if not pixels.size:
        raise BadInput(f"{name} is an empty mask: delete the file, or draw its nucleus")
    return pixels


def paint_labels(masks, shape):
    """Flat pixel indices of each mask -> labels int32 (H, W), and the share of the masked pixels that two masks claim.

    A shared pixel goes to the smaller mask, since a small nucleus loses more by it. Ids are 1..n in the order of
    `masks`.
    """
    labels = np.zeros(shape, np.int32)
    for index in sorted(range(len(masks)), key=lambda i: -masks[i].size):
        labels.flat[masks[index]] = index + 1
    masked = np.count_nonzero(labels)
    return labels, (sum(mask.size for mask in masks) - masked) / max(masked, 1)


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
        masks = [_decode_mask(source.read(name), f"{source.path}: {name}", shape) for name in files["masks"]]
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
    cached = _load_cached(entry) if entry else None
    if cached is not None:
        return cached
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
        _store_cached(entry, decoded)
        return _load_cached(entry) or decoded
    return decoded


# ---- the cache ---------------------------------------------------------------------------------


def default_cache():
    """Where decoded sets are kept: $NUCLEI_CACHE, else a temporary folder on Kaggle, else ~/.cache/nuclei."""
    if "NUCLEI_CACHE" in os.environ:
        return Path(os.environ["NUCLEI_CACHE"])
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return Path(tempfile.gettempdir()) / "nuclei"
    return Path.home() / ".cache" / "nuclei"


def _content_key(source, groups):
    """A hash of every file's name and checksum: the same for a zip and for its unpacked folder."""
    digest = hashlib.blake2b(f"nuclei cache {CACHE_FORMAT}".encode(), digest_size=16)
    names = [name for files in groups.values() for name in files["images"] + files["masks"]]
    for name, crc in zip(names, source.checksums(names), strict=True):
        digest.update(f"{_ENTRY.search(name)[0].lstrip('/')}:{crc:08x}\n".encode())
    return digest.hexdigest()


def _store_cached(entry, decoded):
    """Writes the set as a folder that appears whole or not at all; a cache that cannot be written costs a warning."""
    index = {
        "ids": decoded.ids,
        "kinds": decoded.kinds,
        "shapes": [image.shape[:2] for image in decoded.images],
        "overlapping": int(decoded.overlapping),
    }
    temporary = None
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        for left in entry.parent.glob("*.tmp"):  # by a run that was killed while it wrote
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
            log.warning("the cache %s cannot be written (%s): going on without it", entry.parent, error)
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def _save_flat(path, arrays, kind):
    """Writes arrays of one type end to end as one NPY; np.save would take their concatenation, a second copy of all."""
    header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": (sum(array.size for array in arrays),)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for array in arrays:
            file.write(np.ascontiguousarray(array, kind))


def _load_cached(entry):
    """The set in a cache folder, or None where there is none, or it is torn or damaged.

    The arrays are mapped: the system may drop what is not looked at. Writing to them changes no file.
    """
    try:
        checksum, text = (entry / "index.json").read_text().split("\n", 1)
        if int(checksum, 16) != zlib.crc32(text.encode()):
            return None
        index = json.loads(text)
        pixels, flat = (np.load(entry / name, mmap_mode="c") for name in ("images.npy", "labels.npy"))
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


def _checksum_pixels(images, labels):
    """A checksum of each image and of each image's labels, list of int."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(zlib.crc32, [*images, *labels]))
