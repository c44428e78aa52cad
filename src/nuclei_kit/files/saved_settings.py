"""Saved settings: a run's settings file, read and changed with care. No Keras is needed, so a report starts at once."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from nuclei.prediction.run_folder import FREE_SETTINGS, parse_settings, read_settings, write_settings
from nuclei.prediction.watershed import Thresholds
from nuclei.settings.config import BadInput, Config
from nuclei.training_data.kinds import LOOKS
from nuclei_kit.files.limits import check_settings

SETTINGS_PARTS = ("config", "thresholds", "versions")  # of the file, each a table


def examine_settings(path: Path) -> dict[str, Any]:
    """Read a settings file of any version as `read_settings` does -> its content.

    Raises:
        BadInput: it is missing, torn, or holds something else than tables of settings.
    """
    if not path.is_file():
        raise BadInput(f"{path} is missing: name the folder of a finished run, as nuclei run or nuclei train leaves it")
    try:
        content = read_settings(path)
    except (ValueError, RecursionError) as error:
        raise not_settings(path, error) from None
    if not isinstance(content, dict) or not all(isinstance(content.get(part, {}), dict) for part in SETTINGS_PARTS):
        raise not_settings(path, "it holds no tables of settings")
    return content


def check_saved(path: Path) -> None:
    """Refuse a settings file that does not say all of how to use the network.

    A default in place of a missing setting, or an unknown one left out, would be wrong without a word, but for
    FREE_SETTINGS.

    Raises:
        BadInput: see `examine_settings`; also it lacks something, or asks for too much.
    """
    content, names = examine_settings(path), {one.name for one in fields(Config)}
    try:
        saved = content["config"]
        used = {name for name in names | saved.keys() if not name.startswith(FREE_SETTINGS)}
        if missing := used - saved.keys():
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        if unknown := used - names:
            raise ValueError(f"it has {', '.join(sorted(unknown))}, which this version does not know")
        check_settings(saved)
        _, thresholds = parse_settings(content)
        if thresholds.keys() != set(LOOKS.values()):
            raise ValueError(f"its thresholds are for {', '.join(sorted(thresholds)) or 'nothing'}")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise not_settings(path, error) from None


def change_thresholds(path: Path, thresholds: Mapping[str, Thresholds], origin: str) -> None:
    """Give a run other thresholds, by look, and their origin; the earlier ones stay under `earlier_thresholds`."""
    content = examine_settings(path)
    earlier = {"thresholds": content["thresholds"], "thresholds_from": content.get("thresholds_from", "")}
    content["earlier_thresholds"] = [*content.get("earlier_thresholds", []), earlier]
    write_settings(path, content | {"thresholds": thresholds, "thresholds_from": origin})


def not_settings(path: Path, why: object) -> BadInput:
    """Make the error about a file that is not what this version writes."""
    return BadInput(
        f"{path} is not a settings file of this version of nuclei ({why}): train again, or use the version that "
        "wrote it"
    )
