"""Main: the competition's files -> a trained network -> submission.csv, with a table of what it cost."""

import csv
import io
import json
import math
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial

import cv2
import keras
import numpy as np

from nuclei.cache import default_cache
from nuclei.checkpoint import CHECKPOINT_SECONDS, CHECKPOINTS, digest_images, load_checkpoint, save_checkpoint
from nuclei.config import CONFIDENCE, CONFIG, HELD_OUT, HELD_OUT_NUCLEI, STAGES, SUBMISSION, BadInput, log
from nuclei.data import TEST_NAMES, TRAIN, find_set, read_set
from nuclei.device import choose_precision, peak_memory
from nuclei.folds import split_data
from nuclei.inference import segment
from nuclei.kinds import KINDS
from nuclei.metric import average_precision
from nuclei.parallel import predict_step
from nuclei.progress import progress
from nuclei.submission import make_rows, write_submission, write_whole
from nuclei.train import train_model

EARLY_SHARE = 0.02  # of the training's minutes, for each prediction on the way


class Stopwatch:
    """What each stage of a run took: seconds, images where it counts them, and the peak memory by its end."""

    def __init__(self):
        self.stages = {}
        self.memory = {}

    @contextmanager
    def stage(self, name, images=0):
        start = time.monotonic()
        yield
        self.stages[name] = (time.monotonic() - start, images)
        self.memory[name] = peak_memory()

    def table(self):
        lines = [f"{'stage':<10} {'seconds':>8} {'images':>7} {'images/s':>9}"]
        for name, (seconds, images) in self.stages.items():
            counts = f"{images:>7} {images / max(seconds, 1e-9):>9.1f}" if images else ""
            lines.append(f"{name:<10} {seconds:>8.1f} {counts}".rstrip())
        lines.append(f"peak memory {peak_memory():.1f} GB")
        return "\n".join(lines)

    def write(self, path):
        """The same as a CSV, whole or not at all."""
        rows = [
            (name, f"{seconds:.1f}", images, f"{self.memory[name]:.2f}")
            for name, (seconds, images) in self.stages.items()
        ]
        _write_csv(path, ("stage", "seconds", "images", "peak_gb"), rows)


class Predictions:
    """What is found in every test image: nothing at first, and better as the network gets better.

    `found` is {image id: (rows, the confidence of each nucleus in them)}.

    Args:
        test: an ImageSet; its unreadable images keep their empty rows.
    """

    def __init__(self, test):
        self.images = dict(zip(test.ids, test.images, strict=True))
        nothing = np.zeros((1, 1), np.int32)
        self.found = {image_id: (make_rows(image_id, nothing), []) for image_id in [*test.ids, *test.faults]}
        self.order = list(test.ids)  # what was found the longest ago comes first

    def improve(self, network, thresholds, config, minutes=math.inf, views=None, keep=None):
        """Predicts the images that wait the longest, as many as the minutes allow -> how many. See `segment`.

        An image that cannot be predicted keeps what was found in it, and costs a warning.

        Args:
            keep: called with the id of each image that was predicted.
        """
        deadline = time.monotonic() + 60 * minutes
        done, failed = 0, 0
        for image_id in progress(self.order, "predict"):
            if time.monotonic() >= deadline:
                break
            try:
                labels, confidences = segment(self.images[image_id], network, thresholds, config, views)
                self.found[image_id] = (make_rows(image_id, labels), [round(one, 3) for one in confidences.tolist()])
            except Exception as error:
                failed += 1
                if failed == len(self.images):  # it is not the images
                    raise
                log.warning("%s keeps what was found in it earlier, if anything: %r", image_id, error)
            else:
                if keep:
                    keep(image_id)
            done += 1
        self.order = self.order[done:] + self.order[:done]
        return done

    def take(self, found):
        """Takes over what was found in images that need no prediction any more."""
        self.found |= found
        self.order = [image_id for image_id in self.order if image_id not in found]

    def write(self, folder):
        """Writes submission.csv, and confidence.csv with a row for each nucleus in it, each whole or not at all."""
        ids = sorted(self.found)
        write_submission(folder / SUBMISSION, [row for image_id in ids for row in self.found[image_id][0]])
        rows = [(image_id, *pair) for image_id in ids for pair in enumerate(self.found[image_id][1], start=1)]
        _write_csv(folder / CONFIDENCE, ("ImageId", "nucleus", "confidence"), rows)


def run_competition(config, data, folder, stage=1):
    """Trains on the competition in `data`, predicts its test images and writes into `folder` as it goes.

    submission.csv is there as soon as the first weights are, is replaced by better ones, and is whole at any moment.
    Cut off, the same call goes on where its last checkpoint is. The checkpoints stay until the caller removes them,
    when the run's files are where they belong.

    Args:
        config: a Config.
        data: folder with Kaggle's files.
        folder: Path of an existing folder; see the README for what it holds in the end.
        stage: 1 or 2, whose test images to predict.

    Raises:
        BadInput: about the data or the config, before anything is trained.
    """
    watch = Stopwatch()
    with watch.stage("read test"):  # first: a broken zip must not cost a training
        test = read_set(find_set(data, TEST_NAMES[stage]), default_cache())
    predictions = Predictions(test)

    def predict_early(network, thresholds):
        minutes = EARLY_SHARE * config.train_minutes
        done = predictions.improve(network, thresholds, config, minutes, views=1)
        predictions.write(folder)
        log.info("%s has what these weights find in %d of %d images", SUBMISSION, done, len(test.ids))

    network, thresholds, held_out = _train(config, data, folder, watch, predict_early)
    with watch.stage("predict", len(test.ids)):
        late = _predict_test(predictions, digest_images(test), network, thresholds, config, folder)
    if late:
        log.warning("%d images keep what was found in them earlier: the time was up", late)
    _score_held_out(held_out, network, thresholds, config, folder, watch)
    log.info("%s", watch.table())
    watch.write(folder / STAGES)
    for image_id, why in test.faults.items():
        log.warning("%s was left empty: %s", image_id, why)


def _predict_test(predictions, digest, network, thresholds, config, folder):
    """The last prediction, which goes on where it was cut off -> how many images the time did not reach."""
    checkpoints = folder / CHECKPOINTS / "prediction"
    settings = {"test": digest}
    found, _ = load_checkpoint(checkpoints, settings) or ({}, {})
    if found:
        log.info("going on after %d predicted images", len(found))
    predictions.take(found)
    kept_at = time.monotonic()

    def keep(image_id):
        nonlocal kept_at
        found[image_id] = predictions.found[image_id]
        if time.monotonic() - kept_at >= CHECKPOINT_SECONDS:
            predictions.write(folder)
            save_checkpoint(checkpoints, settings, found, {})
            kept_at = time.monotonic()

    done = predictions.improve(network, thresholds, config, config.tta_minutes, keep=keep)
    predictions.write(folder)
    return len(predictions.order) - done


def train_competition(config, data, folder, start=None):
    """As `run_competition`, without the test images: leaves weights, config and logs in `folder`. `start`: the weights
    to begin with, see `train_model`."""
    watch = Stopwatch()
    network, thresholds, held_out = _train(config, data, folder, watch, lambda *_: None, start)
    _score_held_out(held_out, network, thresholds, config, folder, watch)
    log.info("%s", watch.table())
    watch.write(folder / STAGES)


def _train(config, data, folder, watch, on_better, start=None):
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
    with watch.stage("train"):
        model, thresholds, crops = train_model(config, train, tuning, folder, on_better, start)
    seconds, _ = watch.stages["train"]
    watch.stages["train"] = (seconds, crops)
    save_config(folder / CONFIG, config, thresholds)
    return partial(predict_step, model), thresholds, held_out


def _score_held_out(held_out, network, thresholds, config, folder, watch):
    if not held_out.ids:
        return
    with watch.stage("held out", len(held_out.ids)):
        found = [segment(image, network, thresholds, config)[0] for image in progress(held_out.images, "score")]
    scores = np.array([average_precision(*pair) for pair in zip(held_out.labels, found, strict=True)])
    rows = zip(held_out.ids, held_out.kinds, scores, strict=True)
    _write_csv(folder / HELD_OUT, ("ImageId", "kind", "score"), [(i, kind, f"{score:.4f}") for i, kind, score in rows])
    nuclei = zip(held_out.ids, found, strict=True)
    write_submission(folder / HELD_OUT_NUCLEI, [row for i, labels in nuclei for row in make_rows(i, labels)])
    log.info(
        "score on held-out images, fold %d of %d\n%s",
        config.data_fold,
        config.data_folds,
        score_table(held_out.kinds, scores),
    )


def set_up_device():
    """Precision by device; OpenCV on one thread, since the crops' threads and the network share the cores."""
    keras.mixed_precision.set_global_policy(choose_precision())
    cv2.setNumThreads(1)


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


def _write_csv(path, header, rows):
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    write_whole(path, text.getvalue())


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
