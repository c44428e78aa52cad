"""One hundred layers: training steps of that network on real crops, its full width, beside the cpu preset's U-Net.

    .venv/bin/python benchmarks/one_hundred_layers.py DIR [--steps 10] [--batch 1] [--crop 128]

DIR holds stage1_train.zip. The networks are compiled as a run compiles them, at a constant learning rate. Prints the
loss of each step, the seconds of the first step, which traces, and of the others, and the peak memory.
"""

import argparse
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from nuclei.competition.data import TRAIN_NAME
from nuclei.network.device import peak_memory
from nuclei.network.parallel import train_step
from nuclei.prediction.segmenter import set_up_device
from nuclei.settings.config import PRESETS
from nuclei.training.train import compile_model, make_crops, new_model
from nuclei_kit.files.cache import default_cache
from nuclei_kit.files.reading import find_whole_set, read_images


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DIR", type=Path)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--crop", type=int, default=128)
    args = parser.parse_args()
    set_up_device()
    images = read_images(find_whole_set(args.data, (TRAIN_NAME,)), default_cache())
    for preset in ("cpu", "kaggle"):
        config = replace(PRESETS[preset], train_batch=args.batch, train_crop=args.crop)
        keras.utils.set_random_seed(config.train_seed)
        model = compile_model(new_model(config), config)
        model.optimizer.learning_rate = config.train_rate
        crops, losses, seconds = make_crops(config, images), [], []
        for index in range(args.steps):
            batch = crops.batch(index)
            start = time.monotonic()
            losses.append(float(train_step(model, *batch)))
            seconds.append(time.monotonic() - start)
        print(f"{model.name}, {model.count_params():,} weights: loss {' '.join(f'{loss:.3f}' for loss in losses)}")
        print(f"  first step {seconds[0]:.1f} s, then {statistics.median(seconds[1:]):.2f} s a step", end=" ")
        print(f"of {args.batch} crops of {config.train_crop} px; peak memory {peak_memory():.1f} GB", flush=True)


if __name__ == "__main__":
    main()
