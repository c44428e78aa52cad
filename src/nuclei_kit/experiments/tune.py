"""Tune: other thresholds for a finished run, chosen on any images with truth, and what they gain."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nuclei.competition.data import TRAIN_NAME
from nuclei.prediction.run_folder import find_run
from nuclei.prediction.segmenter import Segmenter
from nuclei.prediction.tuning import Tuner
from nuclei.prediction.watershed import Thresholds
from nuclei.settings.config import BadInput, Config, log
from nuclei.training_data.images import ImageSet
from nuclei.training_data.kinds import LOOKS
from nuclei_kit.experiments.folds import near_duplicates, split_data, split_folds
from nuclei_kit.experiments.scoring import mean_interval, read_open_images
from nuclei_kit.files.cache import default_cache
from nuclei_kit.files.reading import find_whole_set, read_images
from nuclei_kit.files.runs import load_run
from nuclei_kit.files.saved_settings import change_thresholds

PARTS = 5  # each scored by thresholds that were chosen on the others


@dataclass(frozen=True)
class Gain:
    """What other thresholds bring: `looks` of N images, and their scores float64 (N,) by the old and the new ones.

    The new scores are honest: each image's thresholds were chosen without it and its near-duplicates. `thresholds` are
    those that all images choose, `origin` says which images.
    """

    looks: np.ndarray
    before: np.ndarray
    after: np.ndarray
    thresholds: dict[str, Thresholds]
    origin: str


def tune_run(run: Path, data: Path, solution: Path | None = None) -> Gain:
    """Choose thresholds for a finished run anew, without training; where they gain, they go into its config.json.

    The earlier ones stay there, under `earlier_thresholds`. The images are those of stage1_test whose truth is in
    `solution` or in `data` or, without either, what the run held out of stage1_train.

    Raises:
        BadInput: about the run or the data, or there are no images with truth that the run was not trained on.
    """
    segmenter = load_run(run)
    images, origin = _find_images(segmenter.config, data, solution)
    gain = measure_gain(segmenter, images, origin)
    if gain.after.mean() > gain.before.mean():
        change_thresholds(find_run(run)[1], gain.thresholds, origin)
    return gain


def _find_images(config: Config, data: Path, solution: Path | None) -> tuple[ImageSet, str]:
    opened = read_open_images(data, solution)
    if opened.ids:
        return opened, f"{len(opened.ids)} images of stage1_test"
    if not config.data_folds:
        raise BadInput(
            f"{data} has no truth but that of {TRAIN_NAME}, which the run was trained on: give --solution CSV"
        )
    everything = read_images(find_whole_set(data, (TRAIN_NAME,)), default_cache())
    held_out = split_data(everything, config.data_folds, config.data_fold, config.data_tuning)[2]
    log.warning("without --solution the held-out images choose: do not report the score on them any more")
    return held_out, f"{len(held_out.ids)} held-out images of {TRAIN_NAME}"


def measure_gain(segmenter: Segmenter, images: ImageSet, origin: str) -> Gain:
    """Score images with labels by a Segmenter's thresholds, and by such as the other images choose."""
    tuner = Tuner(images, segmenter)
    before = score_by_look(tuner, segmenter.thresholds)
    parts = split_folds(images.kinds, near_duplicates(images.images), min(PARTS, len(images.ids)), 0)
    after = np.zeros(len(images.ids))
    for part in np.unique(parts):
        chosen = tuner.choose(parts != part) if len(np.unique(parts)) > 1 else dict(segmenter.thresholds)
        after[parts == part] = score_by_look(tuner, chosen)[parts == part]
    return Gain(tuner.looks, before, after, tuner.choose(np.ones(len(images.ids), bool)), origin)


def score_by_look(tuner: Tuner, thresholds: Mapping[str, Thresholds]) -> np.ndarray:
    """Score each of a Tuner's images by the thresholds of its look, float64 (N,)."""
    return np.array([tuner.score(thresholds[look])[i] for i, look in enumerate(tuner.looks)])


def gain_table(gain: Gain) -> str:
    """Lay out what new thresholds gain, by look and over all, with a 95 % interval of the mean difference."""
    lines = [f"{'look':<9} {'images':>6} {'before':>7} {'after':>7} {'gain':>7}  95 %"]
    looks = [look for look in sorted(set(LOOKS.values())) if np.any(gain.looks == look)]
    for name in [*looks, "all"]:
        here = (gain.looks == name) | (name == "all")
        before, after = gain.before[here], gain.after[here]
        low, high = mean_interval((after - before).tolist())
        means = f"{before.mean():>7.3f} {after.mean():>7.3f} {(after - before).mean():>+7.3f}"
        lines.append(f"{name:<9} {here.sum():>6} {means}  [{low:+.3f}, {high:+.3f}]")
    return "\n".join(lines)
