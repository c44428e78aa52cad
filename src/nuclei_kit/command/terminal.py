"""Terminal: what a command says while it works: log lines that leave live bars whole, and a quiet Keras."""

import contextlib
import logging
import os
import signal
import sys
import warnings

from tqdm import tqdm

GREEN, YELLOW, RED, BOLD = 32, 33, 31, 1  # of ANSI terminals


class Failed(Exception):
    """What was asked for was tried and went wrong: a sentence, and perhaps the lines that show it. Exit status 1."""


def plain(text):
    """Text that a terminal shows as it is: what would steer the terminal, or is no character, as its escape sequence.

    The names of files and images pass here: one may hold any byte but 0 and "/".
    """
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


@contextlib.contextmanager
def stopping_at_sigterm():
    """SIGTERM ends what runs in this context as Ctrl-C does, so that it closes what it opened and says what stands."""

    def stop(*_):
        raise KeyboardInterrupt("SIGTERM")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _BesideBars(logging.Handler):
    """Writes plain lines to stderr, above the live bars where there are any."""

    def emit(self, record):
        message = record.getMessage()
        if record.levelno >= logging.WARNING:
            message = f"{record.levelname.lower()}: {message}"
        tqdm.write(plain(message), file=sys.stderr)


@contextlib.contextmanager
def log_lines():
    """Shows what the science logs, from its INFO level on, while the context lasts."""
    logger, handler = logging.getLogger("nuclei"), _BesideBars()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def start_keras():
    """Imports Keras without the noise of its backend. Call it before a module that imports Keras.

    TensorFlow 2.21 logs missing CUDA drivers to descriptor 2, past sys.stderr and before any setting of its own counts,
    when it is imported and again when it first lists the devices.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # on CPUs without AVX512, too: a sixth faster there
    # Of weights that do not fit, Keras warns once a layer before it raises the error that we show.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"keras\.src\.saving")
    with silence():
        from nuclei.network.device import list_gpus

        list_gpus()


def paint(text, code):
    """The text in a colour, where stdout is a terminal and NO_COLOR is not set (https://no-color.org)."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\033[{code}m{text}\033[0m"


@contextlib.contextmanager
def silence():
    """Drops what anything writes to descriptor 2; an exception passes, to be shown afterwards."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
