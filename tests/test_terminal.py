"""What a terminal shows: text that cannot steer it, log lines, colour where it is wanted; and how SIGTERM stops it."""

import logging
import os
import signal
import sys

import pytest

from nuclei_kit.command.terminal import RED, escape_control, log_lines, paint, stopping_at_sigterm


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
