"""A run's folder holds a finished run, whatever becomes of the next one."""

import pytest

from nuclei.config import RUN_FILES
from workbench.folders import unfinished


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def write(folder, text, *names):
    for name in names:
        (folder / name).write_text(text)


def test_what_a_run_wrote_is_there_when_it_is_done(tmp_path):
    with unfinished(tmp_path / "a/run") as folder:
        assert not contents(folder)
        write(folder, "new", "config.json", "kernel.log")
        assert not contents(tmp_path / "a/run")
    assert contents(tmp_path / "a/run") == {"config.json": "new", "kernel.log": "new"}
    assert not folder.exists()


def test_nothing_of_an_earlier_run_is_left_beside_the_new_one(tmp_path):
    write(tmp_path, "old", *RUN_FILES)
    write(tmp_path, "mine", "notes.txt", "README.md")
    with unfinished(tmp_path) as folder:
        write(folder, "new", "model.weights.h5", "config.json")
        assert contents(tmp_path) == dict.fromkeys(RUN_FILES, "old") | {"notes.txt": "mine", "README.md": "mine"}
    assert contents(tmp_path) == {
        "model.weights.h5": "new",
        "config.json": "new",
        "notes.txt": "mine",
        "README.md": "mine",
    }


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_run_that_is_cut_off_changes_nothing_and_the_next_one_starts_afresh(tmp_path, error):
    write(tmp_path, "old", *RUN_FILES)
    with pytest.raises(error), unfinished(tmp_path) as folder:
        write(folder, "half", "submission.csv", "left.tmp")
        raise error
    assert contents(tmp_path) == dict.fromkeys(RUN_FILES, "old")
    assert contents(folder) == {"submission.csv": "half", "left.tmp": "half"}  # it may be worth something
    with unfinished(tmp_path) as folder:
        assert not contents(folder)


def test_a_run_that_never_began_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError), unfinished(tmp_path / "run"):
        raise ValueError
    assert not list(tmp_path.iterdir())
