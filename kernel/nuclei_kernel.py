# nuclei_kernel.py: src/nuclei in one file. build_kernel.py writes it: change the sources instead.
#
# Settings: what can be chosen, and how files are written.
#    1  config       line    86  every setting of a run in one flat, frozen dataclass, and the presets.
#    2  files        line   195  what a run leaves in its folder, written whole or not at all.
#
# What the network learns from: the look of images, targets, and random crops.
#    3  images       line   227  a set of decoded images with their labels and kinds.
#    4  kinds        line   257  what an image shows, told from its pixels: its stain and the size of its nuclei.
#    5  targets      line   351  what the network learns from a label image, and how much each pixel weighs.
#    6  augmentation line   441  random crops of an image and its labels.
#    7  batches      line   542  crops at the network's scale, balanced over kinds, made ahead of the training thread.
#
# The network: its layers, what it minimises, and what computes it.
#    8  model        line   632  the one-hundred-layer network, and a small U-Net for CPUs.
#    9  loss         line   758  Dice, Dice with pixel weights, and cross-entropy with the same weights.
#   10  device       line   827  what the run computes on, and in which precision.
#   11  parallel     line   881  one network on several GPUs, a copy on each.
#   12  optimizer    line   974  Muon for the convolutions, AdamW for biases and normalisation.
#
# Training: the schedule, the log and the loop.
#   13  schedule     line  1036  how far a training is, and the learning rate there.
#   14  training_log line  1091  what a training reports of itself, in log.csv and on the screen.
#   15  train        line  1138  one network inside a time budget.
#
# How images become nuclei: tiles, views, watershed, thresholds and the score.
#   16  tta          line  1351  test-time augmentation, the eight views of an image and their inverses.
#   17  watershed    line  1384  from probabilities to instances, by flooding from seeds.
#   18  inference    line  1469  an image of any size through the network, at once or tile by tile.
#   19  run_folder   line  1551  a trained network and, beside it, its settings file, written and read without Keras.
#   20  segmenter    line  1591  a trained network with its thresholds and settings.
#   21  metric       line  1696  one overlap matrix, IoU, precision at ten thresholds.
#   22  progress     line  1762  a bar or a line a minute over many images.
#   23  tuning       line  1791  the score on images with labels, and the thresholds that suit a network.
#
# Kaggle's files: images and masks in, rows out.
#   24  data         line  1841  find and read a competition, in zips or folders.
#   25  submission   line  1957  label images to the rows of Kaggle's CSV.
#
# The run: from the competition's files to submission.csv.
#   26  stopwatch    line  1994  what each stage of a run costs.
#   27  predictions  line  2021  the rows of every test image, which get better as the network does.
#   28  main         line  2095  training images and test images -> a trained network and submission.csv.
#   29  entry        line  2203  what Kaggle runs, its settings from the environment.
#
# sources 784a7c58db0dbc66, this file cd2fc8b6f402deb1

import csv
import io
import itertools
import json
import logging
import math
import os
import re
import resource
import sys
import time
import zipfile
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from importlib import metadata, resources
from itertools import groupby, product, takewhile
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import scipy
import skimage
from keras import Input, KerasTensor, Model, layers, ops
from scipy import ndimage as ndi
from skimage.feature import peak_local_max
from skimage.measure import label as connected_components
from skimage.segmentation import expand_labels, watershed
from tqdm import tqdm

SOURCE_HASH = "784a7c58db0dbc66"


# ==== 1. src/nuclei/settings/config.py ============================================================
# Config: every setting of a run in one flat, frozen dataclass, and the presets.

log = logging.getLogger("nuclei")
MODEL_NAMES = ("unet", "one_hundred_layers")
HAND_NAMES = ("stage1_test", "stage1_train")
LOSS_NAMES = ("weighted_crossentropy_dice", "weighted_dice", "dice")
# Minutes to train and to predict: Kaggle's 12 hours, less half an hour to start and to read.
BUDGET_MINUTES = 690.0

class BadInput(ValueError):
    """Something from outside that cannot be used: one sentence that names the file and says what to do."""

@dataclass(frozen=True)
class Config:
    """The prefixes are its namespaces; the unit or range stands behind each field."""

    # The data
    data_folds: int = 0  # 0: nothing is held out, as for a submission; 2..: fold `data_fold` is held out for the report
    data_fold: int = 0  # 0..data_folds - 1
    data_tuning: float = 0.0  # share of the other images that chooses thresholds: the validation split
    data_hand: str = "stage1_test"  # whose masks the thresholds suit where no tuning images choose them

    # The network
    model_name: str = "unet"  # "unet" or "one_hundred_layers"
    model_width: int = 32  # unet: filters at the first level; one_hundred_layers: growth rate
    model_depth: int = 4  # unet: how often it halves the image; one_hundred_layers does 5 times
    model_stem: int = 2  # unet: the stride of its first convolution, 1, 2 or 4; one_hundred_layers has none
    model_outputs: int = 3  # 3: interior, border and core; 1: interior alone
    model_diameter: float = 32.0  # px, the width of nuclei that the network sees as they are
    model_zoom: float = 0.5  # 0..1, how far, in octaves, other nuclei are zoomed towards that width: 1 is all the way

    # Targets and pixel weights
    target_border: float = 5.0  # w0 of the U-Net paper: the weight added between two touching nuclei
    target_sigma: float = 4.0  # px, sigma of the U-Net paper: how far apart nuclei still count as touching
    target_rare: float = 3.0  # 1.., the most that a pixel of the rarer class weighs; 1 switches it off
    target_core: float = 0.45  # 0..1, the core is where the distance to the edge exceeds this share of the largest

    # Training
    train_minutes: float = 25.0  # minutes of wall clock for the whole training, tuning included
    train_steps: int = 0  # steps; above 0 they count instead of the minutes
    train_loss: str = "weighted_crossentropy_dice"  # one of LOSS_NAMES
    train_batch: int = 4  # crops a step
    train_crop: int = 256  # px, a multiple of what the network divides by
    train_rate: float = 6e-3  # peak learning rate of Muon; AdamW, beside it, has a tenth
    train_decay: float = 1e-2  # weight decay of both
    train_warmup: float = 0.05  # share of the schedule in which the rate rises
    train_zoom: float = 0.7  # octaves, how far the scale of a crop strays from the typical, both ways
    train_balance: float = 0.6  # 0..1, 0 draws images alike, 1 draws kinds alike
    train_checks: int = 2  # how often the tuning images are scored for the log, evenly spread over the schedule
    train_seed: int = 0

    # Prediction
    tile_pixels: int = 2**18  # px in one call of the network; an image that has more is cut into tiles
    tile_overlap: int = 64  # px shared by neighbouring tiles, blended
    tile_size: int = 256  # px, the tiles' side where the backend compiles for one shape; a multiple of the divisor
    tta_views: int = 4  # 1, 2, 4 or 8 of the dihedral views
    tta_minutes: float = 180.0  # minutes of wall clock for the test images; one not reached keeps what one view found

    def __post_init__(self) -> None:
        """Refuse what cannot be run, before anything is read or trained."""
        not_negative = ("train_steps", "train_minutes", "train_seed", "target_border", "target_core", "train_warmup")
        from_one = ("model_width", "model_depth", "train_batch", "train_crop", "train_checks")
        above_zero, shares = ("model_diameter", "target_sigma", "tta_minutes"), ("model_zoom", "train_balance")
        for rule, message in (
            *((getattr(self, name) >= 0, f"{name} cannot be negative") for name in not_negative),
            *((getattr(self, name) >= 1, f"{name} starts at 1") for name in (*from_one, "target_rare")),
            *((getattr(self, name) > 0, f"{name} must be above 0") for name in above_zero),
            *((0 <= getattr(self, name) <= 1, f"{name} must be in 0..1") for name in shares),
            (self.train_steps or self.train_minutes, "a budget of 0 trains nothing: give --minutes or --steps above 0"),
            (self.model_name in MODEL_NAMES, f"model_name must be one of {', '.join(MODEL_NAMES)}"),
            (self.model_stem in (1, 2, 4), "model_stem must be 1, 2 or 4"),
            (self.model_outputs in (1, 3), "model_outputs must be 1 (interior) or 3 (interior, border, core)"),
            (self.data_hand in HAND_NAMES, f"data_hand must be one of {', '.join(HAND_NAMES)}"),
            (self.train_loss in LOSS_NAMES, f"train_loss must be one of {', '.join(LOSS_NAMES)}"),
            (max(self.target_core, self.train_warmup) < 1, "target_core and train_warmup must be in 0..1, 1 excluded"),
            (self.train_crop % self.divisor == 0, f"train_crop must be a multiple of {self.divisor}"),
            (self.tile_size % self.divisor == 0, f"tile_size must be a multiple of {self.divisor}"),
            (0 <= self.tile_overlap < self.tile_size, "tile_overlap must be under tile_size"),
            (self.tile_pixels >= self.tile_size**2, "tile_pixels must hold a tile of tile_size"),
            (self.tta_views in (1, 2, 4, 8), "tta_views must be 1, 2, 4 or 8"),
            (self.data_folds == 0 or self.data_folds >= 2, "data_folds must be 0 or at least 2"),
            (0 <= self.data_fold < max(self.data_folds, 1), f"data_fold must be under {max(self.data_folds, 1)}"),
            (0 <= self.data_tuning <= 0.5, "data_tuning must be in 0..0.5"),
        ):
            if not rule:
                raise BadInput(f"settings: {message}")

    @property
    def divisor(self) -> int:
        """Tell what the height and the width of the network's input must be multiples of."""
        return 32 if self.model_name == "one_hundred_layers" else self.model_stem * 2**self.model_depth

    @property
    def most_minutes(self) -> float:
        """Tell how long the training may take on Kaggle, so that time to predict is left."""
        return BUDGET_MINUTES - self.tta_minutes

# docs/results.md has what each costs and scores. The sample's rate is high, since its steps are few. `seed` is the idea
# that this kit began with: foreground alone, by an overlap loss, separated by a watershed on distance.
_SAMPLE: dict = {"model_width": 16, "model_depth": 3, "train_crop": 128, "train_batch": 8}
_SAMPLE |= {"train_minutes": 1.2, "train_rate": 2e-2, "data_hand": "stage1_train"}
_LAYERS: dict = {"model_name": "one_hundred_layers", "model_width": 16}
_KAGGLE: dict = _LAYERS | {"train_minutes": 480.0, "train_rate": 1e-2, "train_batch": 8, "train_checks": 4}
_KAGGLE |= {"tile_pixels": 8 * 256**2}
_SEED: dict = _LAYERS | {"model_outputs": 1, "train_loss": "weighted_dice", "train_crop": 128}
PRESETS = {"sample": Config(**_SAMPLE), "cpu": Config(), "kaggle": Config(**_KAGGLE), "seed": Config(**_SEED)}


# ==== 2. src/nuclei/settings/files.py =============================================================
# Files: what a run leaves in its folder, written whole or not at all.

WEIGHTS_FILE = "model.weights.h5"
CONFIG_FILE = "config.json"  # settings, thresholds, versions
LOG_FILE = "log.csv"  # rows of the training
STAGES_FILE = "stages.csv"  # seconds and memory of each stage of the run
SUBMISSION_FILE = "submission.csv"
CONFIDENCE_FILE = "confidence.csv"  # confidence of each nucleus in the submission

def write_whole(path: Path, content: str | bytes | memoryview) -> None:
    """Write a file so that a reader finds the old one or the new one, never half of either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except OSError as error:  # the error of a full disk names no file
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        with suppress(OSError):  # a read-only disk refuses even this
            temporary.unlink(missing_ok=True)

def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a table, whole or not at all."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    write_whole(path, text.getvalue())


# ==== 3. src/nuclei/training_data/images.py =======================================================
# Images: a set of decoded images with their labels and kinds.

@dataclass(frozen=True)
class ImageSet:
    """The decoded images of one folder or zip, in the order of their ids."""

    ids: list[str]
    images: list[np.ndarray]  # uint8 (H, W, 3) RGB each
    labels: list[np.ndarray]  # int32 (H, W) each, or [] where the set has no masks
    kinds: list[str]  # one of KINDS each
    unreadable: dict[str, str] = field(default_factory=dict)  # id: why it could not be read; it is in no other field
    overlapping: int = 0  # training images whose masks shared pixels

    def join(self, other: "ImageSet") -> "ImageSet":
        """Join the images of two sets with labels into one; what was unreadable is left behind."""
        fields = ("ids", "images", "labels", "kinds")
        return ImageSet(*(getattr(self, name) + getattr(other, name) for name in fields))

    def subset(self, indices: Iterable[int]) -> "ImageSet":
        """Take the images at `indices` alone; what was unreadable is left behind."""
        pick = [int(index) for index in indices]
        return ImageSet(
            [self.ids[i] for i in pick],
            [self.images[i] for i in pick],
            [self.labels[i] for i in pick] if self.labels else [],
            [self.kinds[i] for i in pick],
        )


# ==== 4. src/nuclei/training_data/kinds.py ========================================================
# Kinds: what an image shows, told from its pixels: its stain and the size of its nuclei.

# The kinds of image, told apart by `image_kind` from the picture alone.
KINDS = (
    "fluorescence-small",  # bright on dark, nuclei thinner than LARGE_NUCLEUS
    "fluorescence-large",  # bright on dark, nuclei wider than that
    "purple",  # purple nuclei on lilac glass
    "pink-purple",  # purple nuclei on white glass or pink tissue
    "brown",  # purple nuclei on yellow-brown glass
    "grey-tissue",  # dark on light grey
)
# Kinds that look alike share thresholds: all but the fluorescence ones are stained.
LOOKS = dict.fromkeys(KINDS, "stained") | {"fluorescence-small": "small", "fluorescence-large": "large"}
LARGE_NUCLEUS = 30.0  # px, the width that separates the two fluorescence kinds
ZOOM_RANGE = (0.25, 3.0)  # least and greatest zoom of an image before the network sees it

def standardise(image: np.ndarray) -> np.ndarray:
    """Turn uint8 RGB into uint8 RGB as the network sees it: bright nuclei on a black background.

    A light image (median over 127) is inverted; then each channel loses its background (2nd percentile) and all three
    are stretched by one factor, so that the 99.8th percentile of the whole is white and hues survive. The factor is
    at most 12, which keeps the noise of an empty field dim.
    """
    return cv2.LUT(image, standard_lut(image))

def standard_lut(image: np.ndarray) -> np.ndarray:
    """Compute uint8 RGB -> uint8 (1, 256, 3): what `standardise` makes of each level of each channel of this image."""
    sparse, levels = _sparse(image), np.arange(256)
    if np.median(sparse) > 127:
        sparse, levels = 255 - sparse, 255 - levels
    black = np.percentile(sparse, 2, axis=(0, 1))
    white = max(np.percentile((sparse - black).max(axis=2), 99.8), 255 / 12)
    ramp = (levels[:, None] - black) * (255.0 / white)
    return np.clip(ramp, 0, 255).round().astype(np.uint8)[None]

def _sparse(image):
    """Take every n-th row and column, about 128 of the shorter: enough for percentiles, and a hundred times faster."""
    step = max(1, min(image.shape[:2]) // 128)
    return image[::step, ::step]

def image_kind(image: np.ndarray) -> str:
    """Tell the kind of an image, uint8 RGB -> one of KINDS, from the picture alone.

    Colour (mean spread of the channels over 4 levels) separates the stains, and among them the glass does: the median
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

def nucleus_width(image: np.ndarray) -> float:
    """Measure the typical width of what is bright in a dark image, px: twice the inscribed radius of Otsu's components,
    the median weighted by area (specks are many and weigh nothing; clumps keep the width of their parts)."""
    grey = cv2.GaussianBlur(standardise(image)[..., 0], (0, 0), 1.5)
    _, bright = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    count, components = cv2.connectedComponents(bright)
    if count == 1:
        return 0.0
    # The frame counts as background: a nucleus cut by it shows its half width there.
    distance = cv2.distanceTransform(np.pad(bright, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    radius, numbers = np.zeros(count), components.ravel().astype(np.intp)
    np.maximum.at(radius, numbers, distance.ravel())
    areas = np.bincount(numbers)[1:]
    return 2 * float(np.quantile(radius[1:], 0.5, weights=areas, method="inverted_cdf"))

def nucleus_diameter(labels: np.ndarray) -> float:
    """Measure the typical diameter of nuclei in labels, px: that of a disc of equal area, the median weighted by area;
    0.0 where there are none."""
    areas = np.bincount(labels.ravel())[1:]
    areas = areas[areas > 0]
    diameters = np.sqrt(4 * areas / np.pi)
    return float(np.quantile(diameters, 0.5, weights=areas, method="inverted_cdf")) if areas.size else 0.0

def network_zoom(diameter: float, target: float, share: float) -> float:
    """Choose the zoom at which the network sees an image whose typical nucleus is `diameter` px wide, in ZOOM_RANGE.

    It goes `share` (0..1) of the way, in octaves, to where that nucleus would be `target` px wide. Zoomed all the way,
    large nuclei lose the detail of their outlines, and small ones cost time; not at all, the network would have to know
    every size. Halfway to 32 px, 12 become 20 and 50 become 40. Without nuclei, where the diameter is 0, it is 1.
    """
    if diameter == 0:
        return 1.0
    lowest, highest = ZOOM_RANGE
    return float(min(max((target / diameter) ** share, lowest), highest))


# ==== 5. src/nuclei/training_data/targets.py ======================================================
# Targets: what the network learns from a label image, and how much each pixel weighs.

# The channels of targets and probs, in this order.
INTERIOR, BORDER, CORE = range(3)

def make_targets(labels: np.ndarray, core: float) -> np.ndarray:
    """Turn labels int32 (H, W) into targets float32 (H, W, 3) of zeros and ones: interior, border, core.

    - interior: every pixel of a nucleus.
    - border: pixels that two nuclei come close to, and so only where nuclei touch; its thickness goes with the size
      of the nuclei (the 2018 winners' target: github.com/selimsef/dsb2018_topcoders).
    - core: pixels deeper in their nucleus than `core` (0..1) of its greatest depth: a level of the relative distance,
      which separates touching nuclei of every size alike.
    """
    targets = np.zeros((*labels.shape, 3), np.float32)
    interior = labels > 0
    ids, depths = labels[interior], inner_distance(labels)[interior]
    deepest = np.zeros(ids.max(initial=0) + 1, np.float32)
    np.maximum.at(deepest, ids, depths)
    targets[..., INTERIOR] = interior
    targets[..., BORDER] = _border_mask(labels)
    targets[interior, CORE] = depths > core * deepest[ids]
    return targets

def inner_distance(labels: np.ndarray) -> np.ndarray:
    """Measure how deep each pixel is in its own nucleus: labels (H, W) -> float32 (H, W), px from its edge, 0 outside.

    The frame is not an edge: a nucleus that it cuts continues beyond it.
    """
    ids = labels.astype(np.float32)  # OpenCV's filters refuse int32
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    # At the frame OpenCV's default border never wins, neither in dilation nor in erosion.
    edge = cv2.dilate(ids, cross) != cv2.erode(ids, cross)
    inside = ((labels > 0) & ~edge).astype(np.uint8)
    if inside.all():
        return np.full(labels.shape, max(labels.shape), np.float32)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    return depth + np.float32(0.5) * (labels > 0)

def _border_mask(labels):
    """Mark the pixels, bool (H, W), that see two nuclei in a window as wide as a fifth of the typical one."""
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

def pixel_weights(labels: np.ndarray, border: float, sigma: float, rare: float) -> np.ndarray:
    """Compute the U-Net paper's weight map -> float32 (H, W), 1 or more everywhere.

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
    """Measure px to the nearest and the second nearest nucleus -> two float32 (H, W), inf from `reach` on."""
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


# ==== 6. src/nuclei/training_data/augmentation.py =================================================
# Augmentation: random crops of an image and its labels.
#
# Both are bent alike; then come colour, blur and noise on the image. Targets are drawn from the
# labels after all of this, so they are as crisp as if the crop had been photographed so.

ANISOTROPY = 0.25  # octaves between the two axes, both ways

def augment(
    image: np.ndarray, labels: np.ndarray, rng: np.random.Generator, crop: int, zoom: float
) -> tuple[np.ndarray, np.ndarray]:
    """Take one random crop: uint8 (H, W, 3), int32 (H, W) -> uint8 (crop, crop, 3), int32 (crop, crop).

    Args:
        rng: numpy Generator; the same state gives the same crop.
        crop: px, side of the result.
        zoom: px of the result for one px of the image, along and across.
    """
    return recolour(*warp(image, labels, rng, crop, zoom), rng)

def warp(
    image: np.ndarray, labels: np.ndarray, rng: np.random.Generator, crop: int, zoom: float
) -> tuple[np.ndarray, np.ndarray]:
    """Change geometry alone: position, rotation, flip, anisotropy and elastic bending in one resampling of each array.

    Beyond its frame the image is mirrored. Ids are dealt anew, 1..n: what the crop's frame cuts in two, or the mirror
    shows twice, are two nuclei.
    """
    columns, rows = _source_grid(image.shape[:2], rng, crop, zoom)
    down, along = _source_span(rows, image.shape[0]), _source_span(columns, image.shape[1])
    image, labels = image[down, along], labels[down, along]
    rows, columns = rows - down.start, columns - along.start
    if zoom < 0.75:  # else every second pixel would be skipped: aliasing
        image = cv2.GaussianBlur(image, (0, 0), 0.4 / zoom)
    # float32 carries ids exactly, up to 2^24; OpenCV does not resample int32
    ids = cv2.remap(labels.astype(np.float32), columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)
    seen = cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return seen, connected_components(ids.astype(np.int32), connectivity=2).astype(np.int32)

def _source_grid(shape, rng, crop, zoom):
    """Say where each pixel of the crop comes from: float32 columns and rows (crop, crop), in px of the image."""
    angle = rng.uniform(0, 2 * np.pi)
    stretch = 2.0 ** rng.uniform(-ANISOTROPY, ANISOTROPY)
    scale = np.array([stretch**0.5, stretch**-0.5]) / zoom
    flip = rng.choice([-1, 1])
    cos, sin = np.cos(angle), np.sin(angle)
    turn = (np.array([[cos, -sin * flip], [sin, cos * flip]]) * scale).astype(np.float32)
    centre = [float(rng.uniform(min(crop / zoom, n) / 2, n - min(crop / zoom, n) / 2)) - 0.5 for n in shape[::-1]]
    grid = np.arange(crop, dtype=np.float32) - (crop - 1) / 2
    columns = centre[0] + turn[0, 0] * grid[None, :] + turn[0, 1] * grid[:, None]
    rows = centre[1] + turn[1, 0] * grid[None, :] + turn[1, 1] * grid[:, None]
    if rng.random() < 0.4:  # elastic: a coarse random field, smooth by its enlargement
        field = rng.normal(0, rng.uniform(2, 6) / zoom, (2, 5, 5)).astype(np.float32)
        columns = columns + cv2.resize(field[0], (crop, crop), interpolation=cv2.INTER_CUBIC)
        rows = rows + cv2.resize(field[1], (crop, crop), interpolation=cv2.INTER_CUBIC)
    return columns, rows

def _source_span(places, length):
    """Find what the grid reads along one axis, a slice, with a margin for blur: filtering more would cost time."""
    first, last = int(places.min()) - 8, int(places.max()) + 8
    # One pixel at least, even where bending has pushed a small crop off the image.
    return slice(min(max(first, 0), length - 1), max(min(last, length), 1))

def recolour(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Change light and colour alone: image uint8 (H, W, 3) -> uint8 (H, W, 3); labels pass through."""
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

def _shift_hsv(image, rng):
    hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV)
    levels = np.arange(256)
    hue = (levels + rng.integers(-15, 16)) % 180  # OpenCV's hue has 180 steps
    saturation = np.clip(levels * rng.uniform(0.6, 1.4), 0, 255)
    table = np.stack([hue, saturation, levels], axis=-1).astype(np.uint8)
    return cv2.cvtColor(cv2.LUT(hsv, table[None]), cv2.COLOR_HSV2RGB)

def _tone_curve(rng):
    """Make one table of gamma, contrast and brightness, uint8 (1, 256)."""
    levels = np.arange(256) / 255
    curve = levels ** (2.0 ** rng.uniform(-0.8, 0.8)) * rng.uniform(0.7, 1.3) + rng.uniform(-0.08, 0.12)
    return np.clip(curve * 255, 0, 255).round().astype(np.uint8)[None]

def _add_noise(image, rng):
    """Add sensor noise, one field for all channels, as a grey image has it."""
    field = rng.standard_normal(image.shape[:2], np.float32) * rng.uniform(2, 14)
    return np.clip(image + field[..., None], 0, 255).astype(np.uint8)


# ==== 7. src/nuclei/training_data/batches.py ======================================================
# Batches: crops at the network's scale, balanced over kinds, made ahead of the training thread.

MOST_FAILING_IMAGES = 3  # images that crops cannot be made from; more than this many: a bug, not bad images

@dataclass
class Crops:
    """Random training crops of a set of images; batch i depends on the seed and on i alone, whoever makes it."""

    images: ImageSet  # with labels
    make_y: Callable[[np.ndarray], np.ndarray]  # labels (S, S) -> float32 (S, S, C + 1): targets, then pixel weights
    zoom_for: Callable[[float], float]  # the diameter of an image's typical nucleus, px -> the zoom that it is seen at
    size: int  # crops in a batch, N
    crop: int  # px, the side of a crop, S
    spread: float  # octaves, how far a crop strays from its image's zoom, both ways
    balance: float  # see `draw_chances`
    seed: int  # of all that is random

    def __post_init__(self) -> None:
        self.seen = [standardise(image) for image in self.images.images]
        self.failing: dict[str, str] = {}  # id: why no crop could be made of it
        self.chances = draw_chances(self.images.kinds, self.balance)
        diameters = np.array([nucleus_diameter(one) for one in self.images.labels])
        typical = np.median(diameters[diameters > 0]) if diameters.any() else 0.0
        self.zooms = [self.zoom_for(float(diameter or typical)) for diameter in diameters]

    def batch(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Make batch number `index` -> x float32 (N, S, S, 3) in 0..1, y float32 (N, S, S, C + 1), of `make_y`.

        An image that no crop can be made from is left out, with a warning, and another takes its place.

        Raises:
            BadInput: more than MOST_FAILING_IMAGES images were left out so far, or all there are.
        """
        rng = np.random.default_rng([self.seed, index])
        x, y = np.empty((self.size, self.crop, self.crop, 3), np.float32), []
        for number, i in enumerate(rng.choice(len(self.seen), self.size, p=self.chances)):
            while (made := self._make_crop(i, rng)) is None:
                i = rng.choice(len(self.seen), p=self.chances)
            np.divide(made[0], np.float32(255), out=x[number])
            y.append(made[1])
        return x, np.stack(y)

    def _make_crop(self, i, rng):
        """Make a crop of image number `i` -> (x uint8, y), or None where that fails."""
        try:
            zoom = self.zooms[i] * 2.0 ** rng.uniform(-self.spread, self.spread)
            image, labels = augment(self.seen[i], self.images.labels[i], rng, self.crop, zoom)
            return image, self.make_y(labels)
        except Exception as error:  # hours of training are worth more than one image
            self._leave_out(self.images.ids[i], f"{type(error).__name__}: {error}")
            return None

    def _leave_out(self, image_id, why):
        if image_id not in self.failing:
            self.failing[image_id] = why
            log.warning("training image %s is left out, since no crop can be made of it (%s)", image_id, why)
        if len(self.failing) > min(MOST_FAILING_IMAGES, len(self.seen) - 1):
            named = ", ".join(self.failing)
            raise BadInput(f"no crop can be made of the training images {named} ({why}): mend them or take them out")

    def stream(self, start: int = 0, workers: int | None = None) -> Generator[tuple[np.ndarray, np.ndarray]]:
        """Yield batches start, start + 1, ... without end, made beforehand in threads, one for each core by default.

        Threads serve, since OpenCV and NumPy let go of the interpreter's lock while they work.
        """
        workers = workers or os.cpu_count() or 2
        with ThreadPoolExecutor(workers, thread_name_prefix="crops") as pool:
            waiting = deque(pool.submit(self.batch, start + i) for i in range(workers + 2))
            try:
                for index in itertools.count(start + len(waiting)):
                    batch = waiting.popleft().result()
                    waiting.append(pool.submit(self.batch, index))
                    yield batch
            finally:
                for future in waiting:
                    future.cancel()

def draw_chances(kinds: list[str], balance: float) -> np.ndarray:
    """Compute the chance of each image to be drawn, float64 (N,), summing to 1.

    A kind with n images is drawn n^(1 - balance) as often as one with a single image: 0 draws images alike, 1 draws
    kinds alike.
    """
    counts = np.array([kinds.count(kind) for kind in KINDS])
    share = np.maximum(counts, 1.0) ** -balance
    chances = share[[KINDS.index(kind) for kind in kinds]]
    return chances / chances.sum()


# ==== 8. src/nuclei/network/model.py ==============================================================
# Model: the one-hundred-layer network, and a small U-Net for CPUs.
#
# Both take float32 (N, H, W, 3) in 0..1, with H and W multiples of 32 (one hundred layers) or of stem * 2^depth
# (U-Net), and give float32 (N, H, W, outputs) in 0..1: one sigmoid a class, so that classes may overlap. The last
# activation is float32 under every mixed policy.

# FC-DenseNet103 (Jegou et al. 2017, "The One Hundred Layers Tiramisu", table 2): layers of each dense block.
TIRAMISU_BLOCKS = (4, 5, 7, 10, 12)
TIRAMISU_BOTTLENECK = 15
UNET_WIDEST = 256  # most filters of a level

def build_model(name: str, width: int, depth: int, stem: int, outputs: int = 1) -> Model:
    """Build the network of a name: "unet" or "one_hundred_layers" (width is then the growth rate)."""
    if name == "one_hundred_layers":
        return one_hundred_layers(width, outputs)
    return unet(width, depth, stem, outputs)

# ---- one hundred layers ------------------------------------------------------------------------

def one_hundred_layers(growth: int = 16, outputs: int = 1) -> Model:
    """Build U-Net's shape from FC-DenseNet103's dense blocks: 103 convolutions, 9.4 M weights at growth 16.

    1 at the entrance + 38 in the dense blocks on the way down + 5 that close them (1x1) + 15 at the bottom + 5
    transposed + 38 on the way up + 1 at the exit. A block on the way up passes on only what it adds (Jegou et al.,
    section 3.2), which keeps the width of the full-resolution end in bounds.

    The paper's dropout is left out: before batch normalisation it leaves variances in the moving averages that
    prediction does not meet (Li et al. 2018, arXiv 1801.05134). docs/results.md has what it cost.

    Args:
        growth: feature maps that each layer adds; the paper's is 16, and its first convolution has 3 * growth maps.
        outputs: classes, each with its own sigmoid.
    """
    inputs = Input((None, None, 3))
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
    """Add `count` layers, each reading all before it -> what they add: (N, H, W, count * growth)."""
    added = []
    for _ in range(count):
        new = _dense_layer(x, growth, 3)
        added.append(new)
        x = layers.Concatenate()([x, new])
    return layers.Concatenate()(added)

def _dense_layer(x, filters, kernel):
    x = BatchNormalization()(x)
    x = layers.Activation("relu")(x)
    return layers.Conv2D(filters, kernel, padding="same", use_bias=False, kernel_initializer="he_uniform")(x)

def _transition_down(x):
    return layers.MaxPooling2D(2)(_dense_layer(x, x.shape[-1], 1))

# ---- U-Net -------------------------------------------------------------------------------------

def unet(width: int = 32, depth: int = 4, stem: int = 1, outputs: int = 1) -> Model:
    """Build a U-Net (Ronneberger et al. 2015) made cheap where a CPU spends its time.

    - `stem` 2 or 4: the first convolution works at that stride, the last one (transposed) undoes it, and no level
      runs at full resolution.
    - The way up adds its skips (LinkNet, Chaurasia and Culurciello 2017) and has one convolution a level, where U-Net
      concatenates and has two: on 2 cores twice the crops a second.

    Args:
        width: filters at the first level, doubled at each halving up to UNET_WIDEST.
        depth: halvings.
        stem: stride of the first convolution: 1, 2 or 4.
        outputs: as in `one_hundred_layers`.
    """
    inputs = Input((None, None, 3))
    x = _conv(inputs, width, kernel=2 * stem, stride=stem) if stem > 1 else _conv(inputs, width)
    *filters, widest = (min(width * 2**level, UNET_WIDEST) for level in range(depth + 1))
    skips = []
    for level in range(depth):
        x = _conv(x, filters[level]) if level else x
        x = _conv(x, filters[level])
        skips.append(x)
        x = layers.MaxPooling2D(2)(x)
    x = _conv(_conv(x, widest), widest)
    for skip in reversed(skips):
        x = layers.UpSampling2D(2)(layers.Conv2D(skip.shape[-1], 1)(x))
        x = _conv(layers.Add()([x, skip]), skip.shape[-1])
    logits = layers.Conv2DTranspose(outputs, 2 * stem, strides=stem, padding="same")(x)
    return Model(inputs, _probabilities(logits), name="unet")

def _conv(x, filters, kernel=3, stride=1):
    x = layers.Conv2D(filters, kernel, stride, "same", use_bias=False, kernel_initializer="he_uniform")(x)
    return layers.Activation("relu")(BatchNormalization()(x))

def _probabilities(logits):
    return layers.Activation("sigmoid", dtype="float32", name="probs")(logits)

class BatchNormalization(layers.BatchNormalization):
    """Keras's layer, its weights and their names, in training by TensorFlow's fused operation.

    What Keras writes down takes ten passes through memory there; other backends' compilers fuse it themselves.
    """

    def call(self, inputs: KerasTensor, training: bool | None = None, mask: KerasTensor | None = None) -> KerasTensor:
        if not training or keras.backend.backend() != "tensorflow":
            return super().call(inputs, training, mask)
        import tensorflow as tf

        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, ops.convert_to_tensor(self.gamma), ops.convert_to_tensor(self.beta), epsilon=self.epsilon
        )
        count = ops.cast(ops.size(inputs[..., 0]), variance.dtype)
        biased = variance * (count - 1) / count  # as Keras keeps it
        for moving, now in ((self.moving_mean, mean), (self.moving_variance, biased)):
            moving.assign(moving * self.momentum + now * (1 - self.momentum))
        return outputs


# ==== 9. src/nuclei/network/loss.py ===============================================================
# Loss: Dice, Dice with pixel weights, and cross-entropy with the same weights.
#
# Pure functions of (y_true, y_pred) in keras.ops, on every backend. y_pred is (N, H, W, C), probabilities. For the
# weighted losses y_true is (N, H, W, C + 1): C targets in 0..1, then one channel of pixel weights, each 1 or more.
#
# Sums run over the pixels of one image and one class; the mean is then taken over classes and images, since a sum over
# the batch would hide the small images in the large ones.

DICE_SMOOTH = 1.0  # s: an empty image, predicted empty, has Dice s / s = 1 and a finite gradient
LOG_EPSILON = 1e-6  # least probability in a logarithm, which stays finite

def dice(y_true: KerasTensor, y_pred: KerasTensor) -> KerasTensor:
    """Compute -(2 sum(t p) + s) / (sum(t) + sum(p) + s) per image and class, then the mean: a scalar in [-1, 0).

    y_true and y_pred (N, H, W, C). See Milletari et al. 2016, "V-Net", equation 2, without its squares.
    """
    y_true = ops.cast(y_true, y_pred.dtype)
    return _dice_mean(y_true, y_pred, 1.0)

def weighted_dice(y_true: KerasTensor, y_pred: KerasTensor) -> KerasTensor:
    """Compute -(2 sum(t p) + s) / (sum(t) + sum(p w) + s) per image and class, then the mean: a scalar in [-1, 0).

    Predicting a nucleus where there is none costs as much as the pixel weighs, so the gap between two touching nuclei
    is costly. With weights of 1 it is `dice`.

    y_true (N, H, W, C + 1): targets, then the weight in the last channel (channel 1 where C is 1).
    """
    targets, weights = _split_weights(y_true, y_pred)
    return _dice_mean(targets, y_pred, weights)

def weighted_crossentropy(y_true: KerasTensor, y_pred: KerasTensor) -> KerasTensor:
    """Compute sum(w * bce(t, p)) / sum(w) per image and class, then the mean: a scalar, 0 or more.

    bce(t, p) = -t log p - (1 - t) log(1 - p). y_true as in `weighted_dice`.
    """
    targets, weights = _split_weights(y_true, y_pred)
    p = ops.clip(y_pred, LOG_EPSILON, 1 - LOG_EPSILON)
    bce = -(targets * ops.log(p) + (1 - targets) * ops.log(1 - p))
    return ops.mean(ops.sum(weights * bce, axis=(1, 2)) / ops.sum(weights, axis=(1, 2)))

def weighted_crossentropy_dice(y_true: KerasTensor, y_pred: KerasTensor) -> KerasTensor:
    """Add up weighted_crossentropy + dice + 1, the default loss; 0 is perfect. y_true as in `weighted_dice`.

    Cross-entropy gives every pixel a gradient, Dice an overlap that does not care how empty the image is. The weights
    are in the cross-entropy alone: where they exceed denominator / numerator of the fraction in `weighted_dice`, that
    loss is smallest for p < 1, so that it pulls against the cross-entropy along touching nuclei and thins the masks.
    """
    targets, _ = _split_weights(y_true, y_pred)
    return weighted_crossentropy(y_true, y_pred) + dice(targets, y_pred) + 1.0

# By name in Config; all take y_true with the weight in its last channel.
LOSSES = {
    "weighted_crossentropy_dice": weighted_crossentropy_dice,
    "weighted_dice": weighted_dice,
    "dice": lambda y_true, y_pred: dice(y_true[..., :-1], y_pred),
}

def _split_weights(y_true, y_pred):
    """Split y_true (N, H, W, C + 1) -> targets (N, H, W, C) and weights (N, H, W, 1)."""
    y_true = ops.cast(y_true, y_pred.dtype)
    return y_true[..., :-1], y_true[..., -1:]

def _dice_mean(targets, probs, weights):
    numerator = 2 * ops.sum(targets * probs, axis=(1, 2)) + DICE_SMOOTH
    denominator = ops.sum(targets, axis=(1, 2)) + ops.sum(probs * weights, axis=(1, 2)) + DICE_SMOOTH
    return -ops.mean(numerator / denominator)


# ==== 10. src/nuclei/network/device.py ============================================================
# Device: what the run computes on, and in which precision.

def choose_precision() -> str:
    """Choose the Keras dtype policy, by name, that this machine trains fastest in.

    bfloat16 where the hardware multiplies it (CPUs with AVX512-BF16 or AMX, NVIDIA from compute capability 8.0 on),
    float16 on GPUs from 7.0 on (Kaggle's T4), else float32: a CPU without bfloat16 emulates it ten times slower.
    """
    capability = gpu_capability()
    if capability is not None:
        return "mixed_bfloat16" if capability >= 8 else "mixed_float16" if capability >= 7 else "float32"
    return "mixed_bfloat16" if {"avx512_bf16", "amx_bf16"} & _cpu_flags() else "float32"

def list_gpus() -> list[str]:
    """List the GPUs that Keras's backend sees by name; keras.distribution fails on JAX without one, and on torch."""
    return [name for name, _ in _gpus()]

def gpu_capability() -> float | None:
    """Find the compute capability of the first GPU that Keras sees; None where there is none."""
    for _, (major, minor) in _gpus()[:1]:
        return int(major) + int(minor) / 10
    return None

def _gpus():
    """List the GPUs as [(name, (major, minor) of the compute capability)]."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        ask = tf.config.experimental.get_device_details
        pairs = zip(tf.config.list_logical_devices("GPU"), tf.config.list_physical_devices("GPU"), strict=False)
        return [(gpu.name, ask(device).get("compute_capability", (0, 0))) for gpu, device in pairs]
    if keras.backend.backend() == "jax":
        import jax

        gpus = [device for device in jax.devices() if device.platform == "gpu"]
        return [(str(gpu), gpu.compute_capability.split(".")) for gpu in gpus]
    import torch

    numbers = range(torch.cuda.device_count())
    return [(torch.cuda.get_device_name(number), torch.cuda.get_device_capability(number)) for number in numbers]

def _cpu_flags():
    """Read the features that Linux lists for the CPU; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return {flag for line in lines if line.startswith("flags") for flag in line.split()}

def peak_memory() -> float:
    """Tell the most memory that this process has held so far, in GB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)  # macOS counts bytes, Linux kilobytes


# ==== 11. src/nuclei/network/parallel.py ==========================================================
# Parallel: one network on several GPUs, a copy on each.
#
# With TensorFlow alone: on the other backends there is one copy. A network that is made in `share_gpus`, and compiled
# there with a `shared_loss`, is trained by `train_step` and called by its `predictor`: each copy takes its part of the
# batch, and all make the same step, along the mean of the gradients.

def share_gpus(*batches: int) -> AbstractContextManager:
    """Make a context in which a network lives on as many GPUs as divide all `batches` that it will be given."""
    gpus = list_gpus() if keras.backend.backend() == "tensorflow" else []
    copies = math.gcd(max(len(gpus), 1), *batches)
    if copies < 2:
        return nullcontext()
    import tensorflow as tf

    log.info("one network on %d GPUs", copies)
    return tf.distribute.MirroredStrategy(gpus[:copies]).scope()

def shared_loss(loss: Callable) -> Callable:
    """Make a loss to compile with in `share_gpus`: each copy's share of the whole batch's loss, from its part of it.

    TensorFlow adds up the gradients of the copies, and Keras divides only such losses by their number as come one an
    image; ours are means already.
    """
    if keras.backend.backend() != "tensorflow":
        return loss
    import tensorflow as tf

    copies = tf.distribute.get_strategy().num_replicas_in_sync
    return lambda y_true, y_pred: loss(y_true, y_pred) / copies

def count_copies(model: keras.Model) -> int:
    """Count the GPUs on which a network lives; 1 without a GPU."""
    strategy = _strategy_of(model)
    return strategy.num_replicas_in_sync if strategy else 1

def sum_over_copies(tensors: list) -> list:
    """Add up each tensor over the copies of a network, within a step that they take; one copy alone has the sum."""
    if keras.backend.backend() != "tensorflow":
        return tensors
    import tensorflow as tf

    copies = tf.distribute.get_replica_context()
    return copies.all_reduce(tf.distribute.ReduceOp.SUM, tensors) if copies.num_replicas_in_sync > 1 else tensors

def train_step(model: keras.Model, x: np.ndarray, y: np.ndarray, parts: int = 1) -> KerasTensor:
    """Take one step of training on a batch -> its loss, a scalar on the device, which float() waits for.

    Where the memory is short, the batch is computed in equal parts, one after the other, and a network that was
    compiled for so many makes one step of them. On several GPUs, where Keras cannot add up gradients over calls, the
    step has the first part alone.
    """
    pieces = list(zip(np.split(x, parts), np.split(y, parts), strict=True))
    if strategy := _strategy_of(model):
        return _train_part(model, *(_share(piece, strategy) for piece in pieces[0]))
    return sum(_train_part(model, *piece) for piece in pieces) / parts

def _train_part(model, x, y):
    """Do what Keras's train_on_batch does, but for its wait for the loss; it would show each copy the whole batch."""
    model.reset_metrics()  # else the loss is the mean over all steps so far
    model.make_train_function()
    batch = iter([(x, y, None)])
    if keras.backend.backend() != "jax":
        return model.train_function(batch)["loss"]
    weights = [model.trainable_variables, model.non_trainable_variables]
    groups = [*weights, model.optimizer.variables, model.metrics_variables]
    logs, state = model.train_function(tuple([one.value for one in group] for group in groups), batch)
    for group, values in zip(groups, state, strict=True):
        for variable, value in zip(group, values, strict=True):
            variable.assign(value)
    return logs["loss"]

def predictor(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Make a call of a network: float32 (N, H, W, 3) -> (N, H, W, C)."""
    strategy = _strategy_of(model)
    if strategy is None:
        return model.predict_on_batch
    model.make_predict_function()
    return lambda x: model.predict_function([(_share(x, strategy),)])

def _strategy_of(model):
    """Find TensorFlow's strategy for a network on several GPUs, else None."""
    strategy = getattr(model, "distribute_strategy", None)
    return strategy if strategy and strategy.num_replicas_in_sync > 1 else None

def _share(batch, strategy):
    """Cut an array into equal parts, one for each copy of the network."""
    parts = np.split(batch, strategy.num_replicas_in_sync)
    return strategy.experimental_distribute_values_from_function(
        lambda context: keras.ops.convert_to_tensor(parts[context.replica_id_in_sync_group])
    )


# ==== 12. src/nuclei/network/optimizer.py =========================================================
# Optimizer: Muon for the convolutions, AdamW for biases and normalisation.

ADAM_SHARE = 0.1  # AdamW's learning rate in Muon's, which is larger than AdamW can bear
NEWTON_SCHULZ_STEPS = 4  # iterations; the usual fifth changes little

class ConvMuon(keras.optimizers.Muon):
    """Keras's Muon, which is made for matrices, for the kernels of convolutions.

    Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) makes the momentum of each matrix orthogonal before it
    takes the step, so that it learns in all directions alike. A kernel (height, width, in, out) is the matrix (height *
    width * in, out). As in Liu et al. 2025 (arXiv 2502.16982, section 2.2), the step is scaled to the size of
    AdamW's; `learning_rate` is Muon's own, times `adam_lr_ratio` it is AdamW's.

    The steps of all kernels are found together, in few operations: faster than one by one, and less to compile.
    """

    def _should_use_adamw(self, variable):
        return len(variable.shape) != 4

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        self._steps = self._kernel_steps(sum_over_copies(grads), trainable_variables, learning_rate)
        super()._backend_update_step(grads, trainable_variables, learning_rate)

    def _kernel_steps(self, grads, variables, learning_rate):
        """Find what comes off each kernel -> {index of the variable: float32, of its shape}."""
        groups, steps = defaultdict(list), {}  # the kernels by their columns, whose X^T X are of one shape
        for gradient, variable in zip(grads, variables, strict=True):
            if not self._should_use_adamw(variable):
                index, columns = self._get_variable_index(variable), variable.shape[-1]
                ahead = gradient + self.momentum**2 / (1 + self.momentum) * self.momentums[index]  # Nesterov's, scaled
                groups[columns].append((index, variable.shape, ops.reshape(ahead, (-1, columns))))
        for group in groups.values():
            grams = ops.stack([ops.matmul(ops.transpose(matrix), matrix) for _, _, matrix in group])
            factors = orthogonal_factors(grams, self.ns_steps, (self.muon_a, self.muon_b, self.muon_c))
            for number, (index, shape, matrix) in enumerate(group):
                size = learning_rate * self.rms_rate * math.sqrt(max(matrix.shape))
                steps[index] = ops.reshape(ops.matmul(matrix, size * factors[number]), shape)
        return steps

    def _muon_update_step(self, gradient, variable, lr, m):
        self.assign(m, self.momentum * m + gradient)
        self.assign_sub(variable, self._steps[self._get_variable_index(variable)])

def orthogonal_factors(grams: KerasTensor, steps: int, coefficients: tuple[float, float, float]) -> KerasTensor:
    """Find what makes matrices X orthogonal from their X^T X: float32 (N, m, m) -> Q (N, m, m), so that X Q is.

    Newton-Schulz's iterations make X p(X^T X) of X, where p(A) = a + b A + c A^2: X stays a factor on the left, and its
    A becomes p A p. Its small singular values are squared in A, which bfloat16 could not hold.
    """
    a, b, c = coefficients
    eye = ops.eye(grams.shape[-1], dtype=grams.dtype)
    square_norms = ops.sum(grams * eye, axis=(1, 2), keepdims=True) + 1e-14  # Frobenius, of X
    grams, factors = grams / square_norms, None
    for step in range(steps):
        polynomials = a * eye + b * grams + c * ops.matmul(grams, grams)
        factors = polynomials if factors is None else ops.matmul(factors, polynomials)
        if step < steps - 1:
            grams = ops.matmul(polynomials, ops.matmul(grams, polynomials))
    return factors / ops.sqrt(square_norms)


# ==== 13. src/nuclei/training/schedule.py =========================================================
# Schedule: how far a training is, and the learning rate there.

TUNING_TIME_SHARE = 0.08  # share of the time budget that is kept for choosing thresholds at the end

@dataclass
class TrainingState:
    """Where a training is; with the variables of its network and its optimiser, all that it needs to resume."""

    step: int = 0  # optimiser steps taken
    done: float = 0.0  # 0..1 of the schedule
    seconds: float = 0.0  # seconds of training so far
    start: float | None = None  # seconds at the end of the first step
    halvings: int = 0  # halvings of the learning rate
    parts: int = 1  # parts into which each batch is cut, for want of memory
    losses: list[float] = field(default_factory=list)  # losses of the steps since the log's last row
    rows: list[list] = field(default_factory=list)  # rows of the log

def learning_rate(done: float, peak: float, warmup: float) -> float:
    """Compute the rate at `done` (0..1) of the schedule: linear to `peak` in the first `warmup`, then cosine to 0."""
    if done < warmup:
        return peak * (done + 1e-3) / (warmup + 1e-3)
    return peak * 0.5 * (1 + np.cos(np.pi * min((done - warmup) / (1 - warmup), 1.0)))

class Schedule:
    """How far the training is, 0..1, by the clock or by steps.

    By the clock, it counts from the end of the first step, which compiles the network; whatever the speed of the
    machine, and should it change on the way, the rate reaches zero when the time is up.

    Args:
        minutes: of wall clock, thresholds included.
        steps: above 0 they count instead.
        seconds: that the training took before it was cut off.
        start: after how many of them the first step ended.
    """

    def __init__(self, minutes: float, steps: int, seconds: float = 0.0, start: float | None = None):
        self.steps = steps
        self.budget = minutes * 60 * (1 - TUNING_TIME_SHARE)
        self.began = time.monotonic() - seconds
        self.start = start

    def seconds(self) -> float:
        return time.monotonic() - self.began

    def share_done(self, step: int) -> float:
        if self.steps:
            return step / self.steps
        now = self.seconds()
        if self.start is None:
            self.start = now
        return min((now - self.start) / max(self.budget - self.start, 1e-9), 1.0)


# ==== 14. src/nuclei/training/training_log.py =====================================================
# Training log: what a training reports of itself, in log.csv and on the screen.

LOG_EVERY = 64  # steps between two rows

class TrainingLog:
    """A row of log.csv every LOG_EVERY steps, a live bar in a terminal, and elsewhere a line with each row.

    Args:
        path: of log.csv. Rows later than the state that a training resumes from are overwritten.
        state: the training's.
    """

    def __init__(self, path: Path, state: TrainingState):
        self.path, self.state = path, state

    def __enter__(self):
        self.file = open(self.path, "w", newline="", encoding="utf-8")
        self.table = csv.writer(self.file, lineterminator="\n")
        self.table.writerow(["step", "seconds", "learning_rate", "loss", "tuning_score"])
        self.table.writerows(self.state.rows)
        line = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
        self.bar = tqdm(total=100, desc="train", disable=None, bar_format=line)
        return self

    def note(self, rate: float, score: float | None) -> None:
        """Show how far a step came; write a row for each LOG_EVERY losses, at a score and at the end."""
        state = self.state
        self.bar.update(int(100 * state.done) - self.bar.n)
        if len(state.losses) < LOG_EVERY and score is None and state.done < 1:
            return
        mean = np.mean(state.losses)
        scored = "" if score is None else f"{score:.4f}"
        state.rows.append([state.step, f"{state.seconds:.1f}", f"{rate:.3g}", f"{mean:.4f}", scored])
        self.table.writerow(state.rows[-1])
        self.file.flush()
        self.bar.set_postfix_str(f"loss {mean:.3f}")
        if self.bar.disable or score is not None:
            note = f", tuning score {scored}" if scored else ""
            log.info("%.0f s, step %d, %.0f %%, loss %.4f%s", state.seconds, state.step, 100 * state.done, mean, note)
        state.losses = []

    def __exit__(self, *error):
        self.bar.close()
        self.file.close()


# ==== 15. src/nuclei/training/train.py ============================================================
# Train: one network inside a time budget.
#
# The loop is our own, since Keras's fit goes by epochs: here the learning rate goes by the time that is left. A
# training that breaks down (a loss of NaN, a full memory) resumes from its last good state, and one that was cut off
# ends with the weights of an unbroken one, bit for bit.

EXPLODED_LOSS = 5.0  # an untrained network has a loss of about 1.5; above this after the first log row it has diverged
MOST_HALVINGS = 3  # halvings of the learning rate, one each time that the training breaks down
LOOK_EVERY = 16  # steps between two looks at their losses: a GPU goes on meanwhile, and computes without a pause
REMEMBER_SECONDS = 120.0  # seconds between two good states: what a breakdown or a kill can cost

class Keeper:
    """What a run resumes from: nothing on Kaggle, where a dead session loses its files; at home, checkpoints."""

    def load(self, part: str) -> tuple[dict, dict] | None:
        """Return what was last saved of a part of the run as (state, arrays); None where there is nothing."""

    def save(self, part: str, state: dict, arrays: dict[str, list] | None = None) -> None:
        """Keep the state, a dict that JSON holds, and the arrays of a part of the run."""

def new_model(config: Config) -> keras.Model:
    """Build the network that a config describes, with fresh weights."""
    c = config
    return build_model(c.model_name, c.model_width, c.model_depth, c.model_stem, c.model_outputs)

def compile_model(model: keras.Model, config: Config, parts: int = 1) -> keras.Model:
    """Ready a network for training -> a compiled Model of its layers and weights; its learning rate is 0 so far.

    Where each batch comes in several parts (see `train_step`), the optimiser takes one step along their mean.

    On a CPU TensorFlow goes without XLA, whose convolutions are slower than oneDNN's.
    """
    one = keras.Model(model.input, model.output, name=model.name)
    decay = {"weight_decay": config.train_decay, "adam_weight_decay": config.train_decay}
    muon = {"adam_lr_ratio": ADAM_SHARE, "ns_steps": NEWTON_SCHULZ_STEPS, "global_clipnorm": 1.0}
    optimizer = ConvMuon(0.0, **decay, **muon, gradient_accumulation_steps=parts if parts > 1 else None)
    on_cpu = keras.backend.backend() == "tensorflow" and gpu_capability() is None
    one.compile(optimizer, shared_loss(LOSSES[config.train_loss]), jit_compile=False if on_cpu else "auto")
    one.optimizer.build(one.trainable_variables)
    return one

def make_crops(config: Config, train: ImageSet) -> Crops:
    """Make the random crops that a config trains on: x as the network sees them, y the targets and the weight."""
    c = config

    def make_y(labels):
        y = np.empty((*labels.shape, c.model_outputs + 1), np.float32)
        y[..., :-1] = make_targets(labels, c.target_core)[..., : c.model_outputs]
        y[..., -1] = pixel_weights(labels, c.target_border, c.target_sigma, c.target_rare)
        return y

    zoom_for = partial(network_zoom, target=c.model_diameter, share=c.model_zoom)
    return Crops(train, make_y, zoom_for, c.train_batch, c.train_crop, c.train_zoom, c.train_balance, c.train_seed)

def train_model(
    config: Config,
    train: ImageSet,
    log_file: Path,
    keeper: Keeper,
    check: Callable[[Callable, bool], float | None],
    start: list[np.ndarray] | None = None,
) -> keras.Model:
    """Train a network, or resume -> the Model with its last weights.

    Args:
        train: ImageSet with labels.
        log_file: of the training, a row every LOG_EVERY steps.
        keeper: what to resume from.
        check: called train_checks times, evenly spread, the last time at the end, with (network, whether it is the last
            time); gives a score for the log, or None.
        start: the weights to begin with, as get_weights of a Keras Model gives them; None begins with random ones.

    Raises:
        BadInput: the training broke down too often.
    """
    entered = time.monotonic()
    keras.utils.set_random_seed(config.train_seed)
    crops = make_crops(config, train)
    training = _Training(config, keeper, start)
    state = training.state
    used = state.seconds + time.monotonic() - entered
    schedule = Schedule(config.train_minutes, config.train_steps, used, state.start)
    checks = np.arange(1, config.train_checks + 1) / config.train_checks
    checks = checks[checks > state.done]
    with TrainingLog(log_file, state) as training_log:
        for x, y in crops.stream(state.step) if state.done < 1 else ():
            rate = learning_rate(state.done, config.train_rate, config.train_warmup) * 0.5**state.halvings
            training.learn(x, y, rate)
            state.step += 1
            state.done, state.start = schedule.share_done(state.step), schedule.start
            state.seconds = schedule.seconds()
            check_is_due, score = state.done >= checks[0], None
            milestone = check_is_due or training.remembering_is_due()
            if milestone:
                training.ensure_finite()
            if check_is_due:
                checks = checks[checks > state.done]
                score = check(predictor(training.bare), state.done >= 1)
            training_log.note(rate, score)
            if milestone:
                state.seconds = schedule.seconds()
                training.remember()
            if state.done >= 1:
                break
    log.info("trained on %d crops in %.0f s", state.step * config.train_batch, state.seconds)
    return training.bare

class _Training:
    """A network in training and its last good state, which it returns to when it breaks down."""

    def __init__(self, config, keeper, start):
        self.config, self.keeper = config, keeper
        self.waiting = []  # losses on the device that nobody has looked at
        saved = keeper.load("training")
        self.state = TrainingState(**saved[0]) if saved else TrainingState()
        with share_gpus(config.train_batch, config.tile_pixels // config.tile_size**2):
            self.bare = new_model(config)  # shares its weights with `model`, and saves them without the optimiser's
            if start is not None:
                self.bare.set_weights(start)
            self.model = compile_model(self.bare, config, self.state.parts)
        if saved:
            log.info("resuming after step %d and %.0f s of training", self.state.step, self.state.seconds)
            self.last_good = saved[1]
            self._restore()
            self.remembered_at = time.monotonic()
        else:
            self.remember()

    def _variables(self):
        """Name the variables of what a state holds, random states included."""
        return {"model": self.model.variables, "optimizer": self.model.optimizer.variables}

    def remember(self):
        """Make the variables, as they are, the last good state, and the keeper's."""
        groups = self._variables().items()
        self.last_good = {name: [keras.ops.convert_to_numpy(one) for one in group] for name, group in groups}
        self.keeper.save("training", vars(self.state), self.last_good)
        self.remembered_at = time.monotonic()

    def remembering_is_due(self):
        return time.monotonic() - self.remembered_at >= REMEMBER_SECONDS

    def _restore(self):
        for name, group in self._variables().items():
            for variable, value in zip(group, self.last_good[name], strict=True):
                variable.assign(value)

    def learn(self, x, y, rate):
        """Take one step of training. A batch too large for the memory is cut into parts from then on."""
        while True:
            self.model.optimizer.learning_rate = rate
            try:
                self.waiting.append(train_step(self.model, x, y, self.state.parts))
                if self.state.step == 0 or (self.state.step + 1) % LOOK_EVERY == 0:  # the first is timed, so awaited
                    self._look(self.state.step + 1)
                return
            except Exception as error:
                if not is_out_of_memory(error) or not self._can_cut():
                    raise
            self._cut_batches()  # outside the handler, where the error no longer holds what filled the memory

    def _look(self, step):
        """Wait for the losses up to that of `step`, and go back where one shows that the training broke down."""
        losses, self.waiting = self.waiting, []
        losses = [float(loss) for loss in losses]
        self.state.losses += losses
        for number, loss in enumerate(losses, start=step + 1 - len(losses)):
            if not np.isfinite(loss) or (self.state.rows and loss > EXPLODED_LOSS):
                return self._go_back(f"the loss of step {number} was {loss:.3g}")

    def ensure_finite(self):
        """Go back where the last steps broke down, or spoilt the weights, which only the next loss would show."""
        self._look(self.state.step)
        if not all(np.isfinite(one).all() for one in self.bare.get_weights()):
            self._go_back(f"step {self.state.step} left NaN or infinity in the weights")

    def _go_back(self, why):
        """Return to the last good state at half the learning rate; the schedule goes on."""
        if self.state.halvings == MOST_HALVINGS:
            raise BadInput(
                f"{why}, and going back at half the rate did not help {MOST_HALVINGS} times: lower train_rate in "
                "src/nuclei/settings/config.py"
            )
        self.state.halvings += 1
        log.warning("%s: back to the last good weights, at half the rate", why)
        self._restore()

    def _can_cut(self):
        """Tell whether half of what is computed at once still has a crop for each copy of the network."""
        return self.config.train_batch % (2 * self.state.parts * count_copies(self.model)) == 0

    def _cut_batches(self):
        """Compute half as many crops at once, from the last good state on."""
        self.state.parts *= 2
        self.waiting = []
        crops = self.config.train_batch // self.state.parts
        if count_copies(self.model) > 1:  # where Keras cannot accumulate gradients
            log.warning("out of memory: a step has %d crops from now on, and the others are left out", crops)
        else:
            log.warning("out of memory: a step is computed from %d times %d crops from now on", self.state.parts, crops)
            # The optimiser starts afresh: memory runs out in the first steps, if ever.
            self.model = compile_model(self.bare, self.config, self.state.parts)
            self.last_good["optimizer"] = [keras.ops.convert_to_numpy(one) for one in self.model.optimizer.variables]
        self._restore()
        self.remember()

def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception of any backend says that the device's memory is full."""
    text = f"{type(error).__name__} {error}".lower().replace("_", "").replace(" ", "")
    return "resourceexhausted" in text or "outofmemory" in text


# ==== 16. src/nuclei/prediction/tta.py ============================================================
# TTA: test-time augmentation, the eight views of an image and their inverses.
#
# Nuclei have no up: turn a slide over or around, and the right answer turns with it. A network only learns this
# roughly, so it gives each view of an image a slightly different answer. Turn the answers back and average them: what
# they agree on, the nuclei, stays; the errors that depend on how the image lies partly cancel.

# A view is three independent choices, one per bit: 1 flips left-right, 2 flips up-down, and then 4 transposes. Together
# they make the eight symmetries of a square. The first 1, 2, 4 and 8 views are each closed (a view of a view is in the
# set); the first four keep the image's shape.
VIEWS = tuple(range(8))

def view_image(image: np.ndarray, view: int) -> np.ndarray:
    """Return `image` (..., H, W, C) as `view` shows it: (..., W, H, C) for views 4 to 7."""
    if view & 1:
        image = np.flip(image, axis=-2)
    if view & 2:
        image = np.flip(image, axis=-3)
    if view & 4:
        image = np.swapaxes(image, -3, -2)
    return np.ascontiguousarray(image)  # OpenCV and Keras refuse or copy negative strides

def unview_probs(probs: np.ndarray, view: int) -> np.ndarray:
    """Undo `view_image`: return `probs` (..., h, w, C) of a view as they lie on the image."""
    if view & 4:  # the last step is undone first
        probs = np.swapaxes(probs, -3, -2)
    if view & 2:
        probs = np.flip(probs, axis=-3)
    if view & 1:
        probs = np.flip(probs, axis=-2)
    return np.ascontiguousarray(probs)


# ==== 17. src/nuclei/prediction/watershed.py ======================================================
# Watershed: from probabilities to instances, by flooding from seeds.

@dataclass(frozen=True)
class Thresholds:
    """What `find_instances` goes by. Sizes count in pixels of the scale at which the network worked, so that they hold
    for every magnification. The defaults are about right for masks that are drawn as stage1_train's are."""

    seed: float = 0.4  # 0..1, of core * (1 - border)
    interior: float = 0.58  # 0..1
    seed_area: float = 16.0  # px of the network's scale
    area: float = 32.0  # px of the network's scale
    confidence: float = 0.7  # 0..1, of the mean interior probability
    grow: float = 0.0  # px of the network's scale by which each nucleus grows in the end

# What to go by where no image with truth is at hand, by whose hand drew the masks and by look: stage1_test's are fuller
# than stage1_train's. The former were chosen on the 33 images of it whose truth is open (docs/results.md).
HANDS = {
    "stage1_test": {
        "small": Thresholds(seed=0.2, interior=0.3, confidence=0.75),
        "large": Thresholds(seed=0.2, interior=0.55, confidence=0.75),
        "stained": Thresholds(seed=0.2, interior=0.25, confidence=0.6, grow=1.5),
    },
    "stage1_train": dict.fromkeys(("small", "large", "stained"), Thresholds()),
}

def find_instances(probs: np.ndarray, thresholds: Thresholds, zoom: float = 1.0) -> np.ndarray:
    """Flood probs float32 (H, W, 3 or 1) -> labels int32 (H, W), ids 1..n; nuclei never overlap and are connected.

    Seeds are the connected parts of core * (1 - border); they flood the interior by altitude, from the surest pixel
    outwards (scikit-image's watershed; OpenCV's goes by the difference of neighbours and loses pixels to lines). An
    interior part that holds no seed is its own seed: a nucleus so small or so dim that its core was not found. Where
    there is the interior alone, its distance transform stands in for the core.

    Args:
        zoom: network px for one px of `probs`.
    """
    inside = probs[..., INTERIOR]
    interior = inside > thresholds.interior
    if probs.shape[-1] == 1:
        seeds, altitude = _find_peaks(interior, thresholds.seed_area**0.5 / zoom)
    else:
        core = probs[..., CORE] * (1 - probs[..., BORDER])
        seeds, altitude = _large_parts(core > thresholds.seed, thresholds.seed_area / zoom**2), -(inside + core)
    interior |= seeds > 0
    parts, count = ndi.label(interior)
    seedless = np.setdiff1d(np.arange(1, count + 1), parts[seeds > 0])
    seeds = np.where(np.isin(parts, seedless), parts + seeds.max(initial=0), seeds)
    labels = _keep_nuclei(watershed(altitude, seeds, mask=interior), inside, thresholds, zoom)
    return expand_labels(labels, thresholds.grow / zoom) if thresholds.grow else labels

def _find_peaks(interior, apart):
    """Find the peaks of the distance transform, at least `apart` px from each other -> (seeds, altitude)."""
    depth = cv2.distanceTransform(np.pad(interior, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    smooth = cv2.GaussianBlur(depth, (0, 0), 1) * interior
    peaks = peak_local_max(smooth, min_distance=max(1, round(apart)), exclude_border=False)
    seeds = np.zeros(interior.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return seeds, -depth

def find_confidences(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Tell how sure the network is of each nucleus: the mean interior probability of its pixels, 0..1.

    probs float32 (H, W, 3), labels int32 (H, W) with ids 1..n -> float64 (n,).
    """
    areas = np.bincount(labels.ravel())
    sums = np.bincount(labels.ravel(), weights=probs[..., INTERIOR].ravel())
    return sums[1:] / areas[1:]

def _large_parts(mask, area):
    """Number the connected parts of a mask that have at least `area` px -> int32 (H, W)."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    keep = stats[:, cv2.CC_STAT_AREA] >= area
    keep[0] = False
    return np.where(keep, np.arange(count), 0).astype(np.int32)[parts]

def _keep_nuclei(labels, interior, thresholds, zoom):
    """Drop what is too small or too unsure, and number the rest 1..n."""
    areas = np.bincount(labels.ravel())
    sums = np.bincount(labels.ravel(), weights=interior.ravel())
    keep = (areas >= thresholds.area / zoom**2) & (sums >= thresholds.confidence * areas)
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0).astype(np.int32)[labels]


# ==== 18. src/nuclei/prediction/inference.py ======================================================
# Inference: an image of any size through the network, at once or tile by tile.
#
# The network is any callable: float32 (N, H, W, 3) in 0..1 -> float32 (N, H, W, C). The pixels of a call bound its
# memory, whatever the size of the image.

Network = Callable[[np.ndarray], np.ndarray]

@dataclass(frozen=True)
class Tiling:
    """How images are laid before a network."""

    unit: int  # px, what the heights and widths of its inputs are multiples of
    pixels: int  # px in one call, at most
    overlap: int  # px that neighbouring tiles share at least, under the side of a square of `pixels`
    fixed: bool = False  # every call is as many tiles of unit * unit as the pixels allow, where each shape is compiled

def predict_probs(
    seen: np.ndarray, network: Network, tiling: Tiling, views: Sequence[int], zoom: float = 1.0
) -> np.ndarray:
    """Predict an image at a zoom, uint8 (H, W, 3), standardised -> probs float32 (H, W, C), the mean over the views.

    Args:
        network: see the module.
        views: some of tta.VIEWS.
        zoom: factor by which the image is enlarged for the network; probs come back at the image's own size.
    """
    height, width = seen.shape[:2]
    size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
    if size == (width, height):
        return predict_tiled(seen, network, tiling, views)
    zoomed = cv2.resize(seen, size, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR)
    probs = predict_tiled(zoomed, network, tiling, views)
    smooth = cv2.INTER_AREA if zoom > 1 else cv2.INTER_LINEAR
    return cv2.resize(probs, (width, height), interpolation=smooth).reshape(height, width, -1)

def predict_tiled(seen: np.ndarray, network: Network, tiling: Tiling, views: Sequence[int]) -> np.ndarray:
    """Predict uint8 (H, W, 3), standardised -> probs float32 (H, W, C).

    An image that one call holds is one tile, mirrored out to the unit; another is cut into as few as can be, all alike.
    Every view of every tile is one input; what comes back is turned upright, weighted by a window that fades towards
    the tile's edge, and summed.
    """
    shape, unit, overlap = seen.shape[:2], tiling.unit, tiling.overlap
    most = unit**2 if tiling.fixed else tiling.pixels
    longest = [-(-length // unit) * unit for length in shape]
    if math.prod(longest) > most:
        longest = [math.isqrt(most) // unit * unit] * 2
    (height, rows), (width, columns) = (_cut(*along, unit, overlap) for along in zip(shape, longest, strict=True))
    window, batch = _blend_window(height, width, overlap), tiling.pixels // (height * width)
    padding = [(0, max(side - length, 0)) for side, length in zip((height, width), shape, strict=True)]
    padded = np.pad(seen, [*padding, (0, 0)], mode="symmetric")
    total, weight = np.zeros((*padded.shape[:2], 1), np.float32), np.zeros((*padded.shape[:2], 1), np.float32)
    for turned, alike in groupby(views, lambda view: view & 4 and height != width):
        inputs = list(product(rows, columns, alike))
        for start in range(0, len(inputs), batch):
            chunk = inputs[start : start + batch]
            sides = (width, height) if turned else (height, width)
            x = np.zeros((batch if tiling.fixed else len(chunk), *sides, 3), np.float32)
            for slot, (top, left, view) in zip(x, chunk, strict=False):
                slot[:] = view_image(padded[top : top + height, left : left + width], view)
            probs = np.asarray(network(x / 255), np.float32)
            if total.shape[-1] != probs.shape[-1]:
                total = np.zeros((*padded.shape[:2], probs.shape[-1]), np.float32)
            for (top, left, view), one in zip(chunk, probs, strict=False):
                total[top : top + height, left : left + width] += unview_probs(one, view) * window
                weight[top : top + height, left : left + width] += window
    return (total / weight)[: shape[0], : shape[1]]

def _cut(length, longest, unit, overlap):
    """Cut a length into as few equal tiles of at most `longest` px as can be -> (a tile's length, their starts)."""
    count = max(1, math.ceil((length - overlap) / (longest - overlap))) if length > longest else 1
    tile = -(-math.ceil((length + (count - 1) * overlap) / count) // unit) * unit
    return tile, np.linspace(0, max(length - tile, 0), count).round().astype(int).tolist()

def _blend_window(height, width, overlap):
    """Make float32 (height, width, 1): 1 in the middle, nearly 0 at each edge, in between over the overlap."""
    rows, columns = (np.arange(side) + 0.5 for side in (height, width))
    rows, columns = (np.minimum(np.minimum(one, one[::-1]) / max(overlap, 1), 1) for one in (rows, columns))
    return (rows[:, None] * columns).astype(np.float32)[..., None]


# ==== 19. src/nuclei/prediction/run_folder.py =====================================================
# Run folder: a trained network and, beside it, its settings file, written and read without Keras.

FREE_SETTINGS = ("data_", "train_", "tile_")  # prefixes of the settings that say nothing of what a network learned

def find_run(run: str | Path | None = None) -> tuple[Path, Path]:
    """Locate a run's weights and settings, there or not, by its folder or its weights; None is the one that ships."""
    path = Path(str(resources.files("nuclei"))) / "weights" if run is None else Path(run)
    weights = path / WEIGHTS_FILE if path.is_dir() else path
    return weights, weights.with_name(CONFIG_FILE)

def save_run(folder: Path, model: Any, thresholds: Mapping[str, Thresholds], origin: str, config: Config) -> None:
    """Write a Keras model's weights, and the settings, thresholds, their origin and versions with them, each whole."""
    temporary = folder / "writing.weights.h5"  # Keras insists on the ending
    model.save_weights(temporary)
    os.replace(temporary, folder / WEIGHTS_FILE)
    versions = {"python": sys.version.split()[0], "keras": metadata.version("keras")}
    versions |= {one.__name__: one.__version__ for one in (np, cv2)}
    content = {"config": config, "thresholds": thresholds, "thresholds_from": origin, "versions": versions}
    write_settings(folder / CONFIG_FILE, content)

def write_settings(path: Path, content: Mapping[str, Any]) -> None:
    """Write a settings file, whole; Config and Thresholds become tables of their fields."""
    write_whole(path, json.dumps(content, indent=2, default=asdict) + "\n")

def read_settings(path: Path) -> dict[str, Any]:
    """Read a settings file of whatever version -> what it holds."""
    return json.loads(path.read_text(encoding="utf-8"))

def parse_settings(content: Mapping[str, Any]) -> tuple[Config, dict[str, Thresholds]]:
    """Make what a settings file holds a Config and thresholds by look.

    Settings of the training may be another version's: they have had their effect. So may those of tiles, which cost
    memory and time alone.
    """
    known = {one.name for one in fields(Config)}
    values = {k: v for k, v in content["config"].items() if k in known or not k.startswith(FREE_SETTINGS)}
    return Config(**values), {look: Thresholds(**one) for look, one in content["thresholds"].items()}


# ==== 20. src/nuclei/prediction/segmenter.py ======================================================
# Segmenter: a trained network with its thresholds and settings.
#
# labels, confidences = Segmenter.load().segment(image)

@dataclass(frozen=True)
class Segmenter:
    """A trained network with what it takes to find nuclei in images."""

    network: Network  # float32 (N, H, W, 3) in 0..1, H and W multiples of config.divisor -> probs (N, H, W, 3 or 1)
    thresholds: Mapping[str, Thresholds]  # by look (see LOOKS in kinds), what makes nuclei of probs
    config: Config  # the run's settings, of which model_, tile_ and tta_ count here

    @classmethod
    def load(
        cls, run: str | Path | None = None, ready: Callable[[keras.Model], keras.Model] = lambda model: model
    ) -> "Segmenter":
        """Load the segmenter in a run's folder, or of a weights file in one; None stands for the one that ships.

        `ready` makes of its network what predicts.

        Raises:
            BadInput: a file is missing. (The command line looks into the files with more care.)
        """
        weights, settings = find_run(run)
        for needed in (weights, settings):
            if not needed.is_file():
                raise BadInput(f"{needed} is missing: name the folder of a finished run, as nuclei run leaves it")
        config, thresholds = parse_settings(read_settings(settings))
        set_up_device()
        model = new_model(config)
        model.load_weights(weights)
        return cls(predictor(ready(model)), thresholds, config)

    def segment(self, image: np.ndarray, views: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Find the nuclei of an image, uint8 (H, W, 3) RGB -> (labels int32 (H, W), confidences float64 (n,)).

        Args:
            views: how many dihedral views to average, in place of the config's.
        """
        return self.find(image, *self.look(image, views))

    def look(self, image: np.ndarray, views: int | None = None) -> tuple[np.ndarray, float]:
        """Do the network's part of `segment` -> (probs float32 (H, W, 3), the zoom that fits)."""
        zoom = self.fit_zoom(image)
        return self.predict(image, zoom, views), zoom

    def find(self, image: np.ndarray, probs: np.ndarray, zoom: float) -> tuple[np.ndarray, np.ndarray]:
        """Do the rest of `segment`, without the network."""
        labels = find_instances(probs, self.thresholds_for(image), zoom)
        return labels, find_confidences(probs, labels)

    def predict(
        self, image: np.ndarray, zoom: float, views: int | None = None, lut: np.ndarray | None = None
    ) -> np.ndarray:
        """Predict an image, uint8 (H, W, 3) -> probs float32 (H, W, 3); a part has the `standard_lut` of the whole."""
        c = self.config
        shown = VIEWS[: views or c.tta_views]
        seen = cv2.LUT(image, standard_lut(image) if lut is None else lut)
        fixed = keras.backend.backend() == "jax" or gpu_capability() is not None  # they compile for each shape
        tiling = Tiling(c.tile_size if fixed else c.divisor, c.tile_pixels, c.tile_overlap, fixed)
        return predict_probs(seen, self.network, tiling, shown, zoom)

    def thresholds_for(self, image: np.ndarray) -> Thresholds:
        """Tell what makes nuclei of an image, uint8 (H, W, 3), by how it looks."""
        return self.thresholds[LOOKS[image_kind(image)]]

    def zoom_for(self, diameter: float) -> float:
        """Choose the zoom for an image whose typical nucleus is `diameter` px wide: the one of training."""
        return network_zoom(diameter, self.config.model_diameter, self.config.model_zoom)

    def fit_zoom(self, image: np.ndarray) -> float:
        """Find the zoom that fits the image's typical nucleus by running the network at several.

        The network sees the image as it is and at half its size. At the wrong scale it sees the grains in a large
        nucleus, a clump of small ones as one, or it is unsure of what it sees. So the surer look is believed, and the
        size of its nuclei says how far it is from the scale that the network knows best. Where that is more than half
        an octave, one more look corrects it. Where nothing is found, twice the size is tried; after that, 1.
        """
        # Sizes as the training's masks have them. At the wrong scale no nucleus is sure, yet its size tells.
        unsure, lut = Thresholds(confidence=0.0), standard_lut(image)

        def look(zoom):
            """Tell how sure a look is (its nuclei's pixels, less those that could be either), and what zoom fits."""
            probs = self.predict(image, zoom, views=1, lut=lut)[::2, ::2]  # every other pixel tells a size as well
            labels = find_instances(probs, unsure, 2 * zoom)
            found = 2 * nucleus_diameter(labels)
            interior = probs[..., INTERIOR]
            doubt = 2 * np.minimum(interior, 1 - interior).sum()  # a pixel of p = 0.5 counts as one
            return float(interior[labels > 0].sum() - doubt), self.zoom_for(found) if found else None, zoom

        _, first, start = max(look(1.0), look(0.5), key=lambda seen: seen[0])
        if first is None:
            _, first, start = look(2.0)
        if first is None or abs(np.log2(first / start)) <= 0.5:
            return first or 1.0
        return look(first)[1] or first

def set_up_device() -> None:
    """Choose the precision; keep OpenCV to one thread, since the crops' threads and the network share the cores."""
    keras.config.set_image_data_format("channels_last")  # whatever the user's keras.json says
    keras.mixed_precision.set_global_policy(choose_precision())
    cv2.setNumThreads(1)


# ==== 21. src/nuclei/prediction/metric.py =========================================================
# Metric: one overlap matrix, IoU, precision at ten thresholds.
#
# A predicted nucleus is a true positive, a hit, at threshold t if its intersection over union (IoU) with a true one is
# greater than t. The score of an image is the mean over t = 0.50, 0.55, ..., 0.95 of tp / (tp + fp + fn); that of a
# submission is the mean over images (https://www.kaggle.com/competitions/data-science-bowl-2018/overview/evaluation).

# A hit is strictly above its threshold. An IoU of exactly 3/4 and the threshold 75 / 100 are the same float, because
# one division rounds equal fractions alike; the sums inside np.arange(0.5, 1, 0.05) drift off (0.6000000000000001).
IOU_THRESHOLDS = np.arange(50, 100, 5) / 100

def overlap_matrix(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Count the pixels that each true nucleus shares with each predicted one: int64 (1 + n_truth, 1 + n_predicted).

    `truth` and `predicted` are label images (H, W); labels may have gaps. Nuclei come in ascending order of label. Row
    0 and column 0 are the background, so that sums along rows and columns are the areas of the nuclei.

    Raises:
        ValueError: the shapes differ.
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

def iou_matrix(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return intersection over union, float64 (n_truth, n_predicted), by ascending label."""
    overlap = overlap_matrix(truth, predicted)
    true_areas = overlap.sum(axis=1)[1:, None]  # (n_truth, 1)
    predicted_areas = overlap.sum(axis=0)[None, 1:]  # (1, n_predicted)
    intersections = overlap[1:, 1:]
    return intersections / (true_areas + predicted_areas - intersections)

def matches_at_thresholds(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count true positives, false positives and false negatives at IOU_THRESHOLDS: each int64 (10,)."""
    iou = iou_matrix(truth, predicted)
    n_truth, n_predicted = iou.shape
    # No assignment problem to solve. If IoU(T, P) > 1/2, T covers more than half of P, and two nuclei that don't
    # overlap can't both do so, nor the other way round: nobody has two partners.
    hits = iou > IOU_THRESHOLDS[:, None, None]  # (10, n_truth, n_predicted)
    tp = np.count_nonzero(hits, axis=(1, 2))
    return tp, n_predicted - tp, n_truth - tp

def precision_at_thresholds(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return tp / (tp + fp + fn), float64 (10,), at IOU_THRESHOLDS.

    With no nuclei on either side there is nothing to get wrong: 1. On one side only: 0.
    """
    tp, fp, fn = matches_at_thresholds(truth, predicted)
    nuclei = tp + fp + fn
    return np.where(nuclei > 0, tp / np.maximum(nuclei, 1), 1.0)

def average_precision(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the competition's score of one image, a float in 0..1."""
    return float(precision_at_thresholds(truth, predicted).mean())


# ==== 22. src/nuclei/prediction/progress.py =======================================================
# Progress: a bar or a line a minute over many images.

PROGRESS_SECONDS = 60  # seconds between two log lines

def progress(items: Sequence, name: str) -> Iterator:
    """Yield the items of a sequence one by one: under a live bar in a terminal, elsewhere with a log line a minute."""
    bar = tqdm(items, desc=name, unit=" images", disable=None, leave=False)
    said = time.monotonic()
    for done, item in enumerate(bar):
        if bar.disable and time.monotonic() - said >= PROGRESS_SECONDS:
            log.info("%s: %d of %d images", name, done, len(items))
            said = time.monotonic()
        yield item

def one_behind(items: Iterable) -> Iterator:
    """Yield each item once the one after it is made, or its making was cut off: what was started is not lost."""
    making, end = iter(items), object()
    item = next(making, end)
    while item is not end:
        try:
            following = next(making, end)
        except BaseException:
            yield item
            raise
        yield item
        item = following


# ==== 23. src/nuclei/prediction/tuning.py =========================================================
# Tuning: the score on images with labels, and the thresholds that suit a network.

# What a Tuner tries: all combinations of these three, which trade off against each other, then of the rest.
FULLNESS_CHOICES = {
    "interior": (0.2, 0.25, 0.3, 0.4, 0.5, 0.55, 0.6, 0.7),
    "confidence": (0.0, 0.6, 0.7, 0.75, 0.8, 0.88),
    "grow": (0.0, 0.75, 1.5),
}
SEED_CHOICES = {"seed": (0.2, 0.4, 0.6), "seed_area": (16.0, 32.0), "area": (32.0, 64.0)}
THRESHOLD_SHRINKAGE = 2.0  # images: the weight of all images' mean beside a look's own, which may be few

class Tuner:
    """Score thresholds on images with labels, as a network sees them in two views, and choose the best."""

    def __init__(self, images: ImageSet, segmenter: Segmenter):
        self.looks = np.array([LOOKS[kind] for kind in images.kinds])
        self.cases = []
        for image, truth in progress(list(zip(images.images, images.labels, strict=True)), "tune"):
            zoom = segmenter.fit_zoom(image)
            self.cases.append((truth, segmenter.predict(image, zoom, views=2), zoom))
        self.scores: dict[Thresholds, np.ndarray] = {}

    def score(self, thresholds: Thresholds) -> np.ndarray:
        """Score each image by the same thresholds, float64 (N,)."""

        def score_case(truth, probs, zoom):
            return average_precision(truth, find_instances(probs, thresholds, zoom))

        if thresholds not in self.scores:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                self.scores[thresholds] = np.array(list(pool.map(score_case, *zip(*self.cases, strict=True))))
        return self.scores[thresholds]

    def choose(self, those: np.ndarray) -> dict[str, Thresholds]:
        """Choose what scores best on `those` images, bool (N,): for each look, shrunk towards all of them."""
        return {look: self._choose_one(those, those & (self.looks == look)) for look in sorted(set(LOOKS.values()))}

    def _choose_one(self, those, own):
        def worth(thresholds):
            scores = self.score(thresholds)
            return scores[own].sum() + THRESHOLD_SHRINKAGE * scores[those].mean()

        best = Thresholds()
        for choices in (FULLNESS_CHOICES, SEED_CHOICES):
            tried = [replace(best, **dict(zip(choices, values, strict=True))) for values in product(*choices.values())]
            best = max([best, *tried], key=worth)
        return best


# ==== 24. src/nuclei/competition/data.py ==========================================================
# Data: find and read a competition, in zips or folders.
#
# Kaggle's files hold `<id>/images/<file>` and, for training, `<id>/masks/<file>`, one mask a nucleus. This is the small
# reader for those 8-bit PNGs; at home a more careful one gives the same ImageSet.

COMPETITION = "data-science-bowl-2018"  # the slug in Kaggle's addresses and mounts
TRAIN_NAME = "stage1_train"
# Names of a stage's test set on Kaggle, unpacked or with ".zip" behind them.
TEST_NAMES = {1: ("stage1_test",), 2: ("stage2_test_final", "stage2_test")}

IMAGE_OR_MASK = re.compile(r"(?:^|/)([^/]+)/(images|masks)/([^/.][^/]*\.(?:png|tiff?))$", re.IGNORECASE)

def holds_set(folder: Path, name: str) -> bool:
    """Tell whether a folder holds a set of images, zipped or unpacked."""
    return (Path(folder) / f"{name}.zip").is_file() or (Path(folder) / name).is_dir()

def last_stage(folder: Path) -> int:
    """Return 2 where the test images of stage 2 are in the competition's folder, else 1."""
    return 2 if any(holds_set(folder, name) for name in TEST_NAMES[2]) else 1

def find_set(folder: Path, names: Sequence[str]) -> Path:
    """Find the first of `names` in `folder` -> its path: an unpacked folder (it may hold mended masks), else a zip.

    Raises:
        BadInput: the folder is missing, or holds none of the names.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder: name the folder that holds {names[0]}.zip")
    for name in names:
        if holds_set(folder, name):
            return folder / name if (folder / name).is_dir() else folder / f"{name}.zip"
    found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
    mend = f"download the files of the competition {COMPETITION} into it"
    raise BadInput(f"{folder} holds no {names[0]}.zip and no folder {names[0]} (it holds {found}): {mend}")

def read_set(path: Path) -> ImageSet:
    """Read a zip or an unpacked folder in many threads; of images not of 8 bits, those with masks raise BadInput."""
    archive = zipfile.ZipFile(path) if path.is_file() else None
    names = archive.namelist() if archive else [str(file) for file in path.rglob("*") if file.is_file()]

    def decode(name, flags):
        data = archive.read(name) if archive else Path(name).read_bytes()
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)

    def read_one(image_id, files):
        image = decode(files["images"][0], cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH)
        if image is None or image.dtype != np.uint8:
            if files["masks"]:
                raise BadInput(f"{path}: the image of {image_id} is not an 8-bit PNG: get the file again")
            return None
        masks = [decode(name, cv2.IMREAD_GRAYSCALE) for name in files["masks"]]
        return image, paint_labels([np.flatnonzero(mask > 127) for mask in masks], image.shape[:2])

    groups = group_files(names)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        read = dict(zip(groups, pool.map(read_one, groups, groups.values()), strict=True))
    good = {image_id: pair for image_id, pair in read.items() if pair}
    images, labels = ([pair[n] for pair in good.values()] for n in range(2))
    labels = labels if any(files["masks"] for files in groups.values()) else []
    unreadable = dict.fromkeys(read.keys() - good.keys(), "not an 8-bit PNG")
    return ImageSet(list(good), images, labels, [image_kind(image) for image in images], unreadable)

def read_truth(folder: Path) -> ImageSet:
    """Read the images of stage1_test whose truth Kaggle opened for stage 2, in stage1_solution.csv, with labels."""
    import pandas as pd  # late: at home it would only slow every start

    files = sorted(Path(folder).glob("stage1_solution.csv*"))
    if not files or not holds_set(folder, *TEST_NAMES[1]):
        log.warning("%s lacks stage1_test or stage1_solution.csv: stage 2 learns from stage1_train alone", folder)
        return ImageSet([], [], [], [])
    table = pd.read_csv(files[0], dtype=str, keep_default_na=False)
    rles = table[table["Usage"] != "Ignored"].groupby("ImageId")["EncodedPixels"].agg(list)
    images = read_set(find_set(folder, TEST_NAMES[1]))
    images = images.subset(i for i, image_id in enumerate(images.ids) if image_id in rles.index)
    pairs = zip(images.ids, images.images, strict=True)
    return replace(images, labels=[paint_rles(rles[image_id], *image.shape[:2]) for image_id, image in pairs])

def add_truth(train: ImageSet, opened: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Join stage 2's images as competitors had them -> (training images with half of the opened ones, the other half).

    The other half is to choose thresholds on, since it is the test's hand that drew its masks.
    """
    return train.join(opened.subset(range(0, len(opened.ids), 2))), opened.subset(range(1, len(opened.ids), 2))

def paint_rles(rles: Sequence[str], height: int, width: int) -> np.ndarray:
    """Paint run lists that keep the rules -> labels int32 (H, W), shared pixels as `paint_labels` has them."""
    masks = []
    for rle in rles:
        starts, lengths = np.array(rle.split(), int).reshape(-1, 2).T
        masks.append(np.repeat(starts - 1 - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum()))
    return np.ascontiguousarray(paint_labels(masks, (width, height)).T)  # they count down the columns

def group_files(names: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Group file names: id -> {"images": [names], "masks": [names]}, all in order."""
    groups: dict[str, dict[str, list[str]]] = {}
    for name in sorted(names):
        match = IMAGE_OR_MASK.search(name)
        if match and "__MACOSX" not in name:
            entry = groups.setdefault(match[1], {"images": [], "masks": []})
            entry[match[2].lower()].append(name)
    return dict(sorted(groups.items()))

def paint_labels(masks: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Paint masks, each the flat indices of its pixels -> labels int32 (H, W).

    A shared pixel goes to the smaller mask, since a small nucleus loses more by it. Ids are 1..n in the order of
    `masks`.
    """
    labels = np.zeros(shape, np.int32)
    for index in sorted(range(len(masks)), key=lambda i: -masks[i].size):
        labels.flat[masks[index]] = index + 1
    return labels


# ==== 25. src/nuclei/competition/submission.py ====================================================
# Submission: label images to the rows of Kaggle's CSV.
#
# A nucleus is written as a run list "start length start length ...", which goes down the columns and counts pixels from
# 1: pixel 1 is the top left one, pixel 2 the one below it, pixel H + 1 the top of the second column
# (https://www.kaggle.com/competitions/data-science-bowl-2018/overview/evaluation).

SUBMISSION_HEADER = ["ImageId", "EncodedPixels"]

def encode_labels(labels: np.ndarray) -> list[str]:
    """Encode each nucleus of `labels` (H, W) as a run list, by ascending label.

    Labels may have gaps; an image without nuclei gives []. Every pixel carries one label, so the run lists cannot
    overlap, which Kaggle would refuse. A boolean mask counts as one nucleus.
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

def make_rows(image_id: str, labels: np.ndarray) -> list[tuple[str, str]]:
    """Make an image's rows: labels int32 (H, W) -> [(ImageId, EncodedPixels)], one a nucleus, or one without runs."""
    return [(image_id, rle) for rle in encode_labels(labels) or [""]]

def write_submission(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Write the rows under Kaggle's header, whole or not at all."""
    write_csv(path, SUBMISSION_HEADER, rows)


# ==== 26. src/nuclei/run/stopwatch.py =============================================================
# Stopwatch: what each stage of a run costs.

class Stopwatch:
    """The seconds of each stage, its images where it counts them, and the peak memory by its end."""

    def __init__(self) -> None:
        self.stages: dict[str, tuple[float, int, float]] = {}

    @contextmanager
    def stage(self, name: str, images: int = 0) -> Iterator[None]:
        """Take the time of what runs in this context."""
        start = time.monotonic()
        yield
        self.stages[name] = (time.monotonic() - start, images, peak_memory())

    def report(self, path: Path) -> None:
        """Log the table, and write it as a CSV."""
        lines = [f"{'stage':<10} {'seconds':>8} {'images':>7} {'images/s':>9}"]
        for name, (seconds, images, _) in self.stages.items():
            counts = f"{images:>7} {images / max(seconds, 1e-9):>9.1f}" if images else ""
            lines.append(f"{name:<10} {seconds:>8.1f} {counts}".rstrip())
        log.info("%s\npeak memory %.1f GB", "\n".join(lines), peak_memory())
        rows = [(name, f"{seconds:.1f}", images, f"{gb:.2f}") for name, (seconds, images, gb) in self.stages.items()]
        write_csv(path, ("stage", "seconds", "images", "peak_gb"), rows)


# ==== 27. src/nuclei/run/predictions.py ===========================================================
# Predictions: the rows of every test image, which get better as the network does.

class Predictions:
    """What is found in every test image, nothing at first: {image id: (rows, the confidence of each nucleus)}.

    Args:
        test: an ImageSet; its unreadable images keep their empty rows.
    """

    def __init__(self, test: ImageSet):
        self.images = dict(zip(test.ids, test.images, strict=True))
        nothing = np.zeros((1, 1), np.int32)
        self.found: dict = {image_id: (make_rows(image_id, nothing), []) for image_id in [*test.ids, *test.unreadable]}
        self.order = list(test.ids)  # what was found the longest ago comes first

    def improve(
        self, segmenter: Segmenter, minutes: float = math.inf, views: int | None = None, keep: Callable | None = None
    ) -> int:
        """Predict the images that wait the longest, as many as the minutes allow -> how many.

        While the network sees an image, the nuclei of the one before are found beside it. An image that cannot be
        predicted keeps what was found in it, and costs a warning.

        Args:
            views: see `Segmenter.segment`.
            keep: called with the id of each image that was predicted.
        """
        deadline = time.monotonic() + 60 * minutes
        done, failed = 0, 0
        with ThreadPoolExecutor(1) as pool:
            reached = takewhile(lambda _: time.monotonic() < deadline, progress(self.order, "predict"))
            ahead = ((image_id, self._start(segmenter, image_id, views, pool)) for image_id in reached)
            for image_id, job in one_behind(ahead):
                try:
                    self.found[image_id] = job.result()
                except Exception as error:
                    failed += 1
                    if failed == len(self.images):  # every image failed: the cause is elsewhere (network, memory)
                        raise
                    log.warning("%s could not be predicted and keeps its earlier rows: %r", image_id, error)
                else:
                    if keep:
                        keep(image_id)
                done += 1
        self.order = self.order[done:] + self.order[:done]
        return done

    def _start(self, segmenter, image_id, views, pool):
        """Run the network on an image -> a Future of what is found in it; an error comes out of the Future, too."""
        try:
            return pool.submit(self._find, segmenter, image_id, *segmenter.look(self.images[image_id], views))
        except Exception as error:
            failed: Future = Future()
            failed.set_exception(error)
            return failed

    def _find(self, segmenter, image_id, probs, zoom):
        labels, confidences = segmenter.find(self.images[image_id], probs, zoom)
        return make_rows(image_id, labels), [round(one, 3) for one in confidences.tolist()]

    def take(self, found: dict) -> None:
        """Take what an earlier run found; those images need no prediction any more."""
        self.found |= found
        self.order = [image_id for image_id in self.order if image_id not in found]

    def write(self, folder: Path) -> None:
        """Write submission.csv, and confidence.csv with a row for each nucleus in it, each whole or not at all."""
        ids = sorted(self.found)
        write_submission(folder / SUBMISSION_FILE, [row for image_id in ids for row in self.found[image_id][0]])
        rows = [(image_id, *pair) for image_id in ids for pair in enumerate(self.found[image_id][1], start=1)]
        write_csv(folder / CONFIDENCE_FILE, ("ImageId", "nucleus", "confidence"), rows)


# ==== 28. src/nuclei/run/main.py ==================================================================
# Main: training images and test images -> a trained network and submission.csv.

EARLY_SHARE = 0.02  # share of the training's minutes for each prediction on the way

def run_competition(
    config: Config, train: ImageSet, tuning: ImageSet, test: ImageSet, folder: Path, keeper: Keeper, watch: Stopwatch
) -> Segmenter:
    """Train, predict the test images and write into `folder` on the way -> the Segmenter.

    Each check on the way leaves a submission.csv, which a better one replaces; it is whole at any moment.

    Args:
        train, tuning: images with labels, see `train_segmenter`.
        test: images to predict.
        folder: an existing folder; docs/architecture.md lists what it holds in the end.
        keeper: what to resume from.
        watch: takes the time of each stage.
    """
    predictions = Predictions(test)

    def predict_early(segmenter, is_last):
        if is_last:
            return
        done = predictions.improve(segmenter, EARLY_SHARE * config.train_minutes, views=1)
        predictions.write(folder)
        log.info("%s has what these weights find in %d of %d images", SUBMISSION_FILE, done, len(test.ids))

    with watch.stage("train"):
        segmenter = train_segmenter(config, train, tuning, folder, keeper, predict_early)
    with watch.stage("predict", len(test.ids)):
        late = _predict_test(predictions, segmenter, folder, keeper)
    if late:
        log.warning("time budget spent (tta_minutes %g): %d images keep earlier rows", config.tta_minutes, late)
    for image_id, why in test.unreadable.items():
        log.warning("%s gets an empty row: %s", image_id, why)
    nuclei = sum(len(confidences) for _, confidences in predictions.found.values())
    log.info("%s: %d nuclei in %d images", SUBMISSION_FILE, nuclei, len(predictions.found))
    return segmenter

def train_segmenter(
    config: Config,
    train: ImageSet,
    tuning: ImageSet,
    folder: Path,
    keeper: Keeper,
    on_check: Callable[[Segmenter, bool], float | None],
    start: list | None = None,
) -> Segmenter:
    """Train on images with labels, and leave weights, settings and log in `folder` -> the Segmenter.

    The weights are the last ones: a half-trained network would win over the finished one by noise.

    Args:
        train: what the network learns from.
        tuning: what chooses the thresholds; where there are none, the config's hand gives them.
        on_check: called at each check, with the Segmenter as it is and whether this is the last check; it may return a
            score for the log.
        start: the weights to begin with, see `train_model`.
    """
    set_up_device()
    precision = keras.mixed_precision.dtype_policy().name
    log.info("%d images to train on, %d to choose thresholds on, in %s", len(train.ids), len(tuning.ids), precision)
    hand = HANDS[config.data_hand]

    def check(network, is_last):
        return on_check(Segmenter(network, hand, config), is_last)

    model = train_model(config, train, folder / LOG_FILE, keeper, check, start)
    segmenter, origin = Segmenter(predictor(model), hand, config), f"for masks as {config.data_hand}'s"
    if tuning.ids:
        origin = f"chosen on {len(tuning.ids)} images"
        segmenter = replace(segmenter, thresholds=_choose_thresholds(tuning, segmenter, keeper))
    save_run(folder, model, segmenter.thresholds, origin, config)
    return segmenter

def _choose_thresholds(tuning, segmenter, keeper):
    saved = keeper.load("thresholds")
    if saved:
        return {look: Thresholds(**values) for look, values in saved[0].items()}
    chosen = Tuner(tuning, segmenter).choose(np.ones(len(tuning.ids), bool))
    values = {look: asdict(one) for look, one in chosen.items()}
    for look, ones in values.items():
        log.info("thresholds, %s: %s", look, ", ".join(f"{name} {value:g}" for name, value in ones.items()))
    keeper.save("thresholds", values)
    return chosen

def _predict_test(predictions, segmenter, folder, keeper):
    """Predict every test image, or resume -> how many images the time did not reach."""
    found, _ = keeper.load("prediction") or ({}, {})
    if found:
        log.info("resuming after %d predicted images", len(found))
    predictions.take(found)
    kept_at = time.monotonic()

    def keep(image_id):
        nonlocal kept_at
        found[image_id] = predictions.found[image_id]
        if time.monotonic() - kept_at >= REMEMBER_SECONDS:
            predictions.write(folder)
            keeper.save("prediction", found)
            kept_at = time.monotonic()

    done = predictions.improve(segmenter, segmenter.config.tta_minutes, keep=keep)
    predictions.write(folder)
    return len(predictions.order) - done


# ==== 29. src/nuclei/run/entry.py =================================================================
# Entry: what Kaggle runs, its settings from the environment.
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
# python -m nuclei.run.entry runs the same from the sources.

def run_kernel(environ: Mapping[str, str]) -> None:
    """Read settings and data, and run. Every error is raised: Kaggle calls a run that swallows one complete."""
    start_log()
    log.info("sources %s; %s", globals().get("SOURCE_HASH", "not bundled"), list_versions())
    config = read_config(environ)
    data = find_mounted(Path(environ.get("NUCLEI_INPUT", "/kaggle/input")))
    stage = read_stage(environ, data)
    working = Path(environ.get("NUCLEI_WORKING", "/kaggle/working"))
    report_gpus()
    log.info("data %s, stage %d, output %s; %s", data, stage, working, config)
    watch = Stopwatch()
    with watch.stage("read test"):
        test = read_set(find_set(data, TEST_NAMES[stage]))
    # A valid submission without a nucleus, in case the session ends before a better one is there.
    if not (working / SUBMISSION_FILE).exists():
        Predictions(test).write(working)
    with watch.stage("read train"):
        train = read_set(find_set(data, (TRAIN_NAME,)))
    train, tuning = add_truth(train, read_truth(data)) if stage == 2 else (train, train.subset([]))
    run_competition(config, train, tuning, test, working, Keeper(), watch)
    watch.report(working / STAGES_FILE)

def start_log() -> None:
    """Log to stdout, a line a record, flushed as it comes, whatever the libraries set up before."""
    form, clock = "%(asctime)s %(message)s", "%H:%M:%S"
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format=form, datefmt=clock, force=True)

def list_versions() -> str:
    """List the versions of what computes, in one line."""
    backend = keras.backend.backend()
    modules = (sys.modules[backend], keras, np, scipy, skimage, cv2)
    return f"python {sys.version.split()[0]}, " + ", ".join(f"{m.__name__} {m.__version__}" for m in modules)

def report_gpus() -> None:
    """Log the GPUs; hours on a CPU should not come as a surprise."""
    if gpus := list_gpus():
        log.info("GPUs: %s", ", ".join(gpus))
        return
    log.warning("NO GPU: a CPU takes far longer. On Kaggle, stop, and set machine_shape NvidiaTeslaT4 in the metadata")

def read_config(environ: Mapping[str, str]) -> Config:
    """Make the Config that NUCLEI_PRESET, _MINUTES, _STEPS and _SEED describe; BadInput names a wrong variable."""
    preset = environ.get("NUCLEI_PRESET", "kaggle")
    if preset not in PRESETS:
        raise BadInput(f"NUCLEI_PRESET={preset} is not a preset: choose one of {', '.join(PRESETS)}")
    changes: dict[str, Any] = {}
    for name, kind in (("minutes", float), ("steps", int), ("seed", int)):
        variable = f"NUCLEI_{name.upper()}"
        if variable in environ:
            try:
                changes[f"train_{name}"] = kind(environ[variable])
            except ValueError:
                raise BadInput(f"{variable}={environ[variable]} is not a number of the right kind") from None
    config = replace(PRESETS[preset], **changes)
    if (minutes := config.train_minutes) > config.most_minutes:
        raise BadInput(f"NUCLEI_MINUTES={minutes:g} leaves no time to predict: at most {config.most_minutes:g}")
    return config

def read_stage(environ: Mapping[str, str], data: Path) -> int:
    """Take NUCLEI_STAGE, or else the last stage whose test images are in `data`."""
    stage = environ.get("NUCLEI_STAGE", str(last_stage(data)))
    if stage not in map(str, TEST_NAMES):
        raise BadInput(f"NUCLEI_STAGE={stage} is not a stage: choose 1 or 2")
    return int(stage)

def find_mounted(mounted: Path) -> Path:
    """Find the folder under `mounted` with the competition's files, which Kaggle has mounted in two places so far.

    Raises:
        BadInput: there is none; the log lists what is there.
    """
    places = [mounted / COMPETITION, mounted / "competitions" / COMPETITION]
    for folder in [*places, mounted, *sorted(path for path in mounted.rglob("*") if path.is_dir())]:
        if holds_set(folder, TRAIN_NAME):
            return folder
    tree = sorted(path.relative_to(mounted).as_posix() for path in mounted.rglob("*"))
    log.error("%s holds %d files and folders\n%s", mounted, len(tree), "\n".join(tree[:200]))
    raise BadInput(f"{mounted} holds no {TRAIN_NAME}.zip at any depth: add the competition {COMPETITION} to the input")

if __name__ == "__main__":
    run_kernel(os.environ)
