"""Tune: a finished run gets the thresholds that images with truth choose, where they gain, and keeps what it had."""

import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
from drawn import draw_disc_set, draw_kind
from drawn_files import encode, mask_of, write_folder
from drawn_runs import TINY, FakeModel, bright_found

from nuclei.competition.submission import encode_labels
from nuclei.prediction import tuning
from nuclei.prediction.run_folder import save_run
from nuclei.prediction.segmenter import Segmenter
from nuclei.prediction.tuning import Tuner
from nuclei.prediction.watershed import HANDS, Thresholds
from nuclei.settings.config import BadInput
from nuclei.training_data.images import ImageSet
from nuclei_kit.command import network_commands
from nuclei_kit.command.cli import main
from nuclei_kit.experiments import tune
from nuclei_kit.experiments.folds import near_duplicates, split_data
from nuclei_kit.experiments.tune import Gain, gain_table, measure_gain, tune_run
from nuclei_kit.files.reading import read_images
from nuclei_kit.files.runs import load_run

SPOILT = dict.fromkeys(HANDS["stage1_train"], Thresholds(area=1e5))  # no nucleus is that large
WHOLE = replace(TINY, data_folds=0, data_tuning=0.0)


@pytest.fixture(scope="module")
def competition(tmp_path_factory):
    """Eight images to train on, and six test images with their solution: of two looks, all different."""
    folder = tmp_path_factory.mktemp("data")
    kinds, rows = ("fluorescence-small", "purple"), []
    for seed in range(14):
        name, image_id = ("stage1_train", "stage1_test")[seed >= 8], f"{seed:02d}"
        image, labels = draw_kind(kinds[seed % 2], seed, side=128)
        files = {f"{image_id}/images/{image_id}.png": encode(image)}
        if name == "stage1_train":
            files |= {f"{image_id}/masks/{n}.png": mask_of(labels, n) for n in range(1, labels.max() + 1)}
        else:
            rows += [f"{image_id},{rle},128,128,Public\n" for rle in encode_labels(labels)]
        write_folder(folder / name, files)
    (folder / "stage1_solution.csv").write_text("ImageId,EncodedPixels,Height,Width,Usage\n" + "".join(rows))
    return folder


@pytest.fixture
def leave_run(tmp_path, monkeypatch):
    """Leave a run whose network takes what is bright for a nucleus -> its folder."""

    def load(run):
        content = json.loads((run / "config.json").read_text())
        thresholds = {look: Thresholds(**one) for look, one in content["thresholds"].items()}
        return Segmenter(bright_found, thresholds, replace(TINY, **content["config"]))

    def leave(thresholds=SPOILT, config=WHOLE):
        run = tmp_path / "run"
        run.mkdir(exist_ok=True)
        save_run(run, FakeModel(bright_found), thresholds, "a drawn set", config)
        return run

    monkeypatch.setattr(tune, "load_run", load)
    few = {"interior": (0.3, 0.5), "confidence": (0.0, 0.7), "grow": (0.0, 1.5)}
    monkeypatch.setattr(tuning, "FULLNESS_CHOICES", few)  # test_tuning tries them all
    return leave


def as_json(thresholds):
    return {look: asdict(one) for look, one in thresholds.items()}


def read_settings(run):
    return json.loads((run / "config.json").read_text())


# ---- a run -------------------------------------------------------------------------------------


def test_spoilt_thresholds_are_mended_and_the_earlier_ones_kept(competition, leave_run):
    run = leave_run()
    before, weights = read_settings(run), (run / "model.weights.h5").read_bytes()
    gain = tune_run(run, competition)
    assert gain.before.tolist() == [0.0] * 6 and gain.after.min() > 0.3
    assert sorted(gain.looks) == ["small"] * 3 + ["stained"] * 3
    after = read_settings(run)
    assert after["thresholds"] == as_json(gain.thresholds)
    assert after["thresholds_from"] == gain.origin == "6 images of stage1_test"
    assert after["earlier_thresholds"] == [{"thresholds": as_json(SPOILT), "thresholds_from": "a drawn set"}]
    for name in ("config", "versions"):
        assert after[name] == before[name]
    assert (run / "model.weights.h5").read_bytes() == weights
    assert sorted(path.name for path in run.iterdir()) == ["config.json", "model.weights.h5"]


def test_all_that_a_run_ever_had_is_kept_in_order(competition, leave_run):
    run, content = leave_run(), None
    for _ in range(2):
        gain = tune_run(run, competition)
        content = read_settings(run)
        (run / "config.json").write_text(json.dumps(content | {"thresholds": as_json(SPOILT)}))
    origins = [one["thresholds_from"] for one in content["earlier_thresholds"]]
    assert origins == ["a drawn set", "6 images of stage1_test"]
    assert content["thresholds"] == as_json(gain.thresholds)


def test_where_nothing_is_gained_the_file_stays_as_it_is(competition, leave_run):
    run = leave_run()
    good = tune_run(run, competition).thresholds
    run = leave_run(good)
    before = (run / "config.json").read_bytes()
    gain = tune_run(run, competition)
    assert gain.after.mean() <= gain.before.mean() > 0.3
    assert (run / "config.json").read_bytes() == before


@pytest.mark.slow
def test_a_run_that_was_tuned_is_a_run_like_any_other(competition, leave_run, tmp_path):
    """What is beside the thresholds does not matter to those who load it."""
    from nuclei.training.train import new_model

    run = leave_run()
    gain = tune_run(run, competition)
    new_model(WHOLE).save_weights(run / "model.weights.h5")
    assert load_run(run).thresholds == Segmenter.load(run).thresholds == gain.thresholds


def test_a_solution_from_elsewhere_goes_before_the_data_s(competition, leave_run, tmp_path):
    text = (competition / "stage1_solution.csv").read_text()
    (tmp_path / "mine.csv").write_text("".join(line for line in text.splitlines(True) if not line.startswith("13,")))
    assert tune_run(leave_run(), competition, tmp_path / "mine.csv").origin == "5 images of stage1_test"


def test_one_image_alone_can_prove_no_gain(competition, leave_run, tmp_path):
    text = (competition / "stage1_solution.csv").read_text()
    rows = (line for line in text.splitlines(True) if line.startswith(("ImageId", "13,")))
    (tmp_path / "mine.csv").write_text("".join(rows))
    run = leave_run()
    before = (run / "config.json").read_bytes()
    gain = tune_run(run, competition, tmp_path / "mine.csv")
    assert gain.before.tolist() == gain.after.tolist() == [0.0]
    assert (run / "config.json").read_bytes() == before


# ---- without a solution ------------------------------------------------------------------------


@pytest.fixture
def closed(competition, tmp_path):
    """The competition without its solution."""
    data = shutil.copytree(competition, tmp_path / "closed")
    (data / "stage1_solution.csv").unlink()
    return data


def test_a_run_that_was_trained_on_all_that_has_truth_is_refused(closed, leave_run):
    run = leave_run()
    before = (run / "config.json").read_bytes()
    with pytest.raises(BadInput, match=r"closed has no truth but that of stage1_train.*give --solution CSV"):
        tune_run(run, closed)
    assert (run / "config.json").read_bytes() == before


def test_else_the_images_that_a_run_held_out_choose(closed, leave_run, caplog, monkeypatch):
    run, seen = leave_run(config=TINY), []

    def measure(segmenter, images, origin):
        seen.append(images)
        return measure_gain(segmenter, images, origin)

    monkeypatch.setattr(tune, "measure_gain", measure)
    gain = tune_run(run, closed)
    everything = read_images(closed / "stage1_train")
    held_out = split_data(everything, TINY.data_folds, TINY.data_fold, TINY.data_tuning)[2]
    assert seen[0].ids == held_out.ids
    assert gain.origin == f"{len(held_out.ids)} held-out images of stage1_train"
    assert "do not report the score on them any more" in caplog.text


# ---- an honest gain ----------------------------------------------------------------------------


@pytest.mark.slow
def test_no_image_has_a_say_in_the_thresholds_that_score_it(monkeypatch):
    """Nor have its near-duplicates."""
    drawn = draw_disc_set(6)
    copies = [np.roll(image, 1, axis=0) for image in drawn.images[:2]]  # of the first two
    images = drawn.join(
        ImageSet(["c0", "c1"], copies, [np.roll(one, 1, axis=0) for one in drawn.labels[:2]], drawn.kinds[:2])
    )
    groups = near_duplicates(images.images)
    assert groups[0] == groups[6] and groups[1] == groups[7] and len(set(groups)) == 6
    masks, scored, choose, score = [], [], Tuner.choose, tune.score_by_look

    def record_choice(self, those):
        masks.append(those.copy())
        return choose(self, those) | {"chosen on": those}

    def record_score(tuner, thresholds):
        scored.append(thresholds.get("chosen on"))
        return score(tuner, thresholds)

    monkeypatch.setattr(Tuner, "choose", record_choice)
    monkeypatch.setattr(tune, "score_by_look", record_score)
    gain = measure_gain(Segmenter(bright_found, SPOILT, replace(TINY, model_diameter=16.0)), images, "drawn")
    *parts, everything = masks
    assert scored[0] is None and everything.all()
    assert np.sum([~mask for mask in parts], axis=0).tolist() == [1] * 8  # each image is left out once
    for mask in parts:
        assert not set(groups[mask]) & set(groups[~mask])
    assert gain.after.mean() > gain.before.mean() == 0


def test_the_table_of_what_is_gained():
    looks = np.array(["stained", "small", "small", "stained"])
    gain = Gain(looks, np.array([0.1, 0.5, 0.7, 0.3]), np.array([0.3, 0.6, 0.6, 0.5]), {}, "drawn")
    head, *rows = [line.split() for line in gain_table(gain).splitlines()]
    assert head == ["look", "images", "before", "after", "gain", "95", "%"]
    assert [row[:5] for row in rows] == [
        ["small", "2", "0.600", "0.600", "+0.000"],
        ["stained", "2", "0.200", "0.400", "+0.200"],
        ["all", "4", "0.400", "0.500", "+0.100"],
    ]
    assert rows[1][5:] == ["[+0.200,", "+0.200]"]
    low, high = (float(word.strip("[],")) for word in rows[2][5:])
    assert -0.1 <= low < 0.1 < high <= 0.2


# ---- the command -------------------------------------------------------------------------------


def test_the_command_shows_what_is_gained(competition, leave_run, capsys, monkeypatch):
    run = leave_run()
    assert main(["tune", str(run), "--data", str(competition)]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0].startswith("look ") and "stained" in said and "all " in said
    assert f"{run} has the new thresholds" in said
    assert main(["tune", str(run), "--data", str(competition)]) == 0
    assert f"Nothing is gained: {run} keeps its thresholds" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["nowhere", "run/model.weights.h5"])
def test_what_is_no_run_is_named_and_not_made(competition, leave_run, tmp_path, capsys, monkeypatch, name):
    leave_run()
    monkeypatch.setattr(network_commands, "start_keras", None)  # it is seen before that takes its seconds
    assert main(["tune", str(tmp_path / name), "--data", str(competition)]) == 2
    assert f"{tmp_path / name} is missing" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
