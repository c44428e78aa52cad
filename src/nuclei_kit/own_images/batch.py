"""Batch: files, folders and patterns -> the images that are meant, and a name for what is found in each."""

import glob
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from nuclei.settings.config import BadInput, log
from nuclei_kit.files.formats import HEAD_BYTES, is_image

# Files that call themselves images are taken from a folder even if they are not: then they are broken, and named.
SUFFIXES = {".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".svs", ".ndpi", ".scn", ".lsm", ".stk"}
SUFFIXES |= {".qptiff", ".czi", ".nd2", ".lif", ".oib", ".oif", ".oir", ".vsi", ".zvi", ".ims", ".dv", ".dcm", ".mrxs"}
# Of what is written, the images: those of an earlier prediction are not taken.
LABELS, LABELS_TIFF, OVERLAY = ".labels.png", ".labels.tif", ".overlay.png"


def gather_images(arguments: Sequence[Path], out: Path) -> tuple[list[Path], list[str]]:
    """Gather the images that are meant -> (paths, each file once; what is wrong with the other arguments).

    Args:
        arguments: files; folders, which stand for the images in them and below; patterns such as plate/*/dapi.tif.
        out: the folder for what is found, of which nothing is taken.
    """
    paths: dict[str, Path] = {}
    wrong: list[str] = []
    for argument in arguments:
        for path in _expand(argument, out, wrong):
            first = paths.setdefault(os.path.realpath(path), path)
            if first != path:
                log.info("%s is the same file as %s: it is done once", path, first)
    return list(paths.values()), wrong


def _expand(argument, out, wrong):
    """List what one argument stands for; what is wrong with it goes to `wrong`."""
    if argument.is_dir():
        return _list_images(argument, out, wrong)
    if not glob.has_magic(str(argument)) or os.path.lexists(argument):
        return [argument]
    found = [Path(one) for one in sorted(glob.glob(str(argument), recursive=True))]
    files = [one for one in found if not one.is_dir()]
    if not found:
        wrong.append(f"{argument} fits no file: name images, folders or another pattern")
    return files or [path for folder in found for path in _list_images(folder, out, wrong)]


def _list_images(folder, out, wrong):
    """List the images in a folder and below, in order. Links are followed, circles are not."""
    found, seen, others, failed = [], set(), 0, len(wrong)

    def tell(error):
        wrong.append(f"{error.filename} cannot be read: {error.strerror}")

    for root, folders, files in os.walk(folder, onerror=tell, followlinks=True):
        if os.path.realpath(root) in seen or os.path.realpath(root) == os.path.realpath(out):
            folders.clear()
            continue
        seen.add(os.path.realpath(root))
        folders[:] = sorted(one for one in folders if not one.startswith((".", "__MACOSX")))
        for path in (Path(root, name) for name in sorted(files)):
            if path.name.startswith(".") or path.name.endswith((LABELS, LABELS_TIFF, OVERLAY)):
                continue
            if path.suffix.lower() in SUFFIXES or (path.is_file() and is_image(_head(path))):
                found.append(path)
            else:
                others += 1
    if others:
        log.info("%s: %d files that are no images are left out", folder, others)
    if not found and len(wrong) == failed:
        wrong.append(f"{folder} holds no images: name a folder that does, or the images themselves")
    return found


def _head(path):
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def name_outputs(paths: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Name what is written -> {image file: path without the ending}.

    It bears the image's stem, right in `out` if all stems differ, else in the images' own folders below the one that
    they share. Where two images still share a name, such as a.png and a.tif, it keeps the ending.

    Raises:
        BadInput: an output would replace an image, or two images would still share one.
    """
    stems = {path: Path(path.stem) for path in paths}
    if _shared(stems.values()):
        absolute = {path: Path(os.path.abspath(path)) for path in paths}
        base = os.path.commonpath([one.parent for one in absolute.values()])
        stems = {path: one.relative_to(base).with_name(path.stem) for path, one in absolute.items()}
        shared = _shared(stems.values())
        stems = {path: one.with_name(path.name) if _folded(one) in shared else one for path, one in stems.items()}
        for path, one in stems.items():
            if _folded(one) in _shared(stems.values()):
                raise BadInput(f"{path} and another image would both be written to {out / one}: rename one of them")
    images = {os.path.realpath(path) for path in paths}
    for path, stem in stems.items():
        for written in (out / f"{stem}{ending}" for ending in (LABELS, LABELS_TIFF, OVERLAY)):
            if os.path.realpath(written) in images:
                raise BadInput(
                    f"what is found in {path} would replace the image {written}: name another folder with --out"
                )
    return {path: out / stem for path, stem in stems.items()}


def _shared(names):
    """The names that occur twice, folded."""
    return {one for one, count in Counter(map(_folded, names)).items() if count > 1}


def _folded(name):
    """Fold a name as file systems do that take A and a, or two spellings of an umlaut, for one letter."""
    return unicodedata.normalize("NFC", str(name)).casefold()
