"""Prediction: what a trained run finds in a competition's test images, or in anybody's own."""

import errno
import hashlib
import json
import math
import time
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from nuclei_kit.exports.coco import describe_image, make_coco
from nuclei_kit.exports.found import ENCODERS, Found
from nuclei_kit.files.cache import default_cache
from nuclei_kit.files.decoding import read_picture, to_rgb
from nuclei_kit.files.limits import MAX_PIXEL_BYTES, check_bytes
from nuclei_kit.files.planes import Choice
from nuclei_kit.files.reading import find_whole_set, read_images
from nuclei_kit.files.runs import digest_runs, load_runs
from nuclei_kit.own_images.batch import LABELS, LABELS_TIFF, OVERLAY, gather_images, name_outputs
from nuclei_kit.own_images.blocks import segment_blocks
from nuclei_kit.own_images.journal import Journal, unfinished_prediction
from nuclei_kit.report.pictures import overlay, write_png

MAX_OWN_PIXELS = 2**29  # pixels of one's own image: 20,000 x 20,000 and more
MAX_WHOLE_PIXELS = 2**22  # pixels of an image that is segmented at once; a larger one is segmented by blocks
UNWRITABLE_NAME = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EISDIR, errno.ENOTDIR}
MAX_OVERLAY_PIXELS = 2**24  # pixels of an overlay; a larger image's is reduced

# Format: the ending of its file for each image. COCO's is one file for all.
ENDINGS = {"tiff": LABELS_TIFF, "roi": ".rois.zip", "geojson": ".geojson", "csv": ".nuclei.csv"}
COCO_FILE = "coco.json"


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


def predict_files(
    weights: Sequence[Path] | None,
    arguments: Sequence[Path],
    out: Path,
    choice: Choice | None = None,
    formats: Sequence[str] = (),
) -> int:
    """Write <name>.labels.png (uint16, 0 is background) and <name>.overlay.png into `out` for each image -> how many
    could not be used.

    Labels of 65,536 nuclei and more are <name>.labels.tif, int32. An image of over MAX_WHOLE_PIXELS is segmented by
    blocks; the overlay of one over MAX_OVERLAY_PIXELS is smaller than it.

    An image that cannot be used gets a warning at the end, and the others are predicted. Cut off, the same call resumes
    after the last image, or block of a large one, that was done.

    Args:
        weights: as for `load_run`.
        arguments: as for `gather_images`; `name_outputs` names what is written.
        choice: which plane is meant of images that hold several.
        formats: in which to write what is found, too: those of ENDINGS, and "coco".

    Raises:
        BadInput: about the weights, the names, or where no image could be used, or `out` holds an unfinished
            prediction by other weights.
    """
    paths, unusable = gather_images(arguments, out)
    if not paths:
        _tell_unusable(unusable, len(unusable))
    outputs = name_outputs(paths, out)
    segmenter = load_runs(weights)
    with unfinished_prediction(out, digest_runs(weights)) as journal:
        done = []
        for path in progress(paths, "predict"):
            try:
                done.append(_predict_file(path, segmenter, outputs[path], journal, choice or Choice(), formats))
            except BadInput as error:
                unusable.append(str(error))
            except MemoryError:
                unusable.append(f"{path} needs more memory than there is: cut it into parts")
        if "coco" in formats and done:
            write_whole(out / COCO_FILE, json.dumps(make_coco(one["coco"] for one in done)))
        _print_cost(len(done), sum(one["pixels"] for one in done), sum(one["seconds"] for one in done))
        if done:
            print(f"{out} holds the labels of each, and an overlay to look at.")
    _tell_unusable(unusable, len(done) + len(unusable))
    return len(unusable)


def _tell_unusable(unusable, count):
    """List what could not be used, at the end, where it is seen.

    Raises:
        BadInput: nothing could be used.
    """
    if unusable and count == 1:
        raise BadInput(unusable[0])
    for why in unusable:
        log.warning("%s", why)
    if unusable and len(unusable) == count:
        raise BadInput(f"none of {count} images could be used: see above")
    if unusable:
        log.warning("%d of %d images could not be used, see above", len(unusable), count)


def _predict_file(
    path: Path, segmenter: Segmenter, output: Path, journal: Journal, choice: Choice, formats: Sequence[str]
) -> dict[str, Any]:
    """Find an image's nuclei and write them, unless the journal has it -> {"pixels", "seconds"} that it cost, and
    "coco", where that is wanted: what `describe_image` gives.

    Raises:
        BadInput: the image cannot be used, or its name cannot be written.
    """
    digest = _digest_file(path)
    plane = f"{choice.channel} {choice.z} {choice.page}"
    key = f"{path} {digest} {plane} {output} {' '.join(formats)}"
    if key in journal.done:
        return journal.done[key]
    picture = read_picture(path, path, MAX_OWN_PIXELS, choice)
    tqdm.write(escape_control(f"{path}: {picture.facts}" + (f"; {picture.chosen}" if picture.chosen else "")))
    image = to_rgb(picture.pixels)
    cost: dict[str, Any] = {"pixels": image.shape[0] * image.shape[1]}
    blocks = Journal(journal.path.with_name(f"{zlib.crc32(plane.encode()):08x}{digest[:16]}.journal"))
    if cost["pixels"] > MAX_WHOLE_PIXELS:
        labels, confidences, cost["seconds"] = segment_blocks(image, segmenter, blocks, escape_control(path.name))
    else:
        start = time.monotonic()
        labels, confidences = segmenter.segment(image)
        cost["seconds"] = time.monotonic() - start
    found = Found(labels, _read_channels(path, picture, choice), confidences.tolist(), picture.pixel_size)
    try:
        _write_found(found, image, output, formats)
    except OSError as error:
        if error.errno not in UNWRITABLE_NAME:
            raise
        raise BadInput(f"{path} has a name that {output} cannot bear ({error.strerror}): rename it") from None
    if "coco" in formats:
        cost["coco"] = describe_image(str(path), labels, found.confidences)
    said = f"{path}: {labels.max(initial=0)} nuclei ({_describe_cost(cost['pixels'], cost['seconds'])})"
    tqdm.write(escape_control(said))  # to stdout, above the bar
    journal.add(key, cost)
    blocks.path.unlink(missing_ok=True)
    return cost


def _read_channels(path, picture, choice):
    """Read the channels of the plane that was predicted, one by one -> (H, W) each."""
    if picture.pixels.ndim == 3 or len(picture.channels) == 1:
        yield from np.moveaxis(np.atleast_3d(picture.pixels), -1, 0)
        return
    for number in range(1, len(picture.channels) + 1):
        yield read_picture(path, path, MAX_OWN_PIXELS, replace(choice, channel=str(number))).pixels


def _write_found(found, image, output, formats):
    """Write what was found in an image, uint8 (H, W, 3), to files whose names begin as `output` does."""

    def ended(ending):
        return output.with_name(output.name + ending)

    step = math.ceil(math.sqrt(found.labels.size / MAX_OVERLAY_PIXELS))
    drawn = overlay(*(np.ascontiguousarray(one[::step, ::step]) for one in (image, found.labels)))
    numbered = found.labels.max(initial=0) <= np.iinfo(np.uint16).max
    if numbered:  # PNG has no 32 bits
        write_png(ended(LABELS), found.labels.astype(np.uint16))
    write_png(ended(OVERLAY), drawn)
    for one, ending in ENDINGS.items():
        if one in formats or (one == "tiff" and not numbered):
            write_whole(ended(ending), ENCODERS[one](found))


def _digest_file(path):
    if path.exists() and not path.is_file():  # a pipe, a device without an end
        raise BadInput(f"{path} is not a file: name images")
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
