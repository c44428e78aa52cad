"""Main: a small drawn set from its images to a submission, and what stands on the way and when all breaks."""

import csv
import json
import logging
from dataclasses import asdict, replace

import keras
import numpy as np
import pytest
from drawn import draw_disc_set
from drawn_runs import TINY, MemoryKeeper, bright_found, cut_off_prediction, fake_training, nothing_found

from nuclei.prediction.segmenter import Segmenter
from nuclei.prediction.watershed import HANDS, Thresholds
from nuclei.run import main
from nuclei.run.main import run_competition, train_segmenter
from nuclei.run.predictions import Predictions
from nuclei.run.stopwatch import Stopwatch
from nuclei.settings.config import PRESETS
from nuclei.training.train import Keeper
from nuclei.training_data.images import ImageSet
from nuclei.training_data.kinds import LOOKS
from nuclei_kit.files.run_lists import check_submission

NOTHING_TO_TUNE_ON = ImageSet([], [], [], [])
FILES = ["confidence.csv", "config.json", "log.csv", "model.weights.h5", "submission.csv"]


@pytest.fixture(scope="module")
def train_set():
    return draw_disc_set(10)


@pytest.fixture(scope="module")
def test_set():
    """Four images, and a file that cannot be read."""
    return replace(draw_disc_set(4, seed=1), labels=[], unreadable={"zz": "zz.png cannot be decoded"})


@pytest.fixture
def run(train_set, test_set, tmp_path):
    """Run the whole competition in this test's folder -> the Segmenter."""

    def run(config=TINY, folder=tmp_path, keeper=None, train=train_set, tuning=NOTHING_TO_TUNE_ON, test=test_set):
        return run_competition(config, train, tuning, test, folder, keeper or Keeper(), Stopwatch())

    return run


@pytest.fixture(scope="module")
def finished(train_set, test_set, tmp_path_factory):
    """The folder of a finished run of TINY, which had two images to choose thresholds on."""
    out = tmp_path_factory.mktemp("run")
    run_competition(TINY, train_set.subset(range(8)), train_set.subset([8, 9]), test_set, out, Keeper(), Stopwatch())
    return out


def count_nuclei(folder):
    """{image id: how many nuclei} in the submission of a run on `test_set`."""
    rles = check_submission(folder / "submission.csv", {f"{n:02d}": (64, 64) for n in range(4)} | {"zz": None})
    return {image_id: len([rle for rle in found if rle]) for image_id, found in rles.items()}


def count_confidences(folder):
    """{image id: how many nuclei} in confidence.csv."""
    with open(folder / "confidence.csv", newline="") as file:
        ids = [row["ImageId"] for row in csv.DictReader(file)]
    return {image_id: ids.count(image_id) for image_id in ids}


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


NOTHING = {"00": 0, "01": 0, "02": 0, "03": 0, "zz": 0}


# ---- a whole run -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_leaves_its_files(finished):
    assert sorted(path.name for path in finished.iterdir()) == FILES
    assert list(count_nuclei(finished)) == list(NOTHING)


@pytest.mark.slow
def test_the_same_seed_and_steps_give_the_same_numbers(finished, run, train_set, tmp_path):
    """The weights tell, too: four steps find few nuclei. Their file differs, since it has Keras's names of layers."""
    segmenter = run(train=train_set.subset(range(8)), tuning=train_set.subset([8, 9]))
    for name in ("submission.csv", "confidence.csv"):
        assert contents(tmp_path)[name] == contents(finished)[name]
    x = np.random.default_rng(0).random((4, 64, 64, 3), np.float32)
    outputs = [one.network(x) for one in (segmenter, Segmenter.load(tmp_path), Segmenter.load(finished))]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[1], outputs[2])


@pytest.mark.slow
def test_the_settings_are_kept(finished):
    content = json.loads((finished / "config.json").read_text())
    assert content["config"] == asdict(TINY)
    assert content["thresholds"].keys() == set(LOOKS.values())
    assert all(one.keys() == asdict(Thresholds()).keys() for one in content["thresholds"].values())
    assert content["thresholds_from"] == "chosen on 2 images"
    assert content["versions"]["keras"] == keras.__version__


@pytest.mark.slow
def test_a_loaded_run_predicts_the_same_rows(finished, test_set, tmp_path):
    segmenter = Segmenter.load(finished)
    assert segmenter.config == TINY
    predictions = Predictions(test_set)
    assert predictions.improve(segmenter) == len(test_set.ids)
    predictions.write(tmp_path)
    for name in ("submission.csv", "confidence.csv"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.slow
def test_one_hundred_layers_goes_the_whole_way(run, tmp_path, eagerly, test_set):
    size = {"model_name": "one_hundred_layers", "model_width": 2, "train_steps": 2}
    run(replace(TINY, **size), train=draw_disc_set(3), test=test_set.subset([0]))
    assert list(check_submission(tmp_path / "submission.csv", {"00": (64, 64)})) == ["00"]
    (row,) = csv.DictReader((tmp_path / "log.csv").open(newline=""))
    assert np.isfinite(float(row["loss"]))


# ---- training, by a stand-in -------------------------------------------------------------------


def test_the_network_learns_from_the_training_images_alone(train_set, tmp_path, monkeypatch):
    seen = []

    def train_model(config, train, *rest):
        seen.append(train)
        return fake_training()(config, train, *rest)

    monkeypatch.setattr(main, "train_model", train_model)
    train, tuning = train_set.subset(range(7)), train_set.subset([7, 8])
    segmenter = train_segmenter(TINY, train, tuning, tmp_path, Keeper(), lambda segmenter, is_last: None)
    assert seen == [train]
    assert segmenter.config == TINY


def test_the_last_weights_count_whatever_the_checks_say(train_set, tmp_path, monkeypatch):
    """A half-trained network may win by noise."""
    for on_the_way, at_last, surest in ((bright_found, nothing_found, 0), (nothing_found, bright_found, 1)):
        checked = []

        def on_check(segmenter, is_last, checked=checked):
            checked.append((segmenter.network(np.ones((1, 64, 64, 3))).max(), is_last))
            return 1.0 - checked[-1][0]  # the network that finds nothing scores more

        monkeypatch.setattr(main, "train_model", fake_training(at_last, [on_the_way]))
        segmenter = train_segmenter(TINY, train_set, NOTHING_TO_TUNE_ON, tmp_path, Keeper(), on_check)
        assert checked == [(1 - surest, False), (surest, True)]
        assert segmenter.network(np.ones((1, 64, 64, 3))).max() == surest


def unsure(x):
    return bright_found(x) * 0.65


def test_thresholds_suit_the_network_and_are_chosen_once(train_set, tmp_path, monkeypatch, caplog):
    """A network that is sure of nothing finds nothing by the default thresholds."""
    monkeypatch.setattr(main, "train_model", fake_training(unsure))
    keeper, tuning = MemoryKeeper(), train_set.subset([7, 8, 9])

    def train():
        return train_segmenter(TINY, train_set, tuning, tmp_path, keeper, lambda segmenter, is_last: None)

    with caplog.at_level(logging.INFO, logger="nuclei"):
        segmenter = train()
    small = segmenter.thresholds["small"]
    assert f"thresholds, small: seed {small.seed:g}, interior {small.interior:g}, " in caplog.text
    assert small.confidence < 0.65 < Thresholds().confidence
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["thresholds"] == {look: asdict(one) for look, one in segmenter.thresholds.items()}
    assert content["thresholds_from"] == "chosen on 3 images"
    monkeypatch.setattr(main, "Tuner", None)  # a run that resumes has chosen them
    assert train().thresholds == segmenter.thresholds


@pytest.mark.parametrize("hand", HANDS)
def test_without_tuning_images_the_hand_gives_the_thresholds(train_set, tmp_path, monkeypatch, hand):
    monkeypatch.setattr(main, "train_model", fake_training(unsure, [bright_found]))
    monkeypatch.setattr(main, "Tuner", None)
    config, checked = replace(TINY, data_hand=hand), []

    def on_check(segmenter, is_last):
        checked.append(segmenter.thresholds)

    segmenter = train_segmenter(config, train_set, NOTHING_TO_TUNE_ON, tmp_path, Keeper(), on_check)
    assert segmenter.thresholds == HANDS[hand]
    assert checked == [HANDS[hand]] * 2
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["thresholds"] == {look: asdict(one) for look, one in HANDS[hand].items()}
    assert content["thresholds_from"] == f"for masks as {hand}'s"


# ---- prediction --------------------------------------------------------------------------------


def test_better_weights_bring_a_better_submission_on_the_way(run, tmp_path, monkeypatch):
    seen = []

    def train_model(config, train, log_file, keeper, check, start=None):
        check(bright_found, False)
        seen.append(count_nuclei(tmp_path))
        return fake_training(nothing_found)(config, train, log_file, keeper, check)

    monkeypatch.setattr(main, "train_model", train_model)
    run(replace(TINY, train_steps=0, train_minutes=60.0))
    assert all(seen[0][image_id] > 0 for image_id in ("00", "01", "02", "03"))
    assert count_nuclei(tmp_path) == NOTHING  # the last word has the network that finds nothing


def test_predictions_on_the_way_take_little_of_the_trainings_time(run, monkeypatch):
    """With as many as the kaggle preset has, under a tenth of it."""
    given, improve = [], Predictions.improve

    def record(self, segmenter, minutes, **rest):
        given.append(minutes)
        return improve(self, segmenter, minutes, **rest)

    monkeypatch.setattr(Predictions, "improve", record)
    monkeypatch.setattr(main, "train_model", fake_training(nothing_found, [bright_found]))
    run(replace(TINY, train_steps=0, train_minutes=60.0, tta_minutes=7.0))
    early, last = given
    assert 0 < early * (PRESETS["kaggle"].train_checks - 1) < 0.1 * 60
    assert last == 7


def test_images_that_the_time_did_not_reach_are_reported(run, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(main, "train_model", fake_training(bright_found))
    run(replace(TINY, tta_minutes=1e-9))
    assert "tta_minutes" in caplog.text and "4 images" in caplog.text
    assert count_nuclei(tmp_path) == NOTHING


def test_an_image_that_could_not_be_read_gets_its_empty_row(run, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(main, "train_model", fake_training(bright_found))
    with caplog.at_level(logging.INFO, logger="nuclei"):
        run()
    counts = count_nuclei(tmp_path)
    assert counts["zz"] == 0 and all(counts[image_id] for image_id in ("00", "01", "02", "03"))
    assert count_confidences(tmp_path) == {image_id: count for image_id, count in counts.items() if count}
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "zz.png cannot be decoded" in warning
    assert f"submission.csv: {sum(counts.values())} nuclei in 5 images" in caplog.text


def test_a_prediction_that_is_cut_off_repeats_no_finished_image(run, tmp_path, monkeypatch):
    seen = cut_off_prediction(monkeypatch, bright_found)
    keeper = MemoryKeeper()
    with pytest.raises(KeyboardInterrupt):
        run(keeper=keeper)
    counts = count_nuclei(tmp_path)
    assert [counts[image_id] > 0 for image_id in ("00", "01", "02", "03")] == [True, True, False, False]
    run(keeper=keeper)
    assert len(seen) == 3 + 2  # of four images
    counts = count_nuclei(tmp_path)
    assert all(counts[image_id] for image_id in ("00", "01", "02", "03"))
    assert count_confidences(tmp_path) == {image_id: count for image_id, count in counts.items() if count}


def test_a_failing_run_leaves_the_submission_that_stands(run, tmp_path, monkeypatch):
    def failing_training(*_):
        raise RuntimeError("out of memory")

    for name in FILES:
        (tmp_path / name).write_text("of an earlier run")
    before = contents(tmp_path)
    monkeypatch.setattr(main, "train_model", failing_training)
    with pytest.raises(RuntimeError, match="out of memory"):
        run()
    assert contents(tmp_path) == before
