"""Folders: what a run writes stays out of sight until the run is done, and is there to go on from until then."""

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

from nuclei.checkpoint import CHECKPOINTS
from nuclei.config import RUN_FILES, SUBMISSION, BadInput, log

SHIPPED = Path(__file__).with_name("weights")  # the run that comes with the kit; its README is the model card
KERNEL_LOG = "kernel.log"  # what the kernel said, where it was the kernel that ran
REPORT = "report.html"


@contextlib.contextmanager
def in_use(out, wait=False):
    """Keeps the folder `out`, which is made where there is none, for this process as long as the context lasts.

    The lock is the kernel's, on the folder itself: nothing is written, and nothing is left when the process is killed.

    Args:
        out: Path of the folder.
        wait: whether to wait where another process has it.

    Raises:
        BadInput: another process has it, and there is no waiting.
    """
    out.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise BadInput(f"{out} is in use by another run: wait for it to end, or name another folder") from None
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def unfinished(out):
    """Gives a run the folder `out`/unfinished to write into; when it is done, moves its files to `out`.

    What an earlier run left in `out` stays whole until then. It stays after an error, too, and so does what the run
    wrote so far: where that holds checkpoints, the next run gets it to go on from, else it is removed. When the run is
    done, files of an earlier one that it has no like of are removed: they would belong to other weights.

    Args:
        out: Path of the run's folder, which may not exist yet.
    """
    folder = out / "unfinished"
    checkpoints = folder / CHECKPOINTS
    run_files = {*RUN_FILES, KERNEL_LOG, REPORT}
    if not checkpoints.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name not in run_files and path != checkpoints:
            path.unlink()  # half a file, of a run that was killed while it wrote
    try:
        yield folder
    except BaseException:  # Ctrl-C and SIGTERM, too; it goes on after the tidying
        if checkpoints.is_dir():
            _tell_what_stands(folder)
        for empty in (folder, out):
            with contextlib.suppress(OSError):  # not empty
                empty.rmdir()
        raise
    written = {path.name for path in folder.iterdir() if path != checkpoints}
    for name in written:
        os.replace(folder / name, out / name)
    for name in run_files - written:
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(folder)  # the checkpoints last: until here a run that is cut off could go on


def _tell_what_stands(folder):
    submission = folder / SUBMISSION
    found = f"{submission} is what its best weights found so far" if submission.is_file() else "no submission yet"
    log.warning("%s keeps this run (%s); the same command goes on from there", folder, found)
