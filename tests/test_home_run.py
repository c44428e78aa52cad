"""Home run: a competition's files read with care, a run that resumes, what was held out and its scores."""

import logging
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from drawn import disc_network, draw_disc_set, draw_kind
from drawn_files import read_rows, write_folder
from drawn_runs import TINY, bright_found, cut_off_prediction, fake_training, nothing_found

from nuclei.competition.data import read_set
from nuclei.prediction.metric import average_precision
from nuclei.prediction.segmenter import Segmenter
from nuclei.prediction.watershed import HANDS
from nuclei.run import main
from nuclei.run.main import run_competition
from nuclei.run.stopwatch import Stopwatch
from nuclei.settings.config import PRESETS, BadInput
from nuclei.training.train import Keeper, new_model
from nuclei.training_data.images import ImageSet
from nuclei_kit.experiments import home_run, scoring
from nuclei_kit.experiments.folds import split_data
from nuclei_kit.experiments.home_run import (
    run_at_home,
    score_held_out,
    score_set,
    score_table,
    scoring_check,
    train_at_home,
)
from nuclei_kit.files.reading import list_ids
from nuclei_kit.files.run_lists import check_submission
from nuclei_kit.files.runs import FINE_TUNING_RATE, fine_tuning, load_run
from nuclei_kit.sample.sample import draw_sample

WHOLE = replace(TINY, data_folds=0, data_tuning=0.0)  # holds nothing out
TRAINED = ["checkpoints", "config.json", "held_out.csv", "held_out_nuclei.csv", "log.csv", "model.weights.h5"]
TRAINED += ["stages.csv"]


@pytest.fixture(scope="module")
def competition(tmp_path_factory):
    """A drawn competition, its solution taken away: no run may need it."""
    folder = tmp_path_factory.mktemp("competition")
    draw_sample(folder, n_train=10, n_test=4)
    (folder / "stage1_solution.csv").unlink()
    return folder


@pytest.fixture(scope="module")
def ids(competition):
    return list_ids(competition / "stage1_test.zip")


@pytest.fixture(scope="module")
def finished(competition, tmp_path_factory):
    """The folder of a finished run of TINY."""
    out = tmp_path_factory.mktemp("run")
    run_at_home(TINY, competition, out)
    return out


def failing_training(*_):
    raise RuntimeError("it came to training")


# ---- what a run leaves -------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_leaves_its_files(finished):
    assert sorted(path.name for path in finished.iterdir()) == sorted([*TRAINED, "confidence.csv", "submission.csv"])


@pytest.mark.slow
def test_it_gives_what_the_kernel_gives(finished, competition, tmp_path):
    """The careful, cached reader and the checkpoints change no byte."""
    everything, test = (read_set(competition / name) for name in ("stage1_train.zip", "stage1_test.zip"))
    train, tuning, _ = split_data(everything, TINY.data_folds, TINY.data_fold, TINY.data_tuning)
    run_competition(TINY, train, tuning, test, tmp_path, Keeper(), Stopwatch())
    for name in ("submission.csv", "confidence.csv"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.slow
def test_the_cost_of_each_stage_is_kept(finished):
    rows = read_rows(finished / "stages.csv")
    assert [row["stage"] for row in rows] == ["read test", "read train", "train", "predict", "held out"]
    assert all(float(row["seconds"]) >= 0 and float(row["peak_gb"]) > 0.1 for row in rows)
    assert rows[3]["images"] == "4"


@pytest.mark.slow
def test_a_training_alone_leaves_no_submission(competition, tmp_path, monkeypatch):
    monkeypatch.setattr(main, "train_model", fake_training())
    train_at_home(TINY, competition, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == TRAINED
    assert [row["stage"] for row in read_rows(tmp_path / "stages.csv")] == ["read train", "train", "held out"]


@pytest.mark.slow
def test_a_bad_test_image_gets_its_empty_row(competition, ids, tmp_path, monkeypatch, caplog):
    data = shutil.copytree(competition, tmp_path / "data")
    with zipfile.ZipFile(data / "stage1_test.zip", "a") as archive:
        archive.writestr("0bad/images/0bad.png", b"\x89PNG no more")
    monkeypatch.setattr(main, "train_model", fake_training(bright_found))
    with caplog.at_level(logging.INFO, logger="nuclei"):
        run_at_home(TINY, data, tmp_path)
    rles = check_submission(tmp_path / "submission.csv", dict.fromkeys(["0bad", *ids]))
    assert rles["0bad"] == [""] and any(rles[image_id] != [""] for image_id in ids)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "0bad" in warning
    table = next(record.getMessage() for record in caplog.records if "peak memory" in record.getMessage())
    assert all(stage in table for stage in ("read train", "train", "held out", "read test", "predict"))


# ---- held-out images ---------------------------------------------------------------------------


@pytest.mark.slow
def test_held_out_images_are_scored(competition, tmp_path, monkeypatch):
    monkeypatch.setattr(main, "train_model", fake_training(bright_found))
    train_at_home(TINY, competition, tmp_path)
    rows = read_rows(tmp_path / "held_out.csv")
    assert 1 <= len(rows) <= 5
    assert all(0 <= float(row["score"]) <= 1 for row in rows)
    ids = [row["ImageId"] for row in rows]
    assert list(check_submission(tmp_path / "held_out_nuclei.csv", dict.fromkeys(ids))) == ids


def test_the_scores_are_those_of_what_is_found(tmp_path, caplog):
    """A perfect segmenter scores 1, a blind one 0."""
    images = read_drawn(tmp_path / "data")
    truths = {image.tobytes(): labels for image, labels in zip(images.images, images.labels, strict=True)}

    class Perfect:
        config = TINY

        def segment(self, image):
            return truths[image.tobytes()], None

    class Blind(Perfect):
        def segment(self, image):
            return 0 * truths[image.tobytes()], None

    for segmenter, score in ((Perfect(), 1), (Blind(), 0)):
        score_held_out(segmenter, images, tmp_path, Stopwatch())
        assert [float(row["score"]) for row in read_rows(tmp_path / "held_out.csv")] == [score] * 3
        assert [row["ImageId"] for row in read_rows(tmp_path / "held_out.csv")] == images.ids
    assert {row["EncodedPixels"] for row in read_rows(tmp_path / "held_out_nuclei.csv")} == {""}


def test_where_nothing_is_held_out_nothing_is_scored(tmp_path):
    score_held_out(None, read_drawn(tmp_path / "data").subset([]), tmp_path, Stopwatch())
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def read_drawn(folder):
    """Three images with labels."""
    draw_sample(folder, n_train=3, n_test=1)
    return read_set(folder / "stage1_train.zip")


def test_the_score_table_goes_by_kind():
    table = score_table(["purple", "brown", "purple"], np.array([0.5, 0.25, 1.0])).splitlines()
    assert [line.split() for line in table[1:]] == [
        ["purple", "2", "0.750"],
        ["brown", "1", "0.250"],
        ["all", "3", "0.583"],
    ]


# ---- scores on the way -------------------------------------------------------------------------


def segmenter_of(network):
    return Segmenter(network, HANDS["stage1_test"], replace(TINY, model_diameter=16.0))


def blind(x):
    return np.zeros((*x.shape[:3], 3), np.float32)


def test_a_network_that_is_right_scores_high_and_one_that_joins_what_touches_lower():
    images, labels = zip(*(draw_kind("fluorescence-small", seed, side=128) for seed in range(3)), strict=True)
    apart = ImageSet(list("abc"), list(images), list(labels), ["fluorescence-small"] * 3)
    assert score_set(apart, segmenter_of(disc_network)) > 0.85
    assert 0 < score_set(draw_disc_set(3), segmenter_of(disc_network)) < 0.6


def test_a_blind_network_scores_nothing_in_one_look_an_image():
    images, calls = draw_disc_set(2), []

    def network(x):
        calls.append(x)
        return blind(x)

    segmenter = segmenter_of(network)
    assert score_set(images, segmenter) == 0
    assert len(calls) == len(images.ids)  # one view, one tile each, and no search for the zoom


def test_a_fall_of_the_score_is_a_warning_and_a_rise_is_none(caplog):
    check = scoring_check(draw_disc_set(2))
    scores = [check(segmenter_of(network), False) for network in (blind, disc_network, disc_network)]
    assert scores[0] == 0 and scores[1] == scores[2] > 0.1
    assert "tuning score fell" not in caplog.text
    assert check(segmenter_of(blind), True) == 0
    assert f"tuning score fell from {scores[1]:.3f} to 0.000" in caplog.text


def test_without_tuning_images_there_is_no_score():
    assert scoring_check(draw_disc_set(0))(None, False) is None


@pytest.mark.slow
def test_the_scores_on_the_way_of_a_training_stand_in_its_log(competition, tmp_path, monkeypatch):
    seen = []

    def train_model(config, train, log_file, keeper, check, start=None):
        seen.append(check(bright_found, False))
        return fake_training(bright_found)(config, train, log_file, keeper, check, start)

    monkeypatch.setattr(main, "train_model", train_model)
    train_at_home(TINY, competition, tmp_path)
    train_at_home(WHOLE, competition, tmp_path)
    assert 0 < seen[0] < 1 and seen[1] is None


# ---- the two stages ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_stages(tmp_path_factory):
    """A drawn competition of both stages, with the truth of both."""
    folder = tmp_path_factory.mktemp("stages")
    draw_sample(folder, n_train=10, n_test=5, stage=2)
    return folder


@pytest.fixture
def parts(monkeypatch):
    """Stand in for the run itself -> (images to train on, to tune on, to predict) of each."""
    seen = []

    def run(config, train, tuning, test, folder, keeper, watch):
        seen.append((train, tuning, test))
        keeper.load("training")  # refuses another run's
        keeper.save("training", {"step": 1})

    monkeypatch.setattr(home_run, "run_competition", run)
    monkeypatch.setattr(home_run, "score_held_out", lambda *_: None)
    return seen


def test_a_run_for_a_submission_learns_from_every_training_image(two_stages, tmp_path, parts):
    run_at_home(WHOLE, two_stages, tmp_path)
    ((train, tuning, test),) = parts
    assert train.ids == list_ids(two_stages / "stage1_train.zip")
    assert tuning.ids == []
    assert test.ids == list_ids(two_stages / "stage1_test.zip")


def test_the_first_stage_never_reads_the_solution(two_stages, tmp_path, parts, monkeypatch):
    data = shutil.copytree(two_stages, tmp_path / "data")
    (data / "stage1_solution.csv").write_bytes(b"\xff\x00 what nobody can read")
    with monkeypatch.context() as patch:
        patch.setattr(home_run, "read_open_images", None)
        patch.setattr(scoring, "read_solution", None)
        run_at_home(WHOLE, data, tmp_path)
    assert len(parts) == 1
    with pytest.raises(BadInput, match=r"stage1_solution\.csv"):  # that it would be noticed
        run_at_home(WHOLE, data, tmp_path, stage=2)


@pytest.mark.parametrize("config", [WHOLE, TINY], ids=["nothing held out", "a fold held out"])
def test_the_second_stage_trains_on_half_of_the_opened_images_and_tunes_on_the_others(
    two_stages, tmp_path, parts, config
):
    """The tuning images of a fold train, since those of the test's own kind choose better."""
    run_at_home(config, two_stages, tmp_path, stage=2)
    ((train, tuning, test),) = parts
    everything = read_set(two_stages / "stage1_train.zip")
    *learned, held_out = split_data(everything, config.data_folds, config.data_fold, config.data_tuning)
    opened = list_ids(two_stages / "stage1_test.zip")
    assert train.ids == learned[0].ids + learned[1].ids + opened[::2]
    assert tuning.ids == opened[1::2]
    assert test.ids == list_ids(two_stages / "stage2_test_final.zip")
    assert not set(held_out.ids) & {*train.ids, *tuning.ids}
    truth = scoring.read_solution(two_stages / "stage1_solution.csv")
    for part in (train, tuning):
        for image_id, labels in zip(part.ids, part.labels, strict=True):
            if image_id in truth:
                np.testing.assert_array_equal(labels, truth[image_id])


def test_the_second_stage_without_a_truth_is_a_warning(two_stages, tmp_path, parts, caplog):
    data = shutil.copytree(two_stages, tmp_path / "data")
    (data / "stage1_solution.csv").unlink()
    run_at_home(WHOLE, data, tmp_path, stage=2)
    ((train, tuning, _),) = parts
    assert (len(train.ids), len(tuning.ids)) == (10, 0)
    assert "stage1_solution.csv" in caplog.text


def test_a_run_of_the_second_stage_resumes_with_the_same_truth_alone(two_stages, tmp_path, parts):
    data = shutil.copytree(two_stages, tmp_path / "data")
    run_at_home(WHOLE, data, tmp_path, stage=2)
    run_at_home(WHOLE, data, tmp_path, stage=2)
    solution = data / "stage1_solution.csv"
    solution.write_text(solution.read_text().replace("Public", "Ignored", 40))
    with pytest.raises(BadInput, match=r"other settings .*train was"):
        run_at_home(WHOLE, data, tmp_path, stage=2)


# ---- the open images of stage1_test, scored where a fold is held out ---------------------------


@pytest.mark.slow
def test_a_training_for_measuring_scores_the_opened_images_by_the_thresholds_of_their_hand(
    two_stages, tmp_path, monkeypatch
):
    monkeypatch.setattr(main, "train_model", fake_training(bright_found))
    train_at_home(TINY, two_stages, tmp_path)
    rows, opened = read_rows(tmp_path / "open.csv"), scoring.read_open_images(two_stages)
    segmenter = Segmenter(bright_found, HANDS["stage1_test"], TINY)
    scores = [average_precision(truth, segmenter.segment(image)[0]) for image, truth in zip_labels(opened)]
    assert [row["ImageId"] for row in rows] == opened.ids and [row["kind"] for row in rows] == opened.kinds
    assert [float(row["score"]) for row in rows] == pytest.approx(scores, abs=6e-5)
    assert max(scores) > 0.1
    assert [row["stage"] for row in read_rows(tmp_path / "stages.csv")][-1] == "open"


def zip_labels(images):
    return zip(images.images, images.labels, strict=True)


@pytest.mark.slow
def test_neither_a_run_nor_a_training_for_a_submission_scores_them(two_stages, tmp_path, monkeypatch):
    """A run of the first stage would have seen their truth, else."""
    monkeypatch.setattr(main, "train_model", fake_training(bright_found))
    monkeypatch.setattr(home_run, "read_open_images", None)
    train_at_home(WHOLE, two_stages, tmp_path)
    (tmp_path / "run").mkdir()
    run_at_home(TINY, two_stages, tmp_path / "run")
    assert not list(tmp_path.rglob("open.csv"))


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(b"PK")])
def test_a_truth_that_cannot_be_read_costs_no_training(two_stages, tmp_path, monkeypatch, spoil):
    data = shutil.copytree(two_stages, tmp_path / "data")
    spoil(data / "stage1_test.zip")
    monkeypatch.setattr(main, "train_model", failing_training)
    with pytest.raises(BadInput, match="stage1_test"):
        train_at_home(TINY, data, tmp_path)


# ---- the idea that the kit began with ----------------------------------------------------------

# The preset `seed`, of a size that trains at once.
SMALL_SEED = replace(
    PRESETS["seed"], train_steps=2, train_batch=2, train_crop=64, train_checks=1, data_hand="stage1_train"
)
SMALL_SEED = replace(SMALL_SEED, model_width=2, tile_size=64, tile_overlap=16, tile_pixels=4 * 64**2, tta_views=1)


@pytest.mark.slow
def test_the_seed_goes_the_whole_way(tmp_path, eagerly):
    draw_sample(tmp_path / "data", n_train=3, n_test=1)
    (tmp_path / "out").mkdir()
    run_at_home(SMALL_SEED, tmp_path / "data", tmp_path / "out")
    (row,) = read_rows(tmp_path / "out/log.csv")
    assert -1 < float(row["loss"]) < 0  # an overlap loss
    ids = list_ids(tmp_path / "data/stage1_test.zip")
    assert list(check_submission(tmp_path / "out/submission.csv", dict.fromkeys(ids))) == ids
    segmenter = load_run(tmp_path / "out")
    assert segmenter.config == SMALL_SEED
    probs = segmenter.network(np.random.default_rng(0).random((4, 64, 64, 3), np.float32))
    assert probs.shape == (4, 64, 64, 1) and 0 <= probs.min() < probs.max() <= 1


@pytest.mark.slow
def test_the_seed_s_way_finds_the_nuclei_of_a_network_that_sees_them(two_stages, tmp_path, monkeypatch):
    """Foreground alone, parted by the distance transform, with thresholds chosen on the opened images."""
    monkeypatch.setattr(main, "train_model", fake_training(lambda x: bright_found(x)[..., :1]))
    run_at_home(SMALL_SEED, two_stages, tmp_path, stage=2)
    scores = scoring.score_submission(tmp_path / "submission.csv", two_stages / "stage2_solution_final.csv")
    assert scores[0] > 0.4 and scores.mean() > 0.2


# ---- what is refused before it costs a training ------------------------------------------------


@pytest.mark.parametrize("missing", ["stage1_train.zip", "stage1_test.zip"])
def test_bad_data_is_refused_before_training(competition, tmp_path, monkeypatch, missing):
    data = shutil.copytree(competition, tmp_path / "data")
    (data / missing).unlink()
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(main, "train_model", failing_training)
    with pytest.raises(BadInput, match=missing):
        run_at_home(TINY, data, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_stage_that_is_not_there_is_refused_before_training(competition, tmp_path, monkeypatch):
    monkeypatch.setattr(main, "train_model", failing_training)
    with pytest.raises(BadInput, match="stage2_test_final"):
        run_at_home(TINY, competition, tmp_path, stage=2)


def test_test_images_that_cannot_be_read_cost_no_training(competition, tmp_path, monkeypatch):
    data = shutil.copytree(competition, tmp_path / "data")
    (data / "stage1_test.zip").unlink()
    write_folder(data / "stage1_test", {f"{i}/images/{i}.png": b"no image" for i in "ab"})
    monkeypatch.setattr(main, "train_model", failing_training)
    with pytest.raises(BadInput, match=r"no test image can be read: .*a/images/a\.png is not a PNG"):
        run_at_home(TINY, data, tmp_path)


def test_training_images_without_masks_are_refused(competition, tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(competition / "stage1_test.zip", data / "stage1_train.zip")
    monkeypatch.setattr(main, "train_model", failing_training)
    with pytest.raises(BadInput, match=rf"{data}: .*no masks"):
        train_at_home(TINY, data, tmp_path)


# ---- resuming ----------------------------------------------------------------------------------


def test_a_prediction_that_is_cut_off_resumes_from_its_checkpoints(competition, ids, tmp_path, monkeypatch):
    seen = cut_off_prediction(monkeypatch, nothing_found)
    with pytest.raises(KeyboardInterrupt):
        run_at_home(WHOLE, competition, tmp_path)
    assert (tmp_path / "submission.csv").is_file()
    with pytest.raises(BadInput, match=r"other settings .*train_steps was 4, is 5"):
        run_at_home(replace(WHOLE, train_steps=5), competition, tmp_path)
    with pytest.raises(BadInput, match=r"other settings .*test was"):
        draw_sample(tmp_path / "other", n_train=2, n_test=3)
        run_at_home(WHOLE, tmp_path / "other", tmp_path)
    run_at_home(WHOLE, competition, tmp_path)
    assert len(seen) == 3 + 2  # of four images
    assert list(check_submission(tmp_path / "submission.csv", dict.fromkeys(ids))) == sorted(ids)


# ---- going on from weights ---------------------------------------------------------------------


def trainable_weights(run):
    model = new_model(TINY)
    model.load_weights(run / "model.weights.h5")
    return [weight.numpy() for weight in model.trainable_weights]


@pytest.mark.slow
def test_fine_tuning_begins_with_the_weights_of_a_run(finished, competition, tmp_path):
    config, weights = fine_tuning(replace(TINY, model_width=8, train_steps=1, train_warmup=0.5), finished)
    assert (config.model_width, config.train_rate) == (TINY.model_width, TINY.train_rate * FINE_TUNING_RATE)
    train_at_home(replace(config, train_rate=0.0, train_decay=0.0), competition, tmp_path, weights)
    # At a rate of 0 nothing is learnt, and nothing may be lost.
    for one, other in zip(trainable_weights(finished), trainable_weights(tmp_path), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_fine_tuning_resumes_from_its_own_weights_alone(finished, competition, tmp_path):
    config, weights = fine_tuning(TINY, finished)
    train_at_home(config, competition, tmp_path, weights)
    with pytest.raises(BadInput, match=r"other settings .*start was"):
        train_at_home(config, competition, tmp_path, [weight + 1 for weight in weights])
