"""Logs: read the numbers in the tables that a run leaves, and write its training for TensorBoard."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from nuclei.settings.config import BadInput
from nuclei_kit.command.keras_start import silence
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


def write_events(rows: Iterable[Mapping[str, float]], folder: Path) -> None:
    """Write the rows of `read_training_log` into a folder as a TensorBoard event file: a curve for each of LOG_SCALARS.

    The time of a point is its second of the training, counted from 1970: right on TensorBoard's axis RELATIVE.
    """
    with silence():
        import tensorflow as tf  # whatever Keras's backend is: only TensorFlow writes the format

    folder.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / "events.out.tfevents.0.nuclei")) as file:
        file.write(tf.compat.v1.Event(file_version="brain.Event:2").SerializeToString())
        for row in rows:
            values = [
                tf.compat.v1.Summary.Value(tag=name, simple_value=row[name]) for name in LOG_SCALARS if name in row
            ]
            event = tf.compat.v1.Event(wall_time=row["seconds"], step=int(row["step"]))
            event.summary.value.extend(values)
            file.write(event.SerializeToString())
