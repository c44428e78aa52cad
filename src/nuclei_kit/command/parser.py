"""Parser: what `nuclei` takes on the command line, command by command, each with an example in its --help."""

import argparse
import sys
import textwrap
from pathlib import Path

from nuclei.settings.config import PRESETS, BadInput
from nuclei_kit.command import commands


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one sentence, as every other error here."""

    def error(self, message):
        raise BadInput(f"{message} (see {self.prog} --help)")


def natural(text):
    """An argument that is a whole number from 0 to 2^32 - 1."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to 4294967295")
    return int(text)


def seconds(text):
    """An argument that is a time, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def build_parser():
    parser = Parser(prog="nuclei", description="Find every nucleus in microscope images.", formatter_class=HELP)
    parser.epilog = "example, from nothing to a scored submission:\n" + textwrap.indent(FIRST_STEPS, "  ")
    group = parser.add_subparsers(title="commands", metavar="COMMAND")
    parser.set_defaults(command=commands.start)
    science = (add_run, add_train, add_predict, add_score, add_report, add_check, add_info, add_picture, add_sample)
    science += (add_export, add_doctor)
    experiments = (add_cv, add_compare)
    kaggle = (add_kernel, add_push, add_watch, add_fetch, add_submit, add_ship, add_download)
    for add in (*science, *experiments, *kaggle):
        add(group)
    return parser


HELP = argparse.RawDescriptionHelpFormatter
FIRST_STEPS = """nuclei sample build/sample
nuclei run --data build/sample --preset sample
nuclei score submission --solution build/sample/stage1_solution.csv"""


def add_command(group, function, summary, example, name=None):
    parser = add_page(group, name or function.__name__, summary, example)
    parser.set_defaults(command=function)
    return parser


def add_page(group, name, summary, example):
    """A parser whose --help has an example."""
    description = textwrap.fill(f"{summary[0].upper()}{summary[1:]}.", 79)
    parser = group.add_parser(name, help=summary, description=description, formatter_class=HELP)
    parser.epilog = f"example:\n  {example}"
    return parser


def add_run(group):
    example = "nuclei run --data dsb2018 --preset cpu --minutes 25"
    parser = add_command(group, commands.run, "train, predict the test images and write submission.csv", example)
    add_training(parser)
    add_stage(parser)


def add_train(group):
    example = "nuclei train --data dsb2018 --preset cpu --minutes 25 --out runs/first"
    parser = add_command(group, commands.train, "train a network and leave its weights in a folder", example)
    add_training(parser)
    text = "begin with the weights of this run (src/nuclei/weights are the kit's own), at a quarter of the rate"
    parser.add_argument("--from", metavar="RUN", type=Path, dest="start", help=text)


def add_predict(group):
    example = "nuclei predict --weights submission --out found one.png two.tif"
    summary = "find nuclei with a trained network, in a competition or in your own images"
    parser = add_command(group, commands.predict, summary, example)
    add_weights(parser)
    add_data(parser)
    add_stage(parser)
    parser.add_argument("images", metavar="IMAGE", nargs="*", type=Path, help="PNG or TIFF files, instead of --data")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for what is found")


def add_score(group):
    example = "nuclei score submission --solution build/sample/stage1_solution.csv"
    parser = add_command(group, commands.score, "score a submission by the competition's metric", example)
    add_submission(parser)
    parser.add_argument("--solution", metavar="CSV", type=Path, required=True, help="the solution, plain or zipped")


def add_report(group):
    example = "nuclei report submission --data dsb2018"
    parser = add_command(group, commands.report, "write a page with a run's scores, training and images", example)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a finished run; report.html goes into it")
    add_data(parser)
    add_stage(parser)
    parser.add_argument(
        "--solution", metavar="CSV", type=Path, help="the true nuclei of the test images (default: the data's)"
    )
    parser.add_argument("--against", metavar="RUN2", type=Path, help="another run, to compare with image by image")


def add_check(group):
    example = "nuclei check submission --data dsb2018"
    parser = add_command(group, commands.check, "check a submission against the competition's rules", example)
    add_submission(parser)
    add_test(parser)


def add_info(group):
    parser = add_command(group, commands.info, "show what is in a competition's folder", "nuclei info dsb2018")
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder with Kaggle's files")


def add_picture(group):
    example = "nuclei picture --weights submission --data dsb2018 --out docs/examples.png"
    summary = "draw truth and prediction side by side, an image of each kind"
    parser = add_command(group, commands.picture, summary, example)
    add_weights(parser)
    add_data(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--fold", metavar="K", type=natural, help="fold to show (default: the one held out)")
    which.add_argument("--worst", metavar="N", type=natural, help="the N held-out images of the lowest score instead")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="the picture, .png or .webp")


def add_sample(group):
    example = "nuclei sample build/sample --seed 1"
    parser = add_command(group, commands.sample, "draw a small competition of synthetic nuclei", example)
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder to draw it into")
    parser.add_argument("--seed", metavar="S", type=natural, default=0, help="another seed, other images (default 0)")


def add_export(group):
    example = "nuclei export submission --data dsb2018 --out found"
    summary = "write what a run found as label TIFFs, GeoJSON for QuPath and COCO JSON, its training for TensorBoard"
    parser = add_command(group, commands.export, summary, example)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a finished run")
    add_data(parser)
    add_stage(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the files")


def add_doctor(group):
    summary = "look at what a run needs here, and say what mends what is lacking (exit status 1 then)"
    add_command(group, commands.doctor, summary, "nuclei doctor")


def add_kernel(group):
    example = "nuclei kernel run --data dsb2018 --preset cpu --minutes 25"
    group = add_page(group, "kernel", "the one script that Kaggle runs, here", example)
    steps = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    summary = "build the kernel and run it as Kaggle would: alone, offline, in read-only folders, against the clock"
    parser = add_command(steps, commands.kernel_run, summary, example, name="run")
    add_budget(parser, "kaggle", ", the kernel's own")
    add_run_folder(parser)
    parser.set_defaults(fold=None)  # a kernel holds out what its preset does
    text = "whose test images (default: the kernel's own, 2 where its images are, else 1)"
    parser.add_argument("--stage", type=int, choices=(1, 2), help=text)
    text = "kill it then, as Kaggle does (default 720)"
    parser.add_argument("--limit", metavar="MINUTES", type=float, default=720.0, help=text)
    text = "where the data is mounted: Kaggle has had input/competitions/SLUG (default) and plain input/SLUG"
    parser.add_argument("--layout", choices=("competitions", "plain"), default="competitions", help=text)
    text = "another interpreter, such as that of Kaggle's versions (make kaggle-env)"
    parser.add_argument("--python", metavar="PATH", default=sys.executable, help=text)


def add_cv(group):
    example = "nuclei cv wide --data dsb2018 --folds 6 7 --steps 600 --set model_width=48"
    summary = "train a recipe on several folds and score it, a row in the table"
    parser = add_command(group, commands.cv, summary, example)
    parser.add_argument("recipe", metavar="RECIPE", help="a name for it")
    parser.add_argument("--folds", metavar="K", type=natural, nargs="+", required=True, help="folds to hold out")
    parser.set_defaults(fold=0)  # a preset without folds gets some
    text = "a setting of config.py that differs from the preset's"
    parser.add_argument("--set", metavar="NAME=VALUE", nargs="+", default=[], help=text)
    parser.add_argument("--table", metavar="CSV", type=Path, default=Path("docs/experiments.csv"), help="the table")
    add_recipe(parser)
    add_budget(parser)


def add_compare(group):
    example = "nuclei compare wide base"
    summary = "how much better one recipe is than another, on the same folds"
    parser = add_command(group, commands.compare, summary, example)
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe that nuclei cv trained")
    parser.add_argument("other", metavar="OTHER", help="another one")
    add_recipe(parser)


def add_recipe(parser):
    text = "folder that holds the recipes' runs (default build/cv)"
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("build/cv"), help=text)


def add_training(parser):
    add_budget(parser)
    parser.add_argument("--fold", metavar="K", type=natural, help="fold to hold out and report on")
    add_run_folder(parser)


def add_budget(parser, preset="cpu", remark=""):
    add_data(parser)
    text = f"what the run is made for (default {preset}{remark})"
    parser.add_argument("--preset", choices=PRESETS, default=preset, help=text)
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", metavar="M", type=float, help="time for training (default: the preset's)")
    budget.add_argument("--steps", metavar="N", type=int, help="train for so many steps instead")
    parser.add_argument("--seed", metavar="S", type=natural, default=0, help="of all that is random (default 0)")


def add_run_folder(parser):
    folder = "folder of the run: what an earlier one left there is replaced (default submission)"
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("submission"), help=folder)


def add_push(group):
    summary = "build the kernel, check it and have Kaggle run it"
    parser = add_command(group, commands.push, summary, "nuclei push --owner NAME")
    add_kernel_folder(parser)
    add_name(parser)


def add_watch(group):
    summary = "follow the last push's run to its end; exit status 0 where it is COMPLETE, else 1"
    parser = add_command(group, commands.watch, summary, "nuclei watch --every 60")
    add_name(parser)
    add_every(parser)


def add_fetch(group):
    summary = "get what the last push's run left, and check it"
    parser = add_command(group, commands.fetch, summary, "nuclei fetch --out first")
    add_name(parser)
    add_out(parser)
    add_test(parser)


def add_submit(group):
    summary = "check a submission and upload it"
    parser = add_command(group, commands.submit, summary, "nuclei submit submission -m first")
    submission = add_submission(parser)
    submission.nargs, submission.default = "?", Path("submission")
    add_message(parser)


def add_ship(group):
    summary = "push, watch, fetch and submit, up to the first that fails (exit status as theirs)"
    parser = add_command(group, commands.ship, summary, "nuclei ship -m first")
    add_kernel_folder(parser)
    add_name(parser)
    add_every(parser)
    add_out(parser)
    add_test(parser)
    add_message(parser)


def add_download(group):
    summary = "get the competition's files from Kaggle, those that are not there yet"
    parser = add_command(group, commands.download, summary, "nuclei download dsb2018")
    text = "folder for them (default dsb2018)"
    parser.add_argument("folder", metavar="DIR", nargs="?", type=Path, default=Path("dsb2018"), help=text)


def add_data(parser):
    parser.add_argument("--data", metavar="DIR", type=Path, help="folder with Kaggle's files (default: $NUCLEI_DATA)")


def add_stage(parser):
    parser.add_argument("--stage", type=int, choices=(1, 2), default=1, help="whose test images (default 1)")


def add_weights(parser):
    text = "a run's folder, or its weights file (default: the weights that come with the kit)"
    parser.add_argument("--weights", metavar="RUN", type=Path, help=text)


def add_submission(parser):
    text = "a CSV, plain or zipped, or a run's folder"
    return parser.add_argument("submission", metavar="SUBMISSION", type=Path, help=text)


def add_test(parser):
    parser.add_argument("--data", metavar="DIR", type=Path, help="competition whose test images it is for")
    add_stage(parser)


def add_kernel_folder(parser):
    text = "folder with a kernel and its kernel-metadata.json, as they are (default: the kernel of this clone)"
    parser.add_argument("--kernel", metavar="DIR", type=Path, help=text)


def add_name(parser):
    parser.add_argument("--owner", metavar="NAME", help="your name on Kaggle (default: from kernel-metadata.json)")
    parser.add_argument("--slug", metavar="NAME", help="the kernel's name in addresses (default: as above)")


def add_every(parser):
    text = "between two looks (default 30)"
    parser.add_argument("--every", metavar="SECONDS", type=seconds, default=30.0, help=text)


def add_out(parser):
    text = "folder for what the run left (default submission)"
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("submission"), help=text)


def add_message(parser):
    parser.add_argument("-m", "--message", metavar="MESSAGE", required=True, help="what Kaggle shows beside the score")
