"""Keras's start: it is imported without the noise that its backend writes past Python."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator


def start_keras() -> None:
    """Import Keras quietly. Call it before a module that imports Keras.

    TensorFlow 2.21 logs missing CUDA drivers to descriptor 2, past sys.stderr and before any setting of its own counts,
    when it is imported and again when it first lists the devices.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # on CPUs without AVX512, too: a sixth faster there
    # Of weights that do not fit, Keras warns once a layer before it raises the error that the command shows.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"keras\.src\.saving")
    with silence():
        from nuclei.network.device import list_gpus

        list_gpus()


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Drop what anything writes to descriptor 2; an exception passes, to be shown afterwards."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
