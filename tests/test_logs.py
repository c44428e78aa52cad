"""A run's log: read as numbers, refused where it holds none, and read back by TensorBoard itself."""

import pytest

from nuclei.settings.config import BadInput
from nuclei_kit.report.logs import read_training_log, write_events

LOG = "step,seconds,learning_rate,loss,tuning_score\n64,10.5,0.002,1.5,\n100,20,0.001,0.75,0.5\n"


def test_what_a_row_leaves_empty_is_not_there(tmp_path):
    (tmp_path / "log.csv").write_text(LOG)
    first, last = read_training_log(tmp_path / "log.csv")
    assert first == {"step": 64, "seconds": 10.5, "learning_rate": 0.002, "loss": 1.5}
    assert last["tuning_score"] == 0.5


@pytest.mark.parametrize(
    ("old", "new", "words"), [("1.5", "high", "'high'"), ("0.75", "nan", "'nan'"), ("loss", "x", "loss")]
)
def test_a_table_without_numbers_is_a_sentence(tmp_path, old, new, words):
    (tmp_path / "log.csv").write_text(LOG.replace(old, new, 1))
    with pytest.raises(BadInput, match=words) as error:
        read_training_log(tmp_path / "log.csv")
    assert "log.csv" in str(error.value)


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
