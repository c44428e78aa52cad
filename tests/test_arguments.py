"""Arguments that several commands share: what they make of a preset, of a folder, of a submission."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from nuclei.settings.config import PRESETS, BadInput
from nuclei_kit.command.arguments import find_data, find_submission, make_config, refuse_pipe
from nuclei_kit.command.parser import build_parser
from nuclei_kit.experiments.folds import FOLDS


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


def test_a_pipe_or_a_device_is_not_said_to_be_missing(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader, writer = os.pipe()
    for path in (tmp_path / "pipe", Path(f"/dev/fd/{reader}"), Path("/dev/null")):
        with pytest.raises(
            BadInput, match=rf"^{path} is a pipe or a device, not a file: write what it gives to a file"
        ):
            find_submission(path)
    os.close(reader)
    os.close(writer)
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path, tmp_path / "none"):
        refuse_pipe(path)
