"""Unseen looks: the score on images of a look that the network has never seen, as many of Kaggle's test images are.

    .venv/bin/python benchmarks/studies/unseen_looks.py DIR [--preset cpu] [--fold 6] [--steps 600]
        [--set NAME=VALUE...]

DIR holds stage1_train.zip. Half of its images are fluorescence of 256 x 256 px; fluorescence of other sizes comes from
other microscopes, and looks it. Trains twice without the fold, once on all looks and once without those of other
sizes, neither to learn from nor to choose thresholds on, and scores both on the fold's images: by look, with the mean
difference on the images of unseen looks and its 95 % interval. KERAS_BACKEND=jax or torch runs the same on another
backend.
"""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np
from recipe import read_recipe, recipe_parser

from nuclei.competition.data import TRAIN_NAME
from nuclei.network.parallel import predictor
from nuclei.prediction.metric import average_precision
from nuclei.prediction.progress import progress
from nuclei.prediction.segmenter import Segmenter, set_up_device
from nuclei.prediction.tuning import Tuner
from nuclei.prediction.watershed import HANDS
from nuclei.settings.files import LOG_FILE
from nuclei.training.train import Keeper, train_model
from nuclei_kit.experiments.folds import FOLDS, TUNING_SHARE, split_data
from nuclei_kit.experiments.scoring import mean_interval
from nuclei_kit.files.cache import default_cache
from nuclei_kit.files.reading import find_whole_set, read_images


def main():
    parser = recipe_parser(__doc__, "cpu", 600)
    parser.add_argument("--fold", type=int, default=6)
    args = parser.parse_args()
    config = read_recipe(args, data_folds=FOLDS, data_fold=args.fold, data_tuning=TUNING_SHARE)
    set_up_device()
    images = read_images(find_whole_set(args.data, (TRAIN_NAME,)), default_cache())
    train, tuning, held_out = split_data(images, config.data_folds, config.data_fold, config.data_tuning)
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
    """Train on `train`, choose thresholds on `tuning` -> the score of each held-out image."""
    print(f"{len(train.ids)} images to train on, {len(tuning.ids)} to tune on", flush=True)
    with tempfile.TemporaryDirectory() as out:
        model = train_model(config, train, Path(out, LOG_FILE), Keeper(), lambda network, is_last: None)
    segmenter = Segmenter(predictor(model), HANDS["stage1_train"], config)
    segmenter = replace(segmenter, thresholds=Tuner(tuning, segmenter).choose(np.ones(len(tuning.ids), bool)))
    pairs = list(zip(held_out.images, held_out.labels, strict=True))
    return np.array(
        [average_precision(truth, segmenter.segment(image)[0]) for image, truth in progress(pairs, "score")]
    )


def row(name, which, everything, without):
    """Write a line of the table: the means of two networks' scores over the images that `which` (bool) picks."""
    return f"{name:<32} {which.sum():>6} {everything[which].mean():>13.3f} {without[which].mean():>11.3f}"


if __name__ == "__main__":
    main()
