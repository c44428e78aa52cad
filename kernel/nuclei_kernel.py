# nuclei_kernel.py: src/nuclei in one file. build_kernel.py writes it: change the sources instead.
#
#  1  config        line    72  Config: every setting of a run in one flat, frozen dataclass, and the presets.
#  2  cache         line   245  Cache: decoded sets of images, each in a folder whose name is a hash of the files...
#  3  decoding      line   341  Decoding: the bytes of an image, and of the masks of its nuclei, to pixels and labels.
#  4  kinds         line   458  Kinds: what an image shows, told from its pixels: stain and light, and how large its...
#  5  data          line   551  Data: find and read a competition, in zips or folders.
#  6  rle           line   828  Nuclei to and from Kaggle's run lists, which go down the columns and count pixels...
#  7  submission    line   914  Submission: label images to the rows of Kaggle's CSV, and the rules that such a file...
#  8  checkpoint    line  1041  Checkpoint: what a run needs to go on after it was cut off, written whole, and...
#  9  device        line  1139  Device: what the run computes on, and in which precision.
# 10  folds         line  1212  Folds: parts to train on, to tune on and to hold out, kinds spread evenly and near-...
# 11  targets       line  1297  Targets: what the network learns from a label image, and how much each pixel weighs.
# 12  tta           line  1392  Test-time augmentation: the eight views of an image, and their inverses.
# 13  watershed     line  1432  Watershed: from probabilities to instances, by flooding from seeds.
# 14  inference     line  1515  Inference: an image of any size through a network of one tile size, at the zoom that...
# 15  metric        line  1649  The competition's score of one image: one overlap matrix, IoU, precision at ten...
# 16  parallel      line  1725  Parallel: one network on several GPUs, a copy on each, with TensorFlow; every other...
# 17  progress      line  1821  Progress: what long work over many images says of itself.
# 18  augmentation  line  1841  Augmentation: random crops of an image and its labels, bent alike; then colour, blur...
# 19  batches       line  1975  Batches: crops at the network's scale, balanced over kinds, made ahead of the...
# 20  loss          line  2077  Loss: Dice, Dice with pixel weights, and cross-entropy with the same weights.
# 21  model         line  2148  Model: the one-hundred-layer network, and a small U-Net for CPUs.
# 22  optimizer     line  2270  Optimizer: Muon for the convolutions, AdamW for biases and normalisation.
# 23  schedule      line  2303  Schedule: how far a training is, by the clock or by steps, and the learning rate there.
# 24  training_log  line  2348  Training log: where a training is, and what it says of that.
# 25  tuning        line  2416  Tuning: how good a network is on images with labels, and the thresholds that suit it.
# 26  train         line  2480  Train: one network inside a time budget, its best weights, and the thresholds that go...
# 27  main          line  2716  Main: the competition's files -> a trained network -> submission.csv, with a table of...
# 28  __main__      line  2966  Entry: what Kaggle runs, from settings in the environment to a submission.csv in the...
#
# sources 33d43246d99a14bf, this file b3e68aabb8e0ff44

import csv
import hashlib
import io
import json
import logging
import math
import os
import re
import resource
import shutil
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path

import cv2
import keras
import numpy as np
import scipy
import skimage
from keras import Input, Model, layers, ops
from scipy import ndimage as ndi
from skimage.measure import label as connected_components
from skimage.segmentation import watershed
from tqdm import tqdm

SOURCE_HASH = "33d43246d99a14bf"


# ==================================================================================================
# 1. config (src/nuclei/config.py)
#
# Config: every setting of a run in one flat, frozen dataclass, and the presets.
# ==================================================================================================

log = logging.getLogger("nuclei")

# What a run leaves in its folder.
WEIGHTS, CONFIG, LOG, HELD_OUT, HELD_OUT_NUCLEI, STAGES, SUBMISSION, CONFIDENCE = RUN_FILES = (
    "model.weights.h5",
    "config.json",
    "log.csv",
    "held_out.csv",
    "held_out_nuclei.csv",
    "stages.csv",
    "submission.csv",
    "confidence.csv",
)

# What is taken from outside, at most. More is a mistake or an attack, and would cost memory before it is found out.
MAX_PIXELS = 2**26  # of a competition's image, 8192 x 8192
MAX_PIXEL_BYTES = 8  # of a file, unpacked, for each pixel that an image may have: 16 bits of red, green, blue, alpha
MAX_SET_PIXELS = 2**31  # of all images of a set
MAX_TABLE_BYTES = 2**28  # of a CSV, unpacked
MAX_TABLE_ROWS = 2_000_000
# A run's config.json comes from outside, too, and says how large a network is built.
MAX_SETTINGS = {
    "model_width": 512,
    "model_depth": 8,
    "train_crop": 4096,
    "train_batch": 4096,
    "tile_size": 4096,
    "tile_batch": 4096,
}

ZOOM_RANGE = (0.25, 3.0)  # of what an image is zoomed by before the network sees it


class BadInput(ValueError):
    """Something from outside that cannot be used: one sentence, naming the file and what to do."""


@dataclass(frozen=True)
class Config:
    """The prefixes are its namespaces; the unit or range stands behind each field."""

    # The data
    data_folds: int = 8  # 2.., fold `data_fold` is held out and only ever reported; 0 holds nothing out
    data_fold: int = 0  # 0..data_folds - 1
    data_tuning: float = 0.1  # share of the training part that chooses weights and thresholds

    # The network
    model_name: str = "unet"  # "unet" or "one_hundred_layers"
    model_width: int = 32  # unet: filters at the first level; one_hundred_layers: growth rate
    model_depth: int = 4  # unet: how often it halves the image; one_hundred_layers does 5 times
    model_stem: int = 2  # unet: the stride of its first convolution, 1, 2 or 4; one_hundred_layers has none
    model_diameter: float = 32.0  # px, the width of nuclei that the network sees as they are
    model_zoom: float = 0.5  # 0..1, how far, in octaves, other nuclei are zoomed towards that width: 1 is all the way

    # Targets and pixel weights
    target_border: float = 5.0  # w0 of the U-Net paper: the weight added between two touching nuclei
    target_sigma: float = 4.0  # px, sigma of the U-Net paper: how far apart nuclei still count as touching
    target_rare: float = 3.0  # 1.., the most that a pixel of the rarer class weighs, nuclei or background; 1 is no more
    target_core: float = (
        0.45  # 0..1, a nucleus's core is where the distance to its edge exceeds this share of the largest
    )

    # Training
    train_minutes: float = 25.0  # of wall clock for the whole training, tuning included
    train_steps: int = 0  # above 0 it counts instead of the minutes
    train_batch: int = 4  # crops a step
    train_crop: int = 256  # px, a multiple of what the network divides by
    train_rate: float = 6e-3  # peak learning rate of Muon; AdamW, beside it, has a tenth
    train_decay: float = 1e-2  # weight decay of both
    train_warmup: float = 0.05  # share of the schedule in which the rate rises
    train_zoom: float = 0.7  # octaves, how far the scale of a crop strays from the typical, both ways
    train_balance: float = 0.6  # 0..1, 0 draws images alike, 1 draws kinds alike
    train_checks: int = 2  # how often the tuning images are scored, evenly spread over the schedule
    train_seed: int = 0

    # Prediction
    tile_size: int = 256  # px, a multiple of what the network divides by
    tile_overlap: int = 64  # px shared by neighbouring tiles, blended
    tile_batch: int = 1  # tiles in one call of the network
    tta_views: int = 4  # 1, 2, 4 or 8 of the dihedral views
    tta_zooms: tuple[float, ...] = (1.0,)  # factors around the zoom that fits the nuclei
    tta_minutes: float = 180.0  # of wall clock for the test images; one not reached keeps what one view found earlier

    def __post_init__(self):
        """Refuses what cannot be run, before anything is read or trained."""
        for name, most in MAX_SETTINGS.items():
            if getattr(self, name) > most:
                raise BadInput(f"settings: {name} can be {most} at most")
        for rule, message in (
            (self.train_steps >= 0 and self.train_minutes >= 0, "minutes and steps cannot be negative"),
            (self.train_steps or self.train_minutes, "a budget of 0 trains nothing: give --minutes or --steps above 0"),
            (self.model_name in MODEL_NAMES, f"model_name must be one of {', '.join(MODEL_NAMES)}"),
            (self.model_stem in (1, 2, 4), "model_stem must be 1, 2 or 4"),
            (min(self.model_width, self.model_depth, self.train_batch, self.tile_batch) >= 1, "sizes start at 1"),
            (min(self.train_crop, self.train_checks) >= 1, "train_crop and train_checks start at 1"),
            (min(self.model_diameter, self.target_sigma) > 0, "model_diameter and target_sigma must be above 0"),
            (0 <= self.model_zoom <= 1, "model_zoom must be in 0..1"),
            (self.target_rare >= 1, "target_rare must be 1 or more"),
            (self.target_border >= 0, "target_border cannot be negative: weights are 1 or more"),
            (0 <= self.target_core < 1, "target_core must be in 0..1, 1 excluded"),
            (0 <= self.train_warmup < 1, "train_warmup must be in 0..1, 1 excluded"),
            (0 <= self.train_balance <= 1, "train_balance must be in 0..1"),
            (self.train_seed >= 0, "train_seed cannot be negative"),
            (self.train_crop % self.divisor == 0, f"train_crop must be a multiple of {self.divisor}"),
            (self.tile_size % self.divisor == 0, f"tile_size must be a multiple of {self.divisor}"),
            (0 <= self.tile_overlap < self.tile_size, "tile_overlap must be under tile_size"),
            (self.tta_views in (1, 2, 4, 8), "tta_views must be 1, 2, 4 or 8"),
            (
                self.tta_zooms and 0 < min(self.tta_zooms) <= max(self.tta_zooms) <= 8,
                "tta_zooms must be factors in 0..8",
            ),
            (self.tta_minutes > 0, "tta_minutes must be above 0"),
            (self.data_folds == 0 or self.data_folds >= 2, "data_folds must be 0 or at least 2"),
            (0 <= self.data_fold < max(self.data_folds, 1), f"data_fold must be under {max(self.data_folds, 1)}"),
            (0 <= self.data_tuning <= 0.5, "data_tuning must be in 0..0.5"),
        ):
            if not rule:
                raise BadInput(f"settings: {message}")

    @property
    def divisor(self):
        """What the height and the width of the network's input must be multiples of."""
        return 32 if self.model_name == "one_hundred_layers" else self.model_stem * 2**self.model_depth

    def zoom(self, diameter):
        """The zoom at which the network sees an image whose typical nucleus is `diameter` px wide: float in ZOOM_RANGE.

        Zoomed all the way, large nuclei lose the detail of their outlines, and small ones cost time; not at all, the
        network would have to know every size. Halfway to 32 px, 12 become 20 and 50 become 40.
        """
        lowest, highest = ZOOM_RANGE
        return float(min(max((self.model_diameter / diameter) ** self.model_zoom, lowest), highest))


MODEL_NAMES = ("unet", "one_hundred_layers")

_DEFAULT = Config()

# What each is for, what it costs, and what to expect stands in the README's results table.
PRESETS = {
    "sample": replace(
        _DEFAULT,
        data_folds=0,
        model_width=16,
        model_depth=3,
        train_minutes=1.2,
        train_crop=128,
        train_batch=8,
        train_rate=2e-2,  # a hundred steps or two are few: it must be quick
        tta_views=4,
    ),
    "cpu": _DEFAULT,
    "kaggle": replace(
        _DEFAULT,
        data_folds=0,
        model_name="one_hundred_layers",
        model_width=16,
        train_minutes=480.0,
        train_batch=8,
        train_rate=1e-2,
        train_checks=8,
        tile_batch=8,
        tta_views=8,
    ),
}


# ==================================================================================================
# 2. cache (src/nuclei/cache.py)
#
# Cache: decoded sets of images, each in a folder whose name is a hash of the files that they were decoded from.
# ==================================================================================================

CACHE_FORMAT = 3  # raise it when decoding, kinds or the file's layout change


def default_cache():
    """Where decoded sets are kept: $NUCLEI_CACHE, else a temporary folder on Kaggle, else ~/.cache/nuclei."""
    if "NUCLEI_CACHE" in os.environ:
        return Path(os.environ["NUCLEI_CACHE"])
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return Path(tempfile.gettempdir()) / "nuclei"
    return Path.home() / ".cache" / "nuclei"


def content_key(checksums):
    """A hash of every file's name and checksum, both as in `checksums`, pairs (str, int)."""
    digest = hashlib.blake2b(f"nuclei cache {CACHE_FORMAT}".encode(), digest_size=16)
    for name, crc in checksums:
        digest.update(f"{name}:{crc:08x}\n".encode())
    return digest.hexdigest()


def store_cached(entry, decoded):
    """Writes an ImageSet as a folder that appears whole or not at all; one that cannot be written costs a warning."""
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


def load_cached(entry):
    """What an ImageSet is made of, by field, from a cache folder; None where there is none, or it is torn or damaged.

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
    fields = {name: index[name] for name in ("ids", "kinds", "overlapping")}
    return fields | {"images": images, "labels": labels}


def _checksum_pixels(images, labels):
    """A checksum of each image and of each image's labels, list of int."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(zlib.crc32, [*images, *labels]))


# ==================================================================================================
# 3. decoding (src/nuclei/decoding.py)
#
# Decoding: the bytes of an image, and of the masks of its nuclei, to pixels and labels.
# ==================================================================================================

MAX_SORTED = 2**24  # numbers, to find percentiles: of a larger image every n-th row and column

_PNG_START = b"\x89PNG\r\n\x1a\n"
_TIFF_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # a TIFF's codes for the kinds of number that hold a size


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


def decode_mask(data, name, shape):
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


# ==================================================================================================
# 4. kinds (src/nuclei/kinds.py)
#
# Kinds: what an image shows, told from its pixels: stain and light, and how large its nuclei are.
# ==================================================================================================

# The kinds of image, told apart by `image_kind` from the picture alone.
KINDS = (
    "fluorescence-small",  # bright on dark, nuclei thinner than LARGE_NUCLEUS
    "fluorescence-large",  # bright on dark, nuclei wider than that
    "purple",  # purple nuclei on lilac glass
    "pink-purple",  # purple nuclei on white glass or pink tissue
    "brown",  # purple nuclei on yellow-brown glass
    "grey-tissue",  # dark on light grey
)
LARGE_NUCLEUS = 30.0  # px, the width that parts the two fluorescence kinds


def standardise(image):
    """uint8 RGB -> uint8 RGB as the network sees it: bright nuclei on a black background.

    A light image (median over 127) is inverted; then each channel loses its background (2nd percentile) and all three
    are stretched by one factor, so that the 99.8th percentile of the whole is white and hues survive. The factor is
    at most 12, which keeps the noise of an empty field dim.
    """
    return cv2.LUT(image, standard_table(image))


def standard_table(image):
    """uint8 RGB -> uint8 (1, 256, 3): what `standardise` makes of each level of each channel of this image."""
    sparse, levels = _sparse(image), np.arange(256)
    if np.median(sparse) > 127:
        sparse, levels = 255 - sparse, 255 - levels
    black = np.percentile(sparse, 2, axis=(0, 1))
    white = max(np.percentile((sparse - black).max(axis=2), 99.8), 255 / 12)
    ramp = (levels[:, None] - black) * (255.0 / white)
    return np.clip(ramp, 0, 255).round().astype(np.uint8)[None]


def _sparse(image):
    """Every n-th row and column, about 128 of the shorter: enough for percentiles, and a hundred times faster."""
    step = max(1, min(image.shape[:2]) // 128)
    return image[::step, ::step]


def image_kind(image):
    """uint8 RGB -> its kind, one of KINDS, from the picture alone.

    Colour (mean spread of the channels over 4 levels) parts the stains, and among them the glass does: the median
    colour of the lighter half, in CIE Lab, is lilac (b* under -12), yellow-brown (b* over 8) or neither. Among grey
    images the light ones are tissue; the dark ones go by `nucleus_width`.
    """
    sparse = np.ascontiguousarray(_sparse(image))
    if np.ptp(sparse, axis=2).mean() > 4:
        lab = cv2.cvtColor(sparse, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(np.int16)
        light = lab[lab[:, 0] >= np.median(lab[:, 0])]
        yellowness = np.median(light[:, 2]) - 128
        return "purple" if yellowness < -12 else "brown" if yellowness > 8 else "pink-purple"
    if np.median(sparse) > 127:
        return "grey-tissue"
    return "fluorescence-large" if nucleus_width(image) > LARGE_NUCLEUS else "fluorescence-small"


def nucleus_width(image):
    """The typical width of what is bright in a dark image, in px: twice the inscribed radius of Otsu's components,
    the median weighted by area (specks are many and weigh nothing; clumps keep the width of their parts)."""
    grey = cv2.GaussianBlur(standardise(image)[..., 0], (0, 0), 1.5)
    _, bright = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    count, components = cv2.connectedComponents(bright)
    if count == 1:
        return 0.0
    # The frame counts as background: a nucleus cut by it shows its half width there.
    distance = cv2.distanceTransform(np.pad(bright, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    radius = np.zeros(count)
    np.maximum.at(radius, components.ravel(), distance.ravel())
    return 2 * weighted_median(radius[1:], np.bincount(components.ravel())[1:])


def weighted_median(values, weights):
    """The value at which half of the weight is reached; values and weights (N,), N at least 1."""
    order = np.argsort(values)
    reached = np.cumsum(np.asarray(weights, np.float64)[order])
    return float(np.asarray(values)[order][np.searchsorted(reached, reached[-1] / 2)])


def nucleus_diameter(labels):
    """The typical diameter of the nuclei in labels, in px: that of a disc of equal area, the median weighted by area;
    0.0 where there are none."""
    areas = np.bincount(labels.ravel())[1:]
    areas = areas[areas > 0]
    return weighted_median(np.sqrt(4 * areas / np.pi), areas) if areas.size else 0.0


# ==================================================================================================
# 5. data (src/nuclei/data.py)
#
# Data: find and read a competition, in zips or folders.
#
# Kaggle's files hold `<id>/images/<file>` and, for training, `<id>/masks/<file>`, one mask a nucleus.
# ==================================================================================================

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


# ==================================================================================================
# 6. rle (src/nuclei/rle.py)
#
# Nuclei to and from Kaggle's run lists, which go down the columns and count pixels from 1.
#
# One nucleus is written "start length start length ...": pixel 1 is the top left one, pixel 2 the one
# below it, pixel H + 1 the top of the second column
# (https://www.kaggle.com/competitions/data-science-bowl-2018/overview/evaluation).
# ==================================================================================================

# Python's int() takes more than Kaggle may: underscores, plus signs, digits of other scripts.
_RUN_LIST = re.compile(r"\s*(-?[0-9]{1,20}(\s+|\Z))*", re.ASCII)


def encode_labels(labels):
    """Return a list of run lists (str), one per nucleus of `labels` (H, W), by ascending label.

    Labels may have gaps; an image without nuclei gives []. Every pixel carries one label, so the
    run lists can't overlap, which Kaggle would refuse. A boolean mask counts as one nucleus.
    """
    flat = labels.ravel(order="F")
    # All nuclei in one pass: cut where the label changes, drop the background, sort by label.
    is_start = np.ones(flat.size, bool)
    is_start[1:] = flat[1:] != flat[:-1]
    starts = np.flatnonzero(is_start)
    lengths = np.diff(starts, append=flat.size)
    nuclei = flat[starts]
    order = np.argsort(nuclei, kind="stable")  # stable: one nucleus's runs stay ascending
    order = order[nuclei[order] != 0]
    runs = np.stack([starts + 1, lengths], axis=1)[order]  # (runs, 2)
    _, first_run = np.unique(nuclei[order], return_index=True)
    return [" ".join(map(str, run.ravel().tolist())) for run in np.split(runs, first_run)[1:]]


def parse_runs(rle, height, width):
    """Return the runs of `rle` as `starts` and `lengths`, int64 (runs,) each, in pixels.

    Starts are indices into the column-major image: they count from 0, unlike those in `rle`. "" is
    the empty run list. Raises BadInput where the competition's rules are broken: the runs of a
    nucleus ascend, don't overlap and stay inside the image.
    """
    if not _RUN_LIST.fullmatch(rle):
        raise BadInput(f"run list {rle[:60]!r} holds something that is not a whole number")
    numbers = [int(word) for word in rle.split()]
    if len(numbers) % 2:
        raise BadInput(f"run list {rle[:60]!r} holds an odd number of numbers ({len(numbers)})")
    starts, lengths = numbers[::2], numbers[1::2]
    last_pixel = 0  # of the run before
    for start, length in zip(starts, lengths, strict=True):
        run = f"run '{start} {length}'"
        if start < 1:
            raise BadInput(f"{run} starts before the first pixel, which is 1")
        if length < 1:
            raise BadInput(f"{run} has a length below 1")
        if start <= last_pixel:
            raise BadInput(
                f"{run} starts before the run ahead of it ends, at pixel {last_pixel}: runs must ascend and not overlap"
            )
        last_pixel = start + length - 1
        if last_pixel > height * width:
            raise BadInput(
                f"{run} ends past the last pixel, {height * width}, of an image {height} high and {width} wide"
            )
    return np.array(starts, np.int64) - 1, np.array(lengths, np.int64)


def decode_rle(rle, height, width):
    """Return the mask, bool (height, width), that one run list stands for."""
    return decode_rles([rle], height, width).astype(bool)


def decode_rles(rles, height, width):
    """Return `labels` int32 (height, width) in which the k-th run list, from 1, has label k.

    Raises BadInput for a run list that `parse_runs` refuses, and for two that share a pixel.
    """
    flat = np.zeros(height * width, np.int32)
    for label, rle in enumerate(rles, start=1):
        for start, length in zip(*parse_runs(rle, height, width), strict=True):
            pixels = flat[start : start + length]
            if pixels.any():
                raise BadInput(f"run lists {pixels.max()} and {label} of the image overlap")
            pixels[:] = label
    return np.ascontiguousarray(flat.reshape((height, width), order="F"))


# ==================================================================================================
# 7. submission (src/nuclei/submission.py)
#
# Submission: label images to the rows of Kaggle's CSV, and the rules that such a file must keep.
# ==================================================================================================

HEADER = ["ImageId", "EncodedPixels"]


def make_rows(image_id, labels):
    """labels int32 (H, W) -> [(ImageId, EncodedPixels)], one a nucleus; an empty image has one row with no runs."""
    return [(image_id, rle) for rle in encode_labels(labels) or [""]]


def write_submission(path, rows):
    """Writes the rows under Kaggle's header, whole or not at all."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(HEADER)
    table.writerows(rows)
    write_whole(path, text.getvalue())


def write_whole(path, content):
    """Writes a file, text (str) or bytes, so that a reader finds the old one or the new one, never half of either."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except OSError as error:  # a full disk gives no name
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        with suppress(OSError):  # a read-only disk refuses even this
            temporary.unlink(missing_ok=True)


def read_table(path, columns):
    """A CSV, plain or zipped -> list of dicts with at least `columns`, in the file's order.

    Raises:
        BadInput: no such file, no CSV, one that is too large, or a column missing.
    """
    path = Path(path)
    csv.field_size_limit(MAX_TABLE_BYTES)  # Python's own, 128 kB, is less than the run list of a large nucleus
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
                if len(names) != 1:
                    raise BadInput(f"{path} cannot be read as a CSV: it holds {len(names)} files, zip the CSV alone")
                data = unpack(archive, names[0], MAX_TABLE_BYTES)
        else:
            check_bytes(path.stat().st_size, MAX_TABLE_BYTES, path)
            data = path.read_bytes()
        table = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        found, rows = table.fieldnames or [], list(islice(table, MAX_TABLE_ROWS + 1))
    except PermissionError:
        raise
    except (*BROKEN_ZIP, csv.Error) as error:
        raise BadInput(f"{path} cannot be read as a CSV, plain or zipped: {error}") from None
    if len(rows) > MAX_TABLE_ROWS:
        raise BadInput(f"{path} holds over {MAX_TABLE_ROWS:,} rows, more than are taken: write one for each nucleus")
    if len(set(found)) < len(found):
        raise BadInput(f"{path} has two columns of one name: keep one of them")
    missing = [column for column in columns if column not in found]
    if missing:
        raise BadInput(f"{path} has no column {missing[0]} (it has {', '.join(found) or 'no header'})")
    return rows


def check_submission(path, shapes):
    """Checks a submission against the competition's rules -> {image id: [rles]}.

    Args:
        path: the CSV, plain or zipped.
        shapes: {image id: (H, W)} of the images that must have a row; a shape of None leaves bounds unchecked.

    Raises:
        BadInput: names the first rule that is broken, and the row (the header is row 1).
    """
    rows = read_table(path, HEADER)
    rles, owners = {}, {}
    for number, row in enumerate(rows, start=2):
        image_id, rle = row["ImageId"], row["EncodedPixels"]
        where = f"{path}, row {number}"
        if None in row or rle is None:
            raise BadInput(f"{where}: expected 2 fields: ImageId and EncodedPixels")
        if image_id not in shapes:
            raise BadInput(f"{where}: {image_id!r} is no image of this test set")
        if image_id in rles and (not rle or rles[image_id][0] == ""):
            raise BadInput(f"{where}: {image_id} has an empty row beside another row: an empty row must stand alone")
        rles.setdefault(image_id, []).append(rle)
        owners.setdefault(image_id, []).append(number)
    for image_id, lists in rles.items():
        _check_image(path, image_id, lists, owners[image_id], shapes[image_id])
    missing = [image_id for image_id in shapes if image_id not in rles]
    if missing:
        raise BadInput(
            f"{path}: {len(missing)} images have no row, {missing[0]} first: give each an empty row at least"
        )
    return rles


def _check_image(path, image_id, rles, numbers, shape):
    """The rules of one image's rows: every run list is well formed, and no two claim a pixel."""
    height, width = shape or (2**31, 1)
    claimed = []
    for number, rle in zip(numbers, rles, strict=True):
        try:
            if rle != " ".join(rle.split()):
                raise BadInput(f"run list {rle[:60]!r} has more than single spaces between its numbers")
            starts, lengths = parse_runs(rle, height, width)
        except BadInput as error:
            raise BadInput(f"{path}, row {number} ({image_id}): {error}") from None
        claimed.append(np.stack([starts, starts + lengths, np.full(len(starts), number)], axis=1))
    runs = np.concatenate(claimed)
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    clash = np.flatnonzero(runs[1:, 0] < runs[:-1, 1])
    if clash.size:
        first, second = sorted((runs[clash[0], 2], runs[clash[0] + 1, 2]))
        raise BadInput(
            f"{path}, row {second}: {image_id} has a pixel that row {first} claims too: masks may not overlap"
        )


# ==================================================================================================
# 8. checkpoint (src/nuclei/checkpoint.py)
#
# Checkpoint: what a run needs to go on after it was cut off, written whole, and checked by its hash when read.
#
# A checkpoint is one NPZ with the hash of its bytes in its name, so that a torn one gives itself away. The two newest
# stand; no pickle is written or read.
# ==================================================================================================

CHECKPOINTS = "checkpoints"  # the folder in a run's folder; whoever takes the finished run over removes it
CHECKPOINT_SECONDS = 120.0  # between two checkpoints: what a kill can cost


def save_checkpoint(folder, settings, state, arrays):
    """Writes a checkpoint, then removes all but the two newest, and what a kill in the middle of writing left.

    A disk that is full or fails costs a warning, not the run.

    Args:
        folder: Path, which may not exist yet.
        settings: dict of what may not change from one checkpoint to the next.
        state: dict of what JSON holds.
        arrays: {name: list of arrays}.
    """
    text = json.dumps({"settings": settings, "state": state})
    named = {f"{name}.{i}": array for name, group in arrays.items() for i, array in enumerate(group)}
    buffer = io.BytesIO()
    np.savez(buffer, text=np.frombuffer(text.encode(), np.uint8), **named)
    data = buffer.getbuffer()
    before = _list_checkpoints(folder)
    number = int(before[-1].name.partition("-")[0]) + 1 if before else 0
    path = folder / f"{number:06d}-{hashlib.sha256(data).hexdigest()}.npz"
    try:
        write_whole(path, data)
        for other in set(folder.iterdir()) - {*before[-1:], path}:
            other.unlink()
    except OSError as error:
        log.warning("no checkpoint could be written (%s): a kill would cost more than usual", error)


def load_checkpoint(folder, settings):
    """The newest checkpoint that is whole -> (state, arrays), as they were saved, or None where there is none.

    Raises:
        BadInput: it was saved with other settings: says which.
    """
    for path in reversed(_list_checkpoints(folder)):
        try:
            data = path.read_bytes()
        except OSError:
            data = b""
        if hashlib.sha256(data).hexdigest() != path.stem.partition("-")[2]:
            log.warning("%s is torn: the checkpoint before it counts", path)
            continue
        arrays = {}
        with np.load(io.BytesIO(data), allow_pickle=False) as saved:
            content = json.loads(saved["text"].tobytes())
            for key in saved.files[1:]:
                arrays.setdefault(key.partition(".")[0], []).append(saved[key])
        _refuse_changes(folder, content["settings"], settings)
        return content["state"], arrays
    return None


def _list_checkpoints(folder):
    """The paths of a folder's checkpoints, the oldest first."""
    return sorted(folder.glob("*-*.npz"))


def _refuse_changes(folder, old, new):
    new = json.loads(json.dumps(new))  # as JSON gives it back
    changes = [f"{key} was {old.get(key)}, is {new.get(key)}" for key in old | new if old.get(key) != new.get(key)]
    if changes:
        raise BadInput(
            f"{folder.parent} holds an unfinished run with other settings ({'; '.join(changes)}): name another folder "
            "for this one, go on with that one by its own settings, or delete it to start afresh"
        )


def digest_images(images):
    """16 hex digits that change with any id, pixel or label of an ImageSet."""
    digest = hashlib.sha256()
    for image_id, image in zip(images.ids, images.images, strict=True):
        digest.update(f"{image_id} {image.shape} ".encode())
        digest.update(image)
    for labels in images.labels:
        digest.update(labels)
    return digest.hexdigest()[:16]


def digest_arrays(arrays):
    """16 hex digits that change with any number of any array."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]


# ==================================================================================================
# 9. device (src/nuclei/device.py)
#
# Device: what the run computes on, and in which precision.
# ==================================================================================================


def choose_precision():
    """The Keras dtype policy that this machine trains fastest in, by name.

    "mixed_bfloat16" where the hardware multiplies bfloat16 (CPUs with AVX512-BF16 or AMX, NVIDIA from compute
    capability 8.0 on), "mixed_float16" on GPUs from 7.0 on (Kaggle's T4), else "float32": a CPU without bfloat16
    emulates it ten times slower.
    """
    capability = gpu_capability()
    if capability is not None:
        return "mixed_bfloat16" if capability >= 8 else "mixed_float16" if capability >= 7 else "float32"
    return "mixed_bfloat16" if {"avx512_bf16", "amx_bf16"} & _cpu_flags() else "float32"


def list_gpus():
    """The names of the GPUs that Keras's backend sees; keras.distribution fails on JAX without one, and on torch."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
    if keras.backend.backend() == "jax":
        import jax

        return [str(device) for device in jax.devices() if device.platform == "gpu"]
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def gpu_capability():
    """The compute capability of the first GPU that Keras sees, or None where there is none."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        ask = tf.config.experimental.get_device_details
        capability = ask(gpus[0]).get("compute_capability", (0, 0)) if gpus else None
    elif keras.backend.backend() == "jax":
        import jax

        gpus = [device for device in jax.devices() if device.platform == "gpu"]
        capability = map(int, gpus[0].compute_capability.split(".")) if gpus else None
    else:
        import torch

        capability = torch.cuda.get_device_capability(0) if torch.cuda.is_available() else None
    if capability is None:
        return None
    major, minor = capability
    return major + minor / 10


def _cpu_flags():
    """The features that Linux lists for the CPU; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return set()
    flags = [line for line in info.read_text().splitlines() if line.startswith("flags")]
    return set(flags[0].split()) if flags else set()


def peak_memory():
    """The most memory that this process has held so far, in GB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)  # macOS counts bytes, Linux kilobytes


# ==================================================================================================
# 10. folds (src/nuclei/folds.py)
#
# Folds: parts to train on, to tune on and to hold out, kinds spread evenly and near-duplicates together.
# ==================================================================================================

NEAR_DUPLICATE = 0.9  # correlation of two images' thumbnails


def near_duplicates(images):
    """Images -> int (N,): one number for all images that are copies of each other up to noise, crop jitter and light.

    Two images are copies when their 32x32 thumbnails, blurred and standardised, correlate above NEAR_DUPLICATE;
    copies of copies count. Blank images, which have no pattern to compare, stand alone.
    """
    thumbs = np.stack([_thumbnail(image) for image in images])
    group = np.arange(len(images))
    for a, b in np.argwhere(np.triu(thumbs @ thumbs.T > NEAR_DUPLICATE, 1)):
        group[group == group[b]] = group[a]
    return group


def _thumbnail(image):
    """float32 (1024,) of zero mean and unit length."""
    small = standardise(cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)).max(axis=2)
    flat = cv2.GaussianBlur(small, (0, 0), 0.7).astype(np.float32).ravel()
    flat -= flat.mean()
    length = np.linalg.norm(flat)
    return flat / length if length > 32 else np.zeros_like(flat)


def split_folds(kinds, groups, folds, seed):
    """Deals images to folds -> int (N,) in 0..folds-1: each kind spread evenly, no group of near-duplicates split.

    Args:
        kinds: N strings; the stratum of each image.
        groups: int (N,), from `near_duplicates`.
        folds: at least 2.
        seed: of the shuffle.
    """
    kinds, groups = np.asarray(kinds), np.asarray(groups)
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(np.unique(groups))
    sizes = np.array([np.count_nonzero(groups == g) for g in numbers])
    counts = {kind: np.zeros(folds) for kind in KINDS}
    fold = np.zeros(len(kinds), np.int64)
    # Large groups first, while there is room to balance them; the fold with the fewest of the kind takes the next.
    for number in numbers[np.argsort(-sizes, kind="stable")]:
        members = groups == number
        here = counts[kinds[members][0]]
        total = sum(counts.values())
        fold[members] = target = np.lexsort((total, here))[0]
        for kind in kinds[members]:
            counts[kind][target] += 1
    return fold


def split_data(images, config):
    """An ImageSet with labels -> ImageSets to train on, to tune on, and held out.

    The config's fold is held out; with data_folds 0 nothing is. The tuning part is cut from the rest, and stays empty
    where the rest has fewer images than tuning parts. The deal goes by no seed, so that runs compare.

    Raises:
        BadInput: nothing is left to train on.
    """
    groups = near_duplicates(images.images)
    held_out = np.zeros(len(images.ids), bool)
    if config.data_folds:
        held_out = split_folds(images.kinds, groups, config.data_folds, 0) == config.data_fold
    rest = np.flatnonzero(~held_out)
    parts = max(2, round(1 / config.data_tuning)) if config.data_tuning else 0
    if parts and len(rest) >= parts:
        kinds = [images.kinds[i] for i in rest]
        tuning = split_folds(kinds, groups[rest], parts, 1) == 0
    else:
        tuning = np.zeros(len(rest), bool)
    if tuning.all():
        raise BadInput(
            f"{TRAIN}: its {len(images.ids)} images are too few or too alike to hold some out and train on the rest: "
            "add images, or use --preset sample, which holds none out"
        )
    return images.subset(rest[~tuning]), images.subset(rest[tuning]), images.subset(np.flatnonzero(held_out))


# ==================================================================================================
# 11. targets (src/nuclei/targets.py)
#
# Targets: what the network learns from a label image, and how much each pixel weighs.
# ==================================================================================================

# The channels of targets and probs, in this order.
INTERIOR, BORDER, CORE = range(3)


def make_targets(labels, core):
    """labels int32 (H, W) -> targets float32 (H, W, 3) of zeros and ones: interior, border, core.

    - interior: every pixel of a nucleus.
    - border: pixels that two nuclei come close to, and so only where nuclei touch; its thickness goes with the size
      of the nuclei (the 2018 winners' target: github.com/selimsef/dsb2018_topcoders).
    - core: pixels deeper in their nucleus than `core` (0..1) of its greatest depth: a level of the relative distance,
      which parts touching nuclei of every size alike.
    """
    depth = inner_distance(labels)
    deepest = np.zeros(labels.max(initial=0) + 1, np.float32)
    np.maximum.at(deepest, labels.ravel(), depth.ravel())
    interior = labels > 0
    return np.stack(
        [interior, _touching(labels), interior & (depth > core * deepest[labels])],
        axis=-1,
    ).astype(np.float32)


def inner_distance(labels):
    """labels (H, W) -> float32 (H, W), px from the edge of each pixel's own nucleus, 0 outside. The frame is no edge: a
    nucleus that it cuts goes on behind it."""
    ids = labels.astype(np.float32)  # OpenCV's filters take no int32
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    # At the frame OpenCV's default border never wins, neither in dilation nor in erosion.
    edge = cv2.dilate(ids, cross) != cv2.erode(ids, cross)
    inside = ((labels > 0) & ~edge).astype(np.uint8)
    if inside.all():
        return np.full(labels.shape, max(labels.shape), np.float32)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    return np.where(labels > 0, depth + 0.5, 0).astype(np.float32)


def _touching(labels):
    """bool (H, W): within a window as wide as a fifth of the typical nucleus, two different nuclei are seen."""
    areas = np.bincount(labels.ravel())[1:]
    if np.count_nonzero(areas) < 2:
        return np.zeros(labels.shape, bool)
    diameter = np.sqrt(4 / np.pi * np.median(areas[areas > 0]))
    size = int(np.clip(2 * round(diameter / 10) + 1, 3, 9))
    window = np.ones((size, size), np.uint8)
    ids = labels.astype(np.float32)
    highest = cv2.dilate(ids, window)
    lowest = cv2.erode(np.where(labels > 0, ids, np.float32(2**24)), window)
    return (highest > 0) & (highest != lowest)


def pixel_weights(labels, border, sigma, rare=3.0):
    """The U-Net paper's weight map -> float32 (H, W), 1 or more everywhere.

    w = w_class + border * exp(-(d1 + d2)^2 / (2 sigma^2)), with d1 and d2 the distances to the nearest and the second
    nearest nucleus (Ronneberger et al. 2015, section 3, equation 2; there border = 10 and sigma = 5 px). The class
    that fills less of the image weighs more, by the square root of the ratio of the two classes, `rare` at the most:
    the whole ratio would let a single small nucleus outweigh its image.

    Distances from 3 sigma on add 1 % of `border` at the most and are left out: each nucleus is measured in its own box.
    """
    interior = labels > 0
    share = interior.mean()
    weights = np.ones(labels.shape, np.float32)
    if 0 < share < 1:
        rarer = interior if share < 0.5 else ~interior
        weights[rarer] = min(np.sqrt(max(share, 1 - share) / min(share, 1 - share)), rare)
    nearest, second = _two_nearest(labels, reach=int(np.ceil(3 * sigma)))
    near = np.isfinite(second)
    weights[near] += border * np.exp(-((nearest[near] + second[near]) ** 2) / (2 * sigma**2))
    return weights


def _two_nearest(labels, reach):
    """Two float32 (H, W): px to the nearest and to the second nearest nucleus, inf where it is `reach` or more away."""
    nearest = np.full(labels.shape, np.inf, np.float32)
    second = nearest.copy()
    for index, box in enumerate(ndi.find_objects(labels), start=1):
        if box is None:
            continue
        box = tuple(np.s_[max(side.start - reach, 0) : side.stop + reach] for side in box)
        outside = (labels[box] != index).astype(np.uint8)
        distance = cv2.distanceTransform(outside, cv2.DIST_L2, 5)
        distance[distance >= reach] = np.inf
        second[box] = np.minimum(second[box], np.maximum(nearest[box], distance))
        nearest[box] = np.minimum(nearest[box], distance)
    return nearest, second


# ==================================================================================================
# 12. tta (src/nuclei/tta.py)
#
# Test-time augmentation: the eight views of an image, and their inverses.
#
# Nuclei have no up: turn a slide over or around, and the right answer turns with it. A network only
# learns this roughly, so it gives each view of an image a slightly different answer. Turn the answers
# back and average them: what they agree on, the nuclei, stays; the errors that depend on how the
# image lies partly cancel. And averaged over all eight views, turning the image exactly turns the
# answer.
# ==================================================================================================

# A view is three independent choices, one per bit: 1 flips left-right, 2 flips up-down, and then
# 4 transposes. Together they make the eight symmetries of a square. The first 1, 2, 4 and 8 views
# are each closed (a view of a view is in the set); the first four keep the image's shape.
VIEWS = tuple(range(8))


def view_image(image, view):
    """Return `image` (..., H, W, C) as `view` shows it: (..., W, H, C) for views 4 to 7."""
    if view & 1:
        image = np.flip(image, axis=-2)
    if view & 2:
        image = np.flip(image, axis=-3)
    if view & 4:
        image = np.swapaxes(image, -3, -2)
    return np.ascontiguousarray(image)  # OpenCV and Keras refuse or copy negative strides


def unview_probs(probs, view):
    """Undo `view_image`: return `probs` (..., h, w, C) of a view as they lie on the image."""
    if view & 4:  # the last step is undone first
        probs = np.swapaxes(probs, -3, -2)
    if view & 2:
        probs = np.flip(probs, axis=-3)
    if view & 1:
        probs = np.flip(probs, axis=-2)
    return np.ascontiguousarray(probs)


# ==================================================================================================
# 13. watershed (src/nuclei/watershed.py)
#
# Watershed: from probabilities to instances, by flooding from seeds.
# ==================================================================================================


@dataclass(frozen=True)
class Thresholds:
    """What `find_instances` goes by; chosen on the tuning images and saved with the weights. Sizes count in pixels of
    the scale at which the network worked, so that they hold for every magnification."""

    seed: float = 0.4  # 0..1, of core * (1 - border)
    interior: float = 0.58  # 0..1
    seed_area: float = 16.0  # px of the network's scale
    area: float = 32.0  # px of the network's scale
    confidence: float = 0.7  # 0..1, of the mean interior probability


def find_instances(probs, thresholds, zoom=1.0):
    """probs float32 (H, W, 3) -> labels int32 (H, W), ids 1..n; nuclei never overlap, have no holes and are connected.

    Seeds are the connected parts of core * (1 - border); they flood the interior by altitude, from the surest pixel
    outwards (scikit-image's watershed; OpenCV's goes by the difference of neighbours and loses pixels to lines). An
    interior part that holds no seed is its own seed: a nucleus so small or so dim that its core was not found.

    Args:
        zoom: network px for one px of `probs`; the thresholds' areas are divided by its square.
    """
    core = probs[..., CORE] * (1 - probs[..., BORDER])
    interior = probs[..., INTERIOR] > thresholds.interior
    seeds = _large_parts(core > thresholds.seed, thresholds.seed_area / zoom**2)
    interior |= seeds > 0
    parts, count = ndi.label(interior)
    seedless = np.setdiff1d(np.arange(1, count + 1), parts[seeds > 0])
    seeds = np.where(np.isin(parts, seedless), parts + seeds.max(initial=0), seeds)
    altitude = -(probs[..., INTERIOR] + core)
    labels = watershed(altitude, seeds, mask=interior)
    return _keep_nuclei(_fill_holes(labels), probs[..., INTERIOR], thresholds, zoom)


def find_confidences(probs, labels):
    """How sure the network is of each nucleus: the mean interior probability of its pixels, 0..1.

    probs float32 (H, W, 3), labels int32 (H, W) with ids 1..n -> float64 (n,).
    """
    areas = np.bincount(labels.ravel())
    sums = np.bincount(labels.ravel(), weights=probs[..., INTERIOR].ravel())
    return sums[1:] / areas[1:]


def _large_parts(mask, area):
    """The connected parts of a mask that have at least `area` px -> int32 (H, W)."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    keep = stats[:, cv2.CC_STAT_AREA] >= area
    keep[0] = False
    return np.where(keep, np.arange(count), 0).astype(np.int32)[parts]


def _fill_holes(labels):
    """Background wholly inside one nucleus becomes that nucleus."""
    gaps, _ = ndi.label(np.pad(labels == 0, 1, constant_values=True))
    filled = np.pad(labels, 1)
    for gap, box in enumerate(ndi.find_objects(gaps), start=1):
        if gap == gaps[0, 0]:
            continue  # the background itself
        wider = tuple(slice(side.start - 1, side.stop + 1) for side in box)
        hole = gaps[wider] == gap
        around = np.unique(filled[wider][ndi.binary_dilation(hole) & ~hole])
        if around.size == 1:
            filled[wider][hole] = around[0]
    return filled[1:-1, 1:-1]


def _keep_nuclei(labels, interior, thresholds, zoom):
    """Drops what is too small or too unsure, and numbers the rest 1..n."""
    areas = np.bincount(labels.ravel())
    sums = np.bincount(labels.ravel(), weights=interior.ravel())
    keep = (areas >= thresholds.area / zoom**2) & (sums >= thresholds.confidence * areas)
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0).astype(np.int32)[labels]


# ==================================================================================================
# 14. inference (src/nuclei/inference.py)
#
# Inference: an image of any size through a network of one tile size, at the zoom that fits its nuclei.
#
# The network is any callable: float32 (batch, tile, tile, 3) in 0..1 -> float32 (batch, tile, tile, C). It always sees
# the same shape, so that TensorFlow and JAX compile once, and its memory is bounded by the tile, not by the image.
# ==================================================================================================


def segment(image, network, thresholds, config, views=None):
    """uint8 (H, W, 3) -> (labels int32 (H, W), confidences float64 (n,)): scale, probabilities, instances."""
    probs, zoom = segment_probs(image, network, thresholds, config, views)
    labels = find_instances(probs, thresholds, zoom)
    return labels, find_confidences(probs, labels)


def segment_probs(image, network, thresholds, config, views=None):
    """uint8 (H, W, 3) -> (probs float32 (H, W, 3), the zoom that fits its nuclei). `views` stands in for config's."""
    tiles = (config.tile_size, config.tile_overlap, config.tile_batch)
    zoom = fit_zoom(image, network, thresholds, config.zoom, *tiles)
    zooms = tuple(zoom * factor for factor in config.tta_zooms)
    return predict_probs(image, network, *tiles, VIEWS[: views or config.tta_views], zooms), zoom


def predict_probs(image, network, tile, overlap, batch, views=(0,), zooms=(1.0,), table=None):
    """uint8 (H, W, 3) -> probs float32 (H, W, C), the mean over the dihedral views and zooms.

    Args:
        network: see the module.
        tile: px, side of the network's input.
        overlap: px that neighbouring tiles share at least, less than `tile`.
        batch: tiles in one call.
        views: some of tta.VIEWS.
        zooms: factors by which the image is enlarged for the network; probs come back at the image's own size.
        table: `standard_table` of the image that this one is a part of; None takes its own.
    """
    seen = cv2.LUT(image, standard_table(image) if table is None else table)
    height, width = image.shape[:2]
    total = 0.0
    for zoom in zooms:
        size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
        smooth = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
        zoomed = seen if size == (width, height) else cv2.resize(seen, size, interpolation=smooth)
        probs = predict_tiled(zoomed, network, tile, overlap, batch, views)
        if size != (width, height):
            probs = _resize_probs(probs, (width, height), cv2.INTER_AREA if zoom > 1 else cv2.INTER_LINEAR)
        total = total + probs / len(zooms)
    return total


def _resize_probs(probs, size, interpolation):
    """probs float32 (H, W, C) at the size (width, height), four classes at once: OpenCV's INTER_AREA takes no more."""
    width, height = size
    fours = [probs[..., i : i + 4] for i in range(0, probs.shape[-1], 4)]
    resized = [cv2.resize(four, size, interpolation=interpolation).reshape(height, width, -1) for four in fours]
    return np.concatenate(resized, axis=-1)


def predict_tiled(image, network, tile, overlap, batch, views=(0,)):
    """uint8 (H, W, 3), as the network sees it -> probs float32 (H, W, C): overlapping tiles, blended with soft seams.

    Every view of every tile is one input of the network; what comes back is turned upright, weighted by a window that
    fades towards the tile's edge, and summed. An image smaller than the tile is mirrored out to it.
    """
    height, width = image.shape[:2]
    padding = [(0, max(tile - n, 0)) for n in (height, width)]
    padded = np.pad(image, [*padding, (0, 0)], mode="symmetric")
    corners = [
        (y, x)
        for y in _tile_starts(padded.shape[0], tile, overlap)
        for x in _tile_starts(padded.shape[1], tile, overlap)
    ]
    inputs = [(corner, view) for corner in corners for view in views]
    window = _blend_window(tile, overlap)
    total, weight = None, np.zeros((*padded.shape[:2], 1), np.float32)
    for start in range(0, len(inputs), batch):
        chunk = inputs[start : start + batch]
        tiles = np.zeros((batch, tile, tile, 3), np.float32)
        for slot, ((y, x), view) in zip(tiles, chunk, strict=False):
            slot[:] = view_image(padded[y : y + tile, x : x + tile], view)
        probs = np.asarray(network(tiles / 255), np.float32)
        if total is None:
            total = np.zeros((*padded.shape[:2], probs.shape[-1]), np.float32)
        for ((y, x), view), one in zip(chunk, probs, strict=False):
            total[y : y + tile, x : x + tile] += unview_probs(one, view) * window
            weight[y : y + tile, x : x + tile] += window
    return (total / weight)[:height, :width]


def _tile_starts(length, tile, overlap):
    """Where tiles begin along one axis: evenly spread, the last one ending at `length`."""
    if length <= tile:
        return [0]
    count = int(np.ceil((length - overlap) / (tile - overlap)))
    return np.linspace(0, length - tile, count).round().astype(int).tolist()


def _blend_window(tile, overlap):
    """float32 (tile, tile, 1): 1 in the middle, falling to nearly 0 over the overlap at each edge, never 0."""
    ramp = (np.minimum(np.arange(tile), np.arange(tile)[::-1]) + 0.5) / max(overlap, 1)
    edge = np.minimum(ramp, 1).astype(np.float32)
    return (edge[:, None] * edge)[..., None]


def fit_zoom(image, network, thresholds, zoom_for, tile, overlap, batch):
    """The zoom that fits the image's typical nucleus, found by looking: zoom_for(its diameter in px), a float.

    The image is looked at as it is and at half its size. At the wrong scale the network sees the grains in a large
    nucleus, a clump of small ones as one, or it is unsure of what it sees. So the surer look is believed, and the size
    of its nuclei says how far it is from the scale that the network knows best. Where that is more than a quarter of an
    octave, one more look corrects it. Where nothing is found, twice the size is tried; after that, 1.
    """
    unsure = replace(thresholds, confidence=0.0)  # at the wrong scale no nucleus is sure, and its size still tells

    def look(zoom):
        """How sure a look is (the pixels of its nuclei, less those that could be either), and the zoom that fits."""
        probs = predict_probs(image, network, tile, overlap, batch, zooms=(zoom,))
        labels = find_instances(probs, unsure, zoom)
        found = nucleus_diameter(labels)
        fitting = zoom_for(found) if found else None
        interior = probs[..., INTERIOR]
        doubt = 2 * np.minimum(interior, 1 - interior).sum()  # a pixel of p = 0.5 counts as one
        return float(interior[labels > 0].sum() - doubt), fitting, zoom

    _, first, start = max(look(1.0), look(0.5), key=lambda seen: seen[0])
    if first is None:
        _, first, start = look(2.0)
    if first is None:
        return 1.0
    far = abs(np.log2(first / start)) > 0.25
    return (look(first)[1] if far else None) or first


# ==================================================================================================
# 15. metric (src/nuclei/metric.py)
#
# The competition's score of one image: one overlap matrix, IoU, precision at ten thresholds.
#
# A predicted nucleus is a hit at threshold t if its intersection over union with a true nucleus is
# greater than t. The score of an image is the mean over t = 0.50, 0.55, ..., 0.95 of
# tp / (tp + fp + fn); the score of a submission is the mean over its images
# (https://www.kaggle.com/competitions/data-science-bowl-2018/overview/evaluation).
# ==================================================================================================

# A hit is strictly above its threshold. An IoU of exactly 3/4 and the threshold 75 / 100 are the
# same float, because one division rounds equal fractions alike; the sums inside
# np.arange(0.5, 1, 0.05) drift off (0.6000000000000001).
THRESHOLDS = np.arange(50, 100, 5) / 100


def overlap_matrix(truth, predicted):
    """Count the pixels each true nucleus shares with each predicted one.

    `truth` and `predicted` are label images (H, W); labels may have gaps. Returns int64
    (1 + n_truth, 1 + n_predicted), nuclei in ascending order of label. Row 0 and column 0 are the
    background, so that sums along rows and columns are the areas of the nuclei.
    Raises ValueError if the shapes differ.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth has shape {truth.shape}, predicted has shape {predicted.shape}")
    rows, n_rows = _matrix_index(truth)
    columns, n_columns = _matrix_index(predicted)
    counts = np.bincount(rows * n_columns + columns, minlength=n_rows * n_columns)
    return counts.reshape(n_rows, n_columns)


def _matrix_index(labels):
    """Number labels without gaps, background 0: int64 (H * W,), and how many numbers there are."""
    flat = labels.ravel().astype(np.int64)
    present = np.bincount(flat) > 0
    present[0] = True  # an image without background keeps its row 0
    return (np.cumsum(present) - 1)[flat], np.count_nonzero(present)


def iou_matrix(truth, predicted):
    """Return intersection over union, float64 (n_truth, n_predicted), by ascending label."""
    overlap = overlap_matrix(truth, predicted)
    true_areas = overlap.sum(axis=1)[1:, None]  # (n_truth, 1)
    predicted_areas = overlap.sum(axis=0)[None, 1:]  # (1, n_predicted)
    intersections = overlap[1:, 1:]
    return intersections / (true_areas + predicted_areas - intersections)


def matches_at_thresholds(truth, predicted):
    """Count hits, false alarms and misses: `tp`, `fp`, `fn`, each int64 (10,), at THRESHOLDS."""
    iou = iou_matrix(truth, predicted)
    n_truth, n_predicted = iou.shape
    # No assignment problem to solve. If IoU(T, P) > 1/2, T covers more than half of P, and two
    # nuclei that don't overlap can't both do so, nor the other way round: nobody has two partners.
    hits = iou > THRESHOLDS[:, None, None]  # (10, n_truth, n_predicted)
    tp = np.count_nonzero(hits, axis=(1, 2))
    return tp, n_predicted - tp, n_truth - tp


def precision_at_thresholds(truth, predicted):
    """Return tp / (tp + fp + fn), float64 (10,), at THRESHOLDS.

    With no nuclei on either side there is nothing to get wrong: 1. On one side only: 0.
    """
    tp, fp, fn = matches_at_thresholds(truth, predicted)
    nuclei = tp + fp + fn
    return np.where(nuclei > 0, tp / np.maximum(nuclei, 1), 1.0)


def average_precision(truth, predicted):
    """Return the competition's score of one image, a float in 0..1."""
    return float(precision_at_thresholds(truth, predicted).mean())


# ==================================================================================================
# 16. parallel (src/nuclei/parallel.py)
#
# Parallel: one network on several GPUs, a copy on each, with TensorFlow; every other machine has one copy.
#
# A network that is made in `share_gpus`, and compiled there with a `shared_loss`, is trained by `train_step` and asked
# by `predict_step`: each copy takes its part of the batch, and all make the same step, along the mean of the gradients.
# ==================================================================================================


def share_gpus(*batches):
    """Context in which to make and compile a network, so that it lives on as many GPUs as divide all of `batches`.

    Args:
        batches: the numbers of inputs that the network will be given at a time.
    """
    gpus = _tensorflow_gpus()
    copies = math.gcd(max(len(gpus), 1), *batches)
    if copies < 2:
        return nullcontext()
    import tensorflow as tf

    log.info("one network on %d GPUs", copies)
    return tf.distribute.MirroredStrategy(gpus[:copies]).scope()


def _tensorflow_gpus():
    """The names of the GPUs that TensorFlow can compute on."""
    return list_gpus() if keras.backend.backend() == "tensorflow" else []


def shared_loss(loss):
    """A loss to compile with in `share_gpus`: of each copy's part of the batch, its share of the whole batch's loss.

    TensorFlow adds up the gradients of the copies, and Keras divides only such losses by their number as come one an
    image; ours are means already.
    """
    if keras.backend.backend() != "tensorflow":
        return loss
    import tensorflow as tf

    copies = tf.distribute.get_strategy().num_replicas_in_sync
    return lambda y_true, y_pred: loss(y_true, y_pred) / copies


def count_copies(model):
    """On how many GPUs a network lives; 1 without a GPU."""
    strategy = _strategy_of(model)
    return strategy.num_replicas_in_sync if strategy else 1


def train_step(model, x, y, parts=1):
    """One step of training on a batch -> its loss, float.

    Where the memory is short, the batch is computed in equal parts, one after the other, and a network that was
    compiled for so many makes one step of them. On several GPUs, where Keras cannot add up gradients over calls, the
    step has the first part alone.
    """
    strategy = _strategy_of(model)
    pieces = list(zip(np.split(x, parts), np.split(y, parts), strict=True))
    if strategy is None:
        return float(np.mean([_train_part(model, *piece) for piece in pieces]))
    x, y = pieces[0]
    model.reset_metrics()
    model.make_train_function()  # train_on_batch would show every copy the whole batch
    return float(model.train_function(iter([(_share(x, strategy), _share(y, strategy), None)]))["loss"])


def _train_part(model, x, y):
    model.reset_metrics()  # before Keras 3.14, train_on_batch gives the mean over all steps so far
    return float(model.train_on_batch(x, y))


def predict_step(model, x):
    """float32 (N, H, W, 3) -> what the network says of it, (N, H, W, C)."""
    strategy = _strategy_of(model)
    if strategy is None:
        return model.predict_on_batch(x)
    model.make_predict_function()
    return model.predict_function([(_share(x, strategy),)])


def _strategy_of(model):
    """TensorFlow's strategy for a network on several GPUs, else None."""
    strategy = getattr(model, "distribute_strategy", None)
    return strategy if strategy and strategy.num_replicas_in_sync > 1 else None


def _share(batch, strategy):
    """An array's equal parts, one for each copy of the network."""
    parts = np.split(batch, strategy.num_replicas_in_sync)
    return strategy.experimental_distribute_values_from_function(
        lambda context: keras.ops.convert_to_tensor(parts[context.replica_id_in_sync_group])
    )


# ==================================================================================================
# 17. progress (src/nuclei/progress.py)
#
# Progress: what long work over many images says of itself.
# ==================================================================================================

LINE_SECONDS = 60  # between two lines


def progress(items, name):
    """Gives the items of a sequence one by one: under a live bar in a terminal, elsewhere with a log line a minute."""
    bar = tqdm(items, desc=name, unit=" images", disable=None, leave=False)
    said = time.monotonic()
    for done, item in enumerate(bar):
        if bar.disable and time.monotonic() - said >= LINE_SECONDS:
            log.info("%s: %d of %d images", name, done, len(items))
            said = time.monotonic()
        yield item


# ==================================================================================================
# 18. augmentation (src/nuclei/augmentation.py)
#
# Augmentation: random crops of an image and its labels, bent alike; then colour, blur and noise on the image.
#
# Targets are drawn from the labels after all of this, so they are as crisp as if the crop had been photographed so.
# ==================================================================================================

ANISOTROPY = 0.25  # octaves between the two axes, both ways


def augment(image, labels, rng, crop, zoom):
    """One random crop: uint8 (H, W, 3), int32 (H, W) -> uint8 (crop, crop, 3), int32 (crop, crop).

    Args:
        rng: numpy Generator; the same state gives the same crop.
        crop: px, side of the result.
        zoom: px of the result for one px of the image, along and across.
    """
    return recolour(*warp(image, labels, rng, crop, zoom), rng)


def warp(image, labels, rng, crop, zoom):
    """Geometry alone: position, rotation, flip, anisotropy and elastic bending in one resampling of each array.

    Beyond its frame the image is mirrored. Ids are dealt anew, 1..n: what the crop's frame cuts in two, or the mirror
    shows twice, are two nuclei.
    """
    columns, rows = _source_grid(image.shape[:2], rng, crop, zoom)
    top, left, bottom, right = _source_box(rows, columns, image.shape[:2])
    rows, columns = rows - top, columns - left
    image, labels = image[top:bottom, left:right], labels[top:bottom, left:right]
    if zoom < 0.75:  # else every second pixel would be skipped: aliasing
        image = cv2.GaussianBlur(image, (0, 0), 0.4 / zoom)
    # float32 carries ids exactly, up to 2^24; OpenCV does not resample int32
    ids = cv2.remap(labels.astype(np.float32), columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)
    seen = cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return seen, connected_components(ids.astype(np.int32), connectivity=2).astype(np.int32)


def _source_grid(shape, rng, crop, zoom):
    """Where each pixel of the crop comes from: float32 columns and rows (crop, crop), in px of the image."""
    angle = rng.uniform(0, 2 * np.pi)
    stretch = 2.0 ** rng.uniform(-ANISOTROPY, ANISOTROPY)
    scale = np.array([stretch**0.5, stretch**-0.5]) / zoom
    flip = rng.choice([-1, 1])
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin * flip], [sin, cos * flip]]) * scale
    centre = [rng.uniform(min(crop / zoom, n) / 2, n - min(crop / zoom, n) / 2) - 0.5 for n in shape[::-1]]
    grid = np.arange(crop, dtype=np.float32) - (crop - 1) / 2
    columns = centre[0] + turn[0, 0] * grid[None, :] + turn[0, 1] * grid[:, None]
    rows = centre[1] + turn[1, 0] * grid[None, :] + turn[1, 1] * grid[:, None]
    if rng.random() < 0.4:  # elastic: a coarse random field, smooth by its enlargement
        field = rng.normal(0, rng.uniform(2, 6) / zoom, (2, 5, 5)).astype(np.float32)
        columns = columns + cv2.resize(field[0], (crop, crop), interpolation=cv2.INTER_CUBIC)
        rows = rows + cv2.resize(field[1], (crop, crop), interpolation=cv2.INTER_CUBIC)
    return columns.astype(np.float32), rows.astype(np.float32)


def _source_box(rows, columns, shape):
    """The part of the image that the grid looks at, with a margin for blur: filtering more would cost time."""
    margin = 8
    box = []
    for side, length in zip((rows, columns), shape, strict=True):
        # One pixel at least, even where bending has pushed a small crop off the image.
        box.append((min(max(int(side.min()) - margin, 0), length - 1), max(min(int(side.max()) + margin, length), 1)))
    (top, bottom), (left, right) = box
    return top, left, bottom, right


def recolour(image, labels, rng):
    """Light and colour alone: image uint8 (H, W, 3) -> uint8 (H, W, 3); labels pass through."""
    if rng.random() < 0.4:
        image = _fade_nuclei(image, labels, rng)
    if rng.random() < 0.15:  # grey: stained tissue seen without its hue
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    if rng.random() < 0.15:
        image = image[..., rng.permutation(3)]
    if rng.random() < 0.3:
        image = _shift_hsv(image, rng)
    if rng.random() < 0.7:
        image = cv2.LUT(np.ascontiguousarray(image), _tone_curve(rng))
    if rng.random() < 0.04:
        image = 255 - image
    if rng.random() < 0.25:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.6))
    if rng.random() < 0.25:
        image = _add_noise(image, rng)
    return np.ascontiguousarray(image), labels


def _fade_nuclei(image, labels, rng):
    """Each nucleus by itself closer to the light around it, or a little farther: pale ones beside dark ones."""
    outside = (labels == 0).astype(np.float32)[..., None]
    if not 0.02 < outside.mean() < 1:
        return image
    image = image.astype(np.float32)
    size = (63, 63)
    share = cv2.blur(outside, size)[..., None]
    around = cv2.blur(image * outside, size) / np.maximum(share, 1e-3)
    around = np.where(share > 1e-3, around, (image * outside).mean((0, 1)) / outside.mean())
    contrast = rng.uniform(0.3, 1.25, labels.max(initial=0) + 1).astype(np.float32)
    contrast[0] = 1
    contrast = cv2.GaussianBlur(contrast[labels], (0, 0), 1.0)[..., None]
    return np.clip(around + (image - around) * contrast, 0, 255).round().astype(np.uint8)


def _shift_hsv(image, rng):
    hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV)
    levels = np.arange(256)
    table = np.stack(
        [
            (levels + rng.integers(-15, 16)) % 180,  # OpenCV's hue has 180 steps
            np.clip(levels * rng.uniform(0.6, 1.4), 0, 255),
            levels,
        ],
        axis=-1,
    )
    return cv2.cvtColor(cv2.LUT(hsv, table.astype(np.uint8)[None]), cv2.COLOR_HSV2RGB)


def _tone_curve(rng):
    """Gamma, contrast and brightness in one table, uint8 (1, 256)."""
    levels = np.arange(256) / 255
    curve = levels ** (2.0 ** rng.uniform(-0.8, 0.8)) * rng.uniform(0.7, 1.3) + rng.uniform(-0.08, 0.12)
    return np.clip(curve * 255, 0, 255).round().astype(np.uint8)[None]


def _add_noise(image, rng):
    """Sensor noise, one field for all channels, as a grey image has it."""
    field = rng.standard_normal(image.shape[:2], np.float32) * rng.uniform(2, 14)
    return np.clip(image + field[..., None], 0, 255).astype(np.uint8)


# ==================================================================================================
# 19. batches (src/nuclei/batches.py)
#
# Batches: crops at the network's scale, balanced over kinds, made ahead of the training thread.
# ==================================================================================================

MOST_FAULTS = 3  # images from which no crop can be made; more of them are a fault of the program, not of an image


class Crops:
    """Random training crops of a set of images; batch i depends on the seed and on i alone, whoever makes it.

    Args:
        images: uint8 (H, W, 3) each.
        labels: int32 (H, W) each.
        kinds: one of KINDS each.
        config: a Config.
        ids: the images' names in a warning; without them, their numbers.
    """

    def __init__(self, images, labels, kinds, config, ids=None):
        self.ids = range(len(images)) if ids is None else ids
        self.faults = {}  # id: why no crop could be made of it
        self.images = [standardise(image) for image in images]
        self.labels = labels
        self.config = config
        self.chances = draw_chances(kinds, config.train_balance)
        diameters = np.array([nucleus_diameter(one) for one in labels])
        typical = np.median(diameters[diameters > 0]) if diameters.any() else config.model_diameter
        self.zooms = [config.zoom(diameter or typical) for diameter in diameters]

    def batch(self, index):
        """Batch number `index` -> x float32 (N, S, S, 3) in 0..1, y float32 (N, S, S, 4): three targets and the
        weight. An image of which no crop can be made is left out, with a warning, and another takes its place.

        Raises:
            BadInput: more than MOST_FAULTS images were left out so far, or all there are.
        """
        c = self.config
        rng = np.random.default_rng([c.train_seed, index])
        x = np.empty((c.train_batch, c.train_crop, c.train_crop, 3), np.float32)
        y = np.empty((c.train_batch, c.train_crop, c.train_crop, 4), np.float32)
        for n, i in enumerate(rng.choice(len(self.images), c.train_batch, p=self.chances)):
            while not self._make_crop(i, rng, x[n], y[n]):
                i = rng.choice(len(self.images), p=self.chances)
        x /= 255
        return x, y

    def _make_crop(self, i, rng, x, y):
        """Fills x (S, S, 3) and y (S, S, 4) from image number `i` -> whether that went well."""
        c = self.config
        try:
            zoom = self.zooms[i] * 2.0 ** rng.uniform(-c.train_zoom, c.train_zoom)
            image, labels = augment(self.images[i], self.labels[i], rng, c.train_crop, zoom)
            x[:] = image
            y[..., :3] = make_targets(labels, c.target_core)
            y[..., 3] = pixel_weights(labels, c.target_border, c.target_sigma, c.target_rare)
        except Exception as error:  # hours of training are worth more than one image
            self._leave_out(self.ids[i], f"{type(error).__name__}: {error}")
            return False
        return True

    def _leave_out(self, image_id, why):
        if image_id not in self.faults:
            self.faults[image_id] = why
            log.warning("training image %s is left out, since no crop can be made of it (%s)", image_id, why)
        if len(self.faults) > min(MOST_FAULTS, len(self.images) - 1):
            named = ", ".join(map(str, self.faults))
            raise BadInput(f"no crop can be made of the training images {named} ({why}): mend them or take them out")

    def stream(self, start=0, ahead=4, workers=2):
        """Batches start, start + 1, ... without end, up to `ahead` of them made in `workers` threads beforehand.

        Threads serve, since OpenCV and NumPy let go of the interpreter's lock while they work.
        """
        with ThreadPoolExecutor(workers, thread_name_prefix="crops") as pool:
            waiting = deque(pool.submit(self.batch, start + i) for i in range(ahead))
            try:
                index = start + ahead
                while True:
                    batch = waiting.popleft().result()
                    waiting.append(pool.submit(self.batch, index))
                    index += 1
                    yield batch
            finally:
                for future in waiting:
                    future.cancel()


def draw_chances(kinds, balance):
    """The chance of each image to be drawn, float64 (N,), summing to 1.

    A kind with n images is drawn n^(1 - balance) as often as one with a single image: 0 draws images alike, 1 draws
    kinds alike.
    """
    kinds = np.asarray(kinds)
    counts = np.array([np.count_nonzero(kinds == kind) for kind in KINDS])
    share = np.maximum(counts, 1.0) ** -balance
    chances = share[[KINDS.index(kind) for kind in kinds]]
    return chances / chances.sum()


# ==================================================================================================
# 20. loss (src/nuclei/loss.py)
#
# Loss: Dice, Dice with pixel weights, and cross-entropy with the same weights.
#
# Pure functions of (y_true, y_pred) in keras.ops, on every backend. y_pred is (N, H, W, C), probabilities. For the
# weighted losses y_true is (N, H, W, C + 1): C targets in 0..1, then one channel of pixel weights, each 1 or more.
#
# Sums run over the pixels of one image and one class; the mean is then taken over classes and images, since a sum over
# the batch would hide the small images in the large ones.
# ==================================================================================================

SMOOTH = 1.0  # s: an empty image, predicted empty, has Dice s / s = 1 and a finite gradient
TINY = 1e-6  # keeps the logarithm finite


def dice(y_true, y_pred, smooth=SMOOTH):
    """-(2 sum(t p) + s) / (sum(t) + sum(p) + s), per image and class, then the mean: a scalar in [-1, 0).

    y_true and y_pred (N, H, W, C). See Milletari et al. 2016, "V-Net", equation 2, without its squares.
    """
    y_true = ops.cast(y_true, y_pred.dtype)
    return _dice_mean(y_true, y_pred, 1.0, smooth)


def weighted_dice(y_true, y_pred, smooth=SMOOTH):
    """-(2 sum(t p) + s) / (sum(t) + sum(p w) + s), per image and class, then the mean: a scalar in [-1, 0).

    Predicting a nucleus where there is none costs as much as the pixel weighs, so the gap between two touching nuclei
    is dear. With weights of 1 it is `dice`.

    y_true (N, H, W, C + 1): targets, then the weight in the last channel (channel 1 where C is 1).
    """
    targets, weights = _split_weights(y_true, y_pred)
    return _dice_mean(targets, y_pred, weights, smooth)


def weighted_crossentropy(y_true, y_pred):
    """sum(w * bce(t, p)) / sum(w), per image and class, then the mean: a scalar, 0 or more.

    bce(t, p) = -t log p - (1 - t) log(1 - p). y_true as in `weighted_dice`.
    """
    targets, weights = _split_weights(y_true, y_pred)
    p = ops.clip(y_pred, TINY, 1 - TINY)
    bce = -(targets * ops.log(p) + (1 - targets) * ops.log(1 - p))
    return ops.mean(ops.sum(weights * bce, axis=(1, 2)) / ops.sum(weights, axis=(1, 2)))


def weighted_crossentropy_dice(y_true, y_pred):
    """weighted_crossentropy + dice + 1: what the presets train with; 0 is perfect. y_true as in `weighted_dice`.

    Cross-entropy gives every pixel a gradient, Dice an overlap that does not care how empty the image is. The weights
    are in the cross-entropy alone: `weighted_dice` is best with p under 1 where a nucleus weighs more than den / num,
    so that it pulls against the cross-entropy along touching nuclei, and masks come out thin there.
    """
    targets, _ = _split_weights(y_true, y_pred)
    return weighted_crossentropy(y_true, y_pred) + dice(targets, y_pred) + 1.0


def _split_weights(y_true, y_pred):
    """y_true (N, H, W, C + 1) -> targets (N, H, W, C) and weights (N, H, W, 1)."""
    y_true = ops.cast(y_true, y_pred.dtype)
    return y_true[..., :-1], y_true[..., -1:]


def _dice_mean(targets, probs, weights, smooth):
    numerator = 2 * ops.sum(targets * probs, axis=(1, 2)) + smooth
    denominator = ops.sum(targets, axis=(1, 2)) + ops.sum(probs * weights, axis=(1, 2)) + smooth
    return -ops.mean(numerator / denominator)


# ==================================================================================================
# 21. model (src/nuclei/model.py)
#
# Model: the one-hundred-layer network, and a small U-Net for CPUs.
#
# Both take float32 (N, H, W, channels) in 0..1, with H and W multiples of 32 (one hundred layers) or of stem * 2^depth
# (U-Net), and give float32 (N, H, W, outputs) in 0..1: one sigmoid a class, so that classes may overlap. The last
# activation is float32 under every mixed policy.
# ==================================================================================================

# FC-DenseNet103 (Jegou et al. 2017, "The One Hundred Layers Tiramisu", table 2): layers of each dense block.
TIRAMISU_BLOCKS = (4, 5, 7, 10, 12)
TIRAMISU_BOTTLENECK = 15


def build_model(name, width, depth, stem, outputs=1, channels=3):
    """The network that a configuration names: "unet" or "one_hundred_layers" (width is then the growth rate)."""
    if name == "one_hundred_layers":
        return one_hundred_layers(width, outputs, channels)
    return unet(width, depth, stem, outputs, channels)


# ---- one hundred layers ------------------------------------------------------------------------


def one_hundred_layers(growth=16, outputs=1, channels=3):
    """U-Net's shape from FC-DenseNet103's dense blocks: 103 convolutions, 9.4 M weights at growth 16.

    1 at the entrance + 38 in the dense blocks on the way down + 5 that close them (1x1) + 15 at the bottom + 5
    transposed + 38 on the way up + 1 at the exit. A block on the way up passes on only what it adds (Jegou et al.,
    section 3.2), which keeps the width of the full-resolution end in bounds.

    The paper's dropout is left out. Its authors normalise by the batch when they predict, too (section 4.1); where
    prediction takes moving averages, dropout before batch normalisation leaves variances there that prediction does not
    meet (Li et al. 2018, arXiv 1801.05134). docs/failures.md has what it cost.

    Args:
        growth: feature maps that each layer adds; the paper's is 16, and its first convolution has 3 * growth maps.
        outputs: classes, each with its own sigmoid.
        channels: of the input.
    """
    inputs = Input((None, None, channels))
    x = layers.Conv2D(3 * growth, 3, padding="same", kernel_initializer="he_uniform")(inputs)
    skips = []
    for count in TIRAMISU_BLOCKS:
        x = layers.Concatenate()([x, _dense_block(x, count, growth)])
        skips.append(x)
        x = _transition_down(x)
    x = _dense_block(x, TIRAMISU_BOTTLENECK, growth)
    for count, skip in zip(reversed(TIRAMISU_BLOCKS), reversed(skips), strict=True):
        x = layers.Conv2DTranspose(x.shape[-1], 3, strides=2, padding="same", kernel_initializer="he_uniform")(x)
        x = layers.Concatenate()([x, skip])
        added = _dense_block(x, count, growth)
        x = layers.Concatenate()([x, added]) if count == TIRAMISU_BLOCKS[0] else added
    return Model(inputs, _probabilities(layers.Conv2D(outputs, 1)(x)), name="one_hundred_layers")


def _dense_block(x, count, growth):
    """`count` layers, each reading all before it; returns what they added: (N, H, W, count * growth)."""
    added = []
    for _ in range(count):
        new = _dense_layer(x, growth, 3)
        added.append(new)
        x = layers.Concatenate()([x, new])
    return layers.Concatenate()(added)


def _dense_layer(x, filters, kernel):
    x = layers.BatchNormalization()(x)
    x = layers.Activation("relu")(x)
    return layers.Conv2D(filters, kernel, padding="same", use_bias=False, kernel_initializer="he_uniform")(x)


def _transition_down(x):
    return layers.MaxPooling2D(2)(_dense_layer(x, x.shape[-1], 1))


# ---- U-Net -------------------------------------------------------------------------------------


def unet(width=32, depth=4, stem=1, outputs=1, channels=3, widest=256):
    """A U-Net (Ronneberger et al. 2015) made cheap where a CPU spends its time.

    - `stem` 2 or 4: the first convolution works at that stride, the last one (transposed) undoes it, and no level
      runs at full resolution.
    - The way up adds its skips (LinkNet, Chaurasia and Culurciello 2017) and has one convolution a level, where U-Net
      concatenates and has two: on 2 cores twice the crops a second.

    Args:
        width: filters at the first level, doubled at each halving up to `widest`.
        depth: halvings.
        stem: stride of the first convolution: 1, 2 or 4.
        outputs, channels: as in `one_hundred_layers`.
    """
    inputs = Input((None, None, channels))
    x = _conv(inputs, width, kernel=2 * stem, stride=stem) if stem > 1 else _conv(inputs, width)
    skips = []
    for level in range(depth):
        if level > 0:
            x = _conv(x, min(width * 2**level, widest))
        x = _conv(x, min(width * 2**level, widest))
        skips.append(x)
        x = layers.MaxPooling2D(2)(x)
    x = _conv(_conv(x, min(width * 2**depth, widest)), min(width * 2**depth, widest))
    for skip in reversed(skips):
        x = layers.UpSampling2D(2)(layers.Conv2D(skip.shape[-1], 1)(x))
        x = _conv(layers.Add()([x, skip]), skip.shape[-1])
    logits = layers.Conv2DTranspose(outputs, 2 * stem, strides=stem, padding="same")(x)
    return Model(inputs, _probabilities(logits), name="unet")


def _conv(x, filters, kernel=3, stride=1):
    x = layers.Conv2D(filters, kernel, strides=stride, padding="same", use_bias=False, kernel_initializer="he_uniform")(
        x
    )
    return layers.Activation("relu")(layers.BatchNormalization()(x))


def _probabilities(logits):
    return layers.Activation("sigmoid", dtype="float32", name="probs")(logits)


# ==================================================================================================
# 22. optimizer (src/nuclei/optimizer.py)
#
# Optimizer: Muon for the convolutions, AdamW for biases and normalisation.
# ==================================================================================================

ADAM_SHARE = 0.1  # of Muon's learning rate, which is larger than AdamW can bear
NEWTON_SCHULZ_STEPS = 4  # of the five that are usual: the last one changes little and costs a twentieth of a CPU's step


class ConvMuon(keras.optimizers.Muon):
    """Keras's Muon, which takes matrices alone, made to take the kernels of convolutions.

    Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) makes the momentum of each matrix orthogonal before it
    takes the step, so that it learns in all directions alike. A kernel (height, width, in, out) is the matrix (height *
    width * in, out). As in Liu et al. 2025 (arXiv 2502.16982, section 2.2), the step is scaled to the size of
    AdamW's; `learning_rate` is Muon's own, times `adam_lr_ratio` it is AdamW's.
    """

    def _should_use_adamw(self, variable):
        return len(variable.shape) != 4

    def zeropower_via_newtonschulz5(self, x, steps):
        """The kernel's momentum x, (height, width, in, out), made orthogonal as a matrix and scaled."""
        matrix = ops.reshape(x, (-1, x.shape[-1]))
        step = super().lr_adjust(super().zeropower_via_newtonschulz5(matrix, steps))
        return ops.reshape(step, x.shape)

    def lr_adjust(self, x):
        """Nothing more: the scale goes by the matrix, whose shape is gone here."""
        return x


# ==================================================================================================
# 23. schedule (src/nuclei/schedule.py)
#
# Schedule: how far a training is, by the clock or by steps, and the learning rate there.
# ==================================================================================================

TUNING_SHARE = 0.08  # of the time budget, kept for choosing thresholds at the end


def learning_rate(progress, peak, warmup):
    """The rate at `progress` (0..1) of the schedule: linear up to `peak` in its first `warmup`, then cosine to 0."""
    if progress < warmup:
        return peak * (progress + 1e-3) / (warmup + 1e-3)
    return peak * 0.5 * (1 + np.cos(np.pi * min((progress - warmup) / (1 - warmup), 1.0)))


class Schedule:
    """How far the training is, 0..1, by the clock or by steps.

    By the clock, progress counts from the end of the first step, which compiles the network; whatever the speed of
    the machine, and should it change on the way, the rate reaches zero when the time is up.

    Args:
        seconds: that the training took before it was cut off.
        start: after how many of them the first step ended.
    """

    def __init__(self, minutes, steps, seconds=0.0, start=None):
        self.steps = steps
        self.budget = minutes * 60 * (1 - TUNING_SHARE)
        self.began = time.monotonic() - seconds
        self.start = start

    def seconds(self):
        return time.monotonic() - self.began

    def progress(self, step):
        if self.steps:
            return step / self.steps
        now = self.seconds()
        if self.start is None:
            self.start = now
        return min((now - self.start) / max(self.budget - self.start, 1e-9), 1.0)


# ==================================================================================================
# 24. training_log (src/nuclei/training_log.py)
#
# Training log: where a training is, and what it says of that.
# ==================================================================================================

EPOCH = 64  # steps between two lines


@dataclass
class Progress:
    """Where a training is; with the variables of its network and its optimiser, all that it needs to go on."""

    step: int = 0  # that were taken
    done: float = 0.0  # 0..1 of the schedule
    seconds: float = 0.0  # of training
    start: float | None = None  # the seconds at the end of the first step
    best: float = -1.0  # score on the tuning images
    halvings: int = 0  # of the learning rate
    parts: int = 1  # into which each batch is cut, for want of memory
    losses: list[float] = field(default_factory=list)  # of the steps since the log's last row
    rows: list[list] = field(default_factory=list)  # of the log
    thresholds: dict | None = None  # once they are chosen, and the training is over


class TrainingLog:
    """What a training says of itself: log.csv, a live bar in a terminal, and elsewhere one line an epoch.

    Args:
        path: of log.csv; what a training wrote there after the checkpoint from which it goes on is written over.
        at: the training's Progress.
    """

    def __init__(self, path, at):
        self.path, self.at = path, at

    def __enter__(self):
        self.file = open(self.path, "w", newline="", encoding="utf-8")
        self.table = csv.writer(self.file, lineterminator="\n")
        self.table.writerow(["step", "seconds", "learning_rate", "loss", "tuning_score"])
        self.table.writerows(self.at.rows)
        line = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
        self.bar = tqdm(total=100, desc="train", disable=None, bar_format=line)
        return self

    def note(self, rate, loss, score):
        """Takes one step's figures; every EPOCH steps, at a score and at the end it writes them down."""
        at = self.at
        at.losses.append(loss)
        self.bar.update(int(100 * at.done) - self.bar.n)
        if len(at.losses) < EPOCH and score is None and at.done < 1:
            return
        mean = np.mean(at.losses)
        scored = "" if score is None else f"{score:.4f}"
        at.rows.append([at.step, f"{at.seconds:.1f}", f"{rate:.3g}", f"{mean:.4f}", scored])
        self.table.writerow(at.rows[-1])
        self.file.flush()
        self.bar.set_postfix_str(f"loss {mean:.3f}")
        if self.bar.disable or score is not None:
            note = f", tuning score {scored}" if scored else ""
            log.info("%.0f s, step %d, %.0f %%, loss %.4f%s", at.seconds, at.step, 100 * at.done, mean, note)
        at.losses = []

    def __exit__(self, *error):
        self.bar.close()
        self.file.close()


# ==================================================================================================
# 25. tuning (src/nuclei/tuning.py)
#
# Tuning: how good a network is on images with labels, and the thresholds that suit it.
# ==================================================================================================

# What `tune_thresholds` tries, field by field, in this order.
THRESHOLD_CHOICES = {
    "seed": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    "interior": (0.4, 0.5, 0.54, 0.58, 0.62, 0.66, 0.7, 0.74),
    "area": (16.0, 32.0, 64.0, 96.0, 128.0),
    "seed_area": (4.0, 8.0, 16.0, 32.0, 48.0),
    "confidence": (0.0, 0.7, 0.8, 0.85, 0.88, 0.9, 0.92),
}


def score_set(images, network, thresholds, config):
    """The mean average precision over an ImageSet with labels, from a single view at the zoom that the labels tell:
    quick, for choosing weights."""
    scores = []
    for image, truth in progress(list(zip(images.images, images.labels, strict=True)), "check"):
        probs, zoom = _probs_at_true_zoom(image, truth, network, config, views=1)
        scores.append(average_precision(truth, find_instances(probs, thresholds, zoom)))
    return float(np.mean(scores))


def _probs_at_true_zoom(image, truth, network, config, views):
    """As `segment_probs`, at the zoom that fits the true nuclei, which takes no look at the image."""
    diameter = nucleus_diameter(truth)
    zoom = config.zoom(diameter) if diameter else 1.0
    tiles = (config.tile_size, config.tile_overlap, config.tile_batch)
    return predict_probs(image, network, *tiles, VIEWS[:views], (zoom,)), zoom


def tune_thresholds(images, network, config):
    """The Thresholds that score best on an ImageSet with labels: one field at a time."""
    cases = [
        (truth, _probs_at_true_zoom(image, truth, network, config, views=2))
        for image, truth in progress(list(zip(images.images, images.labels, strict=True)), "tune")
    ]

    def score(thresholds):
        def score_one(case):
            truth, (probs, zoom) = case
            return average_precision(truth, find_instances(probs, thresholds, zoom))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.mean(list(pool.map(score_one, cases)))

    # A network that is never sure finds nothing by the default confidence, whatever else is tried: begin without.
    best = max(replace(Thresholds(), confidence=0.0), Thresholds(), key=score)
    best_score = score(best)
    for name, choices in THRESHOLD_CHOICES.items():
        for choice in choices:
            if choice == getattr(best, name):
                continue
            candidate = replace(best, **{name: choice})
            candidate_score = score(candidate)
            if candidate_score > best_score:
                best, best_score = candidate, candidate_score
    log.info("thresholds %s score %.4f on the tuning images", best, best_score)
    return best


# ==================================================================================================
# 26. train (src/nuclei/train.py)
#
# Train: one network inside a time budget, its best weights, and the thresholds that go with them.
# ==================================================================================================

EXPLODED = 5.0  # the loss of a network that knows nothing is about 1.5; after the first epoch, one above this is lost
HALVINGS = 3  # of the learning rate, one each time that the training is lost


def new_model(config):
    """The network that a config describes, with fresh weights: three outputs, see targets."""
    return build_model(config.model_name, config.model_width, config.model_depth, config.model_stem, outputs=3)


def compile_model(model, config, parts=1):
    """Readies a network for training -> a compiled Model of its layers and weights; its learning rate is 0 so far.

    Where each batch comes in several parts (see `train_step`), the optimiser takes one step along their mean.

    On a CPU TensorFlow goes without XLA, whose convolutions are slower than oneDNN's.
    """
    one = keras.Model(model.input, model.output, name=model.name)
    optimizer = ConvMuon(
        0.0,
        weight_decay=config.train_decay,
        adam_weight_decay=config.train_decay,
        adam_lr_ratio=ADAM_SHARE,
        ns_steps=NEWTON_SCHULZ_STEPS,
        global_clipnorm=1.0,
        gradient_accumulation_steps=parts if parts > 1 else None,
    )
    on_cpu = keras.backend.backend() == "tensorflow" and gpu_capability() is None
    one.compile(optimizer, shared_loss(weighted_crossentropy_dice), jit_compile=False if on_cpu else "auto")
    one.optimizer.build(one.trainable_variables)
    return one


# ---- training ----------------------------------------------------------------------------------


def train_model(config, train, tuning, folder, on_better, start=None):
    """Trains a new network, or goes on with one -> (model with its best weights, Thresholds, how many crops it saw).

    Writes into `folder` as it goes: model.weights.h5 (the weights that scored best on the tuning images, replaced
    atomically), log.csv (a row an epoch) and the checkpoints from which the same call goes on.

    Args:
        config: a Config.
        train: ImageSet with labels, to learn from.
        tuning: ImageSet with labels, to choose weights and thresholds on; where it is empty the last weights and the
            default thresholds are kept.
        folder: an existing Path.
        on_better: called with (network, Thresholds) on the way, when the weights are the best so far.
        start: the weights to begin with, as get_weights of a Keras Model gives them; None begins with random ones.

    Raises:
        BadInput: `folder` has checkpoints of other settings or other images, or the training was lost too often.
    """
    entered = time.monotonic()
    keras.utils.set_random_seed(config.train_seed)
    crops = Crops(train.images, train.labels, train.kinds, config, train.ids)
    digests = {"train": digest_images(train), "tuning": digest_images(tuning)}
    training = _Training(config, folder, digests, start)
    at, network = training.at, partial(predict_step, training.model)
    used = at.seconds + time.monotonic() - entered
    schedule = Schedule(config.train_minutes, config.train_steps, used, at.start)
    checks = np.arange(1, config.train_checks + 1) / config.train_checks if tuning.ids else np.empty(0)
    checks = checks[checks > at.done]
    with TrainingLog(folder / LOG, at) as training_log:
        for x, y in crops.stream(at.step) if at.done < 1 else ():
            rate = learning_rate(at.done, config.train_rate, config.train_warmup) * 0.5**at.halvings
            loss = training.learn(x, y, rate)
            at.step += 1
            at.done, at.start, at.seconds = schedule.progress(at.step), schedule.start, schedule.seconds()
            score, better = None, False
            check = checks.size > 0 and at.done >= checks[0]
            milestone = check or at.done >= 1 or training.save_is_due()
            if milestone:
                training.ensure_finite()
            if check:
                checks = checks[checks > at.done]
                score = score_set(tuning, network, Thresholds(), config)
                better = score > at.best
                if better:
                    training.keep_best(score)
            training_log.note(rate, loss, score)
            if milestone:
                at.seconds = schedule.seconds()
                training.save()
            if better and at.done < 1:
                on_better(network, Thresholds())
            if at.done >= 1:
                break
    if at.thresholds is None:
        if training.best:
            training.use_best()
            at.thresholds = asdict(tune_thresholds(tuning, network, config))
        else:
            training.keep_best(at.best)
            at.thresholds = asdict(Thresholds())
        training.save()
    training.use_best()
    return training.model, Thresholds(**at.thresholds), at.step * config.train_batch


class _Training:
    """A network in training, its progress and its best weights: cut off, it goes on from its last checkpoint; lost, it
    goes back to it.

    Args:
        config: a Config.
        folder: Path of the run's folder.
        images: dict, the digests of the images; with them the checkpoints of another run are told apart.
        start: see `train_model`.
    """

    def __init__(self, config, folder, images, start=None):
        self.config = config
        self.weights_file, self.checkpoints = folder / WEIGHTS, folder / CHECKPOINTS / "training"
        versions = {"keras": keras.__version__, "backend": keras.backend.backend()}
        versions["precision"] = keras.mixed_precision.dtype_policy().name
        self.settings = asdict(config) | images | versions
        if start is not None:
            self.settings["start"] = digest_arrays(start)
        saved = load_checkpoint(self.checkpoints, self.settings)
        self.at = Progress(**saved[0]) if saved else Progress()
        with share_gpus(config.train_batch, config.tile_batch):
            self.bare = new_model(config)  # shares its weights with `model`, and saves them without the optimiser's
            if start is not None:
                self.bare.set_weights(start)
            self.model = compile_model(self.bare, config, self.at.parts)
        if saved:
            log.info("going on after step %d, with %.0f s of training behind it", self.at.step, self.at.seconds)
            self.good = saved[1]
            self.best = self.good.get("best", [])
            if self.best:  # a kill may have come before the file
                self.use_best()
                save_weights(self.bare, self.weights_file)
            self._restore()
            self.saved_at = time.monotonic()
        else:
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)  # torn ones, and predictions that belong to them
            self.best = []
            self.save()

    def _variables(self):
        """The names and the variables of what a checkpoint holds, random states included."""
        return {"model": self.model.variables, "optimizer": self.model.optimizer.variables}

    def save(self):
        """Takes the variables for good, and writes a checkpoint."""
        groups = self._variables().items()
        self.good = {name: [keras.ops.convert_to_numpy(one) for one in group] for name, group in groups}
        save_checkpoint(self.checkpoints, self.settings, asdict(self.at), self.good | {"best": self.best})
        self.saved_at = time.monotonic()

    def save_is_due(self):
        return time.monotonic() - self.saved_at >= CHECKPOINT_SECONDS

    def _restore(self):
        for name, group in self._variables().items():
            for variable, value in zip(group, self.good[name], strict=True):
                variable.assign(value)

    def keep_best(self, score):
        """The weights as they are now are the best so far."""
        self.at.best, self.best = score, self.bare.get_weights()
        save_weights(self.bare, self.weights_file)

    def use_best(self):
        self.bare.set_weights(self.best)

    def learn(self, x, y, rate):
        """One step of training -> its loss. A batch that is too large for the memory is cut in parts from then on."""
        while True:
            self.model.optimizer.learning_rate = rate
            try:
                loss = train_step(self.model, x, y, self.at.parts)
                break
            except Exception as error:
                if not is_out_of_memory(error) or not self._can_cut():
                    raise
            self._cut_batches()  # outside the handler, where the error no longer holds what filled the memory
        if not np.isfinite(loss) or (self.at.rows and loss > EXPLODED):
            self._go_back(f"the loss of step {self.at.step + 1} was {loss:.3g} at a learning rate of {rate:.2g}")
        return loss

    def ensure_finite(self):
        """Goes back where the last step spoilt the weights, which only the loss of the next one would show."""
        if not all(np.isfinite(one).all() for one in self.bare.get_weights()):
            self._go_back(f"step {self.at.step} made weights that are no numbers")

    def _go_back(self, why):
        """The last good weights again, and half the learning rate; the schedule goes on."""
        if self.at.halvings == HALVINGS:
            raise BadInput(
                f"{why}, and going back at half the rate did not help {HALVINGS} times: lower train_rate in "
                "src/nuclei/config.py"
            )
        self.at.halvings += 1
        log.warning("%s: back to the last good weights, at half the rate", why)
        self._restore()

    def _can_cut(self):
        """Whether half of what is computed at once still has a crop for each copy of the network."""
        return self.config.train_batch % (2 * self.at.parts * count_copies(self.model)) == 0

    def _cut_batches(self):
        """Half as many crops at once, from the last good weights on."""
        self.at.parts *= 2
        crops = self.config.train_batch // self.at.parts
        if count_copies(self.model) > 1:  # where Keras cannot accumulate gradients
            log.warning("out of memory: a step has %d crops from now on, and the others are left out", crops)
        else:
            log.warning("out of memory: a step is computed from %d times %d crops from now on", self.at.parts, crops)
            # The optimiser starts afresh: memory runs out in the first steps, if ever.
            self.model = compile_model(self.bare, self.config, self.at.parts)
            self.good["optimizer"] = [keras.ops.convert_to_numpy(one) for one in self.model.optimizer.variables]
        self._restore()
        self.save()


def is_out_of_memory(error):
    """Whether an exception of any backend says that the device's memory is full."""
    text = f"{type(error).__name__} {error}".lower().replace("_", "").replace(" ", "")
    return "resourceexhausted" in text or "outofmemory" in text


def save_weights(model, path):
    """Writes the weights as HDF5, whole or not at all."""
    temporary = path.with_name("writing.weights.h5")  # Keras insists on the ending
    model.save_weights(temporary)
    os.replace(temporary, path)


# ==================================================================================================
# 27. main (src/nuclei/main.py)
#
# Main: the competition's files -> a trained network -> submission.csv, with a table of what it cost.
# ==================================================================================================

EARLY_SHARE = 0.02  # of the training's minutes, for each prediction on the way


class Stopwatch:
    """What each stage of a run took: seconds, images where it counts them, and the peak memory by its end."""

    def __init__(self):
        self.stages = {}
        self.memory = {}

    @contextmanager
    def stage(self, name, images=0):
        start = time.monotonic()
        yield
        self.stages[name] = (time.monotonic() - start, images)
        self.memory[name] = peak_memory()

    def table(self):
        lines = [f"{'stage':<10} {'seconds':>8} {'images':>7} {'images/s':>9}"]
        for name, (seconds, images) in self.stages.items():
            counts = f"{images:>7} {images / max(seconds, 1e-9):>9.1f}" if images else ""
            lines.append(f"{name:<10} {seconds:>8.1f} {counts}".rstrip())
        lines.append(f"peak memory {peak_memory():.1f} GB")
        return "\n".join(lines)

    def write(self, path):
        """The same as a CSV, whole or not at all."""
        rows = [
            (name, f"{seconds:.1f}", images, f"{self.memory[name]:.2f}")
            for name, (seconds, images) in self.stages.items()
        ]
        _write_csv(path, ("stage", "seconds", "images", "peak_gb"), rows)


class Predictions:
    """What is found in every test image: nothing at first, and better as the network gets better.

    `found` is {image id: (rows, the confidence of each nucleus in them)}.

    Args:
        test: an ImageSet; its unreadable images keep their empty rows.
    """

    def __init__(self, test):
        self.images = dict(zip(test.ids, test.images, strict=True))
        nothing = np.zeros((1, 1), np.int32)
        self.found = {image_id: (make_rows(image_id, nothing), []) for image_id in [*test.ids, *test.faults]}
        self.order = list(test.ids)  # what was found the longest ago comes first

    def improve(self, network, thresholds, config, minutes=math.inf, views=None, keep=None):
        """Predicts the images that wait the longest, as many as the minutes allow -> how many. See `segment`.

        An image that cannot be predicted keeps what was found in it, and costs a warning.

        Args:
            keep: called with the id of each image that was predicted.
        """
        deadline = time.monotonic() + 60 * minutes
        done, failed = 0, 0
        for image_id in progress(self.order, "predict"):
            if time.monotonic() >= deadline:
                break
            try:
                labels, confidences = segment(self.images[image_id], network, thresholds, config, views)
                self.found[image_id] = (make_rows(image_id, labels), [round(one, 3) for one in confidences.tolist()])
            except Exception as error:
                failed += 1
                if failed == len(self.images):  # it is not the images
                    raise
                log.warning("%s keeps what was found in it earlier, if anything: %r", image_id, error)
            else:
                if keep:
                    keep(image_id)
            done += 1
        self.order = self.order[done:] + self.order[:done]
        return done

    def take(self, found):
        """Takes over what was found in images that need no prediction any more."""
        self.found |= found
        self.order = [image_id for image_id in self.order if image_id not in found]

    def write(self, folder):
        """Writes submission.csv, and confidence.csv with a row for each nucleus in it, each whole or not at all."""
        ids = sorted(self.found)
        write_submission(folder / SUBMISSION, [row for image_id in ids for row in self.found[image_id][0]])
        rows = [(image_id, *pair) for image_id in ids for pair in enumerate(self.found[image_id][1], start=1)]
        _write_csv(folder / CONFIDENCE, ("ImageId", "nucleus", "confidence"), rows)


def run_competition(config, data, folder, stage=1):
    """Trains on the competition in `data`, predicts its test images and writes into `folder` as it goes.

    submission.csv is there as soon as the first weights are, is replaced by better ones, and is whole at any moment.
    Cut off, the same call goes on where its last checkpoint is. The checkpoints stay until the caller removes them,
    when the run's files are where they belong.

    Args:
        config: a Config.
        data: folder with Kaggle's files.
        folder: Path of an existing folder; see the README for what it holds in the end.
        stage: 1 or 2, whose test images to predict.

    Raises:
        BadInput: about the data or the config, before anything is trained.
    """
    watch = Stopwatch()
    with watch.stage("read test"):  # first: a broken zip must not cost a training
        test = read_set(find_set(data, TEST_NAMES[stage]), default_cache())
    predictions = Predictions(test)

    def predict_early(network, thresholds):
        minutes = EARLY_SHARE * config.train_minutes
        done = predictions.improve(network, thresholds, config, minutes, views=1)
        predictions.write(folder)
        log.info("%s has what these weights find in %d of %d images", SUBMISSION, done, len(test.ids))

    network, thresholds, held_out = _train(config, data, folder, watch, predict_early)
    with watch.stage("predict", len(test.ids)):
        late = _predict_test(predictions, digest_images(test), network, thresholds, config, folder)
    if late:
        log.warning("%d images keep what was found in them earlier: the time was up", late)
    _score_held_out(held_out, network, thresholds, config, folder, watch)
    log.info("%s", watch.table())
    watch.write(folder / STAGES)
    for image_id, why in test.faults.items():
        log.warning("%s was left empty: %s", image_id, why)


def _predict_test(predictions, digest, network, thresholds, config, folder):
    """The last prediction, which goes on where it was cut off -> how many images the time did not reach."""
    checkpoints = folder / CHECKPOINTS / "prediction"
    settings = {"test": digest}
    found, _ = load_checkpoint(checkpoints, settings) or ({}, {})
    if found:
        log.info("going on after %d predicted images", len(found))
    predictions.take(found)
    kept_at = time.monotonic()

    def keep(image_id):
        nonlocal kept_at
        found[image_id] = predictions.found[image_id]
        if time.monotonic() - kept_at >= CHECKPOINT_SECONDS:
            predictions.write(folder)
            save_checkpoint(checkpoints, settings, found, {})
            kept_at = time.monotonic()

    done = predictions.improve(network, thresholds, config, config.tta_minutes, keep=keep)
    predictions.write(folder)
    return len(predictions.order) - done


def train_competition(config, data, folder, start=None):
    """As `run_competition`, without the test images: leaves weights, config and logs in `folder`. `start`: the weights
    to begin with, see `train_model`."""
    watch = Stopwatch()
    network, thresholds, held_out = _train(config, data, folder, watch, lambda *_: None, start)
    _score_held_out(held_out, network, thresholds, config, folder, watch)
    log.info("%s", watch.table())
    watch.write(folder / STAGES)


def _train(config, data, folder, watch, on_better, start=None):
    set_up_device()
    with watch.stage("read train"):
        everything = read_set(find_set(data, (TRAIN,)), default_cache())
        if not everything.labels:
            raise BadInput(f"{data}: {TRAIN} has no masks to learn from: unpack all of {TRAIN}.zip")
        train, tuning, held_out = split_data(everything, config)
    log.info(
        "%d images to train on, %d to tune on, %d held out; precision %s, backend %s",
        len(train.ids),
        len(tuning.ids),
        len(held_out.ids),
        keras.mixed_precision.dtype_policy().name,
        keras.backend.backend(),
    )
    with watch.stage("train"):
        model, thresholds, crops = train_model(config, train, tuning, folder, on_better, start)
    seconds, _ = watch.stages["train"]
    watch.stages["train"] = (seconds, crops)
    save_config(folder / CONFIG, config, thresholds)
    return partial(predict_step, model), thresholds, held_out


def _score_held_out(held_out, network, thresholds, config, folder, watch):
    if not held_out.ids:
        return
    with watch.stage("held out", len(held_out.ids)):
        found = [segment(image, network, thresholds, config)[0] for image in progress(held_out.images, "score")]
    scores = np.array([average_precision(*pair) for pair in zip(held_out.labels, found, strict=True)])
    rows = zip(held_out.ids, held_out.kinds, scores, strict=True)
    _write_csv(folder / HELD_OUT, ("ImageId", "kind", "score"), [(i, kind, f"{score:.4f}") for i, kind, score in rows])
    nuclei = zip(held_out.ids, found, strict=True)
    write_submission(folder / HELD_OUT_NUCLEI, [row for i, labels in nuclei for row in make_rows(i, labels)])
    log.info(
        "score on held-out images, fold %d of %d\n%s",
        config.data_fold,
        config.data_folds,
        score_table(held_out.kinds, scores),
    )


def set_up_device():
    """Precision by device; OpenCV on one thread, since the crops' threads and the network share the cores."""
    keras.mixed_precision.set_global_policy(choose_precision())
    cv2.setNumThreads(1)


def score_table(kinds, scores):
    """The mean score by kind and over all, as lines of text."""
    kinds, scores = np.asarray(kinds), np.asarray(scores)
    lines = [f"{'kind':<20} {'images':>6} {'score':>6}"]
    for kind in KINDS:
        here = scores[kinds == kind]
        if here.size:
            lines.append(f"{kind:<20} {here.size:>6} {here.mean():>6.3f}")
    lines.append(f"{'all':<20} {scores.size:>6} {scores.mean():>6.3f}")
    return "\n".join(lines)


def _write_csv(path, header, rows):
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    write_whole(path, text.getvalue())


# ---- a run's settings --------------------------------------------------------------------------


def save_config(path, config, thresholds):
    """Writes the settings, the thresholds and the versions of a run as JSON, beside its weights."""
    versions = {
        "python": sys.version.split()[0],
        "keras": keras.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }
    content = {"config": asdict(config), "thresholds": asdict(thresholds), "versions": versions}
    write_whole(path, json.dumps(content, indent=2) + "\n")


# ==================================================================================================
# 28. __main__ (src/nuclei/__main__.py)
#
# Entry: what Kaggle runs, from settings in the environment to a submission.csv in the working folder.
#
# A script has no arguments there, so these variables stand in for them. None is needed:
#
# NUCLEI_INPUT    folder that holds the competition's files, at any depth; /kaggle/input
# NUCLEI_WORKING  folder for submission.csv and what else a run leaves; /kaggle/working
# NUCLEI_PRESET   one of config's PRESETS; kaggle
# NUCLEI_MINUTES  of training; the preset's
# NUCLEI_STEPS    of training, in place of the minutes
# NUCLEI_SEED     of training; the preset's
# NUCLEI_STAGE    1 or 2, whose images to predict; 2 where its images are, else 1
#
# python -m nuclei runs the same from the sources.
# ==================================================================================================

SESSION_MINUTES = 690.0  # to train and to predict: of Kaggle's 12 hours all but half an hour to start and to read


def run_kernel(environ):
    """Settings, data, placeholder, run. Every error is raised: Kaggle calls a run complete that swallows one."""
    start_log()
    log.info("sources %s; %s", globals().get("SOURCE_HASH", "not bundled"), list_versions())
    config = read_config(environ)
    data = find_data(Path(environ.get("NUCLEI_INPUT", "/kaggle/input")))
    stage = read_stage(environ, data)
    working = Path(environ.get("NUCLEI_WORKING", "/kaggle/working"))
    ids = list_ids(find_set(data, TEST_NAMES[stage]))
    write_placeholder(working / SUBMISSION, ids)
    report_gpus()
    log.info("data %s, stage %d, output %s; %s", data, stage, working, config)
    run_competition(config, data, working, stage)
    rles = check_submission(working / SUBMISSION, dict.fromkeys(ids))
    shutil.rmtree(working / CHECKPOINTS, ignore_errors=True)
    nuclei = [rle for found in rles.values() for rle in found if rle]
    log.info("%s: %d nuclei in %d images", SUBMISSION, len(nuclei), len(rles))


def start_log():
    """One line a record on stdout, flushed as it comes, whatever the libraries set up before."""
    form = {"format": "%(asctime)s %(message)s", "datefmt": "%H:%M:%S"}
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, force=True, **form)


def list_versions():
    """The versions of what computes, in one line."""
    backend = keras.backend.backend()
    modules = (sys.modules[backend], keras, np, scipy, skimage, cv2)
    return f"python {sys.version.split()[0]}, " + ", ".join(f"{m.__name__} {m.__version__}" for m in modules)


def report_gpus():
    """Logs the GPUs; hours on a CPU should not come as a surprise."""
    gpus = list_gpus()
    if gpus:
        log.info("GPUs: %s", ", ".join(gpus))
    else:
        log.warning(
            "NO GPU: this run trains on the CPU, where the same score takes far longer. On Kaggle, stop it now and "
            "choose the accelerator GPU T4 x2: machine_shape NvidiaTeslaT4 in kernel-metadata.json"
        )


def read_config(environ):
    """The Config that NUCLEI_PRESET, _MINUTES, _STEPS and _SEED describe; BadInput names the variable that is wrong."""
    preset = environ.get("NUCLEI_PRESET", "kaggle")
    if preset not in PRESETS:
        raise BadInput(f"NUCLEI_PRESET={preset} is no preset: choose one of {', '.join(PRESETS)}")
    changes = {}
    for name, kind in (("minutes", float), ("steps", int), ("seed", int)):
        variable = f"NUCLEI_{name.upper()}"
        if variable in environ:
            try:
                changes[f"train_{name}"] = kind(environ[variable])
            except ValueError:
                raise BadInput(f"{variable}={environ[variable]} is no number of the right kind") from None
    config = replace(PRESETS[preset], **changes)
    most = SESSION_MINUTES - config.tta_minutes
    if config.train_minutes > most:
        raise BadInput(f"NUCLEI_MINUTES={config.train_minutes:g} leaves no time to predict: at most {most:g}")
    return config


def read_stage(environ, data):
    """NUCLEI_STAGE, or else the last stage whose test images are in `data`."""
    stage = environ.get("NUCLEI_STAGE", str(last_stage(data)))
    if stage not in map(str, TEST_NAMES):
        raise BadInput(f"NUCLEI_STAGE={stage} is no stage: choose 1 or 2")
    return int(stage)


def find_data(mounted):
    """The folder under `mounted` with the competition's files, which Kaggle has mounted in two places so far.

    Raises:
        BadInput: none has them; what there is stands in the log.
    """
    for folder in (mounted / COMPETITION, mounted / "competitions" / COMPETITION):
        if holds_set(folder, TRAIN):
            return folder
    for folder, inside, _ in os.walk(mounted):
        inside.sort()
        if holds_set(Path(folder), TRAIN):
            return Path(folder)
    tree = sorted(path.relative_to(mounted).as_posix() for path in mounted.rglob("*"))
    log.error("%s holds %d files and folders\n%s", mounted, len(tree), "\n".join(tree[:200]))
    raise BadInput(f"{mounted} holds no {TRAIN}.zip at any depth: add the competition {COMPETITION} to the input")


def write_placeholder(path, ids):
    """A valid submission without a nucleus, in case the session ends before a better one is there. Replaces no file."""
    if not path.exists():
        write_submission(path, [(image_id, "") for image_id in ids])


if __name__ == "__main__":
    run_kernel(os.environ)
