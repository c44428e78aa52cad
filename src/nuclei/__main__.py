"""Entry: what Kaggle runs, from settings in the environment to a submission.csv in the working folder.

A script has no arguments there, so these variables stand in for them. None is needed:

NUCLEI_INPUT    folder that holds the competition's files, at any depth; /kaggle/input
NUCLEI_WORKING  folder for submission.csv and what else a run leaves; /kaggle/working
NUCLEI_PRESET   one of config's PRESETS; kaggle
NUCLEI_MINUTES  of training; the preset's
NUCLEI_STEPS    of training, in place of the minutes
NUCLEI_SEED     of training; the preset's
NUCLEI_STAGE    1 or 2, whose images to predict; 2 where its images are, else 1

python -m nuclei runs the same from the sources.
"""

import logging
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import keras
import numpy as np
import scipy
import skimage

from nuclei.checkpoint import CHECKPOINTS
from nuclei.config import PRESETS, SUBMISSION, BadInput, log
from nuclei.data import COMPETITION, TEST_NAMES, TRAIN, find_set, holds_set, last_stage, list_ids
from nuclei.device import list_gpus
from nuclei.main import run_competition
from nuclei.submission import check_submission, write_submission

SESSION_MINUTES = 690.0  # to train and to predict: of Kaggle's 12 hours all but half an hour to start and to read


def run_kernel(environ):
    """Settings, data, placeholder, run. Every error is raised: Kaggle calls a run complete that swallows one."""
    start_log()
    log.info("sources %s; %s", globals().get("SOURCE_HASH", "not bundled"), list_versions())
    config = read_config(environ)
    data = find_data(Path(environ.get("NUCLEI_INPUT", "/kaggle/input")))
    stage = read_stage(environ, data)
    working = Path(environ.get("NUCLEI_WORKING", "/kaggle/working"))
    ids = list_ids(find_set(data, TEST_NAMES[stage]))
    write_placeholder(working / SUBMISSION, ids)
    report_gpus()
    log.info("data %s, stage %d, output %s; %s", data, stage, working, config)
    run_competition(config, data, working, stage)
    rles = check_submission(working / SUBMISSION, dict.fromkeys(ids))
    shutil.rmtree(working / CHECKPOINTS, ignore_errors=True)
    nuclei = [rle for found in rles.values() for rle in found if rle]
    log.info("%s: %d nuclei in %d images", SUBMISSION, len(nuclei), len(rles))


def start_log():
    """One line a record on stdout, flushed as it comes, whatever the libraries set up before."""
    form = {"format": "%(asctime)s %(message)s", "datefmt": "%H:%M:%S"}
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, force=True, **form)


def list_versions():
    """The versions of what computes, in one line."""
    backend = keras.backend.backend()
    modules = (sys.modules[backend], keras, np, scipy, skimage, cv2)
    return f"python {sys.version.split()[0]}, " + ", ".join(f"{m.__name__} {m.__version__}" for m in modules)


def report_gpus():
    """Logs the GPUs; hours on a CPU should not come as a surprise."""
    gpus = list_gpus()
    if gpus:
        log.info("GPUs: %s", ", ".join(gpus))
    else:
        log.warning(
            "NO GPU: this run trains on the CPU, where the same score takes far longer. On Kaggle, stop it now and "
            "choose the accelerator GPU T4 x2: machine_shape NvidiaTeslaT4 in kernel-metadata.json"
        )


def read_config(environ):
    """The Config that NUCLEI_PRESET, _MINUTES, _STEPS and _SEED describe; BadInput names the variable that is wrong."""
    preset = environ.get("NUCLEI_PRESET", "kaggle")
    if preset not in PRESETS:
        raise BadInput(f"NUCLEI_PRESET={preset} is no preset: choose one of {', '.join(PRESETS)}")
    changes = {}
    for name, kind in (("minutes", float), ("steps", int), ("seed", int)):
        variable = f"NUCLEI_{name.upper()}"
        if variable in environ:
            try:
                changes[f"train_{name}"] = kind(environ[variable])
            except ValueError:
                raise BadInput(f"{variable}={environ[variable]} is no number of the right kind") from None
    config = replace(PRESETS[preset], **changes)
    most = SESSION_MINUTES - config.tta_minutes
    if config.train_minutes > most:
        raise BadInput(f"NUCLEI_MINUTES={config.train_minutes:g} leaves no time to predict: at most {most:g}")
    return config


def read_stage(environ, data):
    """NUCLEI_STAGE, or else the last stage whose test images are in `data`."""
    stage = environ.get("NUCLEI_STAGE", str(last_stage(data)))
    if stage not in map(str, TEST_NAMES):
        raise BadInput(f"NUCLEI_STAGE={stage} is no stage: choose 1 or 2")
    return int(stage)


def find_data(mounted):
    """The folder under `mounted` with the competition's files, which Kaggle has mounted in two places so far.

    Raises:
        BadInput: none has them; what there is stands in the log.
    """
    for folder in (mounted / COMPETITION, mounted / "competitions" / COMPETITION):
        if holds_set(folder, TRAIN):
            return folder
    for folder, inside, _ in os.walk(mounted):
        inside.sort()
        if holds_set(Path(folder), TRAIN):
            return Path(folder)
    tree = sorted(path.relative_to(mounted).as_posix() for path in mounted.rglob("*"))
    log.error("%s holds %d files and folders\n%s", mounted, len(tree), "\n".join(tree[:200]))
    raise BadInput(f"{mounted} holds no {TRAIN}.zip at any depth: add the competition {COMPETITION} to the input")


def write_placeholder(path, ids):
    """A valid submission without a nucleus, in case the session ends before a better one is there. Replaces no file."""
    if not path.exists():
        write_submission(path, [(image_id, "") for image_id in ids])


if __name__ == "__main__":
    run_kernel(os.environ)
