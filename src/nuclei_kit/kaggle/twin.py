"""Twin: run the built kernel here as Kaggle would, and publish its submission if the run ends well."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nuclei.competition.data import COMPETITION, TEST_NAMES, TRAIN_NAME, group_files, last_stage
from nuclei.settings.config import BadInput, log
from nuclei.settings.files import SUBMISSION_FILE
from nuclei_kit.command.terminal import Failed, escape_control
from nuclei_kit.experiments.scoring import check_file
from nuclei_kit.files.folders import KERNEL_LOG_FILE, in_use, unfinished
from nuclei_kit.files.reading import find_whole_set, list_ids
from nuclei_kit.kaggle.rules import SESSION_MINUTES

LAUNCHER = Path(__file__).resolve().with_name("launcher.py")
# The places where Kaggle has mounted a competition's files, by name.
LAYOUTS = {"competitions": f"competitions/{COMPETITION}", "plain": COMPETITION}
# The variables that a kernel sees of its caller's environment: what finds and chooses the devices.
KEPT = ("PATH", "KERAS_BACKEND", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
TAIL_LINES = 5  # lines of a failed kernel's log that its error repeats
# Lines of TensorFlow's C++ about itself, whatever TF_CPP_MIN_LOG_LEVEL is: kept in kernel.log, but not shown.
START_UP = re.compile(r"WARNING: All log messages before absl|I\d{4} \d\d:\d\d:\d\d")


def run_twin(
    kernel: Path,
    data: Path,
    out: Path,
    settings: Mapping[str, Any],
    limit: float = SESSION_MINUTES,
    layout: str = "competitions",
    python: str = sys.executable,
) -> Path:
    """Run a kernel on a competition -> the path of `out`/submission.csv.

    `out` changes only when the run has ended well: until then, and for good after a failure, its files are in
    `out`/unfinished. Nothing of the run outlives this call, nor this process.

    Args:
        kernel: the script.
        data: folder with Kaggle's files.
        out: the run's folder.
        settings: {"PRESET": ..., "STEPS": ...}, the kernel's NUCLEI_* variables; those left out are as on Kaggle.
        limit: minutes until it is killed without notice.
        layout: one of LAYOUTS.
        python: the interpreter, a path or a command.

    Raises:
        BadInput: about the data or the interpreter, before anything is run.
        Failed: the kernel was killed, ended with an error, or left no submission that Kaggle would take.
    """
    test_names = TEST_NAMES[settings.get("STAGE") or last_stage(data)]
    _, ids = (dict.fromkeys(check_layout(find_whole_set(data, names))) for names in ((TRAIN_NAME,), test_names))
    interpreter = find_python(python)
    check_backend(interpreter)
    command = [interpreter, "-I", "-u", LAUNCHER]
    shown = ", ".join(f"{name.lower()} {value}" for name, value in settings.items())
    log.info("%s runs as on Kaggle, for %g minutes at most (%s)", kernel, limit, shown or "as it is")
    with in_use(out), unfinished(out) as working:
        with _mounted(kernel, data, layout, working) as (script, home, environ):
            environ |= {f"NUCLEI_{name}": str(value) for name, value in settings.items()}
            status = _run_process([*command, script], home, environ, working / KERNEL_LOG_FILE, limit)
        _judge(status, working, ids, limit)
    return out / SUBMISSION_FILE


def check_layout(path: Path) -> list[str]:
    """Refuse a set that the kernel's small reader, made for Kaggle's own files, would not see whole -> its ids.

    Raises:
        BadInput: it holds links, or images in other formats than PNG and TIFF, or in a zip from Windows.
    """
    ids, by_kernel = list_ids(path), {}
    if path.suffix in ("", ".zip"):
        names = zipfile.ZipFile(path).namelist() if path.is_file() else map(str, path.rglob("*"))
        by_kernel = group_files([name for name in names if not name.endswith("/")])
    missed = [one for one in ids if one not in by_kernel or not by_kernel[one]["images"]]
    if missed:
        raise BadInput(
            f"{path}: the kernel would miss {len(missed)} images, {missed[0]} first, since it reads Kaggle's own files "
            "alone, without links, as PNG: train with nuclei run"
        )
    return ids


def check_backend(python: str) -> None:
    """Raise BadInput where an interpreter lacks the backend that KERAS_BACKEND chooses for the kernel."""
    backend = os.environ.get("KERAS_BACKEND")
    if backend:
        script = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({backend!r}) is None)"
        if subprocess.run([python, "-I", "-c", script], capture_output=True).returncode:
            raise BadInput(f"KERAS_BACKEND is {backend}, which {python} does not have: install it, or unset it")


def find_python(python: str) -> str:
    """Find an interpreter -> its absolute path; a link stays one, since a virtual environment's python is."""
    found = shutil.which(python)
    if not found:
        raise BadInput(f"{python} is not a program: name a Python, such as build/stacks/kaggle/bin/python")
    return os.path.abspath(found)


@contextlib.contextmanager
def _mounted(kernel, data, layout, working):
    """Make Kaggle's folders in a temporary one -> (the script, alone in a read-only folder; home; the environment)."""
    with tempfile.TemporaryDirectory(prefix="nuclei-twin-") as root:
        home, kaggle = Path(root, "home"), Path(root, "kaggle")
        script, mount = kaggle / "src/script.py", kaggle / "input" / LAYOUTS[layout]
        for folder in (home, script.parent, mount.parent):
            folder.mkdir(parents=True)
        mount.symlink_to(Path(data).resolve(), target_is_directory=True)
        (kaggle / "working").symlink_to(working.resolve(), target_is_directory=True)
        shutil.copyfile(kernel, script)
        script.chmod(0o444)
        script.parent.chmod(0o555)
        environ = {name: os.environ[name] for name in KEPT if name in os.environ}
        environ |= {"HOME": str(home), "LANG": "C.UTF-8", "KAGGLE_KERNEL_RUN_TYPE": "Batch"}
        environ["TF_CPP_MIN_LOG_LEVEL"] = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")
        environ["TF_ENABLE_ONEDNN_OPTS"] = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1")  # these as in start_keras
        environ |= {"NUCLEI_INPUT": str(kaggle / "input"), "NUCLEI_WORKING": str(kaggle / "working")}
        environ["HDF5_USE_FILE_LOCKING"] = "FALSE"
        yield script, home, environ


def _run_process(command, cwd, environ, log_file, limit):
    """Show what a command prints, line by line, and keep it -> its exit status, None if the limit killed it."""
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    streams |= {"text": True, "encoding": "utf-8", "errors": "replace"}
    start = time.monotonic()
    # Its stdin stays open as long as this process lives, and the launcher watches it.
    with (
        open(log_file, "w", encoding="utf-8", buffering=1) as kept,
        subprocess.Popen(command, cwd=cwd, env=environ, start_new_session=True, **streams) as process,
    ):
        timer = threading.Timer(60 * limit, _kill_group, [process])
        timer.start()
        try:
            for line in process.stdout or ():
                kept.write(line)
                if not START_UP.match(line):
                    print(escape_control(line), end="", flush=True)
            status = process.wait()
        finally:
            timer.cancel()
            _kill_group(process)  # and what it left running
    late = time.monotonic() - start >= 60 * limit
    return None if status == -signal.SIGKILL and late else status


def _kill_group(process):
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it is gone; macOS says so in its own way
        os.killpg(process.pid, signal.SIGKILL)


def _judge(status, working, ids, limit):
    """Raise Failed unless the kernel ended well and its submission is worth publishing."""
    path = working / SUBMISSION_FILE
    if status is None:
        raise Failed(
            f"the kernel was killed after {limit:g} minutes, without notice, and {describe_submission(path, ids)}; "
            "Kaggle may lose the output of a session that ends so: choose fewer --minutes"
        )
    if status:
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        with open(working / KERNEL_LOG_FILE, encoding="utf-8") as lines:
            last = "".join(deque(lines, TAIL_LINES))
        raise Failed(f"the kernel {how}; {working / KERNEL_LOG_FILE} ends with\n{last}")
    try:
        nuclei, _, _ = check_file(path, ids)
    except BadInput as error:
        raise Failed(f"the kernel ended well, but left nothing that Kaggle would take: {error}") from None
    if not nuclei:
        raise Failed(f"the kernel ended well, but {describe_submission(path, ids)}")


def describe_submission(path: Path, ids: Mapping[str, None]) -> str:
    """Say in half a sentence what a run that was cut off left."""
    try:
        nuclei, images, _ = check_file(path, ids)
    except BadInput as error:
        return f"it left nothing that Kaggle would take ({error})"
    if not nuclei:
        return f"{path} is a placeholder: {images} images without a nucleus"
    return f"{path} holds {nuclei} nuclei in {images} images"
