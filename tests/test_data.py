"""Data: the two ways a set may lie on disk, and the small reader, which gives what the careful one gives."""

import csv
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn import draw_disc_set
from drawn_files import assert_same_sets, draw_files, write_folder, write_zip
from hypothesis import given, settings
from hypothesis import strategies as st

from nuclei.competition.data import (
    TEST_NAMES,
    TRAIN_NAME,
    add_truth,
    find_set,
    group_files,
    last_stage,
    paint_labels,
    read_set,
    read_truth,
)
from nuclei.competition.submission import encode_labels
from nuclei.settings.config import BadInput
from nuclei.training_data.images import ImageSet
from nuclei.training_data.kinds import KINDS
from nuclei_kit.experiments import scoring
from nuclei_kit.files.reading import read_images
from nuclei_kit.sample.sample import draw_sample

REAL = Path(os.environ.get("NUCLEI_DATA", "")) / "stage1_test.zip"


def test_an_unreadable_test_image_costs_itself_alone(tmp_path):
    """On Kaggle, too: hours of a GPU are worth more than one image."""
    good = cv2.imencode(".png", np.full((8, 9, 3), 90, np.uint8))[1].tobytes()
    deep = cv2.imencode(".png", np.full((8, 9, 3), 9000, np.uint16))[1].tobytes()
    files = {"a/images/a.png": good, "b/images/b.png": b"\x89PNG..", "c/images/c.png": deep}
    write_zip(tmp_path / "stage1_test.zip", files)
    images = read_set(tmp_path / "stage1_test.zip")
    assert images.ids == ["a"] and set(images.unreadable) == {"b", "c"}
    assert len(images.images) == len(images.kinds) == 1 and images.labels == []


def test_an_unreadable_training_image_is_named(tmp_path):
    files, _ = draw_files()
    name = next(name for name in files if "/images/" in name)
    write_zip(tmp_path / f"{TRAIN_NAME}.zip", files | {name: b"\x89PNG.."})
    with pytest.raises(BadInput, match=name.split("/")[0]):
        read_set(tmp_path / f"{TRAIN_NAME}.zip")


# ---- finding -----------------------------------------------------------------------------------


def test_a_folder_goes_before_its_zip(tmp_path):
    write_zip(tmp_path / f"{TRAIN_NAME}.zip", draw_files()[0])
    assert find_set(tmp_path, (TRAIN_NAME,)) == tmp_path / f"{TRAIN_NAME}.zip"
    write_folder(tmp_path / TRAIN_NAME, draw_files()[0])
    assert find_set(tmp_path, (TRAIN_NAME,)) == tmp_path / TRAIN_NAME


@pytest.mark.parametrize("name", ["stage2_test_final", "stage2_test"])
@pytest.mark.parametrize("ending", ["", ".zip"])
def test_stage_two_goes_by_either_name(tmp_path, name, ending):
    assert last_stage(tmp_path) == 1
    if ending:
        write_zip(tmp_path / f"{name}.zip", draw_files(masks=False)[0])
    else:
        write_folder(tmp_path / name, draw_files(masks=False)[0])
    assert find_set(tmp_path, TEST_NAMES[2]).name == name + ending
    assert last_stage(tmp_path) == 2
    with pytest.raises(BadInput, match=r"holds no stage1_test\.zip"):
        find_set(tmp_path, TEST_NAMES[1])


def test_the_first_of_several_names_counts(tmp_path):
    for name in ("second", "first"):
        write_folder(tmp_path / name, draw_files()[0])
    assert find_set(tmp_path, ("missing", "first", "second")) == tmp_path / "first"


def test_a_folder_without_a_competition_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"missing is not a folder"):
        find_set(tmp_path / "missing", (TRAIN_NAME,))
    with pytest.raises(BadInput, match=rf"holds no {TRAIN_NAME}.zip .* \(it holds nothing\)"):
        find_set(tmp_path, (TRAIN_NAME,))
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(BadInput, match=r"it holds holiday\.jpg"):
        find_set(tmp_path, (TRAIN_NAME,))


# ---- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False], ids=["zip", "folder"])
@pytest.mark.parametrize("masks", [True, False], ids=["masks", "no masks"])
def test_a_set_is_what_was_drawn(tmp_path, packed, masks):
    files, truth = draw_files(masks=masks)
    files |= {"__MACOSX/aa/images/aa.png": b"resource", "aa/images/._aa.png": b"fork", "aa/notes.txt": b"note"}
    read = read_set(write_zip(tmp_path / "set.zip", files) if packed else write_folder(tmp_path / "set", files))
    assert read.ids == ["aa", "bb", "cc"] and not read.unreadable and read.overlapping == 0
    assert set(read.kinds) <= set(KINDS)
    for image_id, image in zip(read.ids, read.images, strict=True):
        assert image.dtype == np.uint8 and np.array_equal(image, truth[image_id][0])
    assert len(read.labels) == (3 if masks else 0)
    for image_id, labels in zip(read.ids, read.labels, strict=masks):
        assert labels.dtype == np.int32 and np.array_equal(labels, truth[image_id][1])


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A small sample competition, zipped as it comes and unpacked beside it -> {what it is: path}."""
    folder = tmp_path_factory.mktemp("sample")
    draw_sample(folder, n_train=6, n_test=3)
    paths = {}
    for name in (TRAIN_NAME, *TEST_NAMES[1]):
        paths[f"{name}, zipped"] = folder / f"{name}.zip"
        paths[name] = folder / "unpacked" / name
        with zipfile.ZipFile(folder / f"{name}.zip") as archive:
            archive.extractall(paths[name])
    return paths


@pytest.mark.parametrize("name", [TRAIN_NAME, *TEST_NAMES[1]])
@pytest.mark.parametrize("how", ["", ", zipped"])
def test_the_small_reader_gives_what_the_careful_one_gives(sample, name, how):
    small = read_set(sample[name + how])
    assert len(small.ids) == (6 if name == TRAIN_NAME else 3)
    assert_same_sets(small, read_images(sample[name + how]))


@pytest.mark.skipif(not REAL.is_file(), reason="set NUCLEI_DATA to the folder with Kaggle's files")
def test_of_the_real_images_too():
    small = read_set(REAL)
    assert len(small.ids) == 65
    assert_same_sets(small, read_images(REAL))


# ---- the truth of stage1_test, which stage 2 learns from ---------------------------------------


@pytest.fixture
def opened(sample, tmp_path):
    """A folder with the sample's test images and its solution, to be spoilt."""
    for name in ("stage1_test.zip", "stage1_solution.csv"):
        shutil.copy(sample[TRAIN_NAME].parents[1] / name, tmp_path)
    return tmp_path


def change_rows(folder, change):
    """Have `change`, a function of a row's dict, rewrite the solution in a folder."""
    path = folder / "stage1_solution.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(change(dict(row)) for row in rows)


def assert_same_truth(folder):
    """The small reader's truth is the careful one's -> it."""
    small = read_truth(folder)
    assert_same_sets(small, scoring.read_open_images(folder))
    assert all(labels.flags.c_contiguous for labels in small.labels)
    return small


def test_the_truth_is_that_of_the_solution(opened):
    truth, expected = assert_same_truth(opened), scoring.read_solution(opened / "stage1_solution.csv")
    assert truth.ids == sorted(expected) and len(truth.ids) == 3
    for image_id, labels in zip(truth.ids, truth.labels, strict=True):
        np.testing.assert_array_equal(labels, expected[image_id])
    images = read_set(opened / "stage1_test.zip")
    assert all(np.array_equal(one, other) for one, other in zip(truth.images, images.images, strict=True))


def test_the_truth_comes_zipped_too(opened):
    whole = read_truth(opened)
    write_zip(opened / "stage1_solution.csv.zip", {"solution.csv": (opened / "stage1_solution.csv").read_bytes()})
    (opened / "stage1_solution.csv").unlink()
    assert_same_sets(assert_same_truth(opened), whole)


def test_images_that_kaggle_ignored_have_no_truth(opened):
    whole = read_truth(opened)
    change_rows(opened, lambda row: row | {"Usage": "Ignored" if row["ImageId"] == whole.ids[1] else "Private"})
    assert_same_sets(assert_same_truth(opened), whole.subset([0, 2]))


def test_a_truth_of_no_image_here_is_left_out(opened):
    whole = read_truth(opened)
    change_rows(opened, lambda row: row | ({"ImageId": "0"} if row["ImageId"] == whole.ids[0] else {}))
    assert_same_sets(assert_same_truth(opened), whole.subset([1, 2]))


def test_an_image_of_which_nothing_is_told_is_empty_of_nuclei(opened):
    whole = read_truth(opened)
    change_rows(opened, lambda row: row | ({"EncodedPixels": ""} if row["ImageId"] == whole.ids[2] else {}))
    truth = assert_same_truth(opened)
    assert truth.ids == whole.ids
    assert not truth.labels[2].any() and truth.labels[1].any()


@given(st.lists(st.tuples(*[st.integers(0, 30)] * 2, *[st.integers(1, 20)] * 2), min_size=1, max_size=6))
@settings(deadline=None, max_examples=25)
def test_masks_that_overlap_are_painted_alike(tmp_path_factory, boxes):
    folder = tmp_path_factory.mktemp("overlap")
    files, _ = draw_files(ids=("aa",), masks=False)
    write_folder(folder / "stage1_test", files)
    rows = []
    for top, left, height, width in boxes:
        mask = np.zeros((40, 60), np.int32)
        mask[top : top + height, left : left + width] = 1
        rows.append(f"aa,{encode_labels(mask)[0]},40,60,Public\n")
    (folder / "stage1_solution.csv").write_text("ImageId,EncodedPixels,Height,Width,Usage\n" + "".join(rows))
    assert_same_truth(folder)


@pytest.mark.parametrize("missing", ["stage1_solution.csv", "stage1_test.zip"])
def test_without_a_truth_there_is_a_warning_and_no_image(opened, caplog, missing):
    (opened / missing).unlink()
    assert_same_sets(read_truth(opened), ImageSet([], [], [], []))
    assert str(opened) in caplog.text and missing.partition(".zip")[0] in caplog.text
    caplog.clear()
    if missing == "stage1_test.zip":
        with pytest.raises(BadInput, match=r"holds no stage1_test\.zip"):
            scoring.read_open_images(opened)
    else:
        assert_same_sets(scoring.read_open_images(opened), ImageSet([], [], [], []))
        assert missing in caplog.text


@pytest.mark.parametrize("count", [0, 1, 2, 5, 6])
def test_half_of_the_opened_images_train_and_the_other_half_tunes(count):
    train_set = draw_disc_set(10)
    opened = replace(draw_disc_set(count, seed=2), ids=[f"opened {n}" for n in range(count)])
    train, tuning = add_truth(train_set, opened)
    assert train.ids[:10] == train_set.ids
    assert sorted(train.ids[10:] + tuning.ids) == opened.ids
    assert len(train.ids) - 10 - len(tuning.ids) in (0, 1)
    for part in (train, tuning):
        for image_id, image, labels in zip(part.ids, part.images, part.labels, strict=True):
            if image_id in opened.ids:
                assert image is opened.images[opened.ids.index(image_id)]
                assert labels is opened.labels[opened.ids.index(image_id)]


def test_a_truth_of_other_images_is_refused_by_the_careful_reader(opened):
    change_rows(opened, lambda row: row | {"Height": str(int(row["Height"]) + 1)})
    with pytest.raises(BadInput, match=r"stage1_solution\.csv .*another size"):
        scoring.read_open_images(opened)


@pytest.mark.skipif(
    not REAL.with_name("stage1_solution.csv").is_file(), reason="set NUCLEI_DATA to the folder with Kaggle's files"
)
def test_the_real_truth_is_read_alike():
    assert {labels.max() > 0 for labels in assert_same_truth(REAL.parent).labels} == {True}


# ---- its parts ---------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["images", "masks"]), st.sampled_from("xyz"))))
def test_names_are_grouped_whatever_their_order(parts):
    names = sorted({f"top/{'/'.join(one)}.png" for one in parts})
    groups = group_files([*reversed(names), "top/a/other/x.png", "top/a/images/x.csv"])
    assert groups == group_files(names)
    assert list(groups) == sorted({one[0] for one in parts})
    assert sorted(name for files in groups.values() for here in files.values() for name in here) == names
    for image_id, files in groups.items():
        for kind, here in files.items():
            assert here == sorted(here) and all(f"/{image_id}/{kind}/" in name for name in here)


def test_painted_labels_number_the_masks_and_the_smaller_one_keeps_what_it_shares():
    labels = paint_labels([np.array([0, 1, 2, 3]), np.array([3, 4]), np.array([10])], (3, 4))
    assert labels.dtype == np.int32
    assert labels.tolist() == [[1, 1, 1, 2], [2, 0, 0, 0], [0, 0, 3, 0]]
    labels = paint_labels([np.array([i]) for i in range(600)], (20, 30))
    assert np.array_equal(labels.ravel(), np.arange(1, 601))
