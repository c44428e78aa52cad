"""StarDist's split of the fluorescence images, where other methods' figures are published: the score on it.

    .venv/bin/python benchmarks/studies/stardist_split.py DIR [--preset kaggle] [--minutes 25 | --steps N]
        [--set NAME=VALUE...] [--out DIR]

DIR holds stage1_train.zip and splits/stardist_dsb2018_{train447,test50}.txt: 446 and 49 of these images are in the
fixed set. Trains on the former, a tenth of them set aside for thresholds, and prints what the network finds in the
latter: precision at each IoU, its mean, and the best published mean (micro-SAM APG, 0.665). KERAS_BACKEND=jax or torch
runs the same on another backend.
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np
from recipe import read_recipe, recipe_parser

from nuclei.competition.data import TRAIN_NAME
from nuclei.network.device import peak_memory
from nuclei.prediction.metric import precision_at_thresholds
from nuclei.prediction.progress import progress
from nuclei.run.main import train_segmenter
from nuclei.training.train import Keeper
from nuclei_kit.experiments.folds import TUNING_SHARE, split_data
from nuclei_kit.experiments.scoring import threshold_table
from nuclei_kit.files.cache import default_cache
from nuclei_kit.files.reading import find_whole_set, read_images

PUBLISHED = 0.665  # micro-SAM APG


def main():
    parser = recipe_parser(__doc__, "kaggle", 0)
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--out", type=Path, help="folder for the weights and the log (default: a temporary one)")
    args = parser.parse_args()
    config = read_recipe(args, data_tuning=TUNING_SHARE, train_minutes=args.minutes)
    everything = read_images(find_whole_set(args.data, (TRAIN_NAME,)), default_cache())
    test = pick(everything, args.data, "test50")
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        train, tuning, _ = split_data(pick(everything, args.data, "train447"), 0, 0, config.data_tuning)
        segmenter = train_segmenter(config, train, tuning, out, Keeper(), lambda segmenter, is_last: None)
    found = [segmenter.segment(image)[0] for image in progress(test.images, "predict")]
    precision = [precision_at_thresholds(*pair) for pair in zip(test.labels, found, strict=True)]
    print(f"{len(test.ids)} images to test on; peak memory of this process {peak_memory():.1f} GB")
    print(threshold_table(np.mean(precision, axis=0)))
    print(f"best published: {PUBLISHED}")


def pick(images, data, name):
    """The images of an ImageSet whose ids splits/stardist_dsb2018_<name>.txt lists."""
    ids = set((data / "splits" / f"stardist_dsb2018_{name}.txt").read_text().split())
    return images.subset([index for index, image_id in enumerate(images.ids) if image_id in ids])


if __name__ == "__main__":
    main()
