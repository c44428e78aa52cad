"""Kill -9 at random moments: nuclei run, killed and started again until it ends, against a run that nobody disturbs.

    .venv/bin/python benchmarks/resume.py [--kills 50] [--steps 60] [--seed 0]

On a drawn sample, with a small network and a checkpoint every half second, so that kills fall between, before and into
them. A run that ends before all kills are spent is followed by another. Each must leave the undisturbed run's
submission.csv, byte for byte; the exit status says whether all did.

All runs are forks of this process, which imports Keras once and uses it never.
"""

import argparse
import collections
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: F401  before the forks

from nuclei import main as science
from nuclei import train
from nuclei.config import PRESETS
from workbench.cli import main as nuclei
from workbench.sample import draw_sample

PRESETS["sample"] = replace(
    PRESETS["sample"], model_width=4, model_depth=2, train_crop=64, train_batch=4, tile_size=64, tile_overlap=16
)


def start_run(data, out, steps, said):
    """`nuclei run` in a fork -> its process id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        train.CHECKPOINT_SECONDS = science.CHECKPOINT_SECONDS = 0.5
        with open(said, "a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            arguments = ["run", "--data", data, "--preset", "sample", "--steps", steps, "--out", out]
            status = nuclei([str(argument) for argument in arguments])
    finally:
        os._exit(status)


def wait_for(process, seconds):
    """The exit status of a process, None where it was killed when the seconds were over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def describe_moment(out):
    """In which part of its run a killed one was, by what stands in its folder."""
    folder = out / "unfinished"
    if list(folder.glob("checkpoints/prediction/*.npz")):
        return "while it predicted"
    if (folder / "config.json").is_file():
        return "after training, before the first prediction was kept"
    if list(folder.glob("checkpoints/training/*.npz")):
        return "while it trained"
    return "before it began to train"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, moments, same, others = random.Random(args.seed), collections.Counter(), 0, 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["NUCLEI_CACHE"] = str(folder / "cache")
        draw_sample(folder / "data", n_train=12, n_test=12)
        start, said = time.monotonic(), folder / "said.txt"
        status = wait_for(start_run(folder / "data", folder / "undisturbed", args.steps, said), 3600)
        whole = time.monotonic() - start
        if status:
            sys.exit(said.read_text())
        expected = (folder / "undisturbed/submission.csv").read_bytes()
        print(f"the undisturbed run took {whole:.1f} s, its submission has {len(expected)} bytes", flush=True)
        while moments.total() < args.kills or not same + others:
            out = folder / "killed"
            while True:
                left = args.kills - moments.total()
                seconds = rng.uniform(0, whole) if left else 3600
                status = wait_for(start_run(folder / "data", out, args.steps, said), seconds)
                if status is not None:
                    break
                moments[describe_moment(out)] += 1
                print(f"kill {moments.total():>3} after {seconds:5.1f} s, {describe_moment(out)}", flush=True)
            ended = status == 0 and (out / "submission.csv").read_bytes() == expected
            same, others = same + ended, others + (not ended)
            print("a run ended " + ("with the same submission" if ended else f"otherwise\n{said.read_text()}"), flush=True)
            shutil.rmtree(out, ignore_errors=True)
    print(f"\nkills: {moments.total()} in {same + others} runs")
    for moment, count in moments.items():
        print(f"  {count:>4} {moment}")
    print(f"runs that ended with the same submission: {same}; otherwise: {others}")
    return int(others > 0)


if __name__ == "__main__":
    sys.exit(main())
