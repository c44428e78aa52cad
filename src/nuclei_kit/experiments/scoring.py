"""Scoring: what a submission is worth, and whether Kaggle would take it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import bootstrap

from nuclei.competition.data import TEST_NAMES, paint_rles
from nuclei.competition.submission import SUBMISSION_HEADER
from nuclei.prediction.metric import IOU_THRESHOLDS, precision_at_thresholds
from nuclei.settings.config import BadInput, log
from nuclei.training_data.images import ImageSet
from nuclei_kit.files.cache import default_cache
from nuclei_kit.files.limits import MAX_PIXELS, MAX_SET_PIXELS
from nuclei_kit.files.reading import find_whole_set, read_images
from nuclei_kit.files.run_lists import check_submission, decode_rles, parse_runs
from nuclei_kit.files.tables import read_table

# Stage: its solution among the competition's files, zipped as it comes.
SOLUTIONS = {1: "stage1_solution.csv", 2: "stage2_solution_final.csv"}
CONFIDENCE_LEVEL = 0.95  # confidence of the interval in which a mean difference lies


def image_shapes(data: Path, stage: int) -> dict[str, tuple[int, int] | None]:
    """Read the test images of a stage -> {image id: (H, W)}, None for an image that cannot be read."""
    test = read_images(find_whole_set(data, TEST_NAMES[stage]), default_cache())
    shapes = {image_id: (len(image), image.shape[1]) for image_id, image in zip(test.ids, test.images, strict=True)}
    return shapes | dict.fromkeys(test.unreadable)


def check_file(path: Path, shapes: Mapping[str, tuple[int, int] | None] | None = None) -> tuple[int, int, int]:
    """Check a submission against the rules -> how many nuclei, images, and images without nuclei it holds.

    Args:
        path: the CSV.
        shapes: see `image_shapes`; None takes the ids from the file itself and leaves the bounds unchecked.

    Raises:
        BadInput: the first broken rule, and its row.
    """
    if shapes is None:
        shapes = {row["ImageId"]: None for row in read_table(path, SUBMISSION_HEADER)}
    rles = check_submission(path, shapes)
    empty = sum(lists == [""] for lists in rles.values())
    return sum(map(len, rles.values())) - empty, len(rles), empty


def score_submission(path: Path, solution: Path) -> np.ndarray:
    """Score a submission -> its precision at each of IOU_THRESHOLDS, the mean over a solution's images, float64 (10,).

    Images that the solution marks as ignored need a row, as on Kaggle, and do not count.

    Raises:
        BadInput: the submission breaks a rule, or a file is missing.
    """
    truths = read_solution(solution)
    if not truths:
        raise BadInput(f"{solution} holds no image that counts: name the solution file of this test set")
    ids = [row["ImageId"] for row in read_table(solution, SUBMISSION_HEADER)]  # the ignored ones, too
    rles = check_submission(path, dict.fromkeys(ids) | {image_id: truth.shape for image_id, truth in truths.items()})
    scores = [
        precision_at_thresholds(truth, decode_rles(rles[image_id], *truth.shape)) for image_id, truth in truths.items()
    ]
    return np.mean(scores, axis=0)


def find_solution(data: Path, stage: int) -> Path | None:
    """Find the solution of a stage among a competition's files -> its path, or None."""
    paths = [data / name for name in (SOLUTIONS[stage], f"{SOLUTIONS[stage]}.zip")]
    return next((path for path in paths if path.is_file()), None)


def read_solution(path: Path) -> dict[str, np.ndarray]:
    """Read Kaggle's solution file -> {image id: labels int32 (H, W)}.

    Columns ImageId, EncodedPixels, Height, Width and, where Kaggle ignored an image, Usage "Ignored": those are left
    out. A pixel that two nuclei claim goes to the smaller one, as in the training masks.

    Raises:
        BadInput: a column is missing, or a row cannot be one of a solution.
    """
    rows = read_table(path, [*SUBMISSION_HEADER, "Height", "Width"])
    grouped: dict[tuple[str, int, int], list[str]] = {}
    try:
        for row in rows:
            if row.get("Usage") != "Ignored":
                image = row["ImageId"], int(row["Height"]), int(row["Width"])
                grouped.setdefault(image, []).append(row["EncodedPixels"] or "")
        areas = [height * width for _, height, width in grouped]
        if max(areas, default=0) > MAX_PIXELS or sum(areas) > MAX_SET_PIXELS:
            raise ValueError(f"it states more than {MAX_PIXELS:,} pixels an image, or {MAX_SET_PIXELS:,} in all")
        return {image[0]: _paint_truth(rles, *image[1:]) for image, rles in grouped.items()}
    except (ValueError, TypeError) as error:  # not a number, or not a run list of such an image
        raise BadInput(f"{path} holds a row that cannot be a solution's: {error}") from None


def read_open_images(data: Path, solution: Path | None = None) -> ImageSet:
    """Read the images of stage1_test whose truth is open, with labels; without a solution file there are none.

    Args:
        data: folder with Kaggle's files.
        solution: its solution file; None looks for it in `data`.

    Raises:
        BadInput: a broken file, or a truth of another size than its image.
    """
    solution = solution or find_solution(data, 1)
    if not solution:
        log.warning("%s has no %s: nothing of stage1_test's truth is known", data, SOLUTIONS[1])
        return ImageSet([], [], [], [])
    truths, images = read_solution(solution), read_images(find_whole_set(data, TEST_NAMES[1]), default_cache())
    known = images.subset(i for i, image_id in enumerate(images.ids) if image_id in truths)
    for image_id, image in zip(known.ids, known.images, strict=True):
        if truths[image_id].shape != image.shape[:2]:
            raise BadInput(f"{solution} has {image_id} in another size than its image: it is another set's")
    return replace(known, labels=[truths[image_id] for image_id in known.ids])


def _paint_truth(rles, height, width):
    for rle in rles:
        parse_runs(rle, height, width)  # which refuses what breaks a rule
    return paint_rles(rles, height, width)


def threshold_table(precision: np.ndarray) -> str:
    """Lay out what `score_submission` found: a line of thresholds, a line of precisions and their mean."""
    head = "".join(f"{threshold:>6.2f}" for threshold in IOU_THRESHOLDS)
    body = "".join(f"{value:>6.3f}" for value in precision)
    return f"IoU above{head}    mean\nprecision{body}  {precision.mean():>6.4f}"


def mean_interval(differences: Sequence[float]) -> tuple[float, float]:
    """Bound a mean difference with 95 % confidence, by bootstrap over the images -> (low, high)."""
    if len(differences) < 2:
        return differences[0], differences[0]
    rng = np.random.default_rng(0)
    resampled = bootstrap((differences,), np.mean, confidence_level=CONFIDENCE_LEVEL, method="percentile", rng=rng)
    low, high = resampled.confidence_interval
    return float(low), float(high)
