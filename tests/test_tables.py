"""Tables: what is in a CSV, plain or zipped, comes back; what cannot be read as one is refused by name."""

import csv
import gzip
import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuclei.settings.config import BadInput
from nuclei_kit.files import tables
from nuclei_kit.files.tables import read_table

TABLE = "ImageId,EncodedPixels\na,1 2 9 1\nb,\n"
ROWS = [{"ImageId": "a", "EncodedPixels": "1 2 9 1"}, {"ImageId": "b", "EncodedPixels": ""}]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def zipped(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    "content",
    [TABLE, TABLE.replace("\n", "\r\n"), "\ufeff" + TABLE, TABLE.rstrip("\n"), TABLE.replace("1 2 9 1", '"1 2 9 1"')],
    ids=["as it should be", "CRLF", "BOM", "no last newline", "quoted"],
)
def test_a_table_as_programs_write_it(tmp_path, content):
    assert read_table(write(tmp_path / "t.csv", content), ["EncodedPixels", "ImageId"]) == ROWS


def test_a_zipped_table_is_the_table(tmp_path):
    assert read_table(zipped(tmp_path / "t.csv.zip", **{"t.csv": TABLE}), ["ImageId"]) == ROWS
    mac = {"t.csv": TABLE, "__MACOSX/._t.csv": "resource fork"}
    assert read_table(zipped(tmp_path / "mac.zip", **mac), ["ImageId"]) == ROWS


def test_a_gzipped_table_is_the_table_and_bounded(tmp_path, monkeypatch):
    path = write(tmp_path / "t.csv.gz", gzip.compress(TABLE[:9].encode()) + gzip.compress(TABLE[9:].encode()))
    assert read_table(path, ["ImageId"]) == ROWS
    for broken in (gzip.compress(TABLE.encode())[:-9], b"\x1f\x8b" + bytes(30)):
        with pytest.raises(BadInput, match=r"t\.csv\.gz cannot be read as a CSV"):
            read_table(write(path, broken), ["ImageId"])
    monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 2000)
    with pytest.raises(BadInput, match=r"t\.csv\.gz holds 2,001 bytes, over the limit of 2,000"):
        read_table(write(path, gzip.compress(bytes(10**6))), ["ImageId"])


def test_a_workbook_is_no_table(tmp_path):
    path = zipped(tmp_path / "t.xlsx", **{"[Content_Types].xml": "<x/>", "xl/workbook.xml": "<x/>"})
    with pytest.raises(BadInput, match=r"t\.xlsx is a workbook of Excel, not a CSV: save it as CSV"):
        read_table(path, ["ImageId"])


@given(st.lists(st.tuples(*[st.text(st.characters(exclude_categories=("C",)))] * 2)))
def test_what_a_csv_holds_comes_back(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "drawn.csv"
    text = io.StringIO()
    csv.writer(text).writerows([("one", "two"), *rows])
    write(path, text.getvalue())
    assert read_table(path, ["one"]) == [{"one": one, "two": two} for one, two in rows]


def test_a_table_may_have_no_rows(tmp_path):
    assert read_table(write(tmp_path / "t.csv", "ImageId\n"), ["ImageId"]) == []


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path):
    for content, there in (("ImageId,Pixels\na,1\n", "ImageId, Pixels"), ("", "no header")):
        with pytest.raises(BadInput, match=rf"t\.csv .*EncodedPixels .*{there}"):
            read_table(write(tmp_path / "t.csv", content), ["EncodedPixels"])


@pytest.mark.parametrize("content", [b"ImageId\n\xff\xfe\n", b"\x89PNG\r\n", b"PK\x03\x04", b"PK\x05\x06" + bytes(18)])
def test_what_is_not_a_table_is_refused_by_name(tmp_path, content):
    with pytest.raises(BadInput, match=r"t\.csv"):
        read_table(write(tmp_path / "t.csv", content), ["ImageId"])


def test_missing_files_folders_and_broken_zips_are_refused_by_name(tmp_path):
    whole = zipped(tmp_path / "whole.zip", **{"t.csv": TABLE}).read_bytes()
    broken = write(tmp_path / "broken.zip", whole.replace(b"a,1 2", b"a,9 9"))
    for path in (tmp_path / "gone.csv", tmp_path, zipped(tmp_path / "empty.zip"), broken):
        with pytest.raises(BadInput, match=rf"{path.name} cannot be read as a CSV"):
            read_table(path, ["ImageId"])
