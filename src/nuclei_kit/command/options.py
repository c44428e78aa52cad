"""Options: what commands are made of, and the arguments that several of them share."""

import argparse
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nuclei.settings.config import PRESETS

Option = Callable[[argparse._ActionsContainer], object]  # adds itself to a parser

HELP = argparse.RawDescriptionHelpFormatter

# Folders that the commands use unless told otherwise.
SAMPLE_FOLDER = Path("build/sample")
DATA_FOLDER = Path("dsb2018")
RUN_FOLDER = Path("submission")

FORMATS = ("tiff", "roi", "geojson", "coco", "csv")  # in which nuclei can be written


@dataclass(frozen=True)
class Command:
    """One `nuclei COMMAND`: what it does, what its --help says, and its options.

    run: takes the parsed arguments, returns the exit status, or None for 0.
    """

    name: str
    run: Callable[[argparse.Namespace], int | None]
    summary: str
    example: str
    options: tuple[Option, ...]

    def add_to(self, group: Any) -> None:
        """Add the command to a group of argparse's subparsers."""
        parser = add_page(group, self.name, self.summary, self.example)
        parser.set_defaults(command=self.run)
        for one in self.options:
            one(parser)


def command(
    summary: str, example: str, *options: Option, name: str | None = None
) -> Callable[[Callable[[argparse.Namespace], int | None]], Command]:
    """Make the function below it a Command, under its own name unless `name` says otherwise."""
    return lambda run: Command(name or run.__name__, run, summary, example, options)


def add_page(group: Any, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    """Add a parser whose --help has an example."""
    description = textwrap.fill(f"{summary[0].upper()}{summary[1:]}.", 79)
    parser = group.add_parser(name, help=summary, description=description, formatter_class=HELP)
    parser.epilog = f"example:\n  {example}"
    return parser


def option(*names: str, **settings: Any) -> Option:
    """Make an argument, as argparse's add_argument does."""
    return lambda parser: parser.add_argument(*names, **settings)


def together(*options: Option) -> Option:
    """Make several options one."""

    def add(parser):
        for one in options:
            one(parser)

    return add


def either(*options: Option) -> Option:
    """Make options of which one may be given."""
    return lambda parser: together(*options)(parser.add_mutually_exclusive_group())


def out_folder(default: Path, text: str) -> Option:
    """Make --out, a folder that has a default."""
    return option("--out", metavar="DIR", type=Path, default=default, help=f"{text} (default {default})")


def some_formats(default: Sequence[str], text: str) -> Option:
    """Make --formats, which has a default."""
    return option("--formats", metavar="F,...", type=formats, default=default, help=f"{text}: {', '.join(FORMATS)}")


def preset(default: str, remark: str = "") -> Option:
    """Make --preset, which has a default."""
    text = f"what the run is made for (default {default}{remark})"
    return option("--preset", choices=PRESETS, default=default, help=text)


def natural(text: str) -> int:
    """Read a whole number from 0 to 2^32 - 1."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 4294967295")
    return int(text)


def counted(text: str) -> int:
    """Read a whole number that counts from 1."""
    if natural(text) == 0:
        raise argparse.ArgumentTypeError("it counts from 1")
    return int(text)


def level(text: str) -> int | str:
    """Read the number of a z plane, or "max"."""
    return text if text == "max" else counted(text)


def formats(text: str) -> tuple[str, ...]:
    """Read names of FORMATS, with commas between them."""
    names = tuple(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in FORMATS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(FORMATS)}")
    return names


def seconds(text: str) -> float:
    """Read a time of 0 seconds to a day."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def minutes(text: str) -> float:
    """Read a time in minutes, up to a year; what is below 0 is left to the settings, which say more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value <= 525_600:  # nan, too
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes, up to a year")
    return value


# ---- several commands take these ---------------------------------------------------------------

RUN = option("run", metavar="RUN", type=Path, help="folder of a finished run")
RUN_OUT = out_folder(RUN_FOLDER, "folder of the run: what an earlier one left there is replaced")
WEIGHTS = option("--weights", metavar="RUN", type=Path, help="a run's folder or weights file (default: the kit's own)")
MEMBERS = option(
    "--weights",
    metavar="RUN",
    type=Path,
    nargs="+",
    help="runs, averaged where they are several (default: the kit's own)",
)
SUBMISSION = option("submission", metavar="SUBMISSION", type=Path, help="a CSV, plain or zipped, or a run's folder")
DATA = option("--data", metavar="DIR", type=Path, help="folder with Kaggle's files (default: $NUCLEI_DATA)")
CHECKED = option("--data", metavar="DIR", type=Path, help="competition whose test images it is checked against")
PLANE = together(
    option("--channel", metavar="NAME|N", help="of images of several channels, the one with the nuclei"),
    option("--z", metavar="N|max", type=level, help="of z-stacks, the plane, or max for the maximum over all"),
    option("--page", metavar="N", type=counted, help="of images of several pages, time points or positions, the one"),
)
STAGE = option("--stage", type=int, choices=(1, 2), default=1, help="whose test images (default 1)")
BUDGET = together(
    either(
        option("--minutes", metavar="M", type=minutes, help="time for training (default: the preset's)"),
        option("--steps", metavar="N", type=int, help="train for so many steps instead"),
    ),
    option("--seed", metavar="S", type=natural, default=0, help="seed of all that is random (default 0)"),
)
FOLD = option("--fold", metavar="K", type=natural, help="fold to hold out and report on")
TRAINING = together(DATA, preset("cpu"), BUDGET, FOLD, RUN_OUT)
