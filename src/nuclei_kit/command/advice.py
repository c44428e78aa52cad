"""Advice: what to do next, from what is in the folder."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from nuclei.competition.data import TRAIN, holds_set
from nuclei.settings.files import SUBMISSION_FILE, WEIGHTS_FILE
from nuclei_kit.files.folders import REPORT_FILE
from nuclei_kit.kaggle.kernel import ROOT, SCRIPT

SAMPLE, DOWNLOADED, RUN = Path("build/sample"), Path("dsb2018"), Path("submission")  # where the commands put them


def next_steps(root=ROOT):
    """What stands in the working folder -> (a sentence, [(command, what it does)]).

    Args:
        root: the clone whose kernel is looked at.
    """
    data = find_competition()
    if data is None:
        sentence, steps = (
            "There is no competition here yet.",
            [
                (f"nuclei download {DOWNLOADED}", "get Kaggle's files"),
                (f"nuclei sample {SAMPLE}", "or draw a small sample"),
            ],
        )
    elif (RUN / SUBMISSION_FILE).is_file():
        report = RUN / REPORT_FILE
        seen = f", and {report} shows it: open it in a browser" if report.is_file() else ""
        sentence, steps = f"A submission is in {RUN}{seen}.", _with_submission(data)
    elif (RUN / WEIGHTS_FILE).is_file():
        predict = f"nuclei predict --weights {RUN} --data {_quote(data)} --out {RUN}"
        sentence, steps = f"A trained network is in {RUN}, and no submission yet.", [(predict, "find nuclei")]
    else:
        preset = "sample" if data == SAMPLE else "cpu"
        run = f"nuclei run --data {_quote(data)} --preset {preset}"
        sentence, steps = f"The competition is in {data}, and no run yet.", [(run, "train and predict")]
    if is_stale(root):
        steps.append((f"{Path(sys.executable).name} build_kernel.py", f"{SCRIPT} is older than its sources"))
    return sentence, steps


def _with_submission(data):
    report = (
        [] if (RUN / REPORT_FILE).is_file() else [(f"nuclei report {RUN} --data {_quote(data)}", "see what it found")]
    )
    check = (f"nuclei check {RUN} --data {_quote(data)}", "see whether Kaggle would take it")
    if data == SAMPLE:
        solution = f"nuclei score {RUN} --solution {SAMPLE / 'stage1_solution.csv'}"
        return [*report, check, (solution, "see what it is worth")]
    return [*report, check, ('nuclei submit -m "first"', "send it to Kaggle")]


def find_competition():
    """The folder of a competition's files that the commands would find, or None."""
    named = [Path(os.environ["NUCLEI_DATA"])] if os.environ.get("NUCLEI_DATA") else []
    return next((path for path in (*named, DOWNLOADED, SAMPLE) if holds_set(path, TRAIN)), None)


def is_stale(root):
    """Whether a clone's kernel is not what its sources make."""
    builder = root / "build_kernel.py"
    if not builder.is_file():
        return False
    return subprocess.run([sys.executable, builder, "--check"], cwd=root, capture_output=True).returncode != 0


def _quote(path):
    return shlex.quote(str(path))
