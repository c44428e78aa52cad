"""Cases: the images that a run left rows for, with what it found in them and, where it is known, the truth."""

from dataclasses import dataclass, replace

import numpy as np

from nuclei.competition.data import TEST_NAMES, TRAIN
from nuclei.competition.submission import SUBMISSION_HEADER
from nuclei.prediction.metric import precision_at_thresholds
from nuclei.settings.config import BadInput
from nuclei.settings.files import CONFIDENCE_FILE, SUBMISSION_FILE
from nuclei_kit.experiments.scoring import read_solution
from nuclei_kit.files.cache import default_cache
from nuclei_kit.files.folders import HELD_OUT_NUCLEI_FILE
from nuclei_kit.files.reading import find_whole_set, list_ids, read_images
from nuclei_kit.files.run_lists import check_submission, decode_rles
from nuclei_kit.files.tables import read_table
from nuclei_kit.report.logs import read_number

TEST, LEFT_OUT = "test", "held-out"  # which part of the data an image is from


@dataclass(frozen=True)
class Case:
    """One image: `truth` int32 (H, W) or None, `found` int32 (H, W), `precision` float64 (10,) or None.

    `confidences` are a float in 0..1 for each nucleus found, or None where the run has kept none.
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
    def score(self):
        return None if self.precision is None else float(self.precision.mean())


def gather_cases(run, data, stage=1, solution=None):
    """The images that a run left rows for -> list of Case: those held out, then the test images.

    Raises:
        BadInput: rows that break a rule, or rows of images that `data` does not hold.
    """
    cases = []
    if (run / HELD_OUT_NUCLEI_FILE).is_file():
        images = _pick_images(find_whole_set(data, (TRAIN,)), run / HELD_OUT_NUCLEI_FILE)
        truths = dict(zip(images.ids, images.labels, strict=True)) if images.labels else {}
        cases += _read_cases(run / HELD_OUT_NUCLEI_FILE, images, LEFT_OUT, truths)
    if (run / SUBMISSION_FILE).is_file():
        images = read_images(find_whole_set(data, TEST_NAMES[stage]), default_cache())
        cases += _read_cases(run / SUBMISSION_FILE, images, TEST, read_solution(solution) if solution else {})
        if (run / CONFIDENCE_FILE).is_file():
            cases = _add_confidences(cases, run / CONFIDENCE_FILE)
    return cases


def _pick_images(path, rows):
    """The images of a set that a file has rows for."""
    wanted = {row["ImageId"] for row in read_table(rows, SUBMISSION_HEADER)}
    strange = wanted - set(list_ids(path))
    if strange:
        raise BadInput(f"{rows} is about {min(strange)}, which {path} does not hold: name the run's own data")
    images = read_images(path, default_cache())
    return images.subset([i for i, image_id in enumerate(images.ids) if image_id in wanted])


def _read_cases(path, images, part, truths):
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


def _add_confidences(cases, path):
    """The test images' Cases with the confidence of each nucleus."""
    confidences = {case.image_id: [] for case in cases}
    for row in read_table(path, ("ImageId", "confidence")):
        confidences.setdefault(row["ImageId"], []).append(read_number(path, row, "confidence"))
    for case in cases:
        if case.part == TEST and len(confidences[case.image_id]) != case.found.max(initial=0):
            raise BadInput(
                f"{path} is about other nuclei in {case.image_id} than {SUBMISSION_FILE} beside it: delete it"
            )
    return [replace(case, confidences=confidences[case.image_id]) if case.part == TEST else case for case in cases]
