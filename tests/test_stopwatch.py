"""Stopwatch: seconds, images and memory of each stage, in the log and in a CSV."""

import csv

import pytest

from nuclei.run import stopwatch
from nuclei.run.stopwatch import Stopwatch


@pytest.fixture
def watch(monkeypatch):
    """A stopwatch that has seen a stage of 4 s with 8 images and one of half a second."""
    times, peaks = iter([10.0, 14.0, 20.0, 20.5]), iter([1.0, 2.0, 2.5])
    monkeypatch.setattr(stopwatch.time, "monotonic", lambda: next(times))
    monkeypatch.setattr(stopwatch, "peak_memory", lambda: next(peaks))
    watch = Stopwatch()
    with watch.stage("read", 8):
        pass
    with watch.stage("idle"):
        pass
    return watch


def test_the_log_has_seconds_and_images_a_second(watch, tmp_path, caplog):
    caplog.set_level("INFO", logger="nuclei")
    watch.report(tmp_path / "stages.csv")
    lines = [line.split() for line in caplog.records[-1].getMessage().splitlines()]
    assert lines[1:3] == [["read", "4.0", "8", "2.0"], ["idle", "0.5"]]
    assert lines[3] == ["peak", "memory", "2.5", "GB"]


def test_the_table_has_the_memory_at_the_end_of_each_stage(watch, tmp_path):
    watch.report(tmp_path / "stages.csv")
    with open(tmp_path / "stages.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["stage"] for row in rows] == ["read", "idle"]
    assert [(float(row["seconds"]), int(row["images"]), float(row["peak_gb"])) for row in rows] == [
        (4.0, 8, 1.0),
        (0.5, 0, 2.0),
    ]


def test_a_stage_that_fails_is_left_out():
    watch = Stopwatch()
    with pytest.raises(RuntimeError), watch.stage("read"):
        raise RuntimeError
    assert watch.stages == {}
