"""The score on images of a look that the network has never learned from, as many of Kaggle's test images are.

    .venv/bin/python benchmarks/unseen_looks.py DIR [--preset cpu] [--fold 6] [--steps 600] [--set NAME=VALUE...]

DIR holds stage1_train.zip. Half of its images are fluorescence of 256 x 256 px; fluorescence of other sizes comes from
other microscopes, and looks it. Trains twice without the fold, once on all looks and once without those of other
sizes, neither to learn from nor to choose thresholds on, and scores both on the fold's images: by look, with the mean
difference on the images of unseen looks and its 95 % interval. KERAS_BACKEND=jax or torch runs the same on another
backend.
"""

import argparse
import logging
import os
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np

from nuclei.competition.data import TRAIN
from nuclei.network.parallel import predict_step
from nuclei.prediction.inference import segment
from nuclei.prediction.metric import average_precision
from nuclei.prediction.progress import progress
from nuclei.prediction.segmenter import set_up_device
from nuclei.settings.config import PRESETS
from nuclei.training.train import train_model
from nuclei.training_data.folds import split_data
from nuclei_kit.experiments.experiments import change_settings
from nuclei_kit.experiments.scoring import mean_interval
from nuclei_kit.files.cache import default_cache
from nuclei_kit.files.reading import find_whole_set, read_images


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--fold", type=int, default=6)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of src/nuclei/settings/config.py"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    set_up_device()
    preset = replace(PRESETS[args.preset], data_folds=8, data_fold=args.fold, train_steps=args.steps)
    config = change_settings(preset, args.set)
    train, tuning, held_out = split_data(read_images(find_whole_set(args.data, (TRAIN,)), default_cache()), config)
    everything = score_recipe(config, train, tuning, held_out)
    without = score_recipe(config, pick(train, is_common), pick(tuning, is_common), held_out)

    kinds = list(zip(held_out.images, held_out.kinds, strict=True))
    looks = np.array([f"{kind} {image.shape[0]} x {image.shape[1]}" for image, kind in kinds])
    unseen = np.array([not is_common(*one) for one in kinds])
    print(f"{'look':<32} {'images':>6} {'learned from':>13} {'never seen':>11}")
    for look in sorted(set(looks[unseen])):
        print(row(look, looks == look, everything, without))
    print(row("all of these", unseen, everything, without))
    print(row("all others, seen by both", ~unseen, everything, without))
    differences = (without - everything)[unseen]
    low, high = mean_interval(differences)
    print(f"never seen - learned from: {differences.mean():+.4f}, 95 % [{low:+.4f}, {high:+.4f}], in pairs")


def is_common(image, kind):
    """Whether an image is of the looks that both trainings see: all but fluorescence of other sizes."""
    return not kind.startswith("fluorescence") or image.shape[:2] == (256, 256)


def pick(images, wanted):
    """The images of an ImageSet for which `wanted` (image, kind) holds."""
    pairs = zip(images.images, images.kinds, strict=True)
    return images.subset([index for index, pair in enumerate(pairs) if wanted(*pair)])


def score_recipe(config, train, tuning, held_out):
    """A network trained on `train`, weights and thresholds chosen on `tuning` -> its score of each held-out image."""
    print(f"{len(train.ids)} images to train on, {len(tuning.ids)} to tune on", flush=True)
    with tempfile.TemporaryDirectory() as out:
        model, thresholds, _ = train_model(config, train, tuning, Path(out), lambda *_: None)
    network = partial(predict_step, model)
    pairs = list(zip(held_out.images, held_out.labels, strict=True))
    return np.array(
        [
            average_precision(truth, segment(image, network, thresholds, config)[0])
            for image, truth in progress(pairs, "score")
        ]
    )


def row(name, which, everything, without):
    """A line of the table: the means of two networks' scores over the images that `which` (bool) picks."""
    return f"{name:<32} {which.sum():>6} {everything[which].mean():>13.3f} {without[which].mean():>11.3f}"


if __name__ == "__main__":
    main()
