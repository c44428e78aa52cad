"""Kaggle's commands: the kernel here and on Kaggle, and what goes there and comes back."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from nuclei.settings.config import BadInput
from nuclei_kit.command import options
from nuclei_kit.command.arguments import find_data, find_shapes, find_submission, make_config
from nuclei_kit.command.endings import print_next, report_on
from nuclei_kit.command.options import DATA_FOLDER, RUN_FOLDER, command, option, out_folder, seconds, together
from nuclei_kit.kaggle.rules import SESSION_MINUTES

if TYPE_CHECKING:
    from nuclei_kit.kaggle.remote import Push

PYTHON = "another interpreter, such as that of Kaggle's versions (make kaggle-env)"
LAYOUT = "where the data is mounted: Kaggle has had input/competitions/SLUG (default) and plain input/SLUG"

KERNEL_OPTION = option(
    "--kernel",
    metavar="DIR",
    type=Path,
    help="folder with a kernel and its metadata, as they are (default: this clone's)",
)
OWNER_AND_SLUG = together(
    option("--owner", metavar="NAME", help="your name on Kaggle (default: from kernel-metadata.json)"),
    option("--slug", metavar="NAME", help="the kernel's name in addresses (default: as above)"),
)
EVERY = option("--every", metavar="SECONDS", type=seconds, default=30.0, help="time between two looks (default 30)")
FETCHED = together(out_folder(RUN_FOLDER, "folder for what the run left"), options.CHECKED, options.STAGE)
MESSAGE = option("-m", "--message", metavar="MESSAGE", required=True, help="what Kaggle shows beside the score")


@command(
    "build the kernel and run it as Kaggle would: alone, offline, in read-only folders, against the clock",
    "nuclei kernel run --data dsb2018 --preset cpu --minutes 25",
    options.DATA,
    options.preset("kaggle", ", the kernel's own"),
    options.BUDGET,
    options.RUN_OUT,
    option("--stage", type=int, choices=(1, 2), help="whose test images (default: 2 where its images are, else 1)"),
    option(
        "--limit",
        metavar="MINUTES",
        type=options.minutes,
        default=SESSION_MINUTES,
        help=f"when to kill it, as Kaggle does (default {SESSION_MINUTES:g})",
    ),
    option("--layout", choices=("competitions", "plain"), default="competitions", help=LAYOUT),
    option("--python", metavar="PATH", default=sys.executable, help=PYTHON),
    name="run",
)
def kernel_run(args: Namespace) -> None:
    from nuclei.competition.data import last_stage
    from nuclei_kit.kaggle.kernel import refresh_kernel
    from nuclei_kit.kaggle.twin import run_twin

    config = make_config(args)  # refuses at once what the kernel would refuse
    if config.train_minutes > config.most_minutes:
        raise BadInput(
            f"--minutes {config.train_minutes:g} leaves no time to predict in Kaggle's 12 hours: give at most "
            f"{config.most_minutes:g}"
        )
    data, names = find_data(args), ("preset", "minutes", "steps", "seed", "stage")
    settings = {name.upper(): getattr(args, name) for name in names if getattr(args, name) is not None}
    path = run_twin(refresh_kernel(), data, args.out, settings, args.limit, args.layout, args.python)
    stage = args.stage or last_stage(data)
    print_next(path, data, stage)
    report_on(args.out, data, stage)


@command("build the kernel, check it and have Kaggle run it", "nuclei push --owner NAME", KERNEL_OPTION, OWNER_AND_SLUG)
def push(args: Namespace) -> None:
    push_here(args)


@command(
    "follow the last push's run to its end; exit status 0 where it is COMPLETE, else 1",
    "nuclei watch --every 60",
    OWNER_AND_SLUG,
    EVERY,
)
def watch(args: Namespace) -> int:
    from nuclei_kit.kaggle.remote import find_push, watch_run

    return 0 if watch_run(find_push(args.owner, args.slug), args.every) else 1


@command(
    "get what the last push's run left, and check it",
    "nuclei fetch --out first",
    OWNER_AND_SLUG,
    FETCHED,
)
def fetch(args: Namespace) -> None:
    from nuclei_kit.kaggle.remote import check_ended, fetch_output, find_push

    shapes, pushed = find_shapes(args), find_push(args.owner, args.slug)
    check_ended(pushed)
    print(f"{fetch_output(pushed, args.out, shapes)} is what {pushed} left.")


@command(
    "check a submission and upload it",
    "nuclei submit submission -m first",
    option(
        "submission",
        metavar="SUBMISSION",
        type=Path,
        nargs="?",
        default=RUN_FOLDER,
        help="a CSV, plain or zipped, or the folder of a run (default submission)",
    ),
    MESSAGE,
)
def submit(args: Namespace) -> None:
    from nuclei_kit.kaggle.transfers import submit_file

    print(submit_file(find_submission(args.submission), args.message))


@command(
    "push, watch, fetch and submit, up to the first that fails (exit status as theirs)",
    "nuclei ship -m first",
    KERNEL_OPTION,
    OWNER_AND_SLUG,
    EVERY,
    FETCHED,
    MESSAGE,
)
def ship(args: Namespace) -> int:
    from nuclei_kit.kaggle.remote import fetch_output, watch_run
    from nuclei_kit.kaggle.transfers import submit_file

    shapes, pushed = find_shapes(args), push_here(args)
    if not watch_run(pushed, args.every):
        return 1
    path = fetch_output(pushed, args.out, shapes)
    print(f"{path} is what {pushed} left.", flush=True)
    print(submit_file(path, args.message))
    return 0


@command(
    "get the competition's files from Kaggle, those that are not there yet",
    "nuclei download dsb2018",
    option(
        "folder",
        metavar="DIR",
        nargs="?",
        type=Path,
        default=DATA_FOLDER,
        help="folder for them (default dsb2018)",
    ),
)
def download(args: Namespace) -> None:
    from nuclei_kit.kaggle.transfers import download_data

    came, there = download_data(args.folder)
    print(f"{args.folder} is complete: {len(came)} files came, {len(there)} were there.")


KAGGLE_COMMANDS = (push, watch, fetch, submit, ship, download)  # as --help lists them, beside kernel_run


def push_here(args: Namespace) -> "Push":
    """Push the kernel that the options name, and say where it runs."""
    from nuclei_kit.kaggle.remote import KERNEL_FOLDER, push_kernel

    pushed = push_kernel(args.kernel or KERNEL_FOLDER, args.owner, args.slug)
    print(f"Kaggle runs {pushed}: {pushed.url}", flush=True)
    return pushed
