"""Run lists: Kaggle's rows back to nuclei, the competition's rules one by one, and everything malformed."""

import contextlib
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuclei.competition.submission import write_submission
from nuclei.settings.config import BadInput
from nuclei_kit.files.run_lists import check_submission, decode_rles, parse_runs

SHAPES = {"a": (4, 5), "b": (3, 3)}
GOOD = "ImageId,EncodedPixels\na,1 2 9 1\na,5 4\nb,\n"


@pytest.fixture
def write(tmp_path):
    """Write a file of this test: text or bytes -> path."""

    def write(content, name="submission.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


# ---- run lists -----------------------------------------------------------------------------------


def test_the_empty_run_list():
    starts, lengths = parse_runs("", 2, 3)
    assert len(starts) == len(lengths) == 0
    assert not decode_rles([""], 2, 3).any()
    np.testing.assert_array_equal(decode_rles(["", "2 1"], 2, 2), [[0, 0], [2, 0]])
    assert decode_rles([], 2, 3).shape == (2, 3)


def test_parsed_starts_count_from_zero():
    starts, lengths = parse_runs(" 1 2  3 1\n6 1 ", 2, 3)  # runs that touch, and the last pixel
    assert (starts.tolist(), lengths.tolist()) == ([0, 2, 5], [2, 1, 1])


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ("1 2 3", "odd number of numbers"),
        ("1 x", "not a whole number"),
        ("1 2.0", "not a whole number"),
        ("1,2", "not a whole number"),
        ("0 2", "'0 2' starts before the first pixel"),
        ("-3 2", "'-3 2' starts before the first pixel"),
        ("3 0", "'3 0' has a length below 1"),
        ("3 -1", "'3 -1' has a length below 1"),
        ("4 1 1 2", "'1 2' starts before .* at pixel 4"),
        ("1 3 3 1", "'3 1' starts before .* at pixel 3"),
        ("2 1 2 1", "'2 1' starts before .* at pixel 2"),
        ("6 2", "'6 2' ends past the last pixel, 6, of an image 2 high and 3 wide"),
        ("7 1", "'7 1' ends past the last pixel"),
        ("9223372036854775807 9223372036854775807", "ends past the last pixel"),
    ],
)
def test_malformed_run_lists_are_refused_with_the_reason(rle, message):
    for read in (parse_runs, lambda rle, h, w: decode_rles([rle], h, w)):
        with pytest.raises(BadInput, match=message):
            read(rle, 2, 3)


def test_overlapping_run_lists_are_refused_by_number():
    with pytest.raises(BadInput, match="run lists 2 and 3 of the image overlap"):
        decode_rles(["1 1", "2 2", "3 2"], 2, 3)


@given(st.lists(st.integers(-1, 9), max_size=6), st.integers(1, 3), st.integers(1, 3))
def test_a_run_list_is_taken_only_if_it_keeps_every_rule(numbers, height, width):
    runs = list(zip(numbers[::2], numbers[1::2], strict=False))
    pixels = [pixel for start, length in runs for pixel in range(start, start + length)]
    ascending = pixels == sorted(set(pixels)) and runs == sorted(runs)
    inside = all(1 <= pixel <= height * width for pixel in pixels)
    rle = " ".join(map(str, numbers))
    if len(numbers) % 2 == 0 and all(length >= 1 for _, length in runs) and ascending and inside:
        mask = decode_rles([rle], height, width)
        assert (np.flatnonzero(mask.ravel(order="F")) + 1).tolist() == pixels
    else:
        with pytest.raises(BadInput):
            parse_runs(rle, height, width)


@given(st.text("0129 -+._xe\t\n\u0661\u00a0", max_size=12))
def test_any_text_is_a_run_list_or_refused(text):
    with contextlib.suppress(BadInput):
        starts, lengths = parse_runs(text, 50, 50)
        assert [int(word) for word in text.split()] == np.stack([starts + 1, lengths], axis=1).ravel().tolist()
        assert set(text) <= set("0129 \t\n")


# ---- the rules ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [GOOD, GOOD.replace("\n", "\r\n"), "\ufeff" + GOOD, GOOD.rstrip("\n"), GOOD.replace("1 2 9 1", '"1 2 9 1"')],
    ids=["as it should be", "CRLF", "BOM", "no last newline", "quoted"],
)
def test_csv_as_programs_write_it(write, content):
    assert check_submission(write(content), SHAPES) == {"a": ["1 2 9 1", "5 4"], "b": [""]}


def test_a_zipped_csv(tmp_path):
    path = tmp_path / "submission.csv.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("submission.csv", GOOD)
    assert check_submission(path, SHAPES) == {"a": ["1 2 9 1", "5 4"], "b": [""]}


def test_columns_in_any_order(write):
    assert check_submission(write("EncodedPixels,ImageId\n1 2,a\n,b\n"), SHAPES) == {"a": ["1 2"], "b": [""]}


HEAD = "ImageId,EncodedPixels\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (HEAD + "a,\na2,1 1\nb,\n", ["row 3", "'a2'", "image of this test set"]),
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
        ("a,1 1\nb,\n", ["has no header (its first row is a, 1 1): write ImageId,EncodedPixels above it"]),
        ("ImageId,EncodedPixels,Height\na,,4\nb,,3\n", ["a column Height", "ImageId and EncodedPixels alone"]),
        (",ImageId,EncodedPixels\n0,a,\n1,b,\n", ["a column without a name", "pandas' index", "index=False"]),
        ("Unnamed: 0,ImageId,EncodedPixels\n0,a,\n1,b,\n", ["a column Unnamed: 0", "pandas' index"]),
        ("ImageId,EncodedPixels,\na,,\nb,,\n", ["a column without a name"]),
        ("imageid,encodedpixels\na,\nb,\n", ["a column 'imageid' where 'ImageId' belongs"]),
        ("ImageId, EncodedPixels\na,\nb,\n", ["a column ' EncodedPixels' where 'EncodedPixels' belongs"]),
        ("sep=,\n" + GOOD, ["begins with 'sep=', which is for Excel alone: delete that line"]),
        (GOOD.replace(",", ";"), ["is separated by semicolons"]),
        (GOOD.replace(",", "\t"), ["is separated by tabs"]),
        (GOOD.encode("utf-16"), ["is text in UTF-16: save it in UTF-8"]),
        (HEAD + "a.png,\nb,\n", ["row 2", "'a.png' is not an image of this test set: write a"]),
        (HEAD + "A,\nb,\n", ["row 2", "'A' is not an image of this test set: write a"]),
        (HEAD + "a ,\nb,\n", ["row 2", "'a ' is not an image of this test set: write a"]),
        (HEAD + "a,[1 2]\nb,\n", ["row 2", "holds '[1', which is not a whole number"]),
        (HEAD + 'a,"1,0 2,0"\nb,\n', ["row 2", "holds '1,0', which is not a whole number"]),
        (HEAD + "a,1,0 2,0\nb,\n", ["row 2", "expected 2 fields"]),
        (HEAD + "a,nan\nb,\n", ["row 2", "holds 'nan'", "nothing for an image without nuclei"]),
        (HEAD + "a,0 0\nb,\n", ["row 2", "before the first pixel"]),
        (HEAD + "a,1 2 \nb,\n", ["row 2", "has spaces around"]),
        (HEAD + "a, 1 2\nb,\n", ["row 2", "has spaces around"]),
        (HEAD + "a, \nb,\n", ["row 2", "has spaces around"]),
        (HEAD + f"a,{'1 1 ' * 8191}3 1\nb,\n", ["row 2", "it ends where Excel cuts a cell off"]),
        ("", ["no column ImageId", "no header"]),
        (b"ImageId,EncodedPixels\na,\xff\xfe\n", ["cannot be read as a CSV"]),
        (b"7z\xbc\xaf\x27\x1c" + bytes(99), ["is a 7z archive, not a CSV: give the CSV itself"]),
        (b"<html>", ["is a web page, as Kaggle sends it to whom it does not know, not a CSV"]),
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
