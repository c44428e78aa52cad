"""Launcher: runs a kernel as if it were alone on a machine without a network.

    python -I launcher.py /kaggle/src/script.py < LIFELINE

The twin starts it in a process group of its own, by any interpreter: standard library alone. An audit hook serves root,
macOS and containers alike, where a network namespace or a read-only mount would not.
"""

import errno
import os
import runpy
import signal
import socket
import sys
import threading

CALLS = {f"socket.{name}" for name in ("connect", "sendto", "sendmsg")}
LOOKUPS = {f"socket.{name}" for name in ("getaddrinfo", "gethostbyname", "gethostbyaddr")}


def run_alone(script):
    """Runs the script as __main__, with no network, no way to write beside itself and no sources in reach."""
    die_with_parent()
    sys.modules.update(nuclei=None, nuclei_kit=None)  # what an editable install puts in reach, even of python -I
    sys.addaudithook(lambda event, arguments: refuse(event, arguments, os.path.dirname(script)))
    sys.argv = [script]
    runpy.run_path(script, run_name="__main__")


def refuse(event, arguments, folder):
    """The audit hook: raises at what could not be done on Kaggle, and says so, in case the kernel hides it.

    Raises:
        ConnectionRefusedError: to what leads to another process but by a file, with its address.
        OSError: EROFS, to a file opened for writing in the read-only folder: root may write there, whatever its mode.
    """
    if event in LOOKUPS or (event in CALLS and arguments[0].family != socket.AF_UNIX):
        address = arguments[event in CALLS]
        print(f"NO NETWORK on Kaggle, and this kernel tried to reach {address}", file=sys.stderr)
        raise ConnectionRefusedError(errno.ECONNREFUSED, "there is no network", address)
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR) and is_inside(arguments[0], folder):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), arguments[0])


def is_inside(path, folder):
    """Whether what is opened, a path or a descriptor, lies right in a folder."""
    return not isinstance(path, int) and os.path.dirname(os.path.abspath(os.fsdecode(path))) == folder


def die_with_parent():
    """Kills this process group when stdin ends, which it does when the twin is gone, whatever ended it."""
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
