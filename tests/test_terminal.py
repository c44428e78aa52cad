"""What a terminal shows: text that cannot steer it, log lines, colour where it is wanted; and how SIGTERM stops it."""

import io
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nuclei_kit.command.advice import next_steps
from nuclei_kit.command.cli import main
from nuclei_kit.command.endings import print_next
from nuclei_kit.command.terminal import RED, escape_control, log_lines, paint, program, quote, stopping_at_sigterm
from nuclei_kit.sample import sample
from nuclei_kit.sample.sample import draw_sample


@pytest.mark.parametrize(
    "text, shown",
    [
        ("a cell, Zelle 細胞\n\tof 3 µm", "a cell, Zelle 細胞\n\tof 3 µm"),
        ("\033[2Jgone", r"\x1b[2Jgone"),
        ("over\rwritten", r"over\rwritten"),
        ("right\u202eto left", r"right\u202eto left"),
        (os.fsdecode(b"no \xff character"), r"no \udcff character"),
        ("", ""),
    ],
)
def test_nothing_steers_the_terminal(text, shown):
    assert escape_control(text) == shown
    escape_control(text).encode()  # a lone surrogate could not be printed at all


@pytest.mark.parametrize(
    "path, typed", [("out", "out"), ("a folder", "'a folder'"), ("it's", """'it'"'"'s'"""), ("a\033b", r"'a\x1bb'")]
)
def test_paths_are_printed_as_a_shell_takes_them(path, typed):
    assert quote(Path(path)) == typed


def test_a_log_line_is_written_once_and_escaped(capsys):
    logger = logging.getLogger("nuclei")
    level = logger.level
    for _ in range(2):
        with log_lines():
            logger.debug("details")
            logger.info("epoch %d", 1)
            logger.warning("odd \033")
    assert capsys.readouterr().err == "epoch 1\nwarning: odd \\x1b\n" * 2
    assert (logger.level, logger.handlers) == (level, [])


def test_sigterm_stops_as_ctrl_c_does():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), stopping_at_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_outside_the_main_thread_sigterm_is_left_alone(tmp_path, capsys):
    ends = []
    thread = threading.Thread(target=lambda: ends.append(main(["info", str(tmp_path)])))
    thread.start()
    thread.join()
    assert ends == [2] and "holds no stage1_train.zip" in capsys.readouterr().err


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_stream_that_is_closed_leads_nowhere(tmp_path, stream):
    """A file that is opened must not become descriptor 1 or 2."""
    script = "from nuclei_kit.command.terminal import ready_streams; ready_streams(); "
    script += f"import sys, os; print('lost', file=sys.{stream}); os.write({1 + (stream == 'stderr')}, b'lost, too'); "
    script += "file = open(sys.argv[1], 'w'); print(file.fileno() > 2, file=file)"
    shell = f'exec "$0" "$@" {1 + (stream == "stderr")}>&-'
    done = subprocess.run(["sh", "-c", shell, sys.executable, "-c", script, tmp_path / "file"])
    assert done.returncode == 0 and (tmp_path / "file").read_text() == "True\n"


class Deaf(io.TextIOWrapper):
    """A stream into a pipe whose reader has gone, with a descriptor of its own."""

    def __init__(self):
        reader, writer = os.pipe()
        os.close(reader)
        super().__init__(os.fdopen(writer, "wb", 0), encoding="utf-8", write_through=False)


@pytest.mark.parametrize("unbuffered", [True, False])
def test_a_reader_that_has_seen_enough_is_no_error(monkeypatch, capsys, unbuffered):
    deaf = Deaf()
    monkeypatch.setattr(sys, "stdout", deaf)
    monkeypatch.setattr(sample, "draw_sample", lambda *_, **__: unbuffered and deaf.write("x" * 10**6))
    assert main(["sample", "anywhere"]) == 141
    assert capsys.readouterr().err == ""
    deaf.close()  # without another error, as at Python's end


def test_a_full_disk_behind_stdout_is_a_sentence(monkeypatch, capsys):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    monkeypatch.setattr(sample, "draw_sample", lambda *_, **__: None)
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["sample", "anywhere"]) == 2
    assert capsys.readouterr().err == "nuclei: error: No space left on device\n"


def test_letters_that_the_output_lacks_are_escaped(monkeypatch, tmp_path):
    bytes_out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(bytes_out, encoding="ascii"))
    monkeypatch.setattr(sample, "draw_sample", lambda *_, **__: None)
    assert main(["sample", "Kerne \xe4"]) == 0
    assert b"Kerne \\xe4 holds a sample competition" in bytes_out.getvalue()


@pytest.mark.parametrize(
    "error, says",
    [
        (MemoryError(), "memory ran out"),
        (RuntimeError("can't start new thread"), "no more threads can be started: raise the limit (ulimit -u"),
        (PermissionError(13, "Permission denied", "/a/file"), "/a/file: Permission denied"),
        (OSError(5, "Input/output error"), "error: Input/output error"),
    ],
)
def test_what_the_machine_lacks_is_a_sentence(monkeypatch, capsys, error, says):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(sample, "draw_sample", fail)
    assert main(["sample", "anywhere"]) == 2
    said = capsys.readouterr().err
    assert says in said and said.startswith("nuclei: error: ") and said.count("\n") == 1


def test_memory_that_runs_out_in_a_backend_is_a_sentence(monkeypatch, capsys):
    import keras  # noqa: F401 - without it no exception is a backend's

    def fail(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: 3 GB")

    monkeypatch.setattr(sample, "draw_sample", fail)
    assert main(["sample", "anywhere"]) == 2
    assert capsys.readouterr().err.startswith("nuclei: error: memory ran out")


def test_colour_goes_to_terminals_alone(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert paint("bad", RED) == "bad"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert paint("bad", RED) == "\033[31mbad\033[0m"
    monkeypatch.setenv("TERM", "dumb")
    assert paint("bad", RED) == "bad"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("bad", RED) == "bad"


def put_program(folder):
    folder.mkdir(parents=True)
    (folder / "nuclei").write_text("#!/bin/sh\n")
    (folder / "nuclei").chmod(0o755)
    return folder / "nuclei"


def test_a_next_step_names_the_program_as_it_was_started_where_path_does_not_find_it(tmp_path, monkeypatch):
    own, other = put_program(tmp_path / "a clone"), put_program(tmp_path / "other")
    monkeypatch.setattr(sys, "argv", [str(own), "sample"])
    for path, named in ((own, "nuclei"), (other, shlex.quote(str(own))), (tmp_path / "none", shlex.quote(str(own)))):
        monkeypatch.setenv("PATH", str(path.parent))
        assert program() == named
    monkeypatch.setattr(sys, "argv", ["./nuclei"])
    assert program() == "./nuclei"
    monkeypatch.setattr(sys, "argv", ["somewhere/__main__.py"])
    assert program() == "nuclei"


def test_every_printed_step_goes_by_that_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NUCLEI_DATA", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", [".venv/bin/nuclei"])
    draw_sample(tmp_path / "drawn", n_train=1, n_test=1)
    monkeypatch.setattr(sample, "draw_sample", lambda *_, **__: None)
    assert main(["sample", "drawn"]) == 0
    print_next(tmp_path / "submission.csv", tmp_path / "drawn", 1)
    steps = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    steps = [*steps[:-1], *(step for step, _ in next_steps(tmp_path)[1])]  # the last is the page to upload it
    assert len(steps) == 5
    assert all(step.startswith(".venv/bin/nuclei ") for step in steps)
