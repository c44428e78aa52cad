"""The cache: what is in it equals what was decoded, is never stale, and may be torn."""

import logging

import numpy as np
import pytest
from drawn_files import assert_same_sets, draw_files, encode, mask_of, write_folder, write_zip

from nuclei_kit.files import cache, reading
from nuclei_kit.files.cache import default_cache
from nuclei_kit.files.reading import read_images


def fail_to_decode(monkeypatch):
    def refuse(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(reading, "decode_image", refuse)


def test_zip_and_folder_are_one_set_with_one_cache(tmp_path, monkeypatch):
    files, _ = draw_files()
    folder = read_images(write_folder(tmp_path / "set", files), tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    plain = read_images(write_zip(tmp_path / "plain.zip", files))
    assert_same_sets(folder, plain)
    fail_to_decode(monkeypatch)
    for prefix in ("", "stage1_train/"):
        zipped = read_images(write_zip(tmp_path / "set.zip", files, prefix), tmp_path / "cache")
        assert_same_sets(folder, zipped)


@pytest.mark.parametrize("masks", [True, False])
def test_a_second_read_comes_from_the_cache(tmp_path, monkeypatch, masks):
    files, truth = draw_files(masks=masks)
    path = write_folder(tmp_path / "set", files)
    uncached = read_images(path)
    cold = read_images(path, tmp_path / "cache")
    fail_to_decode(monkeypatch)
    warm = read_images(path, tmp_path / "cache")
    assert_same_sets(uncached, cold)
    assert_same_sets(cold, warm)
    assert len(warm.labels) == (3 if masks else 0)
    warm.images[0][:] = 0  # what a reader does to its arrays is its own affair
    assert np.array_equal(read_images(path, tmp_path / "cache").images[0], truth["aa"][0])
    assert [path.name for path in (tmp_path / "cache").glob("*.tmp*")] == []


def test_the_cache_is_never_stale(tmp_path):
    files, truth = draw_files()
    path, cache = write_folder(tmp_path / "set", files), tmp_path / "cache"
    before = read_images(path, cache)
    labels = truth["bb"][1]
    mended = labels.copy()
    mended[:4, :4] = 1
    (path / "bb/masks/001.png").write_bytes(mask_of(mended, 1))
    after = read_images(path, cache)
    assert np.array_equal(after.labels[1], mended) and np.array_equal(before.labels[1], labels)
    assert np.array_equal(after.labels[0], before.labels[0])
    (path / "bb/masks/001.png").unlink()
    assert read_images(path, cache).labels[1].max() == labels.max() - 1
    (path / "aa/images/aa.png").write_bytes(encode(255 - truth["aa"][0]))
    assert np.array_equal(read_images(path, cache).images[0], 255 - truth["aa"][0])


@pytest.mark.parametrize("tear", ["truncate", "empty", "remove", "garble"])
def test_a_torn_cache_is_built_again(tmp_path, monkeypatch, tear):
    files, _ = draw_files()
    path, cache = write_folder(tmp_path / "set", files), tmp_path / "cache"
    whole = read_images(path, cache)
    names = sorted(p.relative_to(cache) for p in cache.rglob("*") if p.is_file())
    for name in names:
        file = cache / name
        content = file.read_bytes()
        file.unlink()  # a mapped file must not shrink under its reader
        if tear != "remove":
            torn = {"truncate": content[: len(content) // 2], "empty": b"", "garble": b"{" + content[1:20]}
            file.write_bytes(torn[tear])
        assert_same_sets(read_images(path, cache), whole)
    with monkeypatch.context() as patch:
        fail_to_decode(patch)
        assert_same_sets(read_images(path, cache), whole)


def test_a_cache_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    files, _ = draw_files()
    path = write_folder(tmp_path / "set", files)
    (tmp_path / "occupied").write_text("a file, not a folder")
    with caplog.at_level(logging.WARNING, "nuclei"):
        assert_same_sets(read_images(path, tmp_path / "occupied" / "cache"), read_images(path))
    assert "cannot be written" in caplog.text and str(tmp_path / "occupied") in caplog.text


def test_the_cache_has_its_place(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for said, place in ((tmp_path / "x", tmp_path / "x"), ("~/x", tmp_path / "x"), ("", tmp_path / ".cache/nuclei")):
        monkeypatch.setenv("NUCLEI_CACHE", str(said))
        assert default_cache() == place
    monkeypatch.delenv("NUCLEI_CACHE")
    assert default_cache() == tmp_path / ".cache/nuclei"


def test_a_user_without_a_home_has_no_cache_and_is_told_so_once(monkeypatch, caplog):
    def refuse(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.delenv("NUCLEI_CACHE")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", refuse)
    cache._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, "nuclei"):
        assert default_cache() is default_cache() is None
    assert caplog.text.count("this user has no home, and so no cache: set NUCLEI_CACHE") == 1


def test_a_file_system_without_maps_is_read(tmp_path, monkeypatch):
    files, _ = draw_files()
    path = write_folder(tmp_path / "set", files)
    expected = read_images(path, tmp_path / "cache")
    load = np.load

    def refuse_maps(file, mmap_mode=None):
        if mmap_mode:
            raise OSError(19, "No such device")
        return load(file)

    monkeypatch.setattr(np, "load", refuse_maps)
    fail_to_decode(monkeypatch)
    assert_same_sets(read_images(path, tmp_path / "cache"), expected)
