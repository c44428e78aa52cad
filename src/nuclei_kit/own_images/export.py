"""Export: what a run found and how it trained, in the formats that other tools open."""

import contextlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from scipy import ndimage as ndi

from nuclei.competition.data import TEST_NAMES, TRAIN_NAME
from nuclei.competition.submission import encode_labels
from nuclei.settings.config import BadInput
from nuclei.settings.files import LOG_FILE, write_whole
from nuclei_kit.files.reading import find_whole_set, list_names
from nuclei_kit.files.run_lists import parse_runs
from nuclei_kit.files.run_tables import read_training_log
from nuclei_kit.own_images.outlines import find_polygons
from nuclei_kit.report.cases import gather_cases
from nuclei_kit.report.logs import write_events


def export_run(run: Path, data: Path, out: Path, stage: int = 1) -> int:
    """Write all that a run found as label TIFFs (ImageJ), GeoJSON (QuPath) and one COCO JSON -> how many images.

    Its training goes into an event file (TensorBoard), if it has left a log.

    Args:
        run: a finished run's folder.
        data: the competition's folder.
        out: the folder that gets labels/<id>.tif, qupath/<id>.geojson, coco.json and tensorboard/.
        stage: 1 or 2, whose test images the run's submission is for.

    Raises:
        BadInput: nothing to export, rows that break a rule, or the data are not those of the run.
    """
    found = {case.image_id: case.found for case in gather_cases(run, data, stage)}
    if not found:
        raise BadInput(f"{run} holds no nuclei to export: name the folder of a run, as nuclei run leaves it")
    for image_id, labels in found.items():
        write_whole(out / "labels" / f"{image_id}.tif", encode_tiff(labels))
        write_whole(out / "qupath" / f"{image_id}.geojson", json.dumps(make_geojson(labels)))
    write_whole(out / "coco.json", json.dumps(make_coco(found, _file_names(data, stage, found))))
    if (run / LOG_FILE).is_file():
        write_events(read_training_log(run / LOG_FILE), out / "tensorboard")
    return len(found)


def encode_tiff(labels: np.ndarray) -> bytes:
    """Encode labels int32 (H, W) -> the bytes of a TIFF of 16 bits, of 32 where there are more labels than that.

    It is packed by zlib, which tifffile unpacks without imagecodecs.
    """
    file = io.BytesIO()
    pixels = labels if labels.max(initial=0) > np.iinfo(np.uint16).max else labels.astype(np.uint16)
    tifffile.imwrite(file, pixels, photometric="minisblack", compression="zlib")
    return file.getvalue()


def make_geojson(labels: np.ndarray) -> dict[str, Any]:
    """Make labels int32 (H, W) a FeatureCollection with a detection, as QuPath calls it, for each nucleus.

    Corners are in px from the image's upper left one. An outline runs along the edges of pixels, so that holes, parts
    and the area are those of the mask.
    """
    features = []
    for label, box in enumerate(ndi.find_objects(labels), start=1):
        if box is None:
            continue
        rows, columns = box
        polygons = [
            [[(x + columns.start, y + rows.start) for x, y in ring] for ring in polygon]
            for polygon in find_polygons(labels[box] == label)
        ]
        kind, coordinates = ("Polygon", polygons[0]) if len(polygons) == 1 else ("MultiPolygon", polygons)
        geometry = {"type": kind, "coordinates": coordinates}
        features.append({"type": "Feature", "geometry": geometry, "properties": {"objectType": "detection"}})
    return {"type": "FeatureCollection", "features": features}


def _file_names(data, stage, found):
    """Find the names of the images that something was found in -> {image id: file name}.

    Where two files share a name, their folders stand before it.
    """
    names: dict[str, str] = {}
    for held in (TEST_NAMES[stage], (TRAIN_NAME,)):
        with contextlib.suppress(BadInput):  # a competition may lack the set that nothing is about
            names |= list_names(find_whole_set(data, held))
    names = {image_id: names[image_id] for image_id in found}
    last = {image_id: name.split("/")[-1] for image_id, name in names.items()}
    return last if len(set(last.values())) == len(last) else names


def make_coco(found: Mapping[str, np.ndarray], names: Mapping[str, str]) -> dict[str, Any]:
    """Make {image id: labels int32 (H, W)} a COCO data set of one category, its masks exact run lists.

    Args:
        names: {image id: file name}.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    for number, (image_id, labels) in enumerate(found.items(), start=1):
        height, width = labels.shape
        images.append({"id": number, "file_name": names[image_id], "height": height, "width": width})
        boxes = [box for box in ndi.find_objects(labels) if box is not None]
        for rle, (rows, columns) in zip(encode_labels(labels), boxes, strict=True):
            starts, lengths = parse_runs(rle, height, width)
            box = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
            # COCO's runs go down the columns too, but count what is between them.
            edges = np.stack([starts, starts + lengths], axis=1).ravel()
            counts = np.diff(edges, prepend=0, append=height * width).tolist()
            annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0, "bbox": box}
            annotation |= {"area": int(lengths.sum()), "segmentation": {"size": [height, width], "counts": counts}}
            annotations.append(annotation)
    categories = [{"id": 1, "name": "nucleus", "supercategory": "cell"}]
    info = {"description": "Nuclei found by nuclei-kit", "version": "1.0"}  # pycocotools asks for both
    return {
        "info": info,
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
