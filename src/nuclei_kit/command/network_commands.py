"""Network commands: train a network, choose its thresholds, find nuclei with it."""

from argparse import Namespace
from pathlib import Path

from nuclei.settings.config import BadInput
from nuclei.settings.files import CONFIG_FILE, SUBMISSION_FILE
from nuclei_kit.command import options
from nuclei_kit.command.arguments import find_data, make_config
from nuclei_kit.command.endings import print_next, report_on
from nuclei_kit.command.keras_start import start_keras
from nuclei_kit.command.options import command, option
from nuclei_kit.command.terminal import program, quote
from nuclei_kit.files.folders import in_use, unfinished


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


@command(
    "find nuclei with a trained network, in a competition or in your own images",
    "nuclei predict --weights submission --out found one.png two.tif",
    options.MEMBERS,
    options.DATA,
    options.STAGE,
    option(
        "images",
        metavar="IMAGE",
        nargs="*",
        type=Path,
        help="files, folders of them, or patterns in quotes, instead of --data",
    ),
    options.PLANE,
    option("--out", metavar="DIR", type=Path, required=True, help="folder for what is found"),
    options.some_formats((), "of image files, how else to write what is found"),
)
def predict(args: Namespace) -> int | None:
    args.weights, images = split_members(args.weights)
    args.images = images + args.images
    if args.images and args.data:
        raise BadInput("give either image files or --data with a competition, not both")
    if not args.images and (args.channel or args.z or args.page):
        raise BadInput("--channel, --z and --page choose in image files: name some")
    if not args.images and args.formats:
        raise BadInput("--formats is about image files: name some, or give a competition's run to nuclei export")
    data = None if args.images else find_data(args, "image files, or ")
    with in_use(args.out):
        start_keras()
        from nuclei_kit.files.planes import Choice
        from nuclei_kit.own_images.prediction import predict_competition, predict_files

        if not data:
            choice = Choice(args.channel, args.z, args.page)
            return 1 if predict_files(args.weights, args.images, args.out, choice, args.formats) else 0
        print_next(predict_competition(args.weights, data, args.stage, args.out), data, args.stage)
    return None


def split_members(values: list[Path] | None) -> tuple[list[Path] | None, list[Path]]:
    """Tell runs from images that follow them on the command line: the first is a run, and what looks like one."""
    if not values:
        return values, []
    rest = [path for path in values[1:] if not ((path / CONFIG_FILE).is_file() or path.name.endswith(".weights.h5"))]
    return [path for path in values if path not in rest], rest


NETWORK_COMMANDS = (run, train, tune, predict)  # as --help lists them
