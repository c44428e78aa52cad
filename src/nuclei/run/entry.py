"""Entry: what Kaggle runs, its settings from the environment.

A script has no arguments there, so these variables stand in for them. None is needed:

NUCLEI_INPUT    folder that holds the competition's files, at any depth; /kaggle/input
NUCLEI_WORKING  folder for submission.csv and what else a run leaves; /kaggle/working
NUCLEI_PRESET   one of config's PRESETS; kaggle
NUCLEI_MINUTES  of training; the preset's
NUCLEI_STEPS    of training, in place of the minutes
NUCLEI_SEED     of training; the preset's
NUCLEI_STAGE    1 or 2, whose images to predict; 2 where its images are, else 1

python -m nuclei.run.entry runs the same from the sources.
"""

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import scipy
import skimage

from nuclei.competition.data import (
    COMPETITION,
    TEST_NAMES,
    TRAIN_NAME,
    add_truth,
    find_set,
    holds_set,
    last_stage,
    read_set,
    read_truth,
)
from nuclei.network.device import list_gpus
from nuclei.run.main import run_competition
from nuclei.run.predictions import Predictions
from nuclei.run.stopwatch import Stopwatch
from nuclei.settings.config import PRESETS, BadInput, Config, log
from nuclei.settings.files import STAGES_FILE, SUBMISSION_FILE
from nuclei.training.train import Keeper


def run_kernel(environ: Mapping[str, str]) -> None:
    """Read settings and data, and run. Every error is raised: Kaggle calls a run that swallows one complete."""
    start_log()
    log.info("sources %s; %s", globals().get("SOURCE_HASH", "not bundled"), list_versions())
    config = read_config(environ)
    data = find_mounted(Path(environ.get("NUCLEI_INPUT", "/kaggle/input")))
    stage = read_stage(environ, data)
    working = Path(environ.get("NUCLEI_WORKING", "/kaggle/working"))
    report_gpus()
    log.info("data %s, stage %d, output %s; %s", data, stage, working, config)
    watch = Stopwatch()
    with watch.stage("read test"):
        test = read_set(find_set(data, TEST_NAMES[stage]))
    # A valid submission without a nucleus, in case the session ends before a better one is there.
    if not (working / SUBMISSION_FILE).exists():
        Predictions(test).write(working)
    with watch.stage("read train"):
        train = read_set(find_set(data, (TRAIN_NAME,)))
    train, tuning = add_truth(train, read_truth(data)) if stage == 2 else (train, train.subset([]))
    run_competition(config, train, tuning, test, working, Keeper(), watch)
    watch.report(working / STAGES_FILE)


def start_log() -> None:
    """Log to stdout, a line a record, flushed as it comes, whatever the libraries set up before."""
    form, clock = "%(asctime)s %(message)s", "%H:%M:%S"
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format=form, datefmt=clock, force=True)


def list_versions() -> str:
    """List the versions of what computes, in one line."""
    backend = keras.backend.backend()
    modules = (sys.modules[backend], keras, np, scipy, skimage, cv2)
    return f"python {sys.version.split()[0]}, " + ", ".join(f"{m.__name__} {m.__version__}" for m in modules)


def report_gpus() -> None:
    """Log the GPUs; hours on a CPU should not come as a surprise."""
    if gpus := list_gpus():
        log.info("GPUs: %s", ", ".join(gpus))
        return
    log.warning("NO GPU: a CPU takes far longer. On Kaggle, stop, and set machine_shape NvidiaTeslaT4 in the metadata")


def read_config(environ: Mapping[str, str]) -> Config:
    """Make the Config that NUCLEI_PRESET, _MINUTES, _STEPS and _SEED describe; BadInput names a wrong variable."""
    preset = environ.get("NUCLEI_PRESET", "kaggle")
    if preset not in PRESETS:
        raise BadInput(f"NUCLEI_PRESET={preset} is not a preset: choose one of {', '.join(PRESETS)}")
    changes: dict[str, Any] = {}
    for name, kind in (("minutes", float), ("steps", int), ("seed", int)):
        variable = f"NUCLEI_{name.upper()}"
        if variable in environ:
            try:
                changes[f"train_{name}"] = kind(environ[variable])
            except ValueError:
                raise BadInput(f"{variable}={environ[variable]} is not a number of the right kind") from None
    config = replace(PRESETS[preset], **changes)
    if (minutes := config.train_minutes) > config.most_minutes:
        raise BadInput(f"NUCLEI_MINUTES={minutes:g} leaves no time to predict: at most {config.most_minutes:g}")
    return config


def read_stage(environ: Mapping[str, str], data: Path) -> int:
    """Take NUCLEI_STAGE, or else the last stage whose test images are in `data`."""
    stage = environ.get("NUCLEI_STAGE", str(last_stage(data)))
    if stage not in map(str, TEST_NAMES):
        raise BadInput(f"NUCLEI_STAGE={stage} is not a stage: choose 1 or 2")
    return int(stage)


def find_mounted(mounted: Path) -> Path:
    """Find the folder under `mounted` with the competition's files, which Kaggle has mounted in two places so far.

    Raises:
        BadInput: there is none; the log lists what is there.
    """
    places = [mounted / COMPETITION, mounted / "competitions" / COMPETITION]
    for folder in [*places, mounted, *sorted(path for path in mounted.rglob("*") if path.is_dir())]:
        if holds_set(folder, TRAIN_NAME):
            return folder
    tree = sorted(path.relative_to(mounted).as_posix() for path in mounted.rglob("*"))
    log.error("%s holds %d files and folders\n%s", mounted, len(tree), "\n".join(tree[:200]))
    raise BadInput(f"{mounted} holds no {TRAIN_NAME}.zip at any depth: add the competition {COMPETITION} to the input")


if __name__ == "__main__":
    run_kernel(os.environ)
