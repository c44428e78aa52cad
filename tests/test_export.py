"""Exports, each read back by the library that its readers use."""

import json
import sys

import cv2
import numpy as np
import pytest
import skimage.io
import tifffile
from drawn import draw_discs

from nuclei.competition.submission import make_rows, write_submission
from nuclei_kit.command.cli import main
from nuclei_kit.own_images.export import encode_tiff, make_coco

LABELS = draw_discs((60, 80), (20, 20, 12), (40, 60, 9))
LABELS[5, 70] = 3  # a nucleus of one pixel
LABELS[50:, :4] = 4  # one at the frame
LABELS[18:22, 18:22] = 0  # one with a hole
LABELS[30:33, 50:53] = LABELS[34:36, 55:57] = 5  # and one of two parts


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The exports of a run on two test images, one of them empty."""
    folder = tmp_path_factory.mktemp("export")
    for image_id in "ab":
        home = folder / "data" / "stage1_test" / image_id / "images"
        home.mkdir(parents=True)
        cv2.imwrite(str(home / "image.tif"), np.zeros(LABELS.shape, np.uint8))
    rows = [*make_rows("a", LABELS), *make_rows("b", np.zeros_like(LABELS))]
    write_submission(folder / "run" / "submission.csv", rows)
    arguments = ["--data", str(folder / "data"), "--out", str(folder / "out")]
    assert main(["export", str(folder / "run"), *arguments]) == 0
    return folder / "out"


def test_label_tiffs(exported):
    np.testing.assert_array_equal(skimage.io.imread(exported / "labels" / "a.tif"), LABELS)
    assert tifffile.imread(exported / "labels" / "b.tif").dtype == np.uint16


def test_more_labels_than_16_bits_hold_are_a_tiff_of_32(tmp_path, monkeypatch):
    labels = np.arange(300 * 300, dtype=np.int32).reshape(300, 300)
    (tmp_path / "x.tif").write_bytes(encode_tiff(labels))
    monkeypatch.setitem(sys.modules, "imagecodecs", None)  # other environments may lack it
    np.testing.assert_array_equal(skimage.io.imread(tmp_path / "x.tif"), labels)
    assert cv2.imread(str(tmp_path / "x.tif"), cv2.IMREAD_UNCHANGED)[-1, -1] == labels.max()


def test_geojson(exported):
    shapely = pytest.importorskip("shapely")
    content = json.loads((exported / "qupath" / "a.geojson").read_text())
    kinds = [feature["geometry"]["type"] for feature in content["features"]]
    assert kinds == ["Polygon", "Polygon", "Polygon", "Polygon", "MultiPolygon"]
    read = shapely.from_geojson(json.dumps(content))
    rows, columns = np.indices(LABELS.shape)
    for label, polygon in enumerate(read.geoms, start=1):
        assert polygon.is_valid and polygon.area == np.count_nonzero(label == LABELS)
        inside = shapely.contains_xy(polygon, columns + 0.5, rows + 0.5)  # a pixel's middle
        np.testing.assert_array_equal(inside, label == LABELS)
    assert json.loads((exported / "qupath" / "b.geojson").read_text())["features"] == []


def test_coco(exported):
    coco = pytest.importorskip("pycocotools.coco").COCO(exported / "coco.json")
    assert [image["file_name"] for image in coco.imgs.values()] == ["a/images/image.tif", "b/images/image.tif"]
    assert coco.getAnnIds(imgIds=[2]) == []
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    for label, annotation in enumerate(annotations, start=1):
        np.testing.assert_array_equal(coco.annToMask(annotation), label == LABELS)
        assert annotation["area"] == np.count_nonzero(label == LABELS)
        x, y, width, height = annotation["bbox"]
        assert (LABELS[y : y + height, x : x + width] == label).sum() == annotation["area"]
    results = [
        {name: one[name] for name in ("image_id", "category_id", "bbox")} | {"score": 1.0} for one in annotations
    ]
    assert len(coco.loadRes(results).anns) == len(annotations)


def test_files_are_called_as_they_were():
    coco = make_coco({"a": LABELS, "b": LABELS}, {"a": "a.tif", "b": "b.PNG"})
    assert [image["file_name"] for image in coco["images"]] == ["a.tif", "b.PNG"]


def test_a_run_without_rows_is_a_sentence(exported, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    data = str(exported.parent / "data")
    assert main(["export", str(tmp_path / "run"), "--data", data, "--out", str(tmp_path / "out")]) == 2
    assert "no nuclei to export" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
