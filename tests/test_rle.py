"""Run lists: a hand-made example, round trips, a brute-force encoder, and everything malformed."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from nuclei.competition.rle import decode_rle

from nuclei.competition.submission import encode_labels
from nuclei.settings.config import BadInput
from nuclei_kit.files.run_lists import decode_rles, parse_runs

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
        mask = decode_rle(rle, *labels.shape)
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, labels == label)


def test_a_crowded_image_comes_back():
    tile = np.zeros((50, 50), np.int32)
    tile[10:40, 5:35] = 1
    order = np.random.default_rng(0).permutation(400).reshape(20, 20) + 1
    labels = np.kron(order, tile).astype(np.int32)  # 1000 x 1000, 400 squares in random order
    rles = encode_labels(labels)
    assert len(rles) == 400
    np.testing.assert_array_equal(decode_rles(rles, 1000, 1000), labels)


def test_the_empty_run_list():
    starts, lengths = parse_runs("", 2, 3)
    assert len(starts) == len(lengths) == 0
    assert not decode_rle("", 2, 3).any()
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
    for read in (parse_runs, decode_rle, lambda rle, h, w: decode_rles([rle], h, w)):
        with pytest.raises(BadInput, match=message):
            read(rle, 2, 3)


def test_overlapping_run_lists_are_refused_by_number():
    with pytest.raises(BadInput, match="run lists 2 and 3 of the image overlap"):
        decode_rles(["1 1", "2 2", "3 2"], 2, 3)


@settings(deadline=None)
@given(st.lists(st.integers(-1, 9), max_size=6), st.integers(1, 3), st.integers(1, 3))
def test_a_run_list_is_taken_only_if_it_keeps_every_rule(numbers, height, width):
    runs = list(zip(numbers[::2], numbers[1::2], strict=False))
    pixels = [pixel for start, length in runs for pixel in range(start, start + length)]
    ascending = pixels == sorted(set(pixels)) and runs == sorted(runs)
    inside = all(1 <= pixel <= height * width for pixel in pixels)
    rle = " ".join(map(str, numbers))
    if len(numbers) % 2 == 0 and all(length >= 1 for _, length in runs) and ascending and inside:
        mask = decode_rle(rle, height, width)
        assert (np.flatnonzero(mask.ravel(order="F")) + 1).tolist() == pixels
    else:
        with pytest.raises(BadInput):
            parse_runs(rle, height, width)


@settings(deadline=None)
@given(st.text("0129 -+._xe\t\n\u0661\u00a0", max_size=12))
def test_any_text_is_a_run_list_or_refused(text):
    with contextlib.suppress(BadInput):
        starts, lengths = parse_runs(text, 50, 50)
        assert [int(word) for word in text.split()] == np.stack([starts + 1, lengths], axis=1).ravel().tolist()
        assert set(text) <= set("0129 \t\n")
