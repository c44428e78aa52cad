"""Saved settings: a run's config.json, read with care. No Keras is needed, so that a report starts at once."""

import json
from pathlib import Path
from typing import Any

from nuclei.settings.config import BadInput

SETTINGS_PARTS = ("config", "thresholds", "versions")  # of the file, each a table


def read_settings(path: Path) -> dict[str, Any]:
    """Read a config.json -> its content; `load_run` looks closer at what it says of the network.

    Raises:
        BadInput: it is missing, torn, or holds something else than tables of settings.
    """
    if not path.is_file():
        raise BadInput(f"{path} is missing: name the folder of a finished run, as nuclei run or nuclei train leaves it")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise not_settings(path, error) from None
    if not isinstance(content, dict) or not all(isinstance(content.get(part, {}), dict) for part in SETTINGS_PARTS):
        raise not_settings(path, "it holds no tables of settings")
    return content


def not_settings(path: Path, why: object) -> BadInput:
    """Make the error about a file that is not what this version writes."""
    return BadInput(
        f"{path} is not a settings file of this version of nuclei ({why}): train again, or use the version that "
        "wrote it"
    )
