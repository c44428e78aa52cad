"""Sources: a set's files are found in every layout in which people keep them, and what would be missed is named."""

import os
import shutil
import zipfile

import pytest
from drawn_files import assert_same_sets, draw_files, write_folder, write_zip

from nuclei.competition.data import TRAIN_NAME
from nuclei.settings.config import BadInput
from nuclei_kit.files import sources
from nuclei_kit.files.reading import find_whole_set, list_ids, read_images
from nuclei_kit.files.sources import FolderSource

FILES, _ = draw_files()
JPEGS = {
    name.replace(".png", ".jpg") if "/images/" in name else name: content for name, content in FILES.items()
}  # by name alone: what is in a file counts


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The set as it should be, in a folder, and what is read of it."""
    path = write_folder(tmp_path_factory.mktemp("whole") / "set", FILES)
    return path, read_images(path)


# ---- unpacked ----------------------------------------------------------------------------------


def link_images(base, path):
    path.mkdir()
    for folder in base.iterdir():
        (path / folder.name).symlink_to(folder)


def link_one_image(base, path):
    shutil.copytree(base, path)
    shutil.rmtree(path / "bb")
    (path / "bb").symlink_to(base / "bb")


def link_files(base, path):
    for file in base.rglob("*.png"):
        to = path / file.relative_to(base)
        to.parent.mkdir(parents=True, exist_ok=True)
        to.symlink_to(file)


def link_folders_of_files(base, path):
    for folder in base.glob("*/*"):
        to = path / folder.relative_to(base)
        to.parent.mkdir(parents=True, exist_ok=True)
        to.symlink_to(folder)


def link_set(base, path):
    path.symlink_to(base)


def loops(base, path):
    shutil.copytree(base, path)
    (path / "loop").symlink_to(path)
    (path / "aa" / "up").symlink_to("..")


def nested(base, path):
    shutil.copytree(base, path / path.name)


def system_files(base, path):
    shutil.copytree(base, path)
    rest = {"aa/images/._aa.png": b"\0\5\26\7", "aa/masks/Thumbs.db": b"x", ".DS_Store": b"x", "desktop.ini": b"x"}
    rest |= {"aa/images/.ipynb_checkpoints/aa-checkpoint.png": FILES["aa/images/aa.png"]}
    rest |= {".ipynb_checkpoints/dd/images/dd.png": FILES["aa/images/aa.png"], "__MACOSX/aa/images/aa.png": b"x"}
    rest |= {"aa/masks/@eaDir/001.png/SYNOPHOTO_THUMB.png": b"x", "aa/images/aa.png.aux.xml": b"<x/>"}
    write_folder(path, rest)


def upper_case(base, path):
    write_folder(path, {name.replace("masks", "Masks").replace(".png", ".PNG"): data for name, data in FILES.items()})


def other_ending(base, path):
    write_folder(path, JPEGS)


def unpacked_with_backslashes(base, path):
    path.mkdir()
    for name, content in FILES.items():
        (path / name.replace("/", "\\")).write_bytes(content)


LAYOUTS = (link_images, link_one_image, link_files, link_folders_of_files, link_set, loops, nested, system_files)
LAYOUTS += (upper_case, other_ending, unpacked_with_backslashes)


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda make: make.__name__)
def test_a_folder_in_every_layout_is_the_same_set(whole, tmp_path, make):
    base, expected = whole
    make(base, tmp_path / "set")
    assert_same_sets(read_images(tmp_path / "set"), expected)


# ---- zipped ------------------------------------------------------------------------------------


class _Stream:
    """A file that cannot seek: what is zipped into it has data descriptors."""

    def __init__(self, file):
        self.write, self.flush = file.write, file.flush


def rezip(path, name=lambda name: name, stream=False, zip64=False, start=b""):
    with open(path, "wb") as file:
        file.write(start)
        with zipfile.ZipFile(_Stream(file) if stream else file, "w", zipfile.ZIP_DEFLATED) as archive:
            for inner, content in FILES.items():
                entry = zipfile.ZipInfo()  # its constructor would cut names at backslashes on Windows
                entry.filename, entry.compress_type = name(inner), zipfile.ZIP_DEFLATED
                with archive.open(entry, "w", force_zip64=zip64) as out:
                    out.write(content)
    return path


ZIPS = {
    "backslashes": {"name": lambda name: name.replace("/", "\\")},
    "a folder inside": {"name": lambda name: f"{TRAIN_NAME}/{name}"},
    "a folder, with backslashes": {"name": lambda name: f"{TRAIN_NAME}/{name}".replace("/", "\\")},
    "./ in front": {"name": lambda name: f"./{name}"},
    "data descriptors": {"stream": True},
    "zip64": {"zip64": True},
    "a self-extractor": {"start": b"MZ" + bytes(500)},
}


@pytest.mark.parametrize("odd", ZIPS)
def test_an_odd_zip_is_the_same_set(whole, tmp_path, odd):
    assert_same_sets(read_images(rezip(tmp_path / "set.zip", **ZIPS[odd])), whole[1])


def test_a_zip_that_was_added_to_counts_as_unpacked(whole, tmp_path):
    path = write_zip(tmp_path / "set.zip", FILES | {"aa/images/aa.png": b"an older one", "__MACOSX/aa/images/aa": b"x"})
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("aa/images/aa.png", FILES["aa/images/aa.png"])
    assert_same_sets(read_images(path), whole[1])


def encrypt(path):
    """Set the flag of a password in every header of a zip."""
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.find(mark)
        while at >= 0:
            content[at + offset] |= 1
            at = content.find(mark, at + 1)
    path.write_bytes(content)


def test_an_encrypted_zip_is_named(tmp_path):
    encrypt(write_zip(tmp_path / "set.zip", FILES))
    with pytest.raises(BadInput, match=r"set\.zip: aa/images/aa\.png is encrypted: zip it again without a password"):
        read_images(tmp_path / "set.zip")


@pytest.mark.parametrize(
    "content, what",
    [
        (
            b"\n<!DOCTYPE html><title>Sign in",
            "is a web page, as Kaggle sends it to whom it does not know, not a zip: download it again",
        ),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", "is a web page"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(99), "is a 7z archive, not a zip: pack it as a zip"),
        (b"Rar!\x1a\x07\x01\0" + bytes(99), "is a RAR archive"),
        (b"\x1f\x8b\x08" + bytes(99), "is a gzip archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
        (b"", "is truncated or not a zip: download it again"),
        (bytes(999), "is truncated or not a zip: download it again"),
    ],
)
def test_what_only_has_the_name_of_a_zip_is_said_to_be_what_it_is(tmp_path, content, what):
    (tmp_path / "set.zip").write_bytes(content)
    with pytest.raises(BadInput, match=f"set.zip {what}"):
        list_ids(tmp_path / "set.zip")


# ---- what would be missed ----------------------------------------------------------------------


@pytest.mark.parametrize("link", ["dd", "aa/images", "aa/masks/x.png"])
def test_a_link_that_leads_nowhere_is_named(whole, tmp_path, link):
    shutil.copytree(whole[0], tmp_path / "set")
    shutil.rmtree(tmp_path / "set" / link, ignore_errors=True)
    (tmp_path / "set" / link).symlink_to("/gone/away")
    with pytest.raises(BadInput, match=f"{link} is a link to /gone/away, which is not there: mend or delete it"):
        read_images(tmp_path / "set")


def test_a_folder_that_may_not_be_read_is_named(whole, tmp_path, monkeypatch):
    shutil.copytree(whole[0], tmp_path / "set")
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("bb"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(sources.os, "scandir", refuse)
    with pytest.raises(PermissionError, match="bb"):
        read_images(tmp_path / "set")


def test_the_files_of_a_folder_are_bounded(whole, monkeypatch):
    monkeypatch.setattr(sources, "MAX_SET_FILES", 9)
    with pytest.raises(BadInput, match="holds over 9 files: name the folder of one set"):
        FolderSource(whole[0])


def test_the_depth_of_folders_is_bounded(tmp_path):
    (tmp_path / "/".join("d" * 40)).mkdir(parents=True)
    with pytest.raises(BadInput, match="lies too deep: name the folder of one set"):
        FolderSource(tmp_path)


@pytest.mark.parametrize("packed", [True, False])
def test_all_images_in_one_folder_are_named(tmp_path, packed):
    files = {f"images/{i}.png": FILES["aa/images/aa.png"] for i in range(3)} | {"masks/1.png": b""}
    path = write_zip(tmp_path / "set.zip", files) if packed else write_folder(tmp_path / "set", files)
    with pytest.raises(BadInput, match=r"no <id>/images/<file>\.png \(it holds images/0\.png, .*folder of its own"):
        read_images(path)


def test_an_image_folder_without_its_image_is_named(tmp_path):
    path = write_folder(tmp_path / "set", {"a/images/a.png": FILES["aa/images/aa.png"]})
    (path / "b" / "images").mkdir(parents=True)
    assert "b has no image: keep one file in b/images" in read_images(path).unreadable["b"]


# ---- where a set lies --------------------------------------------------------------------------


def test_the_case_of_a_name_does_not_matter(tmp_path):
    write_zip(tmp_path / "Stage1_Train.ZIP", FILES)
    assert find_whole_set(tmp_path, (TRAIN_NAME,)) == tmp_path / "Stage1_Train.ZIP"
    write_folder(tmp_path / "STAGE1_TRAIN", FILES)
    assert find_whole_set(tmp_path, (TRAIN_NAME,)) == tmp_path / "STAGE1_TRAIN"


def test_a_set_that_is_not_found_is_looked_for(tmp_path):
    zipped = write_zip(tmp_path / "x.zip", FILES)
    for place, words in {
        f"{TRAIN_NAME} (1).zip": rf"rename {TRAIN_NAME} \(1\)\.zip",
        f"{TRAIN_NAME}.tar.gz": rf"rename {TRAIN_NAME}\.tar\.gz",
        "data-science-bowl-2018.zip": r"unpack data-science-bowl-2018\.zip there",
        f"inner/{TRAIN_NAME}.zip": "name .*inner",
        "notes.txt": "download the files of the competition",
    }.items():
        folder = tmp_path / place.replace("/", "_")
        (folder / place).parent.mkdir(parents=True)
        shutil.copy(zipped, folder / place)
        with pytest.raises(BadInput, match=rf"{TRAIN_NAME}.*{words}"):
            find_whole_set(folder, (TRAIN_NAME,))
    (tmp_path / TRAIN_NAME).mkdir()
    with pytest.raises(BadInput, match=f"is {TRAIN_NAME} itself: name the folder that it lies in"):
        find_whole_set(tmp_path / TRAIN_NAME, (TRAIN_NAME,))
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / TRAIN_NAME).symlink_to("/gone/away")
    with pytest.raises(BadInput, match="a link that leads nowhere: mend"):
        find_whole_set(tmp_path / "linked", (TRAIN_NAME,))
