"""Advice: what to do next, judged by what is in the working folder."""

import os
import subprocess
import sys
from pathlib import Path

from nuclei.competition.data import TRAIN_NAME
from nuclei.settings.files import SUBMISSION_FILE, WEIGHTS_FILE
from nuclei_kit.command.options import DATA_FOLDER, RUN_FOLDER, SAMPLE_FOLDER
from nuclei_kit.command.terminal import program, quote
from nuclei_kit.files.folders import REPORT_FILE
from nuclei_kit.files.reading import locate_set
from nuclei_kit.kaggle.kernel import ROOT, SCRIPT

Steps = list[tuple[str, str]]  # (command, what it does)


def next_steps(root: Path = ROOT) -> tuple[str, Steps]:
    """Say what is in the working folder, and what to do next -> (a sentence, steps).

    Args:
        root: the clone whose kernel is checked.
    """
    data = find_competition()
    if data is None:
        sentence = "There is no competition here yet."
        steps = [
            (f"{program()} download {DATA_FOLDER}", "get Kaggle's files"),
            (f"{program()} sample {SAMPLE_FOLDER}", "or draw a small sample"),
        ]
    elif (RUN_FOLDER / SUBMISSION_FILE).is_file():
        report = RUN_FOLDER / REPORT_FILE
        seen = f", and {report} shows it: open it in a browser" if report.is_file() else ""
        sentence, steps = f"A submission is in {RUN_FOLDER}{seen}.", _with_submission(data)
    elif (RUN_FOLDER / WEIGHTS_FILE).is_file():
        predict = f"{program()} predict --weights {RUN_FOLDER} --data {quote(data)} --out {RUN_FOLDER}"
        sentence, steps = f"A trained network is in {RUN_FOLDER}, and no submission yet.", [(predict, "find nuclei")]
    else:
        preset = "sample" if data == SAMPLE_FOLDER else "cpu"
        run = f"{program()} run --data {quote(data)} --preset {preset}"
        sentence, steps = f"The competition is in {data}, and no run yet.", [(run, "train and predict")]
    if is_stale(root):
        steps.append((f"{Path(sys.executable).name} build_kernel.py", f"{SCRIPT} is older than its sources"))
    return sentence, steps


def _with_submission(data):
    steps = []
    if not (RUN_FOLDER / REPORT_FILE).is_file():
        steps.append((f"{program()} report {RUN_FOLDER} --data {quote(data)}", "see what it found"))
    steps.append((f"{program()} check {RUN_FOLDER} --data {quote(data)}", "see whether Kaggle would accept it"))
    if data == SAMPLE_FOLDER:
        solution = SAMPLE_FOLDER / "stage1_solution.csv"
        return [*steps, (f"{program()} score {RUN_FOLDER} --solution {solution}", "see how well it scores")]
    return [*steps, (f'{program()} submit -m "first"', "send it to Kaggle")]


def find_competition() -> Path | None:
    """Find a competition's files, in $NUCLEI_DATA or a default folder -> the folder, or None."""
    named = [Path(os.environ["NUCLEI_DATA"])] if os.environ.get("NUCLEI_DATA") else []
    return next((path for path in (*named, DATA_FOLDER, SAMPLE_FOLDER) if locate_set(path, (TRAIN_NAME,))), None)


def is_stale(root: Path) -> bool:
    """Tell whether a clone's kernel differs from what its sources make."""
    builder = root / "build_kernel.py"
    if not builder.is_file():
        return False
    return subprocess.run([sys.executable, builder, "--check"], cwd=root, capture_output=True).returncode != 0
