"""Files: what a run leaves in its folder, written whole or not at all."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

WEIGHTS_FILE = "model.weights.h5"
CONFIG_FILE = "config.json"  # settings, thresholds, versions
LOG_FILE = "log.csv"  # rows of the training
STAGES_FILE = "stages.csv"  # seconds and memory of each stage of the run
SUBMISSION_FILE = "submission.csv"
CONFIDENCE_FILE = "confidence.csv"  # confidence of each nucleus in the submission


def write_whole(path: Path, content: str | bytes | memoryview) -> None:
    """Write a file so that a reader finds the old one or the new one, never half of either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except OSError as error:  # the error of a full disk names no file
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        with suppress(OSError):  # a read-only disk refuses even this
            temporary.unlink(missing_ok=True)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a table, whole or not at all."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    write_whole(path, text.getvalue())
