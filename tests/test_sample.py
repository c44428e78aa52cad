"""The sample competition agrees with itself, is the same every time, and is worth a network."""

import hashlib
import re
import zipfile

import cv2
import numpy as np
import pytest
from drawn_files import read_rows

from nuclei.prediction.metric import average_precision
from nuclei.settings.config import BadInput
from nuclei_kit.files.run_lists import decode_rles
from nuclei_kit.sample.sample import NOISE, SAMPLE_FILES, SAMPLE_LOOKS, STAGE_2_FILES, draw_image, draw_sample

N_TRAIN, N_TEST = 40, 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    draw_sample(folder, n_train=N_TRAIN, n_test=N_TEST)
    return folder


@pytest.fixture(scope="module")
def train(folder):
    return read_archive(folder / "stage1_train.zip")


@pytest.fixture(scope="module")
def test(folder):
    return read_archive(folder / "stage1_test.zip")


@pytest.fixture(scope="module")
def solution(folder):
    return read_rows(folder / "stage1_solution.csv")


def read_archive(path):
    """Return {image id: {"images": [...], "masks": [...]}}, every PNG file as stored."""
    stacks = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            image_id, kind, file = re.fullmatch(r"([0-9a-f]{64})/(images|masks)/([0-9a-f]{64})\.png", name).groups()
            assert kind == "masks" or file == image_id
            pixels = np.frombuffer(archive.read(name), np.uint8)
            stack = stacks.setdefault(image_id, {"images": [], "masks": []})
            stack[kind].append(cv2.imdecode(pixels, cv2.IMREAD_UNCHANGED))
    return stacks


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def masks_to_labels(masks):
    return np.sum([np.int32(k) * (m > 0) for k, m in enumerate(masks, 1)], 0, dtype=np.int32)


def rows_of(rows, image_id):
    return [row for row in rows if row["ImageId"] == image_id]


def threshold_and_components(rgba):
    """Otsu's threshold on the grey picture, nuclei made bright; every component is a nucleus."""
    grey = cv2.cvtColor(rgba, cv2.COLOR_BGRA2GRAY)
    if np.median(grey) > 127:
        grey = 255 - grey
    _, foreground = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return cv2.connectedComponents(foreground)[1].astype(np.int32)


def solution_labels(solution, image_id):
    rows = rows_of(solution, image_id)
    height, width = int(rows[0]["Height"]), int(rows[0]["Width"])
    return decode_rles([row["EncodedPixels"] for row in rows], height, width)


def test_the_folder_holds_the_sample_and_nothing_else(folder):
    assert sorted(path.name for path in folder.iterdir()) == sorted(SAMPLE_FILES)


def test_the_same_seed_gives_the_same_bytes_over_an_earlier_sample(folder, tmp_path):
    draw_sample(tmp_path, seed=1, n_train=2, n_test=1)
    draw_sample(tmp_path, n_train=N_TRAIN, n_test=N_TEST)
    assert hashes(tmp_path) == hashes(folder)


def test_another_seed_gives_other_images_and_ids(train, test, tmp_path):
    draw_sample(tmp_path, seed=1, n_train=5, n_test=5)
    for name, stacks in (("stage1_train.zip", train), ("stage1_test.zip", test)):
        others = read_archive(tmp_path / name)
        assert not others.keys() & stacks.keys()
        drawn = {stack["images"][0].tobytes() for stack in stacks.values()}
        assert not drawn & {stack["images"][0].tobytes() for stack in others.values()}


def test_no_image_is_drawn_twice(train, test):
    stacks = [*train.values(), *test.values()]
    assert len({stack["images"][0].tobytes() for stack in stacks}) == N_TRAIN + N_TEST


def test_images_are_opaque_rgba(train, test):
    for stack in (*train.values(), *test.values()):
        (image,) = stack["images"]
        assert image.dtype == np.uint8
        assert image.shape[2] == 4
        assert (image[..., 3] == 255).all()


def test_the_test_archive_holds_no_masks(test):
    assert all(not stack["masks"] for stack in test.values())


def test_masks_are_single_pieces_that_do_not_overlap(train):
    for stack in train.values():
        height, width = stack["images"][0].shape[:2]
        for mask in stack["masks"]:
            assert mask.dtype == np.uint8
            assert mask.shape == (height, width)
            assert set(np.unique(mask)) == {0, 255}
            assert cv2.connectedComponents(mask, connectivity=4)[0] == 2
        assert np.sum([mask > 0 for mask in stack["masks"]], axis=0).max() == 1


def test_train_labels_hold_one_row_per_mask_with_its_pixels(folder, train):
    rows = read_rows(folder / "stage1_train_labels.csv")
    assert {row["ImageId"] for row in rows} == train.keys()
    assert len(rows) == sum(len(stack["masks"]) for stack in train.values())
    for image_id, stack in train.items():
        height, width = stack["masks"][0].shape
        labels = decode_rles([row["EncodedPixels"] for row in rows_of(rows, image_id)], height, width)
        decoded = [(labels == label).tobytes() for label in range(1, labels.max() + 1)]
        assert sorted(decoded) == sorted((mask > 0).tobytes() for mask in stack["masks"])


def test_sample_submission_holds_one_empty_row_per_test_image(folder, test):
    rows = read_rows(folder / "stage1_sample_submission.csv")
    assert sorted(row["ImageId"] for row in rows) == sorted(test)
    assert all(row["EncodedPixels"] == "" for row in rows)


def test_solution_covers_the_test_images_in_their_sizes(test, solution):
    assert {row["ImageId"] for row in solution} == test.keys()
    assert {row["Usage"] for row in solution} == {"Public"}
    for row in solution:
        size = test[row["ImageId"]]["images"][0].shape[:2]
        assert (int(row["Height"]), int(row["Width"])) == size


def test_images_are_high_wide_and_square(train):
    shapes = np.array([stack["images"][0].shape[:2] for stack in train.values()])
    height, width = shapes.T
    assert (height < width).any() and (height > width).any() and (height == width).any()
    assert shapes.min() >= 128 and shapes.max() <= 320


def test_nuclei_cover_the_sizes_and_counts_promised(train):
    counts = [len(stack["masks"]) for stack in train.values()]
    assert min(counts) >= 8 and max(counts) <= 60
    areas = [np.count_nonzero(mask) for stack in train.values() for mask in stack["masks"]]
    diameters = np.sqrt(4 / np.pi * np.array(areas))
    assert diameters.min() < 10 and diameters.max() > 50
    assert np.count_nonzero(diameters < 25) > 200 and np.count_nonzero(diameters > 30) > 50


def test_some_nuclei_touch_in_most_images(train):
    merged = 0
    for stack in train.values():
        foreground = np.max(stack["masks"], axis=0)
        merged += cv2.connectedComponents(foreground)[0] - 1 < len(stack["masks"])
    assert merged > 0.8 * len(train)


@pytest.mark.parametrize("look", SAMPLE_LOOKS, ids=lambda look: look.name)
def test_every_nucleus_differs_from_its_surroundings(look):
    image, labels = draw_image(look, np.random.default_rng(5))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(float)
    for label in range(1, labels.max() + 1):
        mask = labels == label
        around = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
        around &= labels == 0
        contrast = abs(grey[mask].mean() - grey[around].mean())
        assert contrast > 3 * NOISE


def test_threshold_and_components_score_below_045(train, test, solution):
    scores = [
        average_precision(masks_to_labels(stack["masks"]), threshold_and_components(stack["images"][0]))
        for stack in train.values()
    ]
    scores += [
        average_precision(solution_labels(solution, image_id), threshold_and_components(stack["images"][0]))
        for image_id, stack in test.items()
    ]
    assert 0.25 < np.mean(scores) < 0.45  # below 0.25 a small network would have too hard a time


# ---- the second stage --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both_stages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    draw_sample(folder, n_train=2, n_test=5, stage=2)
    return folder


def test_a_second_stage_changes_no_byte_of_the_first(both_stages, tmp_path):
    draw_sample(tmp_path, n_train=2, n_test=5)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(SAMPLE_FILES)
    first, both = hashes(tmp_path), hashes(both_stages)
    assert both.keys() == first.keys() | set(STAGE_2_FILES)
    assert {name: both[name] for name in first} == first


def test_the_second_stage_has_images_of_its_own_with_their_truth(both_stages, train, test):
    final = read_archive(both_stages / "stage2_test_final.zip")
    assert len(final) == 5 and not final.keys() & (train.keys() | test.keys())
    earlier = {stack["images"][0].tobytes() for stack in (*train.values(), *test.values())}
    assert not earlier & {stack["images"][0].tobytes() for stack in final.values()}
    assert all(not stack["masks"] for stack in final.values())
    rows = read_rows(both_stages / "stage2_sample_submission_final.csv")
    assert {row["ImageId"]: row["EncodedPixels"] for row in rows} == dict.fromkeys(final, "")
    solution = read_rows(both_stages / "stage2_solution_final.csv")
    assert {row["ImageId"] for row in solution} == final.keys()
    assert {row["Usage"] for row in solution} == {"Private"}
    scores = []
    for image_id, stack in final.items():
        labels = solution_labels(solution, image_id)
        assert labels.shape == stack["images"][0].shape[:2]
        scores.append(average_precision(labels, threshold_and_components(stack["images"][0])))
    assert 0.2 < np.mean(scores) < 0.6  # the truth is of these very images


def test_a_sample_of_the_first_stage_replaces_one_of_both(tmp_path):
    """Else a run would predict the second stage of another seed."""
    draw_sample(tmp_path, seed=1, n_train=1, n_test=1, stage=2)
    draw_sample(tmp_path, seed=2, n_train=1, n_test=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(SAMPLE_FILES)


def test_a_real_second_stage_is_never_drawn_over(tmp_path):
    draw_sample(tmp_path, n_train=1, n_test=1)
    with zipfile.ZipFile(tmp_path / "stage2_test_final.zip", "w") as archive:
        archive.writestr("a.png", b"")
    before = hashes(tmp_path)
    for stage in (1, 2):
        with pytest.raises(BadInput, match=r"stage2_test_final\.zip that is not of a sample"):
            draw_sample(tmp_path, n_train=1, n_test=1, stage=stage)
    assert hashes(tmp_path) == before


# ---- where it may be drawn ---------------------------------------------------------------------


def test_a_real_competition_is_never_drawn_over(tmp_path):
    labels = tmp_path / "stage1_train_labels.csv"
    labels.write_text("ImageId,EncodedPixels\n")
    with pytest.raises(BadInput, match=r"stage1_train_labels\.csv that is not of a sample"):
        draw_sample(tmp_path, n_train=1, n_test=1)
    with zipfile.ZipFile(tmp_path / "stage1_train.zip", "w") as archive:
        archive.writestr("a.png", b"")
    before = hashes(tmp_path)
    with pytest.raises(BadInput, match=r"stage1_train\.zip that is not of a sample"):
        draw_sample(tmp_path, n_train=1, n_test=1)
    assert hashes(tmp_path) == before


def test_a_file_is_not_a_folder(tmp_path):
    file = tmp_path / "sample"
    file.write_text("")
    with pytest.raises(BadInput, match="cannot be made a folder"):
        draw_sample(file)
