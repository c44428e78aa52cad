"""Tables: CSVs from outside, plain, zipped or gzipped, read with a bound on their size."""

import codecs
import csv
import gzip
import io
import re
import zipfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from nuclei.settings.config import BadInput
from nuclei_kit.files.formats import HEAD_BYTES
from nuclei_kit.files.limits import MAX_TABLE_BYTES, MAX_TABLE_ROWS, check_bytes
from nuclei_kit.files.zips import BROKEN_ZIP, has_end_in_comment, is_junk, open_zip, recognise, unpack

GZIP, ZIP = b"\x1f\x8b", b"PK\3\4"
# By the marks at their start; that of UTF-16 is the start of UTF-32's.
OTHER_TEXT = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
LISTED = 100  # characters of a header that an error lists, at most
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}  # that people use in place of commas


def read_table(path: Path, columns: Sequence[str], exact: bool = False) -> list[dict[str, str]]:
    """Read a CSV, plain, zipped or gzipped -> list of dicts with at least `columns`, in the file's order.

    Args:
        exact: whether other columns than `columns` are refused; their order is free.

    Raises:
        BadInput: the file is missing, is not a CSV or too large, or its columns are others.
    """
    path = Path(path)
    csv.field_size_limit(MAX_TABLE_BYTES)  # Python's own, 128 kB, is less than the run list of a large nucleus
    try:
        text = _decode(path, _read_bytes(path))
        table = csv.DictReader(io.StringIO(text, newline=""))
        found, rows = list(table.fieldnames or []), list(islice(table, MAX_TABLE_ROWS + 1))
    except PermissionError:
        raise
    except (*BROKEN_ZIP, csv.Error) as error:
        raise BadInput(f"{path} cannot be read as a CSV, plain, zipped or gzipped: {error}") from None
    if len(rows) > MAX_TABLE_ROWS:
        raise BadInput(f"{path} holds over {MAX_TABLE_ROWS:,} rows, the limit: write one for each nucleus")
    if len(set(found)) < len(found):
        raise BadInput(f"{path} has two columns of one name: keep one of them")
    for column in columns:
        if column not in found:
            raise BadInput(f"{path} {_describe_header(found, column, columns)}")
    for column in found if exact else ():
        if column not in columns:
            what = f"a column {column}" if column else "a column without a name"
            index = " (pandas' index: write it with index=False)" if column in ("", "Unnamed: 0", "index") else ""
            raise BadInput(f"{path} has {what}, where there may be {' and '.join(columns)} alone: leave it out{index}")
    return rows


def _read_bytes(path):
    """Read a file, unpacked if need be.

    Raises:
        BadInput: it is too large, or an archive of something else.
        BROKEN_ZIP: it is broken.
    """
    packed = True
    with open(path, "rb") as file:
        head = file.read(len(ZIP))
        is_zip = head == ZIP or has_end_in_comment(file) or zipfile.is_zipfile(file)
    if is_zip:
        data = _unpack_zip(path)
    else:
        check_bytes(path.stat().st_size, MAX_TABLE_BYTES, path)
        data, packed = path.read_bytes(), head.startswith(GZIP)
    if head.startswith(GZIP):
        data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(MAX_TABLE_BYTES + 1)
        check_bytes(len(data), MAX_TABLE_BYTES, path)
    other = recognise(data[:HEAD_BYTES])
    if other:
        verb = "holds" if packed else "is"
        raise BadInput(f"{path} {verb} {other}, not a CSV: give the CSV itself, plain, zipped or gzipped")
    return data


def _unpack_zip(path):
    with open_zip(path) as archive:
        if "[Content_Types].xml" in archive.namelist():
            raise BadInput(f"{path} is a workbook of Excel, not a CSV: save it as CSV")
        names = [one for one in archive.namelist() if not one.endswith("/") and not any(map(is_junk, one.split("/")))]
        if len(names) != 1:
            raise BadInput(f"{path} cannot be read as a CSV: it holds {len(names)} files, zip the CSV alone")
        return unpack(archive, archive.getinfo(names[0]), MAX_TABLE_BYTES)


def _decode(path, data):
    for mark, encoding in OTHER_TEXT.items():
        if data.startswith(mark):
            raise BadInput(f"{path} is text in {encoding}: save it in UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if b"\0" in data[:HEAD_BYTES]:
            raise BadInput(f"{path} is no text, and no CSV: give the CSV itself, plain, zipped or gzipped") from None
        row = data.count(b"\n", 0, error.start) + 1
        letter = f"byte 0x{data[error.start]:02x} in row {row}"
        raise BadInput(f"{path} cannot be read as a CSV: it is not in UTF-8 ({letter}): save it in UTF-8") from None


def _describe_header(found, column, columns):
    """Say what is wrong with a header that lacks a column, and what to do."""
    first = found[0] if found else ""
    if first.lower().startswith("sep="):
        return f"begins with {first!r}, which is for Excel alone: delete that line"
    for mark, name in SEPARATORS.items():
        if len(found) == 1 and mark in first:
            return f"is separated by {name}: separate its fields by commas"
    if re.match(r"[\[{]", first.lstrip()):
        return "is JSON, not a CSV: write a row for each nucleus, its fields separated by commas"
    alike = next((other for other in found if other.strip().lower() == column.lower()), None)
    if alike is not None:
        return f"has a column {alike!r} where {column!r} belongs: write the name exactly so"
    there = ", ".join(found) or "no header"
    there = there if len(there) <= LISTED else f"{there[:LISTED]}..."
    if any(re.fullmatch(r"[\d\s.]+", name) for name in found):  # numbers are no names
        return f"has no header (its first row is {there[:60]}): write {','.join(columns)} above it"
    return f"has no column {column} (it has {there})"
