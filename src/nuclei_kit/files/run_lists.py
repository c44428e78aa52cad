"""Run lists: Kaggle's rows back to nuclei, and the rules that they must keep."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nuclei.competition.data import paint_rles
from nuclei.competition.submission import SUBMISSION_HEADER
from nuclei.settings.config import BadInput
from nuclei_kit.files.tables import read_table

# Python's int() accepts more than Kaggle may: underscores, plus signs, digits of other scripts.
_NUMBER = re.compile(r"-?[0-9]{1,20}")
_SPACES = " \t\n\r\f\v"
EXCEL_CELL = 32_767  # characters, after which Excel cuts a cell off


def parse_runs(rle: str, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Parse a run list -> `starts` and `lengths`, int64 (runs,) each, in pixels.

    Starts are indices into the column-major image: they count from 0, unlike those in `rle`. "" is the empty run list.

    Raises:
        BadInput: a rule of the competition is broken: the runs of a nucleus ascend, do not overlap and stay inside the
            image.
    """
    words = re.findall(rf"[^{_SPACES}]+", rle)
    for word in words:
        if not _NUMBER.fullmatch(word):
            raise BadInput(
                f"run list {rle[:60]!r} holds {word[:20]!r}, which is not a whole number: write whole numbers alone, "
                "and nothing for an image without nuclei"
            )
    numbers = list(map(int, words))
    if len(numbers) % 2:
        raise BadInput(f"run list {rle[:60]!r} holds an odd number of numbers ({len(numbers)})")
    starts, lengths = numbers[::2], numbers[1::2]
    last_pixel = 0  # of the run before
    for start, length in zip(starts, lengths, strict=True):
        run = f"run '{start} {length}'"
        if start < 1:
            raise BadInput(f"{run} starts before the first pixel, which is 1")
        if length < 1:
            raise BadInput(f"{run} has a length below 1")
        if start <= last_pixel:
            raise BadInput(
                f"{run} starts before the run ahead of it ends, at pixel {last_pixel}: runs must ascend and not overlap"
            )
        last_pixel = start + length - 1
        if last_pixel > height * width:
            raise BadInput(
                f"{run} ends past the last pixel, {height * width}, of an image {height} high and {width} wide"
            )
    return np.array(starts, np.int64) - 1, np.array(lengths, np.int64)


def decode_rles(rles: Sequence[str], height: int, width: int) -> np.ndarray:
    """Paint run lists -> labels int32 (height, width), in which the k-th run list, from 1, has label k.

    Raises:
        BadInput: `parse_runs` refuses a run list, or two share a pixel.
    """
    clash = _find_clash({label: parse_runs(rle, height, width) for label, rle in enumerate(rles, start=1)})
    if clash:
        raise BadInput(f"run lists {clash[0]} and {clash[1]} of the image overlap")
    return paint_rles(rles, height, width)


def _find_clash(runs):
    """Find two run lists that share a pixel, {number: (starts, lengths)} -> their numbers, ascending, or None."""
    claimed = [np.stack([starts, starts + lengths, np.full(len(starts), n)]) for n, (starts, lengths) in runs.items()]
    starts, ends, numbers = np.concatenate([np.empty((3, 0), np.int64), *claimed], axis=1)
    order = np.argsort(starts, kind="stable")
    shared = np.flatnonzero(starts[order][1:] < ends[order][:-1])
    return sorted(numbers[order][shared[0] : shared[0] + 2].tolist()) if shared.size else None


def check_submission(path: Path, shapes: Mapping[str, tuple[int, int] | None]) -> dict[str, list[str]]:
    """Check a submission against the competition's rules -> {image id: [rles]}.

    Args:
        path: the CSV, plain, zipped or gzipped.
        shapes: {image id: (H, W)} of the images that must have a row; a shape of None leaves bounds unchecked.

    Raises:
        BadInput: names the first rule that is broken, and the row (the header is row 1).
    """
    rows = read_table(path, SUBMISSION_HEADER, exact=True)
    rles: dict[str, list[str]] = {}
    owners: dict[str, list[int]] = {}
    for number, row in enumerate(rows, start=2):
        image_id, rle = row["ImageId"], row["EncodedPixels"]
        where = f"{path}, row {number}"
        if None in row or rle is None:
            raise BadInput(f"{where}: expected 2 fields: ImageId and EncodedPixels")
        if image_id not in shapes:
            raise BadInput(f"{where}: {image_id!r} is not an image of this test set{_suggest(image_id, shapes)}")
        if image_id in rles and (not rle or rles[image_id][0] == ""):
            raise BadInput(f"{where}: {image_id} has an empty row beside another row: an empty row must stand alone")
        rles.setdefault(image_id, []).append(rle)
        owners.setdefault(image_id, []).append(number)
    for image_id, lists in rles.items():
        _check_image(path, image_id, lists, owners[image_id], shapes[image_id])
    missing = [image_id for image_id in shapes if image_id not in rles]
    if missing:
        raise BadInput(
            f"{path}: {len(missing)} images have no row, {missing[0]} first: give each an empty row at least"
        )
    return rles


def _suggest(image_id, shapes):
    """Suggest the id that is meant, where it has an ending, spaces or other letters than it should."""
    for meant in (image_id.strip(), Path(image_id.strip()).stem, image_id.strip().lower()):
        if meant in shapes:
            return f": write {meant}"
    return ""


def _check_image(path, image_id, rles, numbers, shape):
    """Check the rows of one image: every run list is well formed, and no two share a pixel."""
    height, width = shape or (2**31, 1)
    runs = {}
    for number, rle in zip(numbers, rles, strict=True):
        try:
            runs[number] = parse_runs(rle, height, width)
            if rle != " ".join(rle.split()):
                raise BadInput(
                    f"run list {rle[:60]!r} has spaces around its numbers, or two between them: Kaggle's parser "
                    "may stumble there"
                )
        except BadInput as error:
            cut = ", and it ends where Excel cuts a cell off" if len(rle) == EXCEL_CELL else ""
            raise BadInput(f"{path}, row {number} ({image_id}): {error}{cut}") from None
    clash = _find_clash(runs)
    if clash:
        first, second = clash
        raise BadInput(f"{path}, row {second}: {image_id} has a pixel that row {first} has, too: masks may not overlap")
