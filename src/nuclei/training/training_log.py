"""Training log: what a training reports of itself, in log.csv and on the screen."""

import csv
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nuclei.settings.config import log
from nuclei.training.schedule import TrainingState

LOG_EVERY = 64  # steps between two rows


class TrainingLog:
    """A row of log.csv every LOG_EVERY steps, a live bar in a terminal, and elsewhere a line with each row.

    Args:
        path: of log.csv. Rows later than the state that a training resumes from are overwritten.
        state: the training's.
    """

    def __init__(self, path: Path, state: TrainingState):
        self.path, self.state = path, state

    def __enter__(self):
        self.file = open(self.path, "w", newline="", encoding="utf-8")
        self.table = csv.writer(self.file, lineterminator="\n")
        self.table.writerow(["step", "seconds", "learning_rate", "loss", "tuning_score"])
        self.table.writerows(self.state.rows)
        line = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
        self.bar = tqdm(total=100, desc="train", disable=None, bar_format=line)
        return self

    def note(self, rate: float, score: float | None) -> None:
        """Show how far a step came; write a row for each LOG_EVERY losses, at a score and at the end."""
        state = self.state
        self.bar.update(int(100 * state.done) - self.bar.n)
        if len(state.losses) < LOG_EVERY and score is None and state.done < 1:
            return
        mean = np.mean(state.losses)
        scored = "" if score is None else f"{score:.4f}"
        state.rows.append([state.step, f"{state.seconds:.1f}", f"{rate:.3g}", f"{mean:.4f}", scored])
        self.table.writerow(state.rows[-1])
        self.file.flush()
        self.bar.set_postfix_str(f"loss {mean:.3f}")
        if self.bar.disable or score is not None:
            note = f", tuning score {scored}" if scored else ""
            log.info("%.0f s, step %d, %.0f %%, loss %.4f%s", state.seconds, state.step, 100 * state.done, mean, note)
        state.losses = []

    def __exit__(self, *error):
        self.bar.close()
        self.file.close()
