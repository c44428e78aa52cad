"""Launcher: run a kernel as if it were alone on a machine without a network.

    python -I launcher.py /kaggle/src/script.py < LIFELINE

The twin starts it in a process group of its own, by any interpreter: it needs the standard library alone. An audit hook
works for root, on macOS and in containers, where a network namespace or a read-only mount would not.
"""

import errno
import os
import runpy
import signal
import socket
import sys
import threading
from typing import Any

# The audit events of Python that lead to another process.
CALLS = {f"socket.{name}" for name in ("connect", "sendto", "sendmsg")}
LOOKUPS = {f"socket.{name}" for name in ("getaddrinfo", "gethostbyname", "gethostbyaddr")}


def run_alone(script: str) -> None:
    """Run the script as __main__, without network, without write access beside itself, without our sources in reach."""
    die_with_parent()
    hidden: dict[str, Any] = {"nuclei": None, "nuclei_kit": None}  # an editable install shows them even to python -I
    sys.modules.update(hidden)
    sys.addaudithook(lambda event, arguments: refuse(event, arguments, os.path.dirname(script)))
    sys.argv = [script]
    runpy.run_path(script, run_name="__main__")


def refuse(event: str, arguments: tuple, folder: str) -> None:
    """Raise where the audit hook sees what could not be done on Kaggle; print it, too, in case the kernel hides it.

    Raises:
        ConnectionRefusedError: a name is looked up, or a socket other than AF_UNIX connects or sends.
        OSError: EROFS, a file in the script's folder is opened for writing: root could, whatever the folder's mode.
    """
    if event in LOOKUPS or (event in CALLS and arguments[0].family != socket.AF_UNIX):
        address = arguments[event in CALLS]
        print(f"NO NETWORK on Kaggle, and this kernel tried to reach {address}", file=sys.stderr)
        raise ConnectionRefusedError(errno.ECONNREFUSED, "there is no network", address)
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR) and is_inside(arguments[0], folder):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), arguments[0])


def is_inside(path: str | bytes | int, folder: str) -> bool:
    """Tell whether what is opened, a path or a descriptor, lies right in a folder."""
    return not isinstance(path, int) and os.path.dirname(os.path.abspath(os.fsdecode(path))) == folder


def die_with_parent() -> None:
    """Kill this process group when stdin ends, as it does when the twin is gone, whatever ended it."""
    lifeline = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def wait():
        os.read(lifeline, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    run_alone(sys.argv[1])
