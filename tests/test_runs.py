"""Runs: a run's folder taken at its word where that can be done, and refused where it cannot."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest

from nuclei.prediction.watershed import Thresholds
from nuclei.run.main import save_config
from nuclei.settings.config import MODEL_NAMES, BadInput, Config
from nuclei.training.train import new_model, save_weights
from nuclei_kit.files import runs
from nuclei_kit.files.limits import MAX_SETTINGS
from nuclei_kit.files.runs import FINE_TUNING_RATE, fine_tuning, load_model, load_run, ship_run

TINY = Config(model_width=4, model_depth=2, model_stem=1, tile_size=64, tile_overlap=16, tile_batch=4)


@pytest.fixture
def run(tmp_path):
    """The folder of a run of TINY that learnt nothing."""
    save_weights(new_model(TINY), tmp_path / "model.weights.h5")
    save_config(tmp_path / "config.json", TINY, Thresholds(seed=0.25))
    return tmp_path


def change_settings(run, change):
    """Has `change`, a function of the dict of settings, spoil what a run saved of them."""
    content = json.loads((run / "config.json").read_text())
    change(content["config"])
    (run / "config.json").write_text(json.dumps(content))


# ---- what is loaded ----------------------------------------------------------------------------


def test_a_run_comes_back_as_it_was_saved(run):
    _, thresholds, config = load_run(run)
    assert (thresholds, config) == (Thresholds(seed=0.25), TINY)


def test_a_run_is_named_by_its_weights_too(run):
    network, thresholds, config = load_run(run / "model.weights.h5")
    assert (thresholds, config) == load_run(run)[1:]
    x = np.random.default_rng(0).random((4, 64, 64, 3), np.float32)
    np.testing.assert_array_equal(network(x), load_run(run)[0](x))


@pytest.mark.parametrize(
    "change",
    [lambda config: config.pop("train_decay"), lambda config: config.update(train_colour=1, data_moon="new")],
    ids=["before one of today's", "with some that are gone"],
)
def test_training_settings_of_another_version_do_not_matter(run, change):
    change_settings(run, change)
    assert load_run(run)[2] == TINY


@pytest.mark.parametrize("name", ["model_zoom", "target_core", "tile_size", "tta_zooms"])
def test_other_settings_do_matter_where_a_default_would_be_wrong(run, name):
    change_settings(run, lambda config: config.pop(name))
    with pytest.raises(BadInput, match=rf"config\.json is no settings file .*train again \(it lacks {name}\)"):
        load_run(run)


# ---- loading what does not fit -----------------------------------------------------------------


@pytest.mark.parametrize(
    "name, value",
    [("model_width", 8), ("model_depth", 1), ("model_depth", 3), ("model_stem", 2), ("model_name", MODEL_NAMES[1])],
)
def test_weights_of_another_network_are_refused(run, name, value):
    change_settings(run, lambda config: config.update({name: value}))
    with pytest.raises(BadInput, match=r"model\.weights\.h5 does not fit") as raised:
        load_run(run)
    assert "\n" not in str(raised.value)


DAMAGED = {
    "torn": "{",
    "a list": "[]",
    "empty": "{}",
    "a list of settings": '{"config": [], "thresholds": {}}',
    "one setting, unknown": '{"config": {"colour": 1}}',
    "nesting without end": "[" * 200_000,
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_broken_settings_are_refused(run, damage):
    (run / "config.json").write_text(damage)
    with pytest.raises(BadInput, match=r"config\.json is no settings file"):
        load_run(run)


def test_broken_and_missing_weights_are_refused(run):
    weights = run / "model.weights.h5"
    weights.write_bytes(weights.read_bytes()[:3000])
    with pytest.raises(BadInput, match=r"model\.weights\.h5 does not fit"):
        load_run(run)
    weights.unlink()
    for name in (run, weights):
        with pytest.raises(BadInput, match=r"model\.weights\.h5 is missing"):
            load_run(name)


def test_weights_without_settings_are_refused(run):
    (run / "config.json").unlink()
    with pytest.raises(BadInput, match=r"config\.json is missing"):
        load_run(run / "model.weights.h5")


# ---- files from anywhere -----------------------------------------------------------------------


def hostile_link(file):
    file["layers"] = h5py.ExternalLink("/etc/other.h5", "/x")


def hostile_external(file):
    file.create_dataset("x", (4,), "f4", external=[("/etc/passwd", 0, 16)])


def hostile_size(file):
    file.create_dataset("x", (2**40,), "f4", chunks=(1024,), compression="gzip")


def hostile_text(file):
    file["x"] = "import os"


def hostile_loop(file):
    file["x/y"] = file["/"]


@pytest.mark.parametrize("spoil", [hostile_link, hostile_external, hostile_size, hostile_text, hostile_loop])
def test_weights_are_numbers_in_the_file_itself(tmp_path, spoil):
    with h5py.File(tmp_path / "model.weights.h5", "w") as file:
        spoil(file)
    with pytest.raises(ValueError):
        runs._check_weights(tmp_path / "model.weights.h5", 1000)


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model.npz", "model.pkl"])
def test_other_formats_of_weights_are_not_opened(run, name):
    (run / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(BadInput, match=r"is no \.weights\.h5 file"):
        load_run(run / name)


@pytest.mark.parametrize("name", MAX_SETTINGS)
def test_settings_cannot_ask_for_any_memory(run, name):
    change_settings(run, lambda config: config.update({name: 2**40}))
    with pytest.raises(BadInput, match=rf"config\.json is no settings file .* {name} can be \d+ at most"):
        load_run(run)


# ---- going on, and shipping --------------------------------------------------------------------


def test_fine_tuning_keeps_the_network_and_its_targets(run):
    change_settings(run, lambda config: config.update(target_core=0.3))
    preset = Config(train_steps=7)
    config, weights = fine_tuning(preset, run)
    kept = {"model_width": 4, "model_depth": 2, "model_stem": 1, "target_core": 0.3}
    assert config == replace(preset, **kept, train_rate=preset.train_rate * FINE_TUNING_RATE)
    for one, other in zip(weights, load_model(run)[0].get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_shipped_weights_answer_as_the_run_does(run, tmp_path):
    shipped_to = tmp_path / "shipped"
    shipped_to.mkdir()
    model, *settings = load_model(run)
    variance = next(weight for weight in model.weights if weight.path.endswith("moving_variance"))
    variance.assign(variance + 1e6)  # more than float16 holds
    model.save_weights(run / "model.weights.h5")
    size = ship_run(run, shipped_to)
    assert size == (shipped_to / "model.weights.h5").stat().st_size
    shipped, *same = load_model(shipped_to)
    assert same == settings
    for one, other in zip(model.weights, shipped.weights, strict=True):
        rounding = 2**-11 if len(one.shape) > 1 else 0  # float16 has 11 bits
        np.testing.assert_allclose(one, other, rtol=rounding, atol=1e-7 * (rounding > 0))
