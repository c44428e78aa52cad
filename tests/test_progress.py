"""Progress: every item comes through, and a line a minute where there is no terminal."""

import io
import logging
import sys

import pytest

from nuclei.prediction.progress import PROGRESS_SECONDS, one_behind, progress


@pytest.fixture
def clock(monkeypatch):
    """The seconds that `progress` reads, in a list of one; the test winds it."""
    now = [0.0]
    monkeypatch.setattr("nuclei.prediction.progress.time.monotonic", lambda: now[0])
    return now


def work(clock, count, seconds):
    """Go through `count` items, each of which takes so many seconds -> the items that came through."""
    seen = []
    for item in progress(list(range(count)), "score"):
        seen.append(item)
        clock[0] += seconds
    return seen


@pytest.mark.parametrize("count", [0, 1, 7])
def test_every_item_comes_through_in_order(clock, count):
    assert work(clock, count, 2 * PROGRESS_SECONDS) == list(range(count))


def test_elsewhere_than_in_a_terminal_a_minute_is_a_line(clock, caplog):
    caplog.set_level(logging.INFO, "nuclei")
    work(clock, 10, PROGRESS_SECONDS / 3)
    assert caplog.messages == [f"score: {done} of 10 images" for done in (3, 6, 9)]


def test_what_takes_less_than_a_minute_says_nothing(clock, caplog):
    caplog.set_level(logging.INFO, "nuclei")
    work(clock, 10, PROGRESS_SECONDS / 11)
    assert not caplog.messages


def test_in_a_terminal_a_bar_takes_the_place_of_the_lines(clock, caplog, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    caplog.set_level(logging.INFO, "nuclei")
    work(clock, 10, PROGRESS_SECONDS)
    assert not caplog.messages
    assert "score" in terminal.getvalue()


def made(count, events, cut_off=False):
    """Make items, each of them an event, and then be cut off."""
    for item in range(count):
        events.append(f"{item} made")
        yield item
    if cut_off:
        raise KeyboardInterrupt


@pytest.mark.parametrize("count", [0, 1, 3])
def test_one_behind_gives_each_item_once_the_next_is_made(count):
    events = []
    for item in one_behind(made(count, events)):
        events.append(f"{item} taken")
    assert [event for event in events if "taken" in event] == [f"{item} taken" for item in range(count)]
    assert events == ["0 made", "1 made", "0 taken", "2 made", "1 taken", "2 taken"] or count < 3


def test_one_behind_gives_what_was_made_before_it_is_cut_off():
    taken = []
    with pytest.raises(KeyboardInterrupt):
        for item in one_behind(made(2, [], cut_off=True)):
            taken.append(item)
    assert taken == [0, 1]


def test_one_behind_ends_where_its_reader_does():
    for _ in one_behind(made(3, [])):
        break
