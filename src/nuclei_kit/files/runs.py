"""Runs: a finished run's folder, read with care: to predict with, to train on, to ship."""

import hashlib
import io
import json
from dataclasses import asdict, fields, replace
from importlib import resources
from pathlib import Path

import h5py
import numpy as np

from nuclei.prediction.segmenter import Segmenter
from nuclei.settings.config import BadInput, Config
from nuclei.settings.files import CONFIG_FILE, WEIGHTS_FILE, write_whole
from nuclei.training.train import new_model
from nuclei_kit.files.limits import check_settings

FINE_TUNING_RATE = 0.25  # of the preset's peak rate, for weights that have learnt already
MAX_WEIGHTS = 2**28  # numbers in a weights file: 1 GB


def load_run(run: Path | None = None) -> Segmenter:
    """As `Segmenter.load`, with a look at what the files claim before anything is made of them.

    Raises:
        BadInput: a file is missing, is broken, or the weights belong to another configuration.
    """
    weights, settings = find_run(run)
    for needed in (weights, settings):
        if not needed.is_file():
            raise BadInput(
                f"{needed} is missing: name the folder of a finished run, as nuclei run or nuclei train leaves it"
            )
    if not weights.name.endswith(".weights.h5"):  # Keras would take formats that hold more than numbers
        raise BadInput(f"{weights} is not a .weights.h5 file: name the folder of a finished run")
    try:
        _check_saved(json.loads(settings.read_text(encoding="utf-8"))["config"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadInput(f"{settings} is not a settings file of this version of nuclei: train again ({error})") from None
    try:
        _check_weights(weights)
        return Segmenter.load(weights)
    except (ValueError, OSError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise BadInput(
            f"{weights} does not fit the network in {settings.name} beside it: {str(error).splitlines()[0]}"
        ) from None


def find_run(run: Path | None = None) -> tuple[Path, Path]:
    """The weights and the settings of what `load_run` takes, there or not."""
    path = Path(str(resources.files("nuclei"))) / "weights" if run is None else Path(run)
    weights = path / WEIGHTS_FILE if path.is_dir() else path
    return weights, weights.with_name(CONFIG_FILE)


def _check_saved(saved):
    """What a run saved of its settings must say how to use the network: a default in place of a missing one, or an
    unknown one left out, would be wrong without a word. Those of its training have had their effect.

    Raises:
        ValueError, TypeError, AttributeError: not such a dict, or one that lacks a setting or has an unknown one.
    """
    known = {one.name for one in fields(Config) if not one.name.startswith(("data_", "train_"))}
    if missing := known - saved.keys():
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    check_settings(saved)


def fine_tuning(config: Config, run: Path) -> tuple[Config, list[np.ndarray]]:
    """Ready another training for the weights of a run -> (Config, its weights).

    The network and its targets are the run's, all else is `config`'s, and the rate is FINE_TUNING_RATE of its own.

    Raises:
        BadInput: see `load_run`.
    """
    segmenter = load_run(run)
    same = {n: value for n, value in asdict(segmenter.config).items() if n.startswith(("model_", "target_"))}
    model = new_model(segmenter.config)
    model.load_weights(find_run(run)[0])
    return replace(config, **same, train_rate=config.train_rate * FINE_TUNING_RATE), model.get_weights()


def ship_run(run: Path, folder: Path) -> int:
    """Copy a run's weights, kernels as float16, and its settings into `folder` -> bytes of the weights.

    Raises:
        BadInput: see `load_run`.
    """
    load_run(run)  # refuses what nobody could load
    buffer = io.BytesIO()
    with h5py.File(run / WEIGHTS_FILE, "r") as whole, h5py.File(buffer, "w") as half:

        def copy(name, item):
            if isinstance(item, h5py.Dataset):
                # Kernels alone: a variance of normalisation may be more than float16 holds.
                half.create_dataset(name, data=item[()].astype("float16" if item.ndim > 1 else item.dtype))

        whole.visititems(copy)
    write_whole(folder / WEIGHTS_FILE, buffer.getvalue())
    write_whole(folder / CONFIG_FILE, (run / CONFIG_FILE).read_bytes())
    return len(buffer.getvalue())


def digest_run(run: Path | None = None) -> str:
    """16 hex digits that change with anything that a run's predictions come from. `run`: as for `load_run`."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in find_run(run))).hexdigest()[:16]


def _check_weights(path):
    """Look at a weights file without reading its numbers: a small file may promise any amount of them.

    Raises:
        ValueError: it holds something else than MAX_WEIGHTS numbers, at most, in itself.
        OSError, RuntimeError: not an HDF5 file.
    """
    with h5py.File(path, "r") as file:
        groups, numbers = [file], 0
        while groups:
            group = groups.pop()
            for name in group:
                link = group.get(name, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    raise ValueError(f"{group.name} holds a link to elsewhere, {name!r}")
                item = group[name]
                if isinstance(item, h5py.Group):
                    if item.name.count("/") > 32:  # deeper than any network: a group that holds itself
                        raise ValueError(f"its groups lie too deep: {item.name[:60]}")
                    groups.append(item)
                    continue
                if item.external or item.is_virtual or item.dtype.kind not in "fiu":
                    raise ValueError(f"{item.name} is not an array of numbers in the file itself")
                numbers += item.size
        if numbers > MAX_WEIGHTS:
            raise ValueError(f"it states {numbers:,} numbers, over the {MAX_WEIGHTS:,} that are taken")
