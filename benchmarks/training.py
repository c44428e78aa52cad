"""Training: where a step of the cpu preset spends its time, and its crops a second beside a plain U-Net's.

    .venv/bin/python benchmarks/training.py [--data DIR] [--rounds 9]

A part costs what a step without it saves: networks with and without it take turns, step by step, and the median of the
differences is printed, since timings on a shared machine are noisy. Without DIR, the crops are a drawn sample's. The
peer is Ronneberger's shape at full resolution: two convolutions a level both ways, skips concatenated.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from keras import Input, Model, layers

from nuclei.competition.data import TRAIN_NAME
from nuclei.network.parallel import train_step
from nuclei.prediction.segmenter import set_up_device
from nuclei.settings.config import PRESETS
from nuclei.training.train import compile_model, make_crops, new_model
from nuclei_kit.experiments.bench import crops_rate, forward_flop, machine, product_rate, timed
from nuclei_kit.files.cache import default_cache
from nuclei_kit.files.reading import find_whole_set, read_images
from nuclei_kit.sample.sample import draw_sample


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


def with_normalisation(make):
    """Build the cpu preset's network, and let `make` make its layers of batch normalisation."""
    with mock.patch("nuclei.network.model.BatchNormalization", make):
        return new_model(PRESETS["cpu"])


def with_optimizer(model, optimizer):
    """Compile a network as a run does, but for its optimiser."""
    as_run = compile_model(model, PRESETS["cpu"])
    one = Model(model.input, model.output)
    one.compile(optimizer, as_run.loss, jit_compile=as_run.jit_compile)
    return one


def take_turns(calls, rounds):
    """Call each in turn -> {name: its seconds, round by round}; a first call of each does not count."""
    seconds = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            spent, _ = timed(call)
            if number:
                seconds[name].append(spent)
    return seconds


def saved(seconds, name, whole="the whole step"):
    """Find the median of what a step without a part saves, seconds."""
    return statistics.median(a - b for a, b in zip(seconds[whole], seconds[name], strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIR", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    set_up_device()
    config = PRESETS["cpu"]
    with tempfile.TemporaryDirectory() as scratch:
        if args.data is None:
            draw_sample(Path(scratch))
        crops = make_crops(
            config, read_images(find_whole_set(args.data or Path(scratch), (TRAIN_NAME,)), default_cache())
        )
    x, y = crops.batch(0)
    bare = new_model(config)
    adam = {"learning_rate": 0.0, "weight_decay": config.train_decay, "global_clipnorm": 1.0}
    networks = {
        "the whole step": compile_model(bare, config),
        "batch normalisation": compile_model(with_normalisation(layers.Identity), config),
        "Keras's own": compile_model(with_normalisation(layers.BatchNormalization), config),
        "the optimiser": with_optimizer(bare, keras.optimizers.SGD(0.0)),
        "AdamW's": with_optimizer(bare, keras.optimizers.AdamW(**adam)),
        "plain U-Net": compile_model(plain_unet(config.model_width, config.model_depth, 3), config),
    }
    calls = {name: lambda model=model: float(train_step(model, x, y)) for name, model in networks.items()}
    seconds = take_turns(calls | {"forward": lambda: bare.predict_on_batch(x)}, args.rounds)
    stream = crops.stream()
    waits = [(timed(lambda: next(stream))[0], calls["the whole step"]()) for _ in range(args.rounds + 4)][4:]
    stream.close()

    step, forward = (statistics.median(seconds[name]) for name in ("the whole step", "forward"))
    normalisation, optimiser = saved(seconds, "batch normalisation"), saved(seconds, "the optimiser")
    slower = -saved(seconds, "Keras's own")
    adam_step = saved(seconds, "the optimiser", "AdamW's")
    crop = 1 / crops_rate(crops, 3.0)
    rows = (
        ("a step, crops made ahead", step, f"best {min(seconds['the whole step']) * 1e3:.0f} ms"),
        ("forward pass", forward, "as in prediction"),
        ("batch normalisation, both ways", normalisation, f"Keras's own: {(normalisation + slower) * 1e3:.0f} ms"),
        ("optimiser: Muon", optimiser, f"AdamW instead: {adam_step * 1e3:.0f} ms"),
        ("backward pass, loss, the rest", step - forward - normalisation - optimiser, "what is left"),
        ("wait for crops, in a run", statistics.median(wait for wait, _ in waits), "beside the step"),
        ("making its crops", config.train_batch * crop, f"of one core; {1 / crop:.0f} crops/s"),
    )
    print(f"{machine()}\nmedians of {args.rounds} turns\n\n| part | ms | % of a step | |\n|---|---|---|---|")
    for name, spent, note in rows:
        print(f"| {name} | {1e3 * spent:.1f} | {100 * spent / step:.0f} | {note} |")
    peak = product_rate(3.0)
    flop = 3 * config.train_batch * forward_flop(bare, config.train_crop)
    print(
        f"\n{flop / 1e9:.1f} GFLOP a step: {100 * flop / step / peak:.0f} % of the {peak / 1e9:,.0f} GFLOP/s", end=" "
    )
    print(f"that a matrix product reaches; in the best step {100 * flop / min(seconds['the whole step']) / peak:.0f} %")
    ratios = [a / b for a, b in zip(seconds["plain U-Net"], seconds["the whole step"], strict=True)]
    print(
        f"the plain U-Net takes {statistics.median(ratios):.1f} times as long ({min(ratios):.1f} to {max(ratios):.1f})"
    )


if __name__ == "__main__":
    main()
