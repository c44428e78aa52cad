"""COCO: the nuclei of many images as one data set, their masks exact run lists."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import ndimage as ndi

from nuclei.competition.submission import encode_labels
from nuclei_kit.files.run_lists import parse_runs


def describe_image(name: str, labels: np.ndarray, confidences: Sequence[float] | None = None) -> dict[str, Any]:
    """Describe an image and what was found in it, labels int32 (H, W) -> an entry for `make_coco`, of what JSON holds.

    Args:
        name: the file's.
        confidences: of the nuclei 1..n, 0..1, which become scores; None where they are not known.
    """
    height, width = labels.shape
    annotations = []
    boxes = [(label, box) for label, box in enumerate(ndi.find_objects(labels), start=1) if box is not None]
    for rle, (label, (rows, columns)) in zip(encode_labels(labels), boxes, strict=True):
        starts, lengths = parse_runs(rle, height, width)
        # COCO's runs go down the columns too, but count what is between them.
        edges = np.stack([starts, starts + lengths], axis=1).ravel()
        counts = np.diff(edges, prepend=0, append=height * width).tolist()
        annotation: dict[str, Any] = {"category_id": 1, "iscrowd": 0, "area": int(lengths.sum())}
        annotation["bbox"] = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
        annotation["segmentation"] = {"size": [height, width], "counts": counts}
        if confidences is not None:
            annotation["score"] = confidences[label - 1]
        annotations.append(annotation)
    return {"image": {"file_name": name, "height": height, "width": width}, "annotations": annotations}


def make_coco(entries: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Make a COCO data set of one category of what `describe_image` gave for each image."""
    images: list[dict] = []
    annotations: list[dict] = []
    for number, entry in enumerate(entries, start=1):
        images.append({"id": number, **entry["image"]})
        for one in entry["annotations"]:
            annotations.append({"id": len(annotations) + 1, "image_id": number, **one})
    return {
        "info": {"description": "Nuclei found by nuclei-kit", "version": "1.0"},  # pycocotools asks for both
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "nucleus", "supercategory": "cell"}],
    }
