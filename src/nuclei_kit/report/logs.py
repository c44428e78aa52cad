"""Logs: the tables that a run leaves, as numbers, and its training for TensorBoard."""

import numpy as np

from nuclei.settings.config import BadInput
from nuclei_kit.command.keras_start import silence
from nuclei_kit.files.tables import read_table

SCALARS = ("loss", "learning_rate", "tuning_score")  # columns of log.csv, beside step and seconds


def read_number(path, row, column):
    """A finite number of a table's row -> float.

    Raises:
        BadInput: something else is there.
    """
    try:
        value = float(row[column])
    except (TypeError, ValueError):
        value = np.nan
    if not np.isfinite(value):
        raise BadInput(f"{path} has {row[column]!r} for {column}, which is no number: delete the file, or run again")
    return value


def read_log(path):
    """A run's log.csv -> [{"step": float, "seconds": float, "loss": float, ...}, ...], without what a row leaves empty.

    Raises:
        BadInput: it is no such table.
    """
    columns = ("step", "seconds", *SCALARS)
    table = read_table(path, columns)
    return [{name: read_number(path, row, name) for name in columns if row[name]} for row in table]


def write_events(rows, folder):
    """Writes the rows of `read_log` as a TensorBoard event file into the Path `folder`: a curve for each of SCALARS.

    The time of a point is its second of the training, counted from 1970: right on TensorBoard's axis RELATIVE.
    """
    with silence():
        import tensorflow as tf  # whatever Keras's backend is: it alone knows the format

    folder.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / "events.out.tfevents.0.nuclei")) as file:
        file.write(tf.compat.v1.Event(file_version="brain.Event:2").SerializeToString())
        for row in rows:
            values = [tf.compat.v1.Summary.Value(tag=name, simple_value=row[name]) for name in SCALARS if name in row]
            event = tf.compat.v1.Event(wall_time=row["seconds"], step=int(row["step"]))
            event.summary.value.extend(values)
            file.write(event.SerializeToString())
