"""Parser: what `nuclei` accepts on the command line, command by command."""

import argparse
import textwrap
from typing import NoReturn

from nuclei.settings.config import BadInput
from nuclei_kit.command.experiment_commands import EXPERIMENT_COMMANDS
from nuclei_kit.command.first_commands import FIRST_COMMANDS, start
from nuclei_kit.command.kaggle_commands import KAGGLE_COMMANDS, kernel_run
from nuclei_kit.command.network_commands import NETWORK_COMMANDS
from nuclei_kit.command.options import HELP, add_page
from nuclei_kit.command.result_commands import RESULT_COMMANDS

FIRST_STEPS = """nuclei sample build/sample
nuclei run --data build/sample --preset sample
nuclei score submission --solution build/sample/stage1_solution.csv"""


class Parser(argparse.ArgumentParser):
    """Say what is wrong with the arguments in one sentence, as every other error here."""

    def error(self, message: str) -> NoReturn:
        """Raise BadInput with argparse's message, in place of printing it and exiting."""
        raise BadInput(f"{message} (see {self.prog} --help)")


def build_parser() -> Parser:
    """Build the parser of all commands, in the order in which --help lists them."""
    parser = Parser(prog="nuclei", description="Find every nucleus in microscope images.", formatter_class=HELP)
    parser.epilog = "example, from nothing to a scored submission:\n" + textwrap.indent(FIRST_STEPS, "  ")
    parser.set_defaults(command=start)
    group = parser.add_subparsers(title="commands", metavar="COMMAND")
    for one in (*FIRST_COMMANDS, *NETWORK_COMMANDS, *RESULT_COMMANDS, *EXPERIMENT_COMMANDS):
        one.add_to(group)
    summary, example = (
        "run the one script that Kaggle runs, here",
        "nuclei kernel run --data dsb2018 --preset cpu --minutes 25",
    )
    kernel = add_page(group, "kernel", summary, example)
    kernel_run.add_to(kernel.add_subparsers(title="commands", metavar="COMMAND", required=True))
    for one in KAGGLE_COMMANDS:
        one.add_to(group)
    return parser
