"""Advice: every state of a folder has its next step, and every step is a command that there is."""

import shlex

import pytest

from nuclei_kit.command.advice import next_steps
from nuclei_kit.command.cli import main
from nuclei_kit.command.parser import build_parser


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder, which is no clone, to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NUCLEI_DATA", raising=False)
    return tmp_path


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")


@pytest.mark.parametrize(
    ("files", "words", "commands"),
    [
        ([], "no competition", ["download", "sample"]),
        (["dsb2018/stage1_train.zip"], "no run yet", ["run"]),
        (["dsb2018/stage1_train.zip", "submission/model.weights.h5"], "no submission yet", ["predict"]),
        (["dsb2018/stage1_train.zip", "submission/submission.csv"], "A submission", ["report", "check", "submit"]),
        (
            ["build/sample/stage1_train.zip", "submission/submission.csv", "submission/report.html"],
            "submission/report.html shows it",
            ["check", "score"],
        ),
    ],
)
def test_each_state_has_its_next_step(here, files, words, commands):
    put(here, *files)
    sentence, steps = next_steps(here)
    assert words in sentence
    assert [command.split()[1] for command, _ in steps] == commands
    for command, _ in steps:
        build_parser().parse_args(shlex.split(command)[1:])  # it is accepted as it stands


def test_the_sample_is_run_with_its_preset(here):
    put(here, "build/sample/stage1_train.zip")
    _, steps = next_steps(here)
    assert steps[0][0] == "nuclei run --data build/sample --preset sample"


def test_a_stale_kernel_is_said(here):
    (here / "build_kernel.py").write_text("import sys; sys.exit(1)")
    assert "build_kernel.py" in next_steps(here)[1][-1][0]
    (here / "build_kernel.py").write_text("")
    assert "build_kernel.py" not in next_steps(here)[1][-1][0]


def test_nuclei_alone_fits_80_columns_without_colour(here, capsys, monkeypatch):
    monkeypatch.setenv("NUCLEI_DATA", str(here / "my data"))
    put(here, "my data/stage1_train.zip")
    assert main([]) == 0
    said = capsys.readouterr().out
    assert f"nuclei run --data '{here / 'my data'}'" in said
    assert "\033" not in said
