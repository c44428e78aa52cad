"""Home run: a competition on one's own machine, read with care, resumed after a kill, its held-out images scored."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nuclei.competition.data import TEST_NAMES, TRAIN
from nuclei.competition.submission import make_rows, write_submission
from nuclei.prediction.metric import average_precision
from nuclei.prediction.progress import progress
from nuclei.prediction.segmenter import Segmenter
from nuclei.run.main import run_competition, train_segmenter
from nuclei.run.stopwatch import Stopwatch
from nuclei.settings.config import BadInput, Config, log
from nuclei.settings.files import STAGES_FILE, write_csv
from nuclei.training_data.images import ImageSet
from nuclei.training_data.kinds import KINDS
from nuclei_kit.files.cache import default_cache
from nuclei_kit.files.checkpoint import Checkpoints, run_identity
from nuclei_kit.files.folders import HELD_OUT_FILE, HELD_OUT_NUCLEI_FILE
from nuclei_kit.files.reading import find_whole_set, read_images


def run_at_home(config: Config, data: Path, folder: Path, stage: int = 1) -> None:
    """Train on the competition in `data`, predict its test images, score what was held out; see `run_competition`.

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
    train = _read_train(data, watch)
    keeper = Checkpoints(folder, run_identity(config, train, test, None))
    segmenter, held_out = run_competition(config, train, test, folder, keeper, watch)
    score_held_out(segmenter, held_out, folder, watch)
    watch.report(folder / STAGES_FILE)


def train_at_home(config: Config, data: Path, folder: Path, start: list[np.ndarray] | None = None) -> None:
    """Train as `run_at_home` does, without the test images. `start`: the weights to begin with, see `train_model`."""
    watch = Stopwatch()
    train = _read_train(data, watch)
    keeper = Checkpoints(folder, run_identity(config, train, None, start))
    with watch.stage("train"):
        segmenter, held_out = train_segmenter(config, train, folder, keeper, lambda segmenter: None, start)
    score_held_out(segmenter, held_out, folder, watch)
    watch.report(folder / STAGES_FILE)


def _read_train(data, watch):
    with watch.stage("read train"):
        images = read_images(find_whole_set(data, (TRAIN,)), default_cache())
    if not images.labels:
        raise BadInput(f"{data}: {TRAIN} has no masks to learn from: unpack all of {TRAIN}.zip")
    return images


def score_held_out(segmenter: Segmenter, held_out: ImageSet, folder: Path, watch: Stopwatch) -> None:
    """Find the nuclei of the held-out images, if any; leave their rows and scores in `folder`, and log a table."""
    if not held_out.ids:
        return
    with watch.stage("held out", len(held_out.ids)):
        found = [segmenter.segment(image)[0] for image in progress(held_out.images, "score")]
    scores = np.array([average_precision(*pair) for pair in zip(held_out.labels, found, strict=True)])
    rows = zip(held_out.ids, held_out.kinds, scores, strict=True)
    write_csv(folder / HELD_OUT_FILE, ("ImageId", "kind", "score"), [(i, kind, f"{one:.4f}") for i, kind, one in rows])
    nuclei = zip(held_out.ids, found, strict=True)
    write_submission(folder / HELD_OUT_NUCLEI_FILE, [row for i, labels in nuclei for row in make_rows(i, labels)])
    fold, folds = segmenter.config.data_fold, segmenter.config.data_folds
    log.info("score on held-out images, fold %d of %d\n%s", fold, folds, score_table(held_out.kinds, scores))


def score_table(kinds: Sequence[str], scores: np.ndarray) -> str:
    """Lay out the mean score by kind and over all, as lines of text."""
    lines = [f"{'kind':<20} {'images':>6} {'score':>6}"]
    for kind in KINDS:
        here = scores[[one == kind for one in kinds]]
        if here.size:
            lines.append(f"{kind:<20} {here.size:>6} {here.mean():>6.3f}")
    lines.append(f"{'all':<20} {len(scores):>6} {scores.mean():>6.3f}")
    return "\n".join(lines)
