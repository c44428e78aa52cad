"""A competition's files as tests draw them: name -> bytes, in Kaggle's layout, zipped or unpacked."""

import csv
import zipfile
from pathlib import Path

import cv2
import numpy as np
from drawn import draw_field


def encode(pixels, ending=".png"):
    """Pixels in RGB(A) or grey -> the bytes of an image file."""
    if pixels.ndim == 3:
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return cv2.imencode(ending, pixels)[1].tobytes()


def mask_of(labels, index, foreground=255):
    return encode(((labels == index) * foreground).astype(np.uint8))


def draw_files(ids=("aa", "bb", "cc"), masks=True):
    """name -> bytes, in Kaggle's layout, and id -> (image, labels): three images of different sizes."""
    files, truth = {}, {}
    for number, image_id in enumerate(ids):
        labels = draw_field(np.random.default_rng(number), (40 + 10 * number, 60), 5, 4 + number)
        image = np.repeat(np.where(labels > 0, 160 + labels, 20 + number).astype(np.uint8)[..., None], 3, axis=2)
        files[f"{image_id}/images/{image_id}.png"] = encode(np.dstack([image, np.full(labels.shape, 255, np.uint8)]))
        for index in range(1, labels.max() + 1) if masks else ():
            files[f"{image_id}/masks/{index:03}.png"] = mask_of(labels, index)
        truth[image_id] = image, labels
    return files, truth


def write_folder(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def read_folder(folder):
    """name -> bytes of the files right in a folder."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def read_rows(path):
    """The rows of a CSV, each a dict."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write_zip(path, files, prefix=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in reversed(files.items()):  # no order is promised
            file.writestr(prefix + name, content)
    return path


def assert_same_sets(a, b):
    assert (a.ids, a.kinds, a.unreadable, a.overlapping) == (b.ids, b.kinds, b.unreadable, b.overlapping)
    for one, other in ((a.images, b.images), (a.labels, b.labels)):
        assert len(one) == len(other)
        assert all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(one, other, strict=True))
