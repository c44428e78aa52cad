"""The parser: every command has an example that it accepts, and wrong arguments get a sentence."""

import argparse
import subprocess
import sys

import pytest

from nuclei.settings.config import BadInput
from nuclei_kit.command.cli import main
from nuclei_kit.command.options import natural, seconds
from nuclei_kit.command.parser import build_parser

COMMANDS = ("run", "train", "predict", "score", "report", "check", "info", "picture", "sample", "cv", "compare")
COMMANDS += (
    "bench",
    "tune",
    "export",
    "doctor",
    "kernel",
    "kernel run",
    "push",
    "watch",
    "fetch",
    "submit",
    "ship",
    "download",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert f"example:\n  nuclei {command}" in text
    example = text.split("example:\n")[1].strip().split()[1:]
    build_parser().parse_args(example)  # it is accepted as it stands


def test_help_lists_every_command_and_needs_no_keras():
    script = f"""
import contextlib, sys
from nuclei_kit.command.cli import main
for command in {[[], *(command.split() for command in COMMANDS)]!r}:
    with contextlib.suppress(SystemExit):  # what --help ends with
        main([*command, "--help"])
    assert not {{"keras", "tensorflow", "jax", "torch"}} & set(sys.modules), command
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    overview = done.stdout.split("commands:\n")[1].split("\n\n")[0]
    # A command's line is indented less than the lines that its summary goes on with.
    lines = [line.split() for line in overview.splitlines()[1:] if line[4] != " "]
    assert {words[0] for words in lines} == {command for command in COMMANDS if " " not in command}


def test_experiments_of_one_s_own_leave_the_committed_table_alone():
    args = build_parser().parse_args(["cv", "wide", "--folds", "6"])
    assert args.table.parts[0] == "build"


@pytest.mark.parametrize("text", ["0", "7", str(2**32 - 1)])
def test_a_whole_number_is_taken(text):
    assert natural(text) == int(text)


@pytest.mark.parametrize("text", ["inf", "-nan", "nan", "Infinity", "1e300", "525601", "ten", ""])
def test_a_training_without_an_end_is_refused(text):
    for command in (["train", "--data", "x", f"--minutes={text}"], ["kernel", "run", f"--limit={text}"]):
        with pytest.raises(BadInput, match=rf"{text!r} is not a number of minutes, up to a year"):
            build_parser().parse_args(command)


@pytest.mark.parametrize("text", ["-1", "1.5", "1e3", "", "seven", str(2**32), "²"])
def test_what_is_no_whole_number_is_named(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number") as error:
        natural(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize("text, value", [("0", 0.0), ("2.5", 2.5), ("1e3", 1000.0)])
def test_a_time_is_taken(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "86400", "soon", ""])
def test_what_is_no_time_is_named(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a number of seconds") as error:
        seconds(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize(
    "typed, words",
    [
        ("train --seed=-1", ["--seed", "'-1'", "nuclei train --help"]),
        ("watch --every soon", ["--every", "'soon'", "nuclei watch --help"]),
        ("train --minutes 3 --steps 4", ["--minutes", "--steps", "nuclei train --help"]),
        ("kernel push", ["push", "run", "nuclei kernel --help"]),
        ("compare one", ["OTHER", "nuclei compare --help"]),
        ("run --colour blue", ["--colour", "nuclei --help"]),
    ],
)
def test_wrong_arguments_are_a_sentence_that_names_the_help(typed, words):
    with pytest.raises(BadInput) as error:
        build_parser().parse_args(typed.split())
    for word in words:
        assert word in str(error.value)
