"""Main: a small drawn set from its images to a submission, and what stands on the way and when all breaks."""

import csv
import json
import logging
from dataclasses import asdict, replace

import keras
import numpy as np
import pytest
from drawn import draw_disc_set
from drawn_runs import TINY, MemoryKeeper, bright_found, fake_training, nothing_found

from nuclei.prediction.segmenter import Segmenter
from nuclei.prediction.watershed import Thresholds
from nuclei.run import main
from nuclei.run.main import run_competition, train_segmenter
from nuclei.run.predictions import Predictions
from nuclei.run.stopwatch import Stopwatch
from nuclei.settings.config import BadInput
from nuclei.training.train import Keeper
from nuclei_kit.experiments.folds import split_data
from nuclei_kit.files.run_lists import check_submission

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
    """Run the whole competition in this test's folder -> (the Segmenter, the images held out)."""

    def run(config=TINY, folder=tmp_path, keeper=None, train=train_set, test=test_set):
        return run_competition(config, train, test, folder, keeper or Keeper(), Stopwatch())

    return run


@pytest.fixture(scope="module")
def finished(train_set, test_set, tmp_path_factory):
    """The folder of a finished run of TINY."""
    out = tmp_path_factory.mktemp("run")
    run_competition(TINY, train_set, test_set, out, Keeper(), Stopwatch())
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
def test_the_same_seed_and_steps_give_the_same_numbers(finished, run, tmp_path):
    """The weights tell, too: four steps find few nuclei. Their file differs, since it has Keras's names of layers."""
    segmenter, _ = run()
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
    assert set(content["thresholds"]) == set(asdict(Thresholds()))
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
    size = {"model_name": "one_hundred_layers", "model_width": 2, "train_steps": 2, "tile_batch": 1}
    config = replace(TINY, **size, data_folds=0, data_tuning=0.0)
    _, held_out = run(config, train=draw_disc_set(3), test=test_set.subset([0]))
    assert held_out.ids == []
    assert list(check_submission(tmp_path / "submission.csv", {"00": (64, 64)})) == ["00"]
    (row,) = csv.DictReader((tmp_path / "log.csv").open(newline=""))
    assert np.isfinite(float(row["loss"]))


# ---- training, by a stand-in -------------------------------------------------------------------


def test_the_images_are_split_as_the_config_says(train_set, tmp_path, monkeypatch):
    seen = []

    def train_model(config, train, *rest):
        seen.append(train)
        return fake_training()(config, train, *rest)

    monkeypatch.setattr(main, "train_model", train_model)
    segmenter, held_out = train_segmenter(TINY, train_set, tmp_path, Keeper(), lambda segmenter: None)
    expected = split_data(train_set, TINY.data_folds, TINY.data_fold, TINY.data_tuning)
    assert [part.ids for part in (*seen, held_out)] == [expected[0].ids, expected[2].ids]
    assert segmenter.config == TINY


def test_the_last_weights_count_and_a_fall_of_the_score_is_a_warning(train_set, tmp_path, monkeypatch, caplog):
    """A check does not choose: a half-trained network may win by noise."""
    config = replace(TINY, data_folds=0)
    monkeypatch.setattr(main, "train_model", fake_training(bright_found, [nothing_found]))
    train_segmenter(config, train_set, tmp_path, Keeper(), lambda segmenter: None)
    assert "tuning score fell" not in caplog.text
    monkeypatch.setattr(main, "train_model", fake_training(nothing_found, [bright_found]))
    segmenter, _ = train_segmenter(config, train_set, tmp_path, Keeper(), lambda segmenter: None)
    assert segmenter.network(np.ones((1, 64, 64, 3))).max() == 0
    assert "tuning score fell from" in caplog.text and "to 0.000" in caplog.text


def test_thresholds_suit_the_network_and_are_chosen_once(train_set, tmp_path, monkeypatch):
    """A network that is sure of nothing finds nothing by the default thresholds."""

    def unsure(x):
        return bright_found(x) * 0.65

    monkeypatch.setattr(main, "train_model", fake_training(unsure))
    keeper = MemoryKeeper()
    config = replace(TINY, data_folds=0)
    segmenter, _ = train_segmenter(config, train_set, tmp_path, keeper, lambda segmenter: None)
    assert segmenter.thresholds.confidence < 0.65 < Thresholds().confidence
    assert json.loads((tmp_path / "config.json").read_text())["thresholds"] == asdict(segmenter.thresholds)
    monkeypatch.setattr(main, "tune_thresholds", None)  # a run that resumes has chosen them
    again, _ = train_segmenter(config, train_set, tmp_path, keeper, lambda segmenter: None)
    assert again.thresholds == segmenter.thresholds
    untuned = replace(config, data_tuning=0.0)
    again, _ = train_segmenter(untuned, train_set, tmp_path, Keeper(), lambda segmenter: None)
    assert again.thresholds == Thresholds()


def test_training_images_without_masks_are_refused(train_set, tmp_path, monkeypatch):
    monkeypatch.setattr(main, "train_model", None)
    with pytest.raises(BadInput, match="no masks"):
        train_segmenter(TINY, replace(train_set, labels=[]), tmp_path, Keeper(), lambda segmenter: None)
    assert not contents(tmp_path)


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
    """The third image is being predicted when it is cut off; the training is not what is tested."""
    seen, segment = [], Segmenter.segment

    def cut_off(self, image, views=None):
        seen.append(image)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return segment(self, image, views)

    monkeypatch.setattr(main, "train_model", fake_training(bright_found))
    monkeypatch.setattr(main, "REMEMBER_SECONDS", 0.0)
    monkeypatch.setattr(Segmenter, "segment", cut_off)
    keeper, config = MemoryKeeper(), replace(TINY, data_folds=0, data_tuning=0.0)
    with pytest.raises(KeyboardInterrupt):
        run(config, keeper=keeper)
    counts = count_nuclei(tmp_path)
    assert [counts[image_id] > 0 for image_id in ("00", "01", "02", "03")] == [True, True, False, False]
    run(config, keeper=keeper)
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
