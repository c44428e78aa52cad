"""Commands: what each `nuclei COMMAND` takes, does and says.

A command's modules are imported inside its function: those that need no Keras start in a fraction of a second.
"""

import os
import shlex
import textwrap
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from nuclei.settings.config import PRESETS, BadInput, Config
from nuclei.settings.files import CONFIG_FILE, SUBMISSION_FILE
from nuclei_kit.command import options
from nuclei_kit.command.keras_start import start_keras
from nuclei_kit.command.options import command, either, natural, option, out_folder
from nuclei_kit.command.terminal import BOLD, GREEN, RED, YELLOW, escape_control, paint, program
from nuclei_kit.experiments.folds import FOLDS, TUNING_SHARE
from nuclei_kit.files.folders import in_use, unfinished

UPLOAD_PAGE = "https://www.kaggle.com/c/data-science-bowl-2018/submit"

# ---- train and predict -------------------------------------------------------------------------


@command(
    "train, predict the test images and write submission.csv",
    "nuclei run --data dsb2018 --preset cpu --minutes 25",
    options.TRAINING,
    options.STAGE,
)
def run(args: Namespace) -> None:
    config, data = make_config(args, args.fold), find_data(args)
    start_keras()
    from nuclei_kit.experiments.home_run import run_at_home

    with in_use(args.out), unfinished(args.out) as folder:
        run_at_home(config, data, folder, args.stage)
    print_next(args.out / SUBMISSION_FILE, data, args.stage)
    report_on(args.out, data, args.stage)


@command(
    "train a network and leave its weights in a folder",
    "nuclei train --data dsb2018 --preset cpu --minutes 25 --out runs/first",
    options.TRAINING,
    option(
        "--from",
        metavar="RUN",
        type=Path,
        dest="start",
        help="begin with the weights of this run (the kit's own: src/nuclei/weights), at a quarter of the rate",
    ),
)
def train(args: Namespace) -> None:
    config, data = make_config(args, args.fold), find_data(args)
    start_keras()
    from nuclei_kit.experiments.home_run import train_at_home
    from nuclei_kit.files.runs import fine_tuning

    weights = None
    if args.start:
        config, weights = fine_tuning(config, args.start)
    with in_use(args.out), unfinished(args.out) as folder:
        train_at_home(config, data, folder, weights)
    out = quote(args.out)
    print(f"\nThe run is in {args.out}. Next:")
    print(f"  {program()} predict --weights {out} --data {quote(data)} --out {out}")


@command(
    "find nuclei with a trained network, in a competition or in your own images",
    "nuclei predict --weights submission --out found one.png two.tif",
    options.MEMBERS,
    options.DATA,
    options.STAGE,
    option("images", metavar="IMAGE", nargs="*", type=Path, help="PNG or TIFF files, instead of --data"),
    option("--out", metavar="DIR", type=Path, required=True, help="folder for what is found"),
)
def predict(args: Namespace) -> None:
    args.weights, images = split_members(args.weights)
    args.images = images + args.images
    if args.images and args.data:
        raise BadInput("give either image files or --data with a competition, not both")
    data = None if args.images else find_data(args, "image files, or ")
    with in_use(args.out):
        start_keras()
        from nuclei_kit.own_images.prediction import predict_competition, predict_files

        if data:
            print_next(predict_competition(args.weights, data, args.stage, args.out), data, args.stage)
        else:
            predict_files(args.weights, args.images, args.out)


@command(
    "draw truth and prediction side by side, an image of each kind",
    "nuclei picture --weights submission --data dsb2018 --out docs/examples.png",
    options.WEIGHTS,
    options.DATA,
    either(
        option("--fold", metavar="K", type=natural, help="fold to show (default: the one held out)"),
        option("--worst", metavar="N", type=natural, help="the N held-out images of the lowest score instead"),
    ),
    option("--out", metavar="FILE", type=Path, required=True, help="the picture, .png or .webp"),
)
def picture(args: Namespace) -> None:
    if args.out.suffix not in (".png", ".webp"):
        raise BadInput(f"{args.out} ends in neither .png nor .webp: name such a file with --out")
    if args.worst and not args.weights:
        raise BadInput("--worst shows what a run held out: name the run's folder with --weights")
    data = find_data(args)
    start_keras()
    from nuclei_kit.report.gallery import draw_gallery, draw_worst
    from nuclei_kit.report.pictures import write_picture

    if args.worst:
        write_picture(args.out, draw_worst(args.weights, data, args.worst))
    else:
        write_picture(args.out, draw_gallery(args.weights, data, args.fold))
    print(f"{args.out} shows truth, prediction and differences.")


# ---- experiments -------------------------------------------------------------------------------

RECIPES_OUT = out_folder(Path("build/cv"), "folder that holds the recipes' runs")
EXPERIMENTS = Path("build/experiments.csv")
TABLE = f"the table (default {EXPERIMENTS}; the committed one is docs/experiments.csv)"
SETTINGS = "settings of src/nuclei/settings/config.py that differ from the preset's"


@command(
    "train a recipe on several folds and score it, a row in the table",
    "nuclei cv wide --data dsb2018 --folds 6 7 --steps 600 --set model_width=48",
    option("recipe", metavar="RECIPE", help="a name for it"),
    option("--folds", metavar="K", type=natural, nargs="+", required=True, help="folds to hold out"),
    option("--set", metavar="NAME=VALUE", nargs="+", default=[], help=SETTINGS),
    option("--table", metavar="CSV", type=Path, default=EXPERIMENTS, help=TABLE),
    RECIPES_OUT,
    options.DATA,
    options.preset("cpu"),
    options.BUDGET,
)
def cv(args: Namespace) -> None:
    data = find_data(args)
    start_keras()
    from nuclei_kit.experiments.experiments import append_row, change_settings, cross_validate

    config = change_settings(make_config(args, fold=0), args.set)  # with a fold: some presets hold nothing out
    folder = args.out / args.recipe
    with in_use(folder):
        cross_validate(config, data, args.folds, folder)
    row = append_row(args.table, args.typed, folder, args.folds)  # outside: the table may lie in that very folder
    print("\n".join(f"{name:<20} {value}" for name, value in row.items()))
    print(f"\n{args.table} has this row. Next, another recipe on the same folds:")
    print(f"  {program()} compare OTHER {args.recipe}")


@command(
    "say how much better one recipe is than another, on the same folds",
    "nuclei compare wide base",
    option("recipe", metavar="RECIPE", help="a recipe that nuclei cv trained"),
    option("other", metavar="OTHER", help="another one"),
    RECIPES_OUT,
)
def compare(args: Namespace) -> None:
    start_keras()
    from nuclei_kit.experiments.experiments import compare_recipes

    images, mean, low, high = compare_recipes(args.out / args.recipe, args.out / args.other)
    print(f"{args.recipe} - {args.other}: {mean:+.4f}, 95 % [{low:+.4f}, {high:+.4f}], {images} images in pairs")


# ---- without Keras -----------------------------------------------------------------------------


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
    print(f"  {program()} run --data {quote(args.folder)} --preset sample{_stage_option(args.stage)}")


@command(
    "show what is in a competition's folder",
    "nuclei info dsb2018",
    option("folder", metavar="DIR", type=Path, help="folder with Kaggle's files"),
)
def info(args: Namespace) -> None:
    from nuclei_kit.files.cache import default_cache
    from nuclei_kit.sample.info import facts_table, find_sets, gather_facts

    errors = []
    for path in find_sets(args.folder):
        try:
            print(escape_control(facts_table(gather_facts(path, default_cache()))), end="\n\n")
        except BadInput as error:  # the other sets are still worth showing
            errors.append(error)
    if errors:
        raise errors[0]


@command(
    "check a submission against the competition's rules",
    "nuclei check submission --data dsb2018",
    options.SUBMISSION,
    options.CHECKED,
    options.STAGE,
)
def check(args: Namespace) -> None:
    from nuclei_kit.experiments.scoring import check_file

    path = find_submission(args.submission)
    nuclei, images, empty = check_file(path, find_shapes(args))
    print(f"{path} keeps the rules: {nuclei} nuclei in {images} images, {empty} of them empty.")
    if not args.data:
        print("Without --data the image ids and the borders of the images went unchecked.")


@command(
    "score a submission by the competition's metric",
    "nuclei score submission --solution build/sample/stage1_solution.csv",
    options.SUBMISSION,
    option("--solution", metavar="CSV", type=Path, required=True, help="the solution, plain or zipped"),
)
def score(args: Namespace) -> None:
    from nuclei_kit.experiments.scoring import score_submission, threshold_table

    path = find_submission(args.submission)
    if not args.solution.is_file():
        raise BadInput(f"{args.solution} is missing: name the CSV with the true nuclei")
    print(threshold_table(score_submission(path, args.solution)))


@command(
    "write a page with a run's scores, training and images",
    "nuclei report submission --data dsb2018",
    options.RUN,
    options.DATA,
    options.STAGE,
    option("--solution", metavar="CSV", type=Path, help="the true nuclei of the test images (default: the data's)"),
    option("--against", metavar="RUN2", type=Path, help="another run, to compare with image by image"),
)
def report(args: Namespace) -> None:
    from nuclei_kit.experiments.scoring import find_solution
    from nuclei_kit.report.report import write_report

    data = find_data(args) if args.data or "NUCLEI_DATA" in os.environ else None
    solution = args.solution or (find_solution(data, args.stage) if data else None)
    path = write_report(args.run, data, args.stage, solution, args.against)
    print(f"{path} is the report: open it in a browser.")
    if not data:
        print("Without --data it has no images.")


@command(
    "write what a run found as label TIFFs, GeoJSON for QuPath and COCO JSON, its training for TensorBoard",
    "nuclei export submission --data dsb2018 --out found",
    options.RUN,
    options.DATA,
    options.STAGE,
    option("--out", metavar="DIR", type=Path, required=True, help="folder for the files"),
)
def export(args: Namespace) -> None:
    from nuclei_kit.own_images.export import export_run

    count = export_run(args.run, find_data(args), args.out, args.stage)
    print(f"{args.out} holds what was found in {count} images: labels/ for ImageJ, qupath/ and coco.json.")
    if (args.out / "tensorboard").is_dir():
        print(f"Its training: tensorboard --logdir {quote(args.out / 'tensorboard')}")


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


def start(args: Namespace) -> None:
    """Show what is in the working folder, and what to do next: `nuclei` alone."""
    from nuclei_kit.command.advice import next_steps

    sentence, steps = next_steps()
    print(textwrap.fill(f"{sentence} Next:", 80, break_long_words=False, break_on_hyphens=False), end="\n\n")
    for typed, what in steps:
        print(f"  {paint(typed, BOLD)}\n      {what}")
    print(f"\n{program()} --help lists the commands; {program()} doctor checks this machine.")


@command(
    "choose a finished run's thresholds anew, on images with truth, and say what they gain",
    "nuclei tune submission --data dsb2018",
    options.RUN,
    options.DATA,
    option("--solution", metavar="CSV", type=Path, help="the truth of stage1_test's images (default: the data's)"),
)
def tune(args: Namespace) -> None:
    data = find_data(args)
    if not args.run.is_dir():  # else it would be made
        raise BadInput(f"{args.run} is missing: name the folder of a finished run, as nuclei run leaves it")
    start_keras()
    from nuclei_kit.experiments.tune import gain_table, tune_run

    with in_use(args.run):
        gain = tune_run(args.run, data, args.solution)
    print(gain_table(gain))
    if gain.after.mean() > gain.before.mean():
        print(f"{args.run} has the new thresholds. Each score above is by thresholds that other images chose.")
    else:
        print(f"Nothing is gained: {args.run} keeps its thresholds.")


# In the order in which --help lists them.
COMMANDS = (run, train, tune, predict, score, report, check, info, picture, sample, export, doctor, cv, compare)

# ---- what the commands share -------------------------------------------------------------------


def make_config(args: Namespace, fold: int | None = None) -> Config:
    """Change the preset as the options say; a fold makes a preset hold images out that does not by itself."""
    config = replace(PRESETS[args.preset], train_seed=args.seed)
    if args.minutes is not None:
        config = replace(config, train_minutes=args.minutes)
    if args.steps is not None:
        config = replace(config, train_steps=args.steps, train_minutes=0.0)
    if fold is not None:
        config = replace(config, data_fold=fold, data_folds=config.data_folds or FOLDS, data_tuning=TUNING_SHARE)
    return config


def split_members(values: list[Path] | None) -> tuple[list[Path] | None, list[Path]]:
    """Tell runs from images that follow them on the command line: the first is a run, and what looks like one."""
    if not values:
        return values, []
    rest = [path for path in values[1:] if not ((path / CONFIG_FILE).is_file() or path.name.endswith(".weights.h5"))]
    return [path for path in values if path not in rest], rest


def find_data(args: Namespace, instead: str = "") -> Path:
    """Find the competition's folder: --data, else $NUCLEI_DATA; `instead` is what else an error asks for."""
    data = args.data or os.environ.get("NUCLEI_DATA")
    if not data:
        raise BadInput(f"name {instead}the competition's folder with --data DIR, or set NUCLEI_DATA")
    return Path(data)


def find_shapes(args: Namespace) -> dict[str, tuple[int, int] | None] | None:
    """Read the shapes of the test images of --data; None without it."""
    from nuclei_kit.experiments.scoring import image_shapes

    return image_shapes(args.data, args.stage) if args.data else None


def find_submission(path: Path) -> Path:
    """Find the CSV that a file or a run's folder stands for."""
    file = path / SUBMISSION_FILE if path.is_dir() else path
    if not file.is_file():
        raise BadInput(f"{file} is missing: name a submission, or the folder of a run, as nuclei run leaves it")
    return file


def report_on(run: Path, data: Path, stage: int) -> None:
    """Write the report of a run that has just ended."""
    from nuclei_kit.experiments.scoring import find_solution
    from nuclei_kit.report.report import write_report

    path = write_report(run, data, stage, find_solution(data, stage))
    print(f"\nThe report is {path}: open it in a browser.")


def print_next(path: Path, data: Path, stage: int) -> None:
    """Say what can be done with a submission."""
    from nuclei_kit.experiments.scoring import find_solution

    solution = find_solution(data, stage)
    named = quote(solution) if solution else "CSV   (if you have a solution file)"
    print(f"\nThe submission is {path}. Next:")
    print(f"  {program()} check {quote(path)} --data {quote(data)}{_stage_option(stage)}")
    print(f"  {program()} score {quote(path)} --solution {named}")
    print(f"  or upload it: {UPLOAD_PAGE}")


def _stage_option(stage):
    return f" --stage {stage}" if stage != 1 else ""


def quote(path: Path) -> str:
    """Quote a path for a shell, with control characters escaped for the terminal."""
    return escape_control(shlex.quote(str(path)))
