"""Experiments: settings from words, folds that stand, honest rows, and differences with their intervals."""

import csv
import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import numpy as np
import pytest

from nuclei.settings.config import PRESETS, BadInput, Config
from nuclei.settings.files import write_csv
from nuclei_kit.command.cli import main
from nuclei_kit.experiments import experiments
from nuclei_kit.experiments.experiments import (
    append_row,
    change_settings,
    compare_recipes,
    cross_validate,
    current_commit,
    summarise,
)
from nuclei_kit.experiments.folds import FOLDS, TUNING_SHARE
from nuclei_kit.sample.sample import draw_sample

# ---- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, name, value",
    [
        ("model_width=48", "model_width", 48),
        ("train_rate=1e-3", "train_rate", 1e-3),
        ("train_zoom=1", "train_zoom", 1.0),
        ("model_name=one_hundred_layers", "model_name", "one_hundred_layers"),
        ("train_steps=600", "train_steps", 600),
    ],
)
def test_a_setting_is_changed(change, name, value):
    config = change_settings(Config(), [change, "train_batch=3"])
    assert asdict(config) == asdict(Config()) | {name: value, "train_batch": 3}
    assert type(getattr(config, name)) is type(value)


@pytest.mark.parametrize(
    "change, message",
    [
        ("colour=1", "no setting colour"),
        ("model_width", "model_width must be of type int, as 32"),
        ("model_width=2.5", "model_width must be of type int"),
        ("train_rate=fast", "train_rate must be of type float"),
        ("model_name=3", "model_name must be of type str"),
        ("model_stem=3", "model_stem must be 1, 2 or 4"),
    ],
)
def test_a_wrong_setting_is_refused(change, message):
    with pytest.raises(BadInput, match=message):
        change_settings(Config(), [change])


# ---- folds -------------------------------------------------------------------------------------

HOLDS_OUT = Config(data_folds=FOLDS, data_tuning=TUNING_SHARE)


def leave_run(folder, config, scores):
    """What a training leaves of itself: scores are {image id: (kind, score)}."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"config": asdict(config)}))
    (folder / "log.csv").write_text("step,seconds,learning_rate,loss,tuning_score\n64,30.0,0.1,1,\n128,90.0,0.1,1,\n")
    rows = "".join(f"{i},{kind},{score}\n" for i, (kind, score) in scores.items())
    (folder / "held_out.csv").write_text("ImageId,kind,score\n" + rows)


@pytest.fixture
def trainings(monkeypatch):
    """Stand in for the training -> the settings of each."""
    trained = []

    def train(config, data, folder):
        trained.append(config)
        leave_run(folder, config, {f"{config.data_fold}a": ("purple", 0.5)})

    monkeypatch.setattr(experiments, "train_at_home", train)
    return trained


def test_each_fold_is_trained_once(tmp_path, trainings):
    cross_validate(HOLDS_OUT, "data", [2, 5], tmp_path)
    cross_validate(HOLDS_OUT, "data", [5, 7], tmp_path)
    assert [config.data_fold for config in trainings] == [2, 5, 7]


def test_a_fold_that_is_not_there_is_refused_before_another_is_trained(tmp_path, trainings):
    with pytest.raises(BadInput, match="data_fold must be under 8"):
        cross_validate(HOLDS_OUT, "data", [0, 99], tmp_path)
    assert trainings == []


def test_a_fold_of_other_settings_is_not_taken_for_this_recipe(tmp_path, trainings):
    cross_validate(HOLDS_OUT, "data", [2], tmp_path)
    with pytest.raises(BadInput, match="other settings"):
        cross_validate(replace(HOLDS_OUT, model_width=8), "data", [2], tmp_path)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_command_holds_a_fold_and_a_tuning_tenth_out_whatever_the_preset(tmp_path, trainings, monkeypatch, preset):
    monkeypatch.chdir(tmp_path)
    assert main(["cv", "base", "--data", "data", "--preset", preset, "--folds", "1", "6"]) == 0
    assert trainings == [replace(PRESETS[preset], data_folds=8, data_fold=fold, data_tuning=0.1) for fold in (1, 6)]


# ---- rows --------------------------------------------------------------------------------------


def test_a_mean_over_folds_is_not_one_over_images():
    folds = {1: {"a": ("purple", 0.2), "b": ("purple", 0.4)}, 4: {"c": ("grey-tissue", 0.5)}}
    mean, spread, kinds = summarise(folds)
    assert mean == pytest.approx((0.3 + 0.5) / 2)
    assert spread == pytest.approx(0.2 / np.sqrt(2))
    assert kinds == pytest.approx({"purple": 0.3, "grey-tissue": 0.5})


def test_rows_are_added_to_those_that_are_there(tmp_path):
    table = tmp_path / "docs/experiments.csv"
    for n, name in enumerate(("base", "wide")):
        for fold in (6, 7):
            leave_run(tmp_path / name / f"fold-{fold}", Config(), {"a": ("purple", 0.25 * (n + 1))})
        append_row(table, f"nuclei cv {name}, quoted", tmp_path / name, [6, 7])
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["recipe"] for row in rows] == ["base", "wide"]
    assert rows[1]["command"] == "nuclei cv wide, quoted"
    assert [row["mean"] for row in rows] == [row["purple"] + "0" for row in rows] == ["0.2500", "0.5000"]
    assert rows[0]["spread"] == "0.0000"
    assert rows[0]["minutes"] == "1.5"
    assert rows[0]["grey-tissue"] == ""
    assert "float" in rows[0]["device"]


def test_a_row_has_the_mean_over_folds_of_the_open_images_where_they_were_scored(tmp_path):
    for name, folds in (("with", {6: (0.2, 0.4), 7: (0.5, 0.7)}), ("without", {6: (), 7: ()})):
        for fold, opened in folds.items():
            leave_run(tmp_path / name / f"fold-{fold}", Config(), {"a": ("purple", 0.5)})
            rows = "".join(f"o{n},purple,{score}\n" for n, score in enumerate(opened))
            if rows:
                (tmp_path / name / f"fold-{fold}/open.csv").write_text("ImageId,kind,score\n" + rows)
        append_row(tmp_path / "table.csv", name, tmp_path / name, [6, 7])
    with open(tmp_path / "table.csv", newline="") as file:
        assert [row["open"] for row in csv.DictReader(file)] == ["0.4500", ""]


def test_recipes_that_end_at_once_lose_no_row(tmp_path, monkeypatch):
    def write_slowly(*args):
        time.sleep(0.3)  # long enough for the other to have read the table
        write_csv(*args)

    monkeypatch.setattr(experiments, "write_csv", write_slowly)
    names = ("base", "wide")
    for name in names:
        leave_run(tmp_path / name / "fold-6", Config(), {"a": ("purple", 0.5)})
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: append_row(tmp_path / "docs/table.csv", name, tmp_path / name, [6]), names))
    with open(tmp_path / "docs/table.csv", newline="") as file:
        assert sorted(row["recipe"] for row in csv.DictReader(file)) == ["base", "wide"]


def test_columns_of_its_own_stay_in_a_table(tmp_path):
    leave_run(tmp_path / "wide/fold-6", Config(), {"a": ("purple", 0.5)})
    table = tmp_path / "table.csv"
    table.write_text(f"{','.join(experiments.COLUMNS)},note\n{'1,' * len(experiments.COLUMNS)}mine\n")
    append_row(table, "nuclei cv wide", tmp_path / "wide", [6])
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["note"] for row in rows] == ["mine", ""]
    assert [row["recipe"] for row in rows] == ["1", "wide"]


def test_a_row_says_where_the_sources_were_changed(tmp_path, monkeypatch):
    def git(*words):
        name = ("-c", "user.name=jane", "-c", "user.email=jane@example.org")
        return subprocess.run(["git", *name, *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    package = tmp_path / "src/nuclei"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(experiments.nuclei, "__file__", str(package / "__init__.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert current_commit() == ""
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    commit = git("rev-parse", "--short", "HEAD").strip()
    assert current_commit() == commit
    (tmp_path / "notes.txt").write_text("elsewhere")
    assert current_commit() == commit
    (package / "new.py").write_text("")
    assert current_commit() == f"{commit}+"


def test_a_table_may_lie_beside_the_runs_of_its_recipe(tmp_path, trainings):
    draw_sample(tmp_path / "data", n_train=2, n_test=1)
    table = tmp_path / "out/base/table.csv"
    where = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--table", str(table)]
    assert main(["cv", "base", "--folds", "6", *where]) == 0  # were both locked at once, it would wait for itself
    assert "base" in table.read_text()


def test_unless_told_the_table_lies_beside_the_runs(tmp_path, trainings, monkeypatch):
    """The committed table is for those who record a recipe on purpose."""
    draw_sample(tmp_path / "data", n_train=2, n_test=1)
    monkeypatch.chdir(tmp_path)
    assert main(["cv", "base", "--folds", "6", "--data", "data"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"data", "build"}
    assert {path.name for path in (tmp_path / "build").iterdir()} == {"cv", "experiments.csv"}


# ---- pairs -------------------------------------------------------------------------------------


def leave_recipes(tmp_path, differences):
    rng = np.random.default_rng(0)
    scores = {f"{n:03d}": rng.uniform(0.3, 0.5) for n in range(len(differences))}
    better = {i: score + more for (i, score), more in zip(scores.items(), differences, strict=True)}
    for name, own in (("base", scores), ("new", better)):
        leave_run(tmp_path / name / "fold-6", Config(), {i: ("purple", score) for i, score in own.items()})
    return tmp_path / "new", tmp_path / "base"


def test_a_difference_has_its_interval(tmp_path):
    differences = np.random.default_rng(1).normal(0.02, 0.1, 100)
    images, mean, low, high = compare_recipes(*leave_recipes(tmp_path, differences))
    assert images == 100
    assert mean == pytest.approx(differences.mean())
    error = differences.std(ddof=1) / 10
    assert low == pytest.approx(mean - 1.96 * error, abs=0.4 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.4 * error)


def test_a_recipe_is_no_better_than_itself(tmp_path):
    assert compare_recipes(*leave_recipes(tmp_path, np.zeros(5))) == (5, 0, 0, 0)


def test_recipes_without_a_fold_in_common_cannot_be_compared(tmp_path):
    one, other = leave_recipes(tmp_path, [0.0, 0.1])
    (other / "fold-6").rename(other / "fold-5")
    with pytest.raises(BadInput, match="no fold in common"):
        compare_recipes(one, other)


def test_nor_those_with_other_images(tmp_path):
    one, other = leave_recipes(tmp_path, [0.0, 0.1])
    leave_run(other / "fold-6", Config(), {"zzz": ("purple", 0.5)})
    with pytest.raises(BadInput, match="different images"):
        compare_recipes(one, other)
