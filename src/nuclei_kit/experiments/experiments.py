"""Experiments: a recipe trained and scored on several folds, its row in the table, and two recipes in pairs."""

import datetime
import os
import subprocess
from ast import literal_eval
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np

import nuclei
from nuclei.network.device import choose_precision, list_gpus
from nuclei.settings.config import BadInput, Config
from nuclei.settings.files import CONFIG_FILE, LOG_FILE, write_csv
from nuclei.training_data.kinds import KINDS
from nuclei_kit.experiments.home_run import train_at_home
from nuclei_kit.experiments.scoring import mean_interval
from nuclei_kit.files.folders import HELD_OUT_FILE, OPEN_FILE, in_use, unfinished
from nuclei_kit.files.limits import check_settings
from nuclei_kit.files.run_tables import read_scores, read_training_log
from nuclei_kit.files.saved_settings import examine_settings
from nuclei_kit.files.tables import read_table

COLUMNS = ("date", "commit", "recipe", "command", "minutes", "device", "mean", "spread", *KINDS, "open")


def change_settings(config: Config, changes: Iterable[str]) -> Config:
    """Change a Config's settings, each "name=value", the value a Python literal or a plain word.

    Raises:
        BadInput: there is no such setting, or the value has another type.
    """
    known = {field.name: type(getattr(config, field.name)) for field in fields(Config)}
    values = {}
    for change in changes:
        name, _, text = change.partition("=")
        if name not in known:
            raise BadInput(f"--set {change}: there is no setting {name}; see src/nuclei/settings/config.py")
        try:
            value = literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        if known[name] is float and isinstance(value, int):
            value = float(value)
        if type(value) is not known[name]:
            raise BadInput(
                f"--set {change}: {name} must be of type {known[name].__name__}, as {getattr(config, name)!r}"
            )
        values[name] = value
    check_settings(values)
    return replace(config, **values)


def cross_validate(config: Config, data: Path, folds: Sequence[int], folder: Path) -> None:
    """Train a recipe once a fold, in `folder`/fold-K; folds that an earlier call finished stay as they are.

    Raises:
        BadInput: about the data, there is no such fold, or one there was trained with other settings.
    """
    recipes = [replace(config, data_fold=fold) for fold in folds]  # refuses a fold before another is trained
    for recipe in recipes:
        out = folder / f"fold-{recipe.data_fold}"
        if not (out / HELD_OUT_FILE).is_file():
            with unfinished(out) as running:
                train_at_home(recipe, data, running)
        elif examine_settings(out / CONFIG_FILE).get("config") != asdict(recipe):
            raise BadInput(f"{out} holds a training with other settings: give this recipe another name")


def summarise(scores: Mapping[int, dict[str, tuple[str, float]]]) -> tuple[float, float, dict[str, float]]:
    """Sum up {fold: scores} -> (mean over folds, their standard deviation or NaN, {kind: mean over its images})."""
    means = [np.mean([score for _, score in fold.values()]) for fold in scores.values()]
    spread = np.std(means, ddof=1) if len(means) > 1 else np.nan
    pairs = [pair for fold in scores.values() for pair in fold.values()]
    kinds = {kind: float(np.mean(here)) for kind in KINDS if (here := [score for of, score in pairs if of == kind])}
    return float(np.mean(means)), float(spread), kinds


def append_row(table: Path, command: str, folder: Path, folds: Iterable[int]) -> dict[str, str]:
    """Add a recipe's row to the table of experiments, which is made where there is none -> the row.

    Args:
        table: the CSV.
        command: what was typed, to be typed again.
        folder: of the recipe, as `cross_validate` leaves it; its name is the recipe's.
        folds: which of its folds count.
    """
    runs = {fold: folder / f"fold-{fold}" for fold in folds}
    mean, spread, kinds = summarise({fold: read_scores(run) for fold, run in runs.items()})
    opened = [read_scores(run, OPEN_FILE) for run in runs.values() if (run / OPEN_FILE).is_file()]
    seconds = [read_training_log(run / LOG_FILE)[-1]["seconds"] for run in runs.values()]
    row = dict.fromkeys(COLUMNS, "") | {
        "date": datetime.date.today().isoformat(),
        "commit": current_commit(),
        "recipe": folder.name,
        "command": command,
        "minutes": f"{np.mean(seconds) / 60:.1f}",
        "device": describe_device(),
        "mean": f"{mean:.4f}",
        "spread": "" if np.isnan(spread) else f"{spread:.4f}",
        **{kind: f"{score:.3f}" for kind, score in kinds.items()},
        "open": f"{summarise(dict(enumerate(opened)))[0]:.4f}" if opened else "",
    }
    with in_use(table.parent, wait=True):  # two recipes that end at once must not lose a row
        rows = [*(read_table(table, COLUMNS) if table.is_file() else []), row]
        columns = list(rows[0])  # a table may have more of its own
        write_csv(table, columns, [[one.get(column, "") for column in columns] for one in rows])
    return row


def describe_device() -> str:
    """Say in a few words what this machine trains on."""
    gpus = len(list_gpus())
    where = f"{gpus} GPU" if gpus else f"{os.cpu_count()} cores"
    return f"{where}, {choose_precision()}"


def current_commit() -> str:
    """Return the short hash of the sources' commit, with + where they were changed since; "" outside a clone."""
    git = ["git", "-C", str(Path(nuclei.__file__).parent)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain", "--", "."], capture_output=True, text=True)
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")


def compare_recipes(one: Path, other: Path) -> tuple[int, float, float, float]:
    """Compare two recipes' folders on the same images -> (how many, mean difference one - other, low, high).

    low and high bound the mean difference with 95 % confidence, by bootstrap over the images; how much a second
    training of the same recipe would differ is not in it.

    Raises:
        BadInput: they have no fold in common, or not the same images in it.
    """
    folds = sorted({path.parent.name for path in one.glob(f"fold-*/{HELD_OUT_FILE}")})
    folds = [fold for fold in folds if (other / fold / HELD_OUT_FILE).is_file()]
    if not folds:
        raise BadInput(f"{one} and {other} have no fold in common: train both on the same with nuclei cv")
    differences = []
    for fold in folds:
        ours, theirs = read_scores(one / fold), read_scores(other / fold)
        if ours.keys() != theirs.keys():
            raise BadInput(f"{one / fold} and {other / fold} were scored on different images")
        differences += [ours[image_id][1] - theirs[image_id][1] for image_id in ours]
    return len(differences), float(np.mean(differences)), *mean_interval(differences)
