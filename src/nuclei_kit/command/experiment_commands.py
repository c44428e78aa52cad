"""Experiment commands: a recipe on several folds, two recipes in pairs, how fast this machine is."""

from argparse import Namespace
from pathlib import Path

from nuclei_kit.command import options
from nuclei_kit.command.arguments import find_data, make_config
from nuclei_kit.command.keras_start import start_keras
from nuclei_kit.command.options import command, natural, option, out_folder
from nuclei_kit.command.terminal import program
from nuclei_kit.files.folders import in_use

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


@command(
    "measure how fast this machine reads, makes crops, trains and predicts: a table, in under three minutes",
    "nuclei bench",
    options.WEIGHTS,
    option("--data", metavar="DIR", type=Path, help="folder with Kaggle's files (default: a sample that it draws)"),
)
def bench(args: Namespace) -> None:
    start_keras()
    from nuclei_kit.experiments.bench import bench

    print(bench(args.weights, args.data))


EXPERIMENT_COMMANDS = (cv, compare, bench)  # as --help lists them
