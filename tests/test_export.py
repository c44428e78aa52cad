"""Exports, each read back by the library that its readers use."""

import json

import cv2
import numpy as np
import pytest
from drawn import draw_discs

from nuclei.competition.submission import make_rows, write_submission
from nuclei_kit.command.cli import main

LABELS = draw_discs((60, 80), (20, 20, 12), (40, 60, 9))
LABELS[5, 70] = 3  # a nucleus of one pixel
LABELS[50:, :4] = 4  # and one at the frame


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The exports of a run on two test images, one of them empty."""
    folder = tmp_path_factory.mktemp("export")
    for image_id in "ab":
        home = folder / "data" / "stage1_test" / image_id / "images"
        home.mkdir(parents=True)
        cv2.imwrite(str(home / "image.png"), np.zeros(LABELS.shape, np.uint8))
    rows = [*make_rows("a", LABELS), *make_rows("b", np.zeros_like(LABELS))]
    write_submission(folder / "run" / "submission.csv", rows)
    arguments = ["--data", str(folder / "data"), "--out", str(folder / "out")]
    assert main(["export", str(folder / "run"), *arguments]) == 0
    return folder / "out"


def test_label_tiffs(exported):
    tifffile = pytest.importorskip("tifffile")
    np.testing.assert_array_equal(tifffile.imread(exported / "labels" / "a.tif"), LABELS)
    assert tifffile.imread(exported / "labels" / "b.tif").dtype == np.uint16


def test_geojson(exported):
    shapely = pytest.importorskip("shapely")
    read = shapely.from_geojson((exported / "qupath" / "a.geojson").read_text())
    assert len(read.geoms) == 4
    rows, columns = np.indices(LABELS.shape)
    for label, polygon in enumerate(read.geoms, start=1):
        assert polygon.is_valid
        inside = shapely.contains_xy(polygon, columns + 0.5, rows + 0.5)  # a pixel's middle
        np.testing.assert_array_equal(inside, label == LABELS)
    assert json.loads((exported / "qupath" / "b.geojson").read_text())["features"] == []


def test_coco(exported):
    coco = pytest.importorskip("pycocotools.coco").COCO(exported / "coco.json")
    assert [image["file_name"] for image in coco.imgs.values()] == ["a.png", "b.png"]
    assert coco.getAnnIds(imgIds=[2]) == []
    for label, annotation in enumerate(coco.loadAnns(coco.getAnnIds(imgIds=[1])), start=1):
        np.testing.assert_array_equal(coco.annToMask(annotation), label == LABELS)
        assert annotation["area"] == np.count_nonzero(label == LABELS)
        x, y, width, height = annotation["bbox"]
        assert (LABELS[y : y + height, x : x + width] == label).sum() == annotation["area"]


def test_a_run_without_rows_is_a_sentence(exported, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    data = str(exported.parent / "data")
    assert main(["export", str(tmp_path / "run"), "--data", data, "--out", str(tmp_path / "out")]) == 2
    assert "no nuclei to export" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
