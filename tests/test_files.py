"""Files: written whole or not at all."""

import csv
import errno
import os

import pytest

from nuclei.settings.files import write_csv, write_whole


def test_text_that_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "config.json"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new \ud800")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["config.json"]


def test_a_written_file_is_as_readable_as_any_other(tmp_path):
    (tmp_path / "plain").write_text("x")
    write_whole(tmp_path / "whole", "x\r\n\u00e9")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "whole").read_bytes() == "x\r\n\u00e9".encode()


def test_folders_on_the_way_are_made_and_a_full_disk_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a/b/whole"
    write_whole(path, "x")

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError) as raised:
        write_whole(path, "y")
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_text() == "x" and os.listdir(path.parent) == ["whole"]


def test_a_table_comes_back_as_it_was(tmp_path):
    rows = [["a", "1,5"], ['say "b"', ""]]
    write_csv(tmp_path / "table.csv", ("name", "value"), rows)
    with open(tmp_path / "table.csv", newline="") as file:
        assert list(csv.reader(file)) == [["name", "value"], *rows]
    assert b"\r" not in (tmp_path / "table.csv").read_bytes()
