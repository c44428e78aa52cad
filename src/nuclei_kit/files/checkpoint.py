"""Checkpoint: what a run resumes from after it was cut off, written whole, and verified by its hash when read.

A checkpoint is one NPZ with the hash of its bytes in its name, so that a torn one is recognised. The two newest are
kept; no pickle is written or read.
"""

import hashlib
import io
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np

from nuclei.network.device import choose_precision
from nuclei.settings.config import BadInput, Config, log
from nuclei.settings.files import write_whole
from nuclei.training.train import Keeper
from nuclei.training_data.images import ImageSet
from nuclei_kit.files.folders import CHECKPOINTS_FOLDER


class Checkpoints(Keeper):
    """The Keeper of a run at home: a folder of checkpoints for each part of the run.

    Args:
        folder: the run's folder.
        settings: what may not change while the run is unfinished, see `run_identity`.
    """

    def __init__(self, folder: Path, settings: dict) -> None:
        self.folder, self.settings = folder / CHECKPOINTS_FOLDER, settings

    def load(self, part: str) -> tuple[dict, dict] | None:
        """Return what was last saved of a part of this run; where its training left nothing whole, remove the rest."""
        saved = load_checkpoint(self.folder / part, self.settings)
        if saved is None and part == "training":
            shutil.rmtree(self.folder, ignore_errors=True)  # torn ones, and the other parts, which belong to them
        return saved

    def save(self, part: str, state: dict, arrays: dict[str, list] | None = None) -> None:
        """Keep the state and the arrays of a part of the run in a folder of its own."""
        save_checkpoint(self.folder / part, self.settings, state, arrays or {})


def run_identity(config: Config, train: ImageSet, test: ImageSet | None, start: list[np.ndarray] | None) -> dict:
    """Describe what tells one run from another: settings, versions, and digests of images and first weights."""
    identity = asdict(config) | {"train": digest_images(train)}
    identity |= {"test": digest_images(test)} if test else {}
    identity |= {"start": digest_arrays(start)} if start is not None else {}
    versions = {"keras": keras.__version__, "backend": keras.backend.backend(), "precision": choose_precision()}
    return identity | versions


def save_checkpoint(folder: Path, settings: dict, state: dict, arrays: dict[str, list]) -> None:
    """Write a checkpoint, then remove all but the two newest, and what a kill in the middle of writing left.

    A disk that is full or fails costs a warning, not the run.

    Args:
        folder: where they are kept; it may not exist yet.
        settings: what may not change from one checkpoint to the next.
        state: anything that JSON holds.
        arrays: {name: list of arrays}.
    """
    text = json.dumps({"settings": settings, "state": state})
    named = {f"{name}.{i}": array for name, group in arrays.items() for i, array in enumerate(group)}
    buffer = io.BytesIO()
    np.savez(buffer, text=np.frombuffer(text.encode(), np.uint8), **named)
    data = buffer.getvalue()
    before = _list_checkpoints(folder)
    number = int(before[-1].name.partition("-")[0]) + 1 if before else 0
    path = folder / f"{number:06d}-{hashlib.sha256(data).hexdigest()}.npz"
    try:
        write_whole(path, data)
        for other in set(folder.iterdir()) - {*before[-1:], path}:
            other.unlink()
    except OSError as error:
        log.warning("no checkpoint could be written (%s): a kill would cost more than usual", error)


def load_checkpoint(folder: Path, settings: dict) -> tuple[dict, dict] | None:
    """Read the newest whole checkpoint -> (state, arrays) as they were saved, or None where there is none.

    Raises:
        BadInput: it was saved with other settings, which are named.
    """
    for path in reversed(_list_checkpoints(folder)):
        try:
            data = path.read_bytes()
        except OSError:
            data = b""
        if hashlib.sha256(data).hexdigest() != path.stem.partition("-")[2]:
            log.warning("%s is torn: trying the checkpoint before it", path)
            continue
        arrays: dict[str, list] = {}
        with np.load(io.BytesIO(data), allow_pickle=False) as saved:
            content = json.loads(saved["text"].tobytes())
            for key in saved.files[1:]:
                arrays.setdefault(key.partition(".")[0], []).append(saved[key])
        _refuse_changes(folder, content["settings"], settings)
        return content["state"], arrays
    return None


def _list_checkpoints(folder):
    """List the paths of a folder's checkpoints, the oldest first."""
    return sorted(folder.glob("*-*.npz"))


def _refuse_changes(folder, old, new):
    new = json.loads(json.dumps(new))  # as JSON gives it back
    changes = [f"{key} was {old.get(key)}, is {new.get(key)}" for key in old | new if old.get(key) != new.get(key)]
    if changes:
        raise BadInput(
            f"{folder.parent} holds an unfinished run with other settings ({'; '.join(changes)}): name another folder "
            "for this one, resume that one with its own settings, or delete it to start afresh"
        )


def digest_images(images: ImageSet) -> str:
    """Hash an ImageSet -> 16 hex digits that change with any id, pixel or label."""
    digest = hashlib.sha256()
    for image_id, image in zip(images.ids, images.images, strict=True):
        digest.update(f"{image_id} {image.shape} ".encode())
        digest.update(image.data)
    for labels in images.labels:
        digest.update(labels.data)
    return digest.hexdigest()[:16]


def digest_arrays(arrays: list[np.ndarray]) -> str:
    """Hash arrays -> 16 hex digits that change with any of their numbers."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
