"""Gallery: one picture of what a run gets right and wrong, of an image of each kind or of its worst images."""

from dataclasses import replace

import numpy as np

from nuclei.competition.data import TRAIN
from nuclei.prediction.progress import progress
from nuclei.settings.config import BadInput, Config, log
from nuclei.training_data.folds import split_data
from nuclei.training_data.kinds import KINDS
from nuclei_kit.files.cache import default_cache
from nuclei_kit.files.folders import HELD_OUT_NUCLEI_FILE
from nuclei_kit.files.reading import find_whole_set, read_images
from nuclei_kit.files.runs import load_run
from nuclei_kit.report.cases import LEFT_OUT, gather_cases
from nuclei_kit.report.pictures import PANEL, compare, contact_sheet, crop_middle


def draw_gallery(weights, data, fold=None):
    """A contact sheet -> uint8 RGB: of each kind of image, the one with the median number of nuclei, cropped to PANEL.

    They are held-out images of stage1_train; where the run held none out, its tuning images.

    Args:
        weights: a run's folder, or its weights file.
        data: the competition's folder.
        fold: the fold to show; None for the one that the run held out.

    Raises:
        BadInput: about the weights or the competition.
    """
    path = find_whole_set(data, (TRAIN,))
    segmenter = load_run(weights)
    images = _choose_images(read_images(path, default_cache()), segmenter.config, fold)
    strips = []
    for i in progress(_typical_of_kinds(images), "draw"):
        image, truth = images.images[i], images.labels[i]
        predicted, _ = segmenter.segment(image)
        strips.append(compare(*(crop_middle(one, PANEL) for one in (image, truth, predicted)), images.kinds[i]))
    return contact_sheet(strips)


def draw_worst(run, data, count):
    """A contact sheet -> uint8 RGB: the `count` held-out images of a run that score lowest, the lowest first.

    Args:
        run: Path of the folder of a run that held images out.
        data: the competition's folder.

    Raises:
        BadInput: about the run or the competition.
    """
    if not (run / HELD_OUT_NUCLEI_FILE).is_file():
        raise BadInput(f"{run / HELD_OUT_NUCLEI_FILE} is missing: name the folder of a run that held images out")
    cases = sorted((case for case in gather_cases(run, data) if case.part == LEFT_OUT), key=lambda case: case.score)
    return contact_sheet(
        [
            compare(*(crop_middle(one, PANEL) for one in (case.image, case.truth, case.found)), name)
            for number, case in enumerate(cases[:count], start=1)
            for name in [f"{number}. {case.kind} {case.image_id[:8]}"]
        ]
    )


def _choose_images(everything, config, fold):
    if not everything.labels:
        raise BadInput(f"{TRAIN} has no masks to compare with: unpack all of {TRAIN}.zip")
    if fold is not None:
        if not config.data_folds or fold != config.data_fold:
            log.warning("the run has learnt from the images of fold %d: they flatter it", fold)
        config = replace(config, data_fold=fold, data_folds=config.data_folds or Config.data_folds)
    _, tuning, held_out = split_data(everything, config.data_folds, config.data_fold, config.data_tuning)
    if held_out.ids:
        return held_out
    log.warning("the run held no images out: these are those that its thresholds were chosen on")
    return tuning


def _typical_of_kinds(images):
    """The index of one image of each kind, in the order of KINDS."""
    counts = np.array([labels.max() for labels in images.labels])
    for kind in KINDS:
        here = np.flatnonzero(np.array(images.kinds) == kind)
        if here.size:
            yield here[np.argsort(counts[here], kind="stable")[here.size // 2]]
