"""Runs: a finished run's folder -> its network, ready to predict."""

import json
from pathlib import Path

from nuclei.config import CONFIG, WEIGHTS, BadInput, Config
from nuclei.main import set_up_device
from nuclei.train import new_model
from nuclei.watershed import Thresholds


def load_run(path):
    """A run's folder, or a weights file with config.json beside it -> (network, Thresholds, Config).

    Raises:
        BadInput: a file is missing, is broken, or the weights belong to another configuration.
    """
    path = Path(path)
    weights = path / WEIGHTS if path.is_dir() else path
    settings = weights.with_name(CONFIG)
    for needed in (weights, settings):
        if not needed.is_file():
            raise BadInput(
                f"{needed} is missing: name the folder of a finished run, as nuclei run or nuclei train leaves it"
            )
    try:
        content = json.loads(settings.read_text(encoding="utf-8"))
        config = Config(**{k: tuple(v) if isinstance(v, list) else v for k, v in content["config"].items()})
        thresholds = Thresholds(**content["thresholds"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"{settings} is no settings file of this version of nuclei: train again ({error})") from None
    set_up_device()
    model = new_model(config)
    try:
        model.load_weights(weights)
    except (ValueError, OSError, KeyError) as error:
        raise BadInput(
            f"{weights} does not fit the network in {settings.name} beside it: {str(error).splitlines()[0]}"
        ) from None
    return model.predict_on_batch, thresholds, config
