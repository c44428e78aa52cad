"""Tables: CSVs from outside, plain or zipped, read with a bound on their size."""

import csv
import io
import zipfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from nuclei.settings.config import BadInput
from nuclei_kit.files.limits import MAX_TABLE_BYTES, MAX_TABLE_ROWS, check_bytes
from nuclei_kit.files.zips import BROKEN_ZIP, unpack


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV, plain or zipped -> list of dicts with at least `columns`, in the file's order.

    Raises:
        BadInput: the file is missing, is not a CSV or too large, or lacks a column.
    """
    path = Path(path)
    csv.field_size_limit(MAX_TABLE_BYTES)  # Python's own, 128 kB, is less than the run list of a large nucleus
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
                if len(names) != 1:
                    raise BadInput(f"{path} cannot be read as a CSV: it holds {len(names)} files, zip the CSV alone")
                data = unpack(archive, archive.getinfo(names[0]), MAX_TABLE_BYTES)
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
        raise BadInput(f"{path} holds over {MAX_TABLE_ROWS:,} rows, the limit: write one for each nucleus")
    if len(set(found)) < len(found):
        raise BadInput(f"{path} has two columns of one name: keep one of them")
    missing = [column for column in columns if column not in found]
    if missing:
        raise BadInput(f"{path} has no column {missing[0]} (it has {', '.join(found) or 'no header'})")
    return rows
