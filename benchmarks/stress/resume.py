"""Resume: nuclei run, killed (-9) at random moments and started again until it ends, against an undisturbed run.

    .venv/bin/python benchmarks/stress/resume.py [--kills 50] [--steps 300] [--seed 0]

On a drawn sample, with a small network and a checkpoint every half second, so that kills fall between, before and into
them. A run that ends before all kills are spent is followed by another. Each must leave the undisturbed run's
submission.csv, byte for byte; the exit status says whether all did. Stopped early (Ctrl-C), it sums up what it has;
another seed tries other moments.
"""

import argparse
import collections
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nuclei_kit.command.terminal import stopping_at_sigterm
from nuclei_kit.sample.sample import draw_sample

# nuclei, with checkpoints as frequent and a network as small as kills every few seconds need.
NUCLEI = """
import sys
from dataclasses import replace
from nuclei.run import main
from nuclei.training import train
from nuclei.settings.config import PRESETS
from nuclei_kit.command.cli import main as nuclei

train.REMEMBER_SECONDS = main.REMEMBER_SECONDS = 0.5
small = {"model_width": 8, "model_depth": 2, "train_crop": 64, "train_rate": 1e-2, "tile_size": 128}
PRESETS["sample"] = replace(PRESETS["sample"], **small)
sys.exit(nuclei())
"""


def start_run(data, out, steps, said):
    """Start `nuclei run` as a process."""
    command = [sys.executable, "-c", NUCLEI, "run", "--data", data, "--preset", "sample", "--steps", str(steps)]
    with open(said, "a") as file:
        return subprocess.Popen([*command, "--out", out], stdout=file, stderr=subprocess.STDOUT)


def wait_for(process, seconds):
    """Wait for a process, and kill it when the seconds are over -> its exit status, None where it was killed."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        process.kill()
        process.wait()


def describe_moment(out):
    """Say in which part of its run a killed one was, by what stands in its folder."""
    folder = out / "unfinished"
    if not folder.exists() and (out / "submission.csv").exists():
        return "when it was done"
    if list(folder.glob("checkpoints/prediction/*.npz")):
        return "while it predicted"
    if (folder / "config.json").is_file():
        return "after training, before the first prediction was kept"
    if list(folder.glob("checkpoints/training/*.npz")):
        return "while it trained"
    return "before it began to train"


def read_results(out):
    """Read what a run must leave as the undisturbed one does."""
    return [(out / name).read_bytes() for name in ("submission.csv", "model.weights.h5")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, moments, same, others = random.Random(args.seed), collections.Counter(), 0, 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["NUCLEI_CACHE"] = str(folder / "cache")
        draw_sample(folder / "data", n_train=12, n_test=4)
        start, said = time.monotonic(), folder / "said.txt"
        status = wait_for(start_run(folder / "data", folder / "undisturbed", args.steps, said), 3600)
        whole = time.monotonic() - start
        if status:
            sys.exit(said.read_text())
        expected = read_results(folder / "undisturbed")
        print(f"the undisturbed run took {whole:.1f} s, its submission has {len(expected[0])} bytes", flush=True)
        out = folder / "killed"
        with stopping_at_sigterm(), contextlib.suppress(KeyboardInterrupt):  # what there is by then is a result, too
            while moments.total() < args.kills or not same + others:
                fresh, start = not out.exists(), time.monotonic()
                seconds = rng.uniform(0, whole) if moments.total() < args.kills else 3600
                status = wait_for(start_run(folder / "data", out, args.steps, said), seconds)
                moment = describe_moment(out)
                if status is None:
                    moments[moment] += 1
                    print(f"kill {moments.total():>3} after {seconds:5.1f} s, {moment}", flush=True)
                    if moment != "when it was done":
                        continue
                if fresh and status == 0:  # the first run may have been the slowest: files came from the disk
                    whole = min(whole, time.monotonic() - start)
                ended = not status and read_results(out) == expected
                same, others = same + ended, others + (not ended)
                print(
                    f"a run ended {'with the same results' if ended else 'otherwise'}: {same} of {same + others}",
                    flush=True,
                )
                if not ended:
                    print(said.read_text(), flush=True)
                shutil.rmtree(out, ignore_errors=True)
    print(f"\nkills: {moments.total()} in {same + others} runs")
    for moment, count in moments.items():
        print(f"  {count:>4} {moment}")
    print(f"runs that ended with the same results: {same}; otherwise: {others}")
    return int(others > 0)


if __name__ == "__main__":
    sys.exit(main())
