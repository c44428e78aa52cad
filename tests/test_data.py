"""Data: decoding, the two ways a set may lie on disk, and the cache."""

import logging
import mmap
import os
import struct
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn import draw_discs, draw_field
from hypothesis import given, settings
from hypothesis import strategies as st

from nuclei import data
from nuclei.config import BadInput
from nuclei.data import TEST_NAMES, TRAIN, ImageSet, decode_image, find_set, paint_labels, read_set
from nuclei.kinds import KINDS

REAL = Path(os.environ.get("NUCLEI_DATA", Path(__file__).parents[2] / "shared" / "dsb2018"))


def encode(pixels, ending=".png"):
    """Pixels in RGB(A) or grey -> the bytes of an image file."""
    if pixels.ndim == 3:
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return cv2.imencode(ending, pixels)[1].tobytes()


def palette_png(indices, palette):
    """uint8 (H, W) indices into `palette`, rows of RGB -> the bytes of a palette PNG, which OpenCV cannot write."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = indices.shape
    lines = b"".join(b"\0" + line.tobytes() for line in indices)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            chunk(b"PLTE", bytes(palette.astype(np.uint8).ravel())),
            chunk(b"IDAT", zlib.compress(lines)),
            chunk(b"IEND", b""),
        ]
    )


# ---- decoding ----------------------------------------------------------------------------------

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
GREY = np.repeat(RGB[..., :1], 3, axis=2)


@pytest.mark.parametrize(
    "content, expected",
    [
        (encode(RGB), RGB),
        (encode(RGB, ".tiff"), RGB),
        (encode(np.dstack([RGB, RGB[..., 0]])), RGB),
        (encode(RGB[..., 0]), GREY),
        (encode(RGB[..., 0], ".tiff"), GREY),
        (palette_png(np.arange(35, dtype=np.uint8).reshape(5, 7), RGB.reshape(35, 3)), RGB),
        (encode(RGB[:1, :1]), RGB[:1, :1]),
    ],
    ids=["rgb", "rgb tiff", "rgba", "grey", "grey tiff", "palette", "1x1"],
)
def test_eight_bits_pass_as_they_are(content, expected):
    image = decode_image(content, "file")
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    assert np.array_equal(image, expected)


@pytest.mark.parametrize("ending", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [(), (3,), (4,)])
@pytest.mark.parametrize("low, high", [(0, 65535), (100, 4095), (30000, 30200)])
def test_sixteen_bits_are_stretched_over_what_they_hold(ending, channels, low, high):
    ramp = np.linspace(low, high, 60 * 50).round().astype(np.uint16).reshape(60, 50)
    pixels = np.repeat(ramp[..., None], channels[0], axis=2) if channels else ramp
    image = decode_image(encode(pixels, ending), "file")
    assert image.shape == (60, 50, 3) and image.dtype == np.uint8
    expected = (ramp - low) / (high - low) * 255
    np.testing.assert_allclose(image, np.repeat(expected[..., None], 3, axis=2), atol=1.5)


@pytest.mark.parametrize("ending", [".png", ".tiff"])
@pytest.mark.parametrize("pixels", [RGB, RGB[..., 0], RGB.astype(np.uint16) * 200], ids=["rgb", "grey", "16 bits"])
def test_a_file_is_decoded_as_its_bytes_are(tmp_path, ending, pixels):
    path = tmp_path / f"Zellkerne ü{ending}"
    path.write_bytes(encode(pixels, ending))
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert np.array_equal(decode_image(mapped, "file", path=path), decode_image(mapped[:], "file"))
        with pytest.raises(BadInput, match="file states 5 x 7 pixels"):
            decode_image(mapped, "file", most=34, path=path)


@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_large_image_is_stretched_by_some_of_its_pixels(monkeypatch, channels):
    small = np.random.default_rng(0).integers(0, 2**16, (20, 30, *channels), np.uint16)
    large = small.repeat(7, axis=0).repeat(7, axis=1)
    expected = decode_image(encode(small), "file").repeat(7, axis=0).repeat(7, axis=1)
    monkeypatch.setattr(data, "MAX_SORTED", small.size)
    assert np.array_equal(decode_image(encode(large), "file"), expected)


@given(st.integers(-20, 20), st.floats(-1e3, 1e3), st.booleans())
@settings(deadline=None, max_examples=40)
def test_floats_of_any_scale_give_the_same_image(exponent, offset, negate):
    ramp = np.linspace(0, 1, 400).reshape(20, 20)
    expected = decode_image(encode(ramp.astype(np.float32), ".tiff"), "file")
    assert expected.min() == 0 and expected.max() == 255
    scaled = (-ramp if negate else ramp) * 10.0**exponent
    if abs(offset) < 10.0**exponent * 100:  # else float32 itself loses the ramp
        scaled = scaled + offset
    image = decode_image(encode(scaled.astype(np.float32), ".tiff"), "file")
    np.testing.assert_allclose(image, 255.0 - expected if negate else expected, atol=1.01)


def test_what_is_no_number_leaves_the_rest_as_it_was():
    ramp = 1000 + np.linspace(0, 10, 2000, dtype=np.float32).reshape(40, 50)
    broken = ramp.copy()
    broken[20, :3] = np.nan, np.inf, -np.inf
    image, whole = (decode_image(encode(pixels, ".tiff"), "file") for pixels in (broken, ramp))
    assert image[20, :3, 0].tolist() == [0, 255, 0]
    image[20, :3] = whole[20, :3]
    np.testing.assert_allclose(image, whole.astype(float), atol=1)


@pytest.mark.parametrize("value", [0.0, 7.5, np.nan, np.inf])
def test_a_blank_float_image_is_blank(value):
    image = decode_image(encode(np.full((3, 4), value, np.float32), ".tiff"), "file")
    assert image.shape == (3, 4, 3) and not image.any()


@pytest.mark.parametrize("content", [b"", b"no image", encode(RGB)[:30], encode(RGB, ".tiff")[:40]])
def test_what_is_no_image_is_refused_by_name(content):
    with pytest.raises(BadInput, match=r"some/file\.png cannot be decoded"):
        decode_image(content, "some/file.png")


# ---- a set on disk -----------------------------------------------------------------------------


def mask_of(labels, index, foreground=255):
    return encode(((labels == index) * foreground).astype(np.uint8))


def draw_files(ids=("aa", "bb", "cc"), masks=True):
    """name -> bytes, in Kaggle's layout, and id -> (image, labels): three images of different sizes."""
    files, truth = {}, {}
    for number, image_id in enumerate(ids):
        labels = draw_field(np.random.default_rng(number), (40 + 10 * number, 60), 5, 4 + number)
        image = np.repeat(np.where(labels > 0, 160 + labels, 20 + number).astype(np.uint8)[..., None], 3, axis=2)
        files[f"{image_id}/images/{image_id}.png"] = encode(np.dstack([image, np.full(labels.shape, 255, np.uint8)]))
        for index in range(1, labels.max() + 1) if masks else ():
            files[f"{image_id}/masks/{index:03}.png"] = mask_of(labels, index)
        truth[image_id] = image, labels
    return files, truth


def write_folder(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_zip(path, files, prefix=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in reversed(files.items()):  # no order is promised
            file.writestr(prefix + name, content)
    return path


def assert_same_sets(a, b):
    assert (a.ids, a.kinds, a.faults, a.overlapping) == (b.ids, b.kinds, b.faults, b.overlapping)
    for one, other in ((a.images, b.images), (a.labels, b.labels)):
        assert len(one) == len(other)
        assert all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(one, other, strict=True))


def fail_to_decode(monkeypatch):
    def refuse(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(data, "decode_image", refuse)


def test_a_set_is_what_was_drawn(tmp_path):
    files, truth = draw_files()
    files |= {"__MACOSX/aa/images/aa.png": b"resource", "aa/images/._aa.png": b"fork", "aa/notes.txt": b"note"}
    read = read_set(write_folder(tmp_path / "set", files))
    assert read.ids == ["aa", "bb", "cc"] and not read.faults and read.overlapping == 0
    assert set(read.kinds) <= set(KINDS)
    for image_id, image, labels in zip(read.ids, read.images, read.labels, strict=True):
        assert image.dtype == np.uint8 and labels.dtype == np.int32
        assert np.array_equal(image, truth[image_id][0]) and np.array_equal(labels, truth[image_id][1])


def test_zip_and_folder_are_one_set_with_one_cache(tmp_path, monkeypatch):
    files, _ = draw_files()
    folder = read_set(write_folder(tmp_path / "set", files), tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    plain = read_set(write_zip(tmp_path / "plain.zip", files))
    assert_same_sets(folder, plain)
    fail_to_decode(monkeypatch)
    for prefix in ("", "stage1_train/"):
        zipped = read_set(write_zip(tmp_path / "set.zip", files, prefix), tmp_path / "cache")
        assert_same_sets(folder, zipped)


@pytest.mark.parametrize("masks", [True, False])
def test_a_second_read_comes_from_the_cache(tmp_path, monkeypatch, masks):
    files, truth = draw_files(masks=masks)
    path = write_folder(tmp_path / "set", files)
    uncached = read_set(path)
    cold = read_set(path, tmp_path / "cache")
    fail_to_decode(monkeypatch)
    warm = read_set(path, tmp_path / "cache")
    assert_same_sets(uncached, cold)
    assert_same_sets(cold, warm)
    assert len(warm.labels) == (3 if masks else 0)
    warm.images[0][:] = 0  # what a reader does to its arrays is its own affair
    assert np.array_equal(read_set(path, tmp_path / "cache").images[0], truth["aa"][0])
    assert [path.name for path in (tmp_path / "cache").glob("*.tmp*")] == []


def test_the_cache_is_never_stale(tmp_path):
    files, truth = draw_files()
    path, cache = write_folder(tmp_path / "set", files), tmp_path / "cache"
    before = read_set(path, cache)
    labels = truth["bb"][1]
    mended = labels.copy()
    mended[:4, :4] = 1
    (path / "bb/masks/001.png").write_bytes(mask_of(mended, 1))
    after = read_set(path, cache)
    assert np.array_equal(after.labels[1], mended) and np.array_equal(before.labels[1], labels)
    assert np.array_equal(after.labels[0], before.labels[0])
    (path / "bb/masks/001.png").unlink()
    assert read_set(path, cache).labels[1].max() == labels.max() - 1
    (path / "aa/images/aa.png").write_bytes(encode(255 - truth["aa"][0]))
    assert np.array_equal(read_set(path, cache).images[0], 255 - truth["aa"][0])


@pytest.mark.parametrize("tear", ["truncate", "empty", "remove", "garble"])
def test_a_torn_cache_is_built_again(tmp_path, monkeypatch, tear):
    files, _ = draw_files()
    path, cache = write_folder(tmp_path / "set", files), tmp_path / "cache"
    whole = read_set(path, cache)
    names = sorted(p.relative_to(cache) for p in cache.rglob("*") if p.is_file())
    for name in names:
        file = cache / name
        content = file.read_bytes()
        file.unlink()  # a mapped file must not shrink under its reader
        if tear != "remove":
            torn = {"truncate": content[: len(content) // 2], "empty": b"", "garble": b"{" + content[1:20]}
            file.write_bytes(torn[tear])
        assert_same_sets(read_set(path, cache), whole)
    with monkeypatch.context() as patch:
        fail_to_decode(patch)
        assert_same_sets(read_set(path, cache), whole)


def test_a_cache_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    files, _ = draw_files()
    path = write_folder(tmp_path / "set", files)
    (tmp_path / "occupied").write_text("a file, not a folder")
    with caplog.at_level(logging.WARNING, "nuclei"):
        assert_same_sets(read_set(path, tmp_path / "occupied" / "cache"), read_set(path))
    assert "cannot be written" in caplog.text and str(tmp_path / "occupied") in caplog.text


def test_the_cache_has_its_place(monkeypatch, tmp_path):
    monkeypatch.setenv("NUCLEI_CACHE", str(tmp_path))
    assert data.default_cache() == tmp_path
    monkeypatch.delenv("NUCLEI_CACHE")
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    assert data.default_cache() == Path.home() / ".cache" / "nuclei"
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert Path.home() not in data.default_cache().parents


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
        assert np.array_equal(read_set(write_folder(tmp_path / "set", files)).labels[0], labels)


def test_a_folder_beats_its_zip(tmp_path):
    files, truth = draw_files()
    write_zip(tmp_path / f"{TRAIN}.zip", files)
    assert find_set(tmp_path, (TRAIN,)) == tmp_path / f"{TRAIN}.zip"
    mended = mask_of(np.ones_like(truth["aa"][1]), 1)
    write_folder(tmp_path / TRAIN, files | {"aa/masks/001.png": mended})
    assert find_set(tmp_path, (TRAIN,)) == tmp_path / TRAIN


def test_a_folder_that_lacks_images_of_its_zip_is_refused(tmp_path):
    files, _ = draw_files()
    write_zip(tmp_path / f"{TRAIN}.zip", files)
    write_folder(tmp_path / TRAIN, {name: content for name, content in files.items() if not name.startswith("b")})
    with pytest.raises(BadInput, match=rf"{TRAIN} lacks 1 of the images in {TRAIN}.zip"):
        find_set(tmp_path, (TRAIN,))


@pytest.mark.parametrize("name", ["stage2_test_final", "stage2_test"])
def test_stage_two_goes_by_either_name(tmp_path, name):
    write_zip(tmp_path / f"{name}.zip", draw_files(masks=False)[0])
    assert find_set(tmp_path, TEST_NAMES[2]).name == f"{name}.zip"
    with pytest.raises(BadInput, match=r"holds no stage1_test\.zip"):
        find_set(tmp_path, TEST_NAMES[1])


def test_a_folder_that_is_no_competition_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"missing is no folder"):
        find_set(tmp_path / "missing", (TRAIN,))
    with pytest.raises(BadInput, match=rf"holds no {TRAIN}.zip .* \(it holds nothing\)"):
        find_set(tmp_path, (TRAIN,))
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(BadInput, match=r"it holds holiday\.jpg"):
        find_set(tmp_path, (TRAIN,))


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
        (image_undecodable, "bb/images/bb.png cannot be decoded as an image"),
        (image_empty, "bb/images/bb.png cannot be decoded as an image"),
        (mask_undecodable, "bb/masks/002.png cannot be decoded as a mask"),
        (mask_empty_file, "bb/masks/002.png cannot be decoded as a mask"),
        (mask_of_another_size, "bb/masks/002.png is 9x8 but its image is 50x60"),
        (mask_without_pixels, "bb/masks/002.png is an empty mask"),
        (masks_overlap, "the masks of bb overlap in"),
        (masks_repeated, "the masks of bb overlap in"),
        (no_image, "bb has no image"),
        (two_images, "bb is a duplicate id, with 2 images"),
        (masks_for_some_alone, "1 images have no masks, bb first"),
    ],
)
def test_a_fault_in_a_training_set_is_an_error(tmp_path, spoil, fragment, packed):
    files, truth = draw_files()
    spoil(files, truth["bb"][1])
    path = write_zip(tmp_path / "set.zip", files) if packed else write_folder(tmp_path / "set", files)
    path.mkdir(exist_ok=True) if not packed else None
    with pytest.raises(BadInput, match=fragment) as caught:
        read_set(path, tmp_path / "cache")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("content", [b"", b"no zip", "truncated"])
def test_a_broken_zip_is_an_error(tmp_path, content):
    path = write_zip(tmp_path / "set.zip", draw_files()[0])
    path.write_bytes(path.read_bytes()[:-200] if content == "truncated" else content)
    with pytest.raises(BadInput, match=r"set\.zip is truncated or no zip"):
        read_set(path)


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
        read_set(path)


@pytest.mark.parametrize("spoil", [image_undecodable, image_empty, two_images])
def test_a_bad_test_image_costs_itself_alone(tmp_path, spoil):
    files, truth = draw_files(masks=False)
    spoil(files, None)
    read = read_set(write_folder(tmp_path / "set", files), tmp_path / "cache")
    assert read.ids == ["aa", "cc"] and len(read.images) == len(read.kinds) == 2 and read.labels == []
    assert list(read.faults) == ["bb"] and "bb" in read.faults["bb"]
    assert np.array_equal(read.images[1], truth["cc"][0])
    assert_same_sets(read, read_set(tmp_path / "set", tmp_path / "cache"))


def test_a_file_that_cannot_be_read_costs_itself_alone(tmp_path, monkeypatch):
    files, _ = draw_files(masks=False)
    path = write_folder(tmp_path / "set", files)
    read_bytes = Path.read_bytes

    def refuse(self):
        if self.name == "bb.png":
            raise PermissionError(13, "Permission denied")
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    read = read_set(path, tmp_path / "cache")
    assert read.ids == ["aa", "cc"] and "Permission denied" in read.faults["bb"]


def test_a_set_may_be_faults_alone(tmp_path):
    read = read_set(write_folder(tmp_path / "set", {"a/images/a.png": b"", "b/images/b.png": b"x"}))
    assert read.ids == read.images == read.labels == read.kinds == [] and list(read.faults) == ["a", "b"]


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
    read = read_set(write_folder(tmp_path / "set", files))
    assert read.overlapping == 1
    assert np.array_equal(read.labels[0] == 2, small)
    assert np.array_equal(read.labels[0] == 1, large & ~small)


def test_painted_labels_number_the_masks_and_measure_their_overlap():
    labels, shared = paint_labels([np.array([0, 1, 2, 3]), np.array([3, 4]), np.array([10])], (3, 4))
    assert labels.dtype == np.int32
    assert labels.tolist() == [[1, 1, 1, 2], [2, 0, 0, 0], [0, 0, 3, 0]]
    assert shared == pytest.approx(1 / 6)
    labels, shared = paint_labels([np.array([i]) for i in range(600)], (20, 30))
    assert np.array_equal(labels.ravel(), np.arange(1, 601)) and shared == 0


def test_a_subset_keeps_each_image_with_its_own():
    whole = ImageSet(
        list("abcd"), [np.full((1, 1, 3), i) for i in range(4)], [np.full((1, 1), i) for i in range(4)], KINDS
    )
    part = whole.subset(np.array([3, 1]))
    assert part.ids == ["d", "b"] and part.kinds == [KINDS[3], KINDS[1]]
    assert [int(one[0, 0, 0]) for one in part.images] == [int(one[0, 0]) for one in part.labels] == [3, 1]
    assert replace(whole, labels=[]).subset([0]).labels == []


# ---- the real thing ----------------------------------------------------------------------------


@pytest.mark.skipif(
    not (REAL / "stage1_test.zip").is_file(), reason=f"{REAL} holds no stage1_test.zip: set NUCLEI_DATA"
)
def test_the_real_test_images_are_read():
    read = read_set(find_set(REAL, TEST_NAMES[1]))
    assert len(read.ids) == 65 and not read.faults and not read.labels
    assert set(read.kinds) <= set(KINDS) and len(set(read.kinds)) >= 4
