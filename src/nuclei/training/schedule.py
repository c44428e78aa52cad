"""Schedule: how far a training is, and the learning rate there."""

import time
from dataclasses import dataclass, field

import numpy as np

TUNING_TIME_SHARE = 0.08  # share of the time budget that is kept for choosing thresholds at the end


@dataclass
class TrainingState:
    """Where a training is; with the variables of its network and its optimiser, all that it needs to resume."""

    step: int = 0  # optimiser steps taken
    done: float = 0.0  # 0..1 of the schedule
    seconds: float = 0.0  # seconds of training so far
    start: float | None = None  # seconds at the end of the first step
    halvings: int = 0  # halvings of the learning rate
    parts: int = 1  # parts into which each batch is cut, for want of memory
    losses: list[float] = field(default_factory=list)  # losses of the steps since the log's last row
    rows: list[list] = field(default_factory=list)  # rows of the log


def learning_rate(done: float, peak: float, warmup: float) -> float:
    """Compute the rate at `done` (0..1) of the schedule: linear to `peak` in the first `warmup`, then cosine to 0."""
    if done < warmup:
        return peak * (done + 1e-3) / (warmup + 1e-3)
    return peak * 0.5 * (1 + np.cos(np.pi * min((done - warmup) / (1 - warmup), 1.0)))


class Schedule:
    """How far the training is, 0..1, by the clock or by steps.

    By the clock, it counts from the end of the first step, which compiles the network; whatever the speed of the
    machine, and should it change on the way, the rate reaches zero when the time is up.

    Args:
        minutes: of wall clock, thresholds included.
        steps: above 0 they count instead.
        seconds: that the training took before it was cut off.
        start: after how many of them the first step ended.
    """

    def __init__(self, minutes: float, steps: int, seconds: float = 0.0, start: float | None = None):
        self.steps = steps
        self.budget = minutes * 60 * (1 - TUNING_TIME_SHARE)
        self.began = time.monotonic() - seconds
        self.start = start

    def seconds(self) -> float:
        return time.monotonic() - self.began

    def share_done(self, step: int) -> float:
        if self.steps:
            return step / self.steps
        now = self.seconds()
        if self.start is None:
            self.start = now
        return min((now - self.start) / max(self.budget - self.start, 1e-9), 1.0)
