"""Transfers: download the competition's files from Kaggle and submit to it, by Kaggle's own client."""

import contextlib
import tempfile
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from nuclei.competition.data import COMPETITION
from nuclei.settings.config import BadInput
from nuclei.settings.files import write_whole
from nuclei_kit.experiments.scoring import check_file
from nuclei_kit.files.limits import MAX_DOWNLOAD_BYTES
from nuclei_kit.files.zips import BROKEN_ZIP, open_zip, unpack
from nuclei_kit.kaggle.client import Refusal, client_errors, sign_in

COMPETITION_URL = f"https://www.kaggle.com/c/{COMPETITION}"

Shapes = Mapping[str, tuple[int, int] | None]  # of each image by its id, (H, W); None where it is not known


# ---- submit ------------------------------------------------------------------------------------


def submit_file(path: Path, message: str) -> str:
    """Upload a submission -> Kaggle's reply, a sentence.

    Raises:
        BadInput: the file breaks a rule or is a placeholder, or Kaggle did not take it.
    """
    check_predicted(path)
    api = sign_in()
    with client_errors(f"the upload of {path}"):
        reply = api.competition_submit(str(path), message, COMPETITION, quiet=True)
    if not reply.message.startswith("Successfully"):
        raise BadInput(f"Kaggle did not take {path}: {reply.message or 'it gave no reason'}")
    with contextlib.suppress(BadInput), client_errors("the submissions left"):  # good to know, no more
        return f"{reply.message} ({api.competition_get_submission_limits(COMPETITION).num_allowed_now} left today)"
    return reply.message


def check_predicted(path: Path, shapes: Shapes | None = None) -> None:
    """Check a submission before it is sent; `shapes` as for `check_file`.

    Raises:
        BadInput: it breaks a rule, or is the placeholder that a run writes first, without a single nucleus.
    """
    nuclei, images, _ = check_file(path, shapes)
    if not nuclei:
        raise BadInput(f"{path} is a placeholder: none of its {images} images has a nucleus")


# ---- download ----------------------------------------------------------------------------------


def download_data(folder: Path) -> tuple[list[str], list[str]]:
    """Get the competition's files that are not there whole -> the names of what came, and of what was there.

    Raises:
        BadInput: the rules are not accepted yet, or not all files came.
    """
    api = sign_in()
    try:
        sizes = list_files(api)
        there = [name for name, size in sizes.items() if is_whole(folder / name, size)]
        if len(there) < len(sizes):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="unfinished-", dir=folder) as unfinished:
                with client_errors("the competition's files"):
                    api.competition_download_files(COMPETITION, unfinished, force=True)
                unpack_files(Path(unfinished), folder, there)
    except Refusal as error:
        if error.code != 403:
            raise
        raise BadInput(f"{error}: accept the rules at {COMPETITION_URL}/rules, then download again") from None
    missing = [name for name in sizes if not (folder / name).is_file()]
    if missing:
        raise BadInput(f"{', '.join(missing)} did not come with the others: get the rest from {COMPETITION_URL}/data")
    return [name for name in sizes if name not in there], there


def list_files(api: Any) -> dict[str, int]:
    """List the competition's files -> {name: bytes}."""
    sizes: dict[str, int] = {}
    token = None
    while token != "":
        with client_errors("the list of the competition's files"):
            reply = api.competition_list_files(COMPETITION, page_token=token, page_size=200)
        sizes |= {file.name: file.total_bytes for file in reply.files}
        token = reply.next_page_token or ""
    if not sizes:
        raise BadInput(f"Kaggle lists no files of {COMPETITION}: see {COMPETITION_URL}/data")
    return sizes


def is_whole(path: Path, size: int) -> bool:
    """Tell whether a file is there with all its bytes."""
    return path.is_file() and path.stat().st_size == size


def unpack_files(unfinished: Path, folder: Path, there: Collection[str]) -> None:
    """Move the files of the one archive in `unfinished` right into `folder`, but for the names in `there`."""
    damaged = BadInput("the archive of the competition's files came damaged: download again")
    archive = next((path for path in unfinished.rglob("*") if zipfile.is_zipfile(path)), None)
    if not archive:
        raise damaged
    with open_zip(archive) as files:
        for entry in files.infolist():
            if entry.filename in there or entry.is_dir():
                continue
            try:
                content = unpack(files, entry, MAX_DOWNLOAD_BYTES)
            except BROKEN_ZIP:
                raise damaged from None
            write_whole(folder / Path(entry.filename).name, content)
