"""Journal: what a long prediction has done so far, so that the same command resumes after a kill.

A file of lines that only grows: the thousandth finished image costs what the first one did. A kill costs the line that
was being written, and no more: each carries its checksum.
"""

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nuclei.settings.config import BadInput, log

UNFINISHED = "unfinished-prediction"  # folder in --out, until the prediction is done


class Journal:
    """{key: value}, both of what JSON holds, in memory and in a file.

    Args:
        path: the file, which may not exist yet. It is read up to the first line that is torn, and cut off there.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.done: dict[str, Any] = {}
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = 0
        for line in content.splitlines(keepends=True):
            checksum, _, text = line.partition(b" ")
            if not text.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
                os.truncate(self.path, whole)
                break
            key, value = json.loads(text)
            self.done[key] = value
            whole += len(line)

    def add(self, key: str, value: Any) -> None:
        """Keep what is done.

        Raises:
            OSError: the disk is full or fails; names the file.
        """
        text = json.dumps([key, value]).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab") as file:
                file.write(b"%08x " % zlib.crc32(text) + text)
        except OSError as error:  # a full disk gives no name
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        self.done[key] = value

    def once(self, key: str, work: Callable[[], Any]) -> Any:
        """Return what `work()` gives; it is done once: later calls, and those after a kill, read it."""
        if key not in self.done:
            self.add(key, work())
        return self.done[key]


@contextmanager
def unfinished_prediction(out: Path, digest: str) -> Iterator[Journal]:
    """Open the Journal of a prediction into the folder `out`, with what the same command did before it was cut off.

    It is deleted with its folder when the prediction is done. Until then other journals may stand beside it.

    Args:
        digest: `digest_runs` of the weights.

    Raises:
        BadInput: the prediction that was cut off had other weights.
    """
    folder = out / UNFINISHED
    journal = Journal(folder / "images.journal")
    if journal.once("weights", lambda: digest) != digest:
        raise BadInput(
            f"{folder} holds an unfinished prediction by other weights: name another folder with --out, "
            "resume with those weights, or delete it to start afresh"
        )
    if len(journal.done) > 1:
        log.info("resuming after %d predicted images", len(journal.done) - 1)
    try:
        yield journal
    except BaseException:  # Ctrl-C and SIGTERM, too
        log.warning("%s keeps what is done: the same command resumes it", folder)
        raise
    shutil.rmtree(folder)
