"""Prediction: what a trained run finds, in a competition's test images or in anybody's own."""

import cv2
import numpy as np
from tqdm import tqdm

from nuclei.config import MAX_PIXEL_BYTES, SUBMISSION, BadInput, log
from nuclei.data import TEST_NAMES, check_bytes, decode_image, default_cache, find_set, read_set
from nuclei.main import Predictions, progress
from nuclei.submission import write_whole
from nuclei.train import segment
from workbench.pictures import overlay, write_png
from workbench.runs import load_run
from workbench.terminal import plain

MAX_OWN_PIXELS = 2**29  # of one's own image: 20,000 x 20,000 and more


def predict_competition(weights, data, stage, out):
    """Writes `out`/submission.csv for the test images of a stage -> its path.

    An image that cannot be read gets its empty row, and a warning.

    Raises:
        BadInput: about the weights or the competition.
    """
    path = find_set(data, TEST_NAMES[stage])
    trained = load_run(weights)
    test = read_set(path, default_cache())
    predictions = Predictions(test)
    predictions.improve(*trained)
    predictions.write(out / SUBMISSION)
    for image_id, why in test.faults.items():
        log.warning("%s was left empty: %s", image_id, why)
    return out / SUBMISSION


def predict_files(weights, paths, out):
    """Writes <stem>.labels.png (uint16, 0 is background) and <stem>.overlay.png into `out` for each image file.

    Labels of 65,536 nuclei and more are <stem>.labels.tif, int32.

    An image that cannot be used gets a warning at the end, and the others go on.

    Raises:
        BadInput: about the weights, the names, or where no image could be used.
    """
    outputs = name_outputs(paths, out)
    trained = load_run(weights)
    faults = []
    for path in progress(paths, "predict"):
        try:
            _predict_file(path, trained, *outputs[path])
        except BadInput as error:
            faults.append(str(error))
    if len(faults) == len(paths):
        raise BadInput(faults[0] if len(faults) == 1 else f"none of {len(faults)} images could be used: {faults[0]}")
    for fault in faults:
        log.warning("%s", fault)


def name_outputs(paths, out):
    """{image file: (label file, overlay file)}.

    Raises:
        BadInput: two images would share an output, or an output would replace an image.
    """
    outputs = {path: (out / f"{path.stem}.labels.png", out / f"{path.stem}.overlay.png") for path in paths}
    owners = {}
    for path in paths:
        for written in outputs[path]:
            if written in owners:
                raise BadInput(f"{owners[written]} and {path} would both be written to {written}: rename one of them")
            owners[written] = path
    images = {path.resolve() for path in paths}
    for written, path in owners.items():
        if written.resolve() in images:
            raise BadInput(f"what is found in {path} would replace the image {written}: name another folder with --out")
    return outputs


def _predict_file(path, trained, labels_path, overlay_path):
    if path.exists() and not path.is_file():  # a folder, a pipe, a device without an end
        raise BadInput(f"{path} is no file: name images")
    try:
        check_bytes(path.stat().st_size, MAX_PIXEL_BYTES * MAX_OWN_PIXELS, path)
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    image = decode_image(data, path, MAX_OWN_PIXELS)
    labels = segment(image, *trained)
    count = labels.max(initial=0)
    if count > np.iinfo(np.uint16).max:
        labels_path = labels_path.with_suffix(".tif")  # PNG has no 32 bits
        write_whole(labels_path, cv2.imencode(".tif", labels)[1].tobytes())
    else:
        write_png(labels_path, labels.astype(np.uint16))
    write_png(overlay_path, overlay(image, labels))
    tqdm.write(plain(f"{path}: {count} nuclei, in {labels_path} and {overlay_path.name}"))  # to stdout, above the bar
