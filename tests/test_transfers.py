"""Transfers: the competition's files and submissions, by a client whose answers a test wrote. Commands: test_remote."""

import shutil
import zipfile
from types import SimpleNamespace

import pytest
from drawn_files import read_folder

from nuclei.settings.config import BadInput
from nuclei_kit.kaggle import transfers
from nuclei_kit.kaggle.client import Refusal
from nuclei_kit.kaggle.transfers import (
    check_predicted,
    download_data,
    is_whole,
    list_files,
    submit_file,
    unpack_files,
)

ROWS = "ImageId,EncodedPixels\na,1 3\nb,\n"
FILES = {"stage1_train.zip": b"PK train", "stage1_test.zip": b"PK test", "stage1_train_labels.csv": b"ImageId\n"}


class Client:
    """What these functions call of Kaggle's client; `asked` names each call."""

    def __init__(self, archive=None, files=FILES, message="Successfully submitted", left=4):
        self.archive, self.message, self.left, self.asked = archive, message, left, []
        self.files = [SimpleNamespace(name=name, total_bytes=len(content)) for name, content in files.items()]

    def competition_list_files(self, name, page_token, page_size):
        self.asked.append("list")
        page = int(page_token or 0)  # one file a page
        following = str(page + 1) if page + 1 < len(self.files) else ""
        return SimpleNamespace(files=self.files[page : page + 1], next_page_token=following)

    def competition_download_files(self, name, folder, force):
        self.asked.append("download")
        shutil.copy(self.archive, folder)

    def competition_submit(self, path, message, name, quiet):
        self.asked.append("submit")
        return SimpleNamespace(message=self.message)

    def competition_get_submission_limits(self, name):
        if self.left is None:
            raise KeyError("limits")
        return SimpleNamespace(num_allowed_now=self.left)


@pytest.fixture
def archive(tmp_path):
    """The archive that Kaggle makes of all files."""
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as package:
        for name, content in FILES.items():
            package.writestr(name, content)
    return path


@pytest.fixture
def signed_in(monkeypatch):
    """Has the functions find a given Client signed in -> that client."""

    def sign_in(one):
        monkeypatch.setattr(transfers, "sign_in", lambda: one)
        return one

    return sign_in


# ---- download ----------------------------------------------------------------------------------


def test_every_page_of_the_list_is_read():
    one = Client()
    assert list_files(one) == {name: len(content) for name, content in FILES.items()}
    assert one.asked == ["list"] * 3


def test_a_file_is_whole_at_its_size(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert is_whole(tmp_path / "file", 3)
    assert not is_whole(tmp_path / "file", 4)
    assert not is_whole(tmp_path / "none", 0)
    assert not is_whole(tmp_path, tmp_path.stat().st_size)


def test_what_is_there_whole_stays_and_the_rest_comes(tmp_path, archive, signed_in):
    one, folder = signed_in(Client(archive)), tmp_path / "data"
    folder.mkdir()
    (folder / "stage1_train.zip").write_bytes(b"OK train")  # as long as Kaggle's
    (folder / "stage1_test.zip").write_bytes(b"PK")  # half of it
    (folder / "notes.txt").write_bytes(b"mine")
    assert download_data(folder) == (["stage1_test.zip", "stage1_train_labels.csv"], ["stage1_train.zip"])
    assert read_folder(folder) == FILES | {"stage1_train.zip": b"OK train", "notes.txt": b"mine"}
    assert download_data(folder) == ([], list(FILES))
    assert one.asked.count("download") == 1


def test_folders_in_the_archive_are_left_out(tmp_path):
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as package:
        package.writestr("inner/one.csv", b"1")
        package.writestr("../two.csv", b"2")
    (tmp_path / "data").mkdir()
    unpack_files(tmp_path, tmp_path / "data", [])
    assert read_folder(tmp_path / "data") == {"one.csv": b"1", "two.csv": b"2"}


def test_a_file_larger_than_any_of_the_competition_is_refused(tmp_path, archive, monkeypatch):
    monkeypatch.setattr(transfers, "MAX_DOWNLOAD_BYTES", 1)
    (tmp_path / "data").mkdir()
    with pytest.raises(BadInput, match="over the limit of 1"):
        unpack_files(tmp_path, tmp_path / "data", [])
    assert not list((tmp_path / "data").iterdir())


def damage(archive):
    archive.write_bytes(archive.read_bytes().replace(b"PK train", b"PK brain"))


@pytest.mark.parametrize(
    "files, spoil, words",
    [
        ({}, lambda archive: None, "lists no files"),
        (FILES, damage, "damaged"),
        (FILES, lambda archive: archive.write_bytes(b"<html>"), "damaged"),
        (FILES | {"late.csv": b"1"}, lambda archive: None, "late.csv did not come"),
    ],
    ids=["no files", "a damaged archive", "a page", "a file too few"],
)
def test_a_download_that_fails_leaves_what_was_there(tmp_path, archive, signed_in, files, spoil, words):
    spoil(archive)
    signed_in(Client(archive, files))
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "notes.txt").write_bytes(b"mine")
    with pytest.raises(BadInput, match=words):
        download_data(folder)
    left = read_folder(folder)
    assert left.pop("notes.txt") == b"mine"
    assert left.items() <= FILES.items()


@pytest.mark.parametrize("code, rules", [(403, True), (404, False)])
def test_who_has_not_entered_is_sent_to_the_rules(tmp_path, signed_in, code, rules):
    one = signed_in(Client())

    def refuse(*_, **__):
        raise Refusal("Kaggle answered no", code)

    one.competition_list_files = refuse
    with pytest.raises(BadInput, match="answered no") as error:
        download_data(tmp_path)
    assert ("/rules" in str(error.value)) == rules


# ---- submit ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "left, reply", [(4, "Successfully submitted (4 left today)"), (None, "Successfully submitted")]
)
def test_the_reply_says_how_many_are_left_where_that_is_known(tmp_path, signed_in, left, reply):
    signed_in(Client(left=left))
    (tmp_path / "submission.csv").write_text(ROWS)
    assert submit_file(tmp_path / "submission.csv", "first") == reply


@pytest.mark.parametrize("message, words", [("No more today", "No more today"), ("", "no reason")])
def test_an_answer_that_is_no_success_is_an_error(tmp_path, signed_in, message, words):
    signed_in(Client(message=message))
    (tmp_path / "submission.csv").write_text(ROWS)
    with pytest.raises(BadInput, match=f"submission.csv: .*{words}"):
        submit_file(tmp_path / "submission.csv", "first")


@pytest.mark.parametrize("rows, words", [(ROWS.replace("1 3", ""), "placeholder"), (ROWS + "a,2 2\n", "row 4")])
def test_what_should_not_go_is_not_sent(tmp_path, signed_in, rows, words):
    one = signed_in(Client())
    (tmp_path / "submission.csv").write_text(rows)
    for refuses in (check_predicted, lambda path: submit_file(path, "first")):
        with pytest.raises(BadInput, match=words):
            refuses(tmp_path / "submission.csv")
    assert one.asked == []
