"""Export: what a run found and how it trained, in the formats that other tools open."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy import ndimage as ndi
from skimage.measure import find_contours

from nuclei.competition.submission import encode_labels
from nuclei.settings.config import BadInput
from nuclei.settings.files import LOG_FILE, write_whole
from nuclei_kit.files.run_lists import parse_runs
from nuclei_kit.report.cases import gather_cases
from nuclei_kit.report.logs import read_training_log, write_events


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
        write_whole(out / "labels" / f"{image_id}.tif", encode_tiff(labels, image_id))
        write_whole(out / "qupath" / f"{image_id}.geojson", json.dumps(make_geojson(labels)))
    write_whole(out / "coco.json", json.dumps(make_coco(found)))
    if (run / LOG_FILE).is_file():
        write_events(read_training_log(run / LOG_FILE), out / "tensorboard")
    return len(found)


def encode_tiff(labels: np.ndarray, image_id: str) -> bytes:
    """Encode labels int32 (H, W) -> the bytes of a 16-bit TIFF, packed as even plain readers can unpack."""
    if labels.max(initial=0) > np.iinfo(np.uint16).max:
        raise BadInput(f"{image_id} holds {labels.max()} nuclei, too many for a 16-bit TIFF: leave it out")
    packing = [cv2.IMWRITE_TIFF_COMPRESSION, cv2.IMWRITE_TIFF_COMPRESSION_ADOBE_DEFLATE]
    return cv2.imencode(".tif", labels.astype(np.uint16), packing)[1].tobytes()


def make_geojson(labels: np.ndarray) -> dict[str, Any]:
    """Make labels int32 (H, W) a FeatureCollection with a detection, as QuPath calls it, for each nucleus.

    Corners are in px from the image's upper left one; an outline runs half way between pixels inside and outside.
    """
    features = []
    for label, box in enumerate(ndi.find_objects(labels), start=1):
        if box is None:
            continue
        corner = np.array([side.start for side in box]) - 0.5  # of the padded mask, and pixels' centres lie at 0.5
        rings = find_contours(np.pad(labels[box] == label, 1).astype(float), 0.5)
        outline = max(rings, key=len) + corner
        polygon = {"type": "Polygon", "coordinates": [outline[:, ::-1].tolist()]}
        features.append({"type": "Feature", "geometry": polygon, "properties": {"objectType": "detection"}})
    return {"type": "FeatureCollection", "features": features}


def make_coco(found: Mapping[str, np.ndarray]) -> dict[str, list]:
    """Make {image id: labels int32 (H, W)} a COCO data set of one category, its masks exact run lists."""
    images: list[dict] = []
    annotations: list[dict] = []
    for number, (image_id, labels) in enumerate(found.items(), start=1):
        height, width = labels.shape
        images.append({"id": number, "file_name": f"{image_id}.png", "height": height, "width": width})
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
    return {"images": images, "annotations": annotations, "categories": categories}
