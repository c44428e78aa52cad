"""Data: find and read a competition, in zips or folders.

Kaggle's files hold `<id>/images/<file>` and, for training, `<id>/masks/<file>`, one mask a nucleus. This is the small
reader for those 8-bit PNGs; at home a more careful one gives the same ImageSet.
"""

import os
import re
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from nuclei.settings.config import BadInput, log
from nuclei.training_data.images import ImageSet
from nuclei.training_data.kinds import image_kind

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
