"""Beside StarDist: training and prediction, images a second, and the score after as many minutes, in one run.

    .venv/bin/python benchmarks/beside_stardist.py DIR [--minutes 5]

DIR holds stage1_train.zip and stage1_test.zip, and for the score stage1_solution.csv. StarDist gets an environment of
its own in build/stardist, made at the first run. Both train on stage1_train for so many minutes, one after the other,
and predict stage1_test's 65 images: StarDist has no weights for every stain that could be had from a package registry.
StarDist's minutes count from its eleventh step, and its thresholds are chosen after them, this kit's within them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from nuclei.competition.data import TEST_NAMES, TRAIN_NAME
from nuclei.prediction.metric import precision_at_thresholds
from nuclei.run.main import train_segmenter
from nuclei.settings.config import PRESETS
from nuclei.settings.files import LOG_FILE
from nuclei.training.train import Keeper
from nuclei_kit.experiments.bench import machine, timed
from nuclei_kit.experiments.folds import split_data
from nuclei_kit.experiments.scoring import find_solution, read_open_images
from nuclei_kit.files.cache import default_cache
from nuclei_kit.files.reading import find_whole_set, read_images
from nuclei_kit.files.runs import load_run

ENVIRONMENT = Path("build/stardist")
PACKAGES = ("stardist==0.9.2", "tensorflow==2.20.0", "tf_keras==2.20.1")
PEER = Path(__file__).with_name("stardist_peer.py")


def stardist_python():
    """Make StarDist's environment where there is none -> its interpreter."""
    python = ENVIRONMENT / "bin/python"
    if not (ENVIRONMENT / ".ready").is_file():
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        (ENVIRONMENT / ".ready").touch()
    return python


def save_images(path, **images):
    """Save lists of arrays of different shapes."""
    arrays = {name: np.empty(len(some), object) for name, some in images.items()}
    for name, some in images.items():
        arrays[name][:] = some
    np.savez(path, **arrays)


def ours(train, test, minutes, folder):
    """Train and predict with this kit -> training images/s, prediction images/s, the labels of the test images."""
    config = replace(PRESETS["cpu"], train_minutes=minutes, train_checks=1)
    parts = split_data(train, 0, 0, config.data_tuning)
    segmenter = train_segmenter(config, parts[0], parts[1], folder, Keeper(), lambda segmenter, is_last: None)
    rows = [line.split(",") for line in (folder / LOG_FILE).read_text().splitlines()[1:]]
    (first, began), (last, ended) = ((int(row[0]), float(row[1])) for row in (rows[0], rows[-1]))
    return config.train_batch * (last - first) / (ended - began), *predict(segmenter, test)


def predict(segmenter, images):
    """Find the nuclei of images one after the other -> images/s, labels."""
    segmenter.segment(images[0])
    seconds, found = timed(lambda: [segmenter.segment(image)[0] for image in images])
    return len(images) / seconds, found


def stardist(train, test, minutes, folder):
    """Do the same with StarDist, in its environment."""
    save_images(folder / "images.npz", train=train.images, labels=train.labels, test=test)
    command = [stardist_python(), PEER, folder, str(minutes)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    rates = json.loads(done.stdout.splitlines()[-1])
    found = np.load(folder / "found.npz", allow_pickle=True)["found"]
    return rates["training"], rates["prediction"], list(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DIR", type=Path)
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, each (default 5)")
    args = parser.parse_args()
    train = read_images(find_whole_set(args.data, (TRAIN_NAME,)), default_cache())
    test = read_images(find_whole_set(args.data, TEST_NAMES[1]), default_cache())
    truth = {}
    if find_solution(args.data, 1):
        opened = read_open_images(args.data)
        truth = dict(zip(opened.ids, opened.labels, strict=True))

    def score(found):
        pairs = [(truth[one], labels) for one, labels in zip(test.ids, found, strict=True) if one in truth]
        return f"{np.mean([precision_at_thresholds(*pair).mean() for pair in pairs]):.3f}" if pairs else ""

    rows = []
    for name, way in ((f"this kit, {args.minutes:g} minutes", ours), (f"StarDist, {args.minutes:g} minutes", stardist)):
        with tempfile.TemporaryDirectory() as folder:
            training, prediction, found = way(train, test.images, args.minutes, Path(folder))
        rows.append((name, f"{training:.1f}", f"{prediction:.1f}", score(found)))
    prediction, found = predict(load_run(), test.images)
    rows.append(("this kit, the network that ships", "", f"{prediction:.1f}", score(found)))
    print(
        f"{machine()}\n\n| | training images/s | prediction images/s | score, {len(truth)} images |\n|---|---|---|---|"
    )
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
