"""What runs on Kaggle: its settings, where it finds the data, and that the kernel gives what the sources give."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import build_kernel
from nuclei.competition.submission import write_submission
from nuclei.run import entry
from nuclei.settings.config import PRESETS, BadInput
from nuclei_kit.files.run_lists import check_submission
from nuclei_kit.kaggle.twin import START_UP
from nuclei_kit.sample.sample import draw_sample

REPOSITORY = Path(build_kernel.__file__).parent


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The sample competition, mounted as Kaggle does today; the folder of the mounts."""
    mounted = tmp_path_factory.mktemp("kaggle") / "input"
    draw_sample(mounted / "competitions/data-science-bowl-2018", n_train=3, n_test=2)
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
    assert entry.find_data(tmp_path) == tmp_path / where


def test_the_competition_goes_before_other_data(tmp_path):
    touch(tmp_path / "a-copy/stage1_train.zip")
    touch(tmp_path / "competitions/data-science-bowl-2018/stage1_train.zip")
    assert entry.find_data(tmp_path) == tmp_path / "competitions/data-science-bowl-2018"


def test_where_it_is_not_found_the_log_shows_what_is_there(tmp_path, caplog):
    touch(tmp_path / "another-dataset/readme.txt")
    with pytest.raises(BadInput, match=r"stage1_train\.zip .*add the competition data-science-bowl-2018"):
        entry.find_data(tmp_path)
    assert "another-dataset/readme.txt" in caplog.text


# ---- the run -----------------------------------------------------------------------------------


def test_a_placeholder_stands_before_the_run_and_replaces_nothing(data, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    runs = []

    def run_competition(config, folder, working, stage):
        rles = check_submission(working / "submission.csv", dict.fromkeys(read_ids(working / "submission.csv")))
        runs.append((config, folder, stage, rles))
        write_submission(working / "submission.csv", [(image_id, "1 5") for image_id in rles])

    monkeypatch.setattr(entry, "start_log", lambda: None)
    monkeypatch.setattr(entry, "run_competition", run_competition)
    settings = {"NUCLEI_INPUT": str(data), "NUCLEI_WORKING": str(tmp_path), "NUCLEI_PRESET": "cpu"}
    entry.run_kernel(settings)
    folder = data / "competitions/data-science-bowl-2018"
    ids = read_ids(folder / "stage1_sample_submission.csv")
    assert runs == [(PRESETS["cpu"], folder, 1, {image_id: [""] for image_id in sorted(ids)})]
    assert "submission.csv: 2 nuclei in 2 images" in caplog.text
    assert "keras" in caplog.text
    better = (tmp_path / "submission.csv").read_text()
    entry.write_placeholder(tmp_path / "submission.csv", ids)
    assert (tmp_path / "submission.csv").read_text() == better


def test_a_submission_that_breaks_the_rules_is_no_success(data, tmp_path, monkeypatch):
    def run_competition(config, folder, working, stage):
        write_submission(working / "submission.csv", [("another", "1 5")])

    monkeypatch.setattr(entry, "start_log", lambda: None)
    monkeypatch.setattr(entry, "run_competition", run_competition)
    with pytest.raises(BadInput, match="'another' is no image of this test set"):
        entry.run_kernel({"NUCLEI_INPUT": str(data), "NUCLEI_WORKING": str(tmp_path)})


def test_what_goes_wrong_is_raised_and_the_placeholder_stays(data, tmp_path, monkeypatch):
    def run_competition(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(entry, "start_log", lambda: None)
    monkeypatch.setattr(entry, "run_competition", run_competition)
    with pytest.raises(RuntimeError):
        entry.run_kernel({"NUCLEI_INPUT": str(data), "NUCLEI_WORKING": str(tmp_path)})
    assert len(read_ids(tmp_path / "submission.csv")) == 2


def has_namespaces():
    """Whether a user may start a process without a network here."""
    tried = shutil.which("unshare") and subprocess.run(["unshare", "-rn", "true"], capture_output=True)
    return bool(tried) and tried.returncode == 0


def test_the_kernel_alone_gives_what_the_sources_give(data, tmp_path):
    """The slowest test here: two short trainings, side by side, each with a cache of its own. Where this machine lets a
    user take the network away (unshare -rn), the kernel has none; that it tries none is seen everywhere."""
    settings = {"PRESET": "sample", "STEPS": 80, "SEED": 3, "STAGE": 1}
    environ = {f"NUCLEI_{name}": str(value) for name, value in settings.items()}
    environ |= {"NUCLEI_INPUT": str(data), "NUCLEI_WORKING": str(tmp_path / "sources")}
    environ |= {"NUCLEI_CACHE": str(tmp_path / "cache of sources"), "PYTHONPATH": str(REPOSITORY / "src")}
    sources = subprocess.Popen(
        [sys.executable, "-m", "nuclei"],
        env=os.environ | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    command = ["kernel", "run", "--data", data / "competitions/data-science-bowl-2018", "--out", tmp_path / "kernel"]
    command += ["--preset", "sample", "--steps", "80", "--seed", "3", "--stage", "1"]
    done = subprocess.run(
        [*(["unshare", "-rn"] if has_namespaces() else []), sys.executable, "-m", "nuclei_kit", *command],
        env=os.environ | {"NUCLEI_CACHE": str(tmp_path / "cache of kernel")},
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
