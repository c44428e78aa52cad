"""Folders: what a run writes stays out of sight until the run is done."""

import contextlib
import fcntl
import os
import shutil

from nuclei.config import RUN_FILES, BadInput

KERNEL_LOG = "kernel.log"  # what the kernel said, where it was the kernel that ran
REPORT = "report.html"


@contextlib.contextmanager
def in_use(out):
    """Keeps the folder `out`, which is made where there is none, for this process as long as the context lasts.

    The lock is the kernel's, on the folder itself: nothing is written, and nothing is left when the process is killed.

    Args:
        out: Path of the run's folder.

    Raises:
        BadInput: another process has it.
    """
    out.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"{out} is in use by another run: wait for it to end, or name another folder") from None
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def unfinished(out):
    """Gives a run the folder `out`/unfinished to write into; when it is done, moves its files to `out`.

    What an earlier run left in `out` stays whole until then. It stays after an error, too, and so does what the run
    wrote so far. When the run is done, files of an earlier one that it has no like of are removed: they would belong to
    other weights.

    Args:
        out: Path of the run's folder, which may not exist yet.
    """
    folder = out / "unfinished"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was cut off
    folder.mkdir(parents=True)
    try:
        yield folder
    except BaseException:
        for empty in (folder, out):
            with contextlib.suppress(OSError):  # not empty
                empty.rmdir()
        raise
    written = {path.name for path in folder.iterdir()}
    for name in written:
        os.replace(folder / name, out / name)
    for name in {*RUN_FILES, KERNEL_LOG, REPORT} - written:
        (out / name).unlink(missing_ok=True)
    folder.rmdir()
