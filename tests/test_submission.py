"""Submission: label images to run lists and rows, by a hand-made example and a brute-force encoder, there and back."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from nuclei.competition.submission import encode_labels, make_rows, write_submission
from nuclei_kit.files.run_lists import check_submission, decode_rles

# Label ids with gaps, above 255 too, and shapes that are rarely square.
label_images = arrays(
    np.int32,
    array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.sampled_from([0, 0, 1, 2, 5, 300]),
)


def brute_force_encode(mask):
    """Walk down the columns, one pixel at a time."""
    height, width = mask.shape
    words, inside, pixel = [], False, 0
    for x in range(width):
        for y in range(height):
            pixel += 1
            if mask[y, x] and not inside:
                words += [pixel, 0]
            if mask[y, x]:
                words[-1] += 1
            inside = mask[y, x]
    return " ".join(map(str, words))


# ---- run lists -----------------------------------------------------------------------------------


def test_a_hand_made_example():
    # Pixel numbers:  1 4 7 10
    #                 2 5 8 11
    #                 3 6 9 12
    labels = np.array([[7, 0, 0, 2], [0, 0, 2, 2], [7, 7, 2, 0]], np.int32)
    assert encode_labels(labels) == ["8 4", "1 1 3 1 6 1"]


def test_a_run_goes_on_from_the_foot_of_a_column_to_the_head_of_the_next():
    assert encode_labels(np.ones((2, 3), np.int32)) == ["1 6"]


def test_touching_nuclei_stay_apart():
    assert encode_labels(np.array([[1, 2], [1, 2], [2, 1]], np.int32)) == ["1 2 6 1", "3 3"]


@pytest.mark.parametrize("shape", [(3, 5), (0, 0)])
def test_no_nuclei_give_no_run_lists(shape):
    assert encode_labels(np.zeros(shape, np.int32)) == []


def test_a_mask_is_a_label_image_of_one_nucleus():
    assert encode_labels(np.array([[False, True], [True, True]])) == ["2 3"]


@given(label_images)
def test_agrees_with_a_brute_force_encoder(labels):
    ids = [label for label in np.unique(labels) if label]
    assert encode_labels(labels) == [brute_force_encode(labels == label) for label in ids]


@given(label_images)
def test_encoding_ignores_memory_order(labels):
    assert encode_labels(np.asfortranarray(labels)) == encode_labels(labels)


@given(label_images)
def test_labels_come_back_without_gaps(labels):
    ids = [label for label in np.unique(labels) if label]
    expected = sum(number * (labels == label) for number, label in enumerate(ids, start=1))
    decoded = decode_rles(encode_labels(labels), *labels.shape)
    assert decoded.dtype == np.int32
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, np.broadcast_to(expected, labels.shape))


@given(label_images)
def test_each_run_list_decodes_to_its_mask(labels):
    ids = [label for label in np.unique(labels) if label]
    for label, rle in zip(ids, encode_labels(labels), strict=True):
        np.testing.assert_array_equal(decode_rles([rle], *labels.shape), labels == label)


def test_a_crowded_image_comes_back():
    tile = np.zeros((50, 50), np.int32)
    tile[10:40, 5:35] = 1
    order = np.random.default_rng(0).permutation(400).reshape(20, 20) + 1
    labels = np.kron(order, tile).astype(np.int32)  # 1000 x 1000, 400 squares in random order
    rles = encode_labels(labels)
    assert len(rles) == 400
    np.testing.assert_array_equal(decode_rles(rles, 1000, 1000), labels)


def drawn_labels():
    labels = np.zeros((6, 7), np.int32)
    labels[:2, :3], labels[2:, 2:5], labels[5, 6] = 1, 2, 3
    return labels


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


def test_the_file_is_as_kaggle_wants_it(tmp_path):
    write_submission(tmp_path / "s.csv", [("a", "1 2 9 1"), ("a", "5 4"), ("b", "")])
    assert (tmp_path / "s.csv").read_bytes() == b"ImageId,EncodedPixels\na,1 2 9 1\na,5 4\nb,\n"


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
