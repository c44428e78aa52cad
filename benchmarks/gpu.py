"""GPU: what an accelerator makes of each network, in images a second and as a share of what its matrix product reaches.

    .venv/bin/python benchmarks/gpu.py [--data DIR] [--seconds 8] [--batch 32] [--crop 256]

On any backend of Keras (KERAS_BACKEND) and any device; on a CPU `--seconds 0.1 --crop 64 --batch 2` is enough to see
that it runs. A training step counts as three forward passes. Without DIR, the crops are a drawn sample's.
"""

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from nuclei.competition.data import TRAIN_NAME
from nuclei.prediction.segmenter import set_up_device
from nuclei.settings.config import PRESETS
from nuclei.training.train import make_crops
from nuclei_kit.experiments.bench import machine, product_rate, training_rates
from nuclei_kit.files.cache import default_cache
from nuclei_kit.files.reading import find_whole_set, read_images
from nuclei_kit.sample.sample import draw_sample

NETWORKS = {
    "U-Net, width 32": PRESETS["cpu"],
    "U-Net, width 64": replace(PRESETS["cpu"], model_width=64),
    "one hundred layers": PRESETS["kaggle"],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seconds", type=float, default=8, help="for each figure")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--crop", type=int, default=256, help="px")
    args = parser.parse_args()
    set_up_device()
    with tempfile.TemporaryDirectory() as scratch:
        if args.data is None:
            draw_sample(Path(scratch))
        images = read_images(find_whole_set(args.data or Path(scratch), (TRAIN_NAME,)), default_cache())
    peak = product_rate(args.seconds)
    print(f"{machine()}: a matrix product reaches {peak / 1e12:.2f} TFLOP/s")
    print(f"batches of {args.batch} crops of {args.crop} px; training images/s\n")
    heads = ("GFLOP an image", "made ahead", "% of product", "as a run", "first step, s")
    print(f"{'network':<20}{''.join(f'{head:>16}' for head in heads)}")
    for name, preset in NETWORKS.items():
        config = replace(preset, train_batch=args.batch, train_crop=args.crop)
        one = training_rates(config, make_crops(config, images), args.seconds)
        figures = one.flop / 1e9, one.ahead, 300 * one.flop * one.ahead / peak, one.as_run, one.first_step
        print(f"{name:<20}{''.join(f'{figure:>16.1f}' for figure in figures)}", flush=True)


if __name__ == "__main__":
    main()
