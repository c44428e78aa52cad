"""The commands: what those without Keras print, and what all of them share."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nuclei.competition.submission import encode_labels, write_submission
from nuclei.prediction.metric import average_precision
from nuclei.settings.config import PRESETS, BadInput
from nuclei_kit.command import commands
from nuclei_kit.command.cli import main
from nuclei_kit.command.commands import find_data, find_submission, make_config, print_next, quote, split_members
from nuclei_kit.command.parser import build_parser
from nuclei_kit.experiments.folds import FOLDS
from nuclei_kit.experiments.scoring import read_solution
from nuclei_kit.sample.sample import draw_sample

# ---- without Keras -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    draw_sample(folder, n_train=2, n_test=5)
    return folder


@pytest.mark.slow  # four commands in one process; test_parser has their --help alone
def test_they_start_without_keras(drawn, tmp_path):
    solution, data = str(drawn / "stage1_solution.csv"), str(drawn)
    submission = str(drawn / "stage1_sample_submission.csv")
    commands = [
        ["sample", str(tmp_path)],
        ["info", data],
        ["check", submission, "--data", data],
        ["score", submission, "--solution", solution],
    ]
    script = f"""
import sys
from nuclei_kit.command.cli import main
for command in {commands!r}:
    assert main(command) == 0, command
    assert not {{"keras", "tensorflow", "jax", "torch"}} & set(sys.modules), command
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_sample_draws_a_competition_and_says_what_is_next(tmp_path, capsys):
    assert main(["sample", str(tmp_path / "new one"), "--seed", "3"]) == 0
    said = capsys.readouterr().out
    assert (tmp_path / "new one/stage1_train.zip").is_file()
    assert f"nuclei run --data '{tmp_path / 'new one'}' --preset sample" in said


def test_sample_draws_the_second_stage_where_it_is_asked_for(tmp_path, capsys):
    assert main(["sample", str(tmp_path), "--stage", "2"]) == 0
    assert f"nuclei run --data {tmp_path} --preset sample --stage 2\n" in capsys.readouterr().out
    solution = tmp_path / "stage2_solution_final.csv"
    submission = str(tmp_path / "stage2_sample_submission_final.csv")
    assert main(["check", submission, "--data", str(tmp_path), "--stage", "2"]) == 0
    assert main(["score", submission, "--solution", str(solution)]) == 0
    assert capsys.readouterr().out.split()[-1] == "0.0000"
    print_next(tmp_path / "submission.csv", tmp_path, stage=2)
    assert f"--solution {solution}\n" in capsys.readouterr().out


def test_info_prints_every_set(drawn, capsys):
    assert main(["info", str(drawn)]) == 0
    said = capsys.readouterr().out
    assert "stage1_train.zip" in said and "stage1_test.zip" in said


def test_info_shows_the_sound_sets_beside_a_broken_one(tmp_path, capsys):
    draw_sample(tmp_path, n_train=2, n_test=2)
    (tmp_path / "stage1_train.zip").write_bytes(b"PK")
    assert main(["info", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "stage1_test.zip" in said.out
    assert "stage1_train.zip" in said.err


def test_score_agrees_with_the_metric(drawn, tmp_path, capsys):
    truths = read_solution(drawn / "stage1_solution.csv")
    found = {image_id: np.where(labels > 5, np.roll(labels, 1, axis=0), 0) for image_id, labels in truths.items()}
    write_submission(tmp_path / "submission.csv", [(i, rle) for i, one in found.items() for rle in encode_labels(one)])
    expected = np.mean([average_precision(truths[i], found[i]) for i in truths])
    assert main(["score", str(tmp_path), "--solution", str(drawn / "stage1_solution.csv")]) == 0
    head, body = capsys.readouterr().out.splitlines()
    assert head.split()[2:] == [*(f"{t / 100:.2f}" for t in range(50, 100, 5)), "mean"]
    *each, mean = map(float, body.split()[1:])
    assert 0.1 < mean < 0.95
    assert mean == pytest.approx(expected, abs=1e-4)
    assert np.mean(each) == pytest.approx(expected, abs=1e-3)


def test_ignored_images_need_a_row_and_do_not_count(tmp_path, capsys):
    solution = tmp_path / "solution.csv"
    solution.write_text(
        "ImageId,EncodedPixels,Height,Width,Usage\na,1 4,4,4,Public\nb,1 1,1,1,Ignored\nc,5 2,4,4,Private\n"
    )
    (tmp_path / "submission.csv").write_text("ImageId,EncodedPixels\na,1 4\nb,90 5\nc,\n")
    assert main(["score", str(tmp_path / "submission.csv"), "--solution", str(solution)]) == 0
    assert capsys.readouterr().out.split()[-1] == "0.5000"


def test_check_says_what_it_checked(drawn, capsys):
    submission = str(drawn / "stage1_sample_submission.csv")
    assert main(["check", submission]) == 0
    assert "unchecked" in capsys.readouterr().out
    assert main(["check", submission, "--data", str(drawn)]) == 0
    said = capsys.readouterr().out
    assert "unchecked" not in said
    assert "0 nuclei in 5 images, 5 of them empty" in said


# ---- what they share ---------------------------------------------------------------------------


def config_of(*options):
    args = build_parser().parse_args(["train", *options])
    return make_config(args, args.fold)


def test_options_change_the_preset():
    assert config_of() == PRESETS["cpu"]
    assert config_of("--minutes", "2.5").train_minutes == 2.5
    assert config_of("--steps", "7").train_steps == 7
    assert config_of("--fold", "3", "--seed", "5").data_fold == 3
    assert config_of("--seed", "5").train_seed == 5


@pytest.mark.parametrize("preset", PRESETS)
def test_a_fold_holds_images_out_and_sets_a_tenth_of_the_others_aside(preset):
    config = config_of("--preset", preset, "--fold", "2")
    assert (config.data_folds, config.data_fold, config.data_tuning) == (FOLDS, 2, 0.1)
    assert replace(config, data_folds=0, data_fold=0, data_tuning=0.0) == config_of("--preset", preset)


def test_the_option_goes_before_the_environment(monkeypatch):
    monkeypatch.setenv("NUCLEI_DATA", "there")
    assert find_data(SimpleNamespace(data=Path("here"))) == Path("here")
    assert find_data(SimpleNamespace(data=None)) == Path("there")
    monkeypatch.delenv("NUCLEI_DATA")
    with pytest.raises(BadInput, match="--data DIR, or set NUCLEI_DATA"):
        find_data(SimpleNamespace(data=None))


def test_a_submission_may_be_named_by_its_folder(tmp_path):
    with pytest.raises(BadInput, match=r"submission\.csv is missing"):
        find_submission(tmp_path)
    (tmp_path / "submission.csv").touch()
    assert find_submission(tmp_path) == find_submission(tmp_path / "submission.csv") == tmp_path / "submission.csv"
    with pytest.raises(BadInput, match=r"other\.csv is missing"):
        find_submission(tmp_path / "other.csv")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A working folder with two runs, their weights and two images."""
    for name in ("one/config.json", "two/config.json", "two/model.weights.h5", "a.png", "b.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "typed, members, images",
    [
        ("", None, []),
        ("one", ["one"], []),
        ("one two", ["one", "two"], []),
        ("two/model.weights.h5 one a.png b.tif", ["two/model.weights.h5", "one"], ["a.png", "b.tif"]),
        ("one a.png two", ["one", "two"], ["a.png"]),
        ("missing a.png", ["missing"], ["a.png"]),
        ("one one", ["one", "one"], []),
        ("one missing.weights.h5", ["one", "missing.weights.h5"], []),
        ("one missing.png", ["one"], ["missing.png"]),
    ],
)
def test_runs_are_told_from_the_images_behind_them(runs, typed, members, images):
    values = [Path(word) for word in typed.split()]
    told = split_members(values or None)
    assert told == (members and [Path(one) for one in members], [Path(one) for one in images])


@pytest.mark.parametrize(
    "typed", ["--weights one two --out out a.png b.tif", "--out out --weights one two a.png b.tif"]
)
def test_predict_gets_all_runs_and_all_images(runs, monkeypatch, typed):
    called = []
    monkeypatch.setattr(commands, "start_keras", lambda: None)
    monkeypatch.setattr("nuclei_kit.own_images.prediction.predict_files", lambda *arguments: called.append(arguments))
    assert main(["predict", *typed.split()]) == 0
    assert called == [([Path("one"), Path("two")], [Path("a.png"), Path("b.tif")], Path("out"))]


def test_predict_averages_runs_in_a_competition_too(runs, monkeypatch, tmp_path):
    called = []

    def predict(*arguments):
        called.append(arguments)
        return tmp_path / "submission.csv"

    monkeypatch.setattr(commands, "start_keras", lambda: None)
    monkeypatch.setattr("nuclei_kit.own_images.prediction.predict_competition", predict)
    assert main(["predict", "--weights", "one", "two", "--data", "data", "--out", "out"]) == 0
    assert main(["predict", "--data", "data", "--stage", "2", "--out", "out"]) == 0
    assert called == [([Path("one"), Path("two")], Path("data"), 1, Path("out")), (None, Path("data"), 2, Path("out"))]


@pytest.mark.parametrize(
    "path, typed", [("out", "out"), ("a folder", "'a folder'"), ("it's", """'it'"'"'s'"""), ("a\033b", r"'a\x1bb'")]
)
def test_paths_are_printed_as_a_shell_takes_them(path, typed):
    assert quote(Path(path)) == typed


def test_the_next_steps_name_the_files_that_are_there(tmp_path, capsys):
    print_next(Path("out/submission.csv"), tmp_path, stage=2)
    lines = capsys.readouterr().out.splitlines()
    assert f"  nuclei check out/submission.csv --data {tmp_path} --stage 2" in lines
    assert "  nuclei score out/submission.csv --solution CSV   (if you have a solution file)" in lines
    (tmp_path / "stage1_solution.csv").touch()
    print_next(Path("out/submission.csv"), tmp_path, stage=1)
    lines = capsys.readouterr().out.splitlines()
    assert f"  nuclei check out/submission.csv --data {tmp_path}" in lines
    assert f"  nuclei score out/submission.csv --solution {tmp_path / 'stage1_solution.csv'}" in lines
