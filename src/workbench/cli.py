"""Command line: `nuclei COMMAND`, from the competition's files to a scored submission and pictures of it."""

import argparse
import os
import shlex
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

from nuclei.config import PRESETS, SUBMISSION, BadInput, Config
from workbench.folders import SHIPPED, in_use, unfinished
from workbench.terminal import (
    BOLD,
    GREEN,
    RED,
    YELLOW,
    Failed,
    log_lines,
    paint,
    plain,
    start_keras,
    stopping_at_sigterm,
)

# A command's modules are imported inside its function: those that need no Keras start in a fraction of a second.

UPLOAD_PAGE = "https://www.kaggle.com/c/data-science-bowl-2018/submit"


def main(arguments=None):
    """Runs one command -> exit status.

    0, 1 for a run that did not end well, here or on Kaggle, 2 for bad input (one sentence on stderr), 130 for Ctrl-C,
    143 for SIGTERM.
    """
    try:
        args = build_parser().parse_args(arguments)
        args.typed = shlex.join(["nuclei", *(sys.argv[1:] if arguments is None else arguments)])
        with log_lines(), stopping_at_sigterm():
            return args.command(args) or 0
    except BadInput as error:
        return fail(str(error))
    except Failed as error:
        print(f"nuclei: error: {plain(str(error))}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a folder that is not ours
        return fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt as stop:
        print(f"nuclei: stopped by {str(stop) or 'Ctrl-C'}; what earlier runs wrote still stands.", file=sys.stderr)
        return 143 if str(stop) else 130


def fail(sentence):
    print(f"nuclei: error: {plain(' '.join(sentence.split()))}", file=sys.stderr)
    return 2


# ---- train and predict -------------------------------------------------------------------------


def run(args):
    config, data = make_config(args), find_data(args)
    start_keras()
    from nuclei.main import run_competition

    with in_use(args.out), unfinished(args.out) as folder:
        run_competition(config, data, folder, args.stage)
    print_next(args.out / SUBMISSION, data, args.stage)
    report_on(args.out, data, args.stage)


def train(args):
    config, data = make_config(args), find_data(args)
    start_keras()
    from nuclei.main import train_competition
    from workbench.runs import fine_tuning

    start = None
    if args.start:
        config, start = fine_tuning(config, args.start)
    with in_use(args.out), unfinished(args.out) as folder:
        train_competition(config, data, folder, start)
    out = quote(args.out)
    print(f"\nThe run is in {args.out}. Next:\n  nuclei predict --weights {out} --data {quote(data)} --out {out}")


def predict(args):
    if args.images and args.data:
        raise BadInput("give either image files or --data with a competition, not both")
    data = None if args.images else find_data(args)
    with in_use(args.out):
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


# ---- experiments -------------------------------------------------------------------------------


def cv(args):
    data = find_data(args)
    start_keras()
    from workbench.experiments import append_row, change_settings, cross_validate

    config = change_settings(make_config(args), args.set)
    folder = args.out / args.recipe
    cross_validate(config, data, args.folds, folder)
    row = append_row(args.table, args.typed, folder, args.folds)
    print("\n".join(f"{name:<20} {value}" for name, value in row.items()))
    print(f"\n{args.table} has this row. Next, another recipe on the same folds:\n  nuclei compare OTHER {args.recipe}")


def compare(args):
    start_keras()
    from workbench.experiments import compare_recipes

    images, mean, low, high = compare_recipes(args.out / args.recipe, args.out / args.other)
    print(f"{args.recipe} - {args.other}: {mean:+.4f}, 95 % [{low:+.4f}, {high:+.4f}], {images} images in pairs")


# ---- without Keras -----------------------------------------------------------------------------


def sample(args):
    from workbench.sample import draw_sample

    draw_sample(args.folder, args.seed)
    print(f"{args.folder} holds a sample competition. Next:")
    print(f"  nuclei run --data {quote(args.folder)} --preset sample")


def info(args):
    from nuclei.data import default_cache
    from workbench.info import facts_table, find_sets, gather_facts

    errors = []
    for path in find_sets(args.folder):
        try:
            print(plain(facts_table(gather_facts(path, default_cache()))), end="\n\n")
        except BadInput as error:  # the other sets are still worth a look
            errors.append(error)
    if errors:
        raise errors[0]


def check(args):
    from workbench.scoring import check_file

    path = find_submission(args.submission)
    nuclei, images, empty = check_file(path, find_shapes(args))
    print(f"{path} keeps the rules: {nuclei} nuclei in {images} images, {empty} of them empty.")
    if not args.data:
        print("Without --data the image ids and the borders of the images went unchecked.")


def score(args):
    from workbench.scoring import score_submission, threshold_table

    path = find_submission(args.submission)
    if not args.solution.is_file():
        raise BadInput(f"{args.solution} is missing: name the CSV with the true nuclei")
    print(threshold_table(score_submission(path, args.solution)))


def report(args):
    from workbench.report import write_report
    from workbench.scoring import find_solution

    data = find_data(args) if args.data or "NUCLEI_DATA" in os.environ else None
    solution = args.solution or (find_solution(data, args.stage) if data else None)
    path = write_report(args.run, data, args.stage, solution, args.against)
    print(f"{path} is the report: open it in a browser.")
    if not data:
        print("Without --data it has no images.")


def export(args):
    from workbench.export import export_run

    count = export_run(args.run, find_data(args), args.out, args.stage)
    print(f"{args.out} holds what was found in {count} images: labels/ for ImageJ, qupath/ and coco.json.")
    if (args.out / "tensorboard").is_dir():
        print(f"Its training: tensorboard --logdir {quote(args.out / 'tensorboard')}")


def start(args):
    """What `nuclei` alone shows."""
    from workbench.advice import next_steps

    sentence, steps = next_steps()
    print(textwrap.fill(f"{sentence} Next:", 80, break_long_words=False, break_on_hyphens=False), end="\n\n")
    for command, what in steps:
        print(f"  {paint(command, BOLD)}\n      {what}")
    print("\nnuclei --help lists the commands; nuclei doctor looks at this machine.")


def doctor(args):
    from workbench.doctor import examine

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


# ---- the kernel, here and on Kaggle ------------------------------------------------------------


def kernel_run(args):
    from nuclei.data import last_stage
    from workbench.kernel import build_kernel
    from workbench.twin import run_twin

    make_config(args)  # refuses at once what the kernel would refuse
    data, names = find_data(args), ("preset", "minutes", "steps", "seed", "stage")
    settings = {name.upper(): getattr(args, name) for name in names if getattr(args, name) is not None}
    path = run_twin(build_kernel(), data, args.out, settings, args.limit, args.layout, args.python)
    stage = args.stage or last_stage(data)
    print_next(path, data, stage)
    report_on(args.out, data, stage)


def push(args):
    push_here(args)


def watch(args):
    from workbench.remote import find_push, watch_run

    return 0 if watch_run(find_push(args.owner, args.slug), args.every) else 1


def fetch(args):
    from workbench.remote import check_ended, fetch_output, find_push

    shapes, pushed = find_shapes(args), find_push(args.owner, args.slug)
    check_ended(pushed)
    print(f"{fetch_output(pushed, args.out, shapes)} is what {pushed} left.")


def submit(args):
    from workbench.competition import submit_file

    print(submit_file(find_submission(args.submission), args.message))


def ship(args):
    from workbench.competition import submit_file
    from workbench.remote import fetch_output, watch_run

    shapes, pushed = find_shapes(args), push_here(args)
    if not watch_run(pushed, args.every):
        return 1
    path = fetch_output(pushed, args.out, shapes)
    print(f"{path} is what {pushed} left.", flush=True)
    print(submit_file(path, args.message))


def push_here(args):
    from workbench.remote import KERNEL, push_kernel

    pushed = push_kernel(args.kernel or KERNEL, args.owner, args.slug)
    print(f"Kaggle runs {pushed}: {pushed.url}", flush=True)
    return pushed


def download(args):
    from workbench.competition import download_data

    came, there = download_data(args.folder)
    print(f"{args.folder} is complete: {len(came)} files came, {len(there)} were there.")


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


def find_shapes(args):
    """The shapes of the test images of --data; None without it."""
    from workbench.scoring import test_shapes

    return test_shapes(args.data, args.stage) if args.data else None


def find_submission(path):
    """The CSV that a file or a run's folder stands for."""
    file = path / SUBMISSION if path.is_dir() else path
    if not file.is_file():
        raise BadInput(f"{file} is missing: name a submission, or the folder of a run, as nuclei run leaves it")
    return file


def report_on(run, data, stage):
    """Writes the report of a run that has just ended."""
    from workbench.report import write_report
    from workbench.scoring import find_solution

    path = write_report(run, data, stage, find_solution(data, stage))
    print(f"\nThe report is {path}: open it in a browser.")


def print_next(path, data, stage):
    from workbench.scoring import find_solution

    option = f" --stage {stage}" if stage != 1 else ""
    solution = find_solution(data, stage)
    named = quote(solution) if solution else "CSV   (if you have a solution file)"
    print(f"\nThe submission is {path}. Next:")
    print(f"  nuclei check {quote(path)} --data {quote(data)}{option}")
    print(f"  nuclei score {quote(path)} --solution {named}")
    print(f"  or upload it: {UPLOAD_PAGE}")


def quote(path):
    return plain(shlex.quote(str(path)))


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
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    parser.set_defaults(command=start)
    science = (add_run, add_train, add_predict, add_score, add_report, add_check, add_info, add_picture, add_sample)
    science += (add_export, add_doctor)
    experiments = (add_cv, add_compare)
    kaggle = (add_kernel, add_push, add_watch, add_fetch, add_submit, add_ship, add_download)
    for add in (*science, *experiments, *kaggle):
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
    description = textwrap.fill(f"{summary[0].upper()}{summary[1:]}.", 79)
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
    parser = add_command(commands, train, "train a network and leave its weights in a folder", example)
    add_training(parser)
    text = "begin with the weights of this run (src/workbench/weights are the kit's own), at a quarter of the rate"
    parser.add_argument("--from", metavar="RUN", type=Path, dest="start", help=text)


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


def add_report(commands):
    example = "nuclei report submission --data dsb2018"
    parser = add_command(commands, report, "write a page with a run's scores, training and images", example)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a finished run; report.html goes into it")
    add_data(parser)
    add_stage(parser)
    parser.add_argument(
        "--solution", metavar="CSV", type=Path, help="the true nuclei of the test images (default: the data's)"
    )
    parser.add_argument("--against", metavar="RUN2", type=Path, help="another run, to compare with image by image")


def add_check(commands):
    example = "nuclei check submission --data dsb2018"
    parser = add_command(commands, check, "check a submission against the competition's rules", example)
    add_submission(parser)
    add_test(parser)


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


def add_export(commands):
    example = "nuclei export submission --data dsb2018 --out found"
    summary = "write what a run found as label TIFFs, GeoJSON for QuPath and COCO JSON, its training for TensorBoard"
    parser = add_command(commands, export, summary, example)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a finished run")
    add_data(parser)
    add_stage(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the files")


def add_doctor(commands):
    summary = "look at what a run needs here, and say what mends what is lacking (exit status 1 then)"
    add_command(commands, doctor, summary, "nuclei doctor")


def add_kernel(commands):
    example = "nuclei kernel run --data dsb2018 --preset cpu --minutes 25"
    group = add_page(commands, "kernel", "the one script that Kaggle runs, here", example)
    steps = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    summary = "build the kernel and run it as Kaggle would: alone, offline, in read-only folders, against the clock"
    parser = add_command(steps, kernel_run, summary, example, name="run")
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


def add_cv(commands):
    example = "nuclei cv wide --data dsb2018 --folds 6 7 --steps 600 --set model_width=48"
    parser = add_command(commands, cv, "train a recipe on several folds and score it, a row in the table", example)
    parser.add_argument("recipe", metavar="RECIPE", help="a name for it")
    parser.add_argument("--folds", metavar="K", type=natural, nargs="+", required=True, help="folds to hold out")
    parser.set_defaults(fold=0)  # a preset without folds gets some
    text = "a setting of config.py that differs from the preset's"
    parser.add_argument("--set", metavar="NAME=VALUE", nargs="+", default=[], help=text)
    parser.add_argument("--table", metavar="CSV", type=Path, default=Path("docs/experiments.csv"), help="the table")
    add_recipe(parser)
    add_budget(parser)


def add_compare(commands):
    example = "nuclei compare wide base"
    parser = add_command(commands, compare, "how much better one recipe is than another, on the same folds", example)
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


def add_push(commands):
    summary = "build the kernel, check it and have Kaggle run it"
    parser = add_command(commands, push, summary, "nuclei push --owner NAME")
    add_kernel_folder(parser)
    add_name(parser)


def add_watch(commands):
    summary = "follow the last push's run to its end; exit status 0 where it is COMPLETE, else 1"
    parser = add_command(commands, watch, summary, "nuclei watch --every 60")
    add_name(parser)
    add_every(parser)


def add_fetch(commands):
    parser = add_command(commands, fetch, "get what the last push's run left, and check it", "nuclei fetch --out first")
    add_name(parser)
    add_out(parser)
    add_test(parser)


def add_submit(commands):
    parser = add_command(commands, submit, "check a submission and upload it", "nuclei submit submission -m first")
    submission = add_submission(parser)
    submission.nargs, submission.default = "?", Path("submission")
    add_message(parser)


def add_ship(commands):
    summary = "push, watch, fetch and submit, up to the first that fails (exit status as theirs)"
    parser = add_command(commands, ship, summary, "nuclei ship -m first")
    add_kernel_folder(parser)
    add_name(parser)
    add_every(parser)
    add_out(parser)
    add_test(parser)
    add_message(parser)


def add_download(commands):
    summary = "get the competition's files from Kaggle, those that are not there yet"
    parser = add_command(commands, download, summary, "nuclei download dsb2018")
    text = "folder for them (default dsb2018)"
    parser.add_argument("folder", metavar="DIR", nargs="?", type=Path, default=Path("dsb2018"), help=text)


def add_data(parser):
    parser.add_argument("--data", metavar="DIR", type=Path, help="folder with Kaggle's files (default: $NUCLEI_DATA)")


def add_stage(parser):
    parser.add_argument("--stage", type=int, choices=(1, 2), default=1, help="whose test images (default 1)")


def add_weights(parser):
    text = "a run's folder, or its weights file (default: the weights that come with the kit)"
    parser.add_argument("--weights", metavar="RUN", type=Path, default=SHIPPED, help=text)


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


if __name__ == "__main__":
    sys.exit(main())
