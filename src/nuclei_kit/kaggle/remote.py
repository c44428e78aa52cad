"""Remote: a kernel's way to Kaggle and its output's way back, by Kaggle's own client.

push -> watch -> fetch. What Kaggle says of a run does not say which run it is, and just after a push that may
be the last one. So a push is remembered, its own version is asked for, and where Kaggle tells at once of the end of a
run that it has just been given, it is asked again (`watch_run`).
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from nuclei.settings.config import BadInput
from nuclei.settings.files import SUBMISSION_FILE, write_whole
from nuclei_kit.command.terminal import escape_control
from nuclei_kit.kaggle.client import PASSING, ask_patiently, asking, is_page, sign_in
from nuclei_kit.kaggle.competition import PAGE, check_predicted
from nuclei_kit.kaggle.kernel import METADATA, ROOT, SCRIPT, build_kernel
from nuclei_kit.kaggle.rules import BuildError, check_metadata, read_text

PLACEHOLDER = "OWNER"  # in a kernel-metadata.json that nobody made their own
KERNEL = (ROOT / METADATA).parent
PUSHED = ROOT / "build" / "pushed.json"

COMPLETE = "COMPLETE"
TERMINAL = {COMPLETE, "ERROR", "CANCEL_ACKNOWLEDGED"}
WHY = {"CANCEL_ACKNOWLEDGED": "cancelled, by hand or at Kaggle's limit of time"}
LAST_LINES = 25  # of the log of a run that failed
SETTLED = 600  # seconds after a push, when its session is long since there
STALE_LOOKS = 10  # how often a status may be the last run's, before SETTLED


@dataclass(frozen=True)
class Push:
    """A version of a kernel on Kaggle; version 0 is whatever is the latest there."""

    kernel: str  # owner/slug
    version: int = 0
    url: str = ""
    time: float = 0.0  # seconds since 1970

    def __str__(self):
        return f"version {self.version} of {self.kernel}" if self.version else self.kernel


# ---- push --------------------------------------------------------------------------------------


def push_kernel(folder, owner=None, slug=None):
    """Builds the kernel where `folder` is the repository's own, checks its metadata and pushes it -> Push.

    Raises:
        BadInput: the metadata breaks a rule or names no owner (nothing is sent then), or Kaggle took the kernel not at
            all or without one of its sources.
    """
    if folder.resolve() == KERNEL:
        build_kernel()
    metadata = read_metadata(folder, owner, slug)
    code = folder / metadata["code_file"]
    if not code.is_file():
        raise BadInput(f"{code} is missing: {folder / METADATA.name} names it as its code_file")
    api = sign_in()
    with tempfile.TemporaryDirectory() as copy, asking(f"the push of {metadata['id']}"):
        shutil.copy(code, copy)
        Path(copy, METADATA.name).write_text(json.dumps(metadata), encoding="ascii")
        reply = api.kernels_push(copy)
    push = Push(metadata["id"], reply.version_number, reply.url, time.time())
    check_push(push, reply)
    write_whole(PUSHED, json.dumps(asdict(push)))
    return push


def read_metadata(folder, owner, slug):
    """kernel-metadata.json with another owner or slug where they are given -> dict that keeps the rules.

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


def check_push(push, reply):
    """The client calls a push without its data, and one without a version, successful."""
    if reply.error:
        raise BadInput(f"Kaggle refused the push of {push.kernel}: {reply.error}")
    if not push.version:
        raise BadInput(f"Kaggle's answer to the push of {push.kernel} names no version: see {push.url or push.kernel}")
    for kind in ("competition", "dataset", "kernel", "model"):
        refused = getattr(reply, f"invalid_{kind}_sources")
        if refused:
            raise BadInput(
                f"Kaggle runs {push} without its {kind} {', '.join(refused)}: cancel it at {push.url}, see that you "
                f"may use that source (for the competition, accept the rules at {PAGE}/rules), and push again"
            )


def find_push(owner=None, slug=None):
    """The last push; where owner or slug is given, or none was made, the kernel that they and the metadata name."""
    last = Push(**json.loads(PUSHED.read_text())) if PUSHED.is_file() else None
    if last and not owner and not slug:
        return last
    kernel = read_metadata(KERNEL, owner, slug)["id"]
    return last if last and last.kernel == kernel else Push(kernel, url=f"https://www.kaggle.com/code/{kernel}")


# ---- watch -------------------------------------------------------------------------------------


def watch_run(push, every):
    """Prints a run's states and its log until it ends -> whether it is complete.

    Args:
        push: the run, a Push.
        every: seconds between two looks.
    """
    api = sign_in()
    log, line, looks = LogPrinter(api, push.kernel), "", 0
    started = push.version < 2 or time.time() - push.time > SETTLED
    while True:
        status, message = ask_status(api, push, every)
        looks += 1
        started = started or status not in TERMINAL or looks > STALE_LOOKS
        last, line = line, status if started else f"{status}, perhaps of an earlier version"
        if line != last:
            print(f"{time.strftime('%H:%M:%S')} {push}: {line}", flush=True)
        if started and status in TERMINAL:
            break
        if status == "RUNNING":
            log.follow()
        time.sleep(every)
    log.finish()
    if status != COMPLETE:
        print_failure(api, push, message or WHY.get(status, ""))
    return status == COMPLETE


def ask_status(api, push, pause):
    """-> the name of the session's status, and why it failed ("" where it did not).

    The client's own kernels_status drops the version, and then Kaggle tells of the latest session that it knows. So the
    request is made here, with the version as the label that Kaggle takes (github.com/Kaggle/kaggle-cli/issues/1200).
    """
    from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelSessionStatusRequest

    request = ApiGetKernelSessionStatusRequest()
    request.user_name, request.kernel_slug = push.kernel.split("/")
    if push.version:
        request.version_label = f"v{push.version}"

    def ask():
        with asking(f"the status of {push}"), api.build_kaggle_client() as client:
            return client.kernels.kernels_api_client.get_kernel_session_status(request)

    reply = ask_patiently(ask, pause, PASSING | {404} if push.version else PASSING)  # a version may be there only soon
    return reply.status.name, reply.failure_message


def check_ended(push):
    """Refuses a push whose run goes on: what Kaggle has there is still an earlier run's."""
    if push.version:
        status, _ = ask_status(sign_in(), push, pause=1)
        if status not in TERMINAL:
            raise BadInput(f"{push} is {status}: wait for its end with nuclei watch, then fetch what it left")


class LogPrinter:
    """Prints a run's log as it comes, in a thread, since the client waits for each record."""

    def __init__(self, api, kernel):
        self.api, self.kernel, self.out = api, kernel, sys.stdout  # `asking` takes sys.stdout away at times
        self.thread, self.shown = None, 0

    def follow(self):
        """Starts printing, or starts anew: Kaggle drops the connection of a silent run every few minutes."""
        if not self.thread or not self.thread.is_alive():
            self.thread = threading.Thread(target=self.print_new, daemon=True)
            self.thread.start()

    def print_new(self):
        with contextlib.suppress(Exception):  # a log that does not come is no reason to stop watching, or to say so
            for number, record in enumerate(self.api.kernels_logs_stream(self.kernel)):
                if number >= self.shown:  # Kaggle starts from the beginning each time
                    self.shown = number + 1
                    print(escape_control(str(record.get("data", ""))).rstrip("\n"), file=self.out, flush=True)

    def finish(self):
        """Leaves the rest of a log that was followed a moment to come."""
        if self.thread:
            self.follow()
            self.thread.join(timeout=5)


def print_failure(api, push, message):
    """Why a run did not complete: Kaggle's message, where there is one, and the end of the log."""
    try:
        with asking(f"the log of {push}"):
            lines = read_log(api.kernels_logs(push.kernel))[-LAST_LINES:]
    except BadInput as error:
        lines = [f"({error})"]
    print("\n".join(["The log ends:", *(f"  {line}" for line in lines)] if lines else ["There is no log."]))
    print(f"{push} did not complete{': ' + message if message else ''}. See {push.url}")


def read_log(text):
    """Kaggle's log, a list of JSON records, one a line, cut where it is long -> the lines that the run printed."""
    try:
        records = json.loads("[" + text.strip("[] \n") + "]")
    except ValueError:
        records = [read_record(line) for line in text.splitlines()]
    parts = (record.get("data", "") if isinstance(record, dict) else f"{record}\n" for record in records)
    return "".join(parts).splitlines()


def read_record(line):
    try:
        return json.loads(line.strip("[], "))
    except ValueError:
        return line


# ---- fetch -------------------------------------------------------------------------------------


def fetch_output(push, out, shapes=None):
    """Downloads what a run left, checks it and puts it into a folder, or nothing at all -> its submission's path.

    Args:
        push: the run, a Push.
        out: folder, a Path.
        shapes: see `check_predicted`.

    Raises:
        BadInput: the run left no submission or a placeholder, or what came is not what it left.
    """
    api = sign_in()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=out) as folder:

        def ask():
            with asking(f"the output of {push}"):
                return api.kernels_output(push.kernel, folder, force=True)

        _, next_page = ask_patiently(ask, pause=5)
        if next_page:
            raise BadInput(f"the client fetched a part of what {push} left: fetch again")
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        check_output(push, {path.relative_to(folder).as_posix(): path for path in files}, shapes)
        for path in files:
            target = out / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
    return out / SUBMISSION_FILE


def check_output(push, files, shapes):
    """Refuses {name: path} without a sound submission, or with a page where a file should be."""
    if not [name for name in files if not name.endswith(".log")]:
        raise BadInput(f"{push} left no files: see its log at {push.url}")
    if SUBMISSION_FILE not in files:
        raise BadInput(f"{push} left {', '.join(sorted(files))}, but no {SUBMISSION_FILE}: see its log at {push.url}")
    for name, path in files.items():
        with path.open("rb") as file:
            if is_page(file.read(100)) and not name.endswith((".html", ".svg", ".xml")):
                raise BadInput(f"{name} came as a web page, of an error most likely: fetch again")
    check_predicted(files[SUBMISSION_FILE], shapes)
