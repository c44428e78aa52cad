"""Doctor: what it finds on machines that lack one thing or another, and the line that mends it."""

import io
import signal
import subprocess
import sys
from collections import namedtuple
from importlib import metadata
from subprocess import CompletedProcess, TimeoutExpired

import pytest

from nuclei.settings.config import BadInput
from nuclei_kit.command import doctor
from nuclei_kit.command.cli import main
from nuclei_kit.kaggle.client import SIGN_IN
from nuclei_kit.sample.sample import draw_sample


def ended(status=0, out="", err=""):
    """What a process of doctor's came to: a stand-in for subprocess.run."""
    return lambda *_, **__: CompletedProcess([], status, out, err)


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """A folder without data on a machine without a GPU, where nobody is signed in to Kaggle."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NUCLEI_DATA", raising=False)
    monkeypatch.setattr(doctor, "sign_in", raising(BadInput(SIGN_IN)))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor.subprocess, "run", ended(out="noise\n0 3.15.1 on tensorflow 2.21.0\n"))
    return tmp_path


def test_what_is_lacking_comes_with_the_line_that_mends_it(nobody, capsys):
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines if "/" not in line)  # a path is not broken
    assert "\033" not in "".join(lines)
    starts = [line.split() for line in lines if line[0] != " "]
    assert [start[1] for start in starts] == [
        "Python",
        "libraries",
        "Keras",
        "GPU",
        "disk",
        "files",
        "output",
        "data",
        "Kaggle",
    ]
    assert [start[0] for start in starts][-2:] == ["needs", "lacks"]
    assert "nuclei download dsb2018" in lines[-3]
    assert "kaggle auth login" in lines[-1]


def test_a_machine_with_all_that_is_needed(nobody, capsys):
    draw_sample(nobody / "build" / "sample", n_train=2, n_test=1)
    doctor_says = doctor.check_data()
    assert (doctor_says.mend, doctor_says.fact[:9]) == ("", "2 images ")


def test_a_broken_set_is_downloaded_again(nobody):
    draw_sample(nobody / "dsb2018", n_train=2, n_test=1)
    (nobody / "dsb2018" / "stage1_test.zip").write_bytes(b"PK")
    finding = doctor.check_data()
    assert finding.mend == "nuclei download dsb2018"
    assert "stage1_test.zip" in finding.fact


def test_libraries_that_are_missing_or_old(monkeypatch):
    needed = ["numpy>=1000", "no-such-library>=1", "tqdm>=1", 'x; extra == "gpu"']
    monkeypatch.setattr(metadata, "requires", lambda name: needed)
    finding = doctor.check_libraries()
    assert "numpy is" in finding.fact and "no-such-library is missing" in finding.fact
    assert "tqdm" not in finding.fact and "x is" not in finding.fact
    assert finding.mend == "pip install -e ."


def test_a_library_that_does_not_start(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    finding = doctor.check_libraries()
    assert finding.fact.startswith("cv2 does not start (") and finding.mend == "pip install -e ."


def test_doctor_itself_starts_where_libraries_do_not(tmp_path):
    """As where the system lacks libGL, or NumPy was built for another processor."""
    script = f"""
import sys
sys.modules |= dict.fromkeys({doctor.NATIVE!r})
from nuclei_kit.command import doctor
from nuclei_kit.command.cli import main
doctor.check_keras = lambda: (doctor.Finding("Keras", "not started"), 0)
doctor.sign_in = lambda: None
print(main(["doctor"]), main(["check", "s.csv"]), main(["info", "."]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.endswith("\n1 2 2\n"), done.stderr
    assert "cv2 does not start" in " ".join(done.stdout.split())
    assert done.stderr.count("nuclei: error: ") == done.stderr.count("\n") == 2 and "nuclei doctor says" in done.stderr


def test_a_full_disk(monkeypatch, tmp_path):
    monkeypatch.setenv("NUCLEI_CACHE", str(tmp_path / "not yet there"))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(1e9))
    finding = doctor.check_disk()
    assert finding.fact == f"1.0 GB free for {tmp_path}/not yet there" and "NUCLEI_CACHE" in finding.mend


@pytest.mark.parametrize("home, fact", [("/proc/x", "/proc cannot be written"), (None, "no home to keep")])
def test_a_home_that_cannot_be_written_or_is_none(monkeypatch, tmp_path, home, fact):
    monkeypatch.setenv("NUCLEI_CACHE", "")
    monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)
    monkeypatch.setattr("pwd.getpwuid", raising(KeyError("uid not found: 12345")))
    finding = doctor.check_disk()
    assert finding.fact.startswith(fact) and finding.mend == "export NUCLEI_CACHE=/a/folder/with/room"


@pytest.mark.parametrize(
    "run, fact, mend",
    [
        (
            ended(1, err="noise\nKeras does not start with torch (AssertionError): unset JAX_PLATFORMS\n"),
            "Keras does not start with torch (AssertionError)",
            "unset JAX_PLATFORMS",
        ),
        (ended(-signal.SIGILL, err=""), "its process was ended by SIGILL: it says nothing", "unset KERAS_BACKEND"),
        (ended(-signal.SIGABRT, err="terminate\n"), "ended by SIGABRT: terminate", "unset KERAS_BACKEND"),
        (raising(TimeoutExpired("python", 120)), "does not start within 120 seconds", "pip install -e ."),
        (raising(BlockingIOError(11, "Resource temporarily unavailable")), "no process can be started", "ulimit -u"),
    ],
)
def test_a_keras_that_does_not_start(monkeypatch, run, fact, mend):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setattr(doctor.subprocess, "run", run)
    finding, gpus = doctor.check_keras()
    assert fact in finding.fact and finding.mend.startswith(mend) and finding.needed and gpus == 0


@pytest.mark.parametrize(
    "run, found, fact, mend",
    [
        (ended(out="GPU 0: T4\nGPU 1: T4\n"), 2, "2 in the machine, 2 found by Keras", ""),
        (ended(out="GPU 0: T4\n"), 0, "1 in the machine, 0 found by Keras", 'pip install -e ".[gpu]"'),
        (ended(9, out="NVIDIA-SMI has failed because it could not talk to the driver\n"), 0, "none", ""),
        (raising(TimeoutExpired("nvidia-smi", 120)), 0, "none", ""),
        (raising(PermissionError(13, "Permission denied")), 0, "none", ""),
    ],
)
def test_gpus_are_counted_twice(monkeypatch, run, found, fact, mend):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(doctor.subprocess, "run", run)
    finding = doctor.check_gpu(found)
    assert finding.fact.startswith(fact) and finding.mend == mend and not finding.needed


def test_a_file_system_without_locks_and_maps(monkeypatch, nobody):
    monkeypatch.setattr(doctor.fcntl, "flock", raising(OSError(37, "No locks available")))
    monkeypatch.setattr(doctor.mmap, "mmap", raising(OSError(19, "No such device")))
    finding = doctor.check_files()
    assert "has no locks (No locks available)" in finding.fact and "no memory maps (No such device)" in finding.fact
    assert finding.mend and not finding.needed and not list(nobody.iterdir())


def test_a_working_folder_that_is_gone(monkeypatch, tmp_path):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for finding in (doctor.check_disk(), doctor.check_files()):
        assert finding.mend == "cd /a/folder/with/room" and finding.needed


def test_output_that_lacks_letters(monkeypatch):
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert doctor.check_output().mend == "export PYTHONIOENCODING=utf-8"


def test_whatever_a_check_ends_in_the_others_are_made(monkeypatch, nobody, capsys):
    for name, error in {
        "check_gpu": MemoryError(),
        "check_disk": PermissionError(13, "Permission denied", "/cache"),
        "check_files": OSError(5, "Input/output error"),
        "check_data": PermissionError(13, "Permission denied", "/data/stage1_train"),
        "check_credentials": RuntimeError("no sense"),
    }.items():
        monkeypatch.setattr(doctor, name, raising(error))
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    for words in ("MemoryError", "/cache: Permission denied", "Input/output error", "/data/stage1_train", "no sense"):
        assert f"cannot be checked: {words}" in " ".join(said.split())


@pytest.mark.parametrize(
    "error, fact, mend",
    [
        ("/h/.kaggle/kaggle.json is broken (it holds no username and key)", "/h/.kaggle/kaggle.json", "kaggle auth"),
        ("Kaggle's client does not start (no six): install it with pip install x", "no six", "pip install -e"),
        ("signing in to Kaggle: Kaggle is out of reach (Timeout): check the network", "out of reach", "kaggle auth"),
    ],
)
def test_credentials_that_do_not_work_are_named(monkeypatch, error, fact, mend):
    monkeypatch.setattr(doctor, "sign_in", raising(BadInput(error)))
    finding = doctor.check_credentials()
    assert fact in finding.fact and finding.mend.startswith(mend) and not finding.needed


@pytest.mark.slow  # a process that imports Keras
def test_keras_itself_is_started(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    finding, _ = doctor.check_keras()
    assert "on tensorflow 2." in finding.fact and not finding.mend
