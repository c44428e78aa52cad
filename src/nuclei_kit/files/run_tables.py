"""Run tables: the numbers in the CSVs that a run leaves, one reader each."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nuclei.settings.config import BadInput
from nuclei_kit.files.folders import HELD_OUT_FILE
from nuclei_kit.files.tables import read_table

LOG_SCALARS = ("loss", "learning_rate", "tuning_score")  # columns of log.csv, beside step and seconds


def read_number(path: Path, row: Mapping[str, str], column: str) -> float:
    """Read a finite number from a row of the table at `path`.

    Raises:
        BadInput: the row holds something else.
    """
    try:
        value = float(row[column])
    except (TypeError, ValueError):
        value = np.nan
    if not np.isfinite(value):
        raise BadInput(f"{path} has {row[column]!r} for {column}, not a number: delete the file, or run again")
    return value


def read_training_log(path: Path) -> list[dict[str, float]]:
    """Read log.csv -> [{"step": float, "seconds": float, "loss": float, ...}, ...], without what a row leaves empty.

    Raises:
        BadInput: the file is not such a table.
    """
    columns = ("step", "seconds", *LOG_SCALARS)
    table = read_table(path, columns)
    return [{name: read_number(path, row, name) for name in columns if row[name]} for row in table]


def read_scores(run: Path, name: str = HELD_OUT_FILE) -> dict[str, tuple[str, float]]:
    """Read held_out.csv in a run's folder, or open.csv -> {image id: (kind, score)}.

    Raises:
        BadInput: the file is not such a table.
    """
    path = run / name
    table = read_table(path, ("ImageId", "kind", "score"))
    return {row["ImageId"]: (row["kind"], read_number(path, row, "score")) for row in table}
