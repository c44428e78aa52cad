"""A run's training for TensorBoard, which reads it back itself."""

import pytest

from nuclei_kit.files.run_tables import read_training_log
from nuclei_kit.report.logs import write_events

LOG = "step,seconds,learning_rate,loss,tuning_score\n64,10.5,0.002,1.5,\n100,20,0.001,0.75,0.5\n"


def test_tensorboard_reads_the_curves(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (tmp_path / "log.csv").write_text(LOG)
    rows = read_training_log(tmp_path / "log.csv")
    write_events(rows, tmp_path / "board")
    write_events(rows, tmp_path / "board")  # a second export replaces the first
    board = accumulator.EventAccumulator(str(tmp_path / "board")).Reload()
    assert set(board.Tags()["scalars"]) == {"loss", "learning_rate", "tuning_score"}
    seen = [(event.step, event.wall_time, event.value) for event in board.Scalars("loss")]
    assert seen == [(64, 10.5, 1.5), (100, 20.0, 0.75)]
    assert [event.step for event in board.Scalars("tuning_score")] == [100]
