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
import tifffile
from PIL import Image

from nuclei.settings.config import BadInput
from nuclei_kit.experiments.scoring import check_file, read_solution
from nuclei_kit.files.decoding import decode_image
from nuclei_kit.files.planes import Choice
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
    tiffs += make_tiffs(rng)
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
    colour, grey = images[1], images[0]
    photos = [save(one, kind) for kind in ("JPEG", "BMP", "GIF", "WEBP") for one in (colour, grey)]
    photos += [save(colour, "JPEG", progressive=True), save(grey, "PNG", save_all=True, append_images=[to_pil(colour)])]
    photos += [save(colour, kind, save_all=True, append_images=[to_pil(255 - colour)]) for kind in ("GIF", "WEBP")]
    return {
        "png": pngs,
        "tiff": tiffs,
        "photo": photos,
        "zip": zips,
        "csv": [TABLE, b"\xef\xbb\xbf" + TABLE],
    }


def make_tiffs(rng):
    """Make TIFFs as microscopes write them -> list of bytes."""
    stack = rng.integers(0, 4096, (2, 3, 32, 48), np.uint16)
    colour = rng.integers(0, 256, (32, 48, 3), np.uint8)
    plain = {"photometric": "minisblack"}
    written = [
        (stack, {"imagej": True, "metadata": {"axes": "ZCYX"}}),
        (stack, {"ome": True, "metadata": {"axes": "CZYX", "Channel": {"Name": ["GFP", "DAPI"]}}}),
        (stack, {"ome": True, "bigtiff": True, "tile": (16, 16), "compression": "zstd", "metadata": {"axes": "CZYX"}}),
        (stack, {"metadata": None, "byteorder": ">", "compression": "lzw", "predictor": 2, **plain}),
        (stack[0, 0], {"bitspersample": 12, **plain}),
        (stack[0, 0] > 2000, {"compression": "packbits", **plain}),
        (stack[0, 0].astype(np.float32), {"compression": "zlib", "predictor": 3, **plain}),
        (colour, {"photometric": "rgb", "compression": "jpeg", "tile": (16, 16)}),
        (colour, {"photometric": "rgb", "compression": "jpeg2000"}),
        (colour, {"photometric": "rgb", "compression": "webp"}),
        (colour, {"photometric": "rgb", "compression": "png"}),
        (colour.transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate", "compression": "lzma"}),
        (colour[..., 0], {"photometric": "palette", "colormap": rng.integers(0, 2**16, (3, 256), np.uint16)}),
    ]
    contents = []
    for pixels, settings in written:
        file = io.BytesIO()
        tifffile.imwrite(file, pixels, **settings)
        contents.append(file.getvalue())
    return contents


def to_pil(pixels):
    return Image.fromarray(pixels)


def save(pixels, kind, **settings):
    """Pixels -> the bytes of a file of that kind, by Pillow."""
    file = io.BytesIO()
    to_pil(pixels).save(file, kind, **settings)
    return file.getvalue()


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
    if kind in ("png", "tiff", "photo"):
        (folder / "set/a/images").mkdir(parents=True, exist_ok=True)
        (folder / "set/a/masks").mkdir(exist_ok=True)
        (folder / "set/a/images/a.png").write_bytes(SOUND)
        (folder / "set/a/masks/1.png").write_bytes(content)
        choices = (None, Choice(channel="1", z="max", page=1), Choice(page=2), Choice("dapi", z=2))
        readers = tuple(lambda choice=choice: decode_image(content, "x", choice=choice) for choice in choices)
        readers += (lambda: read_images(folder / "set"),)
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
    print(f"{rounds} rounds of 5 x {ROUND} inputs in {time.monotonic() - start:.0f} s, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    sys.exit(main())
