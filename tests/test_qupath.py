"""QuPath: GeoJSON with its object type, class and confidence, the geometry read back by shapely."""

import json

import numpy as np
import pytest
from drawn import draw_odd_shapes

from nuclei_kit.exports.qupath import make_geojson

shapely = pytest.importorskip("shapely")
LABELS = draw_odd_shapes()


def test_polygons_hold_the_pixels_of_their_nuclei():
    read = shapely.from_geojson(json.dumps(make_geojson(LABELS)))
    assert [one.geom_type for one in read.geoms] == ["Polygon", "Polygon", "Polygon", "Polygon", "MultiPolygon"]
    rows, columns = np.indices(LABELS.shape)
    for label, polygon in enumerate(read.geoms, start=1):
        assert polygon.is_valid and polygon.area == np.count_nonzero(label == LABELS)
        inside = shapely.contains_xy(polygon, columns + 0.5, rows + 0.5)  # a pixel's middle
        np.testing.assert_array_equal(inside, label == LABELS)


def test_each_has_what_qupath_reads_beside_the_geometry():
    features = json.loads(json.dumps(make_geojson(LABELS, np.linspace(0.5, 0.9, 5))))["features"]
    for number, feature in enumerate(features):
        told = feature["properties"]
        assert feature["type"] == "Feature" and told["objectType"] == "detection"
        assert told["name"] == str(number + 1) and told["classification"]["name"] == "Nucleus"
        assert told["measurements"] == {"Confidence": pytest.approx(0.5 + 0.1 * number)}


def test_what_is_not_known_is_not_told():
    assert "measurements" not in make_geojson(LABELS)["features"][0]["properties"]
    assert make_geojson(np.zeros((4, 5), np.int32))["features"] == []
