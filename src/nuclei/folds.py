"""Folds: parts to train on, to tune on and to hold out, kinds spread evenly and near-duplicates together."""

import cv2
import numpy as np

from nuclei.config import BadInput
from nuclei.data import TRAIN
from nuclei.kinds import KINDS, standardise

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
