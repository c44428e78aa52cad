"""Logs: a run's training, written for TensorBoard."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from nuclei_kit.command.keras_start import silence
from nuclei_kit.files.run_tables import LOG_SCALARS


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
