"""Runs: a finished run's folder -> its network, to predict with, to train on, or to ship."""

import hashlib
import io
import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import h5py

from nuclei.config import CONFIG, WEIGHTS, BadInput, Config
from nuclei.main import set_up_device
from nuclei.submission import write_whole
from nuclei.train import new_model
from nuclei.watershed import Thresholds

TRAINED_WITH = ("data_", "train_")  # the settings that are over with a training
FINE_TUNING_RATE = 0.25  # of the preset's peak rate, for weights that have learnt already


def load_run(path):
    """A run's folder, or a weights file with config.json beside it -> (network, Thresholds, Config).

    Raises:
        BadInput: see `load_model`.
    """
    model, thresholds, config = load_model(path)
    return model.predict_on_batch, thresholds, config


def load_model(path):
    """As `load_run`, with the Keras Model itself in place of the network that it stands for.

    Raises:
        BadInput: a file is missing, is broken, or the weights belong to another configuration.
    """
    weights, settings = _run_files(path)
    for needed in (weights, settings):
        if not needed.is_file():
            raise BadInput(
                f"{needed} is missing: name the folder of a finished run, as nuclei run or nuclei train leaves it"
            )
    if not weights.name.endswith(".weights.h5"):  # Keras would take formats that hold more than numbers
        raise BadInput(f"{weights} is no .weights.h5 file: name the folder of a finished run")
    try:
        content = json.loads(settings.read_text(encoding="utf-8"))
        config = _read_settings(content["config"])
        thresholds = Thresholds(**content["thresholds"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadInput(f"{settings} is no settings file of this version of nuclei: train again ({error})") from None
    set_up_device()
    try:
        model = new_model(config)
        _check_weights(weights, model.count_params())
        model.load_weights(weights)
    except (ValueError, OSError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise BadInput(
            f"{weights} does not fit the network in {settings.name} beside it: {str(error).splitlines()[0]}"
        ) from None
    return model, thresholds, config


def _read_settings(saved):
    """What a run saved of its settings, a dict -> Config.

    Those of its training have had their effect: another version's may differ. The others say how to use the network,
    so that a default in place of one that another version did not know would be wrong without a word.

    Raises:
        ValueError, TypeError, AttributeError: it is no such dict, lacks a setting or has an unknown one.
    """
    known = {one.name for one in fields(Config)}
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()}
    values = {name: value for name, value in values.items() if name in known or not name.startswith(TRAINED_WITH)}
    if missing := {name for name in known - values.keys() if not name.startswith(TRAINED_WITH)}:
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    return Config(**values)


def fine_tuning(config, path):
    """Readies another training for the weights of a run -> (Config, its weights, a list of arrays).

    The network and its targets are the run's, all else is `config`'s, and the rate is FINE_TUNING_RATE of its own.

    Raises:
        BadInput: see `load_model`.
    """
    model, _, learnt = load_model(path)
    same = {name: value for name, value in asdict(learnt).items() if name.startswith(("model_", "target_"))}
    return replace(config, **same, train_rate=config.train_rate * FINE_TUNING_RATE), model.get_weights()


def ship_run(run, folder):
    """Copies a run's weights, kernels as float16, and its settings into `folder` -> bytes of the weights.

    Raises:
        BadInput: see `load_model`.
    """
    load_model(run)  # refuses what nobody could load
    buffer = io.BytesIO()
    with h5py.File(run / WEIGHTS, "r") as whole, h5py.File(buffer, "w") as half:

        def copy(name, item):
            if isinstance(item, h5py.Dataset):
                # Kernels alone: a variance of normalisation may be more than float16 holds.
                half.create_dataset(name, data=item[()].astype("float16" if item.ndim > 1 else item.dtype))

        whole.visititems(copy)
    write_whole(folder / WEIGHTS, buffer.getvalue())
    write_whole(folder / CONFIG, (run / CONFIG).read_bytes())
    return len(buffer.getvalue())


def digest_run(path):
    """16 hex digits that change with anything that a run's predictions come from. `path`: as for `load_run`."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in _run_files(path))).hexdigest()[:16]


def _run_files(path):
    """(weights, settings) of what `load_run` takes, there or not."""
    weights = Path(path) / WEIGHTS if Path(path).is_dir() else Path(path)
    return weights, weights.with_name(CONFIG)


def _check_weights(path, count):
    """Looks at a weights file without reading its numbers: a small file may promise any amount of them.

    Raises:
        ValueError: it holds something else than `count` numbers, at most, in itself.
        OSError, RuntimeError: it is no HDF5 file.
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
                    raise ValueError(f"{item.name} is no array of numbers in the file itself")
                numbers += item.size
        if numbers > count:
            raise ValueError(f"it holds more than the network's {count} numbers")
