"""Prediction: what a trained run finds in a competition's test images, or in anybody's own."""

import hashlib
import math
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from nuclei.competition.data import TEST_NAMES
from nuclei.network.device import peak_memory
from nuclei.prediction.progress import progress
from nuclei.prediction.segmenter import Segmenter
from nuclei.run.predictions import Predictions
from nuclei.settings.config import BadInput, log
from nuclei.settings.files import SUBMISSION_FILE, write_whole
from nuclei_kit.command.terminal import escape_control
from nuclei_kit.files.cache import default_cache
from nuclei_kit.files.decoding import decode_image
from nuclei_kit.files.limits import MAX_PIXEL_BYTES, check_bytes
from nuclei_kit.files.reading import find_whole_set, read_images
from nuclei_kit.files.runs import digest_runs, load_runs
from nuclei_kit.own_images.blocks import segment_blocks
from nuclei_kit.own_images.journal import Journal, unfinished_prediction
from nuclei_kit.report.pictures import overlay, write_png

MAX_OWN_PIXELS = 2**29  # pixels of one's own image: 20,000 x 20,000 and more
MAX_WHOLE_PIXELS = 2**22  # pixels of an image that is segmented at once; a larger one is segmented by blocks
MAX_OVERLAY_PIXELS = 2**24  # pixels of an overlay; a larger image's is reduced


def predict_competition(weights: Sequence[Path] | None, data: Path, stage: int, out: Path) -> Path:
    """Write `out`/submission.csv for the test images of a stage -> its path.

    An image that cannot be read gets its empty row, and a warning. Cut off, the same call resumes after the last image
    that was done.

    Args:
        weights: as for `load_run`.
        data: the competition's folder.

    Raises:
        BadInput: about the weights or the competition, or `out` holds an unfinished prediction by other weights.
    """
    path = find_whole_set(data, TEST_NAMES[stage])
    segmenter = load_runs(weights)
    test = read_images(path, default_cache())
    predictions = Predictions(test)
    keys = {i: f"{i} {zlib.crc32(image.data):08x}" for i, image in predictions.images.items()}
    with unfinished_prediction(out, digest_runs(weights)) as journal:
        earlier = {i: journal.done[key] for i, key in keys.items() if key in journal.done}
        predictions.take(earlier)
        pixels = sum(predictions.images[i].size // 3 for i in predictions.order)
        start = time.monotonic()
        predictions.improve(segmenter, keep=lambda i: journal.add(keys[i], predictions.found[i]))
        _print_cost(len(keys) - len(earlier), pixels, time.monotonic() - start)
        predictions.write(out)
    for image_id, why in test.unreadable.items():
        log.warning("%s was left empty: %s", image_id, why)
    return out / SUBMISSION_FILE


def predict_files(weights: Sequence[Path] | None, paths: Sequence[Path], out: Path) -> None:
    """Write <stem>.labels.png (uint16, 0 is background) and <stem>.overlay.png into `out` for each image file.

    Labels of 65,536 nuclei and more are <stem>.labels.tif, int32. An image of over MAX_WHOLE_PIXELS is segmented by
    blocks; the overlay of one over MAX_OVERLAY_PIXELS is smaller than it.

    An image that cannot be used gets a warning at the end, and the others are predicted. Cut off, the same call resumes
    after the last image, or block of a large one, that was done.

    Args:
        weights: as for `load_run`.

    Raises:
        BadInput: about the weights, the names, or where no image could be used, or `out` holds an unfinished
            prediction by other weights.
    """
    outputs = name_outputs(paths, out)
    segmenter = load_runs(weights)
    unusable: list[str] = []
    with unfinished_prediction(out, digest_runs(weights)) as journal:
        done = []
        for path in progress(paths, "predict"):
            try:
                done.append(_predict_file(path, segmenter, outputs[path], journal))
            except BadInput as error:
                unusable.append(str(error))
        _print_cost(len(done), sum(one["pixels"] for one in done), sum(one["seconds"] for one in done))
        if done:
            print(f"{out} holds the labels of each, and an overlay to look at.")
    if len(unusable) == len(paths):
        first = unusable[0]
        raise BadInput(first if len(paths) == 1 else f"none of {len(paths)} images could be used: {first}")
    for why in unusable:
        log.warning("%s", why)


def name_outputs(paths: Sequence[Path], out: Path) -> dict[Path, tuple[Path, Path]]:
    """Name what is written -> {image file: (label file, overlay file)}.

    Raises:
        BadInput: two images would share an output, or an output would replace an image.
    """
    outputs = {path: (out / f"{path.stem}.labels.png", out / f"{path.stem}.overlay.png") for path in paths}
    owners: dict[Path, Path] = {}
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


def _predict_file(path: Path, segmenter: Segmenter, outputs: tuple[Path, Path], journal: Journal) -> dict[str, float]:
    """Find an image's nuclei and write them, unless the journal has it -> {"pixels", "seconds"} that it cost."""
    digest = _digest_file(path)
    key = f"{path} {digest}"
    if key in journal.done:
        return journal.done[key]
    image = decode_image(path, path, MAX_OWN_PIXELS)
    cost: dict[str, float] = {"pixels": image.shape[0] * image.shape[1]}
    blocks = Journal(journal.path.with_name(f"{digest[:16]}.journal"))
    if cost["pixels"] > MAX_WHOLE_PIXELS:
        labels, cost["seconds"] = segment_blocks(image, segmenter, blocks, escape_control(path.name))
    else:
        start = time.monotonic()
        labels, _ = segmenter.segment(image)
        cost["seconds"] = time.monotonic() - start
    labels_path, overlay_path = outputs
    _write_labels(labels_path, labels)
    step = math.ceil(math.sqrt(cost["pixels"] / MAX_OVERLAY_PIXELS))
    write_png(overlay_path, overlay(*(np.ascontiguousarray(one[::step, ::step]) for one in (image, labels))))
    said = f"{path}: {labels.max(initial=0)} nuclei ({_describe_cost(**cost)})"
    tqdm.write(escape_control(said))  # to stdout, above the bar
    journal.add(key, cost)
    blocks.path.unlink(missing_ok=True)
    return cost


def _write_labels(path, labels):
    """Write labels as a PNG, or as a TIFF where there are too many for 16 bits."""
    if labels.max(initial=0) <= np.iinfo(np.uint16).max:
        write_png(path, labels.astype(np.uint16))
    else:  # PNG has no 32 bits
        write_whole(path.with_suffix(".tif"), cv2.imencode(".tif", labels)[1].tobytes())


def _digest_file(path):
    if path.exists() and not path.is_file():  # a folder, a pipe, a device without an end
        raise BadInput(f"{path} is not a file: name images")
    if any("\udc80" <= letter <= "\udcff" for letter in str(path)):  # as Python reads such bytes; OpenCV would crash
        raise BadInput(f"{path} has a name that is not UTF-8: rename it")
    try:
        check_bytes(path.stat().st_size, MAX_PIXEL_BYTES * MAX_OWN_PIXELS, path)
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None


def _describe_cost(pixels, seconds):
    megapixels = pixels / 1e6
    return f"{megapixels:.2f} megapixels, {seconds / max(megapixels, 1e-9):.1f} s a megapixel"


def _print_cost(images, pixels, seconds):
    if images:
        print(f"{images} images, {_describe_cost(pixels, seconds)}; peak memory {peak_memory():.1f} GB")
