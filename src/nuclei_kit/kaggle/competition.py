"""Competition: its files come from Kaggle and a submission goes there, by Kaggle's own client."""

import contextlib
import os
import tempfile
import zipfile
import zlib
from pathlib import Path

from nuclei.competition.data import COMPETITION
from nuclei.settings.config import BadInput
from nuclei_kit.experiments.scoring import check_file
from nuclei_kit.kaggle.client import Refusal, asking, sign_in

PAGE = f"https://www.kaggle.com/c/{COMPETITION}"


# ---- submit ------------------------------------------------------------------------------------


def submit_file(path, message):
    """Uploads a submission -> Kaggle's reply, a sentence.

    Raises:
        BadInput: the file breaks a rule or is a placeholder, or Kaggle did not take it.
    """
    check_predicted(path)
    api = sign_in()
    with asking(f"the upload of {path}"):
        reply = api.competition_submit(str(path), message, COMPETITION, quiet=True)
    if not reply.message.startswith("Successfully"):
        raise BadInput(f"Kaggle did not take {path}: {reply.message or 'it gave no reason'}")
    with contextlib.suppress(BadInput), asking("the submissions left"):  # good to know, no more
        return f"{reply.message} ({api.competition_get_submission_limits(COMPETITION).num_allowed_now} left today)"
    return reply.message


def check_predicted(path, shapes=None):
    """Refuses a CSV that breaks a rule, and the placeholder that stands there until a run has weights.

    Raises:
        BadInput: names the rule, or the file.
    """
    nuclei, images, _ = check_file(path, shapes)
    if not nuclei:
        raise BadInput(f"{path} is a placeholder: none of its {images} images has a nucleus")


# ---- download ----------------------------------------------------------------------------------


def download_data(folder):
    """Gets the competition's files, those that are not there whole -> the names of what came, and of what was there.

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
                with asking("the competition's files"):
                    api.competition_download_files(COMPETITION, unfinished, force=True)
                unpack_files(Path(unfinished), folder, there)
    except Refusal as error:
        if error.code != 403:
            raise
        raise BadInput(f"{error}: accept the competition's rules at {PAGE}/rules, then download again") from None
    missing = [name for name in sizes if not (folder / name).is_file()]
    if missing:
        raise BadInput(f"{', '.join(missing)} did not come with the others: get what is missing from {PAGE}/data")
    return [name for name in sizes if name not in there], there


def list_files(api):
    """{name: bytes} of what the competition has."""
    sizes, token = {}, None
    while token != "":
        with asking("the list of the competition's files"):
            reply = api.competition_list_files(COMPETITION, page_token=token, page_size=200)
        sizes |= {file.name: file.total_bytes for file in reply.files}
        token = reply.next_page_token or ""
    if not sizes:
        raise BadInput(f"Kaggle lists no files of {COMPETITION}: see {PAGE}/data")
    return sizes


def is_whole(path, size):
    return path.is_file() and path.stat().st_size == size


def unpack_files(unfinished, folder, there):
    """Moves what the one archive in `unfinished` holds, files without folders, but for the names that are there."""
    try:
        archive = next(path for path in unfinished.rglob("*") if zipfile.is_zipfile(path))
        with zipfile.ZipFile(archive) as files:
            for name in files.namelist():
                if name not in there:
                    path = Path(files.extract(name, unfinished / "files"))
                    os.replace(path, folder / path.name)
    except (StopIteration, zipfile.BadZipFile, zlib.error, EOFError):
        raise BadInput("the archive of the competition's files came damaged: download again") from None
