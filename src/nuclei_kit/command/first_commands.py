"""First commands: what to do next, what this machine lacks, a sample to try, what is in a competition's folder.

None imports Keras, and each imports its modules inside its function: they start in a fraction of a second.
"""

import textwrap
from argparse import Namespace
from pathlib import Path

from nuclei.settings.config import BadInput
from nuclei_kit.command.endings import stage_option
from nuclei_kit.command.options import command, natural, option
from nuclei_kit.command.terminal import BOLD, GREEN, RED, YELLOW, escape_control, paint, program, quote


def start(args: Namespace) -> None:
    """Show what is in the working folder, and what to do next: `nuclei` alone."""
    from nuclei_kit.command.advice import next_steps

    sentence, steps = next_steps()
    print(textwrap.fill(f"{sentence} Next:", 80, break_long_words=False, break_on_hyphens=False), end="\n\n")
    for typed, what in steps:
        print(f"  {paint(typed, BOLD)}\n      {what}")
    print(f"\n{program()} --help lists the commands; {program()} doctor checks this machine.")


@command(
    "draw a small competition of synthetic nuclei",
    "nuclei sample build/sample --seed 1",
    option("folder", metavar="DIR", type=Path, help="folder to draw it into"),
    option("--seed", metavar="S", type=natural, default=0, help="another seed, other images (default 0)"),
    option("--stage", type=int, choices=(1, 2), default=1, help="2 draws the second stage, too (default 1)"),
)
def sample(args: Namespace) -> None:
    from nuclei_kit.sample.sample import draw_sample

    draw_sample(args.folder, args.seed, stage=args.stage)
    print(f"{args.folder} holds a sample competition. Next:")
    print(f"  {program()} run --data {quote(args.folder)} --preset sample{stage_option(args.stage)}")


@command(
    "show what is in a competition's folder",
    "nuclei info dsb2018",
    option("folder", metavar="DIR", type=Path, help="folder with Kaggle's files"),
)
def info(args: Namespace) -> None:
    from nuclei_kit.files.cache import default_cache
    from nuclei_kit.files.info import facts_table, find_sets, gather_facts

    errors = []
    for path in find_sets(args.folder):
        try:
            print(escape_control(facts_table(gather_facts(path, default_cache()))), end="\n\n")
        except BadInput as error:  # the other sets are still worth showing
            errors.append(error)
    if errors:
        raise errors[0]


@command("check this machine for what a run needs, and say what mends it (exit status 1 then)", "nuclei doctor")
def doctor(args: Namespace) -> int:
    from nuclei_kit.command.doctor import examine

    lacking = False
    for finding in examine():
        bad = finding.mend and finding.needed
        mark = paint("needs", RED) if bad else paint("lacks", YELLOW) if finding.mend else paint("good ", GREEN)
        indent = " " * 19
        lines = textwrap.wrap(finding.fact, 80 - len(indent), break_long_words=False, break_on_hyphens=False)
        print(f"{mark}  {finding.name:<12}" + f"\n{indent}".join(lines), flush=True)
        if finding.mend:
            print(f"{indent}{paint(finding.mend, BOLD)}")
        lacking |= bool(bad)
    return 1 if lacking else 0


FIRST_COMMANDS = (sample, info, doctor)  # as --help lists them
