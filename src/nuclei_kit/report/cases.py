"""Cases: the images that a run left rows for, with what it found in them and, where it is known, the truth."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nuclei.competition.data import TEST_NAMES, TRAIN_NAME
from nuclei.competition.submission import SUBMISSION_HEADER
from nuclei.prediction.metric import precision_at_thresholds
from nuclei.settings.config import BadInput
from nuclei.settings.files import CONFIDENCE_FILE, SUBMISSION_FILE
from nuclei.training_data.images import ImageSet
from nuclei_kit.experiments.scoring import read_solution
from nuclei_kit.files.cache import default_cache
from nuclei_kit.files.folders import HELD_OUT_NUCLEI_FILE
from nuclei_kit.files.reading import find_whole_set, list_ids, read_images
from nuclei_kit.files.run_lists import check_submission, decode_rles
from nuclei_kit.files.run_tables import read_number
from nuclei_kit.files.tables import read_table

HELD_OUT_PART = "held-out"  # of the data
TEST_PART = "test"


@dataclass(frozen=True)
class Case:
    """One image with what was found in it.

    part: HELD_OUT_PART or TEST_PART; image: uint8 (H, W, 3) RGB; truth, found: int32 (H, W);
    precision: float64 (10,), see `precision_at_thresholds`; confidences: 0..1, of each nucleus found.
    None stands for what is not known.
    """

    image_id: str
    part: str
    kind: str
    image: np.ndarray
    truth: np.ndarray | None
    found: np.ndarray
    precision: np.ndarray | None
    confidences: list[float] | None = None

    @property
    def score(self) -> float | None:
        """Average the precisions: the competition's score of the image, None where its truth is not known."""
        return None if self.precision is None else float(self.precision.mean())


def gather_cases(run: Path, data: Path, stage: int = 1, solution: Path | None = None) -> list[Case]:
    """Gather the images that a run left rows for: those held out, then the test images.

    Args:
        run: a finished run's folder.
        data: the competition's folder.
        stage: 1 or 2, whose test images the run's submission is for.
        solution: CSV with the test images' true nuclei.

    Raises:
        BadInput: rows that break a rule, or rows of images that `data` does not hold.
    """
    cases: list[Case] = []
    if (run / HELD_OUT_NUCLEI_FILE).is_file():
        images = _pick_images(find_whole_set(data, (TRAIN_NAME,)), run / HELD_OUT_NUCLEI_FILE)
        truths = dict(zip(images.ids, images.labels, strict=True)) if images.labels else {}
        cases += _read_cases(run / HELD_OUT_NUCLEI_FILE, images, HELD_OUT_PART, truths)
    if (run / SUBMISSION_FILE).is_file():
        images = read_images(find_whole_set(data, TEST_NAMES[stage]), default_cache())
        cases += _read_cases(run / SUBMISSION_FILE, images, TEST_PART, read_solution(solution) if solution else {})
        if (run / CONFIDENCE_FILE).is_file():
            cases = _add_confidences(cases, run / CONFIDENCE_FILE)
    return cases


def _pick_images(path: Path, rows: Path) -> ImageSet:
    """Pick the images of a set that a file has rows for."""
    wanted = {row["ImageId"] for row in read_table(rows, SUBMISSION_HEADER)}
    strange = wanted - set(list_ids(path))
    if strange:
        raise BadInput(f"{rows} is about {min(strange)}, which {path} does not hold: name the run's own data")
    images = read_images(path, default_cache())
    return images.subset([i for i, image_id in enumerate(images.ids) if image_id in wanted])


def _read_cases(path: Path, images: ImageSet, part: str, truths: Mapping[str, np.ndarray]) -> Iterator[Case]:
    """Read the rows of all images of a set."""
    shapes = {image_id: image.shape[:2] for image_id, image in zip(images.ids, images.images, strict=True)}
    rles = check_submission(path, shapes | dict.fromkeys(images.unreadable))
    for image_id, image, kind in zip(images.ids, images.images, images.kinds, strict=True):
        found, truth = decode_rles(rles[image_id], *image.shape[:2]), truths.get(image_id)
        if truth is not None and truth.shape != found.shape:
            raise BadInput(
                f"the solution's {image_id} is {truth.shape}, the image {found.shape}: name another solution"
            )
        precision = None if truth is None else precision_at_thresholds(truth, found)
        yield Case(image_id, part, kind, image, truth, found, precision)


def _add_confidences(cases: list[Case], path: Path) -> list[Case]:
    """Add the confidence of each nucleus to the test images' Cases."""
    confidences: dict[str, list[float]] = {case.image_id: [] for case in cases}
    for row in read_table(path, ("ImageId", "confidence")):
        confidences.setdefault(row["ImageId"], []).append(read_number(path, row, "confidence"))
    for case in cases:
        if case.part == TEST_PART and len(confidences[case.image_id]) != case.found.max(initial=0):
            raise BadInput(
                f"{path} is about other nuclei in {case.image_id} than {SUBMISSION_FILE} beside it: delete it"
            )
    return [replace(case, confidences=confidences[case.image_id]) if case.part == TEST_PART else case for case in cases]
