"""The result commands: they start without Keras; what is scored and checked."""

import subprocess
import sys

import numpy as np
import pytest

from nuclei.competition.submission import encode_labels, write_submission
from nuclei.prediction.metric import average_precision
from nuclei_kit.command.cli import main
from nuclei_kit.experiments.scoring import read_solution
from nuclei_kit.sample.sample import draw_sample


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    draw_sample(folder, n_train=2, n_test=5)
    return folder


@pytest.mark.slow  # four commands in one process; test_parser has their --help alone
def test_they_start_without_keras(drawn, tmp_path):
    solution, data = str(drawn / "stage1_solution.csv"), str(drawn)
    submission = str(drawn / "stage1_sample_submission.csv")
    commands = [
        ["sample", str(tmp_path)],
        ["info", data],
        ["check", submission, "--data", data],
        ["score", submission, "--solution", solution],
    ]
    script = f"""
import sys
from nuclei_kit.command.cli import main
for command in {commands!r}:
    assert main(command) == 0, command
    assert not {{"keras", "tensorflow", "jax", "torch"}} & set(sys.modules), command
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_score_agrees_with_the_metric(drawn, tmp_path, capsys):
    truths = read_solution(drawn / "stage1_solution.csv")
    found = {image_id: np.where(labels > 5, np.roll(labels, 1, axis=0), 0) for image_id, labels in truths.items()}
    write_submission(tmp_path / "submission.csv", [(i, rle) for i, one in found.items() for rle in encode_labels(one)])
    expected = np.mean([average_precision(truths[i], found[i]) for i in truths])
    assert main(["score", str(tmp_path), "--solution", str(drawn / "stage1_solution.csv")]) == 0
    head, body = capsys.readouterr().out.splitlines()
    assert head.split()[2:] == [*(f"{t / 100:.2f}" for t in range(50, 100, 5)), "mean"]
    *each, mean = map(float, body.split()[1:])
    assert 0.1 < mean < 0.95
    assert mean == pytest.approx(expected, abs=1e-4)
    assert np.mean(each) == pytest.approx(expected, abs=1e-3)


def test_ignored_images_need_a_row_and_do_not_count(tmp_path, capsys):
    solution = tmp_path / "solution.csv"
    solution.write_text(
        "ImageId,EncodedPixels,Height,Width,Usage\na,1 4,4,4,Public\nb,1 1,1,1,Ignored\nc,5 2,4,4,Private\n"
    )
    (tmp_path / "submission.csv").write_text("ImageId,EncodedPixels\na,1 4\nb,90 5\nc,\n")
    assert main(["score", str(tmp_path / "submission.csv"), "--solution", str(solution)]) == 0
    assert capsys.readouterr().out.split()[-1] == "0.5000"


def test_check_says_what_it_checked(drawn, capsys):
    submission = str(drawn / "stage1_sample_submission.csv")
    assert main(["check", submission]) == 0
    assert "unchecked" in capsys.readouterr().out
    assert main(["check", submission, "--data", str(drawn)]) == 0
    said = capsys.readouterr().out
    assert "unchecked" not in said
    assert "0 nuclei in 5 images, 5 of them empty" in said
