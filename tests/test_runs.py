"""Runs: a run's folder taken at its word where that can be done, and refused where it cannot."""

import json
import shutil
from dataclasses import asdict, replace

import h5py
import numpy as np
import pytest
from drawn_runs import TINY

from nuclei.prediction.run_folder import find_run, save_run
from nuclei.prediction.segmenter import Segmenter
from nuclei.prediction.watershed import HANDS, Thresholds
from nuclei.settings.config import MODEL_NAMES, BadInput, Config
from nuclei.training.train import new_model
from nuclei_kit.files import runs
from nuclei_kit.files.limits import MAX_SETTINGS, check_settings
from nuclei_kit.files.runs import FINE_TUNING_RATE, digest_runs, fine_tuning, load_run, load_runs


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a run of TINY that learnt nothing."""
    folder = tmp_path_factory.mktemp("saved")
    save_run(folder, new_model(TINY), HANDS["stage1_test"], "a drawn set", TINY)
    return folder


@pytest.fixture
def run(saved, tmp_path):
    """A copy of it, to be spoilt."""
    return shutil.copytree(saved, tmp_path, dirs_exist_ok=True)


def save_other(folder, **changes):
    """Save a run of other weights and thresholds, and of TINY but for some settings -> its folder."""
    folder.mkdir()
    config = replace(TINY, **changes)
    save_run(folder, new_model(config), HANDS["stage1_train"], "another drawn set", config)
    return folder


def answer(segmenter):
    """What a segmenter's network says of four random tiles."""
    return segmenter.network(np.random.default_rng(0).random((4, 64, 64, 3), np.float32))


def spoil_settings(run, change):
    """Have `change`, a function of the dict of settings, spoil what a run saved of them."""
    content = json.loads((run / "config.json").read_text())
    change(content["config"])
    (run / "config.json").write_text(json.dumps(content))


# ---- what is loaded ----------------------------------------------------------------------------


def test_a_run_comes_back_as_it_was_saved(run):
    segmenter = load_run(run)
    assert (segmenter.thresholds, segmenter.config) == (HANDS["stage1_test"], TINY)
    np.testing.assert_array_equal(answer(segmenter), answer(Segmenter.load(run)))


def test_a_run_is_named_by_its_weights_too(run):
    segmenter = load_run(run / "model.weights.h5")
    assert (segmenter.thresholds, segmenter.config) == (HANDS["stage1_test"], TINY)
    np.testing.assert_array_equal(answer(segmenter), answer(load_run(run)))


def test_the_network_that_ships_is_the_default():
    segmenter = load_run()
    assert segmenter.config.model_name in MODEL_NAMES
    assert segmenter.config == Segmenter.load().config


def test_the_digest_of_a_run_changes_with_its_weights_and_settings(run):
    digests = {digest_runs([run])}
    assert digest_runs([run / "model.weights.h5"]) in digests
    spoil_settings(run, lambda config: config.update(tta_views=2))
    digests.add(digest_runs([run]))
    save_run(run, new_model(TINY), HANDS["stage1_test"], "a drawn set", TINY)  # other random weights
    digests.add(digest_runs([run]))
    assert digest_runs(None) == digest_runs([]) == digest_runs(find_run()[:1])
    assert len(digests | {digest_runs(None)}) == 4


def test_the_digest_of_several_runs_is_of_all_of_them_in_order(run, tmp_path):
    """The first has the thresholds, so the order counts."""
    other = save_other(tmp_path / "other")
    digests = {digest_runs(runs) for runs in ([run], [other], [run, other], [other, run], [run, run])}
    assert len(digests) == 5


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.pop("train_decay"),
        lambda config: config.update(train_colour=1, data_moon="new", tile_batch=4),
    ],
    ids=["before one of today's", "with some that are gone"],
)
def test_settings_of_training_and_tiles_of_another_version_do_not_matter(run, change):
    spoil_settings(run, change)
    assert load_run(run).config == TINY


@pytest.mark.parametrize("name", ["model_zoom", "target_core", "tta_views"])
def test_other_settings_do_matter_where_a_default_would_be_wrong(run, name):
    spoil_settings(run, lambda config: config.pop(name))
    with pytest.raises(BadInput, match=rf"config\.json is not .*this version.* \(it lacks {name}\): train again"):
        load_run(run)


@pytest.mark.parametrize("name, value", [("tta_zooms", [1.0]), ("model_colour", 8), ("target_moon", "new")])
def test_settings_that_only_another_version_knows_are_named(run, name, value):
    spoil_settings(run, lambda config: config.update({name: value}))
    with pytest.raises(BadInput, match=rf"config\.json is not .*this version.* \(it has {name}.*\): train again"):
        load_run(run)


# ---- several runs ------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_probabilities_of_several_runs_are_the_mean_of_theirs(run, tmp_path):
    """Networks of other sizes go together; thresholds and views are the first's."""
    others = [save_other(tmp_path / "wider", model_width=8, tta_views=2), save_other(tmp_path / "again")]
    several = [run, *others]
    joint, each = load_runs(several), [answer(load_run(one)) for one in several]
    assert np.ptp(each, axis=0).max() > 0.01
    np.testing.assert_allclose(answer(joint), np.mean(each, axis=0), atol=1e-6)
    assert answer(joint).dtype == np.float32
    assert (joint.thresholds, joint.config) == (HANDS["stage1_test"], TINY)
    image = np.random.default_rng(1).integers(0, 256, (80, 70, 3), np.uint8)
    alone = [load_run(one).predict(image, 1.0, views=1) for one in several]
    np.testing.assert_allclose(joint.predict(image, 1.0, views=1), np.mean(alone, axis=0), atol=1e-5)


@pytest.mark.slow
def test_one_run_or_none_is_no_average(run):
    np.testing.assert_array_equal(answer(load_runs([run])), answer(load_run(run)))
    assert load_runs(None).config == load_runs([]).config == load_run().config


@pytest.mark.parametrize(
    "name, value",
    [("model_diameter", 16.0), ("model_zoom", 1.0), ("model_outputs", 1)],
)
def test_runs_that_see_images_otherwise_are_refused_by_name(monkeypatch, name, value):
    configs = {"one": TINY, "another": replace(TINY, tta_views=2, model_width=8, train_seed=3)}
    configs["other"] = replace(TINY, **{name: value})
    monkeypatch.setattr(runs, "load_run", lambda run: Segmenter(None, HANDS["stage1_train"], configs[run]))
    assert load_runs(["one", "another"]).config == TINY
    with pytest.raises(BadInput, match=rf"^other .*its {name} is"):
        load_runs(["one", "another", "other"])


def test_a_deeper_network_goes_first(monkeypatch):
    configs = {"shallow": TINY, "deep": replace(TINY, model_depth=TINY.model_depth + 1)}
    monkeypatch.setattr(runs, "load_run", lambda run: Segmenter(None, HANDS["stage1_train"], configs[run]))
    assert load_runs(["deep", "shallow"]).config == configs["deep"]
    with pytest.raises(BadInput, match=r"^deep .* in units of 8 px: name it before"):
        load_runs(["shallow", "deep"])


def test_a_missing_one_of_several_runs_is_named(run, tmp_path):
    with pytest.raises(BadInput, match=r"nowhere.* is missing"):
        load_runs([run, tmp_path / "nowhere"])


# ---- loading what does not fit -----------------------------------------------------------------


@pytest.mark.parametrize(
    "name, value",
    [
        ("model_width", 8),
        ("model_depth", 1),
        ("model_depth", 3),
        ("model_stem", 2),
        pytest.param("model_name", MODEL_NAMES[1], marks=pytest.mark.slow),
    ],
)
def test_weights_of_another_network_are_refused(run, name, value):
    spoil_settings(run, lambda config: config.update({name: value}))
    with pytest.raises(BadInput, match=r"model\.weights\.h5 does not fit") as raised:
        load_run(run)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "name, value", [("tta_views", 3), ("tile_size", 63), ("model_name", "vgg"), ("model_width", "wide")]
)
def test_settings_that_break_a_rule_are_refused(run, name, value):
    spoil_settings(run, lambda config: config.update({name: value}))
    with pytest.raises(BadInput, match=r"config\.json is not a settings file"):
        load_run(run)


BY_LOOK = {look: asdict(one) for look, one in HANDS["stage1_train"].items()}
DAMAGED = {
    "torn": "{",
    "a list": "[]",
    "empty": "{}",
    "a list of settings": '{"config": [], "thresholds": {}}',
    "one setting, unknown": '{"config": {"colour": 1}}',
    "no thresholds": json.dumps({"config": asdict(TINY)}),
    "thresholds of no look": json.dumps({"config": asdict(TINY), "thresholds": asdict(Thresholds())}),
    "thresholds of nothing": json.dumps({"config": asdict(TINY), "thresholds": {}}),
    "a look too few": json.dumps({"config": asdict(TINY), "thresholds": {"small": {}, "large": {}}}),
    "a look too many": json.dumps({"config": asdict(TINY), "thresholds": BY_LOOK | {"pink": {}}}),
    "another threshold": json.dumps({"config": asdict(TINY), "thresholds": BY_LOOK | {"small": {"moon": 1.0}}}),
    "nesting without end": "[" * 200_000,
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_broken_settings_are_refused(run, damage):
    (run / "config.json").write_text(damage)
    with pytest.raises(BadInput, match=r"config\.json is not a settings file"):
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


@pytest.mark.parametrize(
    "spoil, said",
    [
        (hostile_link, "link to elsewhere"),
        (hostile_external, "not an array of numbers in the file itself"),
        (hostile_size, "numbers, over the limit"),
        (hostile_text, "not an array of numbers in the file itself"),
        (hostile_loop, "too deep"),
    ],
)
def test_weights_are_numbers_in_the_file_itself(tmp_path, spoil, said):
    with h5py.File(tmp_path / "model.weights.h5", "w") as file:
        spoil(file)
    (tmp_path / "config.json").write_text(json.dumps({"config": asdict(TINY), "thresholds": BY_LOOK}))
    with pytest.raises(BadInput, match=rf"model\.weights\.h5 does not fit .*{said}"):
        load_run(tmp_path)


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model.npz", "model.pkl"])
def test_other_formats_of_weights_are_not_opened(run, name):
    (run / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(BadInput, match=r"is not a \.weights\.h5 file"):
        load_run(run / name)


@pytest.mark.parametrize("name", MAX_SETTINGS)
def test_settings_cannot_ask_for_any_memory(run, name):
    spoil_settings(run, lambda config: config.update({name: 2**40}))
    with pytest.raises(BadInput, match=rf"config\.json is not .* {name} can be \d+ at most"):
        load_run(run)
    for value in (MAX_SETTINGS[name], 1):
        check_settings({name: value, "train_seed": 2**40})
    with pytest.raises(BadInput, match=name):
        check_settings({name: MAX_SETTINGS[name] + 1})


# ---- training on -------------------------------------------------------------------------------


def test_fine_tuning_keeps_the_network_and_its_targets(run):
    spoil_settings(run, lambda config: config.update(target_core=0.3))
    preset = Config(train_steps=7)
    config, weights = fine_tuning(preset, run)
    kept = {"model_width": 4, "model_depth": 2, "model_stem": 1, "target_core": 0.3}
    assert config == replace(preset, **kept, train_rate=preset.train_rate * FINE_TUNING_RATE)
    model = new_model(TINY)
    model.load_weights(run / "model.weights.h5")
    for one, other in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
