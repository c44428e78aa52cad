"""COCO: a data set that pycocotools reads back to the same masks."""

import json

import numpy as np
import pytest
from drawn import draw_odd_shapes

from nuclei_kit.exports.coco import describe_image, make_coco

coco = pytest.importorskip("pycocotools.coco")
LABELS = draw_odd_shapes()
SURE = np.linspace(0.5, 0.9, 5)


@pytest.fixture
def read(tmp_path):
    """Three images read back: one empty, the last without confidences."""
    entries = [
        describe_image("a.tif", LABELS, SURE),
        describe_image("b.PNG", np.zeros((7, 9), np.int32), []),
        describe_image("c.tif", LABELS.T.copy()),
    ]
    (tmp_path / "coco.json").write_text(json.dumps(make_coco(json.loads(json.dumps(entries)))))
    return coco.COCO(tmp_path / "coco.json")


def test_masks_and_boxes_come_back(read):
    assert [one["file_name"] for one in read.imgs.values()] == ["a.tif", "b.PNG", "c.tif"]
    assert read.getAnnIds(imgIds=[2]) == []
    for image, labels in ((1, LABELS), (3, LABELS.T)):
        for label, annotation in enumerate(read.loadAnns(read.getAnnIds(imgIds=[image])), start=1):
            np.testing.assert_array_equal(read.annToMask(annotation), label == labels)
            assert annotation["area"] == np.count_nonzero(label == labels)
            x, y, width, height = annotation["bbox"]
            assert (labels[y : y + height, x : x + width] == label).sum() == annotation["area"]


def test_confidences_are_scores(read):
    assert [one["score"] for one in read.loadAnns(read.getAnnIds(imgIds=[1]))] == SURE.tolist()
    assert not any("score" in one for one in read.loadAnns(read.getAnnIds(imgIds=[3])))
    kept = ("image_id", "category_id", "bbox", "score")
    results = [{name: one[name] for name in kept} for one in read.loadAnns(read.getAnnIds(imgIds=[1]))]
    assert len(read.loadRes(results).anns) == len(SURE)
