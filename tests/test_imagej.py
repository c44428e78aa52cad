"""ImageJ: labels and ROIs, read back by tifffile, scikit-image, OpenCV and roifile."""

import sys

import cv2
import numpy as np
import pytest
import roifile
import skimage.io
import tifffile
from drawn import draw_odd_shapes

from nuclei_kit.exports.imagej import encode_rois, encode_tiff
from nuclei_kit.files.decoding import read_picture

shapely = pytest.importorskip("shapely")
LABELS = draw_odd_shapes()


def write_tiff(path, labels, pixel_size=None):
    path.write_bytes(encode_tiff(labels, pixel_size))
    return path


def read_rois(path, labels):
    path.write_bytes(encode_rois(labels))
    return roifile.roiread(path)


def filled(roi, shape):
    """The pixels that ImageJ takes for a ROI's: in an odd number of its rings."""
    rows, columns = np.indices(shape) + 0.5
    rings = [shapely.Polygon(ring) for ring in roi.coordinates(multi=True)]
    return np.sum([shapely.contains_xy(ring, columns, rows) for ring in rings], axis=0) % 2 == 1


def test_labels_are_of_16_bits(tmp_path):
    found = skimage.io.imread(write_tiff(tmp_path / "x.tif", LABELS))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, LABELS)


def test_more_labels_than_16_bits_hold_are_of_32(tmp_path, monkeypatch):
    labels = np.arange(300 * 300, dtype=np.int32).reshape(300, 300)
    path = write_tiff(tmp_path / "x.tif", labels)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)  # other environments may lack it
    np.testing.assert_array_equal(skimage.io.imread(path), labels)
    assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[-1, -1] == labels.max()


def test_the_size_of_a_pixel_comes_back(tmp_path):
    path = write_tiff(tmp_path / "x.tif", LABELS, (0.65, 0.325))
    with tifffile.TiffFile(path) as tif:
        assert tif.pages.first.resolutionunit == 3  # centimetres
        assert tif.pages.first.resolution == pytest.approx((1e4 / 0.65, 1e4 / 0.325))
    assert read_picture(path, path).pixel_size == pytest.approx((0.65, 0.325))


def test_rois_hold_the_pixels_of_their_nuclei(tmp_path):
    rois = read_rois(tmp_path / "x.zip", LABELS)
    assert [roi.name for roi in rois] == ["1", "2", "3", "4", "5"]
    assert [roi.composite for roi in rois] == [True, True, False, False, True]
    for label, roi in enumerate(rois, start=1):
        np.testing.assert_array_equal(filled(roi, LABELS.shape), label == LABELS)


@pytest.mark.parametrize("far", [(9, 40_000), (40_000, 9), (9, 70_000)])
def test_rois_lie_where_16_bits_no_longer_reach(tmp_path, far):
    labels = np.zeros((far[0] + 4, far[1] + 4), np.uint8).astype(np.int32)
    labels[far[0] : far[0] + 2, far[1] : far[1] + 3] = 1
    (roi,) = read_rois(tmp_path / "x.zip", labels)
    (ring,) = roi.coordinates(multi=True)
    np.testing.assert_array_equal([ring.min(axis=0), ring.max(axis=0)], [far[::-1], (far[1] + 3, far[0] + 2)])


def test_the_same_labels_give_the_same_bytes():
    assert encode_rois(LABELS) == encode_rois(LABELS.copy())
    assert encode_tiff(LABELS, (0.5, 0.5)) == encode_tiff(LABELS.copy(), (0.5, 0.5))


def test_no_nuclei_are_a_zip_without_rois(tmp_path):
    assert read_rois(tmp_path / "x.zip", np.zeros((4, 5), np.int32)) == []
