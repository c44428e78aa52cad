"""Keras's start: it is imported without the noise of its backend, and whatever the user's keras.json says."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator

from nuclei.settings.config import BadInput

BACKENDS = ("tensorflow", "jax", "torch")


def start_keras() -> str:
    """Import Keras quietly -> its backend. Call it before a module that imports Keras.

    TensorFlow 2.21 logs missing CUDA drivers to descriptor 2, past sys.stderr and before any setting of its own counts,
    when it is imported and again when it first lists the devices.

    Raises:
        BadInput: the backend is none of BACKENDS, is not installed, or does not start.
    """
    backend = os.environ.get("KERAS_BACKEND") or BACKENDS[0]
    if backend not in BACKENDS:
        raise BadInput(
            f"KERAS_BACKEND is {backend!r}: set it to {', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}, or unset it"
        )
    os.environ["KERAS_HOME"] = (
        os.devnull
    )  # no keras.json: one of other times or other projects would change the network
    os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")  # weights are one run's; NFS and Lustre may have no locks
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # on CPUs without AVX512, too: a sixth faster there
    # Of weights that do not fit, Keras warns once a layer before it raises the error that the command shows.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"keras\.src\.saving")
    try:
        with silence():
            from nuclei.network.device import list_gpus

            list_gpus()
    except Exception as error:  # each backend has its own
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        other = "" if backend == BACKENDS[0] else ", or unset KERAS_BACKEND"
        raise BadInput(f"Keras does not start with {backend} ({why}): pip install {backend}{other}") from None
    return backend


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
