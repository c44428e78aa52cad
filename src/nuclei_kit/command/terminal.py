"""Terminal: streams that bear any text, log lines beside live bars, colours, commands to type, and SIGTERM."""

import contextlib
import logging
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

GREEN, YELLOW, RED, BOLD = 32, 33, 31, 1  # codes of ANSI terminals


class Failed(Exception):
    """A command was tried and failed: one sentence, and perhaps the lines that show why. Exit status 1."""


def ready_streams() -> None:
    """Make stdout and stderr bear whatever is written to them: letters that their encoding lacks are escaped, and where
    the caller closed one, it leads nowhere. A file that is opened must not become descriptor 1 or 2, which libraries
    write to."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)  # None where Python found none
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a notebook's has not
            stream.reconfigure(errors="backslashreplace")


def drop_unwritten() -> None:
    """Lead stdout nowhere where it takes no more, so that Python does not try again, and complain, when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):  # it has no descriptor
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)


def escape_control(text: str) -> str:
    """Show control characters and undecodable bytes as escape sequences, so that no file name can steer a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def describe_error(error: OSError) -> str:
    """Say what the operating system refused, and of which file."""
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)


def program() -> str:
    """Name this program as it can be typed here: nuclei, or the path that started it where PATH finds another or none.

    A clone's .venv/bin/nuclei runs without its environment being activated.
    """
    started, found = Path(sys.argv[0]), shutil.which("nuclei")
    if started.name != "nuclei" or (found and Path(found).resolve() == started.resolve()):
        return "nuclei"
    return escape_control(shlex.quote(sys.argv[0]))


def quote(path: Path) -> str:
    """Quote a path for a shell, with control characters escaped for the terminal."""
    return escape_control(shlex.quote(str(path)))


def paint(text: str, code: int) -> str:
    """Colour a text where stdout is a terminal that can, and NO_COLOR is not set (https://no-color.org)."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{code}m{text}\033[0m"


@contextlib.contextmanager
def stopping_at_sigterm() -> Iterator[None]:
    """End what runs in this context at SIGTERM as at Ctrl-C, so that it closes its files and says what it leaves.

    Python lets the main thread alone handle signals; elsewhere nothing is changed.
    """

    def stop(*_):
        raise KeyboardInterrupt("SIGTERM")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _BesideBars(logging.Handler):
    """Write plain lines to stderr, above the live bars where there are any."""

    def emit(self, record):
        message = record.getMessage()
        if record.levelno >= logging.WARNING:
            message = f"{record.levelname.lower()}: {message}"
        tqdm.write(escape_control(message), file=sys.stderr)


@contextlib.contextmanager
def log_lines() -> Iterator[None]:
    """Show what the science logs, from its INFO level on, while the context lasts."""
    logger, handler = logging.getLogger("nuclei"), _BesideBars()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
