"""The network commands: runs told from images, and what predict makes of both."""

from pathlib import Path

import pytest

from nuclei_kit.command import network_commands
from nuclei_kit.command.cli import main
from nuclei_kit.command.network_commands import split_members
from nuclei_kit.files.planes import Choice


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
    monkeypatch.setattr(network_commands, "start_keras", lambda: None)
    monkeypatch.setattr("nuclei_kit.own_images.prediction.predict_files", lambda *arguments: called.append(arguments))
    assert main(["predict", *typed.split()]) == 0
    assert called == [([Path("one"), Path("two")], [Path("a.png"), Path("b.tif")], Path("out"), Choice(), ())]


def test_formats_are_for_image_files(runs, capsys):
    assert main(["predict", "--data", "data", "--formats", "csv", "--out", "out"]) == 2
    assert "--formats is about image files" in capsys.readouterr().err


def test_predict_averages_runs_in_a_competition_too(runs, monkeypatch, tmp_path):
    called = []

    def predict(*arguments):
        called.append(arguments)
        return tmp_path / "submission.csv"

    monkeypatch.setattr(network_commands, "start_keras", lambda: None)
    monkeypatch.setattr("nuclei_kit.own_images.prediction.predict_competition", predict)
    assert main(["predict", "--weights", "one", "two", "--data", "data", "--out", "out"]) == 0
    assert main(["predict", "--data", "data", "--stage", "2", "--out", "out"]) == 0
    assert called == [([Path("one"), Path("two")], Path("data"), 1, Path("out")), (None, Path("data"), 2, Path("out"))]
