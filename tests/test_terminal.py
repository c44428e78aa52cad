"""What a terminal shows: text that cannot steer it, log lines, colour where it is wanted; and how SIGTERM stops it."""

import logging
import os
import shlex
import signal
import sys
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


def test_colour_goes_to_terminals_alone(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert paint("bad", RED) == "bad"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert paint("bad", RED) == "\033[31mbad\033[0m"
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
