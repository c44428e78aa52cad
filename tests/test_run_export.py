"""Run export: all that a run found, in every format, under the names that its images had."""

import json

import cv2
import numpy as np
import pytest
import roifile
import tifffile
from drawn import draw_odd_shapes

from nuclei.competition.submission import make_rows, write_submission
from nuclei.settings.files import write_csv
from nuclei_kit.command import options
from nuclei_kit.command.cli import main
from nuclei_kit.exports.found import ENCODERS
from nuclei_kit.exports.run_export import PLACES
from nuclei_kit.files.tables import read_table

LABELS = draw_odd_shapes()
SURE = [0.5, 0.6, 0.7, 0.8, 0.9]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The exports of a run on two test images, one of them empty."""
    folder = tmp_path_factory.mktemp("export")
    for image_id in "ab":
        home = folder / "data" / "stage1_test" / image_id / "images"
        home.mkdir(parents=True)
        cv2.imwrite(str(home / "image.tif"), np.full(LABELS.shape, 50, np.uint8))
    rows = [*make_rows("a", LABELS), *make_rows("b", np.zeros_like(LABELS))]
    write_submission(folder / "run" / "submission.csv", rows)
    write_csv(folder / "run" / "confidence.csv", ("ImageId", "confidence"), [("a", one) for one in SURE])
    assert export(folder, folder / "out") == 0
    return folder / "out"


def export(folder, out, *more):
    return main(["export", str(folder / "run"), "--data", str(folder / "data"), "--out", str(out), *more])


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_every_image_is_there_in_every_format(exported):
    each = {place.format(image_id) for place in PLACES.values() for image_id in "ab"}
    assert names(exported) == {*each, "coco.json"}
    np.testing.assert_array_equal(tifffile.imread(exported / "labels/a.tif"), LABELS)
    assert len(roifile.roiread(exported / "rois/a.zip")) == LABELS.max()
    features = json.loads((exported / "qupath/a.geojson").read_text())["features"]
    assert [one["properties"]["measurements"]["Confidence"] for one in features] == SURE
    rows = read_table(exported / "nuclei/a.csv", ("label", "intensity_mean-2", "confidence"))
    assert [float(row["confidence"]) for row in rows] == SURE
    assert {row["intensity_mean-2"] for row in rows} == {"50.0"}
    assert read_table(exported / "nuclei/b.csv", ("label", "confidence")) == []


def test_coco_calls_files_as_they_were(exported):
    content = json.loads((exported / "coco.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a/images/image.tif", "b/images/image.tif"]
    assert [one["score"] for one in content["annotations"]] == SURE


def test_the_formats_may_be_chosen(exported, tmp_path, capsys):
    assert export(exported.parent, tmp_path / "out", "--formats", "csv,roi") == 0
    assert names(tmp_path / "out") == {"nuclei/a.csv", "nuclei/b.csv", "rois/a.zip", "rois/b.zip"}
    assert "in 2 images, as csv, roi." in capsys.readouterr().out


def test_a_format_that_is_not_there_is_a_sentence(exported, tmp_path, capsys):
    assert export(exported.parent, tmp_path / "out", "--formats", "csv,ROI") == 2
    assert "'ROI' is none of tiff, roi, geojson, coco, csv" in capsys.readouterr().err


def test_the_formats_that_are_offered_are_those_that_are_written():
    assert {*ENCODERS, "coco"} == {*options.FORMATS} == {*PLACES, "coco"}


def test_a_run_without_rows_is_a_sentence(exported, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "data").symlink_to(exported.parent / "data")
    assert export(tmp_path, tmp_path / "out") == 2
    assert "no nuclei to export" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
