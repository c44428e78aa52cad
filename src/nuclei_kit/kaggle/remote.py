"""Remote: push a kernel to Kaggle, watch its run and fetch its output, by Kaggle's own client.

Kaggle's status does not name the run that it is about, and just after a push that may be the run before. So a push is
remembered, the status of its version is requested, and a run that seems to have ended at once is checked again
(`watch_run`).
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nuclei.settings.config import BadInput
from nuclei.settings.files import SUBMISSION_FILE, write_whole
from nuclei_kit.command.terminal import escape_control
from nuclei_kit.kaggle.client import TRANSIENT_CODES, client_errors, is_web_page, retry, sign_in
from nuclei_kit.kaggle.kernel import METADATA, ROOT, SCRIPT, refresh_kernel
from nuclei_kit.kaggle.rules import BuildError, check_metadata, read_text
from nuclei_kit.kaggle.transfers import COMPETITION_URL, Shapes, check_predicted

PLACEHOLDER = "OWNER"  # in a kernel-metadata.json that nobody made their own
KERNEL_FOLDER = (ROOT / METADATA).parent
PUSH_FILE = ROOT / "build" / "pushed.json"  # the last push

COMPLETE = "COMPLETE"
END_STATES = {COMPLETE, "ERROR", "CANCEL_ACKNOWLEDGED"}
END_REASONS = {"CANCEL_ACKNOWLEDGED": "cancelled, by hand or at Kaggle's limit of time"}
FAILURE_LINES = 25  # lines of a failed run's log that are shown
SETTLED_SECONDS = 600  # after a push: from then on a status is about its run
MAX_STALE_STATUSES = 10  # in a row that may be about the run before, until then


@dataclass(frozen=True)
class Push:
    """A version of a kernel on Kaggle; version 0 is whatever is the latest there."""

    kernel: str  # owner/slug
    version: int = 0
    url: str = ""
    time: float = 0.0  # seconds since 1970

    def __str__(self) -> str:
        return f"version {self.version} of {self.kernel}" if self.version else self.kernel


# ---- push --------------------------------------------------------------------------------------


def push_kernel(folder: Path, owner: str | None = None, slug: str | None = None) -> Push:
    """Check a kernel's metadata and push it, built anew where `folder` is the repository's own.

    Raises:
        BadInput: the metadata breaks a rule or names no owner (then nothing is sent), or Kaggle refused the kernel or
            one of its sources.
    """
    if folder.resolve() == KERNEL_FOLDER:
        refresh_kernel()
    metadata = read_metadata(folder, owner, slug)
    code = folder / metadata["code_file"]
    if not code.is_file():
        raise BadInput(f"{code} is missing: {folder / METADATA.name} names it as its code_file")
    api = sign_in()
    with tempfile.TemporaryDirectory() as copy, client_errors(f"the push of {metadata['id']}"):
        shutil.copy(code, copy)
        Path(copy, METADATA.name).write_text(json.dumps(metadata), encoding="ascii")
        reply = api.kernels_push(copy)
    push = Push(metadata["id"], reply.version_number, reply.url, time.time())
    check_push(push, reply)
    write_whole(PUSH_FILE, json.dumps(asdict(push)))
    return push


def read_metadata(folder: Path, owner: str | None, slug: str | None) -> dict[str, Any]:
    """Read kernel-metadata.json, with another owner or slug where they are given -> dict that keeps the rules.

    Raises:
        BadInput: a rule that is broken, or the owner is a placeholder.
    """
    path = folder / METADATA.name
    try:
        metadata = check_metadata(path, read_text(path), SCRIPT.stem)
        own_owner, own_slug = metadata["id"].split("/")
        metadata["id"] = f"{owner or own_owner}/{slug or own_slug}"
        if slug:
            metadata["title"] = slug.replace("-", " ")
        check_metadata(path, json.dumps(metadata, indent=2), SCRIPT.stem)
    except BuildError as error:
        raise BadInput(str(error)) from None
    if metadata["id"].startswith(f"{PLACEHOLDER}/"):
        raise BadInput(
            f"{path} still has the placeholder {PLACEHOLDER} as the kernel's owner: write your name on Kaggle there, "
            "or give --owner NAME"
        )
    return metadata


def check_push(push: Push, reply: Any) -> None:
    """Raise BadInput where a push got no version or not all its sources: the client calls that a success."""
    if reply.error:
        raise BadInput(f"Kaggle refused the push of {push.kernel}: {reply.error}")
    if not push.version:
        raise BadInput(f"Kaggle's answer to the push of {push.kernel} names no version: see {push.url or push.kernel}")
    for kind in ("competition", "dataset", "kernel", "model"):
        refused = getattr(reply, f"invalid_{kind}_sources")
        if refused:
            raise BadInput(
                f"Kaggle runs {push} without its {kind} {', '.join(refused)}: cancel it at {push.url}, make sure that "
                f"you may use it (for the competition, accept the rules at {COMPETITION_URL}/rules), and push again"
            )


def find_push(owner: str | None = None, slug: str | None = None) -> Push:
    """Find the last push; without one, or with an owner or slug, the kernel that they and the metadata name."""
    try:
        last = Push(**json.loads(PUSH_FILE.read_text())) if PUSH_FILE.is_file() else None
    except (ValueError, TypeError):
        raise BadInput(f"{PUSH_FILE}, which remembers the last push, is broken: delete it") from None
    if last and not owner and not slug:
        return last
    kernel = read_metadata(KERNEL_FOLDER, owner, slug)["id"]
    return last if last and last.kernel == kernel else Push(kernel, url=f"https://www.kaggle.com/code/{kernel}")


# ---- watch -------------------------------------------------------------------------------------


def watch_run(push: Push, every: float) -> bool:
    """Print a run's states and its log until it ends -> whether it is complete.

    Args:
        push: the run.
        every: seconds between two requests of its status.
    """
    api = sign_in()
    log, line, count = LogPrinter(api, push.kernel), "", 0
    started = push.version < 2 or time.time() - push.time > SETTLED_SECONDS
    while True:
        status, message = read_status(api, push, every)
        count += 1
        started = started or status not in END_STATES or count > MAX_STALE_STATUSES
        last, line = line, status if started else f"{status}, perhaps of an earlier version"
        if line != last:
            print(f"{time.strftime('%H:%M:%S')} {push}: {line}", flush=True)
        if started and status in END_STATES:
            break
        if status == "RUNNING":
            log.follow()
        time.sleep(every)
    log.finish()
    if status != COMPLETE:
        print_failure(api, push, message or END_REASONS.get(status, ""))
    return status == COMPLETE


def read_status(api: Any, push: Push, pause: float) -> tuple[str, str]:
    """Request a run's status -> its name, and why the run failed ("" where it did not).

    The client's own kernels_status drops the version, and then Kaggle reports the latest session that it knows. So the
    request is made here, with the version as the label that Kaggle takes (github.com/Kaggle/kaggle-cli/issues/1200).
    """
    from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelSessionStatusRequest

    request = ApiGetKernelSessionStatusRequest()
    request.user_name, request.kernel_slug = push.kernel.split("/")
    if push.version:
        request.version_label = f"v{push.version}"

    def request_status():
        with client_errors(f"the status of {push}"), api.build_kaggle_client() as client:
            return client.kernels.kernels_api_client.get_kernel_session_status(request)

    codes = TRANSIENT_CODES | {404} if push.version else TRANSIENT_CODES  # a version may appear a little later
    reply = retry(request_status, pause, codes)
    return reply.status.name, reply.failure_message


def check_ended(push: Push) -> None:
    """Raise BadInput where the run has not ended: the output on Kaggle is still an earlier run's."""
    if push.version:
        status, _ = read_status(sign_in(), push, pause=1)
        if status not in END_STATES:
            raise BadInput(f"{push} is {status}: wait for its end with nuclei watch, then fetch what it left")


class LogPrinter:
    """Print a run's log as it comes, in a thread, since the client waits for each record."""

    def __init__(self, api: Any, kernel: str):
        self.api, self.kernel, self.out = api, kernel, sys.stdout  # `client_errors` redirects sys.stdout at times
        self.thread: threading.Thread | None = None
        self.shown = 0  # records

    def follow(self) -> None:
        """Start printing, or start anew: Kaggle drops the connection of a silent run every few minutes."""
        if not self.thread or not self.thread.is_alive():
            self.thread = threading.Thread(target=self.print_new, daemon=True)
            self.thread.start()

    def print_new(self) -> None:
        """Print the records that were not shown yet."""
        with contextlib.suppress(Exception):  # without its log the run can still be watched
            for number, record in enumerate(self.api.kernels_logs_stream(self.kernel)):
                if number >= self.shown:  # Kaggle starts from the beginning each time
                    self.shown = number + 1
                    print(escape_control(str(record.get("data", ""))).rstrip("\n"), file=self.out, flush=True)

    def finish(self) -> None:
        """Wait a moment for the rest of a log that was followed."""
        if self.thread:
            self.follow()
            self.thread.join(timeout=5)


def print_failure(api: Any, push: Push, message: str) -> None:
    """Print why a run did not complete: the end of its log, and Kaggle's message, if any."""
    try:
        with client_errors(f"the log of {push}"):
            lines = read_kernel_log(api.kernels_logs(push.kernel))[-FAILURE_LINES:]
    except BadInput as error:
        lines = [f"({error})"]
    print("\n".join(["The log ends:", *(f"  {line}" for line in lines)] if lines else ["There is no log."]))
    print(f"{push} did not complete{': ' + message if message else ''}. See {push.url}")


def read_kernel_log(text: str) -> list[str]:
    """Read Kaggle's log, JSON records, one a line, cut where it is long -> the lines that the run printed."""
    try:
        records = json.loads("[" + text.strip("[] \n") + "]")
    except ValueError:
        records = [_read_record(line) for line in text.splitlines()]
    parts = (record.get("data", "") if isinstance(record, dict) else f"{record}\n" for record in records)
    return "".join(parts).splitlines()


def _read_record(line):
    try:
        return json.loads(line.strip("[], "))
    except ValueError:
        return line


# ---- fetch -------------------------------------------------------------------------------------


def fetch_output(push: Push, out: Path, shapes: Shapes | None = None) -> Path:
    """Download what a run left, check it and put it into the folder `out`, all or nothing -> its submission's path.

    Args:
        shapes: as for `check_file`.

    Raises:
        BadInput: the run left no submission or a placeholder, or what came is not what it left.
    """
    api = sign_in()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=out) as folder:

        def download():
            with client_errors(f"the output of {push}"):
                return api.kernels_output(push.kernel, folder, force=True)

        _, next_page = retry(download, pause=5)
        if next_page:
            raise BadInput(f"the client fetched a part of what {push} left: fetch again")
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        check_output(push, {path.relative_to(folder).as_posix(): path for path in files}, shapes)
        for path in files:
            target = out / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
    return out / SUBMISSION_FILE


def check_output(push: Push, files: Mapping[str, Path], shapes: Shapes | None) -> None:
    """Raise BadInput where the files {name: path} hold no valid submission, or a web page in place of a file."""
    if not [name for name in files if not name.endswith(".log")]:
        raise BadInput(f"{push} left no files: see its log at {push.url}")
    if SUBMISSION_FILE not in files:
        raise BadInput(f"{push} left {', '.join(sorted(files))}, but no {SUBMISSION_FILE}: see its log at {push.url}")
    for name, path in files.items():
        with path.open("rb") as file:
            if is_web_page(file.read(100)) and not name.endswith((".html", ".svg", ".xml")):
                raise BadInput(f"{name} came as a web page, of an error most likely: fetch again")
    check_predicted(files[SUBMISSION_FILE], shapes)
