"""Nuclei to and from Kaggle's run lists, which go down the columns and count pixels from 1.

One nucleus is written "start length start length ...": pixel 1 is the top left one, pixel 2 the one
below it, pixel H + 1 the top of the second column
(https://www.kaggle.com/competitions/data-science-bowl-2018/overview/evaluation).
"""

import re

import numpy as np

from nuclei.config import BadInput

# Python's int() takes more than Kaggle may: underscores, plus signs, digits of other scripts.
_RUN_LIST = re.compile(r"\s*(-?[0-9]{1,20}(\s+|\Z))*", re.ASCII)


def encode_labels(labels):
    """Return a list of run lists (str), one per nucleus of `labels` (H, W), by ascending label.

    Labels may have gaps; an image without nuclei gives []. Every pixel carries one label, so the
    run lists can't overlap, which Kaggle would refuse. A boolean mask counts as one nucleus.
    """
    flat = labels.ravel(order="F")
    # All nuclei in one pass: cut where the label changes, drop the background, sort by label.
    is_start = np.ones(flat.size, bool)
    is_start[1:] = flat[1:] != flat[:-1]
    starts = np.flatnonzero(is_start)
    lengths = np.diff(starts, append=flat.size)
    nuclei = flat[starts]
    order = np.argsort(nuclei, kind="stable")  # stable: one nucleus's runs stay ascending
    order = order[nuclei[order] != 0]
    runs = np.stack([starts + 1, lengths], axis=1)[order]  # (runs, 2)
    _, first_run = np.unique(nuclei[order], return_index=True)
    return [" ".join(map(str, run.ravel().tolist())) for run in np.split(runs, first_run)[1:]]


def parse_runs(rle, height, width):
    """Return the runs of `rle` as `starts` and `lengths`, int64 (runs,) each, in pixels.

    Starts are indices into the column-major image: they count from 0, unlike those in `rle`. "" is
    the empty run list. Raises BadInput where the competition's rules are broken: the runs of a
    nucleus ascend, don't overlap and stay inside the image.
    """
    if not _RUN_LIST.fullmatch(rle):
        raise BadInput(f"run list {rle[:60]!r} holds something that is not a whole number")
    numbers = [int(word) for word in rle.split()]
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


def decode_rle(rle, height, width):
    """Return the mask, bool (height, width), that one run list stands for."""
    return decode_rles([rle], height, width).astype(bool)


def decode_rles(rles, height, width):
    """Return `labels` int32 (height, width) in which the k-th run list, from 1, has label k.

    Raises BadInput for a run list that `parse_runs` refuses, and for two that share a pixel.
    """
    flat = np.zeros(height * width, np.int32)
    for label, rle in enumerate(rles, start=1):
        for start, length in zip(*parse_runs(rle, height, width), strict=True):
            pixels = flat[start : start + length]
            if pixels.any():
                raise BadInput(f"run lists {pixels.max()} and {label} of the image overlap")
            pixels[:] = label
    return np.ascontiguousarray(flat.reshape((height, width), order="F"))
