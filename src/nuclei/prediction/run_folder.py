"""Run folder: a trained network and, beside it, its settings file, written and read without Keras."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from nuclei.prediction.watershed import Thresholds
from nuclei.settings.config import Config
from nuclei.settings.files import CONFIG_FILE, WEIGHTS_FILE, write_whole

FREE_SETTINGS = ("data_", "train_", "tile_")  # prefixes of the settings that say nothing of what a network learned


def find_run(run: str | Path | None = None) -> tuple[Path, Path]:
    """Locate a run's weights and settings, there or not, by its folder or its weights; None is the one that ships."""
    path = Path(str(resources.files("nuclei"))) / "weights" if run is None else Path(run)
    weights = path / WEIGHTS_FILE if path.is_dir() else path
    return weights, weights.with_name(CONFIG_FILE)


def save_run(folder: Path, model: Any, thresholds: Mapping[str, Thresholds], origin: str, config: Config) -> None:
    """Write a Keras model's weights, and the settings, thresholds, their origin and versions with them, each whole."""
    temporary = folder / "writing.weights.h5"  # Keras insists on the ending
    model.save_weights(temporary)
    os.replace(temporary, folder / WEIGHTS_FILE)
    versions = {"python": sys.version.split()[0], "keras": metadata.version("keras")}
    versions |= {one.__name__: one.__version__ for one in (np, cv2)}
    content = {"config": config, "thresholds": thresholds, "thresholds_from": origin, "versions": versions}
    write_settings(folder / CONFIG_FILE, content)


def write_settings(path: Path, content: Mapping[str, Any]) -> None:
    """Write a settings file, whole; Config and Thresholds become tables of their fields."""
    write_whole(path, json.dumps(content, indent=2, default=asdict) + "\n")


def read_settings(path: Path) -> dict[str, Any]:
    """Read a settings file of whatever version -> what it holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def parse_settings(content: Mapping[str, Any]) -> tuple[Config, dict[str, Thresholds]]:
    """Make what a settings file holds a Config and thresholds by look.

    Settings of the training may be another version's: they have had their effect. So may those of tiles, which cost
    memory and time alone.
    """
    known = {one.name for one in fields(Config)}
    values = {k: v for k, v in content["config"].items() if k in known or not k.startswith(FREE_SETTINGS)}
    return Config(**values), {look: Thresholds(**one) for look, one in content["thresholds"].items()}
