"""Measurements: numbers that can be computed by hand, and a CSV that gives them back."""

import csv
import io

import numpy as np
import pandas as pd
import pytest
from drawn import draw_ellipses, draw_odd_shapes

from nuclei_kit.exports.measurements import encode_table, measure

LABELS = draw_odd_shapes()
PX = ["label", "centroid-0", "centroid-1", "area", "axis_major_length", "axis_minor_length"]
UM = ["centroid-0_um", "centroid-1_um", "area_um2", "axis_major_length_um", "axis_minor_length_um"]


def test_an_ellipse_has_its_centre_its_area_and_its_axes():
    labels = draw_ellipses((100, 140), (40, 60, 15, 30))
    table = measure(labels, [labels.astype(np.uint16) * 700], [0.75])
    expected = [1, 40, 60, np.pi * 15 * 30, 60, 30, 700, 0.75]
    assert list(table) == [*PX, "intensity_mean", "confidence"]
    assert [float(column[0]) for column in table.values()] == pytest.approx(expected, rel=0.01)


def test_channels_are_measured_one_by_one_in_the_files_own_numbers():
    table = measure(LABELS, (LABELS * 100.0, np.full(LABELS.shape, 7, np.uint8), -LABELS))
    for channel, factor in enumerate((100, 0, -1)):
        expected = np.arange(1, 6) * factor + (7 if channel == 1 else 0)
        np.testing.assert_allclose(table[f"intensity_mean-{channel}"], expected)


def test_what_is_in_pixels_is_there_in_micrometres_too():
    table = measure(LABELS, [LABELS], pixel_size=(0.5, 0.25))
    assert list(table) == [*PX, "intensity_mean", *UM]
    np.testing.assert_allclose(table["centroid-0_um"], table["centroid-0"] * 0.25)
    np.testing.assert_allclose(table["centroid-1_um"], table["centroid-1"] * 0.5)
    np.testing.assert_allclose(table["area_um2"], table["area"] * 0.125)
    square = measure(LABELS, [LABELS], pixel_size=(0.5, 0.5))
    np.testing.assert_allclose(square["axis_major_length_um"], square["axis_major_length"] * 0.5)


def test_confidences_stay_with_their_numbers_where_one_is_missing():
    table = measure(np.where(LABELS == 2, 0, LABELS), [], np.arange(1, 6) / 10)
    np.testing.assert_allclose(table["confidence"], table["label"] / 10)


@pytest.mark.parametrize("labels", [LABELS, np.zeros((4, 5), np.int32)])
def test_the_csv_gives_the_numbers_back(labels):
    table = measure(labels, [labels] * 3, np.linspace(0.5, 0.9, labels.max()), (0.5, 0.5))
    text = encode_table(table)
    assert next(csv.reader(io.StringIO(text))) == list(table)
    read = pd.read_csv(io.StringIO(text))
    assert len(read) == labels.max()
    for name, column in table.items():
        np.testing.assert_allclose(read[name].to_numpy(float), column, rtol=1e-15)
