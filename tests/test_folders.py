"""A run's folder holds a finished run, whatever becomes of the next one."""

import errno
import logging
import shutil

import pytest

from nuclei_kit.files import folders
from nuclei_kit.files.folders import RUN_FILES, in_use, unfinished


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


# ---- runs that can be resumed ------------------------------------------------------------------


def cut_off(out, error, *names):
    """A run that wrote these files and a checkpoint, and was cut off -> its folder."""
    with pytest.raises(error), unfinished(out) as folder:
        write(folder, "half", *names)
        (folder / "checkpoints/training").mkdir(parents=True)
        raise error
    return folder


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_run_with_checkpoints_is_kept_to_resume_from(tmp_path, caplog, error):
    folder = cut_off(tmp_path, error, "submission.csv", "submission.csv.77.tmp", "writing.weights.h5")
    assert f"{folder}/submission.csv is what it found so far" in caplog.text
    assert "the same command resumes it" in caplog.text
    with unfinished(tmp_path) as again:
        assert contents(again) == {"submission.csv": "half"}
        assert (again / "checkpoints/training").is_dir()
        write(again, "new", "config.json")
    assert contents(tmp_path) == {"submission.csv": "half", "config.json": "new"}
    assert not folder.exists()


def test_without_a_submission_it_says_so(tmp_path, caplog):
    cut_off(tmp_path, KeyboardInterrupt, "log.csv")
    assert "no submission yet" in caplog.text


def test_the_checkpoints_go_last(tmp_path, monkeypatch):
    """Killed while its files are moved, a run can still be resumed."""
    cut_off(tmp_path, KeyboardInterrupt, *RUN_FILES)
    monkeypatch.setattr(shutil, "rmtree", lambda folder: None)
    with unfinished(tmp_path):
        pass
    assert contents(tmp_path) == dict.fromkeys(RUN_FILES, "half")
    assert (tmp_path / "unfinished/checkpoints/training").is_dir()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL])
def test_a_file_system_without_locks_costs_a_warning(tmp_path, monkeypatch, caplog, number):
    """NFS says that a folder's descriptor is bad, Lustre that the call is not there, others as they like."""

    def refuse(*_):
        raise OSError(number, "no such thing")

    monkeypatch.setattr(folders.fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING, "nuclei"), in_use(tmp_path / "out"):
        (tmp_path / "out/file").write_text("written")
    assert f"{tmp_path}/out cannot be locked (no such thing): see to it that no other run uses it" in caplog.text
