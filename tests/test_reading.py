"""Reading: what the careful reader makes of a set, what it refuses in it, and how it names that."""

import logging
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from drawn import draw_discs
from drawn_files import assert_same_sets, draw_files, encode, mask_of, write_folder, write_zip

from nuclei.competition.data import TEST_NAMES, TRAIN_NAME
from nuclei.settings.config import BadInput
from nuclei.training_data.kinds import KINDS
from nuclei_kit.files.reading import find_whole_set, read_images

REAL = Path(os.environ.get("NUCLEI_DATA", ""))


def test_a_set_is_what_was_drawn(tmp_path):
    files, truth = draw_files()
    files |= {"__MACOSX/aa/images/aa.png": b"resource", "aa/images/._aa.png": b"fork", "aa/notes.txt": b"note"}
    read = read_images(write_folder(tmp_path / "set", files))
    assert read.ids == ["aa", "bb", "cc"] and not read.unreadable and read.overlapping == 0
    assert set(read.kinds) <= set(KINDS)
    for image_id, image, labels in zip(read.ids, read.images, read.labels, strict=True):
        assert image.dtype == np.uint8 and labels.dtype == np.int32
        assert np.array_equal(image, truth[image_id][0]) and np.array_equal(labels, truth[image_id][1])


def test_masks_of_any_depth_and_foreground(tmp_path):
    labels = draw_discs((20, 30), (9, 9, 5), (10, 20, 4))
    image = np.zeros((20, 30, 3), np.uint8)
    whole = (labels == 1).astype(np.uint8)
    for content in (
        encode(whole),
        encode(whole * 255),
        encode(whole.astype(np.uint16)),
        encode(whole.astype(np.uint16) * 65535),
        encode(np.repeat(whole[..., None] * 255, 3, axis=2)),
        encode(np.dstack([whole * 255] * 3 + [np.full_like(whole, 255)])),
        encode(whole.astype(np.float32), ".tiff"),
    ):
        files = {"a/images/a.png": encode(image), "a/masks/1.png": content, "a/masks/2.png": mask_of(labels, 2)}
        assert np.array_equal(read_images(write_folder(tmp_path / "set", files)).labels[0], labels)


def test_a_folder_goes_before_its_zip(tmp_path):
    files, truth = draw_files()
    write_zip(tmp_path / f"{TRAIN_NAME}.zip", files)
    assert find_whole_set(tmp_path, (TRAIN_NAME,)) == tmp_path / f"{TRAIN_NAME}.zip"
    mended = mask_of(np.ones_like(truth["aa"][1]), 1)
    write_folder(tmp_path / TRAIN_NAME, files | {"aa/masks/001.png": mended})
    assert find_whole_set(tmp_path, (TRAIN_NAME,)) == tmp_path / TRAIN_NAME


def test_a_folder_that_lacks_images_of_its_zip_is_refused(tmp_path):
    files, _ = draw_files()
    write_zip(tmp_path / f"{TRAIN_NAME}.zip", files)
    write_folder(tmp_path / TRAIN_NAME, {name: content for name, content in files.items() if not name.startswith("b")})
    with pytest.raises(BadInput, match=rf"{TRAIN_NAME} lacks 1 of the images in {TRAIN_NAME}.zip"):
        find_whole_set(tmp_path, (TRAIN_NAME,))


def no_files(files, labels):
    files.clear()


def image_undecodable(files, labels):
    files["bb/images/bb.png"] = files["bb/images/bb.png"][:50]


def image_empty(files, labels):
    files["bb/images/bb.png"] = b""


def mask_undecodable(files, labels):
    files["bb/masks/002.png"] = b"no mask"


def mask_empty_file(files, labels):
    files["bb/masks/002.png"] = b""


def mask_of_labels(files, labels):
    files["bb/masks/002.png"] = encode(labels.astype(np.uint8))


def mask_in_another_format(files, labels):
    files["bb/masks/nuclei.npy"] = b"\x93NUMPY" + bytes(99)


def mask_of_another_size(files, labels):
    files["bb/masks/002.png"] = encode(np.full((9, 8), 255, np.uint8))


def mask_without_pixels(files, labels):
    files["bb/masks/002.png"] = encode(np.zeros(labels.shape, np.uint8))


def masks_overlap(files, labels):
    files["bb/masks/002.png"] = mask_of(np.isin(labels, [1, 2]), 1)


def masks_repeated(files, labels):
    files["bb/masks/copy.png"] = files["bb/masks/001.png"]


def no_image(files, labels):
    del files["bb/images/bb.png"]


def two_images(files, labels):
    files["bb/images/other.png"] = files["bb/images/bb.png"]


def masks_for_some_alone(files, labels):
    for name in [name for name in files if name.startswith("bb/masks")]:
        del files[name]


@pytest.mark.parametrize("packed", [True, False], ids=["zip", "folder"])
@pytest.mark.parametrize(
    "spoil, fragment",
    [
        (no_files, "holds no <id>/images"),
        (image_undecodable, "bb/images/bb.png is"),
        (image_empty, "bb/images/bb.png is"),
        (mask_undecodable, "bb/masks/002.png is"),
        (mask_empty_file, "bb/masks/002.png is"),
        (mask_of_labels, "bb/masks/002.png holds 5 labels, as a label image does: write each nucleus to a file"),
        (mask_in_another_format, "bb/masks/nuclei.npy is a NumPy array"),
        (mask_of_another_size, "bb/masks/002.png is 9x8 but its image is 50x60"),
        (mask_without_pixels, "bb/masks/002.png is an empty mask"),
        (masks_overlap, "the masks of bb overlap in"),
        (masks_repeated, "the masks of bb overlap in .*bb/masks/001.png and bb/masks/copy.png most: redraw bb/masks"),
        (no_image, "bb has no image"),
        (two_images, "bb is a duplicate id, with 2 images"),
        (masks_for_some_alone, "1 images have no masks, bb first: add them, or an empty folder bb/masks if it has no"),
    ],
)
def test_a_fault_in_a_training_set_is_an_error(tmp_path, spoil, fragment, packed):
    files, truth = draw_files()
    spoil(files, truth["bb"][1])
    path = write_zip(tmp_path / "set.zip", files) if packed else write_folder(tmp_path / "set", files)
    path.mkdir(exist_ok=True) if not packed else None
    with pytest.raises(BadInput, match=fragment) as caught:
        read_images(path, tmp_path / "cache")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("content", [b"", b"no zip", "truncated"])
def test_a_broken_zip_is_an_error(tmp_path, content):
    path = write_zip(tmp_path / "set.zip", draw_files()[0])
    path.write_bytes(path.read_bytes()[:-200] if content == "truncated" else content)
    with pytest.raises(BadInput, match=r"set\.zip is truncated or not a zip"):
        read_images(path)


def test_a_damaged_entry_of_a_zip_is_an_error(tmp_path):
    files, _ = draw_files()
    path = write_zip(tmp_path / "set.zip", files)
    with zipfile.ZipFile(path) as file:
        entry = file.getinfo("bb/images/bb.png")
    content = bytearray(path.read_bytes())
    middle = entry.header_offset + 30 + len(entry.filename) + entry.compress_size // 2
    content[middle : middle + 8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"set\.zip: bb"):
        read_images(path)


@pytest.mark.parametrize("spoil", [image_undecodable, image_empty, two_images])
def test_a_bad_test_image_costs_itself_alone(tmp_path, spoil):
    files, truth = draw_files(masks=False)
    spoil(files, None)
    read = read_images(write_folder(tmp_path / "set", files), tmp_path / "cache")
    assert read.ids == ["aa", "cc"] and len(read.images) == len(read.kinds) == 2 and read.labels == []
    assert list(read.unreadable) == ["bb"] and "bb" in read.unreadable["bb"]
    assert np.array_equal(read.images[1], truth["cc"][0])
    assert_same_sets(read, read_images(tmp_path / "set", tmp_path / "cache"))


def test_a_file_that_cannot_be_read_costs_itself_alone(tmp_path, monkeypatch):
    files, _ = draw_files(masks=False)
    path = write_folder(tmp_path / "set", files)
    read_bytes = Path.read_bytes

    def refuse(self):
        if self.name == "bb.png":
            raise PermissionError(13, "Permission denied")
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    read = read_images(path, tmp_path / "cache")
    assert read.ids == ["aa", "cc"] and "Permission denied" in read.unreadable["bb"]


def test_a_set_may_hold_nothing_that_can_be_read(tmp_path):
    read = read_images(write_folder(tmp_path / "set", {"a/images/a.png": b"", "b/images/b.png": b"x"}))
    assert read.ids == read.images == read.labels == read.kinds == [] and list(read.unreadable) == ["a", "b"]


def test_a_few_shared_pixels_go_to_the_smaller_mask(tmp_path):
    labels = draw_discs((80, 80), (40, 25, 20), (40, 50, 5))
    large, small = labels == 1, labels == 2
    large[40, 45:47] = True  # two pixels that are the small one's
    assert (large & small).any()
    files = {
        "a/images/a.png": encode(np.zeros((80, 80, 3), np.uint8)),
        "a/masks/1.png": mask_of(large, True),
        "a/masks/2.png": mask_of(small, True),
    }
    read = read_images(write_folder(tmp_path / "set", files))
    assert read.overlapping == 1
    assert np.array_equal(read.labels[0] == 2, small)
    assert np.array_equal(read.labels[0] == 1, large & ~small)


@pytest.mark.parametrize("how", ["an empty folder", "an empty folder in a zip", "system files alone", "a black mask"])
def test_an_image_may_have_no_nuclei(tmp_path, how):
    files, truth = draw_files()
    masks_for_some_alone(files, None)
    files |= {
        "an empty folder": {},
        "an empty folder in a zip": {"bb/masks/": b""},
        "system files alone": {"bb/masks/.DS_Store": b"x", "bb/masks/Thumbs.db": b"x"},
        "a black mask": {"bb/masks/1.png": encode(np.zeros_like(truth["bb"][1], np.uint8))},
    }[how]
    path = write_zip(tmp_path / "set.zip", files) if "zip" in how else write_folder(tmp_path / "set", files)
    if how == "an empty folder":
        (path / "bb" / "masks").mkdir()
    for _ in ("decoded", "from the cache"):
        read = read_images(path, tmp_path / "cache")
        assert [labels.max() for labels in read.labels] == [truth["aa"][1].max(), 0, truth["cc"][1].max()]
        assert read.labels[1].dtype == np.int32


def test_empty_folders_of_masks_make_no_training_set(tmp_path):
    files, _ = draw_files(masks=False)
    path = write_folder(tmp_path / "set", files)
    before = read_images(path, tmp_path / "cache")
    for image_id in before.ids:
        (path / image_id / "masks").mkdir()
    assert_same_sets(read_images(path, tmp_path / "cache"), before)
    (path / "aa" / "masks" / "1.png").write_bytes(mask_of(draw_files()[1]["aa"][1], 1))
    assert [labels.max() for labels in read_images(path, tmp_path / "cache").labels] == [1, 0, 0]


def test_masks_of_several_parts_are_told(tmp_path, caplog):
    files, truth = draw_files()
    files["aa/masks/001.png"] = encode(np.isin(truth["aa"][1], [1, 2]).astype(np.uint8))
    del files["aa/masks/002.png"]
    with caplog.at_level(logging.WARNING, "nuclei"):
        read = read_images(write_folder(tmp_path / "set", files))
    assert (read.labels[0] == 1).sum() == np.isin(truth["aa"][1], [1, 2]).sum()
    assert "1 masks are in several parts, taken for one nucleus each; the first is" in caplog.text


# ---- the real thing ----------------------------------------------------------------------------


@pytest.mark.skipif(
    not (REAL / "stage1_test.zip").is_file(), reason="set NUCLEI_DATA to the folder with Kaggle's files"
)
def test_the_real_test_images_are_read():
    read = read_images(find_whole_set(REAL, TEST_NAMES[1]))
    assert len(read.ids) == 65 and not read.unreadable and not read.labels
    assert set(read.kinds) <= set(KINDS) and len(set(read.kinds)) >= 4
