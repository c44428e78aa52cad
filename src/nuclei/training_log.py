"""Training log: where a training is, and what it says of that."""

import csv
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from nuclei.config import log

EPOCH = 64  # steps between two lines


@dataclass
class Progress:
    """Where a training is; with the variables of its network and its optimiser, all that it needs to go on."""

    step: int = 0  # that were taken
    done: float = 0.0  # 0..1 of the schedule
    seconds: float = 0.0  # of training
    start: float | None = None  # the seconds at the end of the first step
    best: float = -1.0  # score on the tuning images
    halvings: int = 0  # of the learning rate
    parts: int = 1  # into which each batch is cut, for want of memory
    losses: list[float] = field(default_factory=list)  # of the steps since the log's last row
    rows: list[list] = field(default_factory=list)  # of the log
    thresholds: dict | None = None  # once they are chosen, and the training is over


class TrainingLog:
    """What a training says of itself: log.csv, a live bar in a terminal, and elsewhere one line an epoch.

    Args:
        path: of log.csv; what a training wrote there after the checkpoint from which it goes on is written over.
        at: the training's Progress.
    """

    def __init__(self, path, at):
        self.path, self.at = path, at

    def __enter__(self):
        self.file = open(self.path, "w", newline="", encoding="utf-8")
        self.table = csv.writer(self.file, lineterminator="\n")
        self.table.writerow(["step", "seconds", "learning_rate", "loss", "tuning_score"])
        self.table.writerows(self.at.rows)
        line = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
        self.bar = tqdm(total=100, desc="train", disable=None, bar_format=line)
        return self

    def note(self, rate, loss, score):
        """Takes one step's figures; every EPOCH steps, at a score and at the end it writes them down."""
        at = self.at
        at.losses.append(loss)
        self.bar.update(int(100 * at.done) - self.bar.n)
        if len(at.losses) < EPOCH and score is None and at.done < 1:
            return
        mean = np.mean(at.losses)
        scored = "" if score is None else f"{score:.4f}"
        at.rows.append([at.step, f"{at.seconds:.1f}", f"{rate:.3g}", f"{mean:.4f}", scored])
        self.table.writerow(at.rows[-1])
        self.file.flush()
        self.bar.set_postfix_str(f"loss {mean:.3f}")
        if self.bar.disable or score is not None:
            note = f", tuning score {scored}" if scored else ""
            log.info("%.0f s, step %d, %.0f %%, loss %.4f%s", at.seconds, at.step, 100 * at.done, mean, note)
        at.losses = []

    def __exit__(self, *error):
        self.bar.close()
        self.file.close()
