"""Arguments: what those that several commands share stand for: settings, a competition, a submission."""

import os
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from nuclei.settings.config import PRESETS, BadInput, Config
from nuclei.settings.files import SUBMISSION_FILE


def make_config(args: Namespace, fold: int | None = None) -> Config:
    """Change the preset as the options say; a fold makes a preset hold images out that does not by itself."""
    config = replace(PRESETS[args.preset], train_seed=args.seed)
    if args.minutes is not None:
        config = replace(config, train_minutes=args.minutes)
    if args.steps is not None:
        config = replace(config, train_steps=args.steps, train_minutes=0.0)
    if fold is not None:
        from nuclei_kit.experiments.folds import FOLDS, TUNING_SHARE  # late: OpenCV, which only some commands need

        config = replace(config, data_fold=fold, data_folds=config.data_folds or FOLDS, data_tuning=TUNING_SHARE)
    return config


def find_data(args: Namespace, instead: str = "") -> Path:
    """Find the competition's folder: --data, else $NUCLEI_DATA; `instead` is what else an error asks for."""
    data = args.data or os.environ.get("NUCLEI_DATA")
    if not data:
        raise BadInput(f"name {instead}the competition's folder with --data DIR, or set NUCLEI_DATA")
    return Path(data)


def find_shapes(args: Namespace) -> dict[str, tuple[int, int] | None] | None:
    """Read the shapes of the test images of --data; None without it."""
    from nuclei_kit.experiments.scoring import image_shapes

    return image_shapes(args.data, args.stage) if args.data else None


def refuse_pipe(path: Path) -> None:
    """Refuse what can be read once alone: a pipe, as <(command) and /dev/stdin are, or a device.

    Raises:
        BadInput: it is one.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise BadInput(f"{path} is a pipe or a device, not a file: write what it gives to a file, and name that")


def find_submission(path: Path) -> Path:
    """Find the CSV that a file or a run's folder stands for."""
    file = path / SUBMISSION_FILE if path.is_dir() else path
    refuse_pipe(file)
    if not file.is_file():
        raise BadInput(f"{file} is missing: name a submission, or the folder of a run, as nuclei run leaves it")
    return file
