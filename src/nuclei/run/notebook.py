"""Notebook: pictures of what the run found: image, prediction and truth, a row for each kind of image.

The kernel as a notebook ends with this chapter; the script does without.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
from skimage.segmentation import mark_boundaries

from nuclei.competition.data import TRAIN, find_set, read_set
from nuclei.prediction.metric import average_precision
from nuclei.prediction.segmenter import Segmenter
from nuclei.run.entry import find_mounted
from nuclei.settings.config import Config
from nuclei.training_data.folds import split_data
from nuclei.training_data.images import ImageSet
from nuclei.training_data.kinds import KINDS


def show_pictures(environ: Mapping[str, str]) -> None:
    """Draw what the network of a finished run finds, beside the truth. `environ`: as the entry's."""
    segmenter = Segmenter.load(environ.get("NUCLEI_WORKING", "/kaggle/working"))
    data = find_mounted(Path(environ.get("NUCLEI_INPUT", "/kaggle/input")))
    part, images = pick_images(read_set(find_set(data, (TRAIN,))), segmenter.config)
    figure, axes = plt.subplots(len(images.ids), 3, figsize=(12, 4.2 * len(images.ids)), squeeze=False)
    for row, image, kind, truth in zip(axes, images.images, images.kinds, images.labels, strict=True):
        found, _ = segmenter.segment(image)
        score = average_precision(truth, found)
        titles = (f"{kind} ({part})", f"prediction: {found.max()} nuclei, score {score:.2f}", f"truth: {truth.max()}")
        outlined = [mark_boundaries(image, labels, color=(1, 1, 0)) for labels in (found, truth)]
        for axis, title, picture in zip(row, titles, (image, *outlined), strict=True):
            axis.imshow(picture)
            axis.set_title(title)
            axis.axis("off")
    figure.tight_layout()
    plt.show()


def pick_images(images: ImageSet, config: Config) -> tuple[str, ImageSet]:
    """Pick what to show of images with labels -> (the part's name, the first image of each kind in that part).

    The part is the one that the training had the least to do with: held out, else for tuning, else for training.
    """
    parts = ("training", "tuning", "held out")
    split = split_data(images, config.data_folds, config.data_fold, config.data_tuning)
    part, shown = [(name, one) for name, one in zip(parts, split, strict=True) if one.ids][-1]
    return part, shown.subset([shown.kinds.index(kind) for kind in KINDS if kind in shown.kinds])


if __name__ == "__main__":
    show_pictures(os.environ)
