"""Outlines: a mask -> polygons along its pixels' edges, of exactly its area, valid by the rules of OGC and GeoJSON.

Each part that hangs together by edges is a polygon of one shell, which runs counterclockwise where y points up, and of
its holes, which run the other way. Rings may touch in corners, and cross nowhere.
"""

from collections.abc import Iterator

import numpy as np
from scipy import ndimage as ndi

Corner = tuple[int, int]  # of pixels, (x, y), in px from the mask's upper left one
Ring = list[Corner]  # closed: the first is also the last


def find_polygons(mask: np.ndarray) -> list[list[Ring]]:
    """Outline a mask, bool (H, W) -> a polygon for each of its parts: its shell, then its holes."""
    parts, count = ndi.label(mask)
    polygons: list[list[Ring]] = [[] for _ in range(count)]
    for ring, pixel in _walk(np.pad(parts, 1)):
        polygon = polygons[pixel - 1]
        polygon.insert(0 if _signed_area(ring) > 0 else len(polygon), ring)
    return polygons


def outline_nuclei(labels: np.ndarray) -> Iterator[tuple[int, list[list[Ring]]]]:
    """Outline each nucleus of labels int32 (H, W) -> its number and its polygons, corners in px of the image."""
    for label, box in enumerate(ndi.find_objects(labels), start=1):
        if box is not None:
            rows, columns = box
            yield (
                label,
                [
                    [[(x + columns.start, y + rows.start) for x, y in ring] for ring in polygon]
                    for polygon in find_polygons(labels[box] == label)
                ],
            )


def _walk(parts: np.ndarray) -> Iterator[tuple[Ring, int]]:
    """Walk along all edges of parts, int (H + 2, W + 2) with a frame of zeros -> rings, each with its part.

    A part lies on the left. A walk that comes to a corner again has closed a ring, which is cut off there: where two
    pixels of a part touch in a corner alone, its ring would touch itself.
    """
    edges = _leaving(parts)
    while edges:
        path = [next(iter(edges))]
        places, part = {path[0]: 0}, edges[path[0]][0][1]
        while way := next((one for one in edges.get(path[-1], []) if one[1] == part), None):
            edges[path[-1]].remove(way)
            if not edges[path[-1]]:
                del edges[path[-1]]
            corner = way[0]
            if corner in places:
                first = places[corner]
                yield _straighten(path[first:]), part
                for left in path[first + 1 :]:
                    del places[left]
                del path[first + 1 :]
            else:
                places[corner] = len(path)
                path.append(corner)


def _leaving(parts: np.ndarray) -> dict[Corner, list[tuple[Corner, int]]]:
    """List the edges between a part and what is not of it -> {corner (x, y): [(next corner, part)]}."""
    edges: dict[Corner, list[tuple[Corner, int]]] = {}
    for step, begin, end in (  # to the pixel beyond an edge, and to the edge's ends from its pixel's upper left corner
        ((-1, 0), (1, 0), (0, 0)),  # above it: to the left
        ((0, -1), (0, 0), (0, 1)),  # on its left: downwards
        ((1, 0), (0, 1), (1, 1)),  # below it: to the right
        ((0, 1), (1, 1), (1, 0)),  # on its right: upwards
    ):
        beyond = np.roll(parts, (-step[0], -step[1]), axis=(0, 1))
        for y, x in np.argwhere((parts > 0) & (parts != beyond)).tolist():
            left, upper = x - 1, y - 1  # without the frame
            way = (left + end[0], upper + end[1]), int(parts[y, x])
            edges.setdefault((left + begin[0], upper + begin[1]), []).append(way)
    return edges


def _straighten(corners):
    """Leave out the corners of a ring, given once each, at which it runs straight on -> a closed ring."""
    ahead = [*corners[1:], corners[0]]
    steps = [(there[0] - here[0], there[1] - here[1]) for here, there in zip(corners, ahead, strict=True)]
    kept = [here for here, step, before in zip(corners, steps, [steps[-1], *steps], strict=False) if step != before]
    return [*kept, kept[0]]


def _signed_area(ring):
    """Area of a closed ring: positive where it runs counterclockwise with y pointing up, as a shell here does."""
    x, y = np.array(ring).T
    return float(np.sum(x[1:] * y[:-1] - x[:-1] * y[1:]) / 2)
