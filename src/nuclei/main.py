"""Main: the competition's files -> a trained network -> submission.csv, with a table of what it cost."""

import csv
import io
import json
import os
import shutil
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import cv2
import keras
import numpy as np
from tqdm import tqdm

from nuclei.config import BadInput, log
from nuclei.data import TEST_NAMES, TRAIN, default_cache, find_set, read_set
from nuclei.device import choose_precision, peak_memory
from nuclei.folds import split_data
from nuclei.kinds import KINDS
from nuclei.metric import average_precision
from nuclei.submission import make_rows, write_submission, write_whole
from nuclei.train import segment, train_model

WEIGHTS, CONFIG, LOG, HELD_OUT, SUBMISSION = (
    "model.weights.h5",
    "config.json",
    "log.csv",
    "held_out.csv",
    "submission.csv",
)


class Stopwatch:
    """What each stage of a run took: seconds, and images a second where it counts them."""

    def __init__(self):
        self.stages = {}

    @contextmanager
    def stage(self, name, images=0):
        start = time.monotonic()
        yield
        self.stages[name] = (time.monotonic() - start, images)

    def table(self):
        lines = [f"{'stage':<10} {'seconds':>8} {'images':>7} {'images/s':>9}"]
        for name, (seconds, images) in self.stages.items():
            counts = f"{images:>7} {images / max(seconds, 1e-9):>9.1f}" if images else ""
            lines.append(f"{name:<10} {seconds:>8.1f} {counts}".rstrip())
        lines.append(f"peak memory {peak_memory():.1f} GB")
        return "\n".join(lines)


def run_competition(config, data, out, stage=1):
    """Trains on the competition in `data`, predicts its test images and writes `out`/submission.csv.

    What an earlier run left in `out` stays until this one is done.

    Args:
        config: a Config.
        data: folder with Kaggle's files.
        out: folder of the run; see the README for what it holds in the end.
        stage: 1 or 2, whose test images to predict.

    Returns:
        The path of submission.csv.

    Raises:
        BadInput: about the data or the config, before anything is trained.
    """
    watch = Stopwatch()
    with watch.stage("read test"):  # first: a broken zip must not cost a training
        test = read_set(find_set(data, TEST_NAMES[stage]), default_cache())
    network, thresholds, working = _train(config, data, out, watch)
    with watch.stage("predict", len(test.ids)):
        rows = predict_rows(test, network, thresholds, config)
    write_submission(working / SUBMISSION, rows)
    _publish(working, out)
    _report(test.faults, watch)
    return Path(out) / SUBMISSION


def train_competition(config, data, out):
    """As `run_competition`, without the test images: leaves weights, config and logs in `out`."""
    watch = Stopwatch()
    _, _, working = _train(config, data, out, watch)
    _publish(working, out)
    _report({}, watch)


def _train(config, data, out, watch):
    set_up_device()
    with watch.stage("read train"):
        everything = read_set(find_set(data, (TRAIN,)), default_cache())
        if not everything.labels:
            raise BadInput(f"{data}: {TRAIN} has no masks to learn from: unpack all of {TRAIN}.zip")
        train, tuning, held_out = split_data(everything, config)
    log.info(
        "%d images to train on, %d to tune on, %d held out; precision %s, backend %s",
        len(train.ids),
        len(tuning.ids),
        len(held_out.ids),
        keras.mixed_precision.dtype_policy().name,
        keras.backend.backend(),
    )
    working = Path(out) / "unfinished"
    shutil.rmtree(working, ignore_errors=True)  # of a run that was cut off
    working.mkdir(parents=True)
    with watch.stage("train"):
        model, thresholds, crops = train_model(config, train, tuning, working)
    seconds, _ = watch.stages["train"]
    watch.stages["train"] = (seconds, crops)
    save_config(working / CONFIG, config, thresholds)
    network = model.predict_on_batch
    if held_out.ids:
        with watch.stage("held out", len(held_out.ids)):
            scores = score_images(held_out, network, thresholds, config)
        _write_scores(working / HELD_OUT, held_out, scores)
        log.info(
            "score on held-out images, fold %d of %d\n%s",
            config.data_fold,
            config.data_folds,
            score_table(held_out.kinds, scores),
        )
    return network, thresholds, working


def set_up_device():
    """Precision by device; OpenCV on one thread, since the crops' threads and the network share the cores."""
    keras.mixed_precision.set_global_policy(choose_precision())
    cv2.setNumThreads(1)


def predict_rows(test, network, thresholds, config):
    """The rows of every image in an ImageSet, in the order of their ids; an unreadable one gets its empty row."""
    rows = [row for image_id in test.faults for row in make_rows(image_id, np.zeros((1, 1), np.int32))]
    for image_id, image in zip(progress(test.ids, "predict"), test.images, strict=True):
        rows += make_rows(image_id, segment(image, network, thresholds, config))
    return sorted(rows, key=lambda row: row[0])


def score_images(images, network, thresholds, config):
    """Average precision of each image of an ImageSet with labels, float64 (N,)."""
    pairs = zip(progress(images.images, "score"), images.labels, strict=True)
    return np.array([average_precision(truth, segment(image, network, thresholds, config)) for image, truth in pairs])


def progress(items, name):
    """A live bar in a terminal, silence elsewhere."""
    return tqdm(items, desc=name, unit=" images", disable=None, leave=False)


def score_table(kinds, scores):
    """The mean score by kind and over all, as lines of text."""
    kinds, scores = np.asarray(kinds), np.asarray(scores)
    lines = [f"{'kind':<20} {'images':>6} {'score':>6}"]
    for kind in KINDS:
        here = scores[kinds == kind]
        if here.size:
            lines.append(f"{kind:<20} {here.size:>6} {here.mean():>6.3f}")
    lines.append(f"{'all':<20} {scores.size:>6} {scores.mean():>6.3f}")
    return "\n".join(lines)


def _write_scores(path, images, scores):
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["ImageId", "kind", "score"])
    table.writerows((i, kind, f"{score:.4f}") for i, kind, score in zip(images.ids, images.kinds, scores, strict=True))
    write_whole(path, text.getvalue())


def _publish(working, out):
    """Moves what the run wrote to where the user looks for it."""
    for name in (WEIGHTS, CONFIG, LOG, HELD_OUT, SUBMISSION):
        if (working / name).exists():
            os.replace(working / name, Path(out) / name)
        else:
            (Path(out) / name).unlink(missing_ok=True)  # of an earlier run: it would belong to other weights
    working.rmdir()


def _report(faults, watch):
    log.info("%s", watch.table())
    for image_id, why in faults.items():
        log.warning("%s was left empty: %s", image_id, why)


# ---- a run's settings --------------------------------------------------------------------------


def save_config(path, config, thresholds):
    """Writes the settings, the thresholds and the versions of a run as JSON, beside its weights."""
    versions = {
        "python": sys.version.split()[0],
        "keras": keras.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }
    content = {"config": asdict(config), "thresholds": asdict(thresholds), "versions": versions}
    write_whole(path, json.dumps(content, indent=2) + "\n")
