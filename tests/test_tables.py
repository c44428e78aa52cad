"""Tables: what is in a CSV, plain or zipped, comes back; what cannot be read as one is refused by name."""

import csv
import gzip
import io
import json
import pickle
import tarfile
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
    for beside in ("__MACOSX/._t.csv", ".DS_Store", "sub/.DS_Store", "sub/", "Thumbs.db"):
        mac = {"t.csv": TABLE, beside: ""}
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


def packed_as_tar(mode):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        member = tarfile.TarInfo("t.csv")
        member.size = len(TABLE)
        archive.addfile(member, io.BytesIO(TABLE.encode()))
    return file.getvalue()


def packed_as_zip(content, name="t"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


PNG = b"\x89PNG\r\n\x1a\n" + bytes(99)
ITSELF = "give the CSV itself, plain, zipped or gzipped"
NO_TABLES = {
    "a tar": (packed_as_tar("w"), f"is a tar archive, not a CSV: {ITSELF}"),
    "a tgz": (packed_as_tar("w:gz"), f"holds a tar archive, not a CSV: {ITSELF}"),
    "gzip twice": (gzip.compress(gzip.compress(TABLE.encode())), "holds a gzip archive, not a CSV"),
    "gzip in a zip": (packed_as_zip(gzip.compress(TABLE.encode())), "holds a gzip archive, not a CSV"),
    "a zip in a zip": (packed_as_zip(packed_as_zip(TABLE)), "holds a zip, not a CSV"),
    "half a zip": (packed_as_zip(TABLE)[:-30], "is truncated or not a zip: download it again"),
    "a PNG": (PNG, "is a PNG file, not a CSV"),
    "a PNG in a zip": (packed_as_zip(PNG), "holds a PNG file, not a CSV"),
    "a PDF": (b"%PDF-1.7\n", "is a PDF, not a CSV"),
    "a workbook of old": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "is a workbook of Excel"),
    "a pickle": (pickle.dumps(ROWS), "is a pickle, not a CSV"),
    "Parquet": (b"PAR1\x15\x04PAR1", "is a Parquet file, not a CSV"),
    "R's": (gzip.compress(b"X\n\0\0\0\x03"), "holds an R data file, not a CSV"),
    "NumPy's": (b"\x93NUMPY\1\0", "is a NumPy array, not a CSV"),
    "JSON": (json.dumps(ROWS), "is JSON, not a CSV: write a row for each nucleus"),
    "JSON on many lines": (json.dumps(ROWS, indent=1), "is JSON, not a CSV"),
    "UTF-16": (TABLE.encode("utf-16"), "is text in UTF-16: save it in UTF-8"),
    "UTF-32": (TABLE.encode("utf-32"), "is text in UTF-32: save it in UTF-8"),
    "Latin-1": (TABLE.encode() + b"\xe9,\n", r"is not in UTF-8 \(byte 0xe9 in row 4\): save it in UTF-8"),
    "other bytes": (b"\0\1\2\xff" * 99, f"is no text, and no CSV: {ITSELF}"),
    "a long header": (",".join(f"column{i}" for i in range(999)), r"it has column0, .*\.\.\.\)$"),
}


@pytest.mark.parametrize("name", NO_TABLES)
def test_what_is_no_table_is_said_to_be_what_it_is(tmp_path, name):
    content, words = NO_TABLES[name]
    with pytest.raises(BadInput, match=rf"t\.csv .*{words}") as caught:
        read_table(write(tmp_path / "t.csv", content), ["ImageId"])
    assert len(str(caught.value)) < 300


def test_a_comment_that_holds_the_end_of_a_zip(tmp_path):
    whole = packed_as_zip(TABLE)
    for comment in (b"made by me", b"PK\5", b""):
        content = whole[:-2] + len(comment).to_bytes(2, "little") + comment
        assert read_table(write(tmp_path / "t.zip", content), ["ImageId"]) == ROWS
    for comment in (b"PK\5\6", b"a PK\5\6 in it", b"PK\5\6" + bytes(18), b"PK\5\6" * 9):
        content = whole[:-2] + len(comment).to_bytes(2, "little") + comment
        with pytest.raises(BadInput, match=r"t\.zip has a comment that .*: zip it without a comment$"):
            read_table(write(tmp_path / "t.zip", content), ["ImageId"])
    nested = packed_as_zip(packed_as_zip(packed_as_zip(TABLE)), "t.zip")  # whose ends stand before its own
    with pytest.raises(BadInput, match="holds a zip, not a CSV"):
        read_table(write(tmp_path / "t.zip", nested), ["ImageId"])


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
