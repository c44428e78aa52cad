"""Oracles: where a run loses its points: its score on its tuning images, one thing after another told by the truth.

    .venv/bin/python benchmarks/studies/oracles.py DIR [--weights RUN]

DIR holds stage1_train.zip. Then the score by the nuclei's width, where the network sees the images smaller or larger
than it is used to. One view, the run's own thresholds. On the tuning images, which chose those thresholds, since what
is learned here shapes the next recipe; the held-out ones stay unseen. (A run that set none aside was trained on them.)
"""

import argparse
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np
from scipy import ndimage as ndi
from skimage.segmentation import watershed

from nuclei.competition.data import TRAIN_NAME
from nuclei.prediction.metric import average_precision
from nuclei.prediction.progress import progress
from nuclei.prediction.tuning import FULLNESS_CHOICES
from nuclei.prediction.watershed import find_instances
from nuclei.training_data.kinds import nucleus_diameter
from nuclei.training_data.targets import INTERIOR
from nuclei_kit.experiments.folds import TUNING_SHARE, split_data
from nuclei_kit.files.cache import default_cache
from nuclei_kit.files.reading import find_whole_set, read_images
from nuclei_kit.files.runs import load_run

FACTORS = (0.8, 1.0, 1.25, 1.6)  # of the zoom that the network is used to
WIDTHS = (0, 14, 17, 25, 45, np.inf)  # px, bounds of the table's rows


def split_as_truth(mask, truth):
    """Split a mask bool (H, W) as the true nuclei split it -> labels; what holds none is a nucleus of its own."""
    seeds = np.where(mask, truth, 0)
    parts, count = ndi.label(mask)
    alone = np.setdiff1d(np.arange(1, count + 1), parts[seeds > 0])
    seeds = np.where(np.isin(parts, alone), parts + truth.max(initial=0), seeds)
    return watershed(np.zeros(mask.shape), seeds, mask=mask)


def score_oracles(image, truth, probs, zoom, segmenter):
    """Score one image -> {what the truth tells: score}; probs as predicted at the zoom that fits the true nuclei."""
    thresholds, told = segmenter.thresholds_for(image), probs.copy()
    told[..., INTERIOR] = truth > 0
    choices = [replace(thresholds, interior=value) for value in FULLNESS_CHOICES["interior"]]
    return {
        "nothing": average_precision(truth, segmenter.segment(image, views=1)[0]),
        "the zoom": average_precision(truth, find_instances(probs, thresholds, zoom)),
        "the zoom, the interior threshold of each image": max(
            average_precision(truth, find_instances(probs, one, zoom)) for one in choices
        ),
        "the zoom, how to split what is interior": average_precision(
            truth, split_as_truth(probs[..., INTERIOR] > thresholds.interior, truth)
        ),
        "the zoom, what is interior": average_precision(truth, find_instances(told, thresholds, zoom)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DIR", type=Path)
    parser.add_argument(
        "--weights", metavar="RUN", type=Path, help="folder of a finished run (default: the one that ships)"
    )
    args = parser.parse_args()
    segmenter = load_run(args.weights)
    config = segmenter.config
    images = read_images(find_whole_set(args.data, (TRAIN_NAME,)), default_cache())
    _, tuning, _ = split_data(images, config.data_folds, config.data_fold, config.data_tuning or TUNING_SHARE)
    oracles, widths, scores = [], [], []
    for image, truth in progress(list(zip(tuning.images, tuning.labels, strict=True)), "score"):
        widths.append(nucleus_diameter(truth))
        usual = segmenter.zoom_for(widths[-1])
        seen = {factor: segmenter.predict(image, usual * factor, views=1) for factor in FACTORS}
        thresholds = segmenter.thresholds_for(image)
        found = [find_instances(seen[factor], thresholds, usual * factor) for factor in FACTORS]
        scores.append([average_precision(truth, labels) for labels in found])
        oracles.append(score_oracles(image, truth, seen[1.0], usual, segmenter))
    print(f"{len(widths)} tuning images of {args.weights or 'the network that ships'}\n")
    print("what the truth tells                              score")
    for name in oracles[0]:
        print(f"{name:<48}  {np.mean([one[name] for one in oracles]):.3f}")
    print("\nnuclei's width, px   images" + "".join(f"{f'x {factor:g}':>8}" for factor in FACTORS))
    widths, scores = np.array(widths), np.array(scores)
    for low, high in pairwise(WIDTHS):
        here = (widths >= low) & (widths < high)
        name = f"{low:g} and more" if np.isinf(high) else f"{low:g} to {high:g}"
        if here.any():
            means = "".join(f"{mean:>8.3f}" for mean in scores[here].mean(axis=0))
            print(f"{name:<18}{np.count_nonzero(here):>9}{means}")


if __name__ == "__main__":
    main()
