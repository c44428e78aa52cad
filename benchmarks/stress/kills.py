"""Kills: what stands when a run is cut off: the twin ended at four shares of its budget, by two signals.

    .venv/bin/python benchmarks/stress/kills.py [DIR] [--preset sample] [--minutes 0.5]

DIR holds the competition's files; a sample is drawn where none is named. Each run is a training of its own, of at least
the kernel's start and its share of the budget, which counts from the first submission.csv, the placeholder.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nuclei.competition.data import TEST_NAMES
from nuclei.competition.submission import write_submission
from nuclei.settings.config import BadInput
from nuclei_kit.experiments.scoring import check_file
from nuclei_kit.files.reading import find_whole_set, list_ids
from nuclei_kit.sample.sample import draw_sample

SHARES = (0.25, 0.5, 0.75, 1.0)
SIGNALS = (signal.SIGTERM, signal.SIGKILL)


def kill_twin(data, folder, share, sent, minutes, preset="sample"):
    """Run the twin in `folder`/out, where an earlier submission stands, and end it by a signal.

    Args:
        data: the competition's folder.
        folder: Path of an empty folder.
        share: of the minutes of training, from the placeholder on.
        sent: the signal.

    Returns:
        (Path of the submission that stands: the unfinished one, or the published one where the run was done already;
        how many nuclei it holds, in how many images; the processes that are left, list of str).

    Raises:
        BadInput: the submission breaks a rule.
        RuntimeError: the earlier submission is not as it was, though the run was not done.
    """
    ids = dict.fromkeys(list_ids(find_whole_set(data, TEST_NAMES[1])))
    out, temporary = folder / "out", folder / "tmp"
    temporary.mkdir(parents=True)
    write_submission(out / "submission.csv", [("of an earlier run", "")])
    earlier = (out / "submission.csv").read_bytes()
    command = [sys.executable, "-m", "nuclei_kit", "kernel", "run", "--data", data, "--out", out]
    command += ["--preset", preset, "--minutes", str(minutes), "--stage", "1"]
    environ = os.environ | {"TMPDIR": str(temporary)}
    with open(folder / "twin.log", "w") as log:
        twin = subprocess.Popen(command, env=environ, stdout=log, stderr=subprocess.STDOUT)
    while twin.poll() is None and not (out / "unfinished/submission.csv").exists():
        time.sleep(0.05)
    try:
        twin.wait(60 * minutes * share)
    except subprocess.TimeoutExpired:
        twin.send_signal(sent)
        twin.wait()
    time.sleep(0.5)  # for the kernel to see that its twin is gone
    path = out / "unfinished/submission.csv"
    if not path.exists():
        path = out / "submission.csv"
    elif (out / "submission.csv").read_bytes() != earlier:
        raise RuntimeError(f"{out / 'submission.csv'} was replaced by a run that was not done")
    nuclei, images, _ = check_file(path, ids)
    return path, nuclei, images, list_processes(temporary)


def list_processes(folder):
    """List the command lines of the running processes that name a folder."""
    ps = subprocess.run(["ps", "-A", "-ww", "-o", "args="], capture_output=True, text=True, check=True)
    return [line for line in ps.stdout.splitlines() if str(folder) in line]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DIR", nargs="?", type=Path)
    parser.add_argument("--preset", default="sample")
    parser.add_argument("--minutes", type=float, default=0.5)
    args = parser.parse_args()
    print(f"{'share':>5}  {'signal':<7}  {'stands':<10}  {'images':>6}  {'nuclei':>6}  {'left':>4}  valid", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or Path(folder, "data")
        if not args.data:
            draw_sample(data)
        for share in SHARES:
            for sent in SIGNALS:
                row = f"{share:>5.0%}  {sent.name:<7}"
                try:
                    run = Path(folder, f"{share} {sent.name}")
                    path, nuclei, images, left = kill_twin(data, run, share, sent, args.minutes, args.preset)
                except BadInput as error:
                    print(f"{row}  {error}", flush=True)
                    continue
                stands = "unfinished" if path.parent.name == "unfinished" else "published"
                print(f"{row}  {stands:<10}  {images:>6}  {nuclei:>6}  {len(left):>4}  yes", flush=True)


if __name__ == "__main__":
    main()
