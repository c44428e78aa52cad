"""Outlines: polygons that hold exactly the pixels of their mask, valid whatever its shape."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from nuclei_kit.exports.outlines import find_polygons

shapely = pytest.importorskip("shapely")


@settings(max_examples=300)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.booleans()))
def test_any_mask_comes_back_from_its_polygons(mask):
    polygons = [shapely.Polygon(shell, holes) for shell, *holes in find_polygons(mask)]
    whole = shapely.MultiPolygon(polygons)
    assert whole.is_valid and all(polygon.is_valid for polygon in polygons)
    assert whole.area == np.count_nonzero(mask)
    rows, columns = np.indices(mask.shape)
    np.testing.assert_array_equal(shapely.contains_xy(whole, columns + 0.5, rows + 0.5), mask)


@pytest.mark.parametrize(
    "rows, rings",
    [
        (["#"], [1]),
        (["##", "##"], [1]),
        (["###", "#.#", "###"], [2]),
        (["#.#"], [1, 1]),
        (["#.", ".#"], [1, 1]),  # parts that touch in a corner
        (["####", "#.##", "##.#", "####"], [3]),  # holes that do
        (["###", "#.#", "##."], [2]),  # an outline that would touch itself
        ([".#.", "#.#", ".#."], [1, 1, 1, 1]),
        (["..."], []),
    ],
)
def test_parts_and_holes(rows, rings):
    mask = np.array([[letter == "#" for letter in row] for row in rows])
    polygons = find_polygons(mask)
    assert [len(polygon) for polygon in polygons] == rings
    assert all(ring[0] == ring[-1] for polygon in polygons for ring in polygon)


def test_corners_where_an_outline_runs_straight_on_are_left_out():
    ((shell,),) = find_polygons(np.ones((7, 9), bool))
    assert sorted(shell[1:]) == [(0, 0), (0, 7), (9, 0), (9, 7)]
