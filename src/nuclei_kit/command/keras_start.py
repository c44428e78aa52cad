"""Keras's start: it is imported without the noise of its backend, and whatever the user's keras.json says."""

import contextlib
import os
import re
import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator

from nuclei.settings.config import BadInput

BACKENDS = ("tensorflow", "jax", "torch")
# Limit of memory: (its option of ulimit, GB). TensorFlow takes 2.3 and 0.6; where it gets less it crashes or hangs.
LEAST_MEMORY = {resource.RLIMIT_AS: ("v", 3.0), resource.RLIMIT_DATA: ("d", 1.0)}
FLAGS = ("XLA_FLAGS", "TF_XLA_FLAGS")  # at a flag that it does not know, XLA ends the process without an exception
# What a user may have set that keeps a backend from starting.
VARIABLES = {"tensorflow": FLAGS, "jax": ("JAX_PLATFORMS", *FLAGS), "torch": ()}


def start_keras() -> str:
    """Import Keras quietly -> its backend. Call it before a module that imports Keras.

    TensorFlow 2.21 logs missing CUDA drivers to descriptor 2, past sys.stderr and before any setting of its own counts,
    when it is imported and again when it first lists the devices.

    Raises:
        BadInput: the backend is none of BACKENDS, is not installed, or does not start. The sentence ends with what
            mends it, after its last colon.
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
    check_limits()
    if any(os.environ.get(name) for name in FLAGS):
        try_flags(backend)
    try:
        with silence():
            from nuclei.network.device import list_gpus

            list_gpus()
    except Exception as error:  # each backend has its own
        why = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")[:200]
        raise BadInput(f"Keras does not start with {backend} ({why}): {mend_start(error, backend)}") from None
    return backend


def check_limits() -> None:
    """Refuse the shell's limits of memory under which a backend would crash.

    Raises:
        BadInput: one is below LEAST_MEMORY.
    """
    for kind, (option, least) in LEAST_MEMORY.items():
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY and limit < least * 1e9:
            why = f"ulimit -{option} leaves it {limit / 1e9:.1f} GB of memory, and it needs {least:.0f}"
            raise BadInput(f"Keras does not start ({why}): ulimit -{option} unlimited")


def try_flags(backend: str) -> None:
    """Try in a process of its own whether XLA knows the flags that are set for it.

    Raises:
        BadInput: it does not.
    """
    script = "from nuclei.network.device import list_gpus; list_gpus()"
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, errors="replace")
    refused = re.search(r"Unknown flags? in (\w+): .*", done.stderr)
    if done.returncode and refused:
        raise BadInput(f"Keras does not start with {backend} ({refused[0]}): unset {refused[1]}")


def mend_start(error: Exception, backend: str) -> str:
    """Say what mends a backend that does not start, by the exception that it ended in."""
    text = str(error)
    if isinstance(error, MemoryError) or re.search("allocate memory|failed to map segment", text):
        return "end other programs, or use a machine with more memory"
    if isinstance(error, ModuleNotFoundError):
        mend = f"pip install {(error.name or backend).split('.')[0]}"
    else:
        # MPLBACKEND counts since Keras imports matplotlib where it is installed; notebooks always set it.
        mentioned = [name for name in (*VARIABLES[backend], "MPLBACKEND") if _is_mentioned(name, text)]
        names = mentioned or [name for name in VARIABLES[backend] if os.environ.get(name)]
        if names:
            return f"unset {' '.join(names)}"
        mend = f"pip install --force-reinstall {backend}"
    return mend if backend == BACKENDS[0] else f"{mend}, or unset KERAS_BACKEND"


def _is_mentioned(variable, text):
    value = os.environ.get(variable)
    return bool(value) and (variable in text or repr(value) in text)


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
