"""Command line: `nuclei COMMAND`, from the competition's files to a scored submission and pictures of it."""

import argparse
import os
import shlex
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

from nuclei.config import PRESETS, BadInput, Config
from workbench.terminal import Failed, log_lines, start_keras

# A command's modules are imported inside its function: those that need no Keras start in a fraction of a second.

UPLOAD_PAGE = "https://www.kaggle.com/c/data-science-bowl-2018/submit"


def main(arguments=None):
    """Runs one command -> exit status: 0, 1 for a later failure, 2 for bad input (one sentence), 130 for Ctrl-C."""
    try:
        args = build_parser().parse_args(arguments)
        with log_lines():
            args.command(args)
    except BadInput as error:
        return fail(str(error))
    except Failed as error:
        print(f"nuclei: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a folder that is not ours
        return fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        print("nuclei: stopped by Ctrl-C; what earlier runs wrote still stands.", file=sys.stderr)
        return 130
    return 0


def fail(sentence):
    print(f"nuclei: error: {' '.join(sentence.split())}", file=sys.stderr)
    return 2


# ---- train and predict -------------------------------------------------------------------------


def run(args):
    config, data = make_config(args), find_data(args)
    start_keras()
    from nuclei.main import run_competition

    print_next(run_competition(config, data, args.out, args.stage), data, args.stage)


def train(args):
    config, data = make_config(args), find_data(args)
    start_keras()
    from nuclei.main import train_competition

    train_competition(config, data, args.out)
    out = quote(args.out)
    print(f"\nThe run is in {args.out}. Next:\n  nuclei predict --weights {out} --data {quote(data)} --out {out}")


def predict(args):
    if args.images and args.data:
        raise BadInput("give either image files or --data with a competition, not both")
    data = None if args.images else find_data(args)
    args.out.mkdir(parents=True, exist_ok=True)
    start_keras()
    from workbench.prediction import predict_competition, predict_files

    if args.images:
        predict_files(args.weights, args.images, args.out)
    else:
        print_next(predict_competition(args.weights, data, args.stage, args.out), data, args.stage)


def picture(args):
    data = find_data(args)
    start_keras()
    from workbench.gallery import draw_gallery
    from workbench.pictures import write_png

    write_png(args.out, draw_gallery(args.weights, data, args.fold))
    print(f"{args.out} shows truth, prediction and differences.")


# ---- without Keras -----------------------------------------------------------------------------


def sample(args):
    from workbench.sample import SAMPLE_FILES, draw_sample

    draw_sample(args.folder, args.seed)
    print(f"{args.folder} holds a sample competition: {', '.join(SAMPLE_FILES)}. Next:")
    print(f"  nuclei run --data {quote(args.folder)} --preset sample")


def info(args):
    from nuclei.data import default_cache
    from workbench.info import facts_table, find_sets, gather_facts

    errors = []
    for path in find_sets(args.folder):
        try:
            print(facts_table(gather_facts(path, default_cache())), end="\n\n")
        except BadInput as error:  # the other sets are still worth a look
            errors.append(error)
    if errors:
        raise errors[0]


def check(args):
    from workbench.scoring import check_file, test_shapes

    path = find_submission(args.submission)
    nuclei, images, empty = check_file(path, test_shapes(args.data, args.stage) if args.data else None)
    print(f"{path} keeps the rules: {nuclei} nuclei in {images} images, {empty} of them empty.")
    if not args.data:
        print("Without --data the image ids and the borders of the images went unchecked.")


def score(args):
    from workbench.scoring import score_submission, threshold_table

    path = find_submission(args.submission)
    if not args.solution.is_file():
        raise BadInput(f"{args.solution} is missing: name the CSV with the true nuclei")
    print(threshold_table(score_submission(path, args.solution)))


def kernel_run(args):
    from workbench.kernel import build_kernel
    from workbench.twin import default_stage, run_twin

    make_config(args)  # refuses at once what the kernel would refuse
    data, names = find_data(args), ("preset", "minutes", "steps", "seed", "stage")
    settings = {name.upper(): getattr(args, name) for name in names if getattr(args, name) is not None}
    path = run_twin(build_kernel(), data, args.out, settings, args.limit, args.layout, args.python)
    print_next(path, data, args.stage or default_stage(data))


# ---- what the commands share -------------------------------------------------------------------


def make_config(args):
    """The preset with what the options change: --fold makes a preset hold images out that does not by itself."""
    config = PRESETS[args.preset]
    changes = {"train_seed": args.seed}
    if args.minutes is not None:
        changes |= {"train_minutes": args.minutes}
    if args.steps is not None:
        changes |= {"train_steps": args.steps, "train_minutes": 0.0}
    if args.fold is not None:
        changes |= {"data_fold": args.fold, "data_folds": config.data_folds or Config.data_folds}
    return replace(config, **changes)


def find_data(args):
    """The competition's folder: --data, else $NUCLEI_DATA."""
    data = args.data or os.environ.get("NUCLEI_DATA")
    if not data:
        raise BadInput("name the competition's folder with --data DIR, or set NUCLEI_DATA")
    return Path(data)


def find_submission(path):
    """The CSV that a file or a run's folder stands for."""
    file = path / "submission.csv" if path.is_dir() else path
    if not file.is_file():
        raise BadInput(f"{file} is missing: name a submission, or the folder of a run, as nuclei run leaves it")
    return file


def print_next(path, data, stage):
    option = f" --stage {stage}" if stage != 1 else ""
    print(f"\nThe submission is {path}. Next:")
    print(f"  nuclei check {quote(path)} --data {quote(data)}{option}")
    print(f"  nuclei score {quote(path)} --solution CSV   (if you have a solution file)")
    print(f"  or upload it: {UPLOAD_PAGE}")


def quote(path):
    return shlex.quote(str(path))


# ---- the parser --------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one sentence, as every other error here."""

    def error(self, message):
        raise BadInput(f"{message} (see {self.prog} --help)")


def natural(text):
    """An argument that is a whole number from 0 to 2^32 - 1."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to 4294967295")
    return int(text)


def build_parser():
    parser = Parser(prog="nuclei", description="Find every nucleus in microscope images.", formatter_class=HELP)
    parser.epilog = "example, from nothing to a scored submission:\n" + textwrap.indent(FIRST_STEPS, "  ")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (add_run, add_train, add_predict, add_score, add_check, add_info, add_picture, add_sample, add_kernel):
        add(commands)
    return parser


HELP = argparse.RawDescriptionHelpFormatter
FIRST_STEPS = """nuclei sample build/sample
nuclei run --data build/sample --preset sample
nuclei score submission --solution build/sample/stage1_solution.csv"""


def add_command(commands, function, summary, example, name=None):
    parser = add_page(commands, name or function.__name__, summary, example)
    parser.set_defaults(command=function)
    return parser


def add_page(commands, name, summary, example):
    """A parser whose --help has an example."""
    description = f"{summary[0].upper()}{summary[1:]}."
    parser = commands.add_parser(name, help=summary, description=description, formatter_class=HELP)
    parser.epilog = f"example:\n  {example}"
    return parser


def add_run(commands):
    example = "nuclei run --data dsb2018 --preset cpu --minutes 25"
    parser = add_command(commands, run, "train, predict the test images and write submission.csv", example)
    add_training(parser)
    add_stage(parser)


def add_train(commands):
    example = "nuclei train --data dsb2018 --preset cpu --minutes 25 --out runs/first"
    add_training(add_command(commands, train, "train a network and leave its weights in a folder", example))


def add_predict(commands):
    example = "nuclei predict --weights submission --out found one.png two.tif"
    summary = "find nuclei with a trained network, in a competition or in your own images"
    parser = add_command(commands, predict, summary, example)
    add_weights(parser)
    add_data(parser)
    add_stage(parser)
    parser.add_argument("images", metavar="IMAGE", nargs="*", type=Path, help="PNG or TIFF files, instead of --data")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for what is found")


def add_score(commands):
    example = "nuclei score submission --solution build/sample/stage1_solution.csv"
    parser = add_command(commands, score, "score a submission by the competition's metric", example)
    add_submission(parser)
    parser.add_argument("--solution", metavar="CSV", type=Path, required=True, help="the solution, plain or zipped")


def add_check(commands):
    example = "nuclei check submission --data dsb2018"
    parser = add_command(commands, check, "check a submission against the competition's rules", example)
    add_submission(parser)
    parser.add_argument("--data", metavar="DIR", type=Path, help="competition whose test images it is for")
    add_stage(parser)


def add_info(commands):
    parser = add_command(commands, info, "show what is in a competition's folder", "nuclei info dsb2018")
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder with Kaggle's files")


def add_picture(commands):
    example = "nuclei picture --weights submission --data dsb2018 --out docs/examples.png"
    parser = add_command(commands, picture, "draw truth and prediction side by side, an image of each kind", example)
    add_weights(parser)
    add_data(parser)
    parser.add_argument("--fold", metavar="K", type=natural, help="fold to show (default: the one held out)")
    parser.add_argument("--out", metavar="PNG", type=Path, required=True, help="the picture")


def add_sample(commands):
    example = "nuclei sample build/sample --seed 1"
    parser = add_command(commands, sample, "draw a small competition of synthetic nuclei", example)
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder to draw it into")
    parser.add_argument("--seed", metavar="S", type=natural, default=0, help="another seed, other images (default 0)")


def add_kernel(commands):
    example = "nuclei kernel run --data dsb2018 --preset cpu --minutes 25"
    group = add_page(commands, "kernel", "the one script that Kaggle runs, here", example)
    steps = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    summary = "build the kernel and run it as Kaggle would: alone, offline, in read-only folders, against the clock"
    parser = add_command(steps, kernel_run, summary, example, name="run")
    add_settings(parser, "kaggle", ", the kernel's own")
    parser.set_defaults(fold=None)  # a kernel holds out what its preset does
    text = "whose test images (default: the kernel's own, 2 where its images are, else 1)"
    parser.add_argument("--stage", type=int, choices=(1, 2), help=text)
    text = "kill it then, as Kaggle does (default 720)"
    parser.add_argument("--limit", metavar="MINUTES", type=float, default=720.0, help=text)
    text = "where the data is mounted: Kaggle has had input/competitions/SLUG (default) and plain input/SLUG"
    parser.add_argument("--layout", choices=("competitions", "plain"), default="competitions", help=text)
    text = "another interpreter, such as that of Kaggle's versions (make kaggle-env)"
    parser.add_argument("--python", metavar="PATH", default=sys.executable, help=text)


def add_training(parser):
    add_settings(parser, "cpu")
    parser.add_argument("--fold", metavar="K", type=natural, help="fold to hold out and report on")


def add_settings(parser, preset, remark=""):
    add_data(parser)
    text = f"what the run is made for (default {preset}{remark})"
    parser.add_argument("--preset", choices=PRESETS, default=preset, help=text)
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", metavar="M", type=float, help="time for training (default: the preset's)")
    budget.add_argument("--steps", metavar="N", type=int, help="train for so many steps instead")
    parser.add_argument("--seed", metavar="S", type=natural, default=0, help="of all that is random (default 0)")
    folder = "folder of the run: what an earlier one left there is replaced (default submission)"
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("submission"), help=folder)


def add_data(parser):
    parser.add_argument("--data", metavar="DIR", type=Path, help="folder with Kaggle's files (default: $NUCLEI_DATA)")


def add_stage(parser):
    parser.add_argument("--stage", type=int, choices=(1, 2), default=1, help="whose test images (default 1)")


def add_weights(parser):
    text = "a run's folder, or its weights file"
    parser.add_argument("--weights", metavar="RUN", type=Path, required=True, help=text)


def add_submission(parser):
    text = "a CSV, plain or zipped, or a run's folder"
    parser.add_argument("submission", metavar="SUBMISSION", type=Path, help=text)


if __name__ == "__main__":
    sys.exit(main())
