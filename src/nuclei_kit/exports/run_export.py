"""Run export: what a run found and how it trained, in the formats that other tools open."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nuclei.competition.data import TEST_NAMES, TRAIN_NAME
from nuclei.settings.config import BadInput
from nuclei.settings.files import LOG_FILE, write_whole
from nuclei_kit.exports.coco import describe_image, make_coco
from nuclei_kit.exports.found import ENCODERS, Found
from nuclei_kit.files.reading import find_whole_set, list_names
from nuclei_kit.files.run_tables import read_training_log
from nuclei_kit.report.cases import gather_cases
from nuclei_kit.report.logs import write_events

# Format: a file for each image.
PLACES = {"tiff": "labels/{}.tif", "roi": "rois/{}.zip", "geojson": "qupath/{}.geojson", "csv": "nuclei/{}.csv"}


def export_run(run: Path, data: Path, out: Path, stage: int, formats: Sequence[str]) -> int:
    """Write all that a run found -> how many images.

    Its training becomes an event file (TensorBoard), if it has left a log.

    Args:
        run: a finished run's folder.
        data: the competition's folder.
        out: the folder for the files, see PLACES; it gets coco.json and tensorboard/, too.
        stage: 1 or 2, whose test images the run's submission is for.
        formats: those of ENCODERS, and "coco".

    Raises:
        BadInput: nothing to export, rows that break a rule, or the data are not those of the run.
    """
    cases = {case.image_id: case for case in gather_cases(run, data, stage)}
    if not cases:
        raise BadInput(f"{run} holds no nuclei to export: name the folder of a run, as nuclei run leaves it")
    for image_id, case in cases.items():
        found = Found(case.found, np.moveaxis(case.image, -1, 0), case.confidences)
        for one, place in PLACES.items():
            if one in formats:
                write_whole(out / place.format(image_id), ENCODERS[one](found))
    if "coco" in formats:
        names = _file_names(data, stage, cases)
        entries = (describe_image(names[image_id], case.found, case.confidences) for image_id, case in cases.items())
        write_whole(out / "coco.json", json.dumps(make_coco(entries)))
    if (run / LOG_FILE).is_file():
        write_events(read_training_log(run / LOG_FILE), out / "tensorboard")
    return len(cases)


def _file_names(data, stage, ids):
    """Find the names of images by their ids -> {image id: file name}.

    Where two files share a name, their folders stand before it.
    """
    names: dict[str, str] = {}
    for held in (TEST_NAMES[stage], (TRAIN_NAME,)):
        with contextlib.suppress(BadInput):  # a competition may lack the set that nothing is about
            names |= list_names(find_whole_set(data, held))
    names = {image_id: names[image_id] for image_id in ids}
    last = {image_id: name.split("/")[-1] for image_id, name in names.items()}
    return last if len(set(last.values())) == len(last) else names
