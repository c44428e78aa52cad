"""Ten training steps of the one-hundred-layer network on real crops, its full width, beside the cpu preset's U-Net.

    .venv/bin/python benchmarks/one_hundred_layers.py DIR [--steps 10] [--batch 1] [--crop 128]

DIR holds stage1_train.zip. Prints the loss of each step, the seconds a step, and the
peak memory.
"""

import argparse
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from nuclei.competition.data import TRAIN
from nuclei.network.device import choose_precision, peak_memory
from nuclei.network.loss import weighted_crossentropy_dice
from nuclei.network.optimizer import ADAM_SHARE, ConvMuon
from nuclei.settings.config import PRESETS
from nuclei.training.train import new_model
from nuclei.training_data.batches import Crops
from nuclei_kit.files.cache import default_cache
from nuclei_kit.files.reading import find_whole_set, read_images


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--crop", type=int, default=128)
    args = parser.parse_args()
    keras.mixed_precision.set_global_policy(choose_precision())
    images = read_images(find_whole_set(args.data, (TRAIN,)), default_cache())
    for preset in ("cpu", "kaggle"):
        config = replace(PRESETS[preset], train_batch=args.batch, train_crop=args.crop)
        keras.utils.set_random_seed(config.train_seed)
        model = new_model(config)
        optimizer = ConvMuon(config.train_rate, adam_lr_ratio=ADAM_SHARE, global_clipnorm=1.0)
        # Eagerly: to compile a hundred layers for a CPU takes longer than these steps.
        model.compile(optimizer, weighted_crossentropy_dice, run_eagerly=True)
        crops, losses, seconds = Crops(images.images, images.labels, images.kinds, config), [], []
        for index in range(args.steps):
            batch = crops.batch(index)
            start = time.monotonic()
            model.reset_metrics()
            losses.append(float(model.train_on_batch(*batch)))
            seconds.append(time.monotonic() - start)
        print(f"{model.name}, {model.count_params():,} weights: loss {' '.join(f'{loss:.3f}' for loss in losses)}")
        print(f"  first step {seconds[0]:.1f} s, then {statistics.median(seconds[1:]):.2f} s a step", end=" ")
        print(f"of {args.batch} crops of {config.train_crop} px; peak memory {peak_memory():.1f} GB", flush=True)


if __name__ == "__main__":
    main()
