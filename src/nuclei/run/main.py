"""Main: training images and test images -> a trained network and submission.csv."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import keras

from nuclei.network.parallel import predict_step
from nuclei.prediction.segmenter import Segmenter, save_run, set_up_device
from nuclei.prediction.tuning import score_set, tune_thresholds
from nuclei.prediction.watershed import Thresholds
from nuclei.run.predictions import Predictions
from nuclei.run.stopwatch import Stopwatch
from nuclei.settings.config import BadInput, Config, log
from nuclei.settings.files import LOG_FILE, SUBMISSION_FILE
from nuclei.training.train import REMEMBER_SECONDS, Keeper, train_model
from nuclei.training_data.folds import split_data
from nuclei.training_data.images import ImageSet

EARLY_SHARE = 0.02  # share of the training's minutes for each prediction on the way
SCORE_DROP = 0.05  # drop of the tuning score below the best so far that is worth a warning


def run_competition(
    config: Config, train: ImageSet, test: ImageSet, folder: Path, keeper: Keeper, watch: Stopwatch
) -> tuple[Segmenter, ImageSet]:
    """Train, predict the test images and write into `folder` on the way -> (the Segmenter, the images held out).

    Each check on the way leaves a submission.csv, which a better one replaces; it is whole at any moment.

    Args:
        train: images with labels.
        test: images to predict.
        folder: an existing folder; docs/architecture.md lists what it holds in the end.
        keeper: what to resume from.
        watch: takes the time of each stage.

    Raises:
        BadInput: about the images or the config, before anything is trained.
    """
    predictions = Predictions(test)

    def predict_early(segmenter):
        done = predictions.improve(segmenter, EARLY_SHARE * config.train_minutes, views=1)
        predictions.write(folder)
        log.info("%s has what these weights find in %d of %d images", SUBMISSION_FILE, done, len(test.ids))

    with watch.stage("train"):
        segmenter, held_out = train_segmenter(config, train, folder, keeper, predict_early)
    with watch.stage("predict", len(test.ids)):
        late = _predict_test(predictions, segmenter, folder, keeper)
    if late:
        log.warning("time budget spent (tta_minutes %g): %d images keep earlier rows", config.tta_minutes, late)
    for image_id, why in test.unreadable.items():
        log.warning("%s gets an empty row: %s", image_id, why)
    nuclei = sum(len(confidences) for _, confidences in predictions.found.values())
    log.info("%s: %d nuclei in %d images", SUBMISSION_FILE, nuclei, len(predictions.found))
    return segmenter, held_out


def train_segmenter(
    config: Config, images: ImageSet, folder: Path, keeper: Keeper, on_check: Callable, start: list | None = None
) -> tuple[Segmenter, ImageSet]:
    """Train on images with labels; leave weights, settings and log in `folder` -> (the Segmenter, the images held out).

    The weights are the last ones. Checks on the way score the tuning images for the log; they warn, and do not choose:
    a half-trained network would win over the finished one by noise.

    Args:
        on_check: called at each check on the way with the Segmenter as it is, its thresholds the default ones.
        start: the weights to begin with, see `train_model`.
    """
    if not images.labels:
        raise BadInput("the training images have no masks to learn from: unpack all of the training zip")
    set_up_device()
    train, tuning, held_out = split_data(images, config.data_folds, config.data_fold, config.data_tuning)
    counts = [len(part.ids) for part in (train, tuning, held_out)]
    log.info("%d images to train on, %d to tune on, %d held out", *counts)
    log.info("precision %s, backend %s", keras.mixed_precision.dtype_policy().name, keras.backend.backend())
    best = -1.0

    def check(network, is_last):
        nonlocal best
        segmenter = Segmenter(network, Thresholds(), config)
        if not is_last:
            on_check(segmenter)
        if not tuning.ids:
            return None
        score = score_set(tuning, segmenter)
        if score < best - SCORE_DROP:
            log.warning("the tuning score fell from %.3f to %.3f: look at the losses in %s", best, score, LOG_FILE)
        best = max(best, score)
        return score

    model = train_model(config, train, folder / LOG_FILE, keeper, check, start)
    segmenter = Segmenter(partial(predict_step, model), Thresholds(), config)
    segmenter = replace(segmenter, thresholds=_choose_thresholds(tuning, segmenter, keeper))
    save_run(folder, model, segmenter.thresholds, config)
    return segmenter, held_out


def _choose_thresholds(tuning, segmenter, keeper):
    saved = keeper.load("thresholds")
    if saved:
        return Thresholds(**saved[0])
    thresholds = tune_thresholds(tuning, segmenter) if tuning.ids else Thresholds()
    keeper.save("thresholds", asdict(thresholds))
    return thresholds


def _predict_test(predictions, segmenter, folder, keeper):
    """Predict every test image, or resume -> how many images the time did not reach."""
    found, _ = keeper.load("prediction") or ({}, {})
    if found:
        log.info("resuming after %d predicted images", len(found))
    predictions.take(found)
    kept_at = time.monotonic()

    def keep(image_id):
        nonlocal kept_at
        found[image_id] = predictions.found[image_id]
        if time.monotonic() - kept_at >= REMEMBER_SECONDS:
            predictions.write(folder)
            keeper.save("prediction", found)
            kept_at = time.monotonic()

    done = predictions.improve(segmenter, segmenter.config.tta_minutes, keep=keep)
    predictions.write(folder)
    return len(predictions.order) - done
