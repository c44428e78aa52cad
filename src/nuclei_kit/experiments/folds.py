"""Folds: parts to train on, to tune on and to hold out, near-duplicates together."""

import cv2
import numpy as np

from nuclei.settings.config import BadInput
from nuclei.training_data.images import ImageSet
from nuclei.training_data.kinds import KINDS, standardise

FOLDS = 8  # of stage1_train, one of them held out for measuring
TUNING_SHARE = 0.1  # of the other images, to choose thresholds on
NEAR_DUPLICATE = 0.9  # correlation of two images' thumbnails


def near_duplicates(images: list[np.ndarray]) -> np.ndarray:
    """Group images -> int (N,): one number for all that are copies of each other up to noise, crop jitter and light.

    Two images are copies when their 32x32 thumbnails, blurred and standardised, correlate above NEAR_DUPLICATE;
    copies of copies count. Blank images, which have no pattern to compare, stand alone.
    """
    thumbs = np.stack([_thumbnail(image) for image in images])
    group = np.arange(len(images))
    for a, b in np.argwhere(np.triu(thumbs @ thumbs.T > NEAR_DUPLICATE, 1)):
        group[group == group[b]] = group[a]
    return group


def _thumbnail(image):
    """Make float32 (1024,) of zero mean and unit length."""
    small = standardise(cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)).max(axis=2)
    flat = cv2.GaussianBlur(small, (0, 0), 0.7).astype(np.float32).ravel()
    flat -= flat.mean()
    length = np.linalg.norm(flat)
    return flat / length if length > 32 else np.zeros_like(flat)


def split_folds(kinds: list[str], groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Deal images to folds -> int (N,) in 0..folds-1: each kind spread evenly, no group of near-duplicates split.

    Args:
        kinds: N strings; the stratum of each image.
        groups: int (N,), from `near_duplicates`.
        folds: at least 2.
        seed: of the shuffle.
    """
    strata = np.asarray(kinds)
    numbers = np.random.default_rng(seed).permutation(np.unique(groups))
    sizes = np.array([np.count_nonzero(groups == g) for g in numbers])
    counts = {kind: np.zeros(folds) for kind in KINDS}
    fold = np.zeros(len(kinds), np.int64)
    # Large groups first, while there is room to balance them; the fold with the fewest of the kind takes the next.
    for number in numbers[np.argsort(-sizes, kind="stable")]:
        members = groups == number
        here = counts[strata[members][0]]
        total = np.sum(list(counts.values()), axis=0)
        fold[members] = target = np.lexsort((total, here))[0]
        for kind in strata[members]:
            counts[kind][target] += 1
    return fold


def split_data(images: ImageSet, folds: int, fold: int, tuning: float) -> tuple[ImageSet, ImageSet, ImageSet]:
    """Split an ImageSet with labels -> ImageSets to train on, to tune on (the validation split), and held out.

    The tuning images are dealt from what is not held out; there are none where that has fewer images than parts. The
    deal goes by no seed, so that runs compare.

    Args:
        folds: 2.., of which number `fold` is held out; with 0 nothing is.
        tuning: 0..0.5, the share to tune on.

    Raises:
        BadInput: nothing is left to train on.
    """
    groups = near_duplicates(images.images)
    held_out = np.zeros(len(images.ids), bool)
    if folds:
        held_out = split_folds(images.kinds, groups, folds, 0) == fold
    rest = np.flatnonzero(~held_out)
    parts = max(2, round(1 / tuning)) if tuning else 0
    to_tune = np.zeros(len(rest), bool)
    if parts and len(rest) >= parts:
        to_tune = split_folds([images.kinds[i] for i in rest], groups[rest], parts, 1) == 0
    if to_tune.all():
        raise BadInput(
            f"the {len(images.ids)} training images are too few or too alike to hold some out and train on the rest: "
            "add images, or hold none out, as nuclei run does without --fold"
        )
    return images.subset(rest[~to_tune]), images.subset(rest[to_tune]), images.subset(np.flatnonzero(held_out))
