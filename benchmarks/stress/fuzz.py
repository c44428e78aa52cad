"""Fuzzing: mutated images, zips and tables through every reader; all that a reader may do is answer or raise BadInput.

    .venv/bin/python benchmarks/stress/fuzz.py [--seconds 60] [--seed 0]

Each round is a process of its own, so that a crash of a decoder is found, too, and its seed printed. Exit status 1
where anything but an answer or BadInput came.
"""

import argparse
import contextlib
import io
import os
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np

from nuclei.settings.config import BadInput
from nuclei_kit.experiments.scoring import check_file, read_solution
from nuclei_kit.files.decoding import decode_image
from nuclei_kit.files.reading import read_images
from nuclei_kit.files.run_lists import check_submission
from nuclei_kit.files.tables import read_table

SOUND = cv2.imencode(".png", np.zeros((20, 30, 3), np.uint8))[1].tobytes()
ROUND = 100  # inputs of each kind in a process
LIMIT = 120  # seconds for a round: one that takes longer hangs
TABLE = (
    b'ImageId,EncodedPixels,Height,Width,Usage\r\na,1 2 9 1,20,30,Private\r\n"b",5 4,20,30,Public\r\nc,,9,9,Ignored\n'
)


def make_seeds():
    """Make valid files -> {kind: list of bytes}."""
    rng = np.random.default_rng(0)
    images = [
        rng.integers(0, top, shape, kind)
        for top, kind in ((256, np.uint8), (65536, np.uint16))
        for shape in ((20, 30), (20, 30, 3), (20, 30, 4))
    ]
    pngs = [cv2.imencode(".png", image)[1].tobytes() for image in images]
    tiffs = [cv2.imencode(".tiff", image)[1].tobytes() for image in (*images, rng.random((9, 8)).astype(np.float32))]
    zips = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", method) as archive:
            archive.writestr("a/images/a.png", pngs[0])
            archive.writestr("b/images/b.tif", tiffs[1])
        zips.append(packed.getvalue())
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", method) as archive:
            archive.writestr("table.csv", TABLE)
        zips.append(packed.getvalue())
    return {"png": pngs, "tiff": tiffs, "zip": zips, "csv": [TABLE, b"\xef\xbb\xbf" + TABLE]}


def mutate(content, rng):
    """Change some bytes, cut them out, double them or cut them off."""
    broken = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place, length = rng.randrange(len(broken) + 1), rng.choice((1, 2, 4, 8, 40))
        change = rng.randrange(5)
        if change == 0:
            broken[place : place + length] = rng.randbytes(length)
        elif change == 1:
            broken[place : place + length] = rng.choice((b"\0", b"\xff", b"\x7f", b'"', b"\n", b",")) * length
        elif change == 2:
            del broken[place : place + length]
        elif change == 3:
            broken[place:place] = broken[place : place + length]
        elif rng.random() < 0.2:
            del broken[place:]
    return bytes(broken)


def read_all(kind, content, folder):
    """Give a mutated file to every reader of its kind -> how many of them refused it."""
    refused = 0
    if kind in ("png", "tiff"):
        (folder / "set/a/images").mkdir(parents=True, exist_ok=True)
        (folder / "set/a/masks").mkdir(exist_ok=True)
        (folder / "set/a/images/a.png").write_bytes(SOUND)
        (folder / "set/a/masks/1.png").write_bytes(content)
        readers = (lambda: decode_image(content, "x"), lambda: read_images(folder / "set"))
    else:
        path = folder / f"x.{kind}"
        path.write_bytes(content)
        readers = (lambda: read_table(path, []), lambda: check_file(path), lambda: read_solution(path))
        readers += (lambda: check_submission(path, {"a": (20, 30), "b": None}),)
        readers += (lambda: read_images(path),) if kind == "zip" else ()
    for reader in readers:
        try:
            reader()
        except BadInput:
            refused += 1
    return refused


def run_round(seed):
    """Do one process's work, and print how many readers refused an input of each kind."""
    rng, seeds, counts = random.Random(seed), make_seeds(), {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, sound in seeds.items():
            refused = 0
            for number in range(ROUND):
                content = mutate(rng.choice(sound), rng)
                try:
                    refused += read_all(kind, content, Path(folder))
                except Exception as error:
                    kept = Path(tempfile.gettempdir(), f"fuzz-{seed}-{number}.{kind}")
                    kept.write_bytes(content)
                    raise RuntimeError(f"{kept}: {error!r}") from error
            counts[kind] = refused
    print(counts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--round", action="store_true", help="run one round in this process")
    args = parser.parse_args()
    if args.round:
        run_round(args.seed)
        return 0
    start, seed, failed = time.monotonic(), args.seed, 0
    while time.monotonic() - start < args.seconds:
        command = [sys.executable, __file__, "--round", "--seed", str(seed)]
        status, said = "hangs", ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            # A decoder's own complaints go with the rest; the last lines are Python's.
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=LIMIT)
            status, said = done.returncode, done.stderr
        if status:
            failed += 1
            print(f"seed {seed}: {status}\n{said[-2000:]}", flush=True)
        seed += 1
    rounds = seed - args.seed
    print(f"{rounds} rounds of 4 x {ROUND} inputs in {time.monotonic() - start:.0f} s, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    sys.exit(main())
