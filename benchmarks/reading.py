"""Reading: seconds to read stage1_train, cold, warm, and beside the loop that most kernels use.

    .venv/bin/python benchmarks/reading.py DIR

DIR holds stage1_train.zip. The peer unpacks the zip into a temporary folder (timed apart) and reads each file with
scikit-image, as the competition's popular kernels do.
"""

import argparse
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from skimage.io import imread

from nuclei.competition.data import TRAIN_NAME
from nuclei_kit.files.reading import find_whole_set, read_images


def popular_loop(folder):
    """Read every image and its masks, one file after the other."""
    images, labels = [], []
    for path in sorted(folder.iterdir()):
        image = imread(next((path / "images").iterdir()))[..., :3]
        painted = np.zeros(image.shape[:2], np.int32)
        for number, mask in enumerate(sorted((path / "masks").iterdir()), start=1):
            painted[imread(mask) > 0] = number
        images.append(image)
        labels.append(painted)
    return images, labels


def timed(name, action):
    start = time.monotonic()
    result = action()
    print(f"{name:<34} {time.monotonic() - start:>7.1f} s", flush=True)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DIR", type=Path)
    path = find_whole_set(parser.parse_args().data, (TRAIN_NAME,))
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        timed("nuclei, cold (decode and cache)", lambda: read_images(path, scratch / "cache"))
        timed("nuclei, warm (from the cache)", lambda: read_images(path, scratch / "cache"))
        if path.is_file():
            timed("peer: unpack the zip", lambda: zipfile.ZipFile(path).extractall(scratch / "unpacked"))
            path = scratch / "unpacked"
        timed("peer: scikit-image, file by file", lambda: popular_loop(path))


if __name__ == "__main__":
    main()
