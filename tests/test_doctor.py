"""Doctor: what it finds on machines that lack one thing or another, and the line that mends it."""

from collections import namedtuple
from importlib import metadata

import pytest

from nuclei.settings.config import BadInput
from nuclei_kit.command import doctor
from nuclei_kit.command.cli import main
from nuclei_kit.sample.sample import draw_sample


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """A folder without data on a machine without a GPU, where nobody is signed in to Kaggle."""

    def refuse():
        raise BadInput("Kaggle must know who you are")

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NUCLEI_DATA", raising=False)
    monkeypatch.setattr(doctor, "sign_in", refuse)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    return tmp_path


def test_what_is_lacking_comes_with_the_line_that_mends_it(nobody, capsys):
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines if "/" not in line)  # a path is not broken
    assert "\033" not in "".join(lines)
    starts = [line.split() for line in lines if line[0] != " "]
    assert [start[1] for start in starts] == ["Python", "libraries", "GPU", "disk", "data", "Kaggle"]
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


def test_a_full_disk(monkeypatch, tmp_path):
    monkeypatch.setenv("NUCLEI_CACHE", str(tmp_path / "not yet there"))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(1e9))
    assert "NUCLEI_CACHE" in doctor.check_disk().mend
