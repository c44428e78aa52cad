"""The command line: what a whole run prints and leaves, how a command ends, a sentence for every bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile

import cv2
import numpy as np
import pytest
from drawn import draw_discs
from drawn_files import encode, write_folder

from nuclei.competition.submission import encode_labels
from nuclei.settings.config import Config
from nuclei_kit.command.cli import main
from nuclei_kit.files.folders import in_use
from nuclei_kit.files.run_lists import check_submission
from nuclei_kit.files.tables import read_table
from nuclei_kit.sample.sample import draw_sample


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def spoil_largest(path):
    """Gives the largest file of a zip other bytes, since it costs the most time to predict, and returns its name."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    largest = max(files, key=lambda name: len(files[name]))
    files[largest] = b"no image"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return largest


# ---- a whole run -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample_run(tmp_path_factory):
    """A sample with one bad test image, a run of forty steps on it, which has no solution, and what the run said."""
    folder = tmp_path_factory.mktemp("a run")
    draw_sample(folder / "data", n_train=10, n_test=4)
    bad = spoil_largest(folder / "data" / "stage1_test.zip").split("/")[0]
    solution = (folder / "data" / "stage1_solution.csv").rename(folder / "elsewhere.csv")
    run = [
        sys.executable,
        "-m",
        "nuclei_kit",
        "run",
        "--data",
        "data",
        "--preset",
        "sample",
        "--steps",
        "40",
    ]
    done = subprocess.run([*run, "--out", "out"], cwd=folder, capture_output=True, text=True)
    solution.rename(folder / "data" / "stage1_solution.csv")
    return folder, bad, done


@pytest.mark.slow
def test_a_run_leaves_its_files_and_says_what_is_next(sample_run):
    folder, _, done = sample_run
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (folder / "out").iterdir()}
    tables = {"submission.csv", "confidence.csv", "log.csv", "stages.csv"}
    assert names == tables | {"model.weights.h5", "config.json", "report.html"}
    assert "out/submission.csv" in done.stdout
    for word in ("nuclei check", "nuclei score", "https://www.kaggle.com/"):
        assert word in done.stdout
    assert "cuda" not in done.stderr.lower()


@pytest.mark.slow
def test_one_bad_test_image_costs_its_own_nuclei_alone(sample_run):
    folder, bad, done = sample_run
    with zipfile.ZipFile(folder / "data" / "stage1_test.zip") as archive:
        ids = {name.split("/")[0] for name in archive.namelist()}
    rles = check_submission(folder / "out" / "submission.csv", dict.fromkeys(ids))
    assert rles[bad] == [""]
    (warning,) = (line for line in done.stderr.splitlines() if line.startswith("warning: "))
    assert bad in warning


@pytest.mark.slow
def test_predict_finds_again_what_the_run_found(sample_run, tmp_path, capsys):
    folder, bad, _ = sample_run
    weights = folder / "out" / "model.weights.h5"
    assert main(["predict", "--weights", str(weights), "--data", str(folder / "data"), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "submission.csv").read_bytes() == (folder / "out" / "submission.csv").read_bytes()
    assert bad in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_averaged_with_itself_predicts_the_same(sample_run, tmp_path):
    folder, _, _ = sample_run
    runs = [str(folder / "out"), str(folder / "out/model.weights.h5")]
    assert main(["predict", "--weights", *runs, "--data", str(folder / "data"), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "submission.csv").read_bytes() == (folder / "out" / "submission.csv").read_bytes()


@pytest.mark.slow
def test_own_images_get_labels_and_overlays(sample_run, tmp_path, capsys):
    folder, bad, _ = sample_run
    with zipfile.ZipFile(folder / "data" / "stage1_test.zip") as archive:
        name = next(name for name in sorted(archive.namelist()) if bad not in name)
        write_folder(tmp_path, {"mine.png": archive.read(name), "bad.png": b"no image"})
    image = cv2.imread(str(tmp_path / "mine.png"))
    files = [str(tmp_path / f) for f in ("mine.png", "bad.png", "missing.tif")]
    assert main(["predict", "--weights", str(folder / "out"), "--out", str(tmp_path / "found"), *files]) == 1
    labels = cv2.imread(str(tmp_path / "found" / "mine.labels.png"), cv2.IMREAD_UNCHANGED)
    assert labels.dtype == np.uint16
    assert labels.shape == image.shape[:2]
    assert cv2.imread(str(tmp_path / "found" / "mine.overlay.png")).shape == image.shape
    # The submission numbers its nuclei the same way.
    rows = read_table(folder / "out" / "submission.csv", ["ImageId", "EncodedPixels"])
    expected = [row["EncodedPixels"] for row in rows if row["ImageId"] == name.split("/")[0]]
    assert (encode_labels(labels) or [""]) == expected
    said = capsys.readouterr()
    assert f"mine.png: {labels.max()} nuclei" in said.out
    assert [line.startswith("warning: ") for line in said.err.splitlines()] == [True, True, True]
    assert said.err.endswith("2 of 3 images could not be used, see above\n")
    assert {path.name for path in (tmp_path / "found").iterdir()} == {"mine.labels.png", "mine.overlay.png"}


@pytest.mark.slow
def test_a_picture_of_the_run(sample_run, tmp_path, capsys):
    folder, _, _ = sample_run
    out = tmp_path / "picture.png"
    arguments = ["--weights", str(folder / "out"), "--data", str(folder / "data"), "--out", str(out)]
    assert main(["picture", *arguments]) == 0
    assert cv2.imread(str(out)).shape[1] > 4 * 256
    assert "trained on the images of fold 0" in capsys.readouterr().err


# ---- how a command ends ------------------------------------------------------------------------


def test_ctrl_c_ends_with_a_sentence(tmp_path, capsys, monkeypatch):
    def interrupt(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr("nuclei_kit.files.info.find_sets", interrupt)
    assert main(["info", str(tmp_path)]) == 130
    assert "Ctrl-C" in capsys.readouterr().err


def test_sigterm_ends_as_ctrl_c_does(tmp_path, capsys, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("nuclei_kit.files.info.find_sets", lambda folder: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["info", str(tmp_path)]) == 143
    assert "stopped by SIGTERM; what earlier runs wrote still stands" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    "command, folder",
    [("run", "."), ("train", "."), ("predict", "."), ("kernel run", "."), ("cv mine --folds 1", "mine")],
)
def test_a_second_run_in_one_folder_is_told_so(small, capsys, command, folder):
    out = small / "runs"
    with in_use(out / folder):
        assert main([*command.split(), "--data", str(small / "data"), "--out", str(out)]) == 2
    assert f"{out / folder} is in use by another run" in capsys.readouterr().err
    assert not list((out / folder).iterdir())


def test_a_failed_prediction_leaves_no_folder_that_it_made(small, monkeypatch):
    monkeypatch.chdir(small)
    for out in ("new", "new/found"):
        assert main(["predict", "--out", out, "nowhere.png"]) == 2
        assert not (small / "new").exists()
    (small / "old").mkdir()
    assert main(["predict", "--out", "old/found", "nowhere.png"]) == 2
    assert [*small.glob("old*")] == [small / "old"] and not [*(small / "old").iterdir()]


def test_a_full_disk_is_a_sentence(tmp_path, capsys, monkeypatch):
    def fill(folder):
        raise OSError(28, "No space left on device", "some/file")

    monkeypatch.setattr("nuclei_kit.files.info.find_sets", fill)
    assert main(["info", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "nuclei: error: some/file: No space left on device\n"


def test_a_bug_is_no_bad_input(tmp_path, monkeypatch):
    def fail(folder):
        raise ValueError("a bug")

    monkeypatch.setattr("nuclei_kit.files.info.find_sets", fail)
    with pytest.raises(ValueError, match="a bug"):
        main(["info", str(tmp_path)])


# ---- bad input ---------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    """A competition of three images and the run that an earlier training left in its folder `out`."""
    labels = draw_discs((40, 50), (12, 12, 6), (26, 32, 8))
    image = np.where(labels > 0, 200, 20).astype(np.uint8)
    masks = [np.where(labels == i, 255, 0).astype(np.uint8) for i in (1, 2)]
    for image_id in "abc":
        files = {f"{image_id}/images/{image_id}.png": encode(image)}
        files |= {f"{image_id}/masks/{i}.png": encode(mask) for i, mask in enumerate(masks)}
        write_folder(tmp_path / "data" / "stage1_train", files)
    write_folder(tmp_path / "data" / "stage1_test", {"t/images/t.png": encode(image)})
    write_folder(tmp_path / "out", {"submission.csv": b"ImageId,EncodedPixels\nt,1 2\n", "config.json": b"{}"})
    write_folder(tmp_path, {"solution.csv": b"ImageId,EncodedPixels,Height,Width,Usage\nt,1 2,40,50,Public\n"})
    return tmp_path


TRAIN = ["train", "--data", "data", "--preset", "sample", "--steps", "1", "--out", "out"]
RUN = ["run", *TRAIN[1:]]
TWIN = ["kernel", *RUN]
CV = ["cv", "wide", "--data", "data", "--folds", "1", "--out", "out"]
PREDICT = ["predict", "--weights", "out", "--data", "data", "--out", "out"]
SCORE = ["score", "out", "--solution", "solution.csv"]
PICTURE = ["picture", "--data", "data", "--out"]
REPORT = ["report", "out", "--data", "data"]
CHECK = ["check", "out", "--data", "data"]


def no_folder(f):
    shutil.rmtree(f / "data")


def no_competition(f):
    no_folder(f)
    write_folder(f, {"data/notes.txt": b"hello"})


def file_for_folder(f):
    no_folder(f)
    (f / "data").write_bytes(b"")


def truncated(name):
    def spoil(f):
        draw_sample(f / "drawn", n_train=1, n_test=1)
        content = (f / "drawn" / f"{name}.zip").read_bytes()
        shutil.rmtree(f / "data" / name)
        (f / "data" / f"{name}.zip").write_bytes(content[: len(content) // 2])

    return spoil


def put(name, content):
    return lambda f: write_folder(f, {name: content})


def mask(*box):
    pixels = np.zeros((40, 50), np.uint8)
    pixels[box] = 255
    return encode(pixels)


def drop(name):
    return lambda f: (f / name).unlink()


def submission(*rows):
    return put("out/submission.csv", ("ImageId,EncodedPixels\n" + "".join(f"{row}\n" for row in rows)).encode())


def as_it_is(f):
    pass


def weights_of(**changes):
    """Weights of the sample preset, beside a config.json that says otherwise."""

    def spoil(f):
        from nuclei.prediction.run_folder import save_run
        from nuclei.prediction.watershed import HANDS
        from nuclei.training.train import new_model

        config = Config(model_width=4, model_depth=2)
        save_run(f / "out", new_model(config), HANDS["stage1_train"], "nowhere", config)
        content = json.loads((f / "out" / "config.json").read_text())
        content["config"] |= changes
        (f / "out" / "config.json").write_text(json.dumps(content))

    return spoil


BAD_INPUT = [
    # what is wrong, how to spoil the small competition, the command, words that the sentence must hold
    ("missing folder", no_folder, TRAIN, ["data", "stage1_train.zip"]),
    ("missing folder, info", no_folder, ["info", "data"], ["data", "stage1_train.zip"]),
    ("no competition", no_competition, TRAIN, ["data", "notes.txt", "download"]),
    ("no competition, info", no_competition, ["info", "data"], ["data", "notes.txt"]),
    ("a file for a folder", file_for_folder, RUN, ["data", "not a folder"]),
    ("no data named", as_it_is, ["train", "--out", "out"], ["--data", "NUCLEI_DATA"]),
    ("truncated zip", truncated("stage1_train"), TRAIN, ["stage1_train.zip", "download"]),
    ("truncated test zip", truncated("stage1_test"), RUN, ["stage1_test.zip", "download"]),
    ("undecodable PNG", put("data/stage1_train/a/images/a.png", b"no"), TRAIN, ["a/images/a.png", "replace"]),
    ("undecodable PNG, info", put("data/stage1_train/a/images/a.png", b"no"), ["info", "data"], ["a/images/a.png"]),
    ("undecodable mask", put("data/stage1_train/a/masks/0.png", b"no"), TRAIN, ["a/masks/0.png", "replace"]),
    (
        "mask of another size",
        put("data/stage1_train/b/masks/1.png", encode(np.ones((4, 4), np.uint8))),
        TRAIN,
        ["b/masks/1.png", "4x4", "40x50"],
    ),
    (
        "empty mask",
        put("data/stage1_train/b/masks/1.png", mask(slice(0), slice(0))),
        TRAIN,
        ["b/masks/1.png", "delete"],
    ),
    (
        "overlapping masks",
        put("data/stage1_train/c/masks/9.png", mask(slice(5, 20), slice(5, 20))),
        TRAIN,
        ["overlap", "c/masks"],
    ),
    ("duplicate id", put("data/stage1_train/c/images/d.png", mask(0, 0)), TRAIN, ["duplicate", "c/images"]),
    ("no masks at all", lambda f: [shutil.rmtree(m) for m in f.glob("data/stage1_train/*/masks")], TRAIN, ["no masks"]),
    ("budget of 0 minutes", as_it_is, [*TRAIN[:5], "--minutes", "0", "--out", "out"], ["budget of 0", "--minutes"]),
    ("budget of 0 steps", as_it_is, [*TRAIN[:5], "--steps", "0", "--out", "out"], ["budget of 0", "--steps"]),
    ("budget below 0", as_it_is, [*TRAIN[:5], "--minutes=-3", "--out", "out"], ["negative"]),
    ("two budgets", as_it_is, [*TRAIN, "--minutes", "3"], ["--minutes", "--steps"]),
    ("missing folder, kernel", no_folder, TWIN, ["data", "stage1_train.zip"]),
    ("truncated test zip, kernel", truncated("stage1_test"), TWIN, ["stage1_test.zip", "download"]),
    ("budget of 0 steps, kernel", as_it_is, [*TWIN[:6], "--steps", "0"], ["budget of 0", "--steps"]),
    (
        "no such interpreter",
        as_it_is,
        [*TWIN, "--python", "no/python"],
        ["no/python", "build/stacks/kaggle/bin/python"],
    ),
    ("no such kernel command", as_it_is, ["kernel", "push"], ["push", "run"]),
    ("no such fold", as_it_is, [*TRAIN, "--fold", "8"], ["data_fold"]),
    ("seed below 0", as_it_is, [*TRAIN, "--seed=-1"], ["--seed", "-1"]),
    ("no such preset", as_it_is, [*TRAIN, "--preset", "gpu"], ["--preset", "sample"]),
    ("no such command", as_it_is, ["trian"], ["trian", "train"]),
    ("broken row: an odd number", submission("t,1 2 3"), SCORE, ["submission.csv", "row 2", "odd"]),
    ("broken row: no number", submission("t,1 x"), CHECK, ["submission.csv", "row 2"]),
    ("broken row: past the last pixel", submission("t,1 1", "t,1999 9"), CHECK, ["submission.csv", "row 3", "past"]),
    ("broken row: shared pixels", submission("t,1 5", "t,3 1"), CHECK[:2], ["submission.csv", "row 3"]),
    ("broken row: another image", submission("t,1 5", "u,"), SCORE, ["submission.csv", "row 3", "'u'"]),
    ("image without a row", submission("u,"), CHECK, ["submission.csv", "'u'"]),
    ("no submission", drop("out/submission.csv"), CHECK, ["submission.csv", "missing"]),
    ("no CSV", put("out/submission.csv", b"\x89PNG\r\n"), CHECK, ["submission.csv"]),
    ("no solution", drop("solution.csv"), SCORE, ["solution.csv"]),
    (
        "broken solution",
        put("solution.csv", b"ImageId,EncodedPixels,Height,Width\nt,1 2,x,5\n"),
        SCORE,
        ["solution.csv"],
    ),
    ("solution of nothing", put("solution.csv", b"ImageId,EncodedPixels,Height,Width\n"), SCORE, ["solution.csv"]),
    ("no such fold of a recipe", as_it_is, [*CV, "--folds", "0", "99"], ["data_fold", "under 8"]),
    (
        "torn settings of a recipe's fold",
        lambda f: write_folder(f / "out/wide/fold-1", {"held_out.csv": b"", "config.json": b'{"config": {"mo'}),
        CV,
        ["fold-1/config.json", "not a settings file"],
    ),
    ("more minutes than Kaggle has", as_it_is, [*TWIN[:4], "--preset", "kaggle", "--minutes", "600"], ["--minutes"]),
    ("neither images nor a competition", as_it_is, ["predict", "--out", "new"], ["image files", "--data"]),
    ("no such fold to show", as_it_is, [*PICTURE, "a.png", "--fold", "99"], ["99", "0 to 7"]),
    ("a picture of another format", no_folder, [*PICTURE, "a.txt"], ["a.txt", ".png", ".webp"]),
    ("the worst of no run", as_it_is, [*PICTURE, "a.png", "--worst", "2"], ["--worst", "--weights"]),
    ("a missing run to compare with", as_it_is, [*REPORT, "--against", "nowhere"], ["nowhere is missing"]),
    ("a folder without a run to compare with", as_it_is, [*REPORT, "--against", "data"], ["data holds no"]),
    ("no weights", as_it_is, PREDICT, ["model.weights.h5", "missing"]),
    ("weights of another configuration", weights_of(model_width=8), PREDICT, ["model.weights.h5", "config.json"]),
    ("settings of another version", weights_of(tta_zooms=[1.0]), PREDICT, ["config.json", "version", "tta_zooms"]),
    ("settings that ask for too much", weights_of(model_width=2**40), PREDICT, ["config.json", "model_width"]),
    ("recipe that asks for too much", as_it_is, [*CV, "--set", "model_depth=99"], ["model_depth", "8 at most"]),
    ("recipe with a setting unknown", as_it_is, [*CV, "--set", "model_colour=8"], ["--set", "model_colour"]),
    ("images and a competition", as_it_is, [*PREDICT, "x.png"], ["--data", "not both"]),
    ("a plane of a competition", as_it_is, [*PREDICT, "--z", "max"], ["--channel, --z and --page", "image files"]),
    ("a z plane of no number", as_it_is, ["predict", "x.tif", "--z", "all", "--out", "out"], ["--z", "all", "0 to"]),
    ("page 0", as_it_is, ["predict", "x.tif", "--page", "0", "--out", "out"], ["--page", "counts from 1"]),
    (
        "a folder without images",
        lambda f: (f / "empty").mkdir(),
        ["predict", "empty", "--out", "new"],
        ["empty holds no"],
    ),
    ("a pattern that fits nothing", as_it_is, ["predict", "*.tif", "--out", "new"], ["*.tif fits no file"]),
    (
        "an output over an image",
        as_it_is,
        ["predict", "--weights", "out", "--out", ".", "a.png", "./a.labels.png"],
        ["a.labels.png", "--out"],
    ),
    (
        "no image can be read",
        weights_of(),
        ["predict", "--weights", "out", "--out", "out", "x.png"],
        ["x.png", "cannot be read"],
    ),
    ("no sample folder", put("taken", b""), ["sample", "taken"], ["taken"]),
]


@pytest.mark.parametrize(
    ("spoil", "command", "words"), [row[1:] for row in BAD_INPUT], ids=[row[0].replace(" ", "-") for row in BAD_INPUT]
)
def test_bad_input_gets_one_sentence_and_leaves_what_was_there(
    small, monkeypatch, capsys, recwarn, spoil, command, words
):
    monkeypatch.chdir(small)
    monkeypatch.delenv("NUCLEI_DATA", raising=False)
    spoil(small)
    before = snapshot(small)
    assert main(command) == 2
    *said, sentence = capsys.readouterr().err.splitlines()
    assert said == []
    assert not [warning for warning in recwarn if issubclass(warning.category, UserWarning)]  # stderr, too
    assert sentence.startswith("nuclei: error: ")
    assert "Errno" not in sentence
    for word in words:
        assert word in sentence
    assert snapshot(small) == before
