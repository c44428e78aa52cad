"""Schedule: the rate over a training, and how far it is by steps and by a clock that the test sets."""

import time

import numpy as np
import pytest

from nuclei.training.schedule import TUNING_TIME_SHARE, Schedule, learning_rate


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.3])
def test_the_rate_rises_to_its_peak_and_falls_to_zero(warmup):
    done = np.linspace(0, 1, 201)
    rates = np.array([learning_rate(share, 2e-3, warmup) for share in done])
    top = int(np.argmax(rates))
    assert rates[top] == pytest.approx(2e-3)
    assert done[top] == pytest.approx(warmup)
    assert (np.diff(rates[: top + 1]) > 0).all()
    assert (np.diff(rates[top:]) < 0).all()
    assert rates[0] > 0  # the first step moves, too
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert learning_rate((1 + warmup) / 2, 2e-3, warmup) == pytest.approx(1e-3)  # half way down


def test_the_rate_stays_zero_after_the_end():
    assert learning_rate(1.5, 2e-3, 0.05) == pytest.approx(0, abs=1e-12)


def test_the_share_done_by_steps():
    schedule = Schedule(minutes=5, steps=4)
    assert [schedule.share_done(step) for step in range(5)] == [0, 0.25, 0.5, 0.75, 1]


@pytest.fixture
def clock(monkeypatch):
    """A clock that this test sets: clock[0] is the time in seconds."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_the_share_done_by_the_clock_counts_from_the_first_step_and_ends_in_time(clock):
    schedule = Schedule(minutes=10, steps=0)
    clock[0] += 52  # the first step compiles
    assert schedule.share_done(1) == 0
    end = 1000 + 600 * (1 - TUNING_TIME_SHARE)
    for share in (0.1, 0.5, 0.99):
        clock[0] = 1052 + share * (end - 1052)
        assert schedule.share_done(2) == pytest.approx(share)
    clock[0] = end
    assert schedule.share_done(3) == pytest.approx(1)
    clock[0] = end + 100
    assert schedule.share_done(4) == 1


def test_a_first_step_longer_than_the_budget_ends_the_training(clock):
    schedule = Schedule(minutes=0.1, steps=0)
    clock[0] += 60
    assert schedule.share_done(1) == 0  # the clock starts at its end
    clock[0] += 1
    assert schedule.share_done(2) == 1


def test_the_clock_counts_what_was_used_before(clock):
    schedule = Schedule(minutes=10, steps=0, seconds=400.0, start=52.0)
    clock[0] += 10
    assert schedule.share_done(7) == pytest.approx((410 - 52) / (600 * (1 - TUNING_TIME_SHARE) - 52))
