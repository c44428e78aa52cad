"""Main: training images and test images -> a trained network and submission.csv."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import keras
import numpy as np

from nuclei.network.parallel import predictor
from nuclei.prediction.run_folder import save_run
from nuclei.prediction.segmenter import Segmenter, set_up_device
from nuclei.prediction.tuning import Tuner
from nuclei.prediction.watershed import HANDS, Thresholds
from nuclei.run.predictions import Predictions
from nuclei.run.stopwatch import Stopwatch
from nuclei.settings.config import Config, log
from nuclei.settings.files import LOG_FILE, SUBMISSION_FILE
from nuclei.training.train import REMEMBER_SECONDS, Keeper, train_model
from nuclei.training_data.images import ImageSet

EARLY_SHARE = 0.02  # share of the training's minutes for each prediction on the way


def run_competition(
    config: Config, train: ImageSet, tuning: ImageSet, test: ImageSet, folder: Path, keeper: Keeper, watch: Stopwatch
) -> Segmenter:
    """Train, predict the test images and write into `folder` on the way -> the Segmenter.

    Each check on the way leaves a submission.csv, which a better one replaces; it is whole at any moment.

    Args:
        train, tuning: images with labels, see `train_segmenter`.
        test: images to predict.
        folder: an existing folder; docs/architecture.md lists what it holds in the end.
        keeper: what to resume from.
        watch: takes the time of each stage.
    """
    predictions = Predictions(test)

    def predict_early(segmenter, is_last):
        if is_last:
            return
        done = predictions.improve(segmenter, EARLY_SHARE * config.train_minutes, views=1)
        predictions.write(folder)
        log.info("%s has what these weights find in %d of %d images", SUBMISSION_FILE, done, len(test.ids))

    with watch.stage("train"):
        segmenter = train_segmenter(config, train, tuning, folder, keeper, predict_early)
    with watch.stage("predict", len(test.ids)):
        late = _predict_test(predictions, segmenter, folder, keeper)
    if late:
        log.warning("time budget spent (tta_minutes %g): %d images keep earlier rows", config.tta_minutes, late)
    for image_id, why in test.unreadable.items():
        log.warning("%s gets an empty row: %s", image_id, why)
    nuclei = sum(len(confidences) for _, confidences in predictions.found.values())
    log.info("%s: %d nuclei in %d images", SUBMISSION_FILE, nuclei, len(predictions.found))
    return segmenter


def train_segmenter(
    config: Config,
    train: ImageSet,
    tuning: ImageSet,
    folder: Path,
    keeper: Keeper,
    on_check: Callable[[Segmenter, bool], float | None],
    start: list | None = None,
) -> Segmenter:
    """Train on images with labels, and leave weights, settings and log in `folder` -> the Segmenter.

    The weights are the last ones: a half-trained network would win over the finished one by noise.

    Args:
        train: what the network learns from.
        tuning: what chooses the thresholds; where there are none, the config's hand gives them.
        on_check: called at each check, with the Segmenter as it is and whether this is the last check; it may return a
            score for the log.
        start: the weights to begin with, see `train_model`.
    """
    set_up_device()
    precision = keras.mixed_precision.dtype_policy().name
    log.info("%d images to train on, %d to choose thresholds on, in %s", len(train.ids), len(tuning.ids), precision)
    hand = HANDS[config.data_hand]

    def check(network, is_last):
        return on_check(Segmenter(network, hand, config), is_last)

    model = train_model(config, train, folder / LOG_FILE, keeper, check, start)
    segmenter, origin = Segmenter(predictor(model), hand, config), f"for masks as {config.data_hand}'s"
    if tuning.ids:
        origin = f"chosen on {len(tuning.ids)} images"
        segmenter = replace(segmenter, thresholds=_choose_thresholds(tuning, segmenter, keeper))
    save_run(folder, model, segmenter.thresholds, origin, config)
    return segmenter


def _choose_thresholds(tuning, segmenter, keeper):
    saved = keeper.load("thresholds")
    if saved:
        return {look: Thresholds(**values) for look, values in saved[0].items()}
    chosen = Tuner(tuning, segmenter).choose(np.ones(len(tuning.ids), bool))
    values = {look: asdict(one) for look, one in chosen.items()}
    for look, ones in values.items():
        log.info("thresholds, %s: %s", look, ", ".join(f"{name} {value:g}" for name, value in ones.items()))
    keeper.save("thresholds", values)
    return chosen


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
