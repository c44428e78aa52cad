"""Runs: a finished run's folder, read with care, to predict with and to train on."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np

from nuclei.prediction.run_folder import find_run
from nuclei.prediction.segmenter import Segmenter
from nuclei.settings.config import BadInput, Config
from nuclei.training.train import new_model
from nuclei_kit.files.folding import fold_normalisation
from nuclei_kit.files.limits import MAX_WEIGHTS
from nuclei_kit.files.saved_settings import check_saved

# What members of an average must have in common, since they see the same images.
SHARED_SETTINGS = ("model_outputs", "model_diameter", "model_zoom")
FINE_TUNING_RATE = 0.25  # share of the preset's peak rate, for weights that are trained already


def load_run(run: Path | None = None) -> Segmenter:
    """Load a run as `Segmenter.load` does, after its files were examined: they may come from anywhere.

    The network that ships comes folded, for speed; that of a run as it is, so that it finds again, to the last pixel,
    what it found in the run.

    Raises:
        BadInput: a file is missing or broken, or the weights belong to another configuration.
    """
    weights, settings = find_run(run)
    if not weights.is_file():
        raise BadInput(
            f"{weights} is missing: name the folder of a finished run, as nuclei run or nuclei train leaves it"
        )
    if not weights.name.endswith(".weights.h5"):  # Keras would open formats that hold more than numbers
        raise BadInput(f"{weights} is not a .weights.h5 file: name the folder of a finished run")
    check_saved(settings)
    try:
        _check_weights(weights)
        return Segmenter.load(weights, fold_normalisation) if run is None else Segmenter.load(weights)
    except (ValueError, OSError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise BadInput(
            f"{weights} does not fit the network in {settings.name} beside it: {str(error).splitlines()[0]}"
        ) from None


def load_runs(runs: Sequence[Path] | None) -> Segmenter:
    """Load several runs as one Segmenter, whose probabilities are their mean; thresholds and settings are the first's.

    Args:
        runs: as for `load_run`; None stands for the network that ships.

    Raises:
        BadInput: see `load_run`; also a run that sees images at another scale than the first, or in larger units.
    """
    if not runs:
        return load_run()
    members = [load_run(run) for run in runs]
    first = members[0]
    for run, member in zip(runs, members, strict=True):
        for name in SHARED_SETTINGS:
            if getattr(member.config, name) != getattr(first.config, name):
                raise BadInput(f"{run} does not go together with the run before it: its {name} is another")
        if first.config.divisor % member.config.divisor:
            raise BadInput(f"{run} sees images in units of {member.config.divisor} px: name it before the others")
    if len(members) == 1:
        return first
    return replace(first, network=lambda x: np.mean([np.asarray(one.network(x)) for one in members], axis=0))


def digest_runs(runs: Sequence[Path] | None) -> str:
    """Hash everything that the predictions of runs come from -> 16 hex digits; `runs` as for `load_runs`."""
    files = [file for run in runs or () for file in find_run(run)] or find_run()
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def fine_tuning(config: Config, run: Path) -> tuple[Config, list[np.ndarray]]:
    """Ready another training to begin with the weights of a run -> (Config, the weights).

    The network and its targets are the run's, everything else is `config`'s, and the rate is FINE_TUNING_RATE of its.

    Raises:
        BadInput: see `load_run`.
    """
    segmenter = load_run(run)
    same = {n: value for n, value in asdict(segmenter.config).items() if n.startswith(("model_", "target_"))}
    model = new_model(segmenter.config)
    model.load_weights(find_run(run)[0])
    return replace(config, **same, train_rate=config.train_rate * FINE_TUNING_RATE), model.get_weights()


def _check_weights(path):
    """Examine a weights file without reading its numbers: a small file may promise any amount of them.

    Raises:
        ValueError: it holds something else than numbers in the file itself, or more than MAX_WEIGHTS.
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
            raise ValueError(f"it states {numbers:,} numbers, over the limit of {MAX_WEIGHTS:,}")
