"""Folders: a run's folder holds a finished run at any moment; the next one is written into a folder inside it."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from nuclei.settings.config import BadInput, log
from nuclei.settings.files import CONFIDENCE_FILE, CONFIG_FILE, LOG_FILE, STAGES_FILE, SUBMISSION_FILE, WEIGHTS_FILE

HELD_OUT_FILE = "held_out.csv"  # the score of each held-out image
HELD_OUT_NUCLEI_FILE = "held_out_nuclei.csv"  # what was found in the held-out images, as in a submission
OPEN_FILE = "open.csv"  # the score of each image of stage1_test whose truth is open
KERNEL_LOG_FILE = "kernel.log"  # what the kernel printed, where it was the kernel that ran
REPORT_FILE = "report.html"
RUN_FILES = {
    WEIGHTS_FILE,
    CONFIG_FILE,
    LOG_FILE,
    STAGES_FILE,
    SUBMISSION_FILE,
    CONFIDENCE_FILE,
    HELD_OUT_FILE,
    HELD_OUT_NUCLEI_FILE,
    OPEN_FILE,
    KERNEL_LOG_FILE,
    REPORT_FILE,
}
CHECKPOINTS_FOLDER = "checkpoints"  # in a run's folder; deleted once the run's files are in place


@contextlib.contextmanager
def in_use(out: Path, wait: bool = False) -> Iterator[None]:
    """Keep the folder `out` for this process while the context lasts.

    It is made where it is missing, and removed again where an error leaves it empty.

    The operating system holds the lock, on the folder itself: nothing is written, and a killed process leaves nothing.
    Where the file system has no locks, a warning says so, and the context goes without.

    Args:
        wait: whether to wait while another process has it.

    Raises:
        BadInput: another process has it, and `wait` is false.
    """
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise BadInput(f"{out} is in use by another run: wait for it to end, or name another folder") from None
        except OSError as error:  # NFS, Lustre and some containers
            log.warning("%s cannot be locked (%s): see to it that no other run uses it", out, error.strerror)
        yield
    except BaseException:  # Ctrl-C and SIGTERM, too
        with contextlib.suppress(OSError):  # not empty
            for folder in missing:
                folder.rmdir()
        raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def unfinished(out: Path) -> Iterator[Path]:
    """Give a run the folder `out`/unfinished to write into; when the run is done, move its files to `out`.

    Until then an earlier run's files in `out` stay whole. After an error they stay, too, and so does what this run
    wrote: where that includes checkpoints, the next run resumes from them, else it starts afresh. When the run is done,
    files of an earlier run that this run did not write are deleted, since they belong to other weights.

    Args:
        out: the run's folder, which may not exist yet.
    """
    folder = out / "unfinished"
    checkpoints = folder / CHECKPOINTS_FOLDER
    if not checkpoints.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name not in RUN_FILES and path != checkpoints:
            path.unlink()  # half a file, of a run that was killed while it wrote
    try:
        yield folder
    except BaseException:  # Ctrl-C and SIGTERM, too
        if checkpoints.is_dir():
            _tell_what_stands(folder)
        for empty in (folder, out):
            with contextlib.suppress(OSError):  # not empty
                empty.rmdir()
        raise
    written = {path.name for path in folder.iterdir() if path != checkpoints}
    for name in written:
        os.replace(folder / name, out / name)
    for name in RUN_FILES - written:
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(folder)  # the checkpoints last: a run that is killed before this line can still be resumed


def _tell_what_stands(folder):
    submission = folder / SUBMISSION_FILE
    found = f"{submission} is what it found so far" if submission.is_file() else "no submission yet"
    log.warning("%s keeps this run (%s); the same command resumes it", folder, found)
