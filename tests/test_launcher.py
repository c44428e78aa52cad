"""The launcher: what its hook refuses, and what it lets pass. What a kernel meets in it is in test_twin."""

import os
import socket
import subprocess
import sys
from errno import ECONNREFUSED, EROFS

import pytest

from nuclei_kit.kaggle import launcher
from nuclei_kit.kaggle.launcher import is_inside, refuse


@pytest.fixture
def sockets():
    """{family: an open socket}, none of them connected."""
    families = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
    made = {family: socket.socket(family, socket.SOCK_DGRAM) for family in families}
    yield made
    for one in made.values():
        one.close()


@pytest.mark.parametrize("event", sorted(launcher.CALLS))
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_no_socket_leads_off_the_machine(sockets, capsys, event, family):
    address = ("192.0.2.1", 80)
    with pytest.raises(ConnectionRefusedError) as refused:
        refuse(event, (sockets[family], address), "/src")
    assert (refused.value.errno, refused.value.filename) == (ECONNREFUSED, address)
    assert "192.0.2.1" in capsys.readouterr().err  # a kernel may hide the error


@pytest.mark.parametrize("event", sorted(launcher.LOOKUPS))
def test_no_name_is_looked_up(event):
    with pytest.raises(ConnectionRefusedError) as refused:
        refuse(event, ("example.org",), "/src")
    assert refused.value.filename == "example.org"


@pytest.mark.parametrize("event", sorted(launcher.CALLS))
def test_processes_of_one_machine_may_talk_by_a_file(sockets, event):
    refuse(event, (sockets[socket.AF_UNIX], "/some/file"), "/src")


@pytest.mark.parametrize("path", ["/src/script.py", b"/src/new.py", "/elsewhere/../src/new.py"])
@pytest.mark.parametrize("flags", [os.O_WRONLY | os.O_CREAT, os.O_RDWR, os.O_WRONLY | os.O_APPEND])
def test_nothing_is_written_beside_the_script(path, flags):
    with pytest.raises(OSError) as refused:
        refuse("open", (path, None, flags), "/src")
    assert (refused.value.errno, refused.value.filename) == (EROFS, path)


def test_all_else_passes():
    refuse("open", ("/src/script.py", "r", os.O_RDONLY), "/src")
    refuse("open", ("/working/new.py", "w", os.O_WRONLY), "/src")
    refuse("open", (3, "w", os.O_WRONLY), "/src")  # a descriptor that is open already
    refuse("import", ("socket",), "/src")


def test_inside_means_right_in_the_folder(monkeypatch):
    monkeypatch.chdir("/")
    assert is_inside("usr/file", "/usr")
    assert not is_inside("usr/lib/file", "/usr")
    assert not is_inside("usr", "/usr")


def test_it_ends_with_whoever_holds_its_lifeline(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import time; print(__name__, flush=True); time.sleep(600)")
    process = subprocess.Popen(
        [sys.executable, "-I", launcher.__file__, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        assert process.stdout.readline() == b"__main__\n"
        process.stdin.close()
        assert process.wait(timeout=60) == -9
