"""Training log: its rows and its lines, from steps that the test makes up."""

import logging

import pytest
from drawn_files import read_rows

from nuclei.training.schedule import TrainingState
from nuclei.training.training_log import LOG_EVERY, TrainingLog


def take_steps(path, state, last, scores=None, steps=200):
    """Note steps with their own number as the loss, up to number `last` of `steps`; scores is {step: score}."""
    with TrainingLog(path, state) as training_log:
        for step in range(state.step + 1, last + 1):
            state.step, state.done, state.seconds = step, step / steps, 2.0 * step
            state.losses.append(float(step))
            training_log.note(1e-3, (scores or {}).get(step))


def test_a_row_is_the_mean_of_its_steps_and_the_last_one_of_what_is_left(tmp_path):
    take_steps(tmp_path / "log.csv", TrainingState(), 200)
    rows = read_rows(tmp_path / "log.csv")
    ends = [LOG_EVERY, 2 * LOG_EVERY, 3 * LOG_EVERY, 200]
    assert [int(row["step"]) for row in rows] == ends
    for row, first, last in zip(rows, [1, *(end + 1 for end in ends)], ends, strict=False):
        assert float(row["loss"]) == pytest.approx((first + last) / 2)  # of the numbers first..last
        assert float(row["seconds"]) == 2 * last
        assert float(row["learning_rate"]) == 1e-3
        assert row["tuning_score"] == ""


def test_a_score_writes_a_row_early(tmp_path):
    take_steps(tmp_path / "log.csv", TrainingState(), 80, {10: 0.25})
    first, second = read_rows(tmp_path / "log.csv")
    assert (first["step"], first["loss"], first["tuning_score"]) == ("10", "5.5000", "0.2500")
    assert (second["step"], second["tuning_score"]) == (str(10 + LOG_EVERY), "")


def test_a_row_is_in_the_file_while_the_training_runs(tmp_path):
    state = TrainingState()
    with TrainingLog(tmp_path / "log.csv", state) as training_log:
        state.step = 1
        state.losses.append(0.5)
        training_log.note(1e-3, 0.1)
        assert len(read_rows(tmp_path / "log.csv")) == 1


def test_rows_after_the_state_that_a_training_resumes_from_are_overwritten(tmp_path):
    """Cut off after 150 steps, a training resumes from its state after 70: its log is that of an unbroken one."""
    take_steps(tmp_path / "whole.csv", TrainingState(), 200)
    state = TrainingState()
    take_steps(tmp_path / "log.csv", state, 70)
    losses, rows = list(state.losses), list(state.rows)
    take_steps(tmp_path / "log.csv", state, 150)
    take_steps(tmp_path / "log.csv", TrainingState(step=70, losses=losses, rows=rows), 200)
    assert read_rows(tmp_path / "log.csv") == read_rows(tmp_path / "whole.csv")


def test_elsewhere_than_in_a_terminal_a_row_is_a_line(tmp_path, caplog):
    caplog.set_level(logging.INFO, "nuclei")
    take_steps(tmp_path / "log.csv", TrainingState(), 200, {200: 0.5})
    assert len(caplog.messages) == 4
    assert caplog.messages[0] == "128 s, step 64, 32 %, loss 32.5000"
    assert caplog.messages[-1] == "400 s, step 200, 100 %, loss 196.5000, tuning score 0.5000"
