"""Commands: what each `nuclei COMMAND` does and says; takes the parsed arguments, returns an exit status or None.

A command's modules are imported inside its function: those that need no Keras start in a fraction of a second.
"""

import os
import shlex
import textwrap
from dataclasses import replace
from pathlib import Path

from nuclei.settings.config import PRESETS, BadInput, Config
from nuclei.settings.files import SUBMISSION_FILE
from nuclei_kit.command.terminal import BOLD, GREEN, RED, YELLOW, paint, plain, start_keras
from nuclei_kit.files.folders import in_use, unfinished

UPLOAD_PAGE = "https://www.kaggle.com/c/data-science-bowl-2018/submit"

# ---- train and predict -------------------------------------------------------------------------


def run(args):
    config, data = make_config(args), find_data(args)
    start_keras()
    from nuclei_kit.experiments.home_run import run_at_home

    with in_use(args.out), unfinished(args.out) as folder:
        run_at_home(config, data, folder, args.stage)
    print_next(args.out / SUBMISSION_FILE, data, args.stage)
    report_on(args.out, data, args.stage)


def train(args):
    config, data = make_config(args), find_data(args)
    start_keras()
    from nuclei_kit.experiments.home_run import train_at_home
    from nuclei_kit.files.runs import fine_tuning

    start = None
    if args.start:
        config, start = fine_tuning(config, args.start)
    with in_use(args.out), unfinished(args.out) as folder:
        train_at_home(config, data, folder, start)
    out = quote(args.out)
    print(f"\nThe run is in {args.out}. Next:\n  nuclei predict --weights {out} --data {quote(data)} --out {out}")


def predict(args):
    if args.images and args.data:
        raise BadInput("give either image files or --data with a competition, not both")
    data = None if args.images else find_data(args)
    with in_use(args.out):
        start_keras()
        from nuclei_kit.own_images.prediction import predict_competition, predict_files

        if args.images:
            predict_files(args.weights, args.images, args.out)
        else:
            print_next(predict_competition(args.weights, data, args.stage, args.out), data, args.stage)


def picture(args):
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


def cv(args):
    data = find_data(args)
    start_keras()
    from nuclei_kit.experiments.experiments import append_row, change_settings, cross_validate

    config = change_settings(make_config(args), args.set)
    folder = args.out / args.recipe
    with in_use(folder):
        cross_validate(config, data, args.folds, folder)
    row = append_row(args.table, args.typed, folder, args.folds)  # outside: the table may lie in that very folder
    print("\n".join(f"{name:<20} {value}" for name, value in row.items()))
    print(f"\n{args.table} has this row. Next, another recipe on the same folds:\n  nuclei compare OTHER {args.recipe}")


def compare(args):
    start_keras()
    from nuclei_kit.experiments.experiments import compare_recipes

    images, mean, low, high = compare_recipes(args.out / args.recipe, args.out / args.other)
    print(f"{args.recipe} - {args.other}: {mean:+.4f}, 95 % [{low:+.4f}, {high:+.4f}], {images} images in pairs")


# ---- without Keras -----------------------------------------------------------------------------


def sample(args):
    from nuclei_kit.sample.sample import draw_sample

    draw_sample(args.folder, args.seed)
    print(f"{args.folder} holds a sample competition. Next:")
    print(f"  nuclei run --data {quote(args.folder)} --preset sample")


def info(args):
    from nuclei_kit.files.cache import default_cache
    from nuclei_kit.sample.info import facts_table, find_sets, gather_facts

    errors = []
    for path in find_sets(args.folder):
        try:
            print(plain(facts_table(gather_facts(path, default_cache()))), end="\n\n")
        except BadInput as error:  # the other sets are still worth a look
            errors.append(error)
    if errors:
        raise errors[0]


def check(args):
    from nuclei_kit.experiments.scoring import check_file

    path = find_submission(args.submission)
    nuclei, images, empty = check_file(path, find_shapes(args))
    print(f"{path} keeps the rules: {nuclei} nuclei in {images} images, {empty} of them empty.")
    if not args.data:
        print("Without --data the image ids and the borders of the images went unchecked.")


def score(args):
    from nuclei_kit.experiments.scoring import score_submission, threshold_table

    path = find_submission(args.submission)
    if not args.solution.is_file():
        raise BadInput(f"{args.solution} is missing: name the CSV with the true nuclei")
    print(threshold_table(score_submission(path, args.solution)))


def report(args):
    from nuclei_kit.experiments.scoring import find_solution
    from nuclei_kit.report.report import write_report

    data = find_data(args) if args.data or "NUCLEI_DATA" in os.environ else None
    solution = args.solution or (find_solution(data, args.stage) if data else None)
    path = write_report(args.run, data, args.stage, solution, args.against)
    print(f"{path} is the report: open it in a browser.")
    if not data:
        print("Without --data it has no images.")


def export(args):
    from nuclei_kit.own_images.export import export_run

    count = export_run(args.run, find_data(args), args.out, args.stage)
    print(f"{args.out} holds what was found in {count} images: labels/ for ImageJ, qupath/ and coco.json.")
    if (args.out / "tensorboard").is_dir():
        print(f"Its training: tensorboard --logdir {quote(args.out / 'tensorboard')}")


def start(args):
    """What `nuclei` alone shows."""
    from nuclei_kit.command.advice import next_steps

    sentence, steps = next_steps()
    print(textwrap.fill(f"{sentence} Next:", 80, break_long_words=False, break_on_hyphens=False), end="\n\n")
    for command, what in steps:
        print(f"  {paint(command, BOLD)}\n      {what}")
    print("\nnuclei --help lists the commands; nuclei doctor looks at this machine.")


def doctor(args):
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


# ---- the kernel, here and on Kaggle ------------------------------------------------------------


def kernel_run(args):
    from nuclei.competition.data import last_stage
    from nuclei_kit.kaggle.kernel import build_kernel
    from nuclei_kit.kaggle.twin import run_twin

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
    from nuclei_kit.kaggle.remote import find_push, watch_run

    return 0 if watch_run(find_push(args.owner, args.slug), args.every) else 1


def fetch(args):
    from nuclei_kit.kaggle.remote import check_ended, fetch_output, find_push

    shapes, pushed = find_shapes(args), find_push(args.owner, args.slug)
    check_ended(pushed)
    print(f"{fetch_output(pushed, args.out, shapes)} is what {pushed} left.")


def submit(args):
    from nuclei_kit.kaggle.competition import submit_file

    print(submit_file(find_submission(args.submission), args.message))


def ship(args):
    from nuclei_kit.kaggle.competition import submit_file
    from nuclei_kit.kaggle.remote import fetch_output, watch_run

    shapes, pushed = find_shapes(args), push_here(args)
    if not watch_run(pushed, args.every):
        return 1
    path = fetch_output(pushed, args.out, shapes)
    print(f"{path} is what {pushed} left.", flush=True)
    print(submit_file(path, args.message))


def push_here(args):
    from nuclei_kit.kaggle.remote import KERNEL_FOLDER, push_kernel

    pushed = push_kernel(args.kernel or KERNEL_FOLDER, args.owner, args.slug)
    print(f"Kaggle runs {pushed}: {pushed.url}", flush=True)
    return pushed


def download(args):
    from nuclei_kit.kaggle.competition import download_data

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
    from nuclei_kit.experiments.scoring import image_shapes

    return image_shapes(args.data, args.stage) if args.data else None


def find_submission(path):
    """The CSV that a file or a run's folder stands for."""
    file = path / SUBMISSION_FILE if path.is_dir() else path
    if not file.is_file():
        raise BadInput(f"{file} is missing: name a submission, or the folder of a run, as nuclei run leaves it")
    return file


def report_on(run, data, stage):
    """Writes the report of a run that has just ended."""
    from nuclei_kit.experiments.scoring import find_solution
    from nuclei_kit.report.report import write_report

    path = write_report(run, data, stage, find_solution(data, stage))
    print(f"\nThe report is {path}: open it in a browser.")


def print_next(path, data, stage):
    from nuclei_kit.experiments.scoring import find_solution

    option = f" --stage {stage}" if stage != 1 else ""
    solution = find_solution(data, stage)
    named = quote(solution) if solution else "CSV   (if you have a solution file)"
    print(f"\nThe submission is {path}. Next:")
    print(f"  nuclei check {quote(path)} --data {quote(data)}{option}")
    print(f"  nuclei score {quote(path)} --solution {named}")
    print(f"  or upload it: {UPLOAD_PAGE}")


def quote(path):
    return plain(shlex.quote(str(path)))
