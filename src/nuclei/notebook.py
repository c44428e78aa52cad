"""Notebook: pictures of what the run found, under its log: image, prediction and truth, a row for each kind of image.

The kernel as a notebook ends with this chapter; the script does without.
"""

import json
import os
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
from skimage.segmentation import mark_boundaries

from nuclei.__main__ import find_data, read_config
from nuclei.cache import default_cache
from nuclei.config import CONFIG, WEIGHTS
from nuclei.data import TRAIN, find_set, read_set
from nuclei.folds import split_data
from nuclei.inference import segment
from nuclei.kinds import KINDS
from nuclei.metric import average_precision
from nuclei.parallel import predict_step
from nuclei.train import new_model
from nuclei.watershed import Thresholds


def show_pictures(environ):
    """Draws what the weights of a finished run find, beside the truth. The settings are the run's, see the entry."""
    config = read_config(environ)
    working = Path(environ.get("NUCLEI_WORKING", "/kaggle/working"))
    data = find_data(Path(environ.get("NUCLEI_INPUT", "/kaggle/input")))
    model = new_model(config)
    model.load_weights(working / WEIGHTS)
    thresholds = Thresholds(**json.loads((working / CONFIG).read_text())["thresholds"])
    part, images = pick_images(read_set(find_set(data, (TRAIN,)), default_cache()), config)
    figure, axes = plt.subplots(len(images.ids), 3, figsize=(12, 4.2 * len(images.ids)), squeeze=False)
    for row, image, kind, truth in zip(axes, images.images, images.kinds, images.labels, strict=True):
        found, _ = segment(image, partial(predict_step, model), thresholds, config)
        score = average_precision(truth, found)
        titles = (f"{kind} ({part})", f"prediction: {found.max()} nuclei, score {score:.2f}", f"truth: {truth.max()}")
        outlined = [mark_boundaries(image, labels, color=(1, 1, 0)) for labels in (found, truth)]
        for axis, title, picture in zip(row, titles, (image, *outlined), strict=True):
            axis.imshow(picture)
            axis.set_title(title)
            axis.axis("off")
    figure.tight_layout()
    plt.show()


def pick_images(images, config):
    """An ImageSet with labels -> (which part of it, an ImageSet with the first image of each kind in that part).

    The part is the one that the training had the least to do with: held out, else for tuning, else for training.
    """
    parts = zip(("training", "tuning", "held out"), split_data(images, config), strict=True)
    part, shown = [(name, one) for name, one in parts if one.ids][-1]
    return part, shown.subset([shown.kinds.index(kind) for kind in KINDS if kind in shown.kinds])


if __name__ == "__main__":
    show_pictures(os.environ)
