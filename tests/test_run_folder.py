"""A run's folder: where its files are, and that its settings file gives back what was written, without Keras."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from drawn_runs import TINY

from nuclei.prediction.run_folder import find_run, parse_settings, read_settings, save_run, write_settings
from nuclei.prediction.watershed import HANDS
from nuclei.settings.config import PRESETS

CONTENT = {"config": asdict(TINY), "thresholds": {look: asdict(one) for look, one in HANDS["stage1_test"].items()}}


class Weights:
    """Stands in for a Keras model."""

    def save_weights(self, path):
        Path(path).write_bytes(b"weights")


def test_what_was_saved_comes_back_and_says_what_made_it(tmp_path):
    save_run(tmp_path, Weights(), HANDS["stage1_test"], "a drawn set", TINY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.weights.h5"]
    weights, settings = find_run(tmp_path)
    assert weights.read_bytes() == b"weights"
    content = read_settings(settings)
    assert parse_settings(content) == (TINY, HANDS["stage1_test"])
    assert {part: content[part] for part in CONTENT} == CONTENT
    assert content["thresholds_from"] == "a drawn set"
    versions = {one.__name__: one.__version__ for one in (keras, np, cv2)}
    assert content["versions"] == {"python": sys.version.split()[0]} | versions


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("hand", HANDS)
def test_to_parse_is_to_undo_the_writing(tmp_path, preset, hand):
    write_settings(tmp_path / "config.json", {"config": PRESETS[preset], "thresholds": HANDS[hand]})
    assert parse_settings(read_settings(tmp_path / "config.json")) == (PRESETS[preset], HANDS[hand])


@pytest.mark.parametrize(
    "change",
    [lambda config: config.pop("train_decay"), lambda config: config.update(train_colour=1, data_moon="new")],
    ids=["before one of today's", "with some that are gone"],
)
def test_training_settings_of_another_version_do_not_matter(change):
    content = json.loads(json.dumps(CONTENT))
    change(content["config"])
    assert parse_settings(content)[0] == TINY


def test_an_unknown_setting_of_the_network_is_not_passed_over():
    with pytest.raises(TypeError, match="model_attention"):
        parse_settings(CONTENT | {"config": CONTENT["config"] | {"model_attention": True}})


def test_a_run_is_found_by_its_folder_and_by_its_weights(tmp_path):
    (tmp_path / "run").mkdir()
    files = (tmp_path / "run/model.weights.h5", tmp_path / "run/config.json")
    assert find_run(tmp_path / "run") == find_run(str(tmp_path / "run")) == find_run(files[0]) == files
    assert find_run(tmp_path / "nowhere")[0] == tmp_path / "nowhere"  # what an error names
    assert all(path.is_file() for path in find_run())


def test_it_needs_no_keras():
    script = "import sys; import nuclei.prediction.run_folder; sys.exit('keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
