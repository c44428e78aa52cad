"""Doctor: whether this machine has what the kit needs, and the command that mends what it lacks.

It must start where a library does not, so that modules which need one are imported inside the checks.
"""

import contextlib
import fcntl
import importlib
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from nuclei.settings.config import BadInput
from nuclei_kit.command.keras_start import BACKENDS
from nuclei_kit.command.options import DATA_FOLDER
from nuclei_kit.command.terminal import describe_error, program
from nuclei_kit.kaggle.client import SIGN_IN, sign_in
from nuclei_kit.kaggle.rules import OLDEST_PYTHON

MIN_FREE = 2.0  # GB on the disk: the decoded images of stage 1 take 0.7, a run's folder 0.2
NATIVE = ("numpy", "scipy", "cv2", "h5py", "imagecodecs", "skimage")  # wheels that may not suit a system
PATIENCE = 120  # seconds for another program to answer
# What a process of its own says of Keras: a library that does not suit the machine may end the process that loads it.
KERAS_SCRIPT = """
from nuclei_kit.command.keras_start import start_keras
from nuclei.settings.config import BadInput
try:
    backend = start_keras()
except BadInput as error:
    raise SystemExit(str(error))
import importlib.metadata, keras
from nuclei.network.device import list_gpus
print(len(list_gpus()), f"{keras.__version__} on {backend} {importlib.metadata.version(backend)}")
"""


@dataclass(frozen=True)
class Finding:
    """What one check found: `mend` is "" where all is well; `needed` tells whether a run needs it."""

    name: str
    fact: str
    mend: str = ""
    needed: bool = True


def examine() -> Iterator[Finding]:
    """Check one thing after another -> a Finding each."""
    yield check_python()
    yield _survive("libraries", check_libraries)
    keras, gpus = check_keras()
    yield keras
    yield _survive("GPU", check_gpu, gpus)
    yield _survive("disk", check_disk)
    yield _survive("files", check_files)
    yield check_output()
    yield _survive("data", check_data)
    yield _survive("Kaggle", check_credentials)


def _survive(name, check, *arguments):
    """Make a Finding of whatever keeps a check from its end: the others are still worth making."""
    try:
        return check(*arguments)
    except Exception as error:
        why = describe_error(error) if isinstance(error, OSError) else str(error)
        return Finding(name, f"cannot be checked: {why or type(error).__name__}", "mend that, and look again")


def check_python() -> Finding:
    """Compare Python's version with the oldest that the kit runs on."""
    version = sys.version.split()[0]
    return Finding("Python", version, "" if sys.version_info >= OLDEST_PYTHON else "make run PYTHON=python3.12")


def check_libraries() -> Finding:
    """Compare the installed versions with what pyproject.toml asks for, and start those that need system libraries."""
    from packaging.requirements import Requirement

    try:
        needed = [Requirement(line) for line in metadata.requires("nuclei-kit") or ()]
    except metadata.PackageNotFoundError:
        return Finding("libraries", "nuclei itself is not installed", "pip install -e .")
    wrong, count = [], 0
    for need in needed:
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{need.name} is missing")
            continue
        if not need.specifier.contains(version, prereleases=True):
            wrong.append(f"{need.name} is {version}, not {need.specifier}")
    for name in NATIVE:
        try:
            importlib.import_module(name)
        except ImportError as error:
            wrong.append(f"{name} does not start ({error})")
    return Finding("libraries", "; ".join(wrong) or f"all {count} are there", "pip install -e ." if wrong else "")


def check_keras() -> tuple[Finding, int]:
    """Start Keras in a process of its own -> (Finding, the number of GPUs that it finds)."""
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        done = subprocess.run(
            [sys.executable, "-c", KERAS_SCRIPT], env=environ, capture_output=True, text=True, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        return Finding("Keras", f"does not start within {PATIENCE} seconds", "pip install -e ."), 0
    except OSError as error:
        return Finding("Keras", f"no process can be started: {error.strerror}", "ulimit -u unlimited"), 0
    if done.returncode == 0:
        gpus, fact = done.stdout.splitlines()[-1].split(" ", 1)
        return Finding("Keras", fact), int(gpus)
    last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
    if done.returncode == 1 and last.startswith("Keras does not start"):
        fact, _, mend = last.rpartition(": ")  # start_keras names what mends it
        return Finding("Keras", fact, mend), 0
    if done.returncode < 0:
        last = f"its process was ended by {signal.Signals(-done.returncode).name}: {last}"
    set_backend = os.environ.get("KERAS_BACKEND", BACKENDS[0]) != BACKENDS[0]
    return Finding("Keras", last, "unset KERAS_BACKEND" if set_backend else "pip install -e ."), 0


def check_gpu(found: int) -> Finding:
    """Compare what the driver lists with how many Keras finds; a run does without, but slower."""
    driver = shutil.which("nvidia-smi")
    listed = []
    if driver:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # a broken driver's program may hang
            done = subprocess.run([driver, "-L"], capture_output=True, text=True, errors="replace", timeout=PATIENCE)
            listed = [line for line in done.stdout.splitlines() if line.startswith("GPU")]
    if not listed and not found:
        return Finding("GPU", "none: training uses the CPU, which --preset cpu is made for", needed=False)
    fact = f"{len(listed)} in the machine, {found} found by Keras"
    return Finding("GPU", fact, "" if found else 'pip install -e ".[gpu]"', needed=False)


def check_disk() -> Finding:
    """Measure the free space for decoded images, which a run does without, and for runs; try whether it can be used."""
    from nuclei_kit.files.cache import default_cache

    cache = default_cache()
    if not cache:
        return Finding("disk", "no home to keep decoded images in", "export NUCLEI_CACHE=/a/folder/with/room", False)
    try:
        folders = {"NUCLEI_CACHE": cache.absolute(), "": Path.cwd()}
    except FileNotFoundError:
        return Finding("disk", "the working folder is gone, deleted or moved", "cd /a/folder/with/room")
    for variable, path in folders.items():
        mend = f"{f'export {variable}=' if variable else 'cd '}/a/folder/with/room"
        there = _existing(path)
        try:
            tempfile.TemporaryFile(dir=there).close()
        except OSError as error:
            return Finding("disk", f"{there} cannot be written: {error.strerror}", mend, needed=not variable)
        if _free(there) < MIN_FREE:
            return Finding("disk", f"{_free(there):.1f} GB free for {path}", mend, needed=not variable)
    return Finding("disk", ", ".join(f"{_free(_existing(path)):.0f} GB free for {path}" for path in folders.values()))


def _existing(path):
    """Find the folder in which a path is, or would be made."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _free(folder):
    """Measure the GB that are free."""
    return shutil.disk_usage(folder).free / 1e9


def check_files() -> Finding:
    """Try what the file system of the working folder can: locks keep two runs apart, maps keep memory low."""
    try:
        lacks = _try_files(Path.cwd())
    except OSError as error:
        return Finding("files", f"none can be made here: {describe_error(error)}", "cd /a/folder/with/room")
    if lacks:
        fact = f"the file system of {Path.cwd()} has no {', and no '.join(lacks)}"
        return Finding("files", fact, "cd /a/folder/on/a/local/disk", needed=False)
    return Finding("files", "locks and memory maps work here")


def _try_files(here):
    """Say what of locks and memory maps the file system of a folder lacks, and what comes of it."""
    lacks = []
    with tempfile.TemporaryDirectory(prefix=".nuclei-doctor-", dir=here) as folder:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lacks.append(f"locks ({error.strerror}): nothing keeps two runs from one folder")
        finally:
            os.close(descriptor)
        with open(Path(folder, "map"), "w+b") as file:
            file.write(b"x")
            file.flush()
            try:
                mmap.mmap(file.fileno(), 1).close()
            except OSError as error:
                lacks.append(f"memory maps ({error.strerror}): decoded images take more memory")
    return lacks


def check_output() -> Finding:
    """Tell whether names print as they are."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    if encoding.replace("-", "") in ("utf8", "utf16", "utf32"):
        return Finding("output", encoding)
    fact = f"{encoding}: letters that it lacks print as \\x.."
    return Finding("output", fact, "export PYTHONIOENCODING=utf-8", needed=False)


def check_data() -> Finding:
    """Look for a competition, and count its images."""
    from nuclei.competition.data import TEST_NAMES, TRAIN_NAME, last_stage
    from nuclei_kit.command.advice import find_competition
    from nuclei_kit.files.reading import find_whole_set, list_ids

    data = find_competition()
    if data is None:
        return Finding("data", "no competition here, nor in $NUCLEI_DATA", f"{program()} download {DATA_FOLDER}")
    try:
        sets = [find_whole_set(data, names) for names in ((TRAIN_NAME,), TEST_NAMES[last_stage(data)])]
        return Finding("data", ", ".join(f"{len(list_ids(path))} images in {path}" for path in sets))
    except BadInput as error:
        return Finding("data", str(error), f"{program()} download {data}")


def check_credentials() -> Finding:
    """Let Kaggle's client sign in; only what goes to Kaggle needs it."""
    try:
        sign_in()
    except BadInput as error:
        said = str(error)
        if "pip install" in said:
            return Finding("Kaggle", said, 'pip install -e ".[workshop]"', needed=False)
        fact = "nobody is signed in to Kaggle" if said == SIGN_IN else said
        return Finding("Kaggle", fact, "kaggle auth login", needed=False)
    return Finding("Kaggle", "signed in")
