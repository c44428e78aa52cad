"""Batches: what files, folders and patterns stand for, and names for what is found that keep images apart."""

import os
from pathlib import Path

import numpy as np
import pytest
from drawn_files import encode, write_folder

from nuclei.settings.config import BadInput
from nuclei_kit.own_images.batch import gather_images, name_outputs

PNG = encode(np.zeros((4, 5), np.uint8))
OUT = Path("found")


@pytest.fixture
def plate(tmp_path, monkeypatch):
    """Two wells with images of one name, and what else lies in folders."""
    monkeypatch.chdir(tmp_path)
    images = dict.fromkeys(("A01/dapi.png", "A02/dapi.png", "A02/deep/er.TIF", "odd name"), PNG)
    broken = {"A02/broken.png": b"", "A02/scan.czi": b"ZISRAWFILE"}
    others = {"notes.txt": b"x", "A01/._dapi.png": PNG, ".hidden/x.png": PNG, "__MACOSX/x.png": PNG, "Thumbs.db": b"x"}
    outputs = {"found/dapi.labels.png": PNG, "A01/old.labels.png": PNG, "A01/old.overlay.png": PNG}
    write_folder(tmp_path, images | broken | others | outputs)
    return tmp_path


def gathered(*arguments, out=OUT):
    paths, wrong = gather_images([Path(one) for one in arguments], out)
    return [str(path) for path in paths], wrong


def test_a_folder_stands_for_the_images_in_it_and_below(plate, caplog):
    caplog.set_level("INFO", "nuclei")
    everything = ["odd name", "A01/dapi.png", "A02/broken.png", "A02/dapi.png", "A02/scan.czi", "A02/deep/er.TIF"]
    assert gathered(".") == (everything, [])
    assert ".: 2 files that are no images are left out" in caplog.text
    assert gathered("A01", "A02/deep") == (["A01/dapi.png", "A02/deep/er.TIF"], [])


def test_links_are_followed_and_circles_are_not(plate):
    (plate / "linked").symlink_to(plate / "A01")
    (plate / "A01" / "up").symlink_to(plate)
    (plate / "A01" / "other.png").symlink_to("../A02/dapi.png")
    assert gathered("linked")[0][:2] == ["linked/dapi.png", "linked/other.png"]


@pytest.mark.parametrize(
    "pattern, expected",
    [
        ("*/dapi.png", ["A01/dapi.png", "A02/dapi.png"]),
        ("A0?/dapi.*", ["A01/dapi.png", "A02/dapi.png"]),
        ("**/*.TIF", ["A02/deep/er.TIF"]),
        ("A0[2]/dapi.png", ["A02/dapi.png"]),
        ("A?1", ["A01/dapi.png"]),
    ],
)
def test_a_pattern_stands_for_the_files_that_fit_it(plate, pattern, expected):
    assert gathered(pattern) == (expected, [])


def test_a_file_that_is_named_like_a_pattern_is_that_file(plate):
    (plate / "[1].png").write_bytes(PNG)
    assert gathered("[1].png") == (["[1].png"], [])


def test_a_file_given_twice_is_done_once(plate, caplog):
    caplog.set_level("INFO", "nuclei")
    (plate / "link.png").symlink_to("A01/dapi.png")
    assert gathered("A01/dapi.png", "./A01/../A01/dapi.png", "A01", "*/dapi.png", "link.png") == (
        ["A01/dapi.png", "A02/dapi.png"],
        [],
    )
    assert "link.png is the same file as A01/dapi.png" in caplog.text


def test_what_stands_for_nothing_is_named_beside_the_rest(plate):
    (plate / "empty").mkdir()
    paths, wrong = gathered("empty", "x*.tif", "A01", "missing.png")
    assert paths == ["A01/dapi.png", "missing.png"]  # reading it will say that it is missing
    assert [one.split(":")[0] for one in wrong] == ["empty holds no images", "x*.tif fits no file"]


@pytest.mark.parametrize(
    "paths, expected",
    [
        (["a/one.png", "b/two.tif"], ["one", "two"]),
        (["p/A01/dapi.png", "p/A02/dapi.png"], ["A01/dapi", "A02/dapi"]),
        (["p/A01/dapi.png", "p/A02/dapi.png", "p/A02/gfp.png"], ["A01/dapi", "A02/dapi", "A02/gfp"]),
        (["x.png", "sub/x.png"], ["x", "sub/x"]),
        (["x.png", "x.tif"], ["x.png", "x.tif"]),
        (["a/x.png", "a/x.tif", "b/x.tif"], ["a/x.png", "a/x.tif", "b/x"]),
        (["Dapi.png", "dapi.tif"], ["Dapi.png", "dapi.tif"]),  # one file on some systems
        (["a/Dapi.png", "b/dapi.png"], ["a/Dapi", "b/dapi"]),
        (["\u00fc.png", "u\u0308.tif"], ["\u00fc.png", "u\u0308.tif"]),
        (["../one/x.png", "two/x.png"], ["one/x", "HERE/two/x"]),
    ],
)
def test_what_is_found_bears_names_that_differ(paths, expected):
    here = Path.cwd().name
    outputs = name_outputs([Path(one) for one in paths], OUT)
    names = [one.replace("HERE", here) for one in expected]
    assert list(outputs.values()) == [OUT / one for one in names]


@pytest.mark.parametrize("written", ["a.labels.png", "a.labels.tif", "a.overlay.png"])
def test_no_output_replaces_an_image(plate, written):
    with pytest.raises(BadInput, match=rf"a\.png would replace the image {written}: name another folder"):
        name_outputs([Path("a.png"), Path(written)], Path("."))


def test_names_that_differ_in_nothing_are_refused():
    with pytest.raises(BadInput, match=r"would both be written to found/x\.png: rename one"):
        name_outputs([Path("x.png"), Path("x.tif"), Path("x.png.bmp")], OUT)


def test_a_folder_that_cannot_be_read_is_named_and_the_rest_is_taken(plate, monkeypatch):
    real = os.scandir

    def refuse(path):
        if str(path) == "A01":
            raise PermissionError(13, "Permission denied", "A01")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert gathered("A01", "A02/deep") == (["A02/deep/er.TIF"], ["A01 cannot be read: Permission denied"])


def test_a_link_that_leads_nowhere_is_an_image_that_will_fail(plate):
    (plate / "A01" / "gone.png").symlink_to("nowhere")
    assert gathered("A01") == (["A01/dapi.png", "A01/gone.png"], [])
