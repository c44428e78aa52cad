"""Load: 3,000 images and one of 20,000 x 20,000 through nuclei predict, killed (-9) half way and started again.

    .venv/bin/python benchmarks/stress/load.py [stage2] [files] [large] [--images 3000] [--side 20000] [--weights RUN]

stage2 is the images as a competition's second stage, files as files of one's own, large the one image; all three where
none is named. The images are drawn, in the sizes of stage1_train. RUN is a finished run's folder; without it a network
of the cpu preset is trained on the sample for --minutes first. Prints the time for a megapixel, the peak memory, what
was kept when the kill came, and how much of that was done again (exit status 1 where that is not 0).
"""

import argparse
import math
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from nuclei.prediction.tta import VIEWS, view_image
from nuclei_kit.own_images.blocks import BLOCK
from nuclei_kit.own_images.journal import UNFINISHED
from nuclei_kit.sample.sample import SAMPLE_LOOKS, draw_image, draw_sample

NUCLEI = (sys.executable, "-m", "nuclei_kit")
PATCH = 512  # px, side of what is drawn; larger images are laid out with patches, turned at random
# (height, width) and how many of stage1_train's images have it, the rarest left out
SIZES = {(256, 256): 334, (256, 320): 111, (360, 360): 90, (520, 696): 90, (1024, 1024): 16, (512, 640): 13}


def draw_patches(look, count, rng):
    """Draw images (PATCH, PATCH, 3) of a look, as crowded as the sample's."""
    crowd = PATCH**2 / np.mean([height * width for height, width in look.sizes])
    wide = replace(look, sizes=((PATCH, PATCH),), counts=tuple(int(crowd * count) for count in look.counts))
    return [draw_image(wide, rng)[0] for _ in range(count)]


def lay_out(patches, height, width, rng):
    """Lay patches side by side, each shifted round and in one of its eight views -> uint8 (height, width, 3)."""
    image = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, PATCH):
        for left in range(0, width, PATCH):
            place = image[top : top + PATCH, left : left + PATCH]
            patch = np.roll(patches[rng.integers(len(patches))], rng.integers(PATCH, size=2), axis=(0, 1))
            patch = view_image(patch, rng.choice(VIEWS))
            place[:] = patch[: place.shape[0], : place.shape[1]]
    return image


def draw_images(folder, count, rng):
    """Write `count` images as <folder>/<n>/images/<n>.png -> their paths."""
    patches = {look: draw_patches(look, 4, rng) for look in SAMPLE_LOOKS}
    sizes = rng.choice(list(SIZES), count, p=np.array(list(SIZES.values())) / sum(SIZES.values()))
    paths = [folder / f"{n:05d}" / "images" / f"{n:05d}.png" for n in range(count)]
    for n, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), lay_out(patches[SAMPLE_LOOKS[n % len(SAMPLE_LOOKS)]], *size, rng))
    return paths


def train_network(folder, minutes):
    """Train the cpu preset on the sample -> the run's folder."""
    draw_sample(folder / "sample")
    command = [*NUCLEI, "train", "--data", folder / "sample", "--preset", "cpu", "--minutes", str(minutes)]
    subprocess.run([*command, "--out", folder / "run"], check=True)
    return folder / "run"


def count_kept(out):
    """Count the images or, of one image, the blocks that an unfinished prediction has done: lines of its journals."""
    lines = {path.stem: path.read_bytes().count(b"\n") - 1 for path in (out / UNFINISHED).glob("*.journal")}
    images = lines.pop("images", 0)  # its first line names the weights, that of a journal of blocks the zoom
    return images or sum(lines.values())


def predict(arguments, out, half):
    """Run `nuclei predict` as a process, killed a little after `half` (where not None) is kept.

    Returns:
        (what it said, seconds, peak memory in GB).
    """
    start, said = time.monotonic(), out.with_name(f"{out.name}.said")
    with open(said, "w") as file:
        command = [*NUCLEI, "predict", "--out", out, *arguments]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        while half is not None and not has_ended(process):
            time.sleep(0.2)
            if count_kept(out) >= half:
                time.sleep(random.uniform(0, 2))
                os.kill(process.pid, signal.SIGKILL)
                break
        _, status, used = os.wait4(process.pid, 0)
    finally:
        process.kill()
    if os.waitstatus_to_exitcode(status) not in (0, -signal.SIGKILL):
        sys.exit(said.read_text())
    return said.read_text(), time.monotonic() - start, used.ru_maxrss / 1e6


def has_ended(process):
    """Whether a process has ended; what it used can still be asked for."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def run_load(name, arguments, out, half):
    """Predict, kill it half way, resume to the end, and print a row -> how much was done again."""
    _, first, memory = predict(arguments, out, half)
    kept = count_kept(out)
    if not kept:
        sys.exit(f"{name} was done before it could be killed: give it more")
    said, rest, peak = predict(arguments, out, None)
    (resumed,) = map(int, re.findall(r"resuming after (\d+)", said))
    megapixels, each = map(float, re.findall(r"images, ([\d.]+) megapixels, ([\d.]+) s a megapixel", said)[-1])
    row = f"{name:<8} {megapixels:>10.1f} {first:>8.0f} {rest:>8.0f} {each:>12.2f} {max(memory, peak):>8.1f}"
    print(f"{row} {kept:>6} {kept - resumed:>9}", flush=True)
    return kept - resumed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loads", nargs="*", metavar="LOAD", help="stage2, files or large")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--weights", metavar="RUN", type=Path)
    parser.add_argument("--minutes", type=float, default=3.0)
    args = parser.parse_args()
    loads, rng = args.loads or ["stage2", "files", "large"], np.random.default_rng(0)
    print(f"plan: {', '.join(loads)}; {args.images} images, one of {args.side} x {args.side}", flush=True)
    again = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["NUCLEI_CACHE"] = str(folder / "cache")
        weights = ["--weights", args.weights or train_network(folder, args.minutes)]
        if {"stage2", "files"} & set(loads):
            paths = draw_images(folder / "data" / "stage2_test_final", args.images, rng)
        header = f"{'load':<8} {'megapixels':>10} {'killed s':>8} {'rest s':>8} {'s/megapixel':>12} {'peak GB':>8}"
        print(f"{header} {'kept':>6} {'repeated':>9}", flush=True)
        if "stage2" in loads:
            data = ["--data", folder / "data", "--stage", "2"]
            again += run_load("stage2", [*weights, *data], folder / "stage2", args.images // 2)
        if "files" in loads:
            again += run_load("files", [*weights, *paths], folder / "files", args.images // 2)
        if "large" in loads:
            image = lay_out(draw_patches(SAMPLE_LOOKS[0], 8, rng), args.side, args.side, rng)
            cv2.imwrite(str(folder / "large.png"), image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
            del image
            half = math.ceil(args.side / BLOCK) ** 2 // 2  # of the blocks, which are more where the zoom is over 1
            again += run_load("large", [*weights, folder / "large.png"], folder / "large", half)
    return int(again > 0)


if __name__ == "__main__":
    sys.exit(main())
