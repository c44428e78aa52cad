"""Submission: label images to the rows of Kaggle's CSV, and the rules that such a file must keep."""

import csv
import io
import os
import zipfile
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np

from nuclei.config import MAX_TABLE_BYTES, MAX_TABLE_ROWS, BadInput
from nuclei.data import BROKEN_ZIP, check_bytes, unpack
from nuclei.rle import encode_labels, parse_runs

HEADER = ["ImageId", "EncodedPixels"]


def make_rows(image_id, labels):
    """labels int32 (H, W) -> [(ImageId, EncodedPixels)], one a nucleus; an empty image has one row with no runs."""
    return [(image_id, rle) for rle in encode_labels(labels) or [""]]


def write_submission(path, rows):
    """Writes the rows under Kaggle's header, whole or not at all."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(HEADER)
    table.writerows(rows)
    write_whole(path, text.getvalue())


def write_whole(path, content):
    """Writes a file, text (str) or bytes, so that a reader finds the old one or the new one, never half of either."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except OSError as error:  # a full disk gives no name
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        with suppress(OSError):  # a read-only disk refuses even this
            temporary.unlink(missing_ok=True)


def read_table(path, columns):
    """A CSV, plain or zipped -> list of dicts with at least `columns`, in the file's order.

    Raises:
        BadInput: no such file, no CSV, one that is too large, or a column missing.
    """
    path = Path(path)
    csv.field_size_limit(MAX_TABLE_BYTES)  # Python's own, 128 kB, is less than the run list of a large nucleus
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
                if len(names) != 1:
                    raise BadInput(f"{path} cannot be read as a CSV: it holds {len(names)} files, zip the CSV alone")
                data = unpack(archive, names[0], MAX_TABLE_BYTES)
        else:
            check_bytes(path.stat().st_size, MAX_TABLE_BYTES, path)
            data = path.read_bytes()
        table = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        found, rows = table.fieldnames or [], list(islice(table, MAX_TABLE_ROWS + 1))
    except PermissionError:
        raise
    except (*BROKEN_ZIP, csv.Error) as error:
        raise BadInput(f"{path} cannot be read as a CSV, plain or zipped: {error}") from None
    if len(rows) > MAX_TABLE_ROWS:
        raise BadInput(f"{path} holds over {MAX_TABLE_ROWS:,} rows, more than are taken: write one for each nucleus")
    if len(set(found)) < len(found):
        raise BadInput(f"{path} has two columns of one name: keep one of them")
    missing = [column for column in columns if column not in found]
    if missing:
        raise BadInput(f"{path} has no column {missing[0]} (it has {', '.join(found) or 'no header'})")
    return rows


def check_submission(path, shapes):
    """Checks a submission against the competition's rules -> {image id: [rles]}.

    Args:
        path: the CSV, plain or zipped.
        shapes: {image id: (H, W)} of the images that must have a row; a shape of None leaves bounds unchecked.

    Raises:
        BadInput: names the first rule that is broken, and the row (the header is row 1).
    """
    rows = read_table(path, HEADER)
    rles, owners = {}, {}
    for number, row in enumerate(rows, start=2):
        image_id, rle = row["ImageId"], row["EncodedPixels"]
        where = f"{path}, row {number}"
        if None in row or rle is None:
            raise BadInput(f"{where}: expected 2 fields: ImageId and EncodedPixels")
        if image_id not in shapes:
            raise BadInput(f"{where}: {image_id!r} is no image of this test set")
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


def _check_image(path, image_id, rles, numbers, shape):
    """The rules of one image's rows: every run list is well formed, and no two claim a pixel."""
    height, width = shape or (2**31, 1)
    claimed = []
    for number, rle in zip(numbers, rles, strict=True):
        try:
            if rle != " ".join(rle.split()):
                raise BadInput(f"run list {rle[:60]!r} has more than single spaces between its numbers")
            starts, lengths = parse_runs(rle, height, width)
        except BadInput as error:
            raise BadInput(f"{path}, row {number} ({image_id}): {error}") from None
        claimed.append(np.stack([starts, starts + lengths, np.full(len(starts), number)], axis=1))
    runs = np.concatenate(claimed)
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    clash = np.flatnonzero(runs[1:, 0] < runs[:-1, 1])
    if clash.size:
        first, second = sorted((runs[clash[0], 2], runs[clash[0] + 1, 2]))
        raise BadInput(
            f"{path}, row {second}: {image_id} has a pixel that row {first} claims too: masks may not overlap"
        )
