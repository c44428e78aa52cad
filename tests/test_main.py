"""Main: a small drawn competition from its files to a submission, and what stands on the way and when all breaks."""

import csv
import json
import logging
import shutil
import zipfile
from dataclasses import asdict, replace

import keras
import numpy as np
import pytest

from nuclei.prediction.watershed import Thresholds
from nuclei.run import main
from nuclei.run.main import run_competition
from nuclei.run.predictions import Predictions
from nuclei.settings.config import BadInput, Config
from nuclei.training_data.images import ImageSet
from nuclei_kit.experiments.home_run import score_table, train_at_home
from nuclei_kit.files.reading import read_images
from nuclei_kit.files.run_lists import check_submission, decode_rles
from nuclei_kit.files.runs import FINE_TUNING_RATE, fine_tuning, load_model, load_run
from nuclei_kit.sample.sample import draw_sample

TINY = Config(
    data_folds=5,
    data_tuning=0.25,
    model_width=4,
    model_depth=2,
    model_stem=1,
    train_steps=4,
    train_batch=2,
    train_crop=64,
    train_checks=1,
    tile_size=64,
    tile_overlap=16,
    tile_batch=4,
    tta_views=1,
)
FILES = ["checkpoints", "confidence.csv", "config.json", "held_out.csv", "held_out_nuclei.csv", "log.csv"]
FILES += ["model.weights.h5", "stages.csv", "submission.csv"]


@pytest.fixture(scope="module")
def competition(tmp_path_factory):
    """A drawn competition, its solution taken away: no run may need it."""
    folder = tmp_path_factory.mktemp("competition")
    draw_sample(folder, n_train=10, n_test=4)
    (folder / "stage1_solution.csv").unlink()
    return folder


@pytest.fixture(scope="module")
def test_set(competition):
    return read_images(competition / "stage1_test.zip")


@pytest.fixture(scope="module")
def finished(competition, tmp_path_factory):
    """The folder of a finished run of TINY."""
    out = tmp_path_factory.mktemp("run")
    run_competition(TINY, competition, out)
    return out


def nothing_found(x):
    """A network that finds nothing, quickly."""
    return np.zeros((*x.shape[:3], 3), np.float32)


class FakeModel:
    """A model of that network."""

    predict_on_batch = staticmethod(nothing_found)


def fake_training(config, train, tuning, folder, on_better, start=None):
    """Stands in for train_model where the training is not what is tested."""
    for name in ("model.weights.h5", "log.csv"):
        (folder / name).write_text("new")
    return FakeModel(), Thresholds(), 8


def failing_training(*_):
    raise RuntimeError("out of memory")


def read_confidences(folder):
    """{image id: confidences by nucleus}, of the images in which something was found."""
    rows = list(csv.DictReader((folder / "confidence.csv").open(newline="")))
    ids = dict.fromkeys(row["ImageId"] for row in rows)
    return {i: [float(row["confidence"]) for row in rows if row["ImageId"] == i] for i in ids}


def count_nuclei(folder, ids):
    """{image id: how many nuclei}, of the images in which something was found."""
    rles = check_submission(folder / "submission.csv", dict.fromkeys(ids))
    return {i: len(found) for i, found in rles.items() if found != [""]}


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


# ---- a whole run -------------------------------------------------------------------------------


def test_a_run_leaves_its_files(finished):
    assert sorted(path.name for path in finished.iterdir()) == FILES


def test_the_same_seed_and_steps_give_the_same_numbers(finished, competition, tmp_path):
    """The weights tell, too: four steps find few nuclei. Their file differs, since it has Keras's names of layers."""
    run_competition(TINY, competition, tmp_path)
    assert contents(tmp_path)["submission.csv"] == contents(finished)["submission.csv"]
    assert contents(tmp_path)["held_out_nuclei.csv"] == contents(finished)["held_out_nuclei.csv"]
    both = [load_model(folder)[0].get_weights() for folder in (tmp_path, finished)]
    assert all(map(np.array_equal, *both))


def test_the_submission_keeps_the_rules(finished, test_set):
    shapes = {i: image.shape[:2] for i, image in zip(test_set.ids, test_set.images, strict=True)}
    assert len(shapes) == 4
    rles = check_submission(finished / "submission.csv", shapes)
    assert list(rles) == sorted(shapes)


def test_the_settings_are_kept(finished):
    content = json.loads((finished / "config.json").read_text())
    assert content["config"] == {**asdict(TINY), "tta_zooms": [1.0]}
    assert set(content["thresholds"]) == set(asdict(Thresholds()))
    assert content["versions"]["keras"] == keras.__version__


def test_held_out_images_are_scored(finished):
    rows = list(csv.DictReader((finished / "held_out.csv").open(newline="")))
    assert 1 <= len(rows) <= 5
    assert all(0 <= float(row["score"]) <= 1 for row in rows)
    assert list(check_submission(finished / "held_out_nuclei.csv", dict.fromkeys(row["ImageId"] for row in rows)))


def test_the_cost_of_each_stage_is_kept(finished):
    rows = list(csv.DictReader((finished / "stages.csv").open(newline="")))
    assert [row["stage"] for row in rows] == ["read test", "read train", "train", "predict", "held out"]
    assert all(float(row["seconds"]) >= 0 and float(row["peak_gb"]) > 0.1 for row in rows)
    assert rows[3]["images"] == "4"


def test_a_loaded_run_predicts_the_same_rows(finished, test_set, tmp_path):
    network, thresholds, config = load_run(finished)
    assert config == TINY
    predictions = Predictions(test_set)
    assert predictions.improve(network, thresholds, config) == len(test_set.ids)
    predictions.write(tmp_path)
    for name in ("submission.csv", "confidence.csv"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


def test_one_hundred_layers_goes_the_whole_way(tmp_path, eagerly):
    draw_sample(tmp_path, n_train=3, n_test=1)
    config = replace(
        TINY,
        model_name="one_hundred_layers",
        model_width=2,
        train_steps=2,
        data_folds=0,
        data_tuning=0.0,
        tile_size=256,
        tile_batch=1,
    )
    run_competition(config, tmp_path, tmp_path)
    ids = read_images(tmp_path / "stage1_test.zip").ids
    assert len(check_submission(tmp_path / "submission.csv", dict.fromkeys(ids))) == 1
    assert not (tmp_path / "held_out.csv").exists()  # nothing was held out
    (row,) = csv.DictReader((tmp_path / "log.csv").open(newline=""))
    assert np.isfinite(float(row["loss"]))


# ---- predictions that get better ---------------------------------------------------------------


def bright_set(count):
    """Images of one bright square each, the larger the later, and a file that is no image."""
    images = [np.zeros((64, 64, 3), np.uint8) for _ in range(count)]
    for n, image in enumerate(images):
        image[8 : 24 + 2 * n, 8 : 24 + 2 * n] = 200
    return ImageSet([f"{n:02d}" for n in range(count)], images, [], [], {"zz": "no image"})


def bright_found(x):
    """A network that takes what is bright for a nucleus."""
    bright = (x.mean(axis=-1, keepdims=True) > 0.3).astype(np.float32)
    return np.concatenate([bright, np.zeros_like(bright), bright], axis=-1)


def found_in(predictions, folder):
    """{image id: the area of its nuclei} of what `predictions` writes."""
    predictions.write(folder)
    rles = check_submission(folder / "submission.csv", dict.fromkeys(predictions.found))
    return {i: np.count_nonzero(decode_rles([rle for rle in found if rle], 64, 64)) for i, found in rles.items()}


def test_before_any_network_every_image_has_its_empty_row(tmp_path):
    assert found_in(Predictions(bright_set(3)), tmp_path) == {"00": 0, "01": 0, "02": 0, "zz": 0}
    assert read_confidences(tmp_path) == {}


def test_what_the_time_does_not_reach_is_first_in_line(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(main.time, "monotonic", lambda: clock[0])

    def network(x):
        clock[0] += 1e-6
        return bright_found(x)

    def segment(image, network, *_):  # a minute an image
        clock[0] += 60
        labels = network(image[None] / 255)[0, ..., 0].astype(np.int32)
        return labels, np.full(labels.max(), 0.875)

    monkeypatch.setattr(main, "segment", segment)
    predictions = Predictions(bright_set(3))
    assert predictions.improve(network, Thresholds(), TINY, minutes=1.5) == 2
    areas = {"00": 16**2, "01": 18**2, "02": 0, "zz": 0}
    assert found_in(predictions, tmp_path) == areas
    assert read_confidences(tmp_path) == {"00": [0.875], "01": [0.875]}
    # The third is next, then the first again; a network that finds nothing shows which rows are new.
    assert predictions.improve(bright_found, Thresholds(), TINY, minutes=0.5) == 1
    assert predictions.improve(nothing_found, Thresholds(), TINY, minutes=0.5) == 1
    assert found_in(predictions, tmp_path) == areas | {"02": 20**2, "00": 0}
    assert list(read_confidences(tmp_path)) == ["01", "02"]
    assert predictions.improve(bright_found, Thresholds(), TINY, minutes=0) == 0


def test_better_weights_bring_a_better_submission_on_the_way(competition, tmp_path, monkeypatch, test_set):
    seen = []

    def train_model(config, train, tuning, folder, on_better, start=None):
        on_better(bright_found, Thresholds())
        rles = check_submission(folder / "submission.csv", dict.fromkeys(test_set.ids))
        seen.append(sum(rle != "" for found in rles.values() for rle in found))
        return fake_training(config, train, tuning, folder, on_better)

    monkeypatch.setattr(main, "train_model", train_model)
    config = replace(TINY, train_steps=0, train_minutes=60.0)
    run_competition(config, competition, tmp_path)
    rles = check_submission(tmp_path / "submission.csv", dict.fromkeys(test_set.ids))
    assert seen[0] > 0
    assert rles == {image_id: [""] for image_id in test_set.ids}  # the last word has the network that finds nothing


def test_images_that_the_time_did_not_reach_are_reported(competition, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(main, "train_model", fake_training)
    run_competition(replace(TINY, tta_minutes=1e-9), competition, tmp_path)
    assert "4 images keep what was found in them earlier" in caplog.text


def test_an_image_that_cannot_be_predicted_costs_its_own_nuclei(tmp_path, caplog, monkeypatch):
    def segment(image, *_):
        if image.sum() == images.images[1].sum():
            raise ValueError("odd pixels")
        return (image[..., 0] > 0).astype(np.int32), np.ones(1)

    images = bright_set(3)
    monkeypatch.setattr(main, "segment", segment)
    predictions = Predictions(images)
    assert predictions.improve(bright_found, Thresholds(), TINY) == 3
    assert found_in(predictions, tmp_path) == {"00": 16**2, "01": 0, "02": 20**2, "zz": 0}
    assert "01 keeps what was found in it earlier, if anything: ValueError('odd pixels')" in caplog.text


def test_where_no_image_can_be_predicted_the_reason_is_raised(monkeypatch):
    def segment(*_):
        raise RuntimeError("no memory")

    monkeypatch.setattr(main, "segment", segment)
    with pytest.raises(RuntimeError, match="no memory"):
        Predictions(bright_set(3)).improve(bright_found, Thresholds(), TINY)


def test_a_prediction_that_is_cut_off_repeats_no_finished_image(competition, tmp_path, monkeypatch, test_set):
    """The third image is being predicted when it is cut off; the training is not what is tested."""
    seen, original = [], main.segment

    def segment(image, *rest):
        seen.append(image.shape)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return original(image, *rest)

    monkeypatch.setattr(main, "train_model", fake_training)
    monkeypatch.setattr(FakeModel, "predict_on_batch", staticmethod(bright_found))
    monkeypatch.setattr(main, "segment", segment)
    monkeypatch.setattr(main, "CHECKPOINT_SECONDS", 0.0)
    config = replace(TINY, data_folds=0)
    with pytest.raises(KeyboardInterrupt):
        run_competition(config, competition, tmp_path)
    assert (tmp_path / "submission.csv").is_file()
    run_competition(config, competition, tmp_path)
    assert len(seen) == 3 + 2  # of four images
    confidences = read_confidences(tmp_path)
    assert {i: len(one) for i, one in confidences.items()} == count_nuclei(tmp_path, test_set.ids)
    assert set(confidences) == set(test_set.ids)
    with pytest.raises(BadInput, match=r"unfinished run with other settings \(test was"):
        other = tmp_path / "other"
        draw_sample(other, n_train=2, n_test=3)
        run_competition(config, other, tmp_path)


# ---- runs that do not go well ------------------------------------------------------------------


def test_a_failing_run_leaves_the_submission_that_stands(competition, finished, tmp_path, monkeypatch):
    run_copy = shutil.copytree(finished, tmp_path / "copy")
    before = contents(run_copy)
    monkeypatch.setattr(main, "train_model", failing_training)
    with pytest.raises(RuntimeError, match="out of memory"):
        run_competition(TINY, competition, run_copy)
    assert contents(run_copy) == before


@pytest.mark.parametrize("missing", ["stage1_train.zip", "stage1_test.zip"])
def test_bad_data_is_refused_before_training(competition, tmp_path, monkeypatch, missing):
    data = shutil.copytree(competition, tmp_path / "data")
    (data / missing).unlink()
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(main, "train_model", failing_training)
    with pytest.raises(BadInput, match=missing):
        run_competition(TINY, data, tmp_path / "out")
    assert not contents(tmp_path / "out")


def test_a_stage_that_is_not_there_is_refused_before_training(competition, tmp_path, monkeypatch):
    monkeypatch.setattr(main, "train_model", failing_training)
    with pytest.raises(BadInput, match="stage2_test_final"):
        run_competition(TINY, competition, tmp_path, stage=2)


def test_training_images_without_masks_are_refused(competition, tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(competition / "stage1_test.zip", data / "stage1_train.zip")
    monkeypatch.setattr(main, "train_model", fake_training)
    with pytest.raises(BadInput, match="no masks"):
        train_at_home(TINY, data, tmp_path)


def test_a_bad_test_image_gets_its_empty_row(competition, tmp_path, monkeypatch, caplog, test_set):
    data = shutil.copytree(competition, tmp_path / "data")
    with zipfile.ZipFile(data / "stage1_test.zip", "a") as archive:
        archive.writestr("0bad/images/0bad.png", b"\x89PNG no more")
    monkeypatch.setattr(main, "train_model", fake_training)
    with caplog.at_level(logging.INFO, logger="nuclei"):
        run_competition(TINY, data, tmp_path)
    rles = check_submission(tmp_path / "submission.csv", dict.fromkeys(["0bad", *test_set.ids]))
    assert rles == {image_id: [""] for image_id in ["0bad", *test_set.ids]}  # nothing is found elsewhere
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "0bad was left empty" in warnings[0]
    table = next(record.getMessage() for record in caplog.records if "peak memory" in record.getMessage())
    assert all(stage in table for stage in ("read train", "train", "held out", "read test", "predict"))


# ---- going on from weights ---------------------------------------------------------------------


def test_fine_tuning_begins_with_the_weights_of_a_run(finished, competition, tmp_path):
    config, weights = fine_tuning(replace(TINY, model_width=8, train_steps=1, train_warmup=0.5), finished)
    assert (config.model_width, config.train_rate) == (TINY.model_width, TINY.train_rate * FINE_TUNING_RATE)
    train_at_home(replace(config, train_rate=0.0, train_decay=0.0), competition, tmp_path, weights)
    before, after = (load_model(run)[0].trainable_weights for run in (finished, tmp_path))
    for one, other in zip(before, after, strict=True):  # at a rate of 0 nothing is learnt, and nothing may be lost
        np.testing.assert_array_equal(one, other)


def test_a_fine_tuning_goes_on_from_its_own_weights_alone(finished, competition, tmp_path):
    config, weights = fine_tuning(TINY, finished)
    train_at_home(config, competition, tmp_path, weights)
    with pytest.raises(BadInput, match=r"other settings .*start was"):
        train_at_home(config, competition, tmp_path, [weight + 1 for weight in weights])


# ---- tables ------------------------------------------------------------------------------------


def test_the_score_table_goes_by_kind():
    table = score_table(["purple", "brown", "purple"], [0.5, 0.25, 1.0]).splitlines()
    assert [line.split() for line in table[1:]] == [
        ["purple", "2", "0.750"],
        ["brown", "1", "0.250"],
        ["all", "3", "0.583"],
    ]


def test_the_stopwatch_counts_images_a_second(monkeypatch):
    times = iter([10.0, 14.0, 20.0, 20.5])
    monkeypatch.setattr(main.time, "monotonic", lambda: next(times))
    watch = main.Stopwatch()
    with watch.stage("read", 8):
        pass
    with watch.stage("idle"):
        pass
    lines = [line.split() for line in watch.table().splitlines()]
    assert lines[1:3] == [["read", "4.0", "8", "2.0"], ["idle", "0.5"]]
    assert lines[3][:2] == ["peak", "memory"]
