"""Doctor: whether this machine has what the kit needs, and the command that mends what it lacks."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from nuclei.competition.data import TEST_NAMES, TRAIN, last_stage
from nuclei.settings.config import BadInput
from nuclei_kit.command.advice import DATA_FOLDER, find_competition
from nuclei_kit.command.keras_start import start_keras
from nuclei_kit.command.terminal import program
from nuclei_kit.files.cache import default_cache
from nuclei_kit.files.reading import find_whole_set, list_ids
from nuclei_kit.kaggle.client import sign_in

OLDEST_PYTHON = (3, 11)
MIN_FREE = 2.0  # GB on the disk: the decoded images of stage 1 take 0.7, a run's folder 0.2


@dataclass(frozen=True)
class Finding:
    """What one check found: `mend` is "" where all is well; `needed` tells whether a run needs it."""

    name: str
    fact: str
    mend: str = ""
    needed: bool = True


def examine() -> Iterator[Finding]:
    """Check one thing after another -> a Finding each."""
    yield check_python()
    yield check_libraries()
    yield check_gpu()
    yield check_disk()
    yield check_data()
    yield check_credentials()


def check_python() -> Finding:
    """Compare Python's version with the oldest that the kit runs on."""
    version = sys.version.split()[0]
    return Finding("Python", version, "" if sys.version_info >= OLDEST_PYTHON else "make run PYTHON=python3.12")


def check_libraries() -> Finding:
    """Compare the installed versions with what pyproject.toml asks for."""
    try:
        needed = [Requirement(line) for line in metadata.requires("nuclei-kit") or ()]
    except metadata.PackageNotFoundError:
        return Finding("libraries", "nuclei itself is not installed", "pip install -e .")
    wrong, count = [], 0
    for need in needed:
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{need.name} is missing")
            continue
        if not need.specifier.contains(version, prereleases=True):
            wrong.append(f"{need.name} is {version}, not {need.specifier}")
    return Finding("libraries", "; ".join(wrong) or f"all {count} are there", "pip install -e ." if wrong else "")


def check_gpu() -> Finding:
    """Compare what the driver lists with what Keras finds; a run does without, but slower."""
    driver = shutil.which("nvidia-smi")
    listed = subprocess.run([driver, "-L"], capture_output=True, text=True).stdout.splitlines() if driver else []
    if not listed:
        return Finding("GPU", "none: training uses the CPU, which --preset cpu is made for", needed=False)
    start_keras()
    import keras

    from nuclei.network.device import list_gpus

    found = len(list_gpus())
    fact = f"{len(listed)} in the machine, {found} found by {keras.backend.backend()}"
    return Finding("GPU", fact, "" if found else 'pip install -e ".[gpu]"', needed=False)


def check_disk() -> Finding:
    """Measure the free space for decoded images, and for runs."""
    cache = default_cache().absolute()
    folders = {path: _free(path) for path in (cache, Path.cwd())}
    tight = [path for path, free in folders.items() if free < MIN_FREE]
    fact = ", ".join(f"{free:.0f} GB free for {path}" for path, free in folders.items())
    mend = "export NUCLEI_CACHE=/a/folder/with/room" if cache in tight else "cd /a/folder/with/room" if tight else ""
    return Finding("disk", fact, mend)


def _free(path):
    """Measure the GB that are free where a path is, or would be."""
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(there).free / 1e9


def check_data() -> Finding:
    """Look for a competition, and count its images."""
    data = find_competition()
    if data is None:
        return Finding("data", "no competition here, nor in $NUCLEI_DATA", f"{program()} download {DATA_FOLDER}")
    try:
        sets = [find_whole_set(data, names) for names in ((TRAIN,), TEST_NAMES[last_stage(data)])]
        return Finding("data", ", ".join(f"{len(list_ids(path))} images in {path}" for path in sets))
    except BadInput as error:
        return Finding("data", str(error), f"{program()} download {data}")


def check_credentials() -> Finding:
    """Let Kaggle's client sign in; only what goes to Kaggle needs it."""
    try:
        sign_in()
    except BadInput as error:
        missing = "pip install" in str(error)
        fact = "Kaggle's client is not installed" if missing else "nobody is signed in to Kaggle"
        return Finding("Kaggle", fact, 'pip install -e ".[workshop]"' if missing else "kaggle auth login", needed=False)
    return Finding("Kaggle", "signed in")
