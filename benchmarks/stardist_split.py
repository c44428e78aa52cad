"""The score on StarDist's split of the fluorescence images, where other methods' figures are published.

    .venv/bin/python benchmarks/stardist_split.py DIR [--preset kaggle] [--minutes 25 | --steps N]
        [--set NAME=VALUE...] [--out DIR]

DIR holds stage1_train.zip and splits/stardist_dsb2018_{train447,test50}.txt: 446 and 49 of these images are in the
fixed set. Trains on the former, a tenth of them set aside for thresholds, and prints what the network finds in the
latter: precision at each IoU, its mean, and the best published mean (micro-SAM APG, 0.665). KERAS_BACKEND=jax or torch
runs the same on another backend.
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
from nuclei.network.device import peak_memory
from nuclei.network.parallel import predict_step
from nuclei.prediction.inference import segment
from nuclei.prediction.metric import precision_at_thresholds
from nuclei.prediction.progress import progress
from nuclei.prediction.segmenter import set_up_device
from nuclei.run.main import save_config
from nuclei.settings.config import PRESETS
from nuclei.training.train import train_model
from nuclei.training_data.folds import split_data
from nuclei_kit.experiments.experiments import change_settings
from nuclei_kit.experiments.scoring import threshold_table
from nuclei_kit.files.cache import default_cache
from nuclei_kit.files.reading import find_whole_set, read_images

PUBLISHED = 0.665  # micro-SAM APG


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--preset", choices=PRESETS, default="kaggle")
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of src/nuclei/settings/config.py"
    )
    parser.add_argument("--out", type=Path, help="folder for the weights and the log (default: a temporary one)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    set_up_device()
    preset = replace(PRESETS[args.preset], data_folds=0, train_minutes=args.minutes, train_steps=args.steps)
    config = change_settings(preset, args.set)
    everything = read_images(find_whole_set(args.data, (TRAIN,)), default_cache())
    train, tuning, _ = split_data(pick(everything, args.data, "train447"), config)
    test = pick(everything, args.data, "test50")
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        model, thresholds, crops = train_model(config, train, tuning, out, lambda *_: None)
        save_config(out / "config.json", config, thresholds)
    network = partial(predict_step, model)
    found = [segment(image, network, thresholds, config)[0] for image in progress(test.images, "predict")]
    precision = [precision_at_thresholds(*pair) for pair in zip(test.labels, found, strict=True)]
    print(f"{len(train.ids)} images to train on, {len(tuning.ids)} to tune on, {len(test.ids)} to test on")
    print(f"{crops} crops; peak memory of this process {peak_memory():.1f} GB")
    print(threshold_table(np.mean(precision, axis=0)))
    print(f"best published: {PUBLISHED}")


def pick(images, data, name):
    """The images of an ImageSet whose ids splits/stardist_dsb2018_<name>.txt lists."""
    ids = set((data / "splits" / f"stardist_dsb2018_{name}.txt").read_text().split())
    return images.subset([index for index, image_id in enumerate(images.ids) if image_id in ids])


if __name__ == "__main__":
    main()
