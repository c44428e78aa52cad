"""Submission: rows there and back, the competition's rules one by one, and files that are whole or absent."""

import os
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuclei.competition.submission import make_rows, write_submission
from nuclei.settings.config import BadInput
from nuclei.settings.files import write_whole
from nuclei_kit.files.run_lists import check_submission, decode_rles
from nuclei_kit.files.tables import read_table

SHAPES = {"a": (4, 5), "b": (3, 3)}
GOOD = "ImageId,EncodedPixels\na,1 2 9 1\na,5 4\nb,\n"


def drawn_labels():
    labels = np.zeros((6, 7), np.int32)
    labels[:2, :3], labels[2:, 2:5], labels[5, 6] = 1, 2, 3
    return labels


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


# ---- rows --------------------------------------------------------------------------------------


def test_rows_hold_the_labels():
    labels = drawn_labels()
    rows = make_rows("a", labels)
    assert [image_id for image_id, _ in rows] == ["a"] * 3
    np.testing.assert_array_equal(decode_rles([rle for _, rle in rows], *labels.shape), labels)


def test_rows_count_down_the_columns_from_1():
    assert make_rows("a", np.array([[0, 1], [0, 1], [2, 2]], np.int32)) == [("a", "4 2"), ("a", "3 1 6 1")]


def test_an_empty_image_has_one_empty_row():
    assert make_rows("a", np.zeros((3, 4), np.int32)) == [("a", "")]


def test_what_is_written_passes_and_comes_back(tmp_path):
    images = {"b": drawn_labels(), "empty": np.zeros((2, 9), np.int32), "a": drawn_labels().T.copy()}
    write_submission(
        tmp_path / "deep" / "er.csv", [row for i, labels in images.items() for row in make_rows(i, labels)]
    )
    rles = check_submission(tmp_path / "deep" / "er.csv", {i: labels.shape for i, labels in images.items()})
    assert list(rles) == list(images)
    assert rles["empty"] == [""]
    for image_id, labels in images.items():
        np.testing.assert_array_equal(decode_rles(rles[image_id], *labels.shape), labels)


def test_the_file_is_kaggle_s(tmp_path):
    write_submission(tmp_path / "s.csv", [("a", "1 2 9 1"), ("a", "5 4"), ("b", "")])
    assert (tmp_path / "s.csv").read_bytes() == GOOD.encode()


# ---- the rules ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [GOOD, GOOD.replace("\n", "\r\n"), "\ufeff" + GOOD, GOOD.rstrip("\n"), GOOD.replace("1 2 9 1", '"1 2 9 1"')],
    ids=["as it should be", "CRLF", "BOM", "no last newline", "quoted"],
)
def test_csv_as_programs_write_it(write, content):
    assert check_submission(write(content), SHAPES) == {"a": ["1 2 9 1", "5 4"], "b": [""]}


def test_a_zipped_csv(tmp_path):
    path = zipped(tmp_path / "submission.csv.zip", GOOD)
    assert check_submission(path, SHAPES) == {"a": ["1 2 9 1", "5 4"], "b": [""]}


def test_columns_in_any_order_and_more_of_them(write):
    path = write("Note,EncodedPixels,ImageId\nx,1 2,a\ny,,b\n")
    assert check_submission(path, SHAPES) == {"a": ["1 2"], "b": [""]}


HEAD = "ImageId,EncodedPixels\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (HEAD + "a,\na2,1 1\nb,\n", ["row 3", "'a2'", "no image of this test set"]),
        (HEAD + "a,1 2\n", ["1 images have no row", "b first"]),
        (HEAD, ["2 images have no row", "a first"]),
        (HEAD + "a,\nb\n", ["row 3", "expected 2 fields"]),
        (HEAD + "a,1 2,\nb,\n", ["row 2", "expected 2 fields"]),
        (HEAD + "a,1 2\na,\nb,\n", ["row 3", "a has an empty row beside another"]),
        (HEAD + "a,\na,1 2\nb,\n", ["row 3", "a has an empty row beside another"]),
        (HEAD + "a,\nb,\nb,\n", ["row 4", "b has an empty row beside another"]),
        (HEAD + "a,1 x\nb,\n", ["row 2", "(a)", "whole number"]),
        (HEAD + "a,1.0 2\nb,\n", ["row 2", "(a)", "whole number"]),
        (HEAD + "a,1 2 7\nb,\n", ["row 2", "(a)", "odd number"]),
        (HEAD + "a,0 2\nb,\n", ["row 2", "(a)", "before the first pixel"]),
        (HEAD + "a,1 0\nb,\n", ["row 2", "(a)", "below 1"]),
        (HEAD + "a,5 2 1 1\nb,\n", ["row 2", "(a)", "ascend"]),
        (HEAD + "a,1 3 3 1\nb,\n", ["row 2", "(a)", "ascend"]),
        (HEAD + "a,1 1\nb,9 2\n", ["row 3", "(b)", "past the last pixel, 9"]),
        (HEAD + "a,1 4\nb,\na,10 2\na,11 1\n", ["row 5", "row 4", "a has a pixel", "overlap"]),
        (HEAD + "a,10 5\na,1 11\nb,\n", ["row 3", "row 2", "a has a pixel", "overlap"]),
        ("ImageId,Pixels\na,1 1\nb,\n", ["no column EncodedPixels", "ImageId, Pixels"]),
        ("a,1 1\nb,\n", ["no column ImageId"]),
        ("", ["no column ImageId", "no header"]),
        (b"ImageId,EncodedPixels\na,\xff\xfe\n", ["cannot be read as a CSV"]),
    ],
)
def test_each_rule_is_named_with_its_row(write, content, says):
    with pytest.raises(BadInput) as raised:
        check_submission(write(content), SHAPES)
    message = str(raised.value)
    assert all(part in message for part in ["submission.csv", *says]), message
    assert "\n" not in message


# Run lists for an image of 2 x 3 pixels -> the pixels that they claim, or None where they break a rule by themselves.
CLAIMS = {"": set(), "1 1": {1}, "1 2": {1, 2}, "2 2 5 2": {2, 3, 5, 6}, "6 1": {6}, "4 1": {4}}
CLAIMS |= dict.fromkeys(("6 2", "0 1", "1 0", "3 1 1 1", "1", "x", "1  1"))


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("aabbc"), st.sampled_from([*list(CLAIMS)[:6] * 3, *CLAIMS])), max_size=5))
def test_what_is_taken_keeps_every_rule_and_all_that_does_is_taken(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "rows.csv"
    write_submission(path, rows)
    by_image = {image_id: [rle for i, rle in rows if i == image_id] for image_id in "ab"}
    sound = all(i in by_image and CLAIMS[rle] is not None for i, rle in rows)
    for rles in by_image.values():
        claims = [CLAIMS[rle] or set() for rle in rles]
        sound &= rles == [""] or ("" not in rles and rles != [])
        sound &= len(set().union(*claims)) == sum(map(len, claims))
    if sound:
        assert check_submission(path, dict.fromkeys("ab", (2, 3))) == by_image
    else:
        with pytest.raises(BadInput):
            check_submission(path, dict.fromkeys("ab", (2, 3)))


def test_bounds_are_left_alone_where_the_shape_is_unknown(write):
    path = write(HEAD + "a,1 2 70000 1\n")
    assert check_submission(path, {"a": None}) == {"a": ["1 2 70000 1"]}
    with pytest.raises(BadInput, match=r"row 3.*overlap"):
        check_submission(write(HEAD + "a,70000 2\na,70001 1\n"), {"a": None})


def test_the_same_pixel_of_two_images_is_no_overlap(write):
    assert check_submission(write(HEAD + "a,1 3\nb,1 3\n"), SHAPES)


# ---- reading tables ----------------------------------------------------------------------------


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


# ---- writing whole files -----------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "submission.csv"
    write_submission(path, [("old", "")])
    before = path.read_bytes()

    def refuse(*_):
        raise OSError("no")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no"):
        write_submission(path, [("new", "")])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["submission.csv"]


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
