"""Training: crops a second, the cpu preset's U-Net beside a plain one of the same width, in turns in one run.

    .venv/bin/python benchmarks/training.py [--rounds 5] [--steps 4]

The peer is Ronneberger's shape at full resolution: two convolutions a level both ways, skips concatenated. Timings on
a shared machine are noisy, so the two take turns, and the medians and their ratio are printed.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import Input, Model, layers

from nuclei.network.device import peak_memory
from nuclei.network.parallel import train_step
from nuclei.prediction.segmenter import set_up_device
from nuclei.settings.config import PRESETS
from nuclei.training.train import compile_model, new_model


def plain_unet(width, depth, outputs):
    """Build the usual Keras U-Net with batch normalisation."""

    def block(x, filters):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
            x = layers.Activation("relu")(layers.BatchNormalization()(x))
        return x

    inputs = x = Input((None, None, 3))
    skips = []
    for level in range(depth):
        x = block(x, width * 2**level)
        skips.append(x)
        x = layers.MaxPooling2D(2)(x)
    x = block(x, width * 2**depth)
    for level in reversed(range(depth)):
        x = layers.Conv2DTranspose(width * 2**level, 2, strides=2)(x)
        x = block(layers.Concatenate()([skips[level], x]), width * 2**level)
    return Model(inputs, layers.Conv2D(outputs, 1, activation="sigmoid", dtype="float32")(x))


def crops_per_second(model, x, y, steps):
    """Time a few steps of training."""
    start = time.monotonic()
    for _ in range(steps):
        train_step(model, x, y)
    return steps * len(x) / (time.monotonic() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    args = parser.parse_args()
    set_up_device()
    config = PRESETS["cpu"]
    rng = np.random.default_rng(0)
    x = rng.random((config.train_batch, config.train_crop, config.train_crop, 3), np.float32)
    y = np.concatenate([(x > 0.5).astype(np.float32), np.ones((*x.shape[:3], 1), np.float32)], axis=-1)
    models = {"cpu preset": new_model(config), "plain U-Net": plain_unet(config.model_width, config.model_depth, 3)}
    models = {name: compile_model(model, config) for name, model in models.items()}
    speeds = {name: [] for name in models}
    for model in models.values():
        train_step(model, x, y)  # traces
    for _ in range(args.rounds):
        for name, model in models.items():
            speeds[name].append(crops_per_second(model, x, y, args.steps))
    for name, model in models.items():
        print(
            f"{name:<12} {model.count_params():>11,} weights  {statistics.median(speeds[name]):>6.2f} crops/s (median)"
        )
    ratios = [a / b for a, b in zip(*speeds.values(), strict=True)]
    print(
        f"ratio {statistics.median(ratios):.2f} (median of {args.rounds} pairs, {min(ratios):.2f} to {max(ratios):.2f})"
    )
    print(f"{keras.mixed_precision.dtype_policy().name}, {os.cpu_count()} cores, peak memory {peak_memory():.1f} GB")


if __name__ == "__main__":
    main()
