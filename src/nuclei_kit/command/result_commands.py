"""Result commands: what a run found, scored, checked and shown.

They import their modules inside their functions: all but `picture` and the export of a network need no Keras, and
start in a fraction of a second.
"""

import os
from argparse import Namespace
from pathlib import Path

from nuclei.settings.config import BadInput
from nuclei_kit.command import options
from nuclei_kit.command.arguments import find_data, find_shapes, find_submission, refuse_pipe
from nuclei_kit.command.keras_start import silence, start_keras
from nuclei_kit.command.options import command, either, natural, option
from nuclei_kit.command.terminal import quote


@command(
    "score a submission by the competition's metric",
    "nuclei score submission --solution build/sample/stage1_solution.csv",
    options.SUBMISSION,
    option("--solution", metavar="CSV", type=Path, required=True, help="the solution, plain or zipped"),
)
def score(args: Namespace) -> None:
    from nuclei_kit.experiments.scoring import score_submission, threshold_table

    path = find_submission(args.submission)
    refuse_pipe(args.solution)
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

    data = find_data(args) if args.data or os.environ.get("NUCLEI_DATA") else None
    solution = args.solution or (find_solution(data, args.stage) if data else None)
    path = write_report(args.run, data, args.stage, solution, args.against)
    print(f"{path} is the report: open it in a browser.")
    if not data:
        print("Without --data it has no images.")


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
    "draw truth and prediction side by side, an image of each kind",
    "nuclei picture --weights submission --data dsb2018 --out examples.png",
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


@command(
    "write what a run found for ImageJ, QuPath, COCO's readers and tables, or its network for other programs",
    "nuclei export submission --data dsb2018 --out found",
    options.RUN,
    options.DATA,
    options.STAGE,
    either(
        options.some_formats(options.FORMATS, "how to write what it found (default: all)"),
        option("--onnx", action="store_true", help="write the network for ONNX Runtime instead"),
        option("--bioimageio", action="store_true", help="write the network as a package for bioimage.io instead"),
    ),
    option("--out", metavar="DIR", type=Path, required=True, help="folder for the files"),
)
def export(args: Namespace) -> None:
    if args.onnx or args.bioimageio:
        start_keras()
        print(f"{_export_network(args)} holds the network.")
        return
    from nuclei_kit.exports.run_export import export_run

    count = export_run(args.run, find_data(args), args.out, args.stage, args.formats)
    print(f"{args.out} holds what was found in {count} images, as {', '.join(args.formats)}.")
    if (args.out / "tensorboard").is_dir():
        print(f"Its training: tensorboard --logdir {quote(args.out / 'tensorboard')}")


def _export_network(args):
    """Write a run's network -> the file."""
    with silence():  # what converts it writes to descriptor 2
        if args.onnx:
            from nuclei_kit.exports.onnx_model import export_onnx

            return export_onnx(args.run, args.out)
        from nuclei_kit.exports.bioimage_package import export_package

        return export_package(args.run, args.out)


RESULT_COMMANDS = (score, report, check, picture, export)  # as --help lists them
