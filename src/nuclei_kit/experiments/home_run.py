"""Home run: a competition on one's own machine, read with care, resumed after a kill, its held-out images scored."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nuclei.competition.data import TEST_NAMES, TRAIN_NAME, add_truth
from nuclei.competition.submission import make_rows, write_submission
from nuclei.prediction.metric import average_precision
from nuclei.prediction.progress import progress
from nuclei.prediction.segmenter import Segmenter
from nuclei.prediction.watershed import HANDS, Thresholds, find_instances
from nuclei.run.main import run_competition, train_segmenter
from nuclei.run.stopwatch import Stopwatch
from nuclei.settings.config import BadInput, Config, log
from nuclei.settings.files import LOG_FILE, STAGES_FILE, write_csv
from nuclei.training_data.images import ImageSet
from nuclei.training_data.kinds import KINDS, nucleus_diameter
from nuclei_kit.experiments.folds import split_data
from nuclei_kit.experiments.scoring import find_solution, read_open_images
from nuclei_kit.files.cache import default_cache
from nuclei_kit.files.checkpoint import Checkpoints, run_identity
from nuclei_kit.files.folders import HELD_OUT_FILE, HELD_OUT_NUCLEI_FILE, OPEN_FILE
from nuclei_kit.files.reading import find_whole_set, read_images

SCORE_DROP = 0.05  # drop of the tuning score below the best so far that is worth a warning


def run_at_home(config: Config, data: Path, folder: Path, stage: int = 1) -> None:
    """Train on the competition in `data`, predict its test images, score what was held out; see `run_competition`.

    In stage 2 the images of stage1_test whose truth is open join in, see `add_truth`; in stage 1 never.

    Cut off, the same call resumes from its last checkpoint. The checkpoints stay until the caller removes them, when
    the run's files are where they belong.

    Args:
        data: folder with Kaggle's files.
        folder: an existing folder.
        stage: 1 or 2, whose test images to predict.

    Raises:
        BadInput: about the data or the config, before anything is trained.
    """
    watch = Stopwatch()
    with watch.stage("read test"):  # first: a broken zip must not cost a training
        test = read_images(find_whole_set(data, TEST_NAMES[stage]), default_cache())
        if not test.ids:
            raise BadInput(f"no test image can be read: {next(iter(test.unreadable.values()))}")
    everything = _read_train(data, watch)
    train, tuning, held_out = split_data(everything, config.data_folds, config.data_fold, config.data_tuning)
    if stage == 2:  # what chooses thresholds is the test's own kind, so the tuning images train
        train, tuning = add_truth(train.join(tuning), read_open_images(data))
    keeper = Checkpoints(folder, run_identity(config, train.join(tuning), test, None) | {"stage": stage})
    segmenter = run_competition(config, train, tuning, test, folder, keeper, watch)
    score_held_out(segmenter, held_out, folder, watch)
    watch.report(folder / STAGES_FILE)


def train_at_home(config: Config, data: Path, folder: Path, start: list[np.ndarray] | None = None) -> None:
    """Train as `run_at_home` does, without the test images. `start`: the weights to begin with, see `train_model`."""
    watch = Stopwatch()
    everything = _read_train(data, watch)
    train, tuning, held_out = split_data(everything, config.data_folds, config.data_fold, config.data_tuning)
    # Before the training, which a broken file must not cost.
    opened = read_open_images(data) if held_out.ids and find_solution(data, 1) else held_out.subset([])
    keeper = Checkpoints(folder, run_identity(config, everything, None, start))
    with watch.stage("train"):
        segmenter = train_segmenter(config, train, tuning, folder, keeper, scoring_check(tuning), start)
    score_held_out(segmenter, held_out, folder, watch)
    score_open(segmenter, opened, folder, watch)
    watch.report(folder / STAGES_FILE)


def _read_train(data, watch):
    with watch.stage("read train"):
        images = read_images(find_whole_set(data, (TRAIN_NAME,)), default_cache())
    if not images.labels:
        mend = f"unpack all of {TRAIN_NAME}.zip"
        raise BadInput(f"{data}: {TRAIN_NAME} has no masks to learn from, which lie in a folder masks: {mend}")
    return images


def scoring_check(tuning: ImageSet) -> Callable[[Segmenter, bool], float | None]:
    """Make a check for `train_segmenter` that scores the tuning images, if any, and warns where the score falls."""
    best = -1.0

    def check(segmenter, is_last):
        nonlocal best
        if not tuning.ids:
            return None
        score = score_set(tuning, segmenter)
        if score < best - SCORE_DROP:
            log.warning("the tuning score fell from %.3f to %.3f: look at the losses in %s", best, score, LOG_FILE)
        best = max(best, score)
        return score

    return check


def score_set(images: ImageSet, segmenter: Segmenter) -> float:
    """Score images with labels by the mean average precision, quickly: one view, at the zoom that the labels tell."""
    scores = []
    for image, truth in progress(list(zip(images.images, images.labels, strict=True)), "check"):
        zoom = segmenter.zoom_for(nucleus_diameter(truth))
        found = find_instances(segmenter.predict(image, zoom, views=1), Thresholds(), zoom)
        scores.append(average_precision(truth, found))
    return float(np.mean(scores))


def score_held_out(segmenter: Segmenter, held_out: ImageSet, folder: Path, watch: Stopwatch) -> None:
    """Find the nuclei of the held-out images, if any; leave their rows and scores in `folder`, and log a table."""
    if not held_out.ids:
        return
    found = _score_images(segmenter, held_out, folder / HELD_OUT_FILE, watch, "held out", "held-out images")
    nuclei = zip(held_out.ids, found, strict=True)
    write_submission(folder / HELD_OUT_NUCLEI_FILE, [row for i, labels in nuclei for row in make_rows(i, labels)])


def score_open(segmenter: Segmenter, opened: ImageSet, folder: Path, watch: Stopwatch) -> None:
    """Score the images of stage1_test whose truth is open, if any, by the thresholds for their hand."""
    if opened.ids:
        by_hand = replace(segmenter, thresholds=HANDS["stage1_test"])
        what = "stage1_test images with public truth, by the thresholds for their hand"
        _score_images(by_hand, opened, folder / OPEN_FILE, watch, "open", what)


def _score_images(segmenter, images, path, watch, stage, what):
    """Score images with labels, write a table of it and log another -> what was found, labels of each."""
    with watch.stage(stage, len(images.ids)):
        found = [segmenter.segment(image)[0] for image in progress(images.images, "score")]
    scores = np.array([average_precision(*pair) for pair in zip(images.labels, found, strict=True)])
    rows = zip(images.ids, images.kinds, scores, strict=True)
    write_csv(path, ("ImageId", "kind", "score"), [(i, kind, f"{score:.4f}") for i, kind, score in rows])
    log.info("score on %s\n%s", what, score_table(images.kinds, scores))
    return found


def score_table(kinds: Sequence[str], scores: np.ndarray) -> str:
    """Lay out the mean score by kind and over all, as lines of text."""
    lines = [f"{'kind':<20} {'images':>6} {'score':>6}"]
    for kind in KINDS:
        here = scores[[one == kind for one in kinds]]
        if here.size:
            lines.append(f"{kind:<20} {here.size:>6} {here.mean():>6.3f}")
    lines.append(f"{'all':<20} {len(scores):>6} {scores.mean():>6.3f}")
    return "\n".join(lines)
