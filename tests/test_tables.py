"""Tables: CSVs from outside, plain or zipped."""

import zipfile

import pytest

from nuclei.settings.config import BadInput
from nuclei_kit.files.tables import read_table

HEAD = "ImageId,EncodedPixels\n"
GOOD = HEAD + "a,1 2 9 1\na,5 4\nb,\n"


@pytest.fixture
def write(tmp_path):
    """Writes a file of this test: text or bytes -> path."""

    def write(content, name="submission.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def zipped(path, content, member="submission.csv"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(BadInput, match=r"gone\.csv cannot be read"):
        read_table(tmp_path / "gone.csv", ["ImageId"])


def test_broken_and_empty_zips(tmp_path, write):
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    whole = zipped(tmp_path / "whole.zip", GOOD).read_bytes()
    broken = write(whole.replace(b"a,1 2", b"a,9 9"), "broken.zip")
    for path in (tmp_path / "empty.zip", broken, tmp_path):
        with pytest.raises(BadInput, match="cannot be read as a CSV"):
            read_table(path, ["ImageId"])


def test_a_table_without_rows_is_no_fault(write):
    assert read_table(write(HEAD), ["ImageId"]) == []
