"""Prediction: what the network that ships takes for a competition's test images and for a large image.

    .venv/bin/python benchmarks/prediction.py [--data DIR] [--side 4000] [--rounds 3]

Each way is timed in turns with the one before it: the network with its normalisations as layers and folded, tiles of
256 px one a call and images as they go through now. With --data, the test images of stage 1: the zoom, the views, the
nuclei, and all of it as `nuclei predict` does it. Where openvino is installed, the network through it, too. Timings on
a shared machine are noisy: `wall` and `cores` (seconds of all cores) are medians over the rounds.
"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2
import keras
import numpy as np

from nuclei.competition.data import TEST_NAMES
from nuclei.network.device import peak_memory
from nuclei.prediction.inference import Tiling, predict_probs
from nuclei.prediction.run_folder import find_run
from nuclei.prediction.tta import VIEWS
from nuclei.run.predictions import Predictions
from nuclei.training.train import new_model
from nuclei.training_data.kinds import standardise
from nuclei_kit.files.cache import default_cache
from nuclei_kit.files.reading import find_whole_set, read_images
from nuclei_kit.files.runs import load_run
from nuclei_kit.own_images.blocks import segment_blocks
from nuclei_kit.own_images.journal import Journal

TILES = Tiling(unit=256, pixels=256**2, overlap=64, fixed=True)  # what came before whole images


def take_turns(ways, rounds, unit, amount):
    """Time ways {name: call} in turns, once for warming up; print each one's medians a unit."""
    costs = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start, used = time.monotonic(), time.process_time()
            way()
            if number:
                costs[name].append((time.monotonic() - start, time.process_time() - used))
    for name, pairs in costs.items():
        wall, cores = (statistics.median(one) / amount for one in zip(*pairs, strict=True))
        print(f"{name:<44} wall {wall:8.3f}  cores {cores:8.3f}  s {unit}", flush=True)


def through_openvino(raw, config):
    """Make OpenVINO's call of a network, {} where it is not installed; it takes float32 layers alone."""
    try:
        import openvino
    except ImportError:
        return {}
    policy = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_global_policy("float32")
    plain = new_model(config)
    keras.mixed_precision.set_global_policy(policy)
    plain.set_weights(raw.get_weights())
    compiled = openvino.Core().compile_model(openvino.convert_model(plain), "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    return {"network: OpenVINO": lambda x: compiled(x)[0]}


def draw_nuclei(side):
    """Draw a large image: uint8 (side, side, 3), discs of about 32 px in rows, a patch of them repeated."""
    rng, patch = np.random.default_rng(0), np.zeros((1000, 1000), np.uint8)
    for y in range(25, 1000, 50):
        for x in range(25, 1000, 50):
            dy, dx, radius = rng.integers((-6, -6, 13), (7, 7, 19)).tolist()
            cv2.circle(patch, (x + dx, y + dy), radius, 120, -1)
    grey = cv2.GaussianBlur((patch + rng.normal(15, 4, patch.shape)).clip(0, 255).astype(np.uint8), (0, 0), 1)
    count = -(-side // 1000)
    return np.tile(np.repeat(grey[..., None], 3, axis=2), (count, count, 1))[:side, :side].copy()


def time_images(segmenter, raw, images, rounds):
    """Time the steps of a prediction of a competition's images, and all of them together."""
    zooms = [segmenter.fit_zoom(image) for image in images.images]
    looks = [(image, segmenter.predict(image, zoom), zoom) for image, zoom in zip(images.images, zooms, strict=True)]
    views = VIEWS[: segmenter.config.tta_views]

    def predict_tiles():
        for image, _, zoom in looks:
            predict_probs(standardise(image), raw.predict_on_batch, TILES, views, zoom)

    ways = {
        "the zoom": lambda: [segmenter.fit_zoom(image) for image in images.images],
        f"{len(views)} views, tiles of 256 px, not folded": predict_tiles,
        f"{len(views)} views": lambda: [segmenter.predict(image, zoom) for image, _, zoom in looks],
        "the nuclei": lambda: [segmenter.find(*look) for look in looks],
        "all of it": lambda: Predictions(images).improve(segmenter),
    }
    take_turns(ways, rounds, f"for {len(looks)} images", 1)


def time_blocks(segmenter, side, views):
    """Time the segmentation of a large drawn image, once."""
    image = draw_nuclei(side)
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder, "blocks.journal"))
        segmenter = replace(segmenter, config=replace(segmenter.config, tta_views=views))
        start, used = time.monotonic(), time.process_time()
        segment_blocks(image, segmenter, journal, "drawn")
        wall, cores = time.monotonic() - start, time.process_time() - used
    megapixels = side**2 / 1e6
    print(
        f"{f'{side} x {side} px, {views} views':<44} wall {wall / megapixels:8.3f}  cores {cores / megapixels:8.3f}  "
        f"s a megapixel; peak memory {peak_memory():.1f} GB",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the competition's folder")
    parser.add_argument("--side", type=int, default=4000, help="px of the large image")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    segmenter = load_run()
    raw = new_model(segmenter.config)
    raw.load_weights(find_run()[0])
    x = np.random.default_rng(0).random((1, 512, 512, 3), np.float32)
    networks = {"network: normalisation in layers": raw.predict_on_batch, "network: folded": segmenter.network}
    networks |= through_openvino(raw, segmenter.config)
    ways = {name: lambda network=network: [network(x) for _ in range(5)] for name, network in networks.items()}
    take_turns(ways, args.rounds, "a megapixel", 5 * x.size / 3e6)
    for views in (1, 4):
        time_blocks(segmenter, args.side, views)
    if args.data:
        time_images(segmenter, raw, read_images(find_whole_set(args.data, TEST_NAMES[1]), default_cache()), args.rounds)
    print(f"{keras.mixed_precision.dtype_policy().name}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
