"""Notebook: pictures of what the run found: image, prediction and truth, a row for each kind of image.

The kernel as a notebook ends with this chapter; the script does without.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
from skimage.segmentation import mark_boundaries

from nuclei.competition.data import TRAIN_NAME, find_set, read_set
from nuclei.prediction.metric import average_precision
from nuclei.prediction.segmenter import Segmenter
from nuclei.run.entry import find_mounted
from nuclei.training_data.kinds import KINDS


def show_pictures(environ: Mapping[str, str]) -> None:
    """Draw what the network of a finished run finds in images that it learned from, beside their truth."""
    segmenter = Segmenter.load(environ.get("NUCLEI_WORKING", "/kaggle/working"))
    everything = read_set(find_set(find_mounted(Path(environ.get("NUCLEI_INPUT", "/kaggle/input"))), (TRAIN_NAME,)))
    images = everything.subset([everything.kinds.index(kind) for kind in KINDS if kind in everything.kinds])
    figure, axes = plt.subplots(len(images.ids), 3, figsize=(12, 4.2 * len(images.ids)), squeeze=False)
    for row, image, kind, truth in zip(axes, images.images, images.kinds, images.labels, strict=True):
        found, _ = segmenter.segment(image)
        score = average_precision(truth, found)
        titles = (f"{kind} (training)", f"prediction: {found.max()} nuclei, score {score:.2f}", f"truth: {truth.max()}")
        outlined = [mark_boundaries(image, labels, color=(1, 1, 0)) for labels in (found, truth)]
        for axis, title, picture in zip(row, titles, (image, *outlined), strict=True):
            axis.imshow(picture)
            axis.set_title(title)
            axis.axis("off")
    figure.tight_layout()
    plt.show()


if __name__ == "__main__":
    show_pictures(os.environ)
