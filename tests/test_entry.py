"""What runs on Kaggle: its settings, where it finds the data, and that the kernel gives what the sources give."""

import csv
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from drawn_files import assert_same_sets

import build_kernel
from nuclei.competition.submission import write_submission
from nuclei.run import entry
from nuclei.settings.config import PRESETS, BadInput
from nuclei_kit.experiments import home_run
from nuclei_kit.files.reading import list_ids
from nuclei_kit.files.run_lists import check_submission
from nuclei_kit.kaggle.twin import START_UP
from nuclei_kit.sample.sample import draw_sample

REPOSITORY = Path(build_kernel.__file__).parent
COMPETITION_FILES = "competitions/data-science-bowl-2018"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The sample competition, mounted as Kaggle does today -> the folder of the mounts."""
    mounted = tmp_path_factory.mktemp("kaggle") / "input"
    draw_sample(mounted / COMPETITION_FILES, n_train=3, n_test=2)
    return mounted


@pytest.fixture(scope="module")
def two_stages(tmp_path_factory):
    """The sample competition of both stages -> the folder of the mounts."""
    mounted = tmp_path_factory.mktemp("stages") / "input"
    draw_sample(mounted / COMPETITION_FILES, n_train=3, n_test=5, stage=2)
    return mounted


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def read_ids(path):
    with open(path, newline="") as file:
        return [row["ImageId"] for row in csv.DictReader(file)]


# ---- settings ----------------------------------------------------------------------------------


def test_without_settings_it_is_kaggles_preset():
    config = entry.read_config({"PATH": "/bin"})
    assert config == PRESETS["kaggle"]
    assert config.train_minutes == 480


def test_every_setting_reaches_the_config():
    settings = {"NUCLEI_PRESET": "sample", "NUCLEI_MINUTES": "2.5", "NUCLEI_STEPS": "7", "NUCLEI_SEED": "11"}
    config = entry.read_config(settings)
    assert config.model_width == PRESETS["sample"].model_width
    assert (config.train_minutes, config.train_steps, config.train_seed) == (2.5, 7, 11)


@pytest.mark.parametrize(
    "setting, value", [("PRESET", "huge"), ("MINUTES", "long"), ("MINUTES", ""), ("STEPS", "1.5"), ("SEED", "x")]
)
def test_a_wrong_setting_is_named(setting, value):
    with pytest.raises(BadInput, match=f"^NUCLEI_{setting}={value} "):
        entry.read_config({f"NUCLEI_{setting}": value})


def test_training_leaves_time_to_predict_before_the_session_ends():
    for preset in PRESETS:
        config = entry.read_config({"NUCLEI_PRESET": preset})
        assert config.train_minutes + config.tta_minutes <= 12 * 60 - 30
    with pytest.raises(BadInput, match=r"NUCLEI_MINUTES=511 leaves no time to predict: at most 510"):
        entry.read_config({"NUCLEI_MINUTES": "511"})


@pytest.mark.parametrize(
    "names, setting, stage",
    [
        (["stage1_test.zip"], None, 1),
        (["stage1_test.zip", "stage2_test_final.zip"], None, 2),
        (["stage1_test.zip", "stage2_test_final/a/images/a.png"], None, 2),
        (["stage1_test.zip", "stage2_test_final.zip"], "1", 1),
        (["stage1_test.zip"], "2", 2),
        ([], None, 1),
    ],
)
def test_stage_2_is_predicted_where_it_is(tmp_path, names, setting, stage):
    for name in names:
        touch(tmp_path / name)
    assert entry.read_stage({"NUCLEI_STAGE": setting} if setting else {}, tmp_path) == stage


def test_there_are_two_stages(tmp_path):
    with pytest.raises(BadInput, match="NUCLEI_STAGE=3"):
        entry.read_stage({"NUCLEI_STAGE": "3"}, tmp_path)


# ---- the data ----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["data-science-bowl-2018", "competitions/data-science-bowl-2018", "a/b/c", "."])
@pytest.mark.parametrize("name", ["stage1_train.zip", "stage1_train/a/images/a.png"])
def test_the_data_is_found_wherever_it_is_mounted(tmp_path, where, name):
    touch(tmp_path / where / name)
    touch(tmp_path / "another-dataset/readme.txt")
    assert entry.find_mounted(tmp_path) == tmp_path / where


def test_the_competition_goes_before_other_data(tmp_path):
    touch(tmp_path / "a-copy/stage1_train.zip")
    touch(tmp_path / "competitions/data-science-bowl-2018/stage1_train.zip")
    assert entry.find_mounted(tmp_path) == tmp_path / "competitions/data-science-bowl-2018"


def test_where_it_is_not_found_the_log_shows_what_is_there(tmp_path, caplog):
    touch(tmp_path / "another-dataset/readme.txt")
    with pytest.raises(BadInput, match=r"stage1_train\.zip .*add the competition data-science-bowl-2018"):
        entry.find_mounted(tmp_path)
    assert "another-dataset/readme.txt" in caplog.text


# ---- the run -----------------------------------------------------------------------------------


@pytest.fixture
def start(data, tmp_path, monkeypatch):
    """Run the kernel in this test's folder with a stand-in for the competition's run."""
    monkeypatch.setattr(entry, "start_log", lambda: None)

    def start(run_competition, mounted=data, **settings):
        monkeypatch.setattr(entry, "run_competition", run_competition)
        environ = {f"NUCLEI_{name}": str(value) for name, value in settings.items()}
        entry.run_kernel({"NUCLEI_INPUT": str(mounted), "NUCLEI_WORKING": str(tmp_path)} | environ)

    return start


def test_a_placeholder_stands_before_the_run_and_replaces_nothing(start, data, tmp_path, caplog):
    caplog.set_level("INFO")
    path, ids = tmp_path / "submission.csv", read_ids(data / COMPETITION_FILES / "stage1_sample_submission.csv")
    placeholder, better = ({i: [rle] for i in sorted(ids)} for rle in ("", "1 5"))
    stood = []

    def run_competition(*_):
        stood.append(check_submission(path, dict.fromkeys(ids)))
        write_submission(path, [(image_id, "1 5") for image_id in better])

    start(run_competition)
    start(run_competition)
    assert stood == [placeholder, better]
    assert "keras" in caplog.text


def test_the_run_gets_the_settings_and_the_images(start, data, tmp_path):
    runs = []
    start(lambda *arguments: runs.append(arguments), PRESET="cpu", SEED=3)
    ((config, train, tuning, test, folder, keeper, watch),) = runs
    assert config == replace(PRESETS["cpu"], train_seed=3)
    assert (len(train.ids), len(train.labels), folder) == (3, 3, tmp_path)
    assert tuning.ids == []
    assert sorted(test.ids) == sorted(read_ids(data / COMPETITION_FILES / "stage1_sample_submission.csv"))
    assert keeper.load("training") is None  # nothing on Kaggle outlives its session
    assert list(watch.stages) == ["read test", "read train"]
    assert (tmp_path / "stages.csv").is_file()


def test_the_first_stage_never_reads_the_solution(start, two_stages, tmp_path, monkeypatch):
    shutil.copytree(two_stages, tmp_path / "input")
    (tmp_path / "input" / COMPETITION_FILES / "stage1_solution.csv").write_bytes(b"\xff\x00 what nobody can read")
    runs = []
    with monkeypatch.context() as patch:
        patch.setattr(entry, "read_truth", None)
        start(lambda *arguments: runs.append(arguments), tmp_path / "input", STAGE=1)
    ((_, train, tuning, test, *_),) = runs
    assert (len(train.ids), tuning.ids) == (3, [])
    assert test.ids == list_ids(two_stages / COMPETITION_FILES / "stage1_test.zip")
    with pytest.raises(UnicodeDecodeError):  # that it would be noticed
        start(lambda *_: None, tmp_path / "input", STAGE=2)


def test_the_second_stage_gets_the_images_that_it_gets_at_home(start, two_stages, tmp_path, monkeypatch):
    """It comes first where its images are; half of the opened ones train, the other half tunes."""
    runs, competition = [], two_stages / COMPETITION_FILES
    start(lambda *arguments: runs.append(arguments), two_stages)
    monkeypatch.setattr(home_run, "run_competition", lambda *arguments: runs.append(arguments))
    monkeypatch.setattr(home_run, "score_held_out", lambda *_: None)
    home_run.run_at_home(PRESETS["kaggle"], competition, tmp_path, stage=2)
    (config, *kernel), (same, *home) = ([one[0], *one[1:4]] for one in runs)
    assert config == same
    for one, other in zip(kernel, home, strict=True):
        assert_same_sets(one, other)
    opened = list_ids(competition / "stage1_test.zip")
    train, tuning, test = (part.ids for part in kernel)
    assert (train[3:], tuning, test) == (opened[::2], opened[1::2], list_ids(competition / "stage2_test_final.zip"))
    assert sorted(read_ids(tmp_path / "submission.csv")) == test  # the placeholder


def test_the_second_stage_without_a_truth_learns_from_the_first_alone(start, two_stages, tmp_path, caplog):
    shutil.copytree(two_stages, tmp_path / "input")
    (tmp_path / "input" / COMPETITION_FILES / "stage1_solution.csv").unlink()
    runs = []
    start(lambda *arguments: runs.append(arguments), tmp_path / "input")
    ((_, train, tuning, test, *_),) = runs
    assert (len(train.ids), len(tuning.ids), len(test.ids)) == (3, 0, 5)
    assert "stage1_solution.csv" in caplog.text


def test_what_goes_wrong_is_raised_and_the_placeholder_stays(start, tmp_path):
    def run_competition(*_):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        start(run_competition)
    assert len(read_ids(tmp_path / "submission.csv")) == 2


def test_the_log_has_a_line_a_record_on_stdout(monkeypatch, capsys):
    level = logging.root.level
    monkeypatch.setattr(logging.root, "handlers", [logging.StreamHandler()])  # as a library leaves it
    try:
        entry.start_log()
        entry.log.info("one")
        entry.log.warning("two")
    finally:
        logging.root.setLevel(level)
    said = capsys.readouterr()
    assert re.fullmatch(r"\d\d:\d\d:\d\d one\n\d\d:\d\d:\d\d two\n", said.out) and not said.err


@pytest.mark.parametrize("gpus, level", [(["GPU:0", "GPU:1"], "INFO"), ([], "WARNING")])
def test_a_run_without_a_gpu_is_warned(monkeypatch, caplog, gpus, level):
    caplog.set_level("INFO")
    monkeypatch.setattr(entry, "list_gpus", lambda: gpus)
    entry.report_gpus()
    assert {record.levelname for record in caplog.records} == {level}
    assert "GPU:0, GPU:1" in caplog.text if gpus else "NvidiaTeslaT4" in caplog.text


def has_namespaces():
    """Whether a user may start a process without a network here."""
    tried = shutil.which("unshare") and subprocess.run(["unshare", "-rn", "true"], capture_output=True)
    return bool(tried) and tried.returncode == 0


@pytest.mark.slow
def test_a_run_of_the_second_stage_chooses_its_thresholds_on_the_opened_images(two_stages, tmp_path, monkeypatch):
    monkeypatch.setattr(entry, "start_log", lambda: None)
    settings = {"INPUT": two_stages, "WORKING": tmp_path, "PRESET": "sample", "STEPS": 2}
    entry.run_kernel({f"NUCLEI_{name}": str(value) for name, value in settings.items()})
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["thresholds_from"] == "chosen on 2 images"
    ids = list_ids(two_stages / COMPETITION_FILES / "stage2_test_final.zip")
    assert sorted(check_submission(tmp_path / "submission.csv", dict.fromkeys(ids))) == ids


@pytest.mark.slow
def test_the_kernel_alone_gives_what_the_sources_give(data, tmp_path):
    """Two short trainings, side by side. Where this machine lets a user take the network away (unshare -rn), the kernel
    has none; that it tries to reach none is seen everywhere."""
    settings = {"PRESET": "sample", "STEPS": 80, "SEED": 3, "STAGE": 1}
    environ = {f"NUCLEI_{name}": str(value) for name, value in settings.items()}
    environ |= {"NUCLEI_INPUT": str(data), "NUCLEI_WORKING": str(tmp_path / "sources")}
    environ |= {"PYTHONPATH": str(REPOSITORY / "src")}
    sources = subprocess.Popen(
        [sys.executable, "-m", "nuclei.run.entry"],
        env=os.environ | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    command = ["kernel", "run", "--data", data / COMPETITION_FILES, "--out", tmp_path / "kernel"]
    command += ["--preset", "sample", "--steps", "80", "--seed", "3", "--stage", "1"]
    done = subprocess.run(
        [*(["unshare", "-rn"] if has_namespaces() else []), sys.executable, "-m", "nuclei_kit", *command],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said, _ = sources.communicate(timeout=280)
    assert sources.returncode == 0, said
    kernel, source = ((tmp_path / home / "submission.csv").read_text() for home in ("kernel", "sources"))
    assert kernel == source
    assert len(kernel) > 500  # nuclei, not placeholders
    confidences = [(tmp_path / home / "confidence.csv").read_text() for home in ("kernel", "sources")]
    assert confidences[0] == confidences[1]
    log = (tmp_path / "kernel/kernel.log").read_text()
    assert f"sources {build_kernel.hash_sources(build_kernel.read_chapters(REPOSITORY))};" in log
    assert "sources not bundled;" in said
    assert "NO NETWORK" not in log
    assert "".join(line for line in log.splitlines(True) if not START_UP.match(line)) in done.stdout
    assert f"nuclei check {tmp_path / 'kernel/submission.csv'}" in done.stdout
