"""Schedule: how far a training is, by the clock or by steps, and the learning rate there."""

import time

import numpy as np

TUNING_SHARE = 0.08  # of the time budget, kept for choosing thresholds at the end


def learning_rate(progress, peak, warmup):
    """The rate at `progress` (0..1) of the schedule: linear up to `peak` in its first `warmup`, then cosine to 0."""
    if progress < warmup:
        return peak * (progress + 1e-3) / (warmup + 1e-3)
    return peak * 0.5 * (1 + np.cos(np.pi * min((progress - warmup) / (1 - warmup), 1.0)))


class Schedule:
    """How far the training is, 0..1, by the clock or by steps.

    By the clock, progress counts from the end of the first step, which compiles the network; whatever the speed of
    the machine, and should it change on the way, the rate reaches zero when the time is up.

    Args:
        seconds: that the training took before it was cut off.
        start: after how many of them the first step ended.
    """

    def __init__(self, minutes, steps, seconds=0.0, start=None):
        self.steps = steps
        self.budget = minutes * 60 * (1 - TUNING_SHARE)
        self.began = time.monotonic() - seconds
        self.start = start

    def seconds(self):
        return time.monotonic() - self.began

    def progress(self, step):
        if self.steps:
            return step / self.steps
        now = self.seconds()
        if self.start is None:
            self.start = now
        return min((now - self.start) / max(self.budget - self.start, 1e-9), 1.0)
