"""Gallery: one picture of what a run gets right and wrong, of an image of each kind or of its worst images."""

from pathlib import Path

import numpy as np

from nuclei.competition.data import TRAIN_NAME
from nuclei.prediction.progress import progress
from nuclei.settings.config import BadInput, Config, log
from nuclei.training_data.images import ImageSet
from nuclei.training_data.kinds import KINDS
from nuclei_kit.experiments.folds import FOLDS, split_data
from nuclei_kit.files.cache import default_cache
from nuclei_kit.files.folders import HELD_OUT_NUCLEI_FILE
from nuclei_kit.files.reading import find_whole_set, read_images
from nuclei_kit.files.runs import load_run
from nuclei_kit.report.cases import HELD_OUT_PART, gather_cases
from nuclei_kit.report.pictures import PANEL, comparison_strip, contact_sheet, crop_middle


def draw_gallery(weights: Path | None, data: Path, fold: int | None = None) -> np.ndarray:
    """Draw a contact sheet, uint8 RGB: of each kind of image, the one with the median number of nuclei.

    They are held-out images of stage1_train, cropped to PANEL; where the run held none out, it was trained on them.

    Args:
        weights: a run's folder, or its weights file; None for the network that ships.
        data: the competition's folder.
        fold: the fold to show; None for the one that the run held out.

    Raises:
        BadInput: about the weights, the competition or the fold.
    """
    path = find_whole_set(data, (TRAIN_NAME,))
    segmenter = load_run(weights)
    folds = segmenter.config.data_folds or FOLDS
    if fold is not None and fold >= folds:
        raise BadInput(f"fold {fold} is not there: choose one of 0 to {folds - 1}")
    images = _choose_images(read_images(path, default_cache()), segmenter.config, fold)
    strips = []
    for i in progress(_typical_of_kinds(images), "draw"):
        image, truth = images.images[i], images.labels[i]
        predicted, _ = segmenter.segment(image)
        strips.append(_middle_strip(image, truth, predicted, images.kinds[i]))
    return contact_sheet(strips)


def draw_worst(run: Path, data: Path, count: int) -> np.ndarray:
    """Draw a contact sheet, uint8 RGB: the `count` held-out images of a run that score lowest, the lowest first.

    Args:
        run: the folder of a run that held images out.
        data: the competition's folder.

    Raises:
        BadInput: about the run or the competition.
    """
    if not (run / HELD_OUT_NUCLEI_FILE).is_file():
        raise BadInput(f"{run / HELD_OUT_NUCLEI_FILE} is missing: name the folder of a run that held images out")
    cases = [case for case in gather_cases(run, data) if case.part == HELD_OUT_PART and case.truth is not None]
    cases.sort(key=lambda case: case.score or 0.0)
    return contact_sheet(
        [
            _middle_strip(case.image, case.truth, case.found, f"{number}. {case.kind} {case.image_id[:8]}")
            for number, case in enumerate(cases[:count], start=1)
        ]
    )


def _middle_strip(image, truth, predicted, name):
    image, truth, predicted = (crop_middle(one, PANEL) for one in (image, truth, predicted))
    return comparison_strip(image, truth, predicted, name)


def _choose_images(everything: ImageSet, config: Config, fold: int | None) -> ImageSet:
    """Choose the images of a fold: the one that the run held out, unless another is asked for."""
    if not everything.labels:
        raise BadInput(f"{TRAIN_NAME} has no masks to compare with: unpack all of {TRAIN_NAME}.zip")
    shown = config.data_fold if fold is None else fold
    if not config.data_folds or shown != config.data_fold:
        log.warning("the run was trained on the images of fold %d: unseen images would score lower", shown)
    return split_data(everything, config.data_folds or FOLDS, shown, config.data_tuning)[2]


def _typical_of_kinds(images: ImageSet) -> list[int]:
    """Find the index of one image of each kind, in the order of KINDS."""
    counts, typical = np.array([labels.max() for labels in images.labels]), []
    for kind in KINDS:
        here = np.flatnonzero(np.array(images.kinds) == kind)
        if here.size:
            typical.append(int(here[np.argsort(counts[here], kind="stable")[here.size // 2]]))
    return typical
